//! What is committed, as a later start knows it: never more than was said and is on disk, never less than was recorded.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::world::{Spec, World, append, create, fill, offset, partition, settle};

// Catches a watermark that is lost with a process, one that is ahead of the disk, and one that outlives its records.
#[test]
fn what_was_recorded_is_known_after_a_crash_and_nothing_else() {
    let world = World::new(1);
    let store = world.open();
    let log = create(&store, 0);
    fill(&store, &log, 10, 100);
    log.set_committed(offset(6));
    assert_eq!((log.committed(), store.record_committed().expect("recorded")), (offset(6), 1));
    settle(&store);
    log.set_committed(offset(4));
    assert_eq!(log.committed(), offset(6), "it does not go back");
    assert_eq!(store.record_committed().expect("nothing to do"), 0, "an idle log costs nothing");
    // Said, and not recorded.
    log.set_committed(offset(8));
    let (store, _) = world.crash_and_open(store);
    let log = store.log(partition(0)).expect("the log");
    assert_eq!(log.committed(), offset(6));

    // A follower may hear of it before its own disk has it.
    append(&log, &Spec { records: 5, ..Spec::default() });
    log.set_committed(offset(15));
    store.record_committed().expect("recorded");
    let (store, _) = world.crash_and_open(store);
    let log = store.log(partition(0)).expect("the log");
    assert!(log.committed() <= log.log_end() && log.committed() >= offset(6), "{:?}", log.committed());

    fill(&store, &log, 5, 100);
    log.set_committed(log.log_end());
    store.record_committed().expect("recorded");
    log.truncate(offset(3)).expect("after an unclean election");
    assert_eq!(log.committed(), offset(3));
    fill(&store, &log, 4, 100);
    settle(&store);
    let (store, _) = world.crash_and_open(store);
    let log = store.log(partition(0)).expect("the log");
    assert_eq!(log.committed(), offset(3), "a record from before the cut says nothing of what came after");
    log.restart_at(offset(100)).expect("restarted");
    settle(&store);
    let (store, _) = world.crash_and_open(store);
    assert_eq!(store.log(partition(0)).expect("the log").committed(), offset(100));
}

// Catches a watermark that goes with the segment it was recorded in, and one that closing forgets.
#[test]
fn a_checkpoint_and_an_orderly_end_keep_it() {
    let world = World::new(2);
    let store = world.open();
    let log = create(&store, 0);
    fill(&store, &log, 3, 100);
    log.set_committed(offset(3));
    store.record_committed().expect("recorded");
    let others = create(&store, 1);
    let checkpoints = store.metrics().checkpoints.get();
    while store.metrics().checkpoints.get() < checkpoints + 3 {
        fill(&store, &others, 20, 900);
    }
    log.set_committed(offset(2));
    let (store, report) = world.crash_and_open(store);
    assert!(report.journal.segments <= 2, "the record lies behind the checkpoint");
    let log = store.log(partition(0)).expect("the log");
    assert_eq!(log.committed(), offset(3));
    fill(&store, &log, 2, 100);
    log.set_committed(offset(5));
    store.close().expect("closes");
    drop((log, store));
    world.disk.restart();
    assert_eq!(world.open().log(partition(0)).expect("the log").committed(), offset(5));
}

/// One log under appends, cuts, records and crashes.
fn life(seed: u64) {
    let world = World::new(seed);
    let mut random = SmallRng::seed_from_u64(seed);
    let mut store = world.open();
    create(&store, 0);
    settle(&store);
    // What was said and not cut since; what was recorded, on disk and not cut since.
    let (mut said, mut kept) = (0, 0);
    for _ in 0..150 {
        let log = store.log(partition(0)).expect("the log");
        match random.random_range(0..20) {
            0..8 => drop(append(&log, &Spec { records: random.random_range(1..4), ..Spec::default() })),
            8..12 => {
                let committed = random.random_range(0..=log.log_end().get());
                log.set_committed(offset(committed));
                said = said.max(committed);
            }
            12..14 => {
                let recorded = log.committed().min(log.synced_end()).get();
                store.record_committed().expect("recorded");
                settle(&store);
                kept = kept.max(recorded);
            }
            14 => {
                let (end, _) = log.truncate(offset(random.random_range(0..=log.log_end().get()))).expect("cut");
                (said, kept) = (said.min(end.get()), kept.min(end.get()));
            }
            15 => {
                drop(log);
                store = world.crash_and_open(store).0;
                let log = store.log(partition(0)).expect("the log");
                // A cut that was not on disk yet is undone by the crash, and so is what it took.
                let known = log.committed().get();
                assert!(known >= kept, "seed {seed}: {kept} was recorded, {known} is known");
                assert!(known <= log.log_end().get(), "seed {seed}: {known} is not in the log");
                said = said.max(known);
                assert!(known <= said, "seed {seed}: nobody said {known}");
            }
            _ => {
                store.step();
            }
        }
    }
}

#[test]
fn it_is_a_lower_bound_in_every_life() {
    (0..60).for_each(life);
}
