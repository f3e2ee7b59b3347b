//! Compaction: space pinned by a few live bytes comes back, and whatever happens on the way, every batch stays what and
//! where it was.

use std::collections::BTreeSet;
use std::sync::Arc;

use streambus_protocol::timestamp::Timestamp;
use streambus_protocol::topic_config::Retention;
use streambus_storage::disk::Disk;
use streambus_storage::inspect;
use streambus_storage::partition_log::{LogOptions, PartitionLog, ReadLimit};
use streambus_storage::store::Store;

use crate::world::{Spec, World, append, create, offset, partition, read_all, settle};

const NOW: Timestamp = Timestamp::from_millis(50_000);

/// A log whose records expire and one whose records stay, mixed in every segment; what the second holds.
fn mixed(store: &Store, batches: u64) -> (PartitionLog, PartitionLog, Vec<bytes::Bytes>) {
    let retention = Retention { time_ms: Some(1_000), bytes: None };
    let options = LogOptions { retention, ..LogOptions::default() };
    let short = store.create_log(partition(0), options).expect("created");
    let long = create(store, 1);
    for i in 0..batches {
        append(&short, &Spec { record_bytes: 900, salt: i, ..Spec::default() });
        if i % 20 == 0 {
            append(&long, &Spec { record_bytes: 50, salt: i, time_ms: 50_000, ..Spec::default() });
        }
        settle(store);
    }
    for _ in 0..3 {
        store.apply_retention(NOW);
        settle(store);
    }
    let kept = read_all(&long).expect("readable");
    (short, long, kept)
}

/// Compacts until there is nothing left to do.
fn compact(store: &Store) -> (u64, u64) {
    let (mut copied, mut freed) = (0, 0);
    for _ in 0..1_000 {
        let outcome = store.compact_step(NOW, 700);
        settle(store);
        (copied, freed) = (copied + outcome.copied_bytes, freed + outcome.segments_freed);
        if outcome.is_idle {
            return (copied, freed);
        }
    }
    panic!("compaction never ends");
}

// Catches a compaction that frees nothing, copies what need not be copied, or changes a byte on the way.
#[test]
fn a_few_live_bytes_do_not_pin_segments() {
    let world = World::new(31);
    let store = world.open();
    let (_, long, kept) = mixed(&store, 600);
    let before = store.status();
    assert!(before.segments > 10 && store.metrics().segments_recycled.get() == 0, "{before:?}");
    let size = long.size_bytes();
    let (copied, freed) = compact(&store);
    assert!(freed >= 10, "{freed} segments came back of {}", before.segments);
    let live: u64 = kept.iter().map(|batch| batch.len() as u64).sum();
    assert!(copied > 0 && copied <= live, "{copied} bytes copied, {live} live");
    assert_eq!(store.metrics().compacted_bytes.get(), copied);
    assert_eq!(store.metrics().segments_compacted.get(), freed);
    assert_eq!(read_all(&long).expect("readable"), kept);
    assert_eq!((long.size_bytes(), long.damaged()), (size, vec![]));
    assert_eq!(compact(&store), (0, 0), "there is nothing more to gain");
    // Few extents of many: neighbours lie side by side now.
    let scrubbed = store.scrub_step(u64::MAX).expect("the disk is well");
    assert_eq!(scrubbed.damaged, []);

    let (store, report) = world.crash_and_open(store);
    assert_eq!(report.journal.damaged, []);
    let long = store.log(partition(1)).expect("the log");
    assert_eq!(read_all(&long).expect("readable"), kept);
    assert_eq!((long.size_bytes(), long.damaged()), (size, vec![]));
}

// Catches copies that only the index knows of: when it is lost, the journal must say all.
#[test]
fn a_lost_index_is_rebuilt_from_what_was_copied() {
    let world = World::new(32);
    let store = world.open();
    let (_, long, kept) = mixed(&store, 600);
    let (size, (_, freed)) = (long.size_bytes(), compact(&store));
    assert!(freed > 5);
    store.close().expect("closed");
    drop(store);
    world.index.wipe();
    for crash in [false, true] {
        let (store, report) = world.try_open().expect("opens");
        assert!(report.index_rebuilt || crash);
        let long = store.log(partition(1)).expect("the log");
        assert_eq!(read_all(&long).expect("readable"), kept);
        assert_eq!((long.size_bytes(), long.damaged()), (size, vec![]));
        // The rebuilt index is good for a checkpoint, and for a crash behind it.
        settle(&store);
        drop(store);
        world.disk.cut_power().expect("the simulated disk works");
        world.disk.restart();
        world.index.crash();
    }
}

// Catches damage that is copied as if it were good, or lost sight of with the segment it was in.
#[test]
fn damage_stays_where_it_is_and_known() {
    let world = World::new(33);
    let store = world.open();
    let (_, long, kept) = mixed(&store, 600);
    store.close().expect("closed");
    drop(store);
    // A payload bit of the fifth long-lived batch, wherever it lies.
    let victim = &kept[4];
    let names = world.memory.list("journal-").expect("listed");
    let (name, position) = names
        .iter()
        .find_map(|name| {
            let bytes = world.memory.read_file(name).expect("readable");
            let at = bytes.windows(victim.len()).position(|window| window == &victim[..])?;
            Some((name.clone(), (at + victim.len() - 3) as u64))
        })
        .expect("the batch is in the journal");
    world.memory.flip_bit(&name, position, 3).expect("flipped");

    let (store, _) = world.try_open().expect("opens");
    let long = store.log(long.partition()).expect("the log");
    let (_, freed) = compact(&store);
    assert!(freed >= 8, "{freed}: only the segment with the damage stays");
    assert!(world.memory.exists(&name).expect("known"), "the damaged segment was given away");
    let damaged = long.damaged();
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    assert_eq!((damaged[0].base, damaged[0].next), (offset(4), offset(5)));
    for (at, batch) in kept.iter().enumerate().filter(|(at, _)| *at != 4) {
        let limit = ReadLimit { bytes_max: 1, below: long.log_end() };
        let (batches, _) = crate::world::read(&long, offset(at as u64), limit).expect("readable");
        assert_eq!(&batches[0], batch, "offset {at}");
    }
}

// Catches a recovery that leaves it to readers to find that a copy is damaged.
#[test]
fn recovery_notices_a_damaged_copy() {
    let world = World::new(35);
    let store = world.open();
    let (_, long, kept) = mixed(&store, 600);
    compact(&store);
    // Or the last commit could be taken for a torn one.
    store.step_idle();
    store.close().expect("closed");
    drop(store);
    // One of the copies, and what a segment's earlier life may have of it.
    let is_copy = |entry: &[u8]| &entry[..4] == b"SBEN" && entry[60] == 9;
    let base_of = |entry: &[u8]| u64::from_le_bytes(*entry[24..].first_chunk().expect("eight bytes"));
    let mut lost = None;
    for name in world.memory.list("journal-").expect("listed").into_iter().rev() {
        let bytes = world.memory.read_file(&name).expect("readable");
        for at in (4096..bytes.len() - 200).step_by(8).rev().filter(|at| is_copy(&bytes[*at..*at + 64])) {
            if *lost.get_or_insert(base_of(&bytes[at..])) == base_of(&bytes[at..]) {
                world.memory.flip_bit(&name, at as u64 + 130, 1).expect("flipped");
            }
        }
    }
    let base = lost.expect("something was copied");
    // So that all of the journal is replayed.
    world.index.wipe();
    let (store, report) = world.try_open().expect("opens");
    assert!(!report.journal.damaged.is_empty());
    let long = store.log(long.partition()).expect("the log");
    let damaged: Vec<_> = long.damaged().iter().map(|range| (range.base, range.next)).collect();
    assert_eq!(damaged, [(offset(base), offset(base + 1))], "of {} batches", kept.len());
}

// Catches a compaction that needs the very space it is to win, or that takes the last of it.
#[test]
fn a_full_disk_heals_by_compaction() {
    let world = World::new(34);
    world.memory.set_capacity(1500 * 1024);
    let store = world.open();
    let retention = Retention { time_ms: Some(1_000), bytes: None };
    let options = LogOptions { retention, ..LogOptions::default() };
    let (short, long) = (store.create_log(partition(0), options).expect("created"), create(&store, 1));
    let fill = |until: &dyn Fn(bool) -> bool| {
        for i in 0..10_000_u64 {
            let log = if i % 20 == 0 { &long } else { &short };
            let (record_bytes, time_ms) = if i % 20 == 0 { (50, 50_000) } else { (900, 1_000) };
            let spec = Spec { record_bytes, time_ms, salt: i, ..Spec::default() };
            let refused = log.append(crate::world::batch(log.log_end(), &spec)).is_err();
            settle(&store);
            if until(refused) {
                return;
            }
        }
        panic!("the disk never filled up");
    };
    fill(&|_| store.status().full);
    let kept = read_all(&long).expect("readable");
    for _ in 0..3 {
        store.apply_retention(NOW);
        settle(&store);
    }
    assert_eq!(store.metrics().segments_recycled.get(), 0, "everything is pinned");
    let (_, freed) = compact(&store);
    assert!(freed > 3, "{freed}");
    assert!(!store.status().full);
    assert_eq!(read_all(&long).expect("readable"), kept);

    // To the last batch that is taken: a little is kept for what frees space.
    fill(&|refused| refused);
    let kept = read_all(&long).expect("readable");
    for _ in 0..3 {
        store.apply_retention(NOW);
        settle(&store);
    }
    assert!(store.status().full && store.status().read_only.is_none());
    let (_, freed) = compact(&store);
    assert!(freed > 0 && !store.status().full);
    assert_eq!(read_all(&long).expect("readable"), kept);
}

// Catches a dump or a verification that does not know what a copy is.
#[test]
fn the_tools_understand_copies() {
    let directory = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(streambus_storage::clock::ManualClock::new(NOW));
    let config = streambus_storage::config::StoreConfig::tiny();
    let (store, _) = Store::open_dir(directory.path(), config, clock).expect("opens");
    let wait = |log: &PartitionLog| {
        while log.synced_end() < log.log_end() {
            std::thread::yield_now();
        }
    };
    let (short, long) = (create(&store, 0), create(&store, 1));
    for i in 0..600 {
        append(&short, &Spec { record_bytes: 900, salt: i, ..Spec::default() });
        if i % 20 == 0 {
            append(&long, &Spec { record_bytes: 50, salt: i, ..Spec::default() });
        }
        wait(&short);
    }
    wait(&long);
    short.trim(short.log_end()).expect("trimmed");
    let kept = read_all(&long).expect("readable");
    let mut freed = 0;
    while freed < 5 {
        // Commits and checkpoints come from threads of their own.
        freed += store.compact_step(NOW, u64::MAX).segments_freed;
        std::thread::yield_now();
    }
    store.close().expect("closed");
    drop(store);
    let report = inspect::verify_dir(directory.path()).expect("a data directory");
    assert!(report.ok, "{:?}", report.damaged);
    let mut dump = Vec::new();
    inspect::dump_dir(directory.path(), &mut dump).expect("dumped");
    let dump = String::from_utf8(dump).expect("text");
    // A copy is copied again when its own segment is freed: how often is the threads' affair.
    let copies = dump.lines().filter_map(|line| line.split_once(" rewrite offsets=")?.1.split_whitespace().next());
    let rewritten = copies.collect::<BTreeSet<_>>().len();
    assert!(rewritten > 0 && rewritten <= kept.len(), "{rewritten}");
}
