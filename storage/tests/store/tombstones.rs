//! What compaction by key waits for, and what it leaves: tombstones whose time comes, and records without a key.

use bytes::Bytes;
use streambus_protocol::batch::PlacedBatch;
use streambus_protocol::compression::Compression;
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;
use streambus_protocol::topic_config::Retention;
use streambus_storage::cleaner::deletions::Deletions;
use streambus_storage::index::IndexStore;
use streambus_storage::partition_log::options::Compaction;
use streambus_storage::partition_log::{Agreed, LogOptions, PartitionLog, ReadLimit};
use streambus_storage::store::Store;

use crate::cleaning::{batch, clean, compacted, create, flip_where, newest, records, rules};
use crate::world::{Spec, World, append, offset, partition, read, read_all, settle};

fn value(key: u8) -> Option<Bytes> {
    Some(Bytes::from(vec![key; 300]))
}

fn add(store: &Store, log: &PartitionLog, key: u8, value: Option<Bytes>) {
    log.append(batch(log.log_end(), &[(key, value)], Compression::None, 1_000)).expect("accepted");
    settle(store);
}

/// A log whose key 1 was deleted, and compacted at 5,000: its tombstone may go a second later.
fn with_a_tombstone_that_waits(world: &World) -> Store {
    let store = world.open();
    let log = create(&store, 0, rules());
    // Apart from one another, or what is left of both is one.
    for (key, value) in [(1, value(1)), (2, value(2)), (1, None)] {
        add(&store, &log, key, value);
    }
    (3..60).for_each(|key| add(&store, &log, key, value(key)));
    assert_eq!(clean(&store, 5_000), 1, "the deleted record");
    store
}

// Catches a tombstone that stays until something is written, because its time is known to the process only that met it.
#[test]
fn a_tombstone_goes_when_its_time_comes_although_the_broker_was_restarted_and_nothing_is_written() {
    let world = World::new(51);
    let store = with_a_tombstone_that_waits(&world);
    store.close().expect("closed");
    drop(store);
    let store = world.open();
    let log = store.log(partition(0)).expect("the log");
    log.set_agreed(Agreed::Synced);
    assert_eq!(clean(&store, 5_999), 0);
    assert_eq!(newest(&records(&log))[&1], (2, None), "its time has not come");
    assert_eq!(clean(&store, 6_000), 1);
    assert_eq!(newest(&records(&log)).get(&1), None);
}

// Catches a tombstone that nobody goes back to: it was met, and stored with its horizon, by a cleaning of which a power cut
// left the index without a word, and what is left to compact is too little to be worth while.
#[test]
fn a_tombstone_that_a_forgotten_cleaning_met_goes_when_its_time_comes() {
    let mut world = World::new(52);
    world.config.segment_bytes = 512 << 10;
    let store = world.open();
    let log = create(&store, 0, rules());
    // The index counts from its first checkpoint on.
    let mut keys = 2..240;
    while store.metrics().checkpoints.get() == 0 {
        let key = keys.next().expect("a segment is full by now");
        add(&store, &log, key, value(key));
    }
    clean(&store, 5_000);
    store.close().expect("closed");
    drop((log, store));
    world.index.flush().expect("flushed");

    let store = world.open();
    let log = opened(&store, 0);
    add(&store, &log, 1, value(1));
    add(&store, &log, 1, None);
    (240..255).for_each(|key| add(&store, &log, key, value(key)));
    let checkpoints = store.metrics().checkpoints.get();
    assert_eq!(clean(&store, 5_000), 1, "the deleted record");
    assert_eq!(store.metrics().checkpoints.get(), checkpoints, "the index was flushed: this tests nothing");
    drop(log);
    let (store, _) = world.crash_and_open(store);
    let log = opened(&store, 1_000_000);
    clean(&store, 5_500);
    assert_eq!(newest(&records(&log)).get(&1).map(|(_, value)| value.clone()), Some(None), "its time has not come");
    clean(&store, 7_000);
    assert_eq!(newest(&records(&log)).get(&1), None);
}

/// The log in a later life, compacted when so much of it is dirty.
fn opened(store: &Store, min_dirty_millionths: u32) -> PartitionLog {
    store.set_options(partition(0), compacted(Compaction { min_dirty_millionths, ..rules() })).expect("set");
    let log = store.log(partition(0)).expect("the log");
    log.set_agreed(Agreed::Synced);
    log
}

/// Flips a bit in what is left of the log's first batch, and meets it.
fn lose_first(world: &World, log: &PartitionLog) {
    let left = read_all(log).expect("readable").remove(0);
    let limit = ReadLimit { bytes_max: 1, below: log.log_end() };
    // Older copies of it may lie before the one that counts.
    while read(log, Offset::ZERO, limit).is_ok() {
        flip_where(world, |bytes| bytes.windows(left.len()).position(|window| window == &left[..]).map(|at| at + 30));
    }
    assert_eq!(log.damaged().len(), 1);
}

/// As [`with_a_tombstone_that_waits`], without a cache, and the first batches of a replica that was never compacted: the
/// deleted record, another, and the tombstone.
fn beside_an_uncompacted_replica(world: &mut World) -> (Store, Vec<PlacedBatch>) {
    world.config.tail_cache_bytes = 0;
    let theirs = [(0, 1, value(1)), (1, 2, value(2)), (2, 1, None)];
    let theirs = theirs.map(|(at, key, value)| batch(offset(at), &[(key, value)], Compression::None, 1_000));
    (with_a_tombstone_that_waits(world), theirs.to_vec())
}

// Catches a repair that brings a deleted record back for ever: its tombstone has gone here, and where the record comes from
// nothing was compacted yet.
#[test]
fn a_repair_leaves_out_what_was_deleted_by_a_tombstone_that_has_gone() {
    let mut world = World::new(54);
    let (store, theirs) = beside_an_uncompacted_replica(&mut world);
    let log = store.log(partition(0)).expect("the log");
    assert_eq!(clean(&store, 6_000), 1, "the tombstone");
    lose_first(&world, &log);
    let lost = vec![theirs[0].as_bytes().clone()];
    let mut deletions = Deletions::for_keys_of(&theirs[..1]);
    deletions.note(&theirs[1..]);
    log.repair_but(lost.clone(), &deletions).expect("repaired");
    settle(&store);
    assert_eq!((log.damaged(), newest(&records(&log)).get(&1)), (vec![], None));
    assert_eq!(store.metrics().batches_repaired.get(), 1, "its offsets are there");
    // What nobody knows to be deleted is put in place, whoever may have dropped what.
    lose_first(&world, &log);
    log.repair(lost).expect("repaired");
    settle(&store);
    assert_eq!(newest(&records(&log))[&1], (0, value(1)));
}

// Catches a repair that leaves records out before their time: a tombstone that is still here deletes what it deletes, after
// whatever lag and retention. And one that goes while what it deletes may come back.
#[test]
fn a_tombstone_stays_above_damage_and_what_it_deletes_may_come_back() {
    let mut world = World::new(55);
    let (store, theirs) = beside_an_uncompacted_replica(&mut world);
    let log = store.log(partition(0)).expect("the log");
    lose_first(&world, &log);
    assert_eq!(clean(&store, 50_000), 0, "the tombstone's time is over, and it stays");
    let mut deletions = Deletions::for_keys_of(&theirs[..1]);
    deletions.note(&theirs[1..]);
    log.repair_but(vec![theirs[0].as_bytes().clone()], &deletions).expect("repaired");
    settle(&store);
    assert_eq!(log.damaged(), []);
    let found = records(&log);
    assert_eq!((found.get(&0), newest(&found).get(&1)), (Some(&(1, value(1))), Some(&(2, None))));
    assert_eq!(clean(&store, 60_000), 2, "both at once");
    assert_eq!(newest(&records(&log)).get(&1), None);
}

/// The offsets of the records without a key.
fn keyless(log: &PartitionLog) -> Vec<u64> {
    let batches = read_all(log).expect("readable").into_iter();
    let batches = batches.map(|bytes| PlacedBatch::verify_stored(bytes).expect("a valid batch"));
    let records = batches.flat_map(|batch| batch.records(1 << 20).expect("expands").collect::<Vec<_>>());
    let records = records.map(|stored| stored.expect("a valid record"));
    records.filter(|stored| stored.record.key.is_none()).map(|stored| stored.offset.get()).collect()
}

// Catches a setting that loses records: nothing has taken the place of those without a key. Whoever wants them gone lets
// them go by age.
#[test]
fn what_has_no_key_stays_when_its_topic_is_compacted_later_and_goes_by_age() {
    let world = World::new(53);
    let store = world.open();
    let log = store.create_log(partition(0), LogOptions::default()).expect("created");
    for salt in 0..60 {
        // The first of two records has a key.
        append(&log, &Spec { records: 2, record_bytes: 300, salt, keys: vec![7], ..Spec::default() });
        settle(&store);
    }
    let without: Vec<u64> = (0..60).map(|i| 2 * i + 1).collect();
    store.set_options(partition(0), compacted(rules())).expect("set");
    log.set_agreed(Agreed::Synced);
    assert!(clean(&store, 5_000) > 30, "records of the one key");
    assert_eq!(keyless(&log), without);
    let by_age = Retention { time_ms: Some(1_000), bytes: None };
    let both = LogOptions { retention: by_age, deletes: true, ..compacted(rules()) };
    store.set_options(partition(0), both).expect("set");
    store.apply_retention(Timestamp::from_millis(1_000_000));
    settle(&store);
    assert!(log.log_start() > offset(100), "{}", log.log_start());
    assert!(keyless(&log).len() < 10);
}
