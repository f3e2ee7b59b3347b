//! Streams of pushed batches: credit, fairness, the end.

use crate::harness::{TestBroker, TestClient, at, code, name, values};
use streambus_protocol::api::session::HealthRequest;
use streambus_protocol::api::subscribe::{
    CreditRequest, PushedBatches, SubscribePartition, SubscribeRequest, SubscribeResponse, UnsubscribeRequest,
    UnsubscribeResponse,
};
use streambus_protocol::api::topics::DeleteTopicRequest;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{CorrelationId, PartitionIndex, TopicId};

fn request(subscription: u32, credit_bytes: u64, topic: TopicId, partitions: &[(u32, u64)]) -> SubscribeRequest {
    let partitions = partitions
        .iter()
        .map(|(partition, offset)| SubscribePartition {
            topic,
            partition: PartitionIndex::new(*partition),
            offset: at(*offset),
            leader_epoch: LeaderEpoch::UNKNOWN,
        })
        .collect();
    SubscribeRequest { subscription, credit_bytes, partitions, rack: None }
}

async fn subscribe(client: &mut TestClient, request: &SubscribeRequest) -> (CorrelationId, SubscribeResponse) {
    let correlation = client.send(request).await;
    let response = client.response(correlation).await.expect("an answer");
    (correlation, response)
}

#[tokio::test]
async fn a_subscriber_gets_what_is_there_and_then_what_comes() {
    let broker = TestBroker::start().await;
    let mut writer = broker.client().await;
    let mut reader = broker.client().await;
    let topic = writer.create_topic("t", 2).await;
    writer.produce(topic, 0, &["old"]).await.expect("written");
    let (stream, response) = subscribe(&mut reader, &request(3, 1 << 20, topic, &[(0, 0), (1, 0)])).await;
    assert_eq!(response.partitions[0].2.as_ref().expect("open").high_watermark, at(1));
    let push: PushedBatches = reader.push(stream).await;
    assert_eq!((push.subscription, values(&push.partitions[0])), (3, vec!["old".to_owned()]));
    for (partition, value) in [(1, "new"), (0, "newer"), (1, "newest")] {
        writer.produce(topic, partition, &[value]).await.expect("written");
        let push: PushedBatches = reader.push(stream).await;
        assert_eq!(push.partitions[0].partition, PartitionIndex::new(partition));
        assert_eq!(values(&push.partitions[0]), [value]);
    }
    broker.stop().await.expect("an orderly stop");
}

// Catches pushes beyond the credit: a slow consumer would be sent more than it can hold.
#[tokio::test]
async fn nothing_is_pushed_without_credit() {
    let broker = TestBroker::start().await;
    let mut writer = broker.client().await;
    let mut reader = broker.client().await;
    let topic = writer.create_topic("t", 1).await;
    let (stream, _) = subscribe(&mut reader, &request(1, 1, topic, &[(0, 0)])).await;
    writer.produce(topic, 0, &["a"]).await.expect("written");
    let push: PushedBatches = reader.push(stream).await;
    assert_eq!(values(&push.partitions[0]), ["a"], "one byte of credit lets one batch through");
    writer.produce(topic, 0, &["b"]).await.expect("written");
    // The answer comes with no push before it: the credit is overdrawn.
    assert!(reader.call(&HealthRequest {}).await.expect("health").ready);
    reader.send(&CreditRequest { subscription: 1, add_bytes: 10_000 }).await;
    let push: PushedBatches = reader.push(stream).await;
    assert_eq!(values(&push.partitions[0]), ["b"]);
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn a_subscription_ends_when_its_client_says_so() {
    let broker = TestBroker::start().await;
    let mut writer = broker.client().await;
    let mut reader = broker.client().await;
    let topic = writer.create_topic("t", 1).await;
    let (_, _) = subscribe(&mut reader, &request(1, 1 << 20, topic, &[(0, 0)])).await;
    assert_eq!(code(reader.call(&request(1, 1, topic, &[(0, 0)])).await), ErrorCode::InvalidSubscription);
    let UnsubscribeResponse {} = reader.call(&UnsubscribeRequest { subscription: 1 }).await.expect("ended");
    writer.produce(topic, 0, &["unseen"]).await.expect("written");
    assert!(reader.call(&HealthRequest {}).await.expect("health").ready, "no push comes before this answer");
    assert_eq!(code(reader.call(&UnsubscribeRequest { subscription: 1 }).await), ErrorCode::InvalidSubscription);
    // The number is free again.
    let (stream, _) = subscribe(&mut reader, &request(1, 1 << 20, topic, &[(0, 0)])).await;
    let push: PushedBatches = reader.push(stream).await;
    assert_eq!(values(&push.partitions[0]), ["unseen"]);
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn a_partition_that_cannot_be_streamed_is_refused_and_one_that_vanishes_is_ended() {
    let broker = TestBroker::start().await;
    let mut admin = broker.client().await;
    let mut reader = broker.client().await;
    let topic = admin.create_topic("t", 1).await;
    let (stream, response) = subscribe(&mut reader, &request(1, 1 << 20, topic, &[(0, 0), (4, 0), (0, 9)])).await;
    let codes: Vec<_> =
        response.partitions.iter().map(|(_, _, result)| result.as_ref().err().map(|error| error.code)).collect();
    assert_eq!(codes, [None, Some(ErrorCode::UnknownPartition), Some(ErrorCode::InvalidRequest)]);
    let (_, response) = subscribe(&mut reader, &request(2, 1 << 20, topic, &[(0, 9)])).await;
    assert_eq!(code(response.partitions[0].2.clone()), ErrorCode::OffsetOutOfRange);

    admin.call(&DeleteTopicRequest { name: name("t") }).await.expect("deleted");
    let push: PushedBatches = reader.push(stream).await;
    assert_eq!(code(push.partitions[0].result.clone()), ErrorCode::UnknownTopicId);
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn a_drain_ends_subscriptions() {
    let broker = TestBroker::start().await;
    let mut reader = broker.client().await;
    let topic = reader.create_topic("t", 1).await;
    let (_, _) = subscribe(&mut reader, &request(1, 1 << 20, topic, &[(0, 0)])).await;
    broker.stop().await.expect("within the grace period, although the client does not leave");
    reader.expect_end().await;
}
