//! The producer against a scripted cluster: what is acknowledged is stored once, in order, whatever breaks.

mod support;

use std::time::Duration;

use futures::future::join_all;
use streambus_client::{
    Acks, Client, Compression, Config, Ctx, Error, ErrorCode, Partitioner, Position, ProducerConfig, Record,
    TrySendError,
};
use streambus_protocol::api::ApiKey;
use support::{Cluster, Fault};
use tokio::time::Instant;

async fn cluster(partitions: u32) -> (Cluster, Client) {
    let cluster = Cluster::new(2);
    cluster.create("orders", partitions);
    let client = cluster.client().await;
    (cluster, client)
}

fn numbered(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("value {i}")).collect()
}

#[tokio::test(start_paused = true)]
async fn send_tells_offset_and_receipt() {
    let (cluster, client) = cluster(1).await;
    let producer = client.producer();
    for expected in 0..3 {
        let position = producer.send(Record::new("orders", format!("value {expected}"))).await.expect("stored");
        assert_eq!((position.topic.as_str(), position.partition, position.offset), ("orders", 0, expected));
        assert_eq!(position.receipt.durable, 1);
        assert!(position.timestamp.as_millis() > 0);
    }
    producer.close().await.expect("closed");
    assert_eq!(cluster.values("orders", 0), numbered(3));
}

#[tokio::test(start_paused = true)]
async fn what_is_enqueued_together_shares_batches_and_keeps_its_order() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let (cluster, client) = cluster(1).await;
        let producer = client.producer_with(ProducerConfig::new().compression(compression)).expect("valid");
        let sent =
            producer.send_all(numbered(1000).into_iter().map(|v| Record::new("orders", v))).await.expect("in time");
        let offsets: Vec<u64> = sent.into_iter().map(|p| p.expect("stored").offset).collect();
        assert_eq!(offsets, (0..1000).collect::<Vec<u64>>());
        assert_eq!(cluster.values("orders", 0), numbered(1000));
        assert!(cluster.batch_count("orders", 0) < 20, "{} batches", cluster.batch_count("orders", 0));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_after_the_effect_is_asked_for_again_and_nothing_is_stored_twice() {
    let (cluster, client) = cluster(1).await;
    let producer = client.producer();
    for n in 0..20 {
        if n % 3 == 0 {
            cluster.fault(ApiKey::Produce, if n % 2 == 0 { Fault::LoseAnswer } else { Fault::LoseRequest });
        }
        let position = producer.send(Record::new("orders", format!("value {n}"))).await.expect("stored");
        assert_eq!(position.offset, n);
    }
    assert_eq!(cluster.values("orders", 0), numbered(20));
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_faults_under_pipelined_load_loses_duplicates_and_reorders_nothing() {
    let (cluster, client) = cluster(1).await;
    let producer = client.producer_with(ProducerConfig::new().batch_bytes(1024)).expect("valid");
    producer.send(Record::new("orders", "value 0")).await.expect("stored");
    let mut deliveries = Vec::new();
    for n in 1..2000 {
        if n % 97 == 0 {
            let faults = [
                Fault::LoseAnswer,
                Fault::Refuse(ErrorCode::NotEnoughReplicas),
                Fault::LoseRequest,
                Fault::Refuse(ErrorCode::Timeout),
                Fault::Delay(Duration::from_millis(30)),
            ];
            cluster.fault(ApiKey::Produce, faults[n / 97 % faults.len()].clone());
        }
        deliveries.push(producer.enqueue(Record::new("orders", format!("value {n}"))).await.expect("enqueued"));
        if n % 10 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for (n, outcome) in join_all(deliveries).await.into_iter().enumerate() {
        assert_eq!(outcome.expect("stored").offset, n as u64 + 1);
    }
    assert_eq!(cluster.values("orders", 0), numbered(2000));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_moves_is_followed() {
    let (cluster, client) = cluster(1).await;
    let producer = client.producer();
    producer.send(Record::new("orders", "value 0")).await.expect("stored");
    cluster.lead("orders", 0, 2);
    let position = producer.send(Record::new("orders", "value 1")).await.expect("stored by the new leader");
    assert_eq!(position.offset, 1);
    cluster.stop(1);
    producer.send(Record::new("orders", "value 2")).await.expect("the bootstrap broker is not needed");
    assert_eq!(cluster.values("orders", 0), numbered(3));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_comes_back_gets_what_waited() {
    let (cluster, client) = cluster(1).await;
    let producer = client.producer();
    producer.send(Record::new("orders", "value 0")).await.expect("stored");
    cluster.stop(1);
    let waiting = producer.enqueue(Record::new("orders", "value 1")).await.expect("enqueued");
    tokio::time::sleep(Duration::from_secs(20)).await;
    let attempts = cluster.connects();
    assert!(attempts < 200, "{attempts} attempts to connect in 20 s");
    cluster.start(1);
    assert_eq!(waiting.await.expect("stored").offset, 1);
}

#[tokio::test(start_paused = true)]
async fn a_batch_refused_for_good_fails_alone() {
    let (cluster, client) = cluster(1).await;
    let producer = client.producer();
    producer.send(Record::new("orders", "value 0")).await.expect("stored");
    cluster.fault(ApiKey::Produce, Fault::Refuse(ErrorCode::BatchTooLarge));
    let error = producer.send(Record::new("orders", "refused")).await.expect_err("refused");
    assert_eq!(error.code(), Some(ErrorCode::BatchTooLarge));
    assert!(!error.is_outcome_unknown());
    for n in 1..4 {
        let position = producer.send(Record::new("orders", format!("value {n}"))).await.expect("under a new epoch");
        assert_eq!(position.offset, n);
    }
    assert_eq!(cluster.values("orders", 0), numbered(4));
}

#[tokio::test(start_paused = true)]
async fn the_delivery_timeout_names_attempts_and_cause_and_says_what_is_unknown() {
    let cluster = Cluster::new(1);
    cluster.create("orders", 1);
    let config = Config::new(["broker-1:9092"]).delivery_timeout(Duration::from_secs(30));
    let client = cluster.client_with(config).await;
    let producer = client.producer();
    producer.send(Record::new("orders", "first")).await.expect("stored");
    for _ in 0..1000 {
        cluster.fault(ApiKey::Produce, Fault::Refuse(ErrorCode::NotEnoughReplicas));
    }
    let began = Instant::now();
    let error = producer.send(Record::new("orders", "a")).await.expect_err("times out");
    assert!(began.elapsed() <= Duration::from_secs(31), "{:?}", began.elapsed());
    match &error {
        Error::Timeout { attempts, last: Some(last), .. } => {
            assert!(*attempts > 3, "{attempts}");
            assert_eq!(last.code(), Some(ErrorCode::NotEnoughReplicas));
        }
        other => panic!("{other}"),
    }
    assert!(!error.is_outcome_unknown(), "every refusal said that nothing was stored");
    cluster.heal();
    cluster.fault(ApiKey::Produce, Fault::Silence);
    for _ in 0..1000 {
        cluster.fault(ApiKey::Produce, Fault::Silence);
    }
    let error = producer.send(Record::new("orders", "b")).await.expect_err("times out");
    assert!(error.is_timeout() && error.is_outcome_unknown(), "{error}");
    cluster.heal();
    producer.send(Record::new("orders", "c")).await.expect("the producer goes on");
}

#[tokio::test(start_paused = true)]
async fn a_call_may_be_given_less_time_and_leaves_the_record_to_be_sent() {
    let (cluster, client) = cluster(1).await;
    let producer = client.producer();
    producer.send(Record::new("orders", "value 0")).await.expect("stored");
    cluster.fault(ApiKey::Produce, Fault::Delay(Duration::from_secs(1)));
    let error =
        producer.send(Record::new("orders", "value 1")).timeout(Duration::from_millis(200)).await.expect_err("late");
    assert!(matches!(error, Error::Timeout { op: "send", attempts: 1, .. }), "{error:?}");
    assert!(error.is_outcome_unknown());
    let (ctx, cancel) = Ctx::background().cancellable();
    let cancelled = producer.send(Record::new("orders", "never")).ctx(&ctx);
    cancel.cancel();
    assert!(matches!(cancelled.await, Err(Error::Cancelled { .. })));
    producer.flush().await.expect("flushed");
    assert_eq!(cluster.values("orders", 0)[..2], numbered(2)[..]);
}

#[tokio::test(start_paused = true)]
async fn a_full_buffer_holds_back_and_dropped_deliveries_still_count() {
    let (cluster, client) = cluster(1).await;
    let config = ProducerConfig::new().buffer_bytes(64 * 1024).record_bytes_max(16 * 1024);
    let producer = client.producer_with(config).expect("valid");
    producer.send(Record::new("orders", "first")).await.expect("stored");
    cluster.fault(ApiKey::Produce, Fault::Delay(Duration::from_secs(5)));
    let record = || Record::new("orders", vec![7; 8 * 1024]);
    let mut taken = 0;
    let full = loop {
        match producer.try_enqueue(record()) {
            Ok(delivery) => drop(delivery),
            Err(error) => break error,
        }
        taken += 1;
    };
    assert!(matches!(full, TrySendError::Full(_)), "{full}");
    assert_eq!(taken, 7, "64 KiB hold seven records of 8 KiB and their overhead");
    let began = Instant::now();
    let waited = producer.enqueue(record()).await.expect("room came");
    assert!(began.elapsed() >= Duration::from_secs(4), "it waited for the answer: {:?}", began.elapsed());
    waited.await.expect("stored");
    let (ctx, cancel) = Ctx::background().cancellable();
    cancel.cancel();
    drop(producer.with(&ctx));
    producer.close().await.expect("closed");
}

#[tokio::test(start_paused = true)]
async fn what_can_never_be_stored_is_refused_at_once() {
    let (_cluster, client) = cluster(2).await;
    let producer = client.producer();
    let unknown = producer.send(Record::new("nowhere", "x")).await.expect_err("no such topic");
    assert!(matches!(&unknown, Error::UnknownTopic { topic } if topic == "nowhere"), "{unknown}");
    let partition = producer.send(Record::new("orders", "x").partition(9)).await.expect_err("no such partition");
    assert_eq!(partition.partition().expect("names it").partition, 9);
    let large = producer.send(Record::new("orders", vec![0; 2 << 20])).await.expect_err("too large");
    assert!(matches!(large, Error::RecordTooLarge { .. }), "{large}");
    let name = producer.send(Record::new("no/slash", "x")).await.expect_err("no name");
    assert!(matches!(name, Error::Invalid { .. }), "{name}");
    let other = producer.clone();
    producer.close().await.expect("closed");
    assert!(matches!(other.send(Record::new("orders", "x")).await, Err(Error::Closed)));
    assert!(matches!(other.try_enqueue(Record::new("orders", "x")), Err(TrySendError::Closed(_))));
}

#[tokio::test(start_paused = true)]
async fn try_enqueue_finds_the_topic_in_the_background() {
    let (cluster, client) = cluster(1).await;
    let producer = client.producer();
    assert!(matches!(producer.try_enqueue(Record::new("orders", "x")), Err(TrySendError::NotReady(_))));
    tokio::time::sleep(Duration::from_millis(10)).await;
    producer.try_enqueue(Record::new("orders", "x")).expect("known by now").await.expect("stored");
    assert_eq!(cluster.values("orders", 0), ["x"]);
}

#[tokio::test(start_paused = true)]
async fn keys_keep_their_partition_and_records_without_a_key_spread() {
    for partitioner in [Partitioner::Murmur2, Partitioner::Ring] {
        let (_cluster, client) = cluster(8).await;
        let producer = client.producer_with(ProducerConfig::new().partitioner(partitioner)).expect("valid");
        let place = |key: &str| producer.send(Record::new("orders", "x").key(key.to_owned()));
        let first = place("customer-7").await.expect("stored").partition;
        for _ in 0..5 {
            assert_eq!(place("customer-7").await.expect("stored").partition, first);
        }
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..16 {
            seen.insert(producer.send(Record::new("orders", "x")).await.expect("stored").partition);
        }
        assert_eq!(seen.len(), 8, "one batch each, so one partition after the other");
    }
}

#[tokio::test(start_paused = true)]
async fn without_acknowledgement_nothing_is_awaited() {
    let (cluster, client) = cluster(1).await;
    let producer = client.producer_with(ProducerConfig::new().acks(Acks::None)).expect("valid");
    let position = producer.send(Record::new("orders", "value 0")).await.expect("sent");
    assert_eq!(position.offset, Position::OFFSET_UNKNOWN);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(cluster.values("orders", 0), numbered(1));
    assert_eq!(cluster.count(ApiKey::InitProducer), 0);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_producer_still_sends_what_was_enqueued() {
    let (cluster, client) = cluster(1).await;
    let producer = client.producer_with(ProducerConfig::new().linger(Duration::from_secs(1))).expect("valid");
    producer.send(Record::new("orders", "value 0")).await.expect("stored after the linger");
    drop(producer.enqueue(Record::new("orders", "value 1")).await.expect("enqueued"));
    drop((producer, client));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(cluster.values("orders", 0), numbered(2));
}

#[tokio::test(start_paused = true)]
async fn the_trace_of_a_context_travels_as_a_header() {
    let (_cluster, client) = cluster(1).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let producer = client.with(&Ctx::background().trace_parent(trace)).producer();
    producer.send(Record::new("orders", "x")).await.expect("stored");
    let mut consumer =
        client.consumer(["orders"]).from(streambus_client::Start::Earliest).start().await.expect("started");
    let record = consumer.next().await.expect("read").expect("one");
    assert_eq!(record.header("traceparent").map(|v| &v[..]), Some(trace.as_bytes()));
}

#[tokio::test(start_paused = true)]
async fn a_hundred_first_sends_share_one_look_at_the_cluster() {
    let (cluster, client) = cluster(4).await;
    let before = cluster.count(ApiKey::Metadata);
    let producer = client.producer();
    let sends = (0..100).map(|n| producer.send(Record::new("orders", format!("{n}"))));
    assert!(join_all(sends).await.into_iter().all(|outcome| outcome.is_ok()));
    assert_eq!(cluster.count(ApiKey::Metadata) - before, 1);
    assert_eq!(cluster.count(ApiKey::InitProducer), 1);
    assert_eq!(cluster.connects(), 2, "one connection per broker");
}

/// Catches a sequence that begins anew under the same identity: the broker takes the batch for one it has, acknowledges
/// it and stores nothing.
#[tokio::test(start_paused = true)]
async fn a_topic_that_was_out_of_sight_takes_records_under_a_newer_identity() {
    let (cluster, client) = cluster(1).await;
    let producer = client.producer();
    producer.send(Record::new("orders", "value 0")).await.expect("stored");
    let show = cluster.hide("orders");
    producer.send(Record::new("orders", "lost")).await.expect_err("no such topic");
    show();
    producer.send(Record::new("orders", "value 1")).await.expect("stored");
    assert_eq!(cluster.values("orders", 0), numbered(2));
}

/// Catches batches of a topic that was deleted and created anew under a running producer, sent to the new one under their
/// old sequence numbers and out of order: a broker that does not know the producer takes any of them as its first.
#[tokio::test(start_paused = true)]
async fn a_topic_created_anew_takes_what_was_under_way_in_order() {
    let long = |n: usize| format!("{n:0400}");
    // Which request is refused decides whether the next one overtakes it.
    for refused in 0..30 {
        let (cluster, client) = cluster(1).await;
        let producer = client.producer_with(ProducerConfig::new().batch_bytes(1024)).expect("valid");
        producer.send(Record::new("orders", long(0))).await.expect("stored");
        (0..refused).for_each(|_| cluster.fault(ApiKey::Produce, Fault::Delay(Duration::from_millis(1))));
        cluster.fault(ApiKey::Produce, Fault::Refuse(ErrorCode::NotEnoughReplicas));
        let mut deliveries = Vec::new();
        for n in 1..40 {
            if n == 10 {
                cluster.delete("orders");
                cluster.create("orders", 1);
            }
            deliveries.push(producer.enqueue(Record::new("orders", long(n))).await.expect("enqueued"));
            tokio::task::yield_now().await;
        }
        for delivery in deliveries {
            delivery.await.expect("stored in one or the other");
        }
        let values = cluster.values("orders", 0);
        let first = 40 - values.len();
        assert_eq!(values, (first..40).map(long).collect::<Vec<_>>(), "request {refused} was refused");
        assert!(first <= 10, "what was enqueued after the deletion is in the new topic");
    }
}
