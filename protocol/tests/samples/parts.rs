//! What messages are made of.

use bytes::Bytes;
use streambus_protocol::api::fetch::{Batches, FetchOutcome, Fetched};
use streambus_protocol::api::metadata::{BrokerEndpoint, PartitionLayout};
use streambus_protocol::api::replica::{ReplicaFetchOutcome, ReplicaFetched};
use streambus_protocol::api::session::{ErrorBody, LeaderHint};
use streambus_protocol::api::topics::ReplicaDescription;
use streambus_protocol::batch::{BatchBuilder, BatchOptions, ProducerStamp};
use streambus_protocol::compression::Compression;
use streambus_protocol::epoch::{LeaderEpoch, PartitionEpoch};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{
    BrokerId, ClusterId, PartitionId, PartitionIndex, ProducerEpoch, ProducerId, Sequence, TopicId, TopicName,
};
use streambus_protocol::offset::Offset;
use streambus_protocol::record::{Header, Record};
use streambus_protocol::timestamp::Timestamp;

pub(crate) fn topic_id() -> TopicId {
    TopicId::from_bytes(*b"topic-identity-1")
}

pub(crate) fn cluster_id() -> ClusterId {
    ClusterId::from_bytes(*b"cluster-identity")
}

pub(crate) fn name(text: &str) -> TopicName {
    TopicName::new(text).expect("a legal name")
}

pub(crate) fn offset(value: u64) -> Offset {
    Offset::new(value).expect("an offset in range")
}

/// Two records: one with a key and a header, one with neither.
pub(crate) fn records() -> Vec<Record> {
    vec![
        Record {
            key: Some(Bytes::from_static(b"k1")),
            value: Some(Bytes::from_static(b"hello")),
            headers: vec![Header::new(&b"trace"[..], &b"7f"[..])],
            timestamp: Timestamp::from_millis(1_700_000_000_000),
        },
        Record::new(&b"world"[..], Timestamp::from_millis(1_700_000_000_042)),
    ]
}

pub(crate) fn batch_bytes(compression: Compression, producer: Option<ProducerStamp>) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions { compression, producer, is_control: false });
    for record in records() {
        builder.push(&record).expect("room for a record");
    }
    builder.build().expect("a batch").freeze()
}

pub(crate) fn stamp() -> ProducerStamp {
    ProducerStamp { id: ProducerId::new(4711), epoch: ProducerEpoch::new(3), base_sequence: Sequence::new(99) }
}

pub(crate) fn endpoint(id: u32) -> BrokerEndpoint {
    BrokerEndpoint {
        id: BrokerId::new(id),
        host: format!("broker-{id}.example"),
        port: 9092,
        rack: (id == 1).then(|| "rack-a".to_owned()),
    }
}

pub(crate) fn layout(index: u32) -> PartitionLayout {
    PartitionLayout {
        index: PartitionIndex::new(index),
        leader: (index == 0).then_some(BrokerId::new(1)),
        leader_epoch: LeaderEpoch::new(5),
        partition_epoch: PartitionEpoch::new(8),
        replicas: vec![BrokerId::new(1), BrokerId::new(2)],
        isr: vec![BrokerId::new(1)],
    }
}

pub(crate) fn outcomes() -> Vec<FetchOutcome> {
    let batch = batch_bytes(Compression::None, None);
    let fetched =
        |chunks| Fetched { high_watermark: offset(1000), log_start: offset(10), batches: Batches::from_chunks(chunks) };
    let hint = Some(LeaderHint { leader: BrokerId::new(2), leader_epoch: LeaderEpoch::new(6) });
    let outcome =
        |partition, result| FetchOutcome { topic: topic_id(), partition: PartitionIndex::new(partition), result };
    vec![
        outcome(0, Ok(fetched(vec![batch.clone(), batch]))),
        outcome(1, Ok(fetched(Vec::new()))),
        outcome(2, Err(ErrorBody::new(ErrorCode::NotLeader, "broker 1 does not lead partition 2").with_leader(hint))),
    ]
}

pub(crate) fn replicated() -> Vec<ReplicaFetchOutcome> {
    let batch = batch_bytes(Compression::None, None);
    let fetched = |chunks| ReplicaFetched {
        high_watermark: offset(990),
        log_start: offset(10),
        log_end: offset(1004),
        batches: Batches::from_chunks(chunks),
    };
    let outcome = |partition, diverging, result| ReplicaFetchOutcome {
        topic: topic_id(),
        partition: PartitionIndex::new(partition),
        leader_epoch: LeaderEpoch::new(5),
        diverging,
        result,
    };
    vec![
        outcome(0, None, Ok(fetched(vec![batch.clone(), batch]))),
        outcome(1, Some((LeaderEpoch::new(3), offset(700))), Ok(fetched(Vec::new()))),
        outcome(2, None, Err(ErrorBody::new(ErrorCode::OffsetOutOfRange, "the log starts at 10"))),
    ]
}

pub(crate) fn replica(id: u32) -> ReplicaDescription {
    ReplicaDescription {
        broker: BrokerId::new(id),
        log_end: offset(1000),
        durable_end: offset(990),
        lag_records: 0,
        in_sync: true,
        caught_up_ms_ago: (id == 1).then_some(12),
        lag_bytes: 4096,
        bytes_per_second: 1_048_576,
    }
}

pub(crate) fn partition_id() -> PartitionId {
    PartitionId { topic: topic_id(), partition: PartitionIndex::new(7) }
}
