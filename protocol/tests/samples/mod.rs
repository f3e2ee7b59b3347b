//! One message of every kind, and every kind as a closed list, for the tests that must not forget one.

#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of this module")]

mod frames;
mod parts;

use bytes::Bytes;
use std::collections::BTreeMap;
use streambus_protocol::api::cluster::{
    BrokerDescription, ClusterDescribeRequest, ClusterDescribeResponse, DrainBrokerRequest, DrainBrokerResponse,
    ElectLeaderRequest, ElectLeaderResponse, LeaderChoice, ReassignRequest, ReassignResponse, RemoveBrokerRequest,
    RemoveBrokerResponse,
};
use streambus_protocol::api::fetch::{Batches, FetchPartition, FetchRequest, FetchResponse};
use streambus_protocol::api::metadata::{MetadataRequest, MetadataResponse, TopicLayout, TopicMetadata};
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
    LeaderLogState, ReplicaFetchPartition, ReplicaFetchRequest, ReplicaFetchResponse, ReplicaProgressRequest,
    ReplicaProgressResponse, ReplicaStateRequest, ReplicaStateResponse,
};
use streambus_protocol::api::session::{
    ApiRange, ErrorBody, HandshakeRequest, HandshakeResponse, HealthRequest, HealthResponse, LeaderHint,
};
use streambus_protocol::api::strays::{
    DiscardStrayRequest, DiscardStrayResponse, ListStraysRequest, ListStraysResponse, StrayDescription,
};
use streambus_protocol::api::subscribe::{
    CreditRequest, CreditResponse, PushedBatches, SubscribePartition, SubscribeRequest, SubscribeResponse,
    UnsubscribeRequest, UnsubscribeResponse, Watermarks,
};
use streambus_protocol::api::topics::{
    AddPartitionsRequest, AddPartitionsResponse, AlterTopicRequest, AlterTopicResponse, ConfigEntry,
    CreateTopicRequest, CreateTopicResponse, DeleteTopicRequest, DeleteTopicResponse, DescribeTopicRequest,
    DescribeTopicResponse, ListTopicsRequest, ListTopicsResponse, PartitionDescription, TopicListing, TrimLogRequest,
    TrimLogResponse,
};
use streambus_protocol::api::{ApiKey, encode_error, encode_push, encode_request, encode_response};
use streambus_protocol::batch::UnverifiedBatch;
use streambus_protocol::compression::Compression;
use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, CorrelationId, PartitionIndex, ProducerEpoch, ProducerId};
use streambus_protocol::timestamp::Timestamp;

pub(crate) use frames::{frame, joined, read_any};
pub(crate) use parts::{
    batch_bytes, cluster_id, endpoint, layout, name, offset, outcomes, partition_id, records, replica, replicated,
    stamp, topic_id,
};

/// The whole bytes of a frame, with a name for messages and golden files.
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
}

/// One of every message.
#[expect(clippy::too_many_lines, reason = "a list of everything is as long as everything")]
pub(crate) fn samples() -> Vec<Sample> {
    let correlation = CorrelationId::new(0x0102_0304);
    let partition = PartitionIndex::new(7);
    let config: BTreeMap<String, String> =
        [("retention.ms", "60000"), ("durability", "sync")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let mut all = Vec::new();
    macro_rules! request {
        ($name:literal, $message:expr) => {
            all.push(Sample { name: $name, bytes: joined(encode_request(&$message, correlation, 30_000)) })
        };
    }
    macro_rules! response {
        ($name:literal, $message:expr) => {
            all.push(Sample { name: $name, bytes: joined(encode_response(&$message, correlation)) })
        };
    }

    request!(
        "handshake_request",
        HandshakeRequest {
            client_id: "checkout".into(),
            software_name: "streambus-client".into(),
            software_version: "0.1.0".into(),
            cluster_id: Some(cluster_id()),
        }
    );
    response!(
        "handshake_response",
        HandshakeResponse {
            cluster_id: cluster_id(),
            broker_id: BrokerId::new(1),
            software_version: "0.1.0".into(),
            frame_bytes_max: 16 << 20,
            requests_in_flight_max: 64,
            apis: vec![ApiRange { api: 0, min: 1, max: 1 }, ApiRange { api: 8, min: 1, max: 2 }],
        }
    );
    request!("metadata_request_all", MetadataRequest { topics: None });
    request!("metadata_request_some", MetadataRequest { topics: Some(vec![name("orders"), name("bills")]) });
    response!(
        "metadata_response",
        MetadataResponse {
            cluster_id: cluster_id(),
            controller: Some(BrokerId::new(1)),
            brokers: vec![endpoint(1), endpoint(2)],
            topics: vec![
                TopicMetadata {
                    name: name("orders"),
                    outcome: Ok(TopicLayout { id: topic_id(), partitions: vec![layout(0), layout(1)] }),
                },
                TopicMetadata {
                    name: name("bills"),
                    outcome: Err(ErrorBody::new(ErrorCode::UnknownTopic, "there is no topic 'bills'")),
                },
            ],
        }
    );
    request!(
        "create_topic_request",
        CreateTopicRequest {
            name: name("orders"),
            partitions: 12,
            replication_factor: 3,
            config: config.clone(),
            validate_only: true,
        }
    );
    response!("create_topic_response", CreateTopicResponse { id: topic_id(), partitions: 12, replication_factor: 3 });
    request!("delete_topic_request", DeleteTopicRequest { name: name("orders") });
    response!("delete_topic_response", DeleteTopicResponse { id: topic_id() });
    request!("list_topics_request", ListTopicsRequest {});
    response!(
        "list_topics_response",
        ListTopicsResponse {
            topics: vec![TopicListing {
                name: name("orders"),
                id: topic_id(),
                partitions: 12,
                replication_factor: 3,
                internal: false,
            }],
        }
    );
    request!("describe_topic_request", DescribeTopicRequest { name: name("orders") });
    response!(
        "describe_topic_response",
        DescribeTopicResponse {
            name: name("orders"),
            id: topic_id(),
            config: vec![ConfigEntry { key: "retention.ms".into(), value: "60000".into(), is_default: false }],
            partitions: vec![PartitionDescription {
                layout: layout(0),
                log_start: offset(10),
                high_watermark: offset(990),
                log_end: offset(1000),
                size_bytes: 123_456,
                damaged: vec![(offset(20), offset(30))],
                elr: vec![BrokerId::new(2)],
                last_known_elr: vec![BrokerId::new(3)],
                adding: vec![BrokerId::new(4)],
                removing: vec![BrokerId::new(2)],
                throttle: Some(1 << 20),
                recovering: false,
                replica_states: vec![replica(1), replica(2)],
            }],
        }
    );
    request!("add_partitions_request", AddPartitionsRequest { name: name("orders"), total: 24 });
    response!("add_partitions_response", AddPartitionsResponse { total: 24 });
    request!(
        "alter_topic_request",
        AlterTopicRequest { name: name("orders"), set: config, remove: vec!["retention.bytes".into()] }
    );
    response!("alter_topic_response", AlterTopicResponse {});
    request!(
        "produce_request",
        ProduceRequest {
            acks: Acks::All,
            partitions: vec![ProducePartition {
                topic: topic_id(),
                partition,
                leader_epoch: LeaderEpoch::UNKNOWN,
                batch: UnverifiedBatch::from_shared(batch_bytes(Compression::None, Some(stamp()))),
            }],
        }
    );
    request!(
        "produce_request_two",
        ProduceRequest {
            acks: Acks::Leader,
            partitions: [0, 1]
                .map(|index| ProducePartition {
                    topic: topic_id(),
                    partition: PartitionIndex::new(index),
                    leader_epoch: LeaderEpoch::new(5),
                    batch: UnverifiedBatch::from_shared(batch_bytes(Compression::None, None)),
                })
                .into(),
        }
    );
    response!(
        "produce_response",
        ProduceResponse {
            partitions: vec![
                ProduceOutcome {
                    topic: topic_id(),
                    partition,
                    result: Ok(Produced {
                        base_offset: offset(1000),
                        timestamp: Timestamp::NONE,
                        receipt: Receipt { replicas: 3, durable: 2 },
                    }),
                },
                ProduceOutcome {
                    topic: topic_id(),
                    partition,
                    result: Err(ErrorBody::new(ErrorCode::CorruptBatch, "the checksum is wrong")),
                },
            ],
        }
    );
    request!(
        "fetch_request",
        FetchRequest {
            wait_ms: 500,
            bytes_min: 1,
            bytes_max: 1 << 20,
            partitions: vec![FetchPartition {
                topic: topic_id(),
                partition,
                offset: offset(1000),
                bytes_max: 1 << 18,
                leader_epoch: LeaderEpoch::new(5),
            }],
            rack: None,
        }
    );
    response!("fetch_response", FetchResponse { partitions: outcomes() });
    request!(
        "subscribe_request",
        SubscribeRequest {
            subscription: 3,
            credit_bytes: 1 << 20,
            partitions: vec![SubscribePartition {
                topic: topic_id(),
                partition,
                offset: offset(1000),
                leader_epoch: LeaderEpoch::UNKNOWN,
            }],
            rack: Some("zone-a".to_owned()),
        }
    );
    response!(
        "subscribe_response",
        SubscribeResponse {
            partitions: vec![
                (topic_id(), partition, Ok(Watermarks { log_start: offset(10), high_watermark: offset(1000) })),
                (topic_id(), partition, Err(ErrorBody::new(ErrorCode::UnknownPartition, "there is no partition 7"))),
            ],
        }
    );
    all.push(Sample {
        name: "subscribe_push",
        bytes: joined(encode_push(&PushedBatches { subscription: 3, partitions: outcomes() }, correlation)),
    });
    request!("credit_request", CreditRequest { subscription: 3, add_bytes: 1 << 20 });
    response!("credit_response", CreditResponse {});
    request!("unsubscribe_request", UnsubscribeRequest { subscription: 3 });
    response!("unsubscribe_response", UnsubscribeResponse {});
    let query = |query| OffsetsPartition { topic: topic_id(), partition, query };
    request!(
        "list_offsets_request",
        ListOffsetsRequest {
            partitions: vec![
                query(OffsetQuery::Earliest),
                query(OffsetQuery::Latest),
                query(OffsetQuery::At(Timestamp::from_millis(1_700_000_000_000))),
            ],
        }
    );
    response!(
        "list_offsets_response",
        ListOffsetsResponse {
            partitions: vec![OffsetsOutcome {
                topic: topic_id(),
                partition,
                result: Ok(OffsetFound { offset: offset(1000), timestamp: Timestamp::NONE }),
            }],
        }
    );
    request!("cluster_describe_request", ClusterDescribeRequest {});
    response!(
        "cluster_describe_response",
        ClusterDescribeResponse {
            cluster_id: cluster_id(),
            controller: None,
            metadata_term: 2,
            metadata_index: 300,
            without_quorum_ms: Some(12_000),
            silent: vec![BrokerId::new(3)],
            brokers: vec![BrokerDescription {
                endpoint: endpoint(1),
                cluster_host: "broker-1.internal".into(),
                cluster_port: 9094,
                epoch: BrokerEpoch::new(17),
                fenced: false,
                in_controlled_shutdown: false,
                draining: true,
                is_voter: true,
                metadata_lag: Some(2),
                state: "ready".into(),
                version: "0.1.0".into(),
                leaders: 6,
                replicas: 12,
                reassigning: 1,
                disk_used_bytes: 1 << 30,
                disk_free_bytes: 1 << 40,
            }],
            topics: 4,
            partitions: 48,
            leaderless: 1,
            under_replicated: 2,
            under_min_isr: 3,
            reassigning: 1,
        }
    );
    request!("health_request", HealthRequest {});
    response!(
        "health_response",
        HealthResponse { state: "ready".into(), ready: true, problems: vec!["the disk is 93 % full".into()] }
    );
    request!("init_producer_request_new", InitProducerRequest { producer: None });
    request!(
        "init_producer_request_renew",
        InitProducerRequest { producer: Some((ProducerId::new(4711), ProducerEpoch::new(3))) }
    );
    response!(
        "init_producer_response",
        InitProducerResponse { id: ProducerId::new(4711), epoch: ProducerEpoch::new(4) }
    );
    request!("trim_log_request", TrimLogRequest { topic: name("orders"), partition, before: offset(500) });
    response!("trim_log_response", TrimLogResponse { log_start: offset(500) });
    request!(
        "elect_leader_request",
        ElectLeaderRequest { topic: name("orders"), partition, choice: LeaderChoice::Broker(BrokerId::new(2)) }
    );
    response!(
        "elect_leader_response",
        ElectLeaderResponse { leader: BrokerId::new(2), leader_epoch: LeaderEpoch::new(6) }
    );
    request!(
        "reassign_request",
        ReassignRequest {
            topic: name("orders"),
            partition,
            replicas: Some(vec![BrokerId::new(1), BrokerId::new(3)]),
            throttle: Some(10 << 20),
        }
    );
    request!(
        "reassign_request_cancel",
        ReassignRequest { topic: name("orders"), partition, replicas: None, throttle: None }
    );
    response!(
        "reassign_response",
        ReassignResponse {
            replicas: vec![BrokerId::new(1), BrokerId::new(3), BrokerId::new(2)],
            adding: vec![BrokerId::new(3)],
            removing: vec![BrokerId::new(2)],
        }
    );
    request!("drain_broker_request", DrainBrokerRequest { broker: BrokerId::new(2), draining: true });
    response!(
        "drain_broker_response",
        DrainBrokerResponse { leaders_left: 1, replicas_left: 12, moving: 4, bytes_left: 5 << 20, unmeasured: 2 }
    );
    request!("remove_broker_request", RemoveBrokerRequest { broker: BrokerId::new(2) });
    response!("remove_broker_response", RemoveBrokerResponse {});
    request!("list_strays_request", ListStraysRequest { broker: BrokerId::new(2) });
    response!(
        "list_strays_response",
        ListStraysResponse {
            strays: vec![StrayDescription {
                log: partition_id(),
                records: 500,
                bytes: 64_000,
                newest_epoch: Some(LeaderEpoch::new(6)),
                passing: false,
                reason: "no such topic".into(),
            }],
            unlisted: 7,
        }
    );
    request!(
        "discard_stray_request",
        DiscardStrayRequest { broker: BrokerId::new(2), log: partition_id(), records: 500, bytes: 64_000 }
    );
    response!("discard_stray_response", DiscardStrayResponse {});
    request!(
        "peer_handshake_request",
        PeerHandshakeRequest {
            cluster_id: Some(cluster_id()),
            broker_id: BrokerId::new(1),
            expected: Some(BrokerId::new(2)),
            lane: PeerLane::Replication,
            raft_id: Some(1),
            broker_epoch: Some(BrokerEpoch::new(17)),
            software_version: "0.1.0".into(),
        }
    );
    response!(
        "peer_handshake_response",
        PeerHandshakeResponse {
            cluster_id: None,
            broker_id: BrokerId::new(2),
            raft_id: None,
            software_version: "0.1.0".into(),
            frame_bytes_max: 16 << 20,
        }
    );
    let bytes = Bytes::from_static(b"opaque here");
    request!("raft_hello_request", RaftHelloRequest { bytes: bytes.clone() });
    response!("raft_hello_response", RaftHelloResponse { bytes: bytes.clone() });
    request!("raft_call_request", RaftCallRequest { rpc: 1, bytes: bytes.clone() });
    response!("raft_call_response", RaftCallResponse { bytes: bytes.clone() });
    let step = |step| RaftSnapshotRequest { transfer: 5, step };
    request!("raft_snapshot_request_begin", step(SnapshotStep::Begin { header: bytes.clone() }));
    request!("raft_snapshot_request_chunk", step(SnapshotStep::Chunk { position: 11, bytes: bytes.clone() }));
    request!("raft_snapshot_request_finish", step(SnapshotStep::Finish { bytes_total: 22 }));
    response!("raft_snapshot_response", RaftSnapshotResponse { bytes: bytes.clone() });
    request!("raft_forward_request", RaftForwardRequest { bytes: bytes.clone() });
    response!("raft_forward_response", RaftForwardResponse { bytes });
    request!(
        "replica_fetch_request",
        ReplicaFetchRequest {
            broker: BrokerId::new(2),
            broker_epoch: BrokerEpoch::new(17),
            session: 9,
            sequence: 3,
            wait_ms: 500,
            bytes_max: 4 << 20,
            changed: vec![ReplicaFetchPartition {
                topic: topic_id(),
                partition,
                leader_epoch: LeaderEpoch::new(5),
                fetch_offset: offset(1000),
                durable_end: offset(990),
                accepted_end: offset(1000),
                last_fetched_epoch: LeaderEpoch::new(4),
                log_start: offset(10),
                known_high_watermark: offset(980),
                bytes_max: 1 << 20,
            }],
            forgotten: vec![partition_id()],
        }
    );
    response!("replica_fetch_response", ReplicaFetchResponse { session: 9, sequence: 3, partitions: replicated() });
    request!(
        "replica_progress_request",
        ReplicaProgressRequest { session: 9, ends: vec![(partition_id(), LeaderEpoch::new(5), offset(1000))] }
    );
    response!("replica_progress_response", ReplicaProgressResponse {});
    request!("replica_state_request", ReplicaStateRequest { partitions: vec![partition_id()] });
    response!(
        "replica_state_response",
        ReplicaStateResponse {
            partitions: vec![
                (
                    partition_id(),
                    Ok(LeaderLogState {
                        log_start: offset(10),
                        high_watermark: offset(990),
                        log_end: offset(1000),
                        size_bytes: 123_456,
                        damaged: vec![(offset(20), offset(30))],
                        replicas: vec![replica(1), replica(2)],
                    }),
                ),
                (partition_id(), Err(ErrorBody::new(ErrorCode::NotLeader, "broker 2 does not lead it"))),
            ],
        }
    );
    request!(
        "replica_repair_request",
        ReplicaRepairRequest {
            broker: BrokerId::new(2),
            broker_epoch: BrokerEpoch::new(17),
            topic: topic_id(),
            partition,
            leader_epoch: LeaderEpoch::new(5),
            from: offset(20),
            to: offset(30),
            bytes_max: 1 << 20,
        }
    );
    let batches = Batches::from_bytes(batch_bytes(Compression::None, None));
    response!("replica_repair_response", ReplicaRepairResponse { batches });
    all.push(Sample {
        name: "error_response_with_leader",
        bytes: joined(encode_error(
            ApiKey::Produce.to_wire(),
            correlation,
            &ErrorBody::new(ErrorCode::FencedLeaderEpoch, "broker 2 leads in epoch 6")
                .with_leader(Some(LeaderHint { leader: BrokerId::new(2), leader_epoch: LeaderEpoch::new(6) })),
        )),
    });
    all.push(Sample {
        name: "error_response",
        bytes: joined(encode_error(
            ApiKey::Metadata.to_wire(),
            correlation,
            &ErrorBody::new(ErrorCode::NotReady, "the broker is recovering: ask again in a second"),
        )),
    });
    all
}
