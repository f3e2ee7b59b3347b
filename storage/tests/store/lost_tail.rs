//! Damage at the end of a log, next to a cut or a trim: what is committed there is lost on this disk, and never said not to be.

use streambus_storage::partition_log::{PartitionLog, ReadLimit};
use streambus_storage::store::Store;

use crate::world::{World, create, decay, fill, offset, partition, read, settle};

/// A log of twelve batches of one record each, all of them durable and none of the first eleven in memory.
fn filled(world: &mut World) -> (Store, PartitionLog) {
    world.config.tail_cache_bytes = 0;
    let store = world.open();
    let log = create(&store, 0);
    fill(&store, &log, 12, 300);
    store.step_idle();
    (store, log)
}

fn damaged(log: &PartitionLog) -> Vec<(u64, u64)> {
    log.damaged().iter().map(|range| (range.base.get(), range.next.get())).collect()
}

/// The log after a restart, without the cache and with what recovery makes of the damage.
fn reopened(world: &World, store: Store, log: PartitionLog) -> (Store, PartitionLog) {
    settle(&store);
    store.step_idle();
    drop((store, log));
    world.disk.restart();
    let store = world.open();
    let log = store.log(partition(0)).expect("the log");
    (store, log)
}

// Catches a cut that takes committed records with it because this disk has lost them in one piece with what is to go: a
// shorter log says that they never were.
#[test]
fn a_cut_into_damage_leaves_what_is_committed_to_be_repaired() {
    // The last case is that of an election that may lose what is committed. Where nobody has met the damage, the index may
    // know where the batch begins that holds the place, and what is lost below it is still to be met.
    let cases = [
        (true, 8, 8..=8),
        (true, 0, 6..=6),
        (true, 10, 6..=6),
        (false, 8, 8..=9),
        (false, 0, 6..=9),
        (false, 10, 6..=9),
    ];
    for (is_known, committed, ends) in cases {
        let what = format!("{committed} committed, known: {is_known}");
        let mut world = World::new(21);
        let (store, log) = filled(&mut world);
        log.set_committed(offset(committed));
        (6..11).for_each(|base| decay(&world, &log, base));
        let meet = |log: &PartitionLog, end: u64| {
            let limit = ReadLimit { bytes_max: 1, below: offset(end) };
            (6..end).for_each(|at| assert!(read(log, offset(at), limit).is_err(), "{what}"));
        };
        if is_known {
            meet(&log, 11);
            assert_eq!(damaged(&log), [(6, 11)]);
        }
        let end = log.truncate(offset(9)).expect("cut").0.get();
        assert!(ends.contains(&end), "{what}: cut at {end}");
        let left: Vec<_> = (end > 6).then_some((6, end)).into_iter().collect();
        meet(&log, end);
        assert_eq!(damaged(&log), left, "{what}");
        let (_store, log) = reopened(&world, store, log);
        meet(&log, end);
        assert_eq!((log.log_end(), damaged(&log)), (offset(end), left), "{what}");
    }
}

// Catches a recovery that takes a log for shorter than a cut has left it: what lay between was there.
#[test]
fn a_cut_behind_lost_batches_does_not_hide_them() {
    let mut world = World::new(22);
    let (store, log) = filled(&mut world);
    log.truncate(offset(10)).expect("cut");
    settle(&store);
    (8..12).for_each(|base| decay(&world, &log, base));
    let (store, log) = reopened(&world, store, log);
    assert_eq!((log.log_end(), damaged(&log)), (offset(10), vec![(8, 10)]));
    fill(&store, &log, 1, 300);
    assert_eq!(log.log_end(), offset(11));
}

// Catches a recovery that takes a trim into batches that it cannot read for a log that was begun anew there: it would end
// where it starts, and nobody would miss the rest.
#[test]
fn a_trim_into_lost_batches_does_not_hide_those_behind_it() {
    let mut world = World::new(23);
    let (store, log) = filled(&mut world);
    log.trim(offset(8)).expect("trimmed");
    settle(&store);
    (7..12).for_each(|base| decay(&world, &log, base));
    let (_store, log) = reopened(&world, store, log);
    assert_eq!((log.log_start(), log.log_end(), damaged(&log)), (offset(8), offset(12), vec![(8, 12)]));
}

// Catches a recovery that finds damage in a log that was begun anew above batches that are lost, and are no part of it.
#[test]
fn what_lay_below_a_new_beginning_is_not_missed() {
    let mut world = World::new(24);
    let (store, log) = filled(&mut world);
    log.restart_at(offset(40)).expect("begun anew");
    settle(&store);
    (7..12).for_each(|base| decay(&world, &log, base));
    let (_store, log) = reopened(&world, store, log);
    assert_eq!((log.log_start(), log.log_end(), damaged(&log)), (offset(40), offset(40), Vec::new()));
}
