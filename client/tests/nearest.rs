//! Reading from a replica in the reader's rack, and from the leader when that fails.

mod support;

use std::time::Duration;

use streambus_client::{Client, Config, Consumer, Record, Start};
use support::Cluster;

const ALL: [&str; 3] = ["broker-1:9092", "broker-2:9092", "broker-3:9092"];

/// A topic led by broker 1, of which broker 2 in rack `a` knows all; and a client in rack `a`.
async fn cluster(records: u64) -> (Cluster, Client) {
    let cluster = Cluster::new(3);
    cluster.create("orders", 1);
    cluster.lead("orders", 0, 1);
    let client = cluster.client_with(Config::new(ALL).rack("a")).await;
    for n in 0..records {
        send(&client, n).await;
    }
    cluster.stand(2, "a", u64::MAX);
    (cluster, client)
}

async fn send(client: &Client, n: u64) {
    client.producer().send(Record::new("orders", n.to_string())).await.expect("stored");
}

async fn read(consumer: &mut Consumer, offsets: std::ops::Range<u64>) {
    for expected in offsets {
        let next = tokio::time::timeout(Duration::from_secs(90), consumer.next()).await.expect("no hang");
        let record = next.expect("no error").expect("not the end");
        assert_eq!((record.offset, record.value), (expected, Some(expected.to_string().into())));
    }
}

async fn start(client: &Client, from: Start) -> Consumer {
    client.consumer(["orders"]).from(from).start().await.expect("started")
}

// Catches a consumer that reads from the leader whatever its rack, in both ways of reading.
#[tokio::test(start_paused = true)]
async fn records_come_from_the_replica_in_the_rack() {
    let (cluster, client) = cluster(5).await;
    let mut stream = start(&client, Start::Earliest).await;
    read(&mut stream, 0..5).await;
    send(&client, 5).await;
    read(&mut stream, 5..6).await;
    let mut bounded = client.consumer(["orders"]).from(Start::Earliest).until_end().start().await.expect("started");
    read(&mut bounded, 0..6).await;
    assert!(bounded.next().await.expect("no error").is_none());
    assert_eq!(cluster.served(1), 0, "the leader served records");
    assert!(cluster.served(2) > 0);
    let elsewhere = cluster.client_with(Config::new(ALL).rack("b")).await;
    read(&mut start(&elsewhere, Start::Earliest).await, 0..6).await;
    assert!(cluster.served(1) > 0, "nobody stands in rack b");
}

// Catches a reader that stays with a dead replica, and one that loses or repeats a record on its way to the leader.
#[tokio::test(start_paused = true)]
async fn the_leader_goes_on_when_the_near_replica_fails() {
    let (cluster, client) = cluster(3).await;
    let mut consumer = start(&client, Start::Earliest).await;
    read(&mut consumer, 0..3).await;
    cluster.stop(2);
    send(&client, 3).await;
    read(&mut consumer, 3..4).await;
    assert!(cluster.served(1) > 0);
    // A while later it is asked again who is near.
    cluster.start(2);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let before = cluster.served(1);
    send(&client, 4).await;
    read(&mut consumer, 4..5).await;
    assert_eq!(cluster.served(1), before, "the near replica is back");
}

// Catches a reader that stays with the leader for ever because nobody near was in sync when it came.
#[tokio::test(start_paused = true)]
async fn a_replica_that_comes_into_sync_later_is_found() {
    let (cluster, client) = cluster(1).await;
    cluster.stand(2, "elsewhere", u64::MAX);
    let mut consumer = start(&client, Start::Earliest).await;
    read(&mut consumer, 0..1).await;
    assert_eq!(cluster.served(2), 0);
    cluster.stand(2, "a", u64::MAX);
    tokio::time::sleep(Duration::from_secs(90)).await;
    let before = cluster.served(1);
    send(&client, 1).await;
    read(&mut consumer, 1..2).await;
    assert_eq!(cluster.served(1), before);
    assert!(cluster.served(2) > 0);
}

// Catches a consumer that goes back, or takes what a follower does not have for lost.
#[tokio::test(start_paused = true)]
async fn a_replica_that_knows_less_is_left_and_nothing_goes_back() {
    let (cluster, client) = cluster(5).await;
    let mut consumer = start(&client, Start::Earliest).await;
    read(&mut consumer, 0..5).await;
    cluster.stand(2, "a", 2);
    cluster.cut(2);
    send(&client, 5).await;
    read(&mut consumer, 5..6).await;
    let progress = consumer.progress();
    assert!(progress.iter().all(|at| at.high_watermark >= Some(5)), "{progress:?}");
    assert!(cluster.served(1) > 0);
}
