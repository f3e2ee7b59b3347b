//! What one client may take from the others: connections, memory, patience.

use std::time::Duration;

use crate::harness::{TestBroker, TestClient, fetch_request, flatten};
use streambus_broker::server::StopError;
use streambus_protocol::api::encode_request;
use streambus_protocol::api::session::HealthRequest;
use streambus_protocol::ids::{CorrelationId, TopicId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::task::TaskTracker;

/// Waits for a state of the broker that no answer announces.
async fn until(broker: &TestBroker, connections: usize) {
    crate::harness::within(async {
        while broker.server.connections() != connections {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_places_come_back() {
    let broker = TestBroker::start_with(|config| config.limits.connections_per_ip = 2).await;
    let first = broker.client().await;
    let mut second = broker.client().await;
    let mut third = TestClient::connect_raw(broker.address()).await;
    third.expect_end().await;
    assert!(second.call(&HealthRequest {}).await.expect("health").ready);
    drop(first);
    until(&broker, 1).await;
    let mut fourth = broker.client().await;
    assert!(fourth.call(&HealthRequest {}).await.expect("health").ready);
    broker.stop().await.expect("an orderly stop");
}

/// Fetches of 4 MiB each.
const REQUESTS: usize = 16;

/// Asks for far more than the sockets between broker and client can hold, and reads none of it.
async fn ask_and_do_not_read(broker: &TestBroker) -> (TestClient, TopicId) {
    let mut client = broker.client().await;
    let topic = client.create_topic("large", 1).await;
    let value = "x".repeat(1 << 20);
    for _ in 0..4 {
        client.produce(topic, 0, &[&value[..(1 << 20) - 200]]).await.expect("written");
    }
    let mut request = fetch_request(topic, 0, 0, 0);
    request.bytes_max = 4 << 20;
    request.partitions[0].bytes_max = 4 << 20;
    let frame = encode_request(&request, CorrelationId::new(0), 0);
    for _ in 0..REQUESTS {
        client.send(&request).await;
    }
    // No socket holds half of the answers: once half of the requests are taken, some will stay unanswered.
    crate::harness::within(async {
        while broker.server.request_bytes_in_flight() < frame.len() * REQUESTS / 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    (client, topic)
}

// Catches a write without an end: a client that never reads would keep its answers in memory for ever.
#[tokio::test]
async fn a_client_that_does_not_read_is_cut() {
    let broker = TestBroker::start_with(|config| config.limits.slow_client_grace = Duration::from_millis(200)).await;
    let (slow, topic) = ask_and_do_not_read(&broker).await;
    let mut other = broker.client().await;
    assert_eq!(other.produce(topic, 0, &["next"]).await.expect("written").base_offset, crate::harness::at(4));
    drop(other);
    until(&broker, 0).await;
    drop(slow);
    broker.stop().await.expect("an orderly stop");
}

// Catches a drain that waits for ever, and one that says all was well when it was not.
#[tokio::test]
async fn a_drain_cuts_who_does_not_leave_and_says_so() {
    let broker = TestBroker::start().await;
    let (slow, _) = ask_and_do_not_read(&broker).await;
    let TestBroker { server, directory } = broker;
    let stopped = server.drain_and_stop(Duration::from_millis(100)).await;
    assert!(matches!(stopped, Err(StopError::CutOff { connections: 1 })), "{stopped:?}");
    drop((slow, directory));
}

// Catches a declared length that is charged before it arrives: a few clients that only declare large frames would take
// the budget of all requests until they are cut for their slowness.
#[tokio::test]
async fn declared_lengths_alone_take_nothing_from_others() {
    // Each takes two descriptors here, and 1,024 is a common limit; under the old rule four were enough.
    const DECLARING: usize = 300;
    let broker = TestBroker::start_with(|config| {
        config.limits.connections_per_ip = 2_000;
        // Nobody is cut while the test runs.
        config.limits.slow_client_grace = Duration::from_secs(600);
    })
    .await;
    let mut declaring = Vec::with_capacity(DECLARING);
    for _ in 0..DECLARING {
        let mut client = broker.client().await;
        let length = u32::try_from(streambus_protocol::limits::FRAME_BYTES_MAX - 4).expect("small");
        client.send_bytes(&length.to_le_bytes()).await;
        client.send_bytes(&[0]).await;
        declaring.push(client);
    }
    // Each is admitted, and has charged something, once its length has been read.
    crate::harness::within(async {
        while broker.server.request_bytes_in_flight() < DECLARING * 4 * 1024 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(broker.server.request_bytes_in_flight(), DECLARING * 4 * 1024, "a page each");
    let mut honest = broker.client().await;
    let topic = honest.create_topic("t", 1).await;
    let value = "x".repeat((1 << 20) - 200);
    for _ in 0..4 {
        honest.produce(topic, 0, &[&value]).await.expect("written");
    }
    drop((declaring, honest));
    broker.stop().await.expect("an orderly stop");
}

// Catches a parked fetch that keeps what it has read from disk: a handful of them would take the memory that all reads
// from disk share, and nobody else could read.
#[tokio::test]
async fn parked_fetches_hold_no_memory_of_disk_reads() {
    let broker = TestBroker::start_with(|config| config.storage.tail_cache_bytes = 0).await;
    let mut client = broker.client().await;
    let topic = client.create_topic("large", 1).await;
    let value = "x".repeat((1 << 20) - 200);
    for _ in 0..3 {
        client.produce(topic, 0, &[&value]).await.expect("written");
    }
    let mut parked = fetch_request(topic, 0, 0, 60_000);
    parked.bytes_min = 4 << 20;
    parked.bytes_max = 4 << 20;
    parked.partitions[0].bytes_max = 4 << 20;
    // All wait for more than there is; together they have read more than the budget.
    for _ in 0..8 {
        client.send_with_timeout(&parked, 60_000).await;
    }
    let mut other = broker.client().await;
    for _ in 0..8 {
        assert_eq!(other.values(topic, 0, 2).await.len(), 1);
    }
    drop((client, other));
    broker.stop().await.expect("an orderly stop");
}

// Catches ports, directories or state that two brokers of one process would share.
#[tokio::test]
async fn several_brokers_run_in_one_process() {
    let one = TestBroker::start().await;
    let two = TestBroker::start().await;
    let mut client_one = one.client().await;
    let mut client_two = two.client().await;
    client_one.create_topic("t", 1).await;
    let topic = client_two.create_topic("t", 1).await;
    client_two.produce(topic, 0, &["two"]).await.expect("written");
    one.stop().await.expect("an orderly stop");
    assert_eq!(client_two.values(topic, 0, 0).await, ["two"]);
    two.stop().await.expect("an orderly stop");
}

// Catches a reader that looks whether it should stop only when there is nothing to read: a client that sends without a
// pause would hold up every stop for the whole grace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_pauses_does_not_hold_up_a_stop() {
    let broker = TestBroker::start().await;
    let frame = flatten(encode_request(&HealthRequest {}, CorrelationId::new(1), 0));
    let flood = frame.repeat(1_000);
    let client = broker.client().await;
    let (mut answers, mut requests) = client.stream.into_split();
    let tasks = TaskTracker::new();
    let sending = tasks.spawn(async move { while requests.write_all(&flood).await.is_ok() {} });
    let (answered, mut first_answer) = tokio::sync::mpsc::channel(1);
    let taking = tasks.spawn(async move {
        let mut scratch = vec![0; 256 << 10];
        while answers.read(&mut scratch).await.is_ok_and(|bytes| bytes > 0) {
            let _already_known = answered.try_send(());
        }
    });
    first_answer.recv().await.expect("it is served");
    let stopped = tokio::time::timeout(Duration::from_secs(10), broker.stop()).await;
    stopped.expect("the stop waits for a client that never pauses").expect("an orderly stop");
    sending.await.expect("ends");
    taking.await.expect("ends");
}
