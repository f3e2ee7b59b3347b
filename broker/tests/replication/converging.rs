//! Logs that differed become equal, byte for byte.

use std::sync::atomic::Ordering;
use std::time::Duration;

use streambus_protocol::api::produce::Acks;
use streambus_protocol::batch::ProducerStamp;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{ProducerEpoch, ProducerId, Sequence};
use streambus_protocol::offset::Offset;

use crate::world::{World, batch};

const LONG: Duration = Duration::from_secs(60);

fn assert_equal(world: &World) {
    let leader = world.bytes(1);
    assert!(!leader.is_empty());
    for id in [2, 3] {
        assert!(world.bytes(id) == leader, "broker {id} differs from broker 1");
    }
}

// F5. Catches a follower that keeps what its leader never had, or cuts too much.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn divergent_tails_of_two_leaderships_converge() {
    let world = World::new(LONG).await;
    world.commit(1, "common").await;
    world.cut(1);
    for n in 0..5 {
        let _unheard = world.append(1, &format!("lost {n}"), Acks::Leader).expect("it thinks that it leads");
    }
    world.elect(2).await;
    world.set_isr(&[2, 3]);
    for n in 0..3 {
        world.commit(2, &format!("kept {n}")).await;
    }
    world.heal();
    world.converge().await;
    assert_equal(&world);
    assert!(world.shared.diverging.load(Ordering::Relaxed) > 0, "nothing diverged: the test tests nothing");
    world.until("broker 1 should join again", || world.isr() == [1, 2, 3]).await;
}

// Trap 13, KAFKA-20961. Catches an idle partition whose followers are told to cut for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaderships_without_records_do_not_keep_followers_busy() {
    let world = World::new(LONG).await;
    world.commit(1, "one").await;
    world.converge().await;
    // Broker 1 leads an epoch that nobody hears of, twice.
    for _ in 0..2 {
        world.cut(2);
        world.cut(3);
        world.elect(1).await;
        world.shared.cut.lock().clear();
        world.elect(2).await;
        world.elect(3).await;
    }
    world.heal();
    let leader = world.partition(3);
    world
        .until("the followers should match the leader", || {
            leader.standings(Duration::ZERO).iter().all(|r| r.log_end == leader.log().log_end())
        })
        .await;
    assert!(world.shared.diverging.load(Ordering::Relaxed) <= 8, "a follower is told to cut again and again");
    let before = world.shared.fetches.load(Ordering::Relaxed);
    world.commit(3, "two").await;
    world.converge().await;
    let fetches = world.shared.fetches.load(Ordering::Relaxed) - before;
    assert!(fetches < 30, "{fetches} fetches for one record");
    assert_equal(&world);
}

// Catches a follower with an emptied disk that does not come back, or counts as in sync on its word of before (KIP-903).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_with_an_empty_disk_copies_everything() {
    let mut world = World::new(LONG).await;
    for n in 0..50 {
        world.commit(1, &format!("record {n}")).await;
    }
    world.stop(3).await;
    world.set_isr(&[1, 2]);
    world.restart(3, None);
    world.until("broker 3 should join", || world.isr() == [1, 2, 3]).await;
    world.commit(1, "last").await;
    world.converge().await;
    assert_equal(&world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_restarts_goes_on_where_its_disk_ends() {
    let mut world = World::new(LONG).await;
    world.commit(1, "before").await;
    let disk = world.stop(3).await;
    world.set_isr(&[1, 2]);
    for n in 0..20 {
        world.commit(1, &format!("meanwhile {n}")).await;
    }
    world.restart(3, Some(disk));
    world.until("broker 3 should join", || world.isr() == [1, 2, 3]).await;
    world.commit(1, "after").await;
    world.converge().await;
    assert_equal(&world);
    assert_eq!(world.shared.diverging.load(Ordering::Relaxed), 0, "its log was a prefix");
}

// F6, KAFKA-9491. Catches a follower that asks for ever for what the leader has given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_behind_the_leaders_start_begins_there() {
    let mut world = World::new(LONG).await;
    let disk = world.stop(3).await;
    world.set_isr(&[1, 2]);
    for n in 0..20 {
        world.commit(1, &format!("record {n}")).await;
    }
    let start = Offset::new(15).expect("small");
    world.partition(1).log().trim(start).expect("it trims");
    world.restart(3, Some(disk));
    world.until("broker 3 should join", || world.isr() == [1, 2, 3]).await;
    assert_eq!(world.partition(3).log().log_start(), start);
    world.commit(1, "last").await;
    world.converge().await;
    world
        .until("followers should give up what the leader has given up", || {
            world.partition(2).log().log_start() == start
        })
        .await;
    assert_equal(&world);
}

// Catches a deletion that is acknowledged although followers hear of it with the next record only, perhaps never: the next
// leader would have the records again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_partition_is_trimmed_on_every_disk_in_sync_before_that_is_said() {
    let world = World::new(LONG).await;
    for n in 0..20 {
        world.commit(1, &format!("record {n}")).await;
    }
    world.converge().await;
    let start = Offset::new(15).expect("small");
    let trimmed = world.partition(1).trim_as_leader(start).expect("it trims");
    assert_eq!(world.settle(trimmed.everywhere()).await, Ok(start));
    for id in [1, 2, 3] {
        assert_eq!(world.partition(id).log().synced_start(), start, "broker {id}");
    }
    world.elect(2).await;
    let late = world.partition(1).trim_as_leader(start).expect_err("another broker leads");
    assert_eq!(late.code, ErrorCode::NotLeader);
    let above = Offset::new(21).expect("small");
    assert_eq!(world.partition(2).trim_as_leader(above).expect_err("not there").code, ErrorCode::OffsetOutOfRange);
}

// KIP-98 over a leader change. Catches a new leader that takes a repeated batch for a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_batch_is_found_by_the_new_leader() {
    let world = World::new(LONG).await;
    let stamp = |base| ProducerStamp {
        id: ProducerId::new(7),
        epoch: ProducerEpoch::new(0),
        base_sequence: Sequence::new(base),
    };
    let send = |leader: u32, sequence: i32| {
        world.partition(leader).append(batch("x", Some(stamp(sequence))), LeaderEpoch::UNKNOWN, Acks::All)
    };
    for sequence in 0..3 {
        world.settle(send(1, sequence).expect("appended").committed()).await.expect("committed");
    }
    world.elect(2).await;
    let again = send(2, 1).expect("a repetition");
    assert_eq!(again.base, Offset::new(1).expect("small"));
    world.settle(again.committed()).await.expect("its original is committed");
    assert_eq!(send(2, 4).expect_err("sequence 3 is missing").code, ErrorCode::OutOfOrderSequence);
    world.settle(send(2, 3).expect("appended").committed()).await.expect("committed");
    world.converge().await;
    assert_equal(&world);
}

// F7, trap: a watermark that only lives in memory. Catches a follower that gives up what is committed after a restart
// because a leader has lost it, and one that stops although the metadata explains the loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_follower_knows_what_is_committed_and_does_not_give_it_up_unexplained() {
    for explained in [false, true] {
        let mut world = World::new(LONG).await;
        for n in 0..6 {
            world.commit(1, &format!("committed {n}")).await;
        }
        world.converge().await;
        let content = world.bytes(2);
        let disk = world.stop(2).await;
        for id in [1, 3] {
            let _lost = world.stop(id).await;
            world.restart(id, None);
        }
        // Nobody who has the records leads: without a word of it that cannot be.
        world.elect(1).await;
        world.set_isr(&[1, 3]);
        if explained {
            // The election is over, and recorded.
            let mut metadata = world.shared.metadata.lock();
            metadata.unclean_epoch = Some(metadata.leader_epoch);
        }
        world.commit(1, "another history").await;
        world.restart(2, Some(disk));
        let second = world.partition(2);
        assert_eq!(second.high_watermark(), Offset::new(6).expect("small"), "known at once");
        if explained {
            world.converge().await;
            assert!(second.alarm().is_none());
            assert_equal(&world);
        } else {
            world.until("broker 2 should stop", || second.alarm().is_some()).await;
            let text = second.alarm().expect("it stopped").to_string();
            assert!(text.contains("move its data directory aside"), "{text}");
            assert!(world.bytes(2) == content, "it keeps what it has");
            assert_eq!(world.isr(), [1, 3]);
        }
    }
}
