//! What an acknowledgement waits for, and what it says.

use std::time::Duration;

use futures::FutureExt;
use streambus_protocol::api::produce::Acks;
use streambus_protocol::api::replica::ReplicaFetchRequest;
use streambus_protocol::batch::ProducerStamp;
use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, ProducerEpoch, ProducerId, Sequence};
use streambus_protocol::topic_config::Durability;
use streambus_storage::store::Drive;

use crate::world::{World, batch};

const LONG: Duration = Duration::from_secs(60);

// H1. Catches an acknowledgement that counts what a follower has in memory only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_all_waits_for_the_slowest_disk_of_the_in_sync_set() {
    let world = World::with_drives(LONG, &[Drive::Threads, Drive::Threads, Drive::Stepped]).await;
    let leader = world.partition(1);
    let appended = world.append(1, "one", Acks::All).expect("it is appended");
    let next = appended.next;
    let mut committed = Box::pin(appended.committed());
    world
        .until("broker 3 should have the record, and broker 2 and the leader on disk", || {
            let standings = leader.standings(Duration::ZERO);
            standings.iter().all(|replica| replica.log_end == next)
                && standings.iter().filter(|replica| replica.durable_end == next).count() == 2
        })
        .await;
    assert!(committed.as_mut().now_or_never().is_none(), "broker 3 has it in memory only");
    assert!(leader.high_watermark() < next);
    world.step(3);
    world.settle(committed).await.expect("it is committed");
    assert_eq!(leader.high_watermark(), next);
}

// Catches an acknowledgement of a topic that is `sync` by now which counts what a follower has in memory only, because that
// one has not heard of the change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_still_takes_the_topic_for_async_counts_by_its_disk() {
    let world = World::with_drives(LONG, &[Drive::Threads, Drive::Threads, Drive::Stepped]).await;
    world.set_durability(3, Durability::Async);
    let leader = world.partition(1);
    let appended = world.append(1, "one", Acks::All).expect("it is appended");
    let next = appended.next;
    let mut committed = Box::pin(appended.committed());
    world
        .until("broker 3 should have the record, and broker 2 and the leader on disk", || {
            let standings = leader.standings(Duration::ZERO);
            standings.iter().all(|replica| replica.log_end == next)
                && standings.iter().filter(|replica| replica.durable_end == next).count() >= 2
        })
        .await;
    assert!(committed.as_mut().now_or_never().is_none(), "broker 3 has it in memory only");
    world.set_durability(3, Durability::Sync);
    world.set_isr(&[1, 2, 3]);
    world.step(3);
    let receipt = world.settle(committed).await.expect("it is committed");
    assert_eq!((receipt.replicas, receipt.durable), (3, 3));
}

// Catches a repeat, of what was committed while the topic was `async`, that is acknowledged as if disks had been waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_without_disks_is_acknowledged_again_only_with_them() {
    let world = World::with_drives(LONG, &[Drive::Threads, Drive::Threads, Drive::Stepped]).await;
    (1..=3).for_each(|id| world.set_durability(id, Durability::Async));
    let leader = world.partition(1);
    let producer =
        ProducerStamp { id: ProducerId::new(7), epoch: ProducerEpoch::new(0), base_sequence: Sequence::new(0) };
    let append =
        || leader.append(batch("one", Some(producer)), LeaderEpoch::UNKNOWN, Acks::All).expect("it has a place");
    let original = append();
    let next = original.next;
    let receipt = world.settle(original.committed()).await.expect("no disk is waited for");
    assert_eq!((receipt.replicas, receipt.durable), (3, 0));
    (1..=3).for_each(|id| world.set_durability(id, Durability::Sync));
    world.set_isr(&[1, 2, 3]);
    let mut again = Box::pin(append().committed());
    world
        .until("broker 2 and the leader should have it on disk", || {
            leader.standings(Duration::ZERO).iter().filter(|replica| replica.durable_end == next).count() == 2
        })
        .await;
    assert_eq!(leader.high_watermark(), next, "consumers have it");
    assert!(again.as_mut().now_or_never().is_none(), "broker 3 has it in memory only");
    world.step(3);
    let receipt = world.settle(again).await.expect("it is on three disks");
    assert_eq!((receipt.replicas, receipt.durable), (3, 3));
}

// Section 5 and trap 18. Catches an append that could never be committed, and a wait that would never end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_in_sync_replicas_are_told_before_and_after_the_append() {
    let world = World::new(LONG).await;
    world.commit(1, "zero").await;
    world.cut(2);
    world.cut(3);
    let appended = world.append(1, "one", Acks::All).expect("two are in sync");
    let before = world.partition(1).high_watermark();
    world.set_isr(&[1]);
    let after = world.settle(appended.committed()).await.expect_err("too few are left");
    assert_eq!(after.code, ErrorCode::NotEnoughReplicasAfterAppend);
    let refused = world.append(1, "two", Acks::All).expect_err("too few are in sync");
    assert_eq!(refused.code, ErrorCode::NotEnoughReplicas);
    let alone = world.append(1, "three", Acks::Leader).expect("one disk is enough for it");
    world.settle(alone.committed()).await.expect("it is on this disk");
    assert_eq!(world.partition(1).high_watermark(), before, "nothing is committed below min.insync.replicas");
    world.set_isr(&[1, 2, 3]);
    world.heal();
    world.converge().await;
}

// Catches a producer that waits for ever for a leader that leads no more, or takes its record for committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_replaced_does_not_acknowledge() {
    let world = World::new(LONG).await;
    world.commit(1, "zero").await;
    world.cut(1);
    let appended = world.append(1, "lost", Acks::All).expect("it still thinks that it leads");
    world.elect(2).await;
    world.set_isr(&[2, 3]);
    world.commit(2, "one").await;
    world.heal();
    let lost = world.settle(appended.committed()).await.expect_err("another leads");
    assert_eq!(lost.code, ErrorCode::LeadershipLost);
    assert_eq!(lost.leader.map(|hint| hint.leader.get()), Some(2), "the new leader is named");
    world.converge().await;
    assert_eq!(world.bytes(1), world.bytes(2));
}

// I1 and I2 over the real tasks. Catches a set that never shrinks, or never grows again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_in_sync_set_shrinks_without_a_follower_and_grows_with_it() {
    let world = World::new(Duration::from_millis(300)).await;
    world.commit(1, "zero").await;
    world.cut(3);
    let waiting = world.append(1, "one", Acks::All).expect("it is appended");
    world.settle(waiting.committed()).await.expect("it is committed once broker 3 has left");
    assert_eq!(world.isr(), [1, 2]);
    world.heal();
    world.until("broker 3 should join", || world.isr() == [1, 2, 3]).await;
    world.commit(1, "two").await;
    world.converge().await;
}

/// A record that broker 3 copied from leader 1 is on its disk only after 2 leads; if `is_held`, before it has got any answer
/// from the new leader.
async fn synced_under_the_next_leader(is_held: bool) {
    let world = World::with_drives(LONG, &[Drive::Threads, Drive::Threads, Drive::Stepped]).await;
    let next = world.append(1, "one", Acks::All).expect("it is appended").next;
    // Broker 2 too, or its leadership would end the record.
    for id in [2, 3] {
        world.until("the followers should have the record", || world.partition(id).log().log_end() == next).await;
    }
    world.shared.held.send_replace(is_held.then_some(3));
    world.elect(2).await;
    let leader = world.partition(2);
    world
        .until("broker 3 should have fetched from the new leader", || {
            leader.standings(Duration::ZERO).iter().all(|replica| replica.log_end == next)
        })
        .await;
    assert!(leader.high_watermark() < next, "broker 3 has it in memory only");
    world.step(3);
    world.until("broker 3 should have it on disk", || world.partition(3).log().durable_end() == next).await;
    // What is waiting for the disk has its turn before the answer comes.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    world.shared.held.send_replace(None);
    world.until("the new leader should hear of it", || leader.high_watermark() == next).await;
}

// Catches a partition that stands still after a planned move: nothing new is appended while producers repeat what is in
// the log, and what the former leader sent was never said to be on disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_former_leader_sent_counts_once_it_is_on_disk() {
    synced_under_the_next_leader(false).await;
}

// Catches the same while the first fetch from the new leader is still open: there is no session yet to say it in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_gets_on_disk_before_the_session_has_a_number_is_said_too() {
    synced_under_the_next_leader(true).await;
}

// Catches a fetch of a process that is gone, late on its way, that is taken for its successor's: it would end the session of
// the one that lives, and what it says of its disk would count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_of_a_former_life_is_refused_and_disturbs_nobody() {
    let world = World::new(LONG).await;
    world.commit(1, "before").await;
    let late = ReplicaFetchRequest {
        broker: BrokerId::new(3),
        broker_epoch: BrokerEpoch::new(12),
        session: 0,
        sequence: 0,
        wait_ms: 0,
        bytes_max: 1 << 20,
        changed: Vec::new(),
        forgotten: Vec::new(),
    };
    let refused = world.ask_fetch(1, 3, late).await.expect_err("it is of the past");
    assert_eq!(refused.code, ErrorCode::StaleBrokerEpoch, "{refused}");
    world.commit(1, "after").await;
}
