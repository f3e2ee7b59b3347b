//! Replicas that are compacted by key, each by itself, copy from one another and end with the same keys.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use streambus_broker::replication::settings::ReplicationSettings;
use streambus_protocol::api::produce::Acks;
use streambus_protocol::batch::{BatchBuilder, BatchOptions, PlacedBatch, RecordBatch, UnverifiedBatch};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::offset::Offset;
use streambus_protocol::record::Record;
use streambus_protocol::timestamp::Timestamp;
use streambus_storage::clock::SystemClock;
use streambus_storage::config::StoreConfig;
use streambus_storage::disk::Disk;
use streambus_storage::partition_log::options::Compaction;
use streambus_storage::partition_log::{LogOptions, Read, ReadLimit};
use streambus_storage::store::Drive;

use crate::world::{ID, World};

const EAGER: Compaction = Compaction { delete_retention_ms: 1_000, min_lag_ms: 0, min_dirty_millionths: 0 };

fn keyed(key: u8, value: &str) -> RecordBatch {
    batch_of(key, Some(Bytes::copy_from_slice(value.as_bytes())))
}

/// A batch of one record; without a value it deletes its key.
fn batch_of(key: u8, value: Option<Bytes>) -> RecordBatch {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let (key, timestamp) = (Some(Bytes::from(vec![key])), Timestamp::from_millis(1));
    let record = Record { key, value, headers: Vec::new(), timestamp };
    builder.push(&record).expect("room");
    UnverifiedBatch::new(builder.build().expect("a batch")).verify(1 << 20).expect("a sound batch")
}

/// Commits `count` records of few keys.
async fn write(world: &World, leader: u32, count: u64, written: &mut BTreeMap<u64, (u8, String)>) {
    for n in 0..count {
        let (key, value) = (u8::try_from(n % 7).expect("small"), format!("{n:300} of {leader}"));
        let appended =
            world.partition(leader).append(keyed(key, &value), LeaderEpoch::UNKNOWN, Acks::All).expect("accepted");
        written.insert(appended.base.get(), (key, value));
        world.settle(appended.committed()).await.expect("committed");
    }
}

/// Compacts what the replica may compact; returns how many records went.
async fn clean(world: &World, id: u32) -> u64 {
    clean_at(world, id, 1_000).await
}

/// As above, at this time.
async fn clean_at(world: &World, id: u32, now_ms: i64) -> u64 {
    let store = &world.nodes[&id].store;
    store.set_options(ID, LogOptions { compaction: Some(EAGER), ..LogOptions::default() }).expect("known");
    let log = world.partition(id).log().clone();
    world.until("the watermark should be known", || world.partition(id).high_watermark() == log.log_end()).await;
    let before = store.metrics().records_cleaned.get();
    let is_idle = || store.clean_step(Timestamp::from_millis(now_ms), 10_000).is_idle;
    world.until("the cleaning should end", is_idle).await;
    store.metrics().records_cleaned.get() - before
}

/// The batches of a replica, which must have no gap.
fn stored(world: &World, id: u32) -> Vec<PlacedBatch> {
    let log = world.partition(id).log().clone();
    let (mut cursor, mut found) = (log.log_start(), Vec::new());
    while cursor < log.log_end() {
        let limit = ReadLimit { bytes_max: 1 << 20, below: Offset::MAX };
        let (batches, next) = match log.read(cursor, limit).expect("in range") {
            Read::Ready(batches, next) => (batches, next),
            Read::Disk(read) => read.run().expect("readable"),
        };
        for bytes in batches {
            let batch = PlacedBatch::verify_stored(bytes).expect("a sound batch");
            assert_eq!(batch.base_offset(), cursor, "no gap");
            cursor = batch.next_offset();
            found.push(batch);
        }
        assert_eq!(cursor, next);
    }
    found
}

/// The records of a replica, and how many batches there are.
fn records(world: &World, id: u32) -> (BTreeMap<u64, (u8, String)>, usize) {
    let batches = stored(world, id);
    let mut found = BTreeMap::new();
    for stored in batches.iter().flat_map(|batch| batch.records(1 << 20).expect("expands")) {
        let stored = stored.expect("sound");
        let value = String::from_utf8(stored.record.value.expect("a value").to_vec()).expect("text");
        found.insert(stored.offset.get(), (stored.record.key.expect("a key")[0], value));
    }
    (found, batches.len())
}

/// Where a replica has records of `key`, and whether they delete it.
fn of_key(world: &World, id: u32, key: u8) -> Vec<(u64, bool)> {
    let batches = stored(world, id);
    let records = batches.iter().flat_map(|batch| batch.records(1 << 20).expect("expands"));
    let records = records.map(|stored| stored.expect("sound"));
    let records = records.filter(|stored| stored.record.key.as_deref() == Some(&[key]));
    records.map(|stored| (stored.offset.get(), stored.record.value.is_none())).collect()
}

/// Flips a bit in every copy that compaction made of the batch of broker `id` at `base`, and meets it.
fn decay_compacted(world: &World, id: u32, base: u64) {
    let disk = &world.nodes[&id].disk;
    for name in disk.list("journal-").expect("list") {
        let bytes = disk.read_file(&name).expect("read");
        for at in (4096..bytes.len() - 200).step_by(8).filter(|at| &bytes[*at..at + 4] == b"SBEN") {
            let found = u64::from_le_bytes(*bytes[at + 24..].first_chunk().expect("eight bytes"));
            if (found, bytes[at + 60]) == (base, 9) {
                disk.flip_bit(&name, at as u64 + 94, 1).expect("flipped");
            }
        }
    }
    let limit = ReadLimit { bytes_max: 1, below: Offset::MAX };
    match world.partition(id).log().read(Offset::new(base).expect("small"), limit).expect("in range") {
        Read::Disk(read) => read.run().map(drop).expect_err("it is damaged"),
        Read::Ready(..) => panic!("it is in memory: this tests nothing"),
    };
}

/// What must be on every replica: the newest record of each key, and nothing that was not written.
fn check(world: &World, id: u32, written: &BTreeMap<u64, (u8, String)>) {
    let (found, _) = records(world, id);
    assert!(found.iter().all(|(at, record)| written.get(at) == Some(record)), "broker {id}");
    let newest = |records: &BTreeMap<u64, (u8, String)>| -> BTreeMap<u8, u64> {
        records.iter().map(|(at, (key, _))| (*key, *at)).collect()
    };
    assert_eq!(newest(&found), newest(written), "broker {id}");
    assert_eq!(world.partition(id).log().damaged(), []);
}

// Catches a follower that cannot copy what its leader has compacted, or go on from where another replica has nothing left;
// a compaction above the watermark; replicas that end with other keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_are_compacted_at_different_times_agree() {
    let mut world = World::new(Duration::from_secs(600)).await;
    let mut written = BTreeMap::new();
    write(&world, 1, 150, &mut written).await;
    world.converge().await;
    assert!(clean(&world, 1).await > 80);
    check(&world, 1, &written);

    // One that was away for a while goes on where it was, and one with nothing copies what is left.
    let disk = world.stop(3).await;
    world.set_isr(&[1, 2]);
    write(&world, 1, 150, &mut written).await;
    assert!(clean(&world, 1).await > 80);
    let mut batches = Vec::new();
    for disk in [Some(disk), None] {
        world.restart(3, disk);
        world.until("broker 3 should join", || world.isr() == [1, 2, 3]).await;
        world.converge().await;
        check(&world, 3, &written);
        batches.push(records(&world, 3).1);
        world.stop(3).await;
        world.set_isr(&[1, 2]);
    }
    assert!(batches[0] > batches[1], "{batches:?}: what it had before stays as it was");
    world.restart(3, None);
    world.until("broker 3 should join", || world.isr() == [1, 2, 3]).await;
    world.converge().await;

    // Another leads, compacted more or less than those that follow it.
    for leader in [2, 3, 1] {
        world.elect(leader).await;
        write(&world, leader, 40, &mut written).await;
        world.converge().await;
        clean(&world, leader).await;
        for id in 1..=3 {
            check(&world, id, &written);
        }
    }
    let epochs: Vec<_> = (1..=3).map(|id| world.partition(id).log().latest_epoch()).collect();
    assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "{epochs:?}");
}

// Catches a repair that fails because nothing is left there of what is asked for, or because more than that is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_disk_has_lost_comes_back_from_replicas_that_were_compacted() {
    let world = World::new(Duration::from_secs(600)).await;
    let mut written = BTreeMap::new();
    write(&world, 1, 150, &mut written).await;
    world.converge().await;
    for id in [1, 3] {
        assert!(clean(&world, id).await > 80);
    }
    world.decay(2, 60..63);
    let scrubbed = world.nodes[&2].store.scrub_step(u64::MAX).expect("the scrub runs");
    assert!(!scrubbed.damaged.is_empty());
    world.until("broker 2 should be whole", || world.partition(2).log().damaged().is_empty()).await;
    check(&world, 2, &written);
    clean(&world, 2).await;
    check(&world, 2, &written);
}

// Catches a repair that brings a deleted record back for ever: here its tombstone has gone, and where it comes from nothing
// was compacted yet. The tombstone lies further above than one answer of the source reaches.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_brings_no_record_back_whose_tombstone_has_gone() {
    let settings = ReplicationSettings {
        lag_limit: Duration::from_secs(600),
        partition_bytes_max: 2_000,
        ..ReplicationSettings::default()
    };
    let clock = Arc::new(SystemClock::new());
    let world = World::with_settings(settings, StoreConfig::tiny(), clock, &[Drive::Threads; 3]).await;
    let append = async |key: u8, value: Option<Bytes>| {
        let appended = world.partition(1).append(batch_of(key, value), LeaderEpoch::UNKNOWN, Acks::All);
        world.settle(appended.expect("accepted").committed()).await.expect("committed");
    };
    let value = |key: u8| Some(Bytes::from(vec![key; 300]));
    append(200, value(200)).await;
    for key in 0..40 {
        append(key, value(key)).await;
    }
    append(200, None).await;
    for key in 40..100 {
        append(key, value(key)).await;
    }
    world.converge().await;
    assert_eq!(clean(&world, 2).await, 1, "the deleted record");
    assert_eq!(clean_at(&world, 2, 10_000).await, 1, "the tombstone");
    assert_eq!((of_key(&world, 1, 200), of_key(&world, 2, 200)), (vec![(0, false), (41, true)], vec![]));

    decay_compacted(&world, 2, 0);
    let store = &world.nodes[&2].store;
    world.until("broker 2 should be whole", || world.partition(2).log().damaged().is_empty()).await;
    assert_eq!((store.metrics().batches_repaired.get(), of_key(&world, 2, 200)), (1, vec![]));
    // A record that is not deleted comes back whole, whatever has gone around it.
    world.decay(3, 20..21);
    clean(&world, 3).await;
    world.until("broker 3 should be whole", || world.partition(3).log().damaged().is_empty()).await;
    assert_eq!(of_key(&world, 3, 19), [(20, false)]);
}
