//! Cutting a log and restarting it elsewhere, above all while what goes is still on its way to the disk.

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use streambus_protocol::offset::Offset;
use streambus_storage::epoch_cache::{EpochEnd, EpochStart};
use streambus_storage::error::DurabilityLost;
use streambus_storage::partition_log::{Durable, PartitionLog, ReadLimit};
use streambus_storage::producer_state::SequenceVerdict;

use crate::world::{Spec, World, append, create, epoch, offset, partition, read, read_all, settle, stamp};

// Catches a follower that reports the new start as durable while a crash would still bring the old log back.
#[test]
fn a_restart_elsewhere_is_durable_when_it_is_on_disk_and_not_before() {
    let world = World::new(1);
    let store = world.open();
    let log = create(&store, 0);
    append(&log, &Spec { records: 5, ..Spec::default() });
    settle(&store);
    let mut in_flight = append(&log, &Spec { records: 2, ..Spec::default() });
    let watch = log.watch_durable_end();
    let mut restarted = log.restart_at(offset(1_000)).expect("restarted");
    assert_eq!((log.log_start(), log.log_end()), (offset(1_000), offset(1_000)));
    assert_eq!((log.durable_end(), log.synced_end(), *watch.borrow()), (offset(5), offset(5), offset(5)));
    assert_eq!(in_flight.durable.now(), Some(Err(DurabilityLost::Truncated)), "it is no part of the log any more");
    let appended = append(&log, &Spec { records: 3, time_ms: 7_000, ..Spec::default() });
    let found = log.offset_for_time(streambus_protocol::timestamp::Timestamp::from_millis(7_000), Offset::MAX);
    assert_eq!(found.expect("readable").map(|(found, _)| found), Some(appended.base), "found before it is durable");
    let all = ReadLimit { bytes_max: 1 << 20, below: Offset::MAX };
    assert_eq!(read(&log, offset(1_000), all).expect("readable").1, appended.next);
    settle(&store);
    assert_eq!(restarted.now(), Some(Ok(())));
    assert_eq!((log.durable_end(), *watch.borrow()), (offset(1_003), offset(1_003)));
}

// Catches a follower whose log begins above an unclean leader's end, and which can never follow it: nothing of its log is to
// stay, and it goes on below its start.
#[test]
fn a_log_can_go_on_below_its_start() {
    let world = World::new(4);
    let store = world.open();
    let log = create(&store, 0);
    append(&log, &Spec { records: 10, ..Spec::default() });
    append(&log, &Spec { records: 10, salt: 1, ..Spec::default() });
    log.trim(offset(12)).expect("trimmed");
    settle(&store);
    log.set_committed(offset(18));
    store.record_committed().expect("recorded");
    for inside in [12, 15, 20] {
        log.restart_at(offset(inside)).expect_err("that is a truncation");
    }
    let mut restarted = log.restart_at(offset(4)).expect("restarted");
    let ends = |log: &PartitionLog| (log.log_start(), log.durable_end(), log.log_end(), log.committed());
    assert_eq!(ends(&log), (offset(4), offset(4), offset(4), offset(4)));
    assert_eq!((log.latest_epoch(), log.size_bytes()), (None, 0));
    append(&log, &Spec { records: 5, salt: 2, ..Spec::default() });
    settle(&store);
    assert_eq!(restarted.now(), Some(Ok(())));
    let content = read_all(&log).expect("readable");
    assert_eq!(content.len(), 1);
    let before = ends(&log);
    drop(log);
    let (store, report) = world.crash_and_open(store);
    let log = store.log(partition(0)).expect("the log");
    assert_eq!((ends(&log), report.journal.damaged), (before, Vec::new()));
    assert_eq!(read_all(&log).expect("readable"), content);
}

// Catches an end that stays durable for a moment after a truncation, a promise kept for a batch that is gone, and a
// batch that comes back when its commit is reported.
#[test]
fn what_is_cut_on_its_way_to_the_disk_is_never_durable() {
    let world = World::new(2);
    let store = world.open();
    let log = create(&store, 0);
    for salt in 0..3 {
        append(&log, &Spec { records: 2, salt, ..Spec::default() });
    }
    settle(&store);
    let mut kept = append(&log, &Spec { records: 2, salt: 3, ..Spec::default() });
    let mut cut = append(&log, &Spec { records: 2, salt: 4, ..Spec::default() });
    let watch = log.watch_durable_end();
    log.truncate(offset(8)).expect("truncated");
    assert_eq!((log.log_end(), log.durable_end()), (offset(8), offset(6)));
    assert_eq!((kept.durable.now(), cut.durable.now()), (None, Some(Err(DurabilityLost::Truncated))));
    let mut again = append(&log, &Spec { records: 1, salt: 5, ..Spec::default() });
    settle(&store);
    assert_eq!((kept.durable.now(), again.durable.now()), (Some(Ok(())), Some(Ok(()))));
    assert_eq!((log.durable_end(), *watch.borrow()), (offset(9), offset(9)));

    let mut later = append(&log, &Spec { records: 4, salt: 6, ..Spec::default() });
    log.truncate(offset(3)).expect("truncated below what is durable");
    assert_eq!((log.log_end(), log.durable_end(), *watch.borrow()), (offset(2), offset(2), offset(2)), "at once");
    settle(&store);
    assert_eq!(log.durable_end(), offset(2), "commits that were under way bring nothing back");
    assert!(matches!(later.durable.now(), Some(Err(DurabilityLost::Truncated))));
    let served = read_all(&log).expect("readable");
    assert_eq!(served.len(), 1);
    let (store, _) = world.crash_and_open(store);
    assert_eq!(read_all(&store.log(partition(0)).expect("the log")).expect("readable"), served);
}

// Catches a durable end that stays below the log start: the trim and the cut both lie within a batch in flight.
#[test]
fn a_cut_within_a_trimmed_batch_in_flight_leaves_the_ends_in_order() {
    let world = World::new(3);
    let store = world.open();
    let log = create(&store, 0);
    append(&log, &Spec { records: 10, ..Spec::default() });
    log.trim(offset(5)).expect("trimmed");
    assert_eq!(log.truncate(offset(7)).expect("truncated").0, offset(5));
    settle(&store);
    assert_eq!((log.log_start(), log.durable_end(), log.log_end()), (offset(5), offset(5), offset(5)));
}

// Catches a cut that takes more of a producer than is remembered: its retries would be taken for gaps, or stored twice.
// And a later life that knows less than the first, from a checkpoint or from the journal.
#[test]
fn however_much_is_cut_the_five_batches_before_it_are_known() {
    for (dropped, is_durable) in [(6_i32, true), (10, true), (25, true), (6, false), (25, false), (39, true)] {
        let world = World::new(5);
        let store = world.open();
        let log = create(&store, 0);
        for sequence in 0..40 {
            for id in [1, 2] {
                append(&log, &Spec { record_bytes: 20, producer: Some(stamp(id, 0, sequence)), ..Spec::default() });
            }
            // So small that the rest is in flight all at once.
            if is_durable || sequence == 9 {
                settle(&store);
            }
        }
        // Every other batch is of the one or the other.
        let last = 40 - dropped;
        log.truncate(offset(u64::from(last.unsigned_abs()) * 2)).expect("truncated");
        let check = |log: &PartitionLog, life: &str| {
            let what = format!("{dropped} dropped, durable: {is_durable}, {life}");
            for (id, place) in [(1, 0), (2, 1)] {
                for sequence in (last - 5).max(0)..last {
                    let base = offset(u64::from(sequence.unsigned_abs()) * 2 + place);
                    let verdict = log.check_sequence(stamp(id, 0, sequence), 1);
                    assert_eq!(verdict, SequenceVerdict::Duplicate { base }, "{what}: {sequence}");
                }
                assert_eq!(log.check_sequence(stamp(id, 0, last), 1), SequenceVerdict::Accept, "{what}");
                let newer = log.check_sequence(stamp(id, 0, last + 1), 1);
                assert!(matches!(newer, SequenceVerdict::OutOfOrder { .. }), "{what}: {newer:?}");
            }
        };
        check(&log, "at once");
        settle(&store);
        drop(log);
        let (store, _) = world.crash_and_open(store);
        check(&store.log(partition(0)).expect("the log"), "after a power cut");
        drop(store);
        for name in streambus_storage::disk::Disk::list(&world.memory, "checkpoint-").expect("list") {
            streambus_storage::disk::Disk::remove(&world.memory, &name).expect("removed");
        }
        world.index.wipe();
        check(&world.open().log(partition(0)).expect("the log"), "from the whole journal");
    }
}

/// What a log knows besides its batches.
struct Known {
    bounds: (Offset, Offset, Offset),
    latest: Option<EpochStart>,
    ended: Vec<EpochEnd>,
    verdicts: Vec<SequenceVerdict>,
}

fn known(log: &PartitionLog, sequences: i32) -> Known {
    let verdicts = |id| (0..sequences).map(move |sequence| log.check_sequence(stamp(id, 0, sequence), 1));
    Known {
        bounds: (log.log_start(), log.durable_end(), log.log_end()),
        latest: log.latest_epoch(),
        ended: (0..40).map(|asked| log.end_offset_for(epoch(asked))).collect(),
        verdicts: verdicts(1).chain(verdicts(2)).collect(),
    }
}

/// A life of one log in which little is committed before it is cut.
fn life(seed: u64) {
    let world = World::new(seed);
    let store = world.open();
    let log = create(&store, 0);
    let mut random = SmallRng::seed_from_u64(seed);
    let mut next = [0_i32; 2];
    let mut promises: Vec<(Offset, Durable)> = Vec::new();
    let mut leader = 0;
    for salt in 0..120 {
        match random.random_range(0..20) {
            0..10 => {
                let producer = random.random_range(0..2_usize);
                let spec = Spec {
                    record_bytes: random.random_range(0..300),
                    epoch: leader,
                    producer: Some(stamp(i64::try_from(producer).expect("small") + 1, 0, next[producer])),
                    salt,
                    ..Spec::default()
                };
                next[producer] += 1;
                let appended = append(&log, &spec);
                promises.push((appended.next, appended.durable));
            }
            10..13 => {
                let to = random.random_range(log.log_start().get()..=log.log_end().get());
                let (end, _) = log.truncate(offset(to)).expect("truncated");
                assert_eq!(log.log_end(), end);
                for (_, mut cut) in promises.extract_if(.., |(next, _)| *next > end) {
                    assert_ne!(cut.now(), None, "seed {seed}: no promise of a cut batch stays open");
                }
            }
            13 => {
                log.trim(offset(random.random_range(log.log_start().get()..=log.log_end().get()))).expect("trimmed");
            }
            14 => {
                leader += 1;
                log.start_epoch(epoch(leader)).expect("a leadership");
            }
            15 if random.random_bool(0.2) => {
                log.restart_at(offset(log.log_end().get() + 10)).expect("restarted");
                promises.clear();
            }
            _ => {
                store.step();
            }
        }
        assert!(log.durable_end() <= log.log_end(), "seed {seed}");
        for (next, promise) in &mut promises {
            let kept = promise.now() == Some(Ok(()));
            assert_eq!(kept, *next <= log.durable_end(), "seed {seed}: a promise and the durable end disagree");
        }
    }
    settle(&store);
    assert_eq!(log.durable_end(), log.log_end());
    let (live, batches) = (known(&log, 130), read_all(&log).expect("readable"));
    drop((log, store));
    for what in ["the checkpoint", "the whole journal"] {
        world.disk.restart();
        let store = world.open();
        let log = store.log(partition(0)).expect("the log");
        let rebuilt = known(&log, 130);
        assert_eq!((rebuilt.bounds, rebuilt.latest), (live.bounds, live.latest), "seed {seed}: rebuilt from {what}");
        assert_eq!(rebuilt.ended, live.ended, "seed {seed}: epochs rebuilt from {what}");
        assert!(rebuilt.verdicts == live.verdicts, "seed {seed}: producers rebuilt from {what} differ");
        assert_eq!(read_all(&log).expect("readable"), batches, "seed {seed}: rebuilt from {what}");
        drop((log, store));
        for name in streambus_storage::disk::Disk::list(&world.memory, "checkpoint-").expect("list") {
            streambus_storage::disk::Disk::remove(&world.memory, &name).expect("removed");
        }
        world.index.wipe();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    // Catches epochs, producers or batches of a cut log that differ from what its journal says.
    #[test]
    fn a_cut_log_knows_what_a_rebuild_from_the_journal_knows(seed in any::<u64>()) {
        life(seed);
    }
}
