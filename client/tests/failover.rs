//! Brokers that die, fall silent, lag behind or hand over: the client finds who serves, and in time.

mod support;

use std::ops::Range;
use std::time::Duration;

use streambus_client::{
    Client, Config, ConsumedRecord, Consumer, ConsumerBuilder, Error, ErrorCode, OutOfRange, Producer, Record, Seek,
    Start, Topic,
};
use streambus_protocol::api::ApiKey;
use support::Cluster;
use tokio::time::Instant;

const ALL: [&str; 3] = ["broker-1:9092", "broker-2:9092", "broker-3:9092"];

async fn cluster() -> (Cluster, Client) {
    let cluster = Cluster::new(3);
    cluster.create("orders", 1);
    let client = cluster.client_with(Config::new(ALL)).await;
    (cluster, client)
}

async fn send(producer: &Producer, value: &str) -> (u64, Duration) {
    let began = Instant::now();
    let position = producer.send(Record::new("orders", value.to_owned())).await.expect("stored");
    (position.offset, began.elapsed())
}

/// Sends `value 0`, `value 1` and so on, those of `numbers`.
async fn send_all(producer: &Producer, numbers: Range<u32>) {
    for number in numbers {
        send(producer, &format!("value {number}")).await;
    }
}

/// Four records, of which the first is of the first leader and the others are of the second one, broker 2.
async fn records_of_two_leaders() -> (Cluster, Client) {
    let (cluster, client) = cluster().await;
    let producer = client.producer();
    send_all(&producer, 0..1).await;
    cluster.lead("orders", 0, 2);
    send_all(&producer, 1..4).await;
    (cluster, client)
}

/// A consumer from the first record on.
fn from_the_first(client: &Client) -> ConsumerBuilder {
    client.consumer(["orders"]).from(Start::Earliest)
}

/// Starts `reader` and reads so many records.
async fn having_read(reader: ConsumerBuilder, records: u32) -> Consumer {
    let mut consumer = reader.start().await.expect("started");
    for _ in 0..records {
        next(&mut consumer).await;
    }
    consumer
}

async fn next(consumer: &mut Consumer) -> (ConsumedRecord, Duration) {
    let began = Instant::now();
    let next = tokio::time::timeout(Duration::from_secs(60), consumer.next()).await.expect("no hang");
    (next.expect("no error").expect("not the end"), began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn bootstrap_waits_for_nobody_who_is_silent() {
    for (silent, dead) in [(1, 2), (2, 3), (3, 1)] {
        let cluster = Cluster::new(3);
        cluster.create("orders", 3);
        cluster.hang(silent);
        cluster.stop(dead);
        let began = Instant::now();
        let client = cluster.client_with(Config::new(ALL)).await;
        client.admin().list_topics().await.expect("answered");
        client.admin().partitions("orders").await.expect("answered");
        client.admin().create_topic("new", Topic::partitions(1)).await.expect("created");
        assert!(began.elapsed() < Duration::from_secs(2), "{:?} with {silent} silent", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_is_asked_of_another_broker_when_one_falls_silent() {
    let (cluster, client) = cluster().await;
    client.admin().list_topics().await.expect("answered");
    for silent in 1..=3 {
        cluster.hang(silent);
        let began = Instant::now();
        client.admin().list_topics().await.expect("answered");
        client.admin().health().await.expect("answered");
        assert!(began.elapsed() < Duration::from_millis(1700), "{:?} with {silent} silent", began.elapsed());
        cluster.start(silent);
    }
}

/// Catches a move to another leader that costs a look at the cluster, or a pause.
#[tokio::test(start_paused = true)]
async fn the_leader_that_a_refusal_names_is_followed_at_once() {
    let (cluster, client) = cluster().await;
    let producer = client.producer();
    let mut consumer = client.consumer(["orders"]).from(Start::Earliest).start().await.expect("started");
    send(&producer, "value 0").await;
    next(&mut consumer).await;
    let looks = cluster.count(ApiKey::Metadata);
    for (n, leader) in [2, 3, 1, 2].into_iter().enumerate() {
        cluster.lead("orders", 0, leader);
        let (offset, took) = send(&producer, "value").await;
        assert_eq!(offset, n as u64 + 1);
        assert!(took < Duration::from_millis(5), "{took:?}");
        let (record, took) = next(&mut consumer).await;
        assert_eq!(record.offset, offset);
        assert!(took < Duration::from_millis(5), "{took:?}");
    }
    assert_eq!(cluster.count(ApiKey::Metadata), looks);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_dies_is_replaced_as_soon_as_there_is_another() {
    let (cluster, client) = cluster().await;
    let producer = client.producer();
    let mut consumer = client.consumer(["orders"]).from(Start::Earliest).start().await.expect("started");
    send(&producer, "value 0").await;
    next(&mut consumer).await;
    for (n, election_ms) in [(1u64, 0), (2, 300), (3, 700), (4, 3000)] {
        let (old, new) = if n % 2 == 1 { (1, 2) } else { (2, 1) };
        cluster.stop(old);
        let electing = async {
            tokio::time::sleep(Duration::from_millis(election_ms)).await;
            cluster.lead("orders", 0, new);
        };
        let ((offset, took), ()) = futures::future::join(send(&producer, "value"), electing).await;
        assert_eq!(offset, n);
        let limit = Duration::from_millis(election_ms + 250);
        assert!(took < limit, "{took:?} for an election of {election_ms} ms");
        let (record, took) = next(&mut consumer).await;
        assert_eq!(record.offset, offset);
        assert!(took < Duration::from_millis(250), "{took:?}");
        cluster.start(old);
    }
}

/// Catches a client that waits for an answer which will never come: no connection breaks here.
#[tokio::test(start_paused = true)]
async fn a_leader_that_falls_silent_is_left_when_the_cluster_has_another() {
    let (cluster, client) = cluster().await;
    let producer = client.producer();
    let mut consumer = client.consumer(["orders"]).from(Start::Earliest).start().await.expect("started");
    send(&producer, "value 0").await;
    next(&mut consumer).await;
    cluster.hang(1);
    let electing = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.lead("orders", 0, 2);
    };
    let ((offset, took), ()) = futures::future::join(send(&producer, "value 1"), electing).await;
    assert_eq!(offset, 1, "the same batch under the same sequence number");
    assert!(took < Duration::from_millis(2600), "{took:?}");
    let (record, took) = next(&mut consumer).await;
    assert_eq!(record.offset, 1);
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(cluster.values("orders", 0), ["value 0", "value 1"]);
}

/// Catches a client that believes whoever it asks: a broker that lags behind names a leader that leads no more.
#[tokio::test(start_paused = true)]
async fn a_broker_that_lags_behind_misleads_nobody() {
    let (cluster, client) = cluster().await;
    cluster.hint(false);
    let producer = client.producer();
    let mut consumer = client.consumer(["orders"]).from(Start::Earliest).start().await.expect("started");
    send(&producer, "value 0").await;
    next(&mut consumer).await;
    for lagging in 1..=3 {
        cluster.lag(lagging);
        for leader in [2, 3, 1] {
            cluster.lead("orders", 0, leader);
            let (offset, took) = send(&producer, "value").await;
            assert!(took < Duration::from_millis(500), "{took:?} with {lagging} lagging");
            let (record, took) = next(&mut consumer).await;
            assert_eq!(record.offset, offset);
            assert!(took < Duration::from_millis(500), "{took:?} with {lagging} lagging");
        }
        cluster.catch_up(lagging);
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_is_missing_when_the_controller_says_so() {
    let (cluster, client) = cluster().await;
    client.producer().send(Record::new("orders", "x")).await.expect("stored");
    cluster.lag(2);
    cluster.lag(3);
    cluster.create("new", 1);
    for address in ALL {
        let client = cluster.client_with(Config::new([address])).await;
        client.producer().send(Record::new("new", "x")).await.expect("the controller knows the topic");
    }
    assert_eq!(cluster.values("new", 0).len(), 3);
    let began = Instant::now();
    let missing = client.producer().send(Record::new("nowhere", "x")).await.expect_err("no such topic");
    assert!(matches!(missing, Error::UnknownTopic { .. }), "{missing}");
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    cluster.stop(1);
    let producer = client.producer();
    let doubt = producer.send(Record::new("nowhere", "x")).timeout(Duration::from_secs(2)).await;
    let doubt = doubt.expect_err("nobody can say");
    assert_eq!(doubt.code(), Some(ErrorCode::NoController), "{doubt}");
}

/// Catches a broker that is left alone for seconds although the cluster says that it leads again.
#[tokio::test(start_paused = true)]
async fn a_broker_that_comes_back_and_leads_is_used_at_once() {
    let (cluster, client) = cluster().await;
    let producer = client.producer();
    send(&producer, "value 0").await;
    cluster.stop(1);
    let waiting = producer.enqueue(Record::new("orders", "value 1")).await.expect("enqueued");
    tokio::time::sleep(Duration::from_secs(20)).await;
    cluster.lead("orders", 0, 2);
    waiting.await.expect("stored");
    cluster.start(1);
    cluster.lead("orders", 0, 1);
    let (_, took) = send(&producer, "value 2").await;
    assert!(took < Duration::from_millis(250), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn one_dead_broker_holds_up_nothing_of_the_others() {
    let cluster = Cluster::new(3);
    cluster.create("orders", 3);
    let client = cluster.client_with(Config::new(ALL)).await;
    let producer = client.producer();
    let to = |partition: u32| producer.send(Record::new("orders", "x").partition(partition));
    for partition in 0..3 {
        to(partition).await.expect("stored");
    }
    cluster.hang(1);
    let stuck = producer.enqueue(Record::new("orders", "x").partition(0)).await.expect("enqueued");
    for _ in 0..50 {
        for partition in 1..3 {
            let began = Instant::now();
            to(partition).await.expect("stored");
            assert!(began.elapsed() < Duration::from_millis(20), "{:?}", began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.start(1);
    stuck.await.expect("stored in the end");
    assert_eq!(cluster.values("orders", 0).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn partitions_that_are_added_are_read_from_their_first_record() {
    for start in [Start::Earliest, Start::Latest] {
        let (cluster, client) = cluster().await;
        let mut consumer = client.consumer(["orders"]).from(start).start().await.expect("started");
        let mut one = client.consumer(["orders"]).partitions([0]).from(start).start().await.expect("started");
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.grow("orders", 3);
        let other = cluster.client().await.producer();
        for partition in 0..3 {
            let record = Record::new("orders", format!("value {partition}")).partition(partition);
            other.send(record).await.expect("stored before the consumer knows the partition");
        }
        let mut values = Vec::new();
        for _ in 0..3 {
            let next = tokio::time::timeout(Duration::from_secs(70), consumer.next()).await.expect("noticed");
            let record = next.expect("no error").expect("not the end");
            values.push((record.partition, record.offset));
        }
        values.sort_unstable();
        assert_eq!(values, [(0, 0), (1, 0), (2, 0)], "{start:?}");
        assert_eq!(consumer.progress().len(), 3);
        next(&mut one).await;
        assert!(tokio::time::timeout(Duration::from_secs(300), one.next()).await.is_err(), "only what was asked for");
    }
}

/// Catches an offset that is reset in silence, and records that are skipped or read twice around a change of leader.
#[tokio::test(start_paused = true)]
async fn an_offset_beyond_the_new_leaders_end_is_an_error_unless_it_comes_to_be() {
    let (cluster, client) = cluster().await;
    let producer = client.producer();
    send_all(&producer, 0..10).await;
    let mut failing = having_read(from_the_first(&client), 10).await;
    let mut resetting = having_read(from_the_first(&client).on_out_of_range(OutOfRange::Earliest), 10).await;
    let mut late = having_read(from_the_first(&client).on_out_of_range(OutOfRange::Latest), 10).await;
    cluster.elect_uncleanly("orders", 0, 2, 4);
    let error = failing.next().await.expect_err("never in silence");
    assert!(matches!(error, Error::OffsetOutOfRange { offset: 10, earliest: 0, latest: 6, .. }), "{error}");
    assert_eq!(next(&mut resetting).await.0.offset, 0);
    tokio::time::sleep(Duration::from_secs(3)).await;
    send(&producer, "after").await;
    assert_eq!(next(&mut late).await.0.offset, 6);
}

#[tokio::test(start_paused = true)]
async fn records_that_were_replaced_behind_the_readers_back_are_told() {
    let (cluster, client) = records_of_two_leaders().await;
    let mut consumer = having_read(from_the_first(&client), 4).await;
    // What has the offsets from 1 on now was written by a leader of an older epoch.
    cluster.replace("orders", 0, 1, 0, 8);
    let error = consumer.next().await.expect_err("told");
    assert!(matches!(error, Error::LogReplaced { offset: 4, .. }), "{error}");
}

/// Catches a consumer that goes on behind its place in a log that lost what it read there: records of two logs in one stream,
/// and some of the second left out.
#[tokio::test(start_paused = true)]
async fn a_new_leader_that_is_past_what_it_lacks_is_noticed() {
    let (cluster, client) = cluster().await;
    send_all(&client.producer(), 0..10).await;
    let mut consumer = having_read(from_the_first(&client), 10).await;
    // Of the ten it has six, and more than ten by the time that anybody asks it.
    cluster.lead("orders", 0, 2);
    cluster.replace("orders", 0, 6, 1, 8);
    let error = consumer.next().await.expect_err("never in silence");
    assert!(matches!(error, Error::LogReplaced { offset: 10, .. }), "{error}");
    consumer.seek(Seek::Offset(6)).await.expect("sought");
    for offset in 6..14 {
        assert_eq!(next(&mut consumer).await.0.offset, offset);
    }
}

/// Catches a consumer that waits for ever for the last record it read, which retention has taken meanwhile, to see it again.
#[tokio::test(start_paused = true)]
async fn a_new_leader_need_not_have_what_retention_took() {
    let (cluster, client) = cluster().await;
    let producer = client.producer();
    send_all(&producer, 0..3).await;
    let mut consumer = having_read(from_the_first(&client), 3).await;
    cluster.trim("orders", 0, 3);
    cluster.lead("orders", 0, 2);
    send(&producer, "after").await;
    assert_eq!(next(&mut consumer).await.0.offset, 3);
}

/// Catches a consumer that begins anew, as it was told to, and takes the older records there for another log's.
#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_set_back_reads_what_older_leaders_wrote() {
    let (cluster, client) = records_of_two_leaders().await;
    let mut consumer = having_read(from_the_first(&client).on_out_of_range(OutOfRange::Earliest), 4).await;
    cluster.elect_uncleanly("orders", 0, 3, 2);
    for offset in 0..2 {
        assert_eq!(next(&mut consumer).await.0.offset, offset);
    }
}
