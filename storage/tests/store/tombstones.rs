//! What compaction by key waits for, and what it leaves: tombstones whose time comes, and records without a key.

use bytes::Bytes;
use streambus_protocol::batch::PlacedBatch;
use streambus_protocol::compression::Compression;
use streambus_protocol::timestamp::Timestamp;
use streambus_protocol::topic_config::Retention;
use streambus_storage::index::IndexStore;
use streambus_storage::partition_log::options::Compaction;
use streambus_storage::partition_log::{Agreed, LogOptions, PartitionLog};
use streambus_storage::store::Store;

use crate::cleaning::{batch, clean, compacted, create, newest, records, rules};
use crate::world::{Spec, World, append, offset, partition, read_all, settle};

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
    add(&store, &log, 1, value(1));
    add(&store, &log, 1, None);
    (2..60).for_each(|key| add(&store, &log, key, value(key)));
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
    assert_eq!(newest(&records(&log))[&1], (1, None), "its time has not come");
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
