//! What one disk has lost comes back from another replica.

use std::sync::atomic::Ordering;
use std::time::Duration;

use streambus_broker::partition::read::{Found, ReadScope};
use streambus_protocol::api::produce::Acks;
use streambus_protocol::api::repair::ReplicaRepairRequest;
use streambus_protocol::batch::batches;
use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::BrokerId;
use streambus_protocol::offset::Offset;

use crate::world::{ID, World, batch, decay};

const LONG: Duration = Duration::from_secs(60);
/// Enough for several segments, so that most of it is sealed and no longer in memory.
const BATCHES: u64 = 400;

fn at(value: u64) -> Offset {
    Offset::new(value).expect("small")
}

/// Batches on three disks, and their bytes.
async fn filled() -> (World, Vec<u8>) {
    let world = World::new(LONG).await;
    fill(&world, BATCHES).await;
    world.converge().await;
    let content = world.bytes(1);
    (world, content)
}

async fn fill(world: &World, count: u64) {
    for n in 0..count {
        let value = format!("{n:>900}");
        if n % 20 == 19 {
            world.commit(1, &value).await;
        } else {
            let _unheard = world.append(1, &value, Acks::Leader).expect("it is appended");
        }
    }
}

fn scrub(world: &World, id: u32) {
    let outcome = world.nodes[&id].store.scrub_step(u64::MAX).expect("the scrub runs");
    assert!(!outcome.damaged.is_empty(), "broker {id} has nothing to repair: the test tests nothing");
}

fn is_whole(world: &World, id: u32) -> bool {
    world.partition(id).log().damaged().is_empty()
}

// Catches damage that stays, on a follower or on the leader, although another disk has the records; and a repair that is
// gone with the next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_scrub_finds_on_leader_and_follower_comes_back_from_another_disk() {
    let (mut world, content) = filled().await;
    world.decay(1, 10..25);
    world.decay(2, 30..33);
    world.decay(2, 60..61);
    for id in [1, 2] {
        scrub(&world, id);
    }
    for id in [1, 2] {
        world.until("the disk should become whole", || is_whole(&world, id)).await;
        assert!(world.bytes(id) == content, "broker {id} has other bytes than before");
        assert_eq!(world.nodes[&id].store.status().damaged, []);
    }
    let repaired = |id| world.nodes[&id].store.metrics().batches_repaired.get();
    assert_eq!((repaired(1), repaired(2), repaired(3)), (15, 4, 0));
    assert_eq!(world.isr(), [1, 2, 3], "nobody left the in-sync set for it");
    assert!(world.nodes.values().all(|node| node.repairs.stuck().is_empty()));
    let disk = world.stop(2).await;
    world.restart(2, Some(disk));
    world.converge().await;
    assert!(is_whole(&world, 2) && world.bytes(2) == content);
}

// Catches a follower that waits for ever behind a range that its leader's disk has lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_goes_on_once_its_leader_is_repaired() {
    let (mut world, content) = filled().await;
    let _lost = world.stop(3).await;
    world.set_isr(&[1, 2]);
    // Nobody has looked yet: the empty follower's fetch is the first to meet it.
    world.decay(1, 40..50);
    world.restart(3, None);
    world.converge().await;
    for id in [1, 2, 3] {
        assert!(is_whole(&world, id) && world.bytes(id) == content, "broker {id}");
    }
    assert_eq!(world.nodes[&1].store.metrics().batches_repaired.get(), 10);
    world.until("broker 3 should join", || world.isr() == [1, 2, 3]).await;
}

// F5. Catches a cut that ends below what is committed because damage lies across the place: whatever this leader leads would
// be copied here no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_with_damage_across_the_cut_copies_on_and_is_repaired() {
    let (mut world, _) = filled().await;
    world.cut(1);
    for n in 0..10 {
        let _unheard = world.append(1, &format!("{n:>900}"), Acks::Leader).expect("it is appended");
    }
    world.until("its own disk should have them", || world.partition(1).log().durable_end() == at(BATCHES + 10)).await;
    world.elect(2).await;
    world.set_isr(&[2, 3]);
    let disk = world.stop(1).await;
    decay(&disk.0, BATCHES - 2..BATCHES + 2);
    world.heal();
    world.commit(2, "of the next leader").await;
    world.restart(1, Some(disk));
    world.until("broker 1 should join again", || world.isr() == [1, 2, 3]).await;
    world.converge().await;
    // The cut met what lies at its place; the scrub meets the rest.
    world.nodes[&1].store.scrub_step(u64::MAX).expect("the scrub runs");
    world.until("its disk should become whole", || is_whole(&world, 1)).await;
    assert!(world.bytes(1) == world.bytes(2));
}

/// Broker 2 has lost batches 396 and 397, knows it from its recovery, and is not given them yet. Recovery reads what lies
/// behind the last checkpoint, and where that is depends on how commits were grouped: another world where it does not.
async fn with_a_hole_that_recovery_finds() -> (World, Vec<u8>) {
    for _ in 0..20 {
        let (mut world, content) = filled().await;
        let disk = world.stop(2).await;
        // As the controller does when a broker registers with a disk that is not intact.
        world.set_isr(&[1, 3]);
        decay(&disk.0, 396..398);
        world.shared.keeps_repairs.store(true, Ordering::SeqCst);
        world.restart(2, Some(disk));
        let damaged = world.partition(2).log().damaged();
        if damaged.first().map(|range| (range.base, range.next)) == Some((at(396), at(398))) {
            return (world, content);
        }
    }
    panic!("recovery never knows what it lost");
}

// Catches a replica that counts as complete although its recovery found a hole (trap 24), and one that stays out after it
// was repaired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_a_hole_counts_for_what_lies_before_it_until_it_is_repaired() {
    let (world, content) = with_a_hole_that_recovery_finds().await;
    let leader = world.partition(1);
    let standing = |id: u32| {
        let standings = leader.standings(Duration::ZERO);
        standings.into_iter().find(|standing| standing.broker == BrokerId::new(id)).expect("a replica")
    };
    world.until("broker 2 should be asked for in vain", || !world.nodes[&2].repairs.stuck().is_empty()).await;
    world.until("broker 2 should say where it is", || standing(2).log_end == at(BATCHES)).await;
    assert_eq!(standing(2).durable_end, at(396));
    assert_eq!(world.isr(), [1, 3]);
    world.shared.keeps_repairs.store(false, Ordering::SeqCst);
    world.until("broker 2 should join again", || world.isr() == [1, 2, 3]).await;
    assert!(is_whole(&world, 2) && world.bytes(2) == content);
    world.until("nothing should be said of it any more", || world.nodes[&2].repairs.stuck().is_empty()).await;
}

// Catches records of no disk that are made up, offsets around them that are lost with them, and a partition that becomes
// unavailable because all its replicas wait for what nobody has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_disk_has_stays_quarantined_and_nothing_else_does() {
    let (world, _) = filled().await;
    // All of them first: what one replica still has is repaired at once.
    for id in [1, 2, 3] {
        world.decay(id, 20..22);
    }
    for id in [1, 2, 3] {
        scrub(&world, id);
    }
    for id in [1, 2, 3] {
        let is_hopeless = || world.nodes[&id].repairs.stuck().iter().any(|stuck| stuck.is_beyond_repair);
        world.until("everybody should have been asked", is_hopeless).await;
        let damaged: Vec<_> = world.partition(id).log().damaged().iter().map(|d| (d.base, d.next)).collect();
        assert_eq!(damaged, [(at(20), at(22))], "broker {id}");
    }
    let stuck = world.nodes[&1].repairs.stuck();
    let said: Vec<u32> = stuck[0].said.iter().map(|(broker, _)| broker.get()).collect();
    assert_eq!(said, [2, 3]);
    fill(&world, 20).await;
    world.converge().await;
    assert_eq!(world.isr(), [1, 2, 3], "nobody leaves for what nobody has");
    for (from, is_lost) in [(19, false), (20, true), (21, true), (22, false)] {
        let read = world.partition(1).read(at(from), 1, ReadScope::Committed).expect("in range");
        let found = match read.found {
            Found::OnDisk(read) => tokio::task::spawn_blocking(move || read.run()).await.expect("no panic"),
            other => panic!("{other:?}"),
        };
        assert_eq!(found.is_err(), is_lost, "offset {from}");
    }
}

// Catches a replica that hands out what is not committed, more than it was asked for, or anything to a broker of the past.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_committed_batches_are_read_by_replicas_of_the_same_leadership() {
    let (world, _) = filled().await;
    let request = ReplicaRepairRequest {
        broker: BrokerId::new(1),
        broker_epoch: BrokerEpoch::new(11),
        topic: ID.topic,
        partition: ID.partition,
        leader_epoch: LeaderEpoch::new(1),
        from: at(5),
        to: at(9),
        bytes_max: 1 << 20,
    };
    let bases = |answer: &streambus_protocol::api::repair::ReplicaRepairResponse| {
        let chunks = answer.batches.chunks().iter().flat_map(|chunk| batches(chunk.clone()));
        chunks.map(|batch| batch.expect("sound").base_offset().get()).collect::<Vec<_>>()
    };
    for id in [2, 3] {
        let answer = world.ask_repair(id, 1, request).await.expect("a follower answers its leader");
        assert_eq!(bases(&answer), [5, 6, 7, 8]);
    }
    let little = ReplicaRepairRequest { bytes_max: 1, ..request };
    assert_eq!(bases(&world.ask_repair(2, 1, little).await.expect("one batch comes whole")), [5]);
    let refused = [
        (ReplicaRepairRequest { broker_epoch: BrokerEpoch::new(10), ..request }, ErrorCode::StaleBrokerEpoch),
        (ReplicaRepairRequest { leader_epoch: LeaderEpoch::new(0), ..request }, ErrorCode::FencedLeaderEpoch),
        (ReplicaRepairRequest { leader_epoch: LeaderEpoch::new(2), ..request }, ErrorCode::UnknownLeaderEpoch),
        (ReplicaRepairRequest { from: at(BATCHES), to: at(BATCHES + 1), ..request }, ErrorCode::OffsetNotAvailable),
        (ReplicaRepairRequest { to: at(5), ..request }, ErrorCode::InvalidRequest),
        (ReplicaRepairRequest { broker: BrokerId::new(2), ..request }, ErrorCode::InvalidRequest),
    ];
    for (request, code) in refused {
        let error = world.ask_repair(2, 1, request).await.expect_err("it is refused");
        assert_eq!(error.code, code, "{request:?}: {error}");
    }
    let stranger = ReplicaRepairRequest { broker: BrokerId::new(9), ..request };
    let error = world.ask_repair(2, 9, stranger).await.expect_err("it is refused");
    assert_eq!(error.code, ErrorCode::IneligibleReplica);
    world.decay(3, 6..7);
    scrub(&world, 3);
    let lost = ReplicaRepairRequest { from: at(6), ..request };
    // Its own repair may be quicker.
    match world.ask_repair(3, 1, lost).await {
        Ok(answer) => assert_eq!(bases(&answer), [6, 7, 8]),
        Err(error) => assert_eq!(error.code, ErrorCode::StorageDamaged),
    }
    // What is in the leader's log and not committed is nobody's to have.
    world.cut(2);
    world.cut(3);
    let next = world.partition(1).log().log_end();
    let _unheard =
        world.partition(1).append(batch("uncommitted", None), LeaderEpoch::UNKNOWN, Acks::Leader).expect("it leads");
    let (broker, broker_epoch) = (BrokerId::new(2), BrokerEpoch::new(12));
    let above = ReplicaRepairRequest { broker, broker_epoch, from: next, to: at(next.get() + 1), ..request };
    let error = world.ask_repair(1, 2, above).await.expect_err("it is refused");
    assert_eq!(error.code, ErrorCode::OffsetNotAvailable);
}
