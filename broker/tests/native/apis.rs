//! Every API on its happy path, and what each says when it cannot.

use std::collections::BTreeMap;

use crate::harness::{TestBroker, at, batch_at, code, fetch_partition, name, produce_request, values};
use streambus_protocol::api::cluster::ClusterDescribeRequest;
use streambus_protocol::api::fetch::FetchRequest;
use streambus_protocol::api::metadata::MetadataRequest;
use streambus_protocol::api::offsets::{ListOffsetsRequest, OffsetQuery, OffsetsPartition};
use streambus_protocol::api::produce::{Acks, InitProducerRequest};
use streambus_protocol::api::session::HealthRequest;
use streambus_protocol::api::topics::{
    AddPartitionsRequest, AlterTopicRequest, CreateTopicRequest, DeleteTopicRequest, DescribeTopicRequest,
    ListTopicsRequest, TrimLogRequest,
};
use streambus_protocol::api::{ApiKey, Listener};
use streambus_protocol::batch::ProducerStamp;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, PartitionIndex, ProducerEpoch, Sequence};
use streambus_protocol::timestamp::Timestamp;

#[tokio::test]
async fn the_handshake_names_the_cluster_and_every_api() {
    let broker = TestBroker::start().await;
    let mut client = crate::harness::TestClient::connect_preface(broker.address()).await;
    let hello = client.handshake().await.expect("welcome");
    assert_eq!(hello.broker_id, BrokerId::new(1));
    assert!(!hello.cluster_id.is_zero());
    let served = ApiKey::ALL.iter().filter(|api| api.listener() == Listener::Client);
    assert_eq!(hello.apis.len(), served.count());
    assert_eq!(code(client.handshake().await), ErrorCode::InvalidRequest, "a second hello is refused, not obeyed");
    broker.stop().await.expect("an orderly stop");
}

// Catches a create that answers before its partitions can be written: the next request would be refused.
#[tokio::test]
async fn a_topic_is_created_written_described_changed_and_deleted() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic = client.create_topic("orders", 2).await;
    let produced = client.produce(topic, 1, &["a", "b"]).await.expect("written");
    assert_eq!(produced.base_offset, at(0));
    assert_eq!((produced.receipt.replicas, produced.receipt.durable), (1, 1));

    let listed = client.call(&ListTopicsRequest {}).await.expect("a list").topics;
    assert_eq!(listed.iter().map(|t| (t.name.as_str(), t.partitions)).collect::<Vec<_>>(), [("orders", 2)]);

    let described = client.call(&DescribeTopicRequest { name: name("orders") }).await.expect("a description");
    assert_eq!(described.id, topic);
    let [idle, written] = &described.partitions[..] else { panic!("two partitions") };
    assert_eq!((idle.high_watermark, idle.log_end, idle.size_bytes), (at(0), at(0), 0));
    assert_eq!((written.high_watermark, written.log_end), (at(2), at(2)));
    assert!(written.size_bytes > 0);
    assert_eq!(written.layout.leader, Some(BrokerId::new(1)));

    let grown = client.call(&AddPartitionsRequest { name: name("orders"), total: 3 }).await.expect("grown");
    assert_eq!(grown.total, 3);
    client.produce(topic, 2, &["c"]).await.expect("the new partition is writable at once");
    let shrink = client.call(&AddPartitionsRequest { name: name("orders"), total: 1 }).await;
    assert_eq!(code(shrink), ErrorCode::InvalidPartitions);

    let set = BTreeMap::from([("max.message.bytes".to_owned(), "200".to_owned())]);
    client.call(&AlterTopicRequest { name: name("orders"), set, remove: vec![] }).await.expect("altered");
    let long = "x".repeat(300);
    assert_eq!(code(client.produce(topic, 0, &[&long]).await), ErrorCode::BatchTooLarge, "obeyed at once");

    client.call(&DeleteTopicRequest { name: name("orders") }).await.expect("deleted");
    assert_eq!(code(client.produce(topic, 0, &["d"]).await), ErrorCode::UnknownTopicId);
    let again = client.create_topic("orders", 1).await;
    assert_ne!(again, topic, "a topic created anew is another topic");
    assert!(client.values(again, 0, 0).await.is_empty(), "and has none of the old records");
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn what_is_wrong_with_a_topic_is_said_in_full() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    client.create_topic("payments", 1).await;
    assert_eq!(code(client.create_topic_with("payments", 1, &[]).await), ErrorCode::TopicExists);
    assert_eq!(code(client.create_topic_with("big", 100_000, &[]).await), ErrorCode::InvalidPartitions);
    assert_eq!(
        code(client.create_topic_with("never", 1, &[("min.insync.replicas", "2")]).await),
        ErrorCode::InvalidConfig,
        "a topic that could never be written"
    );
    let refused = client.create_topic_with("bad", 1, &[("retention.mss", "1"), ("durability", "maybe")]).await;
    let refused = refused.expect_err("two problems");
    assert_eq!(refused.code, ErrorCode::InvalidConfig);
    assert!(refused.message.contains("retention.ms") && refused.message.contains("durability"), "{refused}");

    let replicas = CreateTopicRequest {
        name: name("three"),
        partitions: 1,
        replication_factor: 3,
        config: BTreeMap::new(),
        validate_only: false,
    };
    assert_eq!(code(client.call(&replicas).await), ErrorCode::InvalidReplicationFactor);
    let check = CreateTopicRequest { replication_factor: 1, validate_only: true, ..replicas };
    assert!(client.call(&check).await.expect("possible").id.is_zero());
    assert_eq!(client.call(&ListTopicsRequest {}).await.expect("a list").topics.len(), 1, "nothing was created");

    let unknown = client.call(&DescribeTopicRequest { name: name("paymnets") }).await.expect_err("a typo");
    assert_eq!(unknown.code, ErrorCode::UnknownTopic);
    assert!(unknown.message.contains("did you mean 'payments'"), "{unknown}");
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn metadata_cluster_and_health_agree() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    client.create_topic("a", 3).await;
    let some = MetadataRequest { topics: Some(vec![name("a"), name("b")]) };
    let metadata = client.call(&some).await.expect("metadata");
    assert_eq!(metadata.brokers.len(), 1);
    assert_eq!(metadata.brokers[0].port, broker.address().port(), "the port that was really bound");
    assert_eq!(metadata.controller, Some(BrokerId::new(1)));
    assert_eq!(metadata.topics[0].outcome.as_ref().expect("known").partitions.len(), 3);
    assert_eq!(metadata.topics[1].outcome.as_ref().expect_err("unknown").code, ErrorCode::UnknownTopic);

    let cluster = client.call(&ClusterDescribeRequest {}).await.expect("a cluster");
    assert_eq!((cluster.topics, cluster.partitions, cluster.leaderless, cluster.under_replicated), (1, 3, 0, 0));
    assert_eq!((cluster.brokers[0].leaders, cluster.brokers[0].replicas), (3, 3));

    let health = client.call(&HealthRequest {}).await.expect("health");
    assert!(health.ready, "{health:?}");
    assert_eq!(health.state, "ready");
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn offsets_are_found_by_position_and_by_time() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic = client.create_topic_with("times", 1, &[("retention.ms", "-1")]).await.expect("a topic").id;
    for (value, time) in [("a", 100), ("b", 200), ("c", 300)] {
        client.produce_batch(topic, 0, batch_at(&[value], None, time)).await.expect("written");
    }
    let mut find = async |query| {
        let partition = OffsetsPartition { topic, partition: PartitionIndex::new(0), query };
        let found = client.call(&ListOffsetsRequest { partitions: vec![partition] }).await.expect("offsets");
        *found.partitions[0].result.as_ref().expect("an offset")
    };
    assert_eq!(find(OffsetQuery::Earliest).await.offset, at(0));
    assert_eq!(find(OffsetQuery::Latest).await.offset, at(3));
    let second = find(OffsetQuery::At(Timestamp::from_millis(150))).await;
    assert_eq!((second.offset, second.timestamp.as_millis()), (at(1), 200));
    let none = find(OffsetQuery::At(Timestamp::from_millis(301))).await;
    assert_eq!((none.offset, none.timestamp), (at(3), Timestamp::NONE));
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn a_log_is_trimmed_and_says_where_it_starts() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic = client.create_topic("trim", 1).await;
    for value in ["a", "b", "c"] {
        client.produce(topic, 0, &[value]).await.expect("written");
    }
    let trim = |before| TrimLogRequest { topic: name("trim"), partition: PartitionIndex::new(0), before: at(before) };
    assert_eq!(code(client.call(&trim(4)).await), ErrorCode::OffsetOutOfRange, "never past the high watermark");
    assert_eq!(client.call(&trim(2)).await.expect("trimmed").log_start, at(2));
    assert_eq!(client.values(topic, 0, 2).await, ["c"]);
    let request = crate::harness::fetch_request(topic, 0, 1, 0);
    let outcome = client.fetch(&request).await.partitions.remove(0);
    assert_eq!(code(outcome.result), ErrorCode::OffsetOutOfRange);
    broker.stop().await.expect("an orderly stop");
}

// Catches a fetch that brings a partition's first batch as often as the partition is named: the byte limit would mean
// nothing.
#[tokio::test]
async fn a_fetch_that_repeats_a_partition_is_refused() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic = client.create_topic("t", 2).await;
    client.produce(topic, 0, &["a"]).await.expect("written");
    let partitions = [0, 1, 0].map(|partition| fetch_partition(topic, partition, 0)).to_vec();
    let request = FetchRequest { wait_ms: 0, bytes_min: 1, bytes_max: 1 << 20, partitions, rack: None };
    let response = client.fetch(&request).await;
    assert_eq!(response.partitions.iter().map(|outcome| outcome.partition.get()).collect::<Vec<_>>(), [0, 1, 0]);
    for outcome in response.partitions {
        assert_eq!(code(outcome.result), ErrorCode::InvalidRequest);
    }
    let once = FetchRequest { partitions: request.partitions[..2].to_vec(), ..request };
    assert!(client.fetch(&once).await.partitions.iter().all(|outcome| outcome.result.is_ok()));
    broker.stop().await.expect("an orderly stop");
}

// Catches an answer that grows with the repeats of a short request.
#[tokio::test]
async fn metadata_answers_each_name_once_at_its_first_place() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    client.create_topic("orders", 1).await;
    let asked = ["none", "orders", "none", "orders", "orders"].map(name).to_vec();
    let answer = client.call(&MetadataRequest { topics: Some(asked) }).await.expect("metadata");
    let told: Vec<_> = answer.topics.iter().map(|topic| (topic.name.as_str(), topic.outcome.is_ok())).collect();
    assert_eq!(told, [("none", false), ("orders", true)]);
    broker.stop().await.expect("an orderly stop");
}

// Catches a fetch that stops at its first partition, or answers in another order than it was asked.
#[tokio::test]
async fn one_fetch_reads_many_partitions_within_its_budget() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic = client.create_topic("many", 4).await;
    let value = "x".repeat(1_000);
    for partition in 0..4 {
        client.produce(topic, partition, &[&value]).await.expect("written");
    }
    let partitions = (0..4).map(|partition| fetch_partition(topic, partition, 0)).collect::<Vec<_>>();
    let all = FetchRequest { wait_ms: 0, bytes_min: 1, bytes_max: 1 << 20, rack: None, partitions: partitions.clone() };
    let response = client.fetch(&all).await;
    for (index, outcome) in response.partitions.iter().enumerate() {
        assert_eq!(outcome.partition.get() as usize, index);
        assert_eq!(values(outcome).len(), 1);
    }
    let narrow = FetchRequest { bytes_max: 1_500, ..all };
    let mut served = [0; 4];
    for _ in 0..8 {
        let response = client.fetch(&narrow).await;
        let bytes: usize = response.partitions.iter().map(|o| o.result.as_ref().expect("batches").batches.len()).sum();
        assert!(bytes <= 1_500, "{bytes} bytes");
        for (count, outcome) in served.iter_mut().zip(&response.partitions) {
            *count += values(outcome).len();
        }
    }
    assert!(served.iter().all(|count| *count >= 1), "a narrow budget starves nobody: {served:?}");
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn producer_identities_are_unique_and_their_epochs_grow() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let first = client.call(&InitProducerRequest { producer: None }).await.expect("an identity");
    let second = client.call(&InitProducerRequest { producer: None }).await.expect("an identity");
    assert_ne!(first.id, second.id);
    let renewed = client.call(&InitProducerRequest { producer: Some((first.id, first.epoch)) }).await.expect("renewed");
    assert_eq!((renewed.id, renewed.epoch), (first.id, ProducerEpoch::new(1)));
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    let third = client.call(&InitProducerRequest { producer: None }).await.expect("an identity");
    assert!(third.id > second.id, "ids are not used again after a restart");
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn an_append_time_topic_gives_the_brokers_time() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let config = [("message.timestamp.type", "LogAppendTime")];
    let topic = client.create_topic_with("stamped", 1, &config).await.expect("a topic").id;
    let produced = client.produce_batch(topic, 0, batch_at(&["a"], None, 5)).await.expect("written");
    assert!(produced.timestamp.as_millis() > 1_000_000_000_000, "{}", produced.timestamp);
    let response = client.fetch(&crate::harness::fetch_request(topic, 0, 0, 0)).await;
    let placed = crate::harness::placed(&response.partitions[0]);
    assert_eq!(placed[0].max_timestamp(), produced.timestamp);

    // Catches a repetition that is answered with the time of now: its records have the time of their first life.
    let me = client.call(&InitProducerRequest { producer: None }).await.expect("an identity");
    let stamp = Some(ProducerStamp { id: me.id, epoch: me.epoch, base_sequence: Sequence::new(0) });
    let first = client.produce_batch(topic, 0, batch_at(&["b"], stamp, 5)).await.expect("written");
    let again = client.produce_batch(topic, 0, batch_at(&["b"], stamp, 5)).await.expect("known");
    assert_eq!(again.base_offset, first.base_offset);
    assert_ne!(first.timestamp, Timestamp::NONE);
    assert_eq!(again.timestamp, Timestamp::NONE);
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn an_async_topic_acknowledges_from_memory_and_says_so() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic = client.create_topic_with("quick", 1, &[("durability", "async")]).await.expect("a topic").id;
    let request = produce_request(topic, 0, Acks::All, crate::harness::batch(&["a"], None));
    let response = client.call(&request).await.expect("answered");
    let produced = response.partitions[0].result.as_ref().expect("written");
    assert_eq!((produced.receipt.replicas, produced.receipt.durable), (1, 0));
    assert_eq!(client.values(topic, 0, 0).await, ["a"]);
    broker.stop().await.expect("an orderly stop");
}
