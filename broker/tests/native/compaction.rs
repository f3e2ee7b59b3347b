//! Topics with `cleanup.policy=compact`, seen from their clients.

use std::collections::BTreeMap;

use bytes::Bytes;
use streambus_protocol::api::subscribe::{PushedBatches, SubscribePartition, SubscribeRequest};
use streambus_protocol::batch::{BatchBuilder, BatchOptions, ProducerStamp, UnverifiedBatch};
use streambus_protocol::compression::Compression;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{PartitionIndex, ProducerEpoch, ProducerId, Sequence, TopicId};
use streambus_protocol::offset::Offset;
use streambus_protocol::record::Record;
use streambus_storage::clock::{Clock, SystemClock};

use crate::harness::{TestBroker, TestClient, at, batch, fetch_request, placed, within};

const COMPACTED: [(&str, &str); 2] = [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.1")];

/// A batch of records of one key each, `bytes` long.
fn keyed(keys: &[u8], bytes: usize, compression: Compression, producer: Option<ProducerStamp>) -> UnverifiedBatch {
    let mut builder = BatchBuilder::new(BatchOptions { compression, producer, ..BatchOptions::default() });
    for key in keys {
        let value = Bytes::from(vec![*key; bytes]);
        let record = Record { key: Some(Bytes::from(vec![*key])), ..Record::new(value, SystemClock::new().now()) };
        builder.push(&record).expect("room");
    }
    UnverifiedBatch::new(builder.build().expect("a batch"))
}

fn stamp(sequence: i32) -> Option<ProducerStamp> {
    let (id, epoch) = (ProducerId::new(70), ProducerEpoch::new(0));
    Some(ProducerStamp { id, epoch, base_sequence: Sequence::new(sequence) })
}

/// Offsets and keys of all records, as a reader meets them that follows each batch to the next.
async fn records(client: &mut TestClient, topic: TopicId, end: u64) -> BTreeMap<u64, u8> {
    let (mut cursor, mut found) = (Offset::ZERO, BTreeMap::new());
    while cursor < at(end) {
        let response = client.fetch(&fetch_request(topic, 0, cursor.get(), 0)).await;
        for batch in placed(&response.partitions[0]) {
            assert!(batch.base_offset() <= cursor && cursor < batch.next_offset(), "no offset is missing");
            cursor = batch.next_offset();
            for stored in batch.records(1 << 20).expect("expands") {
                let stored = stored.expect("a sound record");
                found.insert(stored.offset.get(), stored.record.key.expect("a key")[0]);
            }
        }
    }
    found
}

// Catches a record that compaction could never remove, and a refusal that does not say what to do.
#[tokio::test]
async fn a_record_without_a_key_is_refused_with_the_remedy() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic = client.create_topic_with("accounts", 1, &COMPACTED).await.expect("a topic").id;
    for compression in Compression::ALL {
        client.produce_batch(topic, 0, keyed(&[1, 2], 10, compression, None)).await.expect("written");
    }
    let refused = client.produce_batch(topic, 0, batch(&["no key"], None)).await.expect_err("refused");
    assert_eq!(refused.code, ErrorCode::InvalidRecord);
    for part in ["'accounts'", "record 0", "no key", "cleanup.policy=compact", "give every record a key"] {
        assert!(refused.message.contains(part), "{part}: {}", refused.message);
    }
    let other = client.create_topic("events", 1).await;
    client.produce_batch(other, 0, batch(&["no key"], None)).await.expect("written");
    broker.stop().await.expect("an orderly stop");
}

// Catches readers that stop where records are gone, keys that are lost, producers that are forgotten, offsets that move.
#[tokio::test]
async fn readers_go_on_over_what_was_compacted() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic = client.create_topic_with("accounts", 1, &COMPACTED).await.expect("a topic").id;
    let mut end = 0;
    let mut written = BTreeMap::new();
    // The producer is heard once, early, and never again; then more than three index entries' worth.
    let once = client.produce_batch(topic, 0, keyed(&[9], 10, Compression::None, stamp(0))).await.expect("written");
    written.insert(end, 9);
    end += 1;
    for i in 0..90_u8 {
        let keys = [9, i % 3, i % 5];
        client.produce_batch(topic, 0, keyed(&keys, 4_000, Compression::None, None)).await.expect("written");
        for key in keys {
            written.insert(end, key);
            end += 1;
        }
    }
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    // Most is gone as soon as the first look at the logs finds it.
    let found = within(async {
        loop {
            let found = records(&mut client, topic, end).await;
            if found.len() < written.len() / 2 {
                return found;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(found.iter().all(|(offset, key)| written.get(offset) == Some(key)), "every record is where it was written");
    let newest = |records: &BTreeMap<u64, u8>| records.iter().map(|(at, key)| (*key, *at)).collect::<BTreeMap<_, _>>();
    assert_eq!(newest(&found), newest(&written));
    assert!(!found.contains_key(&0) && !found.contains_key(&1));

    // A stream begins within what is gone, and ends with the last record.
    let position = SubscribePartition {
        topic,
        partition: PartitionIndex::new(0),
        offset: at(2),
        leader_epoch: LeaderEpoch::UNKNOWN,
    };
    let stream = client
        .send(&SubscribeRequest { subscription: 1, credit_bytes: 1 << 30, partitions: vec![position], rack: None })
        .await;
    client.response::<streambus_protocol::api::subscribe::SubscribeResponse>(stream).await.expect("open");
    let mut cursor = at(2);
    let mut streamed = BTreeMap::new();
    while cursor < at(end) {
        let push: PushedBatches = client.push(stream).await;
        for batch in placed(&push.partitions[0]) {
            cursor = batch.next_offset();
            for stored in batch.records(1 << 20).expect("expands") {
                let stored = stored.expect("a sound record");
                streamed.insert(stored.offset.get(), stored.record.key.expect("a key")[0]);
            }
        }
    }
    assert_eq!(newest(&streamed), newest(&written));

    let mut client = broker.client().await;
    let again = client.produce_batch(topic, 0, keyed(&[9], 10, Compression::None, stamp(0))).await;
    assert_eq!(again.expect("known").base_offset, once.base_offset, "its record is gone, the producer is not");
    broker.stop().await.expect("an orderly stop");
}
