//! Replicas that are compacted by key, each by itself, copy from one another and end with the same keys.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use streambus_protocol::api::produce::Acks;
use streambus_protocol::batch::{BatchBuilder, BatchOptions, PlacedBatch, RecordBatch, UnverifiedBatch};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::offset::Offset;
use streambus_protocol::record::Record;
use streambus_protocol::timestamp::Timestamp;
use streambus_storage::partition_log::options::Compaction;
use streambus_storage::partition_log::{LogOptions, Read, ReadLimit};

use crate::world::{ID, World};

const EAGER: Compaction = Compaction { delete_retention_ms: 1_000, min_lag_ms: 0, min_dirty_millionths: 0 };

fn keyed(key: u8, value: &str) -> RecordBatch {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let value = Bytes::copy_from_slice(value.as_bytes());
    let record = Record { key: Some(Bytes::from(vec![key])), ..Record::new(value, Timestamp::from_millis(1)) };
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
    let store = &world.nodes[&id].store;
    store.set_options(ID, LogOptions { compaction: Some(EAGER), ..LogOptions::default() }).expect("known");
    let log = world.partition(id).log().clone();
    world.until("the watermark should be known", || world.partition(id).high_watermark() == log.log_end()).await;
    let before = store.metrics().records_cleaned.get();
    let is_idle = || store.clean_step(Timestamp::from_millis(1_000), 10_000).is_idle;
    world.until("the cleaning should end", is_idle).await;
    store.metrics().records_cleaned.get() - before
}

/// The records of a replica, whose batches must have no gap, and how many batches there are.
fn records(world: &World, id: u32) -> (BTreeMap<u64, (u8, String)>, usize) {
    let log = world.partition(id).log().clone();
    let (mut cursor, mut found, mut count) = (log.log_start(), BTreeMap::new(), 0);
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
            count += 1;
            for stored in batch.records(1 << 20).expect("expands") {
                let Record { key, value, .. } = stored.as_ref().expect("sound").record.clone();
                let value = String::from_utf8(value.expect("a value").to_vec()).expect("text");
                found.insert(stored.expect("sound").offset.get(), (key.expect("a key")[0], value));
            }
        }
        assert_eq!(cursor, next);
    }
    (found, count)
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
