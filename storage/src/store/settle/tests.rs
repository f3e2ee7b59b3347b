//! Copies take their place in the index, whole or in part, and nothing else changes.

use streambus_protocol::batch::PlacedBatch;

use super::*;
use crate::disk::Disk;
use crate::index::IndexStore;
use crate::partition_log::rewrite::Stretch;
use crate::partition_log::{PartitionLog, Read, ReadLimit};
use crate::store::Store;
use crate::store::stepped_world::{World, append, at, commit, create, fill, partition, read_all, step};

/// A log of `count` batches, all of them in the index: segments were filled behind it.
fn indexed(store: &Store, count: u64) -> PartitionLog {
    let (log, other) = (create(store, 0), create(store, 1));
    fill(store, &log, count);
    let first = store.inner().journal.active_segment();
    while store.inner().journal.active_segment() == first {
        (0..200).for_each(|_| append(&other));
        step(store);
    }
    assert_eq!(log.core().state.lock().extents.len(), 0);
    log
}

/// Stores the batches of `base..next` anew, in `pieces` that do not lie side by side.
fn rewrite(store: &Store, log: &PartitionLog, base: u64, next: u64, pieces: usize) {
    let other = store.log(partition(1)).expect("the other log");
    let length = (next - base).div_ceil(pieces as u64);
    for from in (base..next).step_by(usize::try_from(length).expect("small")) {
        let Ok(Stretch::Whole(stretch)) = log.read_stretch(at(from), at(next.min(from + length))) else {
            panic!("readable")
        };
        let batches = stretch.batches.iter().cloned().map(|bytes| PlacedBatch::verify_stored(bytes).expect("valid"));
        assert!(log.store_anew(&stretch, batches.collect()).expect("accepted"));
        append(&other);
    }
    // Without maintenance, which would settle it.
    commit(store);
}

fn settle(store: &Store) {
    settle_rewritten(&store.inner().sink, &store.inner().index).expect("settled");
}

/// The index's extents of `log`, which must follow one another.
fn extents(store: &Store, log: &PartitionLog) -> Vec<Extent> {
    let mut found: Vec<Extent> = Vec::new();
    let visit = |extent: Extent| {
        assert!(
            found.last().is_none_or(|last| last.next == extent.base),
            "neither gap nor overlap: {found:?} {extent:?}"
        );
        found.push(extent);
        ControlFlow::Continue(())
    };
    store.inner().index.extents(log.id(), Offset::ZERO, visit).expect("answered");
    found
}

// Catches copies that wait for ever because they cover index entries in part: they are copied again and again, and the next
// restart serves what they have replaced.
#[test]
fn copies_take_their_part_of_an_entry() {
    for (base, next, pieces) in [(3, 20, 1), (3, 7, 1), (1, 39, 38), (10, 11, 1), (0, 40, 5)] {
        let world = World::new();
        let store = world.open(0);
        let log = indexed(&store, 40);
        let (before, size) = (read_all(&log), log.size_bytes());
        let old = extents(&store, &log);
        rewrite(&store, &log, base, next, pieces);
        settle(&store);
        assert_eq!(log.core().state.lock().rewritten.as_slice(), [], "{base}..{next}");
        let now = extents(&store, &log);
        let newest = old.iter().map(|extent| extent.segment).max();
        let anew = now.iter().filter(|extent| Some(extent.segment) > newest);
        let anew: u64 = anew.map(|extent| extent.base.distance_to(extent.next).expect("in order")).sum();
        assert_eq!(anew, next - base, "exactly what was copied: {now:?}");
        assert_eq!(read_all(&log), before);
        let bytes: u64 = now.iter().map(|extent| u64::from(extent.batch_bytes)).sum();
        assert_eq!(log.size_bytes(), bytes);
        assert!(size.abs_diff(bytes) < 64, "{bytes} bytes of {size}");
        let store = world.crash(store);
        let log = store.log(partition(0)).expect("the log");
        assert_eq!((read_all(&log), log.damaged()), (before, vec![]));
    }
}

// Catches a bound on the work under one lock that cuts a run within an index entry.
#[test]
fn a_long_run_settles_in_portions() {
    let world = World::new();
    let store = world.open(0);
    let log = indexed(&store, 250);
    let before = read_all(&log);
    rewrite(&store, &log, 3, 243, 120);
    assert!(log.core().state.lock().rewritten.as_slice().len() > EXTENTS_PER_WRITE);
    settle(&store);
    assert_eq!(log.core().state.lock().rewritten.as_slice(), []);
    extents(&store, &log);
    assert_eq!(read_all(&log), before);
}

// Catches a settling that gives up what a truncation has cut before the truncation is durable: a crash undoes it.
#[test]
fn what_a_truncation_cuts_is_kept_until_it_is_durable() {
    let world = World::new();
    let store = world.open(0);
    let log = indexed(&store, 40);
    let before = read_all(&log);
    let entry = extents(&store, &log).into_iter().find(|extent| extent.base > at(8)).expect("several");
    let cut = entry.base.get() + 2;
    assert!(cut < entry.next.get());
    rewrite(&store, &log, 3, cut, 1);
    assert_eq!(log.truncate(at(cut)).expect("truncated").0, at(cut));
    settle(&store);
    world.index.flush().expect("flushed");
    let store = world.crash(store);
    let log = store.log(partition(0)).expect("the log");
    assert_eq!((read_all(&log), log.damaged()), (before, vec![]), "the truncation was lost, and nothing else");
}

// Catches damage in an old place that is taken for damage of what was stored anew since.
#[test]
fn a_hole_in_the_old_place_is_no_damage_of_the_new() {
    let world = World::new();
    let store = world.open(0);
    let log = indexed(&store, 40);
    let entry = extents(&store, &log).into_iter().next().expect("some");
    assert!(entry.next >= at(6));
    let before = read_all(&log);
    rewrite(&store, &log, 5, 6, 1);
    let name = crate::journal::segment::segment_file_name(entry.segment);
    let bytes = world.disk.read_file(&name).expect("readable");
    for batch in &before[4..6] {
        let position = bytes.windows(batch.len()).position(|window| window == &batch[..]).expect("there");
        world.disk.flip_bit(&name, position as u64 + 80, 1).expect("flipped");
    }
    for when in ["before", "after"] {
        log.verify_extent(&entry).expect("answered");
        let damaged: Vec<_> = log.damaged().iter().map(|range| (range.base, range.next)).collect();
        assert_eq!(damaged, [(at(4), at(5))], "{when} it was settled");
        settle(&store);
    }
    let limit = ReadLimit { bytes_max: 1, below: log.log_end() };
    let Ok(Read::Disk(read)) = log.read(at(5), limit) else { panic!("on the disk") };
    assert_eq!(read.run().expect("readable").0, before[5..6]);
}
