//! Log compaction in the store: what a key had last is always there, whatever else goes, and whenever the power does.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use streambus_protocol::batch::{BatchBuilder, BatchOptions, PlacedBatch, UnverifiedBatch};
use streambus_protocol::compression::Compression;
use streambus_protocol::offset::Offset;
use streambus_protocol::record::Record;
use streambus_protocol::timestamp::Timestamp;
use streambus_storage::disk::Disk;
use streambus_storage::disk::faulty::Fault;
use streambus_storage::partition_log::options::Compaction;
use streambus_storage::partition_log::{Agreed, LogOptions, PartitionLog, ReadLimit};
use streambus_storage::store::Store;

use crate::world::{World, epoch, offset, partition, read, read_all, settle};

/// Value of a key at an offset; `None` for a tombstone.
pub type Written = BTreeMap<u64, (u8, Option<Bytes>)>;

pub fn rules() -> Compaction {
    Compaction { delete_retention_ms: 1_000, min_lag_ms: 0, min_dirty_millionths: 300_000 }
}

pub fn compacted(compaction: Compaction) -> LogOptions {
    LogOptions { compaction: Some(compaction), deletes: false, ..LogOptions::default() }
}

pub fn create(store: &Store, index: u32, compaction: Compaction) -> PartitionLog {
    let log = store.create_log(partition(index), compacted(compaction)).expect("created");
    log.set_agreed(Agreed::Synced);
    log
}

pub fn batch(base: Offset, records: &[(u8, Option<Bytes>)], codec: Compression, time_ms: i64) -> PlacedBatch {
    let mut builder = BatchBuilder::new(BatchOptions { compression: codec, ..BatchOptions::default() });
    for (key, value) in records {
        let key = Some(Bytes::from(vec![*key]));
        let timestamp = Timestamp::from_millis(time_ms);
        builder.push(&Record { key, value: value.clone(), headers: Vec::new(), timestamp }).expect("fits");
    }
    let bytes = builder.build().expect("not empty");
    UnverifiedBatch::new(bytes).verify(1 << 20).expect("just built").place(base, epoch(0))
}

/// Appends the records as one batch, which the disk has then.
fn add(store: &Store, log: &PartitionLog, records: &[(u8, Option<Bytes>)]) -> PlacedBatch {
    let batch = batch(log.log_end(), records, Compression::None, 1_000);
    log.append(batch.clone()).expect("accepted");
    settle(store);
    batch
}

/// A value that is worth the space of an entry.
fn value(byte: u8) -> Option<Bytes> {
    Some(Bytes::from(vec![byte; 300]))
}

/// `count` batches of two records over few keys; notes what was written.
fn fill(store: &Store, log: &PartitionLog, random: &mut SmallRng, count: usize, written: &mut Written) {
    for _ in 0..count {
        let codec = Compression::ALL[random.random_range(0..Compression::ALL.len())];
        let records: Vec<_> = (0..2)
            .map(|_| {
                let value = (!random.random_bool(0.25))
                    .then(|| Bytes::from((0..300).map(|_| random.random()).collect::<Vec<u8>>()));
                (random.random_range(0..20_u8), value)
            })
            .collect();
        let base = log.log_end().get();
        if log.append(batch(log.log_end(), &records, codec, 1_000)).is_err() {
            return;
        }
        settle(store);
        if log.synced_end() == log.log_end() {
            written.extend((base..).zip(records));
        }
    }
}

pub fn clean(store: &Store, now_ms: i64) -> u64 {
    let mut removed = 0;
    for _ in 0..10_000 {
        let outcome = store.clean_step(Timestamp::from_millis(now_ms), 2_000);
        settle(store);
        removed += outcome.records_removed;
        if outcome.is_idle {
            return removed;
        }
    }
    panic!("the cleaning never ends");
}

/// The records of a log, whose batches must have no gap.
pub fn records(log: &PartitionLog) -> Written {
    let mut cursor = log.log_start();
    let mut found = Written::new();
    for bytes in read_all(log).expect("readable") {
        let batch = PlacedBatch::verify_stored(bytes).expect("a valid batch");
        assert_eq!(batch.base_offset(), cursor, "no gap");
        cursor = batch.next_offset();
        for stored in batch.records(1 << 20).expect("expands") {
            let stored = stored.expect("a valid record");
            found.insert(stored.offset.get(), (stored.record.key.expect("a key")[0], stored.record.value));
        }
    }
    assert_eq!(cursor, log.log_end());
    found
}

pub fn newest(records: &Written) -> BTreeMap<u8, (u64, Option<Bytes>)> {
    records.iter().map(|(at, (key, value))| (*key, (*at, value.clone()))).collect()
}

/// Every record is one that was written, and every key has its newest, but for tombstones whose time has come.
fn check(log: &PartitionLog, written: &Written, tombstones_may_go: bool) {
    assert_eq!(log.damaged(), []);
    let found = records(log);
    for (at, record) in &found {
        assert_eq!(Some(record), written.get(at), "offset {at}");
    }
    let (found, expected) = (newest(&found), newest(written));
    for (key, (at, value)) in &expected {
        let is_gone = tombstones_may_go && value.is_none() && !found.contains_key(key);
        assert!(is_gone || found.get(key) == Some(&(*at, value.clone())), "key {key}, offset {at}");
    }
}

/// Into the payload of an entry or a batch with records.
const WITHIN: usize = 150;

/// Flips a bit of the journal where `find` says.
pub fn flip_where(world: &World, find: impl Fn(&[u8]) -> Option<usize>) {
    let names = world.memory.list("journal-").expect("listed");
    let found = names.into_iter().find_map(|name| {
        let at = find(&world.memory.read_file(&name).expect("readable"))?;
        Some((name, at as u64))
    });
    let (name, position) = found.expect("it is in the journal");
    world.memory.flip_bit(&name, position, 1).expect("flipped");
}

// Catches a cleaning that does nothing, that loses a key's newest record, or that a restart undoes.
#[test]
fn the_newest_record_of_each_key_stays_and_older_ones_go() {
    let mut world = World::new(41);
    // The cache has batches as they came.
    world.config.tail_cache_bytes = 0;
    let store = world.open();
    let log = create(&store, 0, rules());
    let (mut written, mut random) = (Written::new(), SmallRng::seed_from_u64(41));
    fill(&store, &log, &mut random, 400, &mut written);
    let before = log.size_bytes();
    let removed = clean(&store, 5_000);
    assert!(removed > 700, "{removed} of 800 records went, of 20 keys");
    assert_eq!(store.metrics().records_cleaned.get(), removed);
    check(&log, &written, false);
    assert!(records(&log).len() < 100);
    // Retention has nothing to say, and the space comes back.
    for _ in 0..3 {
        store.apply_retention(Timestamp::from_millis(i64::MAX));
        settle(&store);
    }
    assert_eq!(log.log_start(), Offset::ZERO);
    while !store.compact_step(Timestamp::from_millis(5_000), u64::MAX).is_idle {
        settle(&store);
    }
    assert!(store.metrics().segments_compacted.get() > 0);
    assert!(log.size_bytes() < before / 4, "{} of {before} bytes", log.size_bytes());
    check(&log, &written, false);
    let kept = records(&log);

    let (store, report) = world.crash_and_open(store);
    assert_eq!(report.journal.damaged, []);
    let log = store.log(partition(0)).expect("the log");
    assert_eq!(records(&log), kept);
    assert_eq!(log.options(), compacted(rules()), "what the log is like is stored");
    assert_eq!(clean(&store, 5_000), 0, "nobody has said yet what is committed");
    store.close().expect("closed");
    drop(store);
    world.index.wipe();
    let store = world.open();
    let log = store.log(partition(0)).expect("the log");
    assert_eq!(records(&log), kept, "a rebuilt index names what was stored anew");
    log.set_agreed(Agreed::Synced);
    fill(&store, &log, &mut random, 100, &mut written);
    clean(&store, 5_500);
    check(&log, &written, false);
    // Every tombstone has had its second.
    fill(&store, &log, &mut random, 200, &mut written);
    clean(&store, 50_000);
    clean(&store, 60_000);
    check(&log, &written, true);
    // The last extent is never cleaned.
    let end = log.log_end().get() - 8;
    let (left, deleted) = (newest(&records(&log)), newest(&written));
    let deleted: Vec<_> = deleted.iter().filter(|(_, (at, value))| value.is_none() && *at < end).collect();
    assert!(!deleted.is_empty() && deleted.iter().all(|(key, _)| !left.contains_key(key)), "{deleted:?}");
}

// Catches a cleaning above what the cluster has agreed on, of young records, or for a few dirty ones.
#[test]
fn what_is_not_committed_or_young_stays() {
    let world = World::new(42);
    let store = world.open();
    let lazy = Compaction { min_lag_ms: 10_000, ..rules() };
    let log = create(&store, 0, lazy);
    let (mut written, mut random) = (Written::new(), SmallRng::seed_from_u64(42));
    fill(&store, &log, &mut random, 200, &mut written);
    log.set_agreed(Agreed::Unknown);
    assert_eq!(clean(&store, 100_000), 0);
    log.set_agreed(Agreed::Below(offset(100)));
    assert_eq!(clean(&store, 5_000), 0, "the records are four seconds old");
    assert!(clean(&store, 100_000) > 0);
    check(&log, &written, false);
    let above: Vec<_> = records(&log).range(100..).map(|(at, _)| *at).collect();
    assert_eq!(above, (100..400).collect::<Vec<_>>(), "what is above the committed offset is untouched");
    // All but a little is clean now: not worth another cleaning.
    log.set_agreed(Agreed::Synced);
    clean(&store, 100_000);
    let kept = records(&log);
    fill(&store, &log, &mut random, 1, &mut written);
    assert_eq!(clean(&store, 100_000), 0);
    assert_eq!(records(&log).range(..400).count(), kept.len());
}

// Catches a copy that stops where another replica has nothing left, or that ends with other records.
#[test]
fn a_replica_goes_on_inside_what_another_has_dropped() {
    let (leader_world, follower_world) = (World::new(43), World::new(44));
    let (leader, follower) = (leader_world.open(), follower_world.open());
    let (log, copy) = (create(&leader, 0, rules()), create(&follower, 0, rules()));
    // One key: everything but the newest goes, in long stretches.
    let originals: Vec<_> = (0..200_u8).map(|i| add(&leader, &log, &[(7, value(i)), (7, value(i))])).collect();
    clean(&leader, 5_000);
    let stored: Vec<_> = read_all(&log).expect("readable");
    let stored = stored.into_iter().map(|bytes| PlacedBatch::verify_stored(bytes).expect("a valid batch"));
    let long =
        |batch: &PlacedBatch| batch.is_placeholder() && batch.base_offset().get() + 4 <= batch.last_offset().get();
    let inside = stored.clone().filter(long).nth(2).expect("long stretches of nothing").base_offset().get() + 2;
    assert!(stored.count() < 100, "what is left joins");
    // The follower had come so far.
    for batch in originals.into_iter().filter(|batch| batch.next_offset() <= offset(inside)) {
        copy.append(batch).expect("accepted");
        settle(&follower);
    }
    assert_eq!(copy.log_end(), offset(inside));
    while copy.log_end() < log.log_end() {
        let limit = ReadLimit { bytes_max: 1, below: log.log_end() };
        let (batches, _) = read(&log, copy.log_end(), limit).expect("readable");
        for bytes in batches {
            copy.append(PlacedBatch::verify_stored(bytes).expect("a valid batch")).expect("continues the log");
            settle(&follower);
        }
    }
    // From the tail cache of the copy just as from its disk.
    for from in [inside + 3, 399] {
        let limit = ReadLimit { bytes_max: 1, below: copy.log_end() };
        let (batches, _) = read(&copy, offset(from), limit).expect("readable");
        let first = PlacedBatch::verify_stored(batches[0].clone()).expect("a valid batch");
        assert!(first.base_offset() == offset(from) || first.record_count() > 0);
    }
    clean(&follower, 5_000);
    let all: Written = (0..400).map(|at| (at, (7, value(u8::try_from(at / 2).expect("small"))))).collect();
    check(&log, &all, false);
    check(&copy, &all, false);
}

// Catches a truncation that goes by batches as they came where log compaction has put one in place of many, durable or on
// its way to the disk.
#[test]
fn a_cut_within_what_nothing_is_left_of_takes_all_of_it() {
    for is_durable in [true, false] {
        let mut world = World::new(45);
        world.config.tail_cache_bytes = 1 << 20;
        let store = world.open();
        let log = create(&store, 0, rules());
        for _ in 0..100 {
            add(&store, &log, &[(7, value(7)), (7, value(7))]);
        }
        while !store.clean_step(Timestamp::from_millis(5_000), 1).is_idle {
            if is_durable {
                settle(&store);
            } else if store.metrics().cleaned_bytes.get() > 0 {
                break;
            }
        }
        let (cut, _) = log.truncate(offset(9)).expect("truncated");
        assert_eq!(cut, Offset::ZERO, "the stretch begins there");
        settle(&store);
        assert_eq!((log.damaged(), log.log_end()), (vec![], Offset::ZERO));
        let (store, _) = world.crash_and_open(store);
        let log = store.log(partition(0)).expect("the log");
        assert_eq!((log.damaged(), log.log_end()), (vec![], Offset::ZERO));
    }
}

/// Appends a record for each of the keys.
fn add_keys(store: &Store, log: &PartitionLog, keys: std::ops::Range<u8>) {
    for key in keys {
        add(store, log, &[(key, value(key))]);
    }
}

/// A record, the tombstone that deletes it, and enough other keys that both may be cleaned; returns the record's batch.
fn add_deleted(store: &Store, log: &PartitionLog) -> Bytes {
    let original = add(store, log, &[(1, value(1))]);
    add(store, log, &[(1, None)]);
    add_keys(store, log, 2..60);
    original.into_bytes()
}

/// Flips a bit of the first batch, which is `stored` in the journal, `within` bytes behind its beginning, and meets it.
fn decay_first(world: &World, log: &PartitionLog, stored: &[u8], within: usize) {
    flip_where(world, |bytes| bytes.windows(stored.len()).position(|window| window == stored).map(|at| at + within));
    read(log, Offset::ZERO, ReadLimit { bytes_max: 1, below: log.log_end() }).expect_err("damaged");
}

// Catches a tombstone that goes while what it deletes is damaged, so that a repair brings the deleted record back; and one
// that stays for ever because of damage that is no more.
#[test]
fn a_repair_brings_no_deleted_record_back() {
    let world = World::new(46);
    let store = world.open();
    let log = create(&store, 0, rules());
    let original = add_deleted(&store, &log);
    decay_first(&world, &log, &original, WITHIN);
    assert_eq!(log.damaged().len(), 1);
    for now in [5_000, 50_000, 60_000] {
        clean(&store, now);
    }
    log.repair(vec![original]).expect("repaired");
    settle(&store);
    assert_eq!(log.damaged(), []);
    assert_eq!(newest(&records(&log))[&1], (1, None), "the tombstone had to stay");
    add_keys(&store, &log, 60..120);
    for now in [70_000, 80_000, 90_000] {
        clean(&store, now);
    }
    assert_eq!(newest(&records(&log)).get(&1), None, "both are gone");
}

// Catches a log that counts as compacted where a repair has put what another replica had there, which need not be: the
// tombstone would go and leave the deleted record.
#[test]
fn what_a_repair_brings_back_is_compacted_again_before_its_tombstone_goes() {
    let mut world = World::new(48);
    world.config.tail_cache_bytes = 0;
    let store = world.open();
    let log = create(&store, 0, rules());
    let original = add_deleted(&store, &log);
    assert_eq!(clean(&store, 5_000), 1, "the deleted record");
    assert_eq!(newest(&records(&log))[&1], (1, None), "the tombstone's time has not come");
    // What is left of it decays. It has no payload but its header.
    let left = read_all(&log).expect("readable").remove(0);
    decay_first(&world, &log, &left, 30);
    log.repair(vec![original]).expect("repaired");
    settle(&store);
    assert_eq!(log.damaged(), []);
    assert!(records(&log).contains_key(&0), "the other replica had not been compacted");
    add_keys(&store, &log, 60..120);
    clean(&store, 70_000);
    assert_eq!(newest(&records(&log)).get(&1), None, "both are gone");
}

// Catches a recovery that serves what was compacted away, because what took its place is damaged.
#[test]
fn a_damaged_copy_does_not_bring_back_what_it_replaced() {
    let world = World::new(47);
    let store = world.open();
    let log = create(&store, 0, rules());
    for key in 0..30 {
        add(&store, &log, &[(7, value(7)), (key, value(7))]);
    }
    clean(&store, 5_000);
    store.step_idle();
    store.close().expect("closed");
    drop((log, store));
    // The copy of the batch with key 3: an entry of the kind rewrite, at offset 6.
    let is_copy = |entry: &[u8]| &entry[..4] == b"SBEN" && entry[24..32] == 6_u64.to_le_bytes() && entry[60] == 9;
    flip_where(&world, |bytes| {
        (4096..bytes.len() - 200).step_by(8).find(|at| is_copy(&bytes[*at..*at + 64])).map(|at| at + WITHIN)
    });
    for is_lost in [false, true] {
        if is_lost {
            world.index.wipe();
        }
        let (store, report) = world.try_open().expect("opens");
        assert_eq!(report.journal.damaged.len(), 1, "{:?}", report.journal.damaged);
        let log = store.log(partition(0)).expect("the log");
        let damaged: Vec<_> = log.damaged().iter().map(|range| (range.base, range.next)).collect();
        assert_eq!(damaged, [(offset(6), offset(8))], "the index is lost: {is_lost}");
    }
}

// Catches a step of cleaning or compaction after which a power cut loses a record, brings one back as newest, or leaves a
// hole.
#[test]
fn no_power_cut_during_a_cleaning_loses_a_key() {
    let mut cleaned = 0;
    for seed in 0..30 {
        let world = World::new(seed);
        let mut store = world.open();
        let mut random = SmallRng::seed_from_u64(seed);
        let mut written = Written::new();
        let mut log = create(&store, 0, rules());
        for _ in 0..6 {
            fill(&store, &log, &mut random, 80, &mut written);
            let at = world.disk.counters().mutations + random.random_range(1..25);
            world.disk.plan(if random.random_bool(0.8) {
                Fault::PowerCutAtMutation(at)
            } else {
                Fault::KillAtMutation(at)
            });
            for _ in 0..40 {
                store.clean_step(Timestamp::from_millis(5_000), random.random_range(1..9_000));
                store.compact_step(Timestamp::from_millis(5_000), random.random_range(1..9_000));
                for _ in 0..random.random_range(0..4) {
                    store.step();
                }
                if !world.disk.is_running() {
                    break;
                }
            }
            // A cut that is still to come must not come while the next batches are written.
            let other = store.log(partition(1)).or_else(|| store.create_log(partition(1), LogOptions::default()).ok());
            while let Some(other) = other.as_ref().filter(|_| world.disk.is_running()) {
                if other.append(batch(other.log_end(), &[(1, None)], Compression::None, 1_000)).is_err() {
                    break;
                }
                settle(&store);
            }
            drop((log, other));
            drop(store);
            world.disk.restart();
            if random.random_bool(0.5) {
                world.index.crash();
            }
            if random.random_bool(0.2) {
                world.index.wipe();
            }
            store = world.open();
            log = store.log(partition(0)).expect("the log");
            log.set_agreed(Agreed::Synced);
            check(&log, &written, false);
        }
        cleaned += u32::from(records(&log).len() < written.len());
    }
    assert!(cleaned > 20, "a cut came before anything was cleaned, but for {cleaned} seeds");
}
