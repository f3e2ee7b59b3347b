//! An index that is damaged, that panics, or that changes while somebody looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use streambus_protocol::timestamp::Timestamp;
use streambus_protocol::topic_config::{Durability, Retention};
use streambus_storage::error::{AppendError, IndexError};
use streambus_storage::index::Change;
use streambus_storage::partition_log::{LogOptions, PartitionLog};
use streambus_storage::store::Store;

use crate::hooked_index::{Call, HookedIndex};
use crate::world::{Spec, World, append, batch, create, fill, offset, partition, read_all, settle};

/// A world whose logs spill to the index early, and their content.
fn spilling(seed: u64) -> (World, Arc<HookedIndex>) {
    let mut world = World::new(seed);
    world.config.extents_in_memory_max = 16;
    let index = HookedIndex::new(world.index.clone());
    (world, index)
}

// Catches a start that fails for ever on one damaged block of the index, whichever call meets it.
#[test]
fn an_index_damaged_anywhere_in_an_opening_is_rebuilt_at_once() {
    let mut calls = 1;
    loop {
        let (world, index) = spilling(1);
        let store = world.open_with(index.clone()).expect("opens").0;
        let logs = [create(&store, 0), create(&store, 1)];
        for _ in 0..30 {
            logs.iter().for_each(|log| fill(&store, log, 1, 2_000));
        }
        logs[0].trim(offset(10)).expect("trimmed");
        logs[1].truncate(offset(20)).expect("truncated");
        settle(&store);
        let content = logs.clone().map(|log| read_all(&log).expect("readable"));
        drop((logs, store));
        world.disk.restart();
        world.index.crash();

        let (left, hit) = (Arc::new(AtomicUsize::new(calls)), Arc::new(AtomicUsize::new(0)));
        let (seen, healed) = (hit.clone(), Mutex::new(false));
        index.hook(move |call| {
            // What is emptied as a whole is well again.
            if let Call::Write([Change::DeleteRange { from, .. }, ..]) = call
                && from.first() != Some(&b'E')
                && from.first() != Some(&b'S')
            {
                *healed.lock() = seen.load(Ordering::Relaxed) > 0;
            }
            if *healed.lock() || left.load(Ordering::Relaxed) > 1 {
                left.fetch_sub(usize::from(left.load(Ordering::Relaxed) > 1), Ordering::Relaxed);
                return Ok(());
            }
            seen.fetch_add(1, Ordering::Relaxed);
            Err(IndexError::Damaged("a block does not match its checksum".to_owned()))
        });
        let (store, report) = world.open_with(index.clone()).expect("a damaged index never stops a broker");
        index.unhook();
        for (p, content) in (0..).zip(&content) {
            let log = store.log(partition(p)).expect("the log");
            assert_eq!(&read_all(&log).expect("readable"), content, "call {calls}");
        }
        if hit.load(Ordering::Relaxed) == 0 {
            break;
        }
        assert!(report.index_rebuilt, "call {calls}");
        calls += 1;
    }
    assert!(calls > 12, "an opening calls the index more than {calls} times");
}

// Catches maintenance that ends silently: extents and checkpoints would pile up until the memory is full.
#[test]
fn a_panic_of_maintenance_stops_writing_and_is_said() {
    let (world, index) = spilling(2);
    let store = world.open_with(index.clone()).expect("opens").0;
    let log = create(&store, 0);
    fill(&store, &log, 2, 500);
    index.hook(|call| match call {
        Call::Write(_) => panic!("a defect that this test planted"),
        Call::Read | Call::Flush => Ok(()),
    });
    let mut refused = None;
    for _ in 0..400 {
        match log.append(batch(log.log_end(), &Spec { record_bytes: 2_000, ..Spec::default() })) {
            Ok(_) => settle(&store),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    assert!(matches!(refused, Some(AppendError::ReadOnly(_))), "{refused:?}");
    let reason = store.status().read_only.expect("the status says so");
    assert!(reason.contains("maintenance panicked"), "{reason}");
    index.unhook();
    let content = read_all(&log).expect("reads go on");
    drop((log, store));
    world.disk.restart();
    world.index.crash();
    let store = world.open();
    assert_eq!(read_all(&store.log(partition(0)).expect("the log")).expect("readable"), content);
}

#[test]
fn a_panic_of_retention_is_said_and_the_next_pass_tries_again() {
    let (world, index) = spilling(3);
    let store = world.open_with(index.clone()).expect("opens").0;
    let options = LogOptions {
        retention: Retention { time_ms: None, bytes: Some(5_000) },
        durability: Durability::Sync,
        ..LogOptions::default()
    };
    let log = store.create_log(partition(0), options).expect("created");
    fill(&store, &log, 40, 2_000);
    index.hook(|_| panic!("a defect that this test planted"));
    assert_eq!(store.apply_retention(Timestamp::from_millis(0)).failures, 1);
    index.unhook();
    assert_eq!(store.status().panicked, ["retention"]);
    assert_eq!(store.status().read_only, None, "nothing that was stored depends on it");
    assert_eq!(store.apply_retention(Timestamp::from_millis(0)).logs_trimmed, 1);
}

// Catches an extent that grows behind its copy on the way to the index: the batch would be forgotten with it.
#[test]
fn a_commit_while_extents_spill_loses_nothing() {
    let mut world = World::new(4);
    world.config.extents_in_memory_max = 16;
    let index = HookedIndex::new(world.index.clone());
    let store = world.open_with(index.clone()).expect("opens").0;
    settle(&store);
    let logs: Vec<_> = (0..20).map(|p| create(&store, p)).collect();
    for log in &logs {
        append(log, &Spec::default());
    }
    // Its batch is the youngest: the next one could join it.
    let last = logs.last().expect("there are logs").clone();
    logs[1].trim(offset(1)).expect("trimmed");
    // Maintenance removes what was trimmed first: a batch comes then. It commits while the extents are written.
    let (inner, log, mut appended) = (store.clone(), last.clone(), false);
    index.hook(move |call| {
        if let Call::Write(changes) = call {
            // The key of an extent: its tag, then its log's number.
            let own = [&b"E"[..], &log.id().get().to_be_bytes()].concat();
            let spills =
                changes.iter().any(|change| matches!(change, Change::Put { key, .. } if key.starts_with(&own)));
            if spills && appended {
                inner.step();
            } else if !appended {
                appended = true;
                append(&log, &Spec { salt: 9, ..Spec::default() });
            }
        }
        Ok(())
    });
    settle(&store);
    index.unhook();
    settle(&store);
    assert_eq!(last.log_end(), offset(2), "the batch came in between");
    assert!(store.status().extents_in_memory < 8, "they were spilled");
    // Pushes the batches out of the cache: they are read from the disk.
    fill(&store, &logs[2], 40, 3_000);
    assert_eq!(read_all(&last).expect("readable").len(), 2);
    assert_eq!(store.status().damaged, []);
}

/// A log that may keep 30,000 bytes and holds more, some of it in the index and some in memory.
fn oversized(seed: u64) -> (World, Arc<HookedIndex>, Store, PartitionLog) {
    let mut world = World::new(seed);
    world.config.extents_in_memory_max = 1_000;
    let index = HookedIndex::new(world.index.clone());
    let store = world.open_with(index.clone()).expect("opens").0;
    let options = LogOptions {
        retention: Retention { time_ms: None, bytes: Some(30_000) },
        durability: Durability::Sync,
        ..LogOptions::default()
    };
    let log = store.create_log(partition(0), options).expect("created");
    fill(&store, &log, 60, 2_000);
    (world, index, store, log)
}

// Catches retention that looks at memory after the index: what moves in between is seen in neither.
#[test]
fn retention_sees_extents_that_move_to_the_index_meanwhile() {
    let (_world, _index, store, log) = oversized(5);
    store.apply_retention(Timestamp::from_millis(0));
    let undisturbed = log.log_start();
    assert!(undisturbed > offset(20));

    let (_world, index, store, log) = oversized(5);
    let before = store.status().extents_in_memory;
    assert!(before > 10, "{before} extents are still in memory");
    let (inner, mut moved) = (store.clone(), false);
    let other = create(&store, 1);
    index.hook(move |call| {
        if matches!(call, Call::Read) && !moved {
            moved = true;
            // Another log fills the segment, and maintenance takes what was in it to the index.
            fill(&inner, &other, 40, 3_000);
        }
        Ok(())
    });
    store.apply_retention(Timestamp::from_millis(0));
    index.unhook();
    assert_eq!(log.log_start(), undisturbed);
}
