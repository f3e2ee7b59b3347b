//! The client without `async`: the same calls, from plain threads.

mod support;

use std::time::Duration;

use streambus_client::blocking::Client;
use streambus_client::{
    Config, Ctx, Error, ErrorCode, OffsetQuery, ProducerConfig, Record, Seek, Start, Topic, TopicName, TopicPartition,
    TrySendError,
};
use streambus_protocol::api::ApiKey;
use support::{Cluster, Fault};

fn connected() -> (Cluster, Client) {
    let cluster = Cluster::new(2);
    cluster.create("orders", 1);
    let config = Config::new(["broker-1:9092", "broker-2:9092"]);
    let client = Client::connect_in(config, cluster.environment()).expect("connected");
    (cluster, client)
}

fn at() -> TopicPartition {
    TopicPartition { topic: TopicName::new("orders").expect("valid"), partition: 0 }
}

#[test]
fn every_way_to_send_stores_in_order() {
    let (cluster, client) = connected();
    let producer = client.producer_with(ProducerConfig::new().linger(Duration::from_millis(1))).expect("valid");
    assert_eq!(producer.send(Record::new("orders", "0")).expect("stored").offset, 0);
    let stored = producer.send_within(Record::new("orders", "1"), Duration::from_secs(5)).expect("stored");
    assert_eq!(stored.offset, 1);
    let all = producer.send_all((2..5).map(|n| Record::new("orders", n.to_string()))).expect("in time");
    let offsets: Vec<u64> = all.into_iter().map(|sent| sent.expect("stored").offset).collect();
    assert_eq!(offsets, [2, 3, 4]);
    let waiting = producer.enqueue(Record::new("orders", "5")).expect("enqueued");
    let also = producer.try_enqueue(Record::new("orders", "6")).expect("enqueued");
    assert_eq!(producer.wait(also).expect("stored").offset, 6);
    assert_eq!(producer.wait(waiting).expect("stored").offset, 5);
    drop(producer.try_enqueue(Record::new("orders", "7")).expect("enqueued"));
    producer.flush().expect("flushed");
    let other = producer.clone();
    producer.close().expect("closed");
    assert!(matches!(other.send(Record::new("orders", "x")), Err(Error::Closed)));
    assert!(matches!(other.try_enqueue(Record::new("orders", "x")), Err(TrySendError::Closed(_))));
    assert_eq!(cluster.values("orders", 0), ["0", "1", "2", "3", "4", "5", "6", "7"]);
    assert!(matches!(client.producer().send(Record::new("nowhere", "x")), Err(Error::UnknownTopic { .. })));
}

#[test]
fn reading_is_an_iterator_that_seeks_pauses_and_ends() {
    let (_cluster, client) = connected();
    let producer = client.producer();
    for n in 0..10 {
        producer.send(Record::new("orders", n.to_string())).expect("stored");
    }
    let reader = || client.consumer(["orders"]).from(Start::Earliest).buffer_bytes(1 << 20);
    let offsets: Vec<u64> =
        reader().until_end().start().expect("started").map(|record| record.expect("no error").offset).collect();
    assert_eq!(offsets, (0..10).collect::<Vec<_>>());

    let mut live = reader().partitions([0]).start().expect("started");
    assert_eq!(live.next().expect("not the end").expect("no error").offset, 0);
    live.seek(Seek::Offset(7)).expect("sought");
    let mut batch = Vec::new();
    while batch.len() < 3 {
        batch.extend(live.next_batch(3 - batch.len(), Duration::from_secs(10)).expect("no error"));
    }
    assert_eq!(batch.iter().map(|record| record.offset).collect::<Vec<_>>(), [7, 8, 9]);
    live.seek_partition(&at(), Seek::Beginning).expect("sought");
    live.pause(&[at()]).expect("known");
    assert!(live.next_batch(1, Duration::from_millis(50)).expect("no error").is_empty());
    live.resume(&[at()]).expect("known");
    assert_eq!(live.next().expect("not the end").expect("no error").offset, 0);
    assert_eq!(live.progress()[0].position, 1);
    live.close().expect("closed");
}

#[test]
fn admin_calls_answer_and_errors_are_the_same() {
    let (cluster, client) = connected();
    let admin = client.admin();
    admin.create_topic("new", Topic::partitions(2)).expect("created");
    assert_eq!(admin.list_topics().expect("listed").len(), 2);
    assert!(admin.health().expect("answered").ready);
    let found = admin.list_offsets([(at(), OffsetQuery::Latest)]).expect("found");
    assert_eq!(found[0].1.offset.get(), 0);
    cluster.fault(ApiKey::CreateTopic, Fault::Refuse(ErrorCode::TopicExists));
    let exists = admin.create_topic("new", Topic::partitions(2)).expect_err("refused");
    assert_eq!(exists.code(), Some(ErrorCode::TopicExists));
    cluster.fault(ApiKey::ListTopics, Fault::Silence);
    let (ctx, cancel) = Ctx::background().cancellable();
    cancel.cancel();
    assert!(matches!(client.with(&ctx).admin().list_topics(), Err(Error::Cancelled { .. })));
    client.close();
    assert!(matches!(admin.list_topics(), Err(Error::Closed)));
}

/// Catches a handle that needs the thread it was made on.
#[test]
fn threads_share_one_client() {
    let (cluster, client) = connected();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let client = client.clone();
            scope.spawn(move || {
                let producer = client.producer();
                for n in 0..25 {
                    producer.send(Record::new("orders", format!("{thread} {n}"))).expect("stored");
                }
            });
        }
    });
    let values = cluster.values("orders", 0);
    for thread in 0..4 {
        let own: Vec<_> = values.iter().filter(|value| value.starts_with(&format!("{thread} "))).cloned().collect();
        assert_eq!(own, (0..25).map(|n| format!("{thread} {n}")).collect::<Vec<_>>());
    }
}
