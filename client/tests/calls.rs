//! Calls against brokers that are slow, silent, broken or hostile: every call ends in time, with an error that tells.

mod support;

use std::time::Duration;

use futures::future::join_all;
use proptest::prelude::*;
use streambus_client::{Client, Config, Ctx, Error, ErrorCode, Record, Topic};
use streambus_protocol::api::ApiKey;
use support::{Cluster, Fault};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn answers_come_back_in_any_order() {
    let cluster = Cluster::new(1);
    let admin = cluster.client().await.admin();
    cluster.fault(ApiKey::ListTopics, Fault::Delay(Duration::from_secs(2)));
    let began = Instant::now();
    let slow = async { (admin.list_topics().await.is_ok(), began.elapsed()) };
    let quick = async { (admin.health().await.is_ok(), began.elapsed()) };
    let ((slow_ok, slow_at), (quick_ok, quick_at)) = futures::future::join(slow, quick).await;
    assert!(slow_ok && quick_ok);
    assert!(quick_at < Duration::from_secs(1) && slow_at >= Duration::from_secs(2), "{quick_at:?} {slow_at:?}");
    assert_eq!(cluster.connects(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_broker_ends_a_call_in_time_and_the_deadline_travels() {
    let cluster = Cluster::new(1);
    let admin = cluster.client().await.admin();
    cluster.fault(ApiKey::ListTopics, Fault::Silence);
    let began = Instant::now();
    let error = admin.list_topics().timeout(Duration::from_millis(300)).await.expect_err("silence");
    assert!(matches!(error, Error::Timeout { op: "list_topics", attempts: 1, .. }), "{error:?}");
    assert!(!error.is_outcome_unknown(), "a read leaves nothing in doubt");
    assert_eq!(began.elapsed(), Duration::from_millis(300));
    assert_eq!(cluster.timeouts(ApiKey::ListTopics), [300]);

    cluster.fault(ApiKey::CreateTopic, Fault::Silence);
    let error =
        admin.create_topic("t", Topic::partitions(1)).timeout(Duration::from_secs(1)).await.expect_err("silence");
    assert!(error.is_timeout() && error.is_outcome_unknown(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_context_ends_calls_at_once() {
    let cluster = Cluster::new(1);
    let (ctx, cancel) = Ctx::background().cancellable();
    let admin = cluster.client().await.with(&ctx).admin();
    cluster.fault(ApiKey::ListTopics, Fault::Silence);
    let call = admin.list_topics();
    let stop = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cancel.cancel();
    };
    let (outcome, ()) = futures::future::join(call, stop).await;
    assert!(matches!(outcome, Err(Error::Cancelled { op: "list_topics", .. })));
}

#[tokio::test(start_paused = true)]
async fn reads_survive_what_breaks_and_changes_in_doubt_are_not_repeated() {
    let cluster = Cluster::new(1);
    let admin = cluster.client().await.admin();
    for fault in [Fault::LoseRequest, Fault::LoseAnswer, Fault::Refuse(ErrorCode::NotReady)] {
        cluster.fault(ApiKey::ListTopics, fault);
        admin.list_topics().await.expect("asked again");
    }
    cluster.fault(ApiKey::CreateTopic, Fault::Refuse(ErrorCode::NoController));
    admin.create_topic("a", Topic::partitions(1)).await.expect("certainly not done, so done again");
    cluster.fault(ApiKey::CreateTopic, Fault::LoseAnswer);
    let error = admin.create_topic("b", Topic::partitions(1)).await.expect_err("in doubt");
    assert!(error.is_outcome_unknown(), "{error}");
    assert_eq!(cluster.count(ApiKey::CreateTopic), 3);
}

#[tokio::test(start_paused = true)]
async fn whatever_a_hostile_broker_says_the_next_connection_serves() {
    let cluster = Cluster::new(1);
    let admin = cluster.client().await.admin();
    let huge = vec![0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0];
    let broken_checksum = {
        let mut bytes = vec![0; 24];
        bytes[0] = 20;
        bytes
    };
    for fault in
        [Fault::Bytes(huge), Fault::Bytes(broken_checksum), Fault::Bytes(vec![0; 100]), Fault::WrongCorrelation]
    {
        cluster.fault(ApiKey::ListTopics, fault.clone());
        let listed = admin.list_topics().await;
        assert!(listed.is_ok(), "{fault:?}: {listed:?}");
    }
    cluster.fault(ApiKey::CreateTopic, Fault::WrongCorrelation);
    let error = admin.create_topic("t", Topic::partitions(1)).await.expect_err("in doubt");
    assert!(matches!(error, Error::Protocol { .. }) && error.is_outcome_unknown(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn any_bootstrap_address_suffices_and_none_is_told_plainly() {
    let cluster = Cluster::new(2);
    cluster.stop(1);
    cluster.client_with(Config::new(["broker-1:9092", "broker-9:9092", "broker-2:9092"])).await;
    cluster.stop(2);
    let refused = Client::connect_in(Config::new(["broker-1:9092"]), cluster.environment()).await;
    assert!(matches!(refused, Err(Error::Io { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_dead_broker_is_not_hammered() {
    let cluster = Cluster::new(1);
    let admin = cluster.client().await.admin();
    cluster.stop(1);
    let before = cluster.connects();
    let calls = (0..20).map(|_| admin.list_topics().timeout(Duration::from_secs(30)));
    let outcomes = join_all(calls).await;
    assert!(outcomes.iter().all(|outcome| outcome.as_ref().is_err_and(Error::is_timeout)));
    let attempts = cluster.connects() - before;
    assert!(attempts < 40, "{attempts} attempts to connect for twenty callers in 30 s");
}

#[tokio::test(start_paused = true)]
async fn closing_ends_what_waits() {
    let cluster = Cluster::new(1);
    let client = cluster.client().await;
    cluster.fault(ApiKey::ListTopics, Fault::Silence);
    let admin = client.admin();
    let (outcome, ()) = futures::future::join(admin.list_topics(), client.close()).await;
    assert!(outcome.is_err());
    assert!(matches!(admin.health().await, Err(Error::Closed)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Catches a panic, a hang or an allocation bomb in everything that reads what a broker says.
    #[test]
    fn random_bytes_end_every_call_in_time(
        answers in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 1..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        runtime.block_on(async {
            let cluster = Cluster::new(1);
            let client = cluster.client().await;
            for bytes in answers {
                cluster.fault(ApiKey::ListTopics, Fault::Bytes(bytes));
            }
            let began = Instant::now();
            let _ = client.admin().list_topics().await;
            assert!(began.elapsed() <= Duration::from_secs(10));
            cluster.heal();
            // Half a frame may have swallowed the next answer: a connection that owes one for too long is replaced.
            let mut healed = false;
            for _ in 0..4 {
                healed = healed || client.admin().list_topics().await.is_ok();
            }
            assert!(healed, "the client never recovered");
        });
    }
}

/// Catches a change under way that is called "not applied" because the client was closed.
#[tokio::test(start_paused = true)]
async fn closing_leaves_the_outcome_of_what_was_sent_unknown() {
    let cluster = Cluster::new(1);
    cluster.create("orders", 1);
    let client = cluster.client().await;
    let (admin, producer) = (client.admin(), client.producer());
    producer.send(Record::new("orders", "first")).await.expect("stored");
    cluster.fault(ApiKey::CreateTopic, Fault::Silence);
    cluster.fault(ApiKey::ListTopics, Fault::Silence);
    cluster.fault(ApiKey::Produce, Fault::Silence);
    let close = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.close().await;
    };
    let record = producer.send(Record::new("orders", "second"));
    let create = admin.create_topic("t", Topic::partitions(1));
    let (created, listed, sent, ()) = futures::join!(create, admin.list_topics(), record, close);
    let error = created.expect_err("closed");
    assert!(error.is_outcome_unknown(), "{error:?}");
    let error = sent.expect_err("closed");
    assert!(error.is_outcome_unknown(), "{error:?}");
    assert!(matches!(listed, Err(Error::Closed)), "{listed:?}");
}
