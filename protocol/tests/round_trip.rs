//! Every message with every kind of content survives the wire.

mod samples;

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use streambus_protocol::api::cluster::{
    BrokerDescription, ClusterDescribeResponse, DrainBrokerRequest, DrainBrokerResponse, ElectLeaderRequest,
    ElectLeaderResponse, LeaderChoice, ReassignRequest, ReassignResponse, RemoveBrokerRequest,
};
use streambus_protocol::api::fetch::{Batches, FetchOutcome, FetchPartition, FetchRequest, FetchResponse, Fetched};
use streambus_protocol::api::metadata::{
    BrokerEndpoint, MetadataRequest, MetadataResponse, PartitionLayout, TopicLayout, TopicMetadata,
};
use streambus_protocol::api::offsets::{
    ListOffsetsRequest, ListOffsetsResponse, OffsetFound, OffsetQuery, OffsetsOutcome, OffsetsPartition,
};
use streambus_protocol::api::peer::{
    PeerHandshakeRequest, PeerHandshakeResponse, PeerLane, RaftCallRequest, RaftCallResponse, RaftForwardRequest,
    RaftForwardResponse, RaftHelloRequest, RaftHelloResponse, RaftSnapshotRequest, RaftSnapshotResponse, SnapshotStep,
};
use streambus_protocol::api::produce::{
    Acks, InitProducerRequest, InitProducerResponse, ProduceOutcome, ProducePartition, ProduceRequest, ProduceResponse,
    Produced, Receipt,
};
use streambus_protocol::api::repair::{ReplicaRepairRequest, ReplicaRepairResponse};
use streambus_protocol::api::replica::{
    LeaderLogState, ReplicaFetchOutcome, ReplicaFetchPartition, ReplicaFetchRequest, ReplicaFetchResponse,
    ReplicaFetched, ReplicaProgressRequest, ReplicaStateRequest, ReplicaStateResponse,
};
use streambus_protocol::api::session::{
    ApiRange, ErrorBody, HandshakeRequest, HandshakeResponse, HealthResponse, LeaderHint,
};
use streambus_protocol::api::strays::{
    DiscardStrayRequest, DiscardStrayResponse, ListStraysRequest, ListStraysResponse, StrayDescription,
};
use streambus_protocol::api::subscribe::{
    CreditRequest, PushedBatches, SubscribePartition, SubscribeRequest, SubscribeResponse, UnsubscribeRequest,
    Watermarks,
};
use streambus_protocol::api::topics::{
    AddPartitionsRequest, AddPartitionsResponse, AlterTopicRequest, ConfigEntry, CreateTopicRequest,
    CreateTopicResponse, DeleteTopicRequest, DeleteTopicResponse, DescribeTopicRequest, DescribeTopicResponse,
    ListTopicsResponse, PartitionDescription, ReplicaDescription, TopicListing, TrimLogRequest, TrimLogResponse,
};
use streambus_protocol::api::{
    Message, Request, decode_body, decode_response, encode_error, encode_push, encode_request, encode_request_into,
    encode_response,
};
use streambus_protocol::batch::UnverifiedBatch;
use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::frame::Flags;
use streambus_protocol::ids::{
    BrokerId, ClusterId, CorrelationId, PartitionId, PartitionIndex, ProducerEpoch, ProducerId, TopicId, TopicName,
};
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;

const CORRELATION: CorrelationId = CorrelationId::new(77);

fn request<M: Request + PartialEq + Debug>(message: &M) {
    let encoded = encode_request(message, CORRELATION, 1234);
    let length = encoded.len();
    let bytes = samples::joined(encoded);
    assert_eq!(length, bytes.len());
    // Into a buffer that holds something already.
    let mut buffer = BytesMut::from(&b"before"[..]);
    let payload = encode_request_into(message, CORRELATION, 1234, &mut buffer);
    buffer.extend_from_slice(&payload.into_bytes());
    assert_eq!(&buffer[6..], &bytes[..]);

    let frame = samples::frame(&bytes);
    assert_eq!(
        (frame.header.flags, frame.header.correlation, frame.header.timeout_ms),
        (Flags::REQUEST, CORRELATION, 1234)
    );
    assert_eq!(frame.header.api, M::API.to_wire());
    assert_eq!(&decode_body::<M>(frame).expect("what was written is read"), message);
}

fn response<M: Message + PartialEq + Debug>(message: &M) {
    let frame = samples::frame(&samples::joined(encode_response(message, CORRELATION)));
    assert_eq!((frame.header.flags, frame.header.timeout_ms), (Flags::RESPONSE, 0));
    assert_eq!(decode_response::<M>(frame).expect("what was written is read").as_ref(), Ok(message));
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-zé漢 ]{1,20}"]
}

fn name() -> impl Strategy<Value = TopicName> {
    "[a-zA-Z0-9_-]{1,249}".prop_map(|name| TopicName::new(&name).expect("a legal name"))
}

fn topic() -> impl Strategy<Value = TopicId> {
    any::<[u8; 16]>().prop_map(TopicId::from_bytes)
}

fn cluster() -> impl Strategy<Value = ClusterId> {
    any::<[u8; 16]>().prop_map(ClusterId::from_bytes)
}

fn partition() -> impl Strategy<Value = PartitionIndex> {
    any::<u32>().prop_map(PartitionIndex::new)
}

fn broker() -> impl Strategy<Value = BrokerId> {
    any::<u32>().prop_map(BrokerId::new)
}

fn offset() -> impl Strategy<Value = Offset> {
    prop_oneof![Just(Offset::ZERO), Just(Offset::MAX), (0..=Offset::MAX.get()).prop_map(samples::offset)]
}

fn time() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(Timestamp::from_millis)
}

fn epoch() -> impl Strategy<Value = LeaderEpoch> {
    prop_oneof![Just(LeaderEpoch::UNKNOWN), any::<u32>().prop_map(LeaderEpoch::new)]
}

fn error() -> impl Strategy<Value = ErrorBody> {
    let hint = prop::option::of(
        (0..u32::MAX, epoch())
            .prop_map(|(leader, leader_epoch)| LeaderHint { leader: BrokerId::new(leader), leader_epoch }),
    );
    (prop::sample::select(ErrorCode::ALL), text(), hint).prop_map(|(code, message, hint)| {
        let error = ErrorBody::new(code, message);
        if code.names_leader() { error.with_leader(hint) } else { error }
    })
}

fn outcome<T: Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Result<T, ErrorBody>> {
    prop_oneof![3 => value.prop_map(Ok), 1 => error().prop_map(Err)]
}

fn some<T: Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec(value, 0..5)
}

fn config() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map(text(), text(), 0..5)
}

fn record_bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..50).prop_map(Bytes::from)
}

fn endpoint() -> impl Strategy<Value = BrokerEndpoint> {
    (broker(), text(), any::<u16>(), prop::option::of(text())).prop_map(|(id, host, port, rack)| BrokerEndpoint {
        id,
        host,
        port,
        rack,
    })
}

fn layout() -> impl Strategy<Value = PartitionLayout> {
    (partition(), prop::option::of(broker()), epoch(), any::<u32>(), some(broker()), some(broker())).prop_map(
        |(index, leader, leader_epoch, partition_epoch, replicas, isr)| PartitionLayout {
            index,
            leader,
            leader_epoch,
            partition_epoch: PartitionEpoch::new(partition_epoch),
            replicas,
            isr,
        },
    )
}

fn fetched() -> impl Strategy<Value = FetchOutcome> {
    let ok = (offset(), offset(), some(record_bytes())).prop_map(|(high_watermark, log_start, chunks)| Fetched {
        high_watermark,
        log_start,
        batches: Batches::from_chunks(chunks),
    });
    (topic(), partition(), outcome(ok)).prop_map(|(topic, partition, result)| FetchOutcome { topic, partition, result })
}

fn broker_epoch() -> impl Strategy<Value = BrokerEpoch> {
    any::<u64>().prop_map(BrokerEpoch::new)
}

fn id() -> impl Strategy<Value = PartitionId> {
    (topic(), partition()).prop_map(|(topic, partition)| PartitionId { topic, partition })
}

fn replica() -> impl Strategy<Value = ReplicaDescription> {
    let ends = (broker(), offset(), offset());
    let standing = (any::<u64>(), any::<bool>(), prop::option::of(any::<u64>()), any::<u64>(), any::<u64>());
    (ends, standing).prop_map(|((broker, log_end, durable_end), standing)| {
        let (lag_records, in_sync, caught_up_ms_ago, lag_bytes, bytes_per_second) = standing;
        ReplicaDescription {
            broker,
            log_end,
            durable_end,
            lag_records,
            in_sync,
            caught_up_ms_ago,
            lag_bytes,
            bytes_per_second,
        }
    })
}

fn replicated() -> impl Strategy<Value = ReplicaFetchOutcome> {
    let ok = (offset(), offset(), offset(), some(record_bytes())).prop_map(
        |(high_watermark, log_start, log_end, chunks)| ReplicaFetched {
            high_watermark,
            log_start,
            log_end,
            batches: Batches::from_chunks(chunks),
        },
    );
    (topic(), partition(), epoch(), prop::option::of((epoch(), offset())), outcome(ok)).prop_map(
        |(topic, partition, leader_epoch, diverging, result)| ReplicaFetchOutcome {
            topic,
            partition,
            leader_epoch,
            diverging,
            result,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn session(
        (client_id, software_name, software_version, id) in (text(), text(), text(), prop::option::of(cluster())),
        (cluster_id, broker_id, numbers) in (cluster(), broker(), any::<(u32, u32)>()),
        apis in some(any::<(u8, u8, u8)>()),
        (ready, problems) in (any::<bool>(), some(text())),
        failed in error(),
    ) {
        let state = software_name.clone();
        request(&HandshakeRequest { client_id, software_name, software_version: software_version.clone(), cluster_id: id });
        response(&HandshakeResponse {
            cluster_id,
            broker_id,
            software_version,
            frame_bytes_max: numbers.0,
            requests_in_flight_max: numbers.1,
            apis: apis.into_iter().map(|(api, min, max)| ApiRange { api, min, max }).collect(),
        });
        response(&HealthResponse { state, ready, problems });
        let frame = samples::frame(&samples::joined(encode_error(200, CORRELATION, &failed)));
        prop_assert_eq!(frame.header.api, 200);
        prop_assert_eq!(decode_response::<HealthResponse>(frame), Ok(Err(failed)));
    }

    #[test]
    fn metadata(
        topics in prop::option::of(some(name())),
        (cluster_id, controller, brokers) in (cluster(), prop::option::of(broker()), some(endpoint())),
        layouts in some((name(), outcome((topic(), some(layout()))))),
    ) {
        request(&MetadataRequest { topics });
        let topics = layouts
            .into_iter()
            .map(|(name, outcome)| {
                TopicMetadata { name, outcome: outcome.map(|(id, partitions)| TopicLayout { id, partitions }) }
            })
            .collect();
        response(&MetadataResponse { cluster_id, controller, brokers, topics });
    }

    #[test]
    fn topics(
        (name, id, config, remove) in (name(), topic(), config(), some(text())),
        (partitions, replication_factor, flag, at) in (any::<u32>(), any::<u16>(), any::<bool>(), offset()),
        descriptions in some((
            layout(),
            (offset(), offset(), offset(), any::<u64>(), any::<bool>()),
            some((offset(), offset())),
            (some(broker()), some(broker()), some(broker()), some(broker())),
            some(replica()),
        )),
    ) {
        request(&CreateTopicRequest {
            name: name.clone(), partitions, replication_factor, config: config.clone(), validate_only: flag,
        });
        response(&CreateTopicResponse { id, partitions, replication_factor });
        request(&DeleteTopicRequest { name: name.clone() });
        response(&DeleteTopicResponse { id });
        request(&DescribeTopicRequest { name: name.clone() });
        request(&AddPartitionsRequest { name: name.clone(), total: partitions });
        response(&AddPartitionsResponse { total: partitions });
        request(&TrimLogRequest { topic: name.clone(), partition: PartitionIndex::new(partitions), before: at });
        response(&TrimLogResponse { log_start: at });
        let listing = TopicListing { name: name.clone(), id, partitions, replication_factor, internal: flag };
        response(&ListTopicsResponse { topics: vec![listing; 3] });
        let entries = config.iter().map(|(key, value)| ConfigEntry {
            key: key.clone(), value: value.clone(), is_default: flag,
        });
        response(&DescribeTopicResponse {
            name: name.clone(),
            id,
            config: entries.collect(),
            partitions: descriptions
                .into_iter()
                .map(|(layout, ends, damaged, (elr, last_known_elr, adding, removing), replica_states)| {
                    let (log_start, high_watermark, log_end, size_bytes, recovering) = ends;
                    PartitionDescription {
                        layout, log_start, high_watermark, log_end, size_bytes, damaged, elr, last_known_elr, adding,
                        removing, throttle: recovering.then_some(size_bytes), recovering, replica_states,
                    }
                })
                .collect(),
        });
        request(&AlterTopicRequest { name, set: config, remove });
    }

    #[test]
    fn produce(
        acks in prop::sample::select(vec![Acks::None, Acks::Leader, Acks::All]),
        partitions in some((topic(), partition(), epoch(), record_bytes())),
        outcomes in some((topic(), partition(), outcome((offset(), time(), any::<(u8, u8)>())))),
        (id, epoch, new) in (any::<i64>(), any::<i16>(), any::<bool>()),
    ) {
        let partitions = partitions.into_iter().map(|(topic, partition, leader_epoch, batch)| ProducePartition {
            topic, partition, leader_epoch, batch: UnverifiedBatch::from_shared(batch),
        });
        request(&ProduceRequest { acks, partitions: partitions.collect() });
        let outcomes = outcomes.into_iter().map(|(topic, partition, result)| ProduceOutcome {
            topic,
            partition,
            result: result.map(|(base_offset, timestamp, (replicas, durable))| Produced {
                base_offset, timestamp, receipt: Receipt { replicas, durable },
            }),
        });
        response(&ProduceResponse { partitions: outcomes.collect() });
        let (id, epoch) = (ProducerId::new(id), ProducerEpoch::new(epoch));
        request(&InitProducerRequest { producer: (!new).then_some((id, epoch)) });
        response(&InitProducerResponse { id, epoch });
    }

    #[test]
    fn fetch(
        (wait_ms, bytes_min, bytes_max) in any::<(u32, u32, u32)>(),
        partitions in some((topic(), partition(), offset(), any::<u32>(), epoch())),
        rack in prop::option::of("[a-z]{0,9}"),
        outcomes in some(fetched()),
    ) {
        let partitions = partitions.into_iter().map(|(topic, partition, offset, bytes_max, leader_epoch)| {
            FetchPartition { topic, partition, offset, bytes_max, leader_epoch }
        });
        request(&FetchRequest { wait_ms, bytes_min, bytes_max, partitions: partitions.collect(), rack });
        response(&FetchResponse { partitions: outcomes });
    }

    #[test]
    fn subscribe(
        (subscription, bytes) in any::<(u32, u64)>(),
        partitions in some((topic(), partition(), offset(), epoch())),
        rack in prop::option::of("[a-z]{0,9}"),
        started in some((topic(), partition(), outcome((offset(), offset())))),
        outcomes in some(fetched()),
    ) {
        let partitions = partitions.into_iter().map(|(topic, partition, offset, leader_epoch)| {
            SubscribePartition { topic, partition, offset, leader_epoch }
        });
        request(&SubscribeRequest { subscription, credit_bytes: bytes, partitions: partitions.collect(), rack });
        let started = started.into_iter().map(|(topic, partition, result)| {
            let ends = result.map(|(log_start, high_watermark)| Watermarks { log_start, high_watermark });
            (topic, partition, ends)
        });
        response(&SubscribeResponse { partitions: started.collect() });
        request(&CreditRequest { subscription, add_bytes: bytes });
        request(&UnsubscribeRequest { subscription });
        let push = PushedBatches { subscription, partitions: outcomes };
        let frame = samples::frame(&samples::joined(encode_push(&push, CORRELATION)));
        prop_assert_eq!((frame.header.flags, frame.header.correlation), (Flags::PUSH, CORRELATION));
        prop_assert_eq!(decode_body::<PushedBatches>(frame), Ok(push));
    }

    #[test]
    fn offsets(
        partitions in some((topic(), partition(), prop::option::of(time()), any::<bool>())),
        outcomes in some((topic(), partition(), outcome((offset(), time())))),
    ) {
        let partitions = partitions.into_iter().map(|(topic, partition, at, earliest)| {
            let end = if earliest { OffsetQuery::Earliest } else { OffsetQuery::Latest };
            OffsetsPartition { topic, partition, query: at.map_or(end, OffsetQuery::At) }
        });
        request(&ListOffsetsRequest { partitions: partitions.collect() });
        let outcomes = outcomes.into_iter().map(|(topic, partition, result)| OffsetsOutcome {
            topic, partition, result: result.map(|(offset, timestamp)| OffsetFound { offset, timestamp }),
        });
        response(&ListOffsetsResponse { partitions: outcomes.collect() });
    }

    #[test]
    fn described_cluster(
        (cluster_id, controller, silent) in (cluster(), prop::option::of(broker()), some(broker())),
        without_quorum_ms in prop::option::of(any::<u64>()),
        (metadata_term, metadata_index) in any::<(u64, u64)>(),
        brokers in some((
            endpoint(), (text(), text(), text()), any::<(u32, u32, u64, u64)>(),
            any::<(u16, u32, bool, bool, bool, bool)>(), (broker_epoch(), prop::option::of(any::<u64>())),
        )),
        counts in any::<(u32, u32, u32, u32, u32, u32)>(),
    ) {
        let brokers = brokers.into_iter().map(
            |(endpoint, (state, version, cluster_host), sizes, flags, (epoch, metadata_lag))| {
                let (leaders, replicas, disk_used_bytes, disk_free_bytes) = sizes;
                let (cluster_port, reassigning, fenced, in_controlled_shutdown, draining, is_voter) = flags;
                BrokerDescription {
                    endpoint, cluster_host, cluster_port, epoch, fenced, in_controlled_shutdown, draining, is_voter,
                    metadata_lag, state, version, leaders, replicas, reassigning, disk_used_bytes, disk_free_bytes,
                }
            },
        );
        let (topics, partitions, leaderless, under_replicated, under_min_isr, reassigning) = counts;
        response(&ClusterDescribeResponse {
            cluster_id, controller, metadata_term, metadata_index, without_quorum_ms, silent, brokers: brokers.collect(),
            topics, partitions, leaderless, under_replicated, under_min_isr, reassigning,
        });
    }

    #[test]
    fn moving_work(
        (topic, index, to, leader_epoch) in (name(), partition(), broker(), epoch()),
        (replicas, adding, removing) in (some(broker()), some(broker()), some(broker())),
        (draining, cancel, counts) in any::<(bool, bool, (u32, u32, u32))>(),
    ) {
        for choice in [LeaderChoice::Preferred, LeaderChoice::Broker(to), LeaderChoice::Unclean] {
            request(&ElectLeaderRequest { topic: topic.clone(), partition: index, choice });
        }
        response(&ElectLeaderResponse { leader: to, leader_epoch });
        let throttle = draining.then_some(u64::from(counts.0) << 9);
        request(&ReassignRequest { topic, partition: index, replicas: (!cancel).then(|| replicas.clone()), throttle });
        response(&ReassignResponse { replicas, adding, removing });
        request(&DrainBrokerRequest { broker: to, draining });
        response(&DrainBrokerResponse {
            leaders_left: counts.0,
            replicas_left: counts.1,
            moving: counts.2,
            bytes_left: u64::from(counts.0) << 9,
            unmeasured: counts.1,
        });
        request(&RemoveBrokerRequest { broker: to });
    }

    #[test]
    fn logs_in_quarantine(
        (topic, index, broker, newest_epoch) in (topic(), partition(), broker(), prop::option::of(epoch())),
        (records, bytes, passing, unlisted) in any::<(u64, u64, bool, u32)>(),
        reason in text(),
    ) {
        let log = PartitionId { topic, partition: index };
        request(&ListStraysRequest { broker });
        let stray = StrayDescription { log, records, bytes, newest_epoch, passing, reason };
        response(&ListStraysResponse { strays: vec![stray.clone(), stray], unlisted });
        request(&DiscardStrayRequest { broker, log, records, bytes });
        response(&DiscardStrayResponse {});
    }

    #[test]
    fn peers(
        (cluster_id, raft_id, epoch) in
            (prop::option::of(cluster()), prop::option::of(any::<u64>()), prop::option::of(broker_epoch())),
        (broker_id, expected, lane) in (broker(), prop::option::of(broker()), prop::sample::select(PeerLane::ALL)),
        (software_version, bytes, rpc, number) in (text(), record_bytes(), any::<u8>(), any::<(u32, u64)>()),
    ) {
        request(&PeerHandshakeRequest {
            cluster_id, broker_id, expected, lane, raft_id, broker_epoch: epoch,
            software_version: software_version.clone(),
        });
        response(&PeerHandshakeResponse {
            cluster_id, broker_id, raft_id, software_version, frame_bytes_max: number.0,
        });
        request(&RaftHelloRequest { bytes: bytes.clone() });
        response(&RaftHelloResponse { bytes: bytes.clone() });
        request(&RaftCallRequest { rpc, bytes: bytes.clone() });
        response(&RaftCallResponse { bytes: bytes.clone() });
        for step in [
            SnapshotStep::Begin { header: bytes.clone() },
            SnapshotStep::Chunk { position: number.1, bytes: bytes.clone() },
            SnapshotStep::Finish { bytes_total: number.1 },
        ] {
            request(&RaftSnapshotRequest { transfer: number.0, step });
        }
        response(&RaftSnapshotResponse { bytes: bytes.clone() });
        request(&RaftForwardRequest { bytes: bytes.clone() });
        response(&RaftForwardResponse { bytes });
    }

    #[test]
    fn replication(
        (broker, broker_epoch, numbers) in (broker(), broker_epoch(), any::<(u32, u32, u32, u32)>()),
        changed in some((id(), (epoch(), epoch()), (offset(), offset(), offset(), offset(), offset()), any::<u32>())),
        (forgotten, ends) in (some(id()), some((id(), epoch(), offset()))),
        outcomes in some(replicated()),
        states in some((
            id(),
            outcome((offset(), offset(), offset(), any::<u64>(), some((offset(), offset())), some(replica()))),
        )),
    ) {
        let (session, sequence, wait_ms, bytes_max) = numbers;
        let changed = changed.into_iter().map(|(id, (leader_epoch, last_fetched_epoch), ends, bytes_max)| {
            let (fetch_offset, durable_end, accepted_end, log_start, known_high_watermark) = ends;
            ReplicaFetchPartition {
                topic: id.topic, partition: id.partition, leader_epoch, fetch_offset, durable_end, accepted_end,
                last_fetched_epoch, log_start, known_high_watermark, bytes_max,
            }
        });
        request(&ReplicaStateRequest { partitions: forgotten.clone() });
        request(&ReplicaFetchRequest {
            broker, broker_epoch, session, sequence, wait_ms, bytes_max, changed: changed.collect(), forgotten,
        });
        response(&ReplicaFetchResponse { session, sequence, partitions: outcomes });
        request(&ReplicaProgressRequest { session, ends });
        let states = states.into_iter().map(|(id, state)| {
            let state = state.map(|(log_start, high_watermark, log_end, size_bytes, damaged, replicas)| {
                LeaderLogState { log_start, high_watermark, log_end, size_bytes, damaged, replicas }
            });
            (id, state)
        });
        response(&ReplicaStateResponse { partitions: states.collect() });
    }

    #[test]
    fn repair(
        (broker, broker_epoch, id, leader_epoch) in (broker(), broker_epoch(), id(), epoch()),
        (from, to, bytes_max, chunks) in (offset(), offset(), any::<u32>(), some(record_bytes())),
    ) {
        let (topic, partition) = (id.topic, id.partition);
        request(&ReplicaRepairRequest { broker, broker_epoch, topic, partition, leader_epoch, from, to, bytes_max });
        response(&ReplicaRepairResponse { batches: Batches::from_chunks(chunks) });
    }
}

/// A newer broker's code is not lost and not taken for something milder.
#[test]
fn an_unknown_error_code_is_read_as_internal_with_its_number() {
    let known = ErrorBody::new(ErrorCode::NotReady, "why");
    let mut bytes = samples::joined(encode_error(1, CORRELATION, &known));
    bytes[24..26].copy_from_slice(&999_u16.to_le_bytes());
    bytes[4..8].copy_from_slice(&[0; 4]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..4]), &bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    let read = decode_response::<HealthResponse>(samples::frame(&bytes)).expect("an error").expect_err("an error");
    assert_eq!(read, ErrorBody::new(ErrorCode::Internal, "unknown error code 999: why"));
}

/// Catches: a leader that is believed although the sender said there is none.
#[test]
fn an_epoch_of_no_leader_is_refused() {
    let mut bytes = samples::joined(encode_error(1, CORRELATION, &ErrorBody::new(ErrorCode::NotLeader, "why")));
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&7_u32.to_le_bytes());
    bytes[4..8].copy_from_slice(&[0; 4]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..4]), &bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    assert!(decode_response::<HealthResponse>(samples::frame(&bytes)).is_err());
}
