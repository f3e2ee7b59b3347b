//! The consumer against a scripted cluster: every record once, in order, whatever breaks.

mod support;

use std::time::Duration;

use futures::StreamExt;
use streambus_client::{
    Client, Config, ConsumedRecord, Consumer, Ctx, Error, ErrorCode, Record, Seek, Start, TopicPartition,
};
use streambus_protocol::api::ApiKey;
use support::{Cluster, Fault};

async fn filled(partitions: u32, records: u32) -> (Cluster, Client) {
    let cluster = Cluster::new(2);
    cluster.create("orders", partitions);
    let client = cluster.client().await;
    let producer = client.producer();
    for n in 0..records {
        let record = Record::new("orders", format!("value {}", n / partitions)).partition(n % partitions);
        producer.send(record).await.expect("stored");
    }
    producer.close().await.expect("closed");
    (cluster, client)
}

fn at(partition: u32) -> TopicPartition {
    TopicPartition { topic: streambus_client::TopicName::new("orders").expect("valid"), partition }
}

async fn take(consumer: &mut Consumer, count: usize) -> Vec<ConsumedRecord> {
    let mut records = Vec::new();
    for _ in 0..count {
        let next = tokio::time::timeout(Duration::from_secs(60), consumer.next()).await.expect("no hang");
        records.push(next.expect("no error").expect("not the end"));
    }
    records
}

fn assert_whole(records: &[ConsumedRecord], partition: u32, from: u64) {
    let own: Vec<_> = records.iter().filter(|r| r.partition == partition).collect();
    for (expected, record) in (from..).zip(own) {
        assert_eq!(record.offset, expected, "a gap or a duplicate in partition {partition}");
        assert_eq!(record.value.as_deref(), Some(format!("value {expected}").as_bytes()));
    }
}

#[tokio::test(start_paused = true)]
async fn everything_is_read_once_and_in_order_from_every_partition() {
    let (_cluster, client) = filled(3, 30).await;
    let mut consumer = client.consumer(["orders"]).from(Start::Earliest).start().await.expect("started");
    let records = take(&mut consumer, 30).await;
    (0..3).for_each(|partition| assert_whole(&records, partition, 0));
    assert_eq!(consumer.lag(), 0);
    let nothing = consumer.next_batch(10, Duration::from_secs(1)).await.expect("no error");
    assert!(nothing.is_empty() && !consumer.is_ended());
}

#[tokio::test(start_paused = true)]
async fn until_end_ends_where_the_log_ended_when_it_began() {
    let (_cluster, client) = filled(3, 30).await;
    let mut consumer = client.consumer(["orders"]).from(Start::Earliest).until_end().start().await.expect("started");
    client.producer().send(Record::new("orders", "later").partition(0)).await.expect("stored");
    let mut records = Vec::new();
    while let Some(record) = consumer.next().await.expect("no error") {
        records.push(record);
    }
    assert_eq!(records.len(), 30);
    assert!(consumer.is_ended());
    let mut empty = client.consumer(["orders"]).from(Start::Latest).until_end().start().await.expect("started");
    assert!(empty.next().await.expect("no error").is_none(), "nothing to read is the end, not a wait");
}

// Catches a consumer that waits, ends early or fails where compaction has left nothing.
#[tokio::test(start_paused = true)]
async fn what_was_compacted_is_passed_over() {
    for keeps in [|offset: u64| offset % 10 == 3, |offset| offset < 2, |offset| offset == 39, |_| false] {
        let (cluster, client) = filled(1, 40).await;
        cluster.compact("orders", 0, keeps);
        for from in [0, 3, 5, 39] {
            let mut consumer =
                client.consumer(["orders"]).from(Start::Offset(from)).until_end().start().await.expect("started");
            let mut offsets = Vec::new();
            while let Some(record) = consumer.next().await.expect("no error") {
                assert_eq!(record.value.as_deref(), Some(format!("value {}", record.offset).as_bytes()));
                offsets.push(record.offset);
            }
            assert_eq!(offsets, (from..40).filter(|offset| keeps(*offset)).collect::<Vec<_>>(), "from {from}");
            assert_eq!((consumer.position(&at(0)), consumer.lag()), (Some(40), 0));
        }
        client.producer().send(Record::new("orders", "value 40").partition(0)).await.expect("stored");
        let mut consumer = client.consumer(["orders"]).from(Start::Offset(20)).start().await.expect("started");
        let rest = (20..40).filter(|offset| keeps(*offset)).count();
        let records = take(&mut consumer, rest + 1).await;
        assert_eq!(records.last().map(|record| record.offset), Some(40));
    }
}

#[tokio::test(start_paused = true)]
async fn starts_and_seeks_are_exact() {
    let (_cluster, client) = filled(1, 20).await;
    for (start, first) in [(Start::Earliest, 0), (Start::Offset(7), 7), (Start::Tail(5), 15), (Start::Tail(99), 0)] {
        let mut consumer = client.consumer(["orders"]).from(start).start().await.expect("started");
        assert_eq!(take(&mut consumer, 1).await[0].offset, first, "{start:?}");
        consumer.seek(Seek::Offset(3)).await.expect("sought");
        assert_whole(&take(&mut consumer, 4).await, 0, 3);
        consumer.seek(Seek::Beginning).await.expect("sought");
        assert_whole(&take(&mut consumer, 20).await, 0, 0);
        consumer.seek(Seek::End).await.expect("sought");
        assert_eq!(consumer.position(&at(0)), Some(20));
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_partition_rests_and_goes_on_where_it_was() {
    let (_cluster, client) = filled(2, 40).await;
    let mut consumer = client.consumer(["orders"]).from(Start::Earliest).start().await.expect("started");
    let mut records = take(&mut consumer, 5).await;
    consumer.pause(&[at(0)]).expect("known");
    let rest = consumer.next_batch(100, Duration::from_secs(1)).await.expect("no error");
    assert!(rest.iter().all(|record| record.partition == 1));
    records.extend(rest);
    while let Ok(more) = consumer.next_batch(100, Duration::from_secs(1)).await
        && !more.is_empty()
    {
        assert!(more.iter().all(|record| record.partition == 1));
        records.extend(more);
    }
    consumer.resume(&[at(0)]).expect("known");
    let left = 40 - records.len();
    records.extend(take(&mut consumer, left).await);
    (0..2).for_each(|partition| assert_whole(&records, partition, 0));
    assert!(consumer.pause(&[at(9)]).is_err());
}

#[tokio::test(start_paused = true)]
async fn lost_connections_and_moving_leaders_leave_no_gap_and_no_duplicate() {
    let (cluster, client) = filled(2, 40).await;
    let mut consumer = client.consumer(["orders"]).from(Start::Earliest).start().await.expect("started");
    let mut records = Vec::new();
    for round in 0..8u32 {
        records.extend(take(&mut consumer, 5).await);
        match round % 4 {
            0 => cluster.cut(1),
            1 => cluster.cut(2),
            2 => cluster.lead("orders", 0, 1 + round % 2),
            _ => {
                cluster.stop(2);
                tokio::time::sleep(Duration::from_secs(3)).await;
                cluster.start(2);
            }
        }
    }
    (0..2).for_each(|partition| assert_whole(&records, partition, 0));
    assert_eq!(records.len(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_written_now_is_pushed_without_a_poll() {
    let (cluster, client) = filled(1, 1).await;
    let mut consumer = client.consumer(["orders"]).start().await.expect("started");
    let producer = client.producer();
    for n in 1..20 {
        producer.send(Record::new("orders", format!("value {n}"))).await.expect("stored");
        assert_whole(&take(&mut consumer, 1).await, 0, n);
    }
    assert_eq!((cluster.count(ApiKey::Fetch), cluster.count(ApiKey::Subscribe)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn an_application_that_does_not_read_is_sent_its_credit_and_no_more() {
    let cluster = Cluster::new(1);
    cluster.create("orders", 1);
    let client = cluster.client().await;
    let producer = client.producer();
    for _ in 0..200 {
        producer.send(Record::new("orders", vec![1; 10_000])).await.expect("stored");
    }
    let mut consumer =
        client.consumer(["orders"]).from(Start::Earliest).buffer_bytes(256 * 1024).start().await.expect("started");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let pushed = cluster.pushed_bytes();
    assert!((256 * 1024..300 * 1024).contains(&pushed), "{pushed} bytes were pushed to nobody");
    assert_eq!(take(&mut consumer, 200).await.len(), 200, "credit comes back as records are taken");
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_is_read_again_and_one_that_stays_is_reported_once() {
    let (cluster, client) = filled(1, 10).await;
    cluster.fault(ApiKey::Subscribe, Fault::FlipPayload);
    let mut consumer = client.consumer(["orders"]).from(Start::Earliest).start().await.expect("started");
    assert_whole(&take(&mut consumer, 10).await, 0, 0);
    for _ in 0..3 {
        cluster.fault(ApiKey::Subscribe, Fault::FlipPayload);
    }
    let mut consumer = client.consumer(["orders"]).from(Start::Earliest).start().await.expect("started");
    let error = consumer.next().await.expect_err("corrupt");
    assert!(matches!(error, Error::CorruptBatch { offset: 0, .. }), "{error}");
    assert_eq!(error.partition(), Some(at(0)));
    consumer.seek(Seek::Beginning).await.expect("sought");
    assert_whole(&take(&mut consumer, 10).await, 0, 0);
}

#[tokio::test(start_paused = true)]
async fn deleted_records_are_an_error_that_names_what_is_left_and_a_seek_heals() {
    let (cluster, client) = filled(1, 10).await;
    cluster.trim("orders", 0, 6);
    let mut consumer = client.consumer(["orders"]).from(Start::Offset(2)).start().await.expect("started");
    let error = consumer.next().await.expect_err("gone");
    assert!(matches!(error, Error::OffsetOutOfRange { offset: 2, earliest: 6, latest: 10, .. }), "{error}");
    consumer.seek(Seek::Beginning).await.expect("sought");
    assert_whole(&take(&mut consumer, 4).await, 0, 6);
}

#[tokio::test(start_paused = true)]
async fn a_topic_created_anew_is_not_taken_for_the_old_one() {
    let (cluster, client) = filled(1, 3).await;
    let mut consumer = client.consumer(["orders"]).from(Start::Earliest).start().await.expect("started");
    take(&mut consumer, 3).await;
    cluster.delete("orders");
    cluster.create("orders", 1);
    cluster.cut(1);
    let error = consumer.next().await.expect_err("the topic is gone");
    assert!(matches!(error, Error::UnknownTopic { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_broker_is_noticed_and_reading_goes_on() {
    let cluster = Cluster::new(1);
    cluster.create("orders", 1);
    let config = Config::new(["broker-1:9092"]).ping(Duration::from_secs(2), Duration::from_secs(1));
    let client = cluster.client_with(config).await;
    let mut consumer = client.consumer(["orders"]).start().await.expect("started");
    let connects = cluster.connects();
    cluster.fault(ApiKey::Health, Fault::Silence);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(cluster.connects(), connects + 1, "the silent connection was replaced");
    assert!(cluster.count(ApiKey::Health) >= 2);
    client.producer().send(Record::new("orders", "value 0")).await.expect("stored");
    assert_whole(&take(&mut consumer, 1).await, 0, 0);
}

#[tokio::test(start_paused = true)]
async fn as_a_stream_a_channel_and_under_a_context() {
    let (_cluster, client) = filled(1, 10).await;
    let start = || client.consumer(["orders"]).from(Start::Earliest).until_end().start();
    let records: Vec<_> = start().await.expect("started").map(|r| r.expect("no error")).collect().await;
    assert_whole(&records, 0, 0);
    assert_eq!(records.len(), 10);

    let (mut channel, handle) = start().await.expect("started").into_channel(2);
    let mut count = 0;
    while let Some(record) = channel.recv().await {
        record.expect("no error");
        count += 1;
    }
    assert_eq!(count, 10);
    handle.close().await;

    let hasty = client.with(&Ctx::with_timeout(Duration::from_secs(1)));
    let mut consumer = hasty.consumer(["orders"]).start().await.expect("started");
    assert!(consumer.next().await.expect_err("nothing comes").is_timeout());
}

/// Catches bytes of a push that came together with the subscription's answer and were never given back as credit: the
/// broker, out of credit, would say nothing more.
#[tokio::test(start_paused = true)]
async fn a_push_that_comes_with_the_answer_gives_its_credit_back() {
    let cluster = Cluster::new(1);
    cluster.create("orders", 1);
    let client = cluster.client().await;
    let producer = client.producer();
    for _ in 0..3 {
        // Each alone uses up the least credit there is.
        producer.send(Record::new("orders", vec![b'x'; 70_000])).await.expect("stored");
    }
    // Which of the two is seen first is left to chance.
    for _ in 0..16 {
        let consumer = client.consumer(["orders"]).from(Start::Earliest).buffer_bytes(64 * 1024);
        let mut consumer = consumer.start().await.expect("started");
        assert_eq!(take(&mut consumer, 3).await.len(), 3);
    }
}

/// Catches a read of a damaged range that is tried for ever in silence, and subscriptions without a partition that are
/// never ended.
#[tokio::test(start_paused = true)]
async fn a_damaged_range_is_told_after_a_few_tries() {
    let (cluster, client) = filled(1, 10).await;
    cluster.damage("orders", 0, 5);
    let live = client.consumer(["orders"]).from(Start::Earliest).start().await.expect("started");
    let until_end = client.consumer(["orders"]).from(Start::Earliest).until_end().start().await.expect("started");
    for mut consumer in [live, until_end] {
        assert_whole(&take(&mut consumer, 5).await, 0, 0);
        let next = tokio::time::timeout(Duration::from_secs(60), consumer.next()).await.expect("no hang");
        assert_eq!(next.expect_err("damaged").code(), Some(ErrorCode::StorageDamaged));
    }
    assert_eq!(cluster.count(ApiKey::Subscribe), 3);
    assert!(cluster.count(ApiKey::Unsubscribe) >= 2, "what has no partition left is ended");
}

/// Catches a consumer that waits for ever for the leader of a topic that another user found deleted.
#[tokio::test(start_paused = true)]
async fn a_topic_that_somebody_else_found_deleted_is_missing_for_the_consumer_too() {
    let (cluster, client) = filled(1, 1).await;
    let mut consumer = client.consumer(["orders"]).from(Start::Earliest).start().await.expect("started");
    take(&mut consumer, 1).await;
    cluster.delete("orders");
    // The first finds it missing and strikes it off the list; the second's look at the cluster is without it.
    for name in ["orders", "other"] {
        let lost = client.consumer([name]).from(Start::Earliest).start().await;
        assert!(matches!(lost, Err(Error::UnknownTopic { .. })));
    }
    cluster.cut(1);
    cluster.cut(2);
    let next = tokio::time::timeout(Duration::from_secs(60), consumer.next()).await.expect("no hang");
    assert!(matches!(next, Err(Error::UnknownTopic { .. })), "{next:?}");
}
