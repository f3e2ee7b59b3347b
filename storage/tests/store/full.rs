//! A full disk: appends are refused, everything else works, and it heals by itself.

use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;
use streambus_storage::disk::faulty::Fault;
use streambus_storage::error::AppendError;
use streambus_storage::partition_log::PartitionLog;
use streambus_storage::store::Store;

use crate::world::{Spec, World, batch, create, partition, read_all, settle};

/// Appends until the disk is full; returns how many batches went in.
fn append_until_full(store: &Store, log: &PartitionLog) -> usize {
    for count in 0..10_000 {
        let mut tries = 0;
        loop {
            match log.append(batch(log.log_end(), &Spec { record_bytes: 900, ..Spec::default() })) {
                Ok(_) => break,
                Err(AppendError::Full(problem)) => {
                    assert!(problem.contains("free"), "{problem}");
                    return count;
                }
                Err(AppendError::Busy { .. }) if tries < 10 => tries += 1,
                Err(error) => panic!("{error}"),
            }
            settle(store);
        }
        settle(store);
    }
    panic!("the disk never filled up");
}

// Catches a broker that latches, wedges or loses data on ENOSPC, or that cannot trim its way out of it.
#[test]
fn a_full_disk_refuses_appends_serves_reads_and_heals() {
    let world = World::new(21);
    world.memory.set_capacity(700 * 1024);
    let store = world.open();
    let log = create(&store, 0);
    let stored = append_until_full(&store, &log);
    assert!(stored > 100, "{stored} batches of one 4 KiB block each on 700 KiB");
    assert_eq!(read_all(&log).expect("readable").len(), stored);
    let status = store.status();
    assert!(status.full && status.read_only.is_none());

    // Healing by retention: the trim is accepted on the full disk, and the space is reused.
    let middle = crate::world::offset(u64::try_from(stored).expect("small") / 2);
    log.trim(middle).expect("a full disk takes trims");
    settle(&store);
    let recycled = store.apply_retention(Timestamp::from_millis(0)).segments_recycled;
    assert!(recycled > 0);
    settle(&store);
    assert!(append_until_full(&store, &log) > 30);

    // Healing from outside: somebody made room.
    world.memory.set_capacity(2 << 20);
    // The first refused append makes the journal look again.
    assert_eq!(append_until_full(&store, &log), 0);
    settle(&store);
    assert!(append_until_full(&store, &log) > 200);
    let (store, report) = world.crash_and_open(store);
    assert_eq!(report.journal.damaged, []);
    let log = store.log(partition(0)).expect("the log");
    assert_eq!(
        read_all(&log).expect("readable").len() as u64,
        log.log_start().distance_to(log.log_end()).expect("order")
    );
}

// Catches a disk that refuses and is reported as a full one: nobody would look at it, or move what it leads away.
#[test]
fn a_disk_that_refuses_to_reserve_space_is_not_called_full() {
    let world = World::new(23);
    let store = world.open();
    let log = create(&store, 0);
    world.disk.plan(Fault::BreakAllocate(world.disk.counters().allocations + 1));
    let refused = (0..1_000).find_map(|_| {
        let outcome = log.append(batch(log.log_end(), &Spec { record_bytes: 900, ..Spec::default() }));
        settle(&store);
        outcome.err().filter(|error| !matches!(error, AppendError::Busy { .. }))
    });
    assert!(matches!(refused, Some(AppendError::ReadOnly(_))), "{refused:?}");
    let status = store.status();
    assert!(!status.full && status.read_only.is_some_and(|reason| reason.contains("segment roll")));
    assert!(log.synced_end() > Offset::ZERO && read_all(&log).is_ok());
}

// Catches a reserve that is configured and not kept.
#[test]
fn the_reserve_stays_free() {
    let mut world = World::new(22);
    world.memory.set_capacity(1 << 20);
    world.config.disk_reserve_bytes = 400 * 1024;
    let store = world.open();
    let log = create(&store, 0);
    append_until_full(&store, &log);
    let status = store.status();
    assert!(status.full && status.free_bytes >= 400 * 1024, "{} bytes are free", status.free_bytes);
}
