//! Writing and reading: order, acknowledgements, duplicates, waiting.

use std::time::Duration;

use crate::harness::{TestBroker, at, batch, code, fetch_request, flatten, name, produce_request, values, within};
use streambus_protocol::api::encode_request;
use streambus_protocol::api::fetch::FetchResponse;
use streambus_protocol::api::produce::{Acks, InitProducerRequest, ProduceResponse};
use streambus_protocol::api::session::HealthRequest;
use streambus_protocol::api::topics::DeleteTopicRequest;
use streambus_protocol::batch::ProducerStamp;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{CorrelationId, ProducerEpoch, Sequence, TopicId};

#[tokio::test]
async fn records_come_back_in_the_order_in_which_they_were_sent() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic = client.create_topic("t", 1).await;
    // Pipelined: all are sent before the first answer is read.
    let mut bytes = Vec::new();
    for number in 0..50_u32 {
        let request = produce_request(topic, 0, Acks::All, batch(&[&number.to_string()], None));
        bytes.extend(flatten(encode_request(&request, CorrelationId::new(1_000 + number), 0)));
    }
    client.send_bytes(&bytes).await;
    let mut seen = Vec::new();
    for _ in 0..50 {
        let frame = client.receive().await.expect("an answer");
        let number = u64::from(frame.header.correlation.get() - 1_000);
        let response: ProduceResponse = streambus_protocol::api::decode_body(frame).expect("a sound answer");
        assert_eq!(response.partitions[0].result.as_ref().expect("written").base_offset, at(number));
        seen.push(number);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
    let expected: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    assert_eq!(client.values(topic, 0, 0).await, expected);
    broker.stop().await.expect("an orderly stop");
}

// Catches a connection that answers in the order of requests: a parked fetch would hold up every produce behind it.
#[tokio::test]
async fn a_parked_fetch_blocks_nothing_and_wakes_on_the_record() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic = client.create_topic("t", 1).await;
    let parked = client.send(&fetch_request(topic, 0, 0, 60_000)).await;
    assert!(client.call(&HealthRequest {}).await.expect("health").ready);
    let produce = client.send(&produce_request(topic, 0, Acks::All, batch(&["wake"], None))).await;
    let mut answers = Vec::new();
    for _ in 0..2 {
        let frame = client.receive().await.expect("an answer");
        let correlation = frame.header.correlation;
        if correlation == parked {
            let response: FetchResponse = streambus_protocol::api::decode_body(frame).expect("a sound answer");
            assert_eq!(values(&response.partitions[0]), ["wake"]);
        }
        answers.push(correlation);
    }
    answers.sort_unstable();
    assert_eq!(answers, [parked, produce]);
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn a_parked_fetch_ends_at_its_wait_at_its_deadline_and_with_its_topic() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic = client.create_topic("t", 1).await;
    let waited = client.fetch(&fetch_request(topic, 0, 0, 20)).await;
    assert!(values(&waited.partitions[0]).is_empty());
    // The request's own deadline is nearer than the wait it asks for.
    let hurried = client.send_with_timeout(&fetch_request(topic, 0, 0, 60_000), 20).await;
    let response: FetchResponse = client.response(hurried).await.expect("an answer");
    assert!(values(&response.partitions[0]).is_empty());

    let parked = client.send(&fetch_request(topic, 0, 0, 60_000)).await;
    let mut admin = broker.client().await;
    admin.call(&DeleteTopicRequest { name: name("t") }).await.expect("deleted");
    let response: FetchResponse = client.response(parked).await.expect("an answer");
    assert_eq!(code(response.partitions.into_iter().next().expect("one").result), ErrorCode::UnknownTopicId);
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn a_fetch_waits_for_the_bytes_it_wants() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let mut writer = broker.client().await;
    let topic = client.create_topic("t", 1).await;
    let mut request = fetch_request(topic, 0, 0, 60_000);
    request.bytes_min = 150;
    let parked = client.send(&request).await;
    writer.produce(topic, 0, &["one"]).await.expect("written");
    writer.produce(topic, 0, &["two"]).await.expect("written");
    writer.produce(topic, 0, &["three"]).await.expect("written");
    let response: FetchResponse = client.response(parked).await.expect("an answer");
    assert!(values(&response.partitions[0]).len() >= 2, "one batch has fewer than 150 bytes");
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn what_is_not_there_is_refused_by_name() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic = client.create_topic("t", 1).await;
    client.produce(topic, 0, &["a"]).await.expect("written");
    assert_eq!(code(client.produce(TopicId::from_bytes([9; 16]), 0, &["a"]).await), ErrorCode::UnknownTopicId);
    assert_eq!(code(client.produce(topic, 5, &["a"]).await), ErrorCode::UnknownPartition);
    for (partition, offset, expected) in
        [(5, 0, ErrorCode::UnknownPartition), (0, 2, ErrorCode::OffsetOutOfRange), (0, 99, ErrorCode::OffsetOutOfRange)]
    {
        // The wait is long: an error must not be waited for.
        let response = client.fetch(&fetch_request(topic, partition, offset, 60_000)).await;
        assert_eq!(code(response.partitions.into_iter().next().expect("one").result), expected);
    }
    let mut fenced = fetch_request(topic, 0, 0, 0);
    fenced.partitions[0].leader_epoch = LeaderEpoch::new(1_000);
    let response = client.fetch(&fenced).await;
    assert_eq!(code(response.partitions.into_iter().next().expect("one").result), ErrorCode::UnknownLeaderEpoch);
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn a_batch_over_the_topics_limit_is_refused_and_the_limit_is_named() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic = client.create_topic_with("t", 1, &[("max.message.bytes", "500")]).await.expect("a topic").id;
    let long = "x".repeat(600);
    let refused = client.produce(topic, 0, &[&long]).await.expect_err("too large");
    assert_eq!(refused.code, ErrorCode::BatchTooLarge);
    assert!(refused.message.contains("500"), "{refused}");
    client.produce(topic, 0, &["short"]).await.expect("written");
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn acks_none_is_never_answered_and_an_error_closes() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic = client.create_topic("t", 1).await;
    client.send(&produce_request(topic, 0, Acks::None, batch(&["quiet"], None))).await;
    // The next answer is the next request's: nothing came before it.
    assert!(client.call(&HealthRequest {}).await.expect("health").ready);
    let response = client.fetch(&fetch_request(topic, 0, 0, 60_000)).await;
    assert_eq!(values(&response.partitions[0]), ["quiet"]);
    client.send(&produce_request(topic, 7, Acks::None, batch(&["lost"], None))).await;
    client.expect_end().await;
    broker.stop().await.expect("an orderly stop");
}

// Catches a retry that is stored twice, and a gap that is stored at all.
#[tokio::test]
async fn an_idempotent_producer_is_stored_once_and_in_sequence() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic = client.create_topic("t", 1).await;
    let me = client.call(&InitProducerRequest { producer: None }).await.expect("an identity");
    let stamp = |epoch, sequence| Some(ProducerStamp { id: me.id, epoch, base_sequence: Sequence::new(sequence) });
    let first = client.produce_batch(topic, 0, batch(&["a", "b"], stamp(me.epoch, 0))).await.expect("written");
    let second = client.produce_batch(topic, 0, batch(&["c"], stamp(me.epoch, 2))).await.expect("written");
    let again = client.produce_batch(topic, 0, batch(&["a", "b"], stamp(me.epoch, 0))).await.expect("known");
    assert_eq!((first.base_offset, second.base_offset, again.base_offset), (at(0), at(2), at(0)));
    let gap = client.produce_batch(topic, 0, batch(&["e"], stamp(me.epoch, 4))).await;
    assert_eq!(code(gap), ErrorCode::OutOfOrderSequence);
    let newer = ProducerEpoch::new(me.epoch.get() + 1);
    client.produce_batch(topic, 0, batch(&["d"], stamp(newer, 0))).await.expect("a new incarnation");
    let zombie = client.produce_batch(topic, 0, batch(&["z"], stamp(me.epoch, 3))).await;
    assert_eq!(code(zombie), ErrorCode::FencedProducer);
    assert_eq!(client.values(topic, 0, 0).await, ["a", "b", "c", "d"]);

    // What was known is known after a restart.
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    let again = client.produce_batch(topic, 0, batch(&["d"], stamp(newer, 0))).await.expect("known");
    assert_eq!(again.base_offset, at(3));
    assert_eq!(client.values(topic, 0, 0).await, ["a", "b", "c", "d"]);
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn a_partition_named_twice_in_one_request_is_refused() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic = client.create_topic("t", 1).await;
    let mut request = produce_request(topic, 0, Acks::All, batch(&["a"], None));
    request.partitions.extend(produce_request(topic, 0, Acks::All, batch(&["b"], None)).partitions);
    let response = client.call(&request).await.expect("answered");
    assert!(response.partitions[0].result.is_ok());
    assert_eq!(code(response.partitions[1].result.clone()), ErrorCode::InvalidRequest);
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn records_survive_a_restart() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic = client.create_topic("t", 2).await;
    client.produce(topic, 0, &["a", "b"]).await.expect("written");
    client.produce(topic, 1, &["c"]).await.expect("written");
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    assert_eq!(client.values(topic, 0, 0).await, ["a", "b"]);
    assert_eq!(client.values(topic, 1, 0).await, ["c"]);
    assert_eq!(client.produce(topic, 0, &["d"]).await.expect("written").base_offset, at(2));
    broker.stop().await.expect("an orderly stop");
}

// Catches a drain that cuts what it has accepted: every produce that is read before the end is answered.
#[tokio::test]
async fn a_drain_answers_what_is_in_flight_and_ends_what_waits() {
    let broker = TestBroker::start().await;
    let mut producer = broker.client().await;
    let mut consumer = broker.client().await;
    let topic = producer.create_topic("t", 1).await;
    let parked = consumer.send(&fetch_request(topic, 0, 0, 60_000)).await;
    // Answered, so the fetch before it on the same connection has been taken too.
    assert!(consumer.call(&HealthRequest {}).await.expect("health").ready);
    let mut bytes = Vec::new();
    for number in 0..100_u32 {
        let request = produce_request(topic, 0, Acks::All, batch(&[&number.to_string()], None));
        bytes.extend(flatten(encode_request(&request, CorrelationId::new(number), 0)));
    }
    producer.send_bytes(&bytes).await;
    let first = producer.receive().await.expect("an answer");
    assert_eq!(first.header.correlation, CorrelationId::new(0));
    let TestBroker { server, directory } = broker;
    let (stopped, answered) = tokio::join!(server.drain_and_stop(Duration::from_secs(10)), async {
        let mut answered = 1_u64;
        while let Some(frame) = producer.receive().await {
            let response: ProduceResponse = streambus_protocol::api::decode_body(frame).expect("a sound answer");
            assert!(response.partitions[0].result.is_ok(), "{response:?}");
            answered += 1;
        }
        answered
    });
    stopped.expect("within the grace period");
    let response: Result<FetchResponse, _> = consumer.response(parked).await;
    assert!(response.is_ok(), "a parked fetch is answered with what there is");
    consumer.expect_end().await;

    let server = streambus_broker::server::Server::start(
        crate::harness::config(directory.path()),
        streambus_broker::server::BrokerEnv::system(),
    );
    let broker = TestBroker { server: within(server).await.expect("a broker"), directory };
    let mut client = broker.client().await;
    let stored = client.values(topic, 0, 0).await;
    assert!(stored.len() as u64 >= answered, "{answered} acknowledged, {} stored", stored.len());
    broker.stop().await.expect("an orderly stop");
}
