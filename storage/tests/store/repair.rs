//! Damaged batches stored anew from another replica: served again, for good, and nothing else changed.

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;
use streambus_storage::disk::Disk;
use streambus_storage::epoch_cache::EpochEnd;
use streambus_storage::error::{ReadError, RepairError};
use streambus_storage::partition_log::{PartitionLog, ReadLimit};
use streambus_storage::store::Store;

use crate::world::{Spec, World, append, batch, create, decay, epoch, fill, offset, partition, read, read_all, settle};

/// Two logs of batches with one record each, in several segments, and their content.
fn filled(world: &World) -> (Store, Vec<Vec<Bytes>>) {
    let store = world.open();
    let logs = [create(&store, 0), create(&store, 1)];
    for salt in 0..110 {
        for log in &logs {
            let time_ms = 1_000 * i64::try_from(salt).expect("small");
            append(log, &Spec { record_bytes: 900, salt, time_ms, ..Spec::default() });
            settle(&store);
        }
    }
    store.step_idle();
    (store, logs.iter().map(|log| read_all(log).expect("readable")).collect())
}

/// The batches of `content`, one offset each, that lie in the damage of `log`.
fn missing(log: &PartitionLog, content: &[Bytes]) -> Vec<Bytes> {
    let at = |offset: Offset| usize::try_from(offset.get()).expect("small");
    log.damaged().iter().flat_map(|range| content[at(range.base)..at(range.next)].to_vec()).collect()
}

fn log_of(store: &Store, p: usize) -> PartitionLog {
    store.log(partition(u32::try_from(p).expect("small"))).expect("the log")
}

fn assert_whole(store: &Store, content: &[Vec<Bytes>], when: &str) {
    for (p, written) in content.iter().enumerate() {
        let log = log_of(store, p);
        assert_eq!(&read_all(&log).expect("readable"), written, "{when}: log {p}");
        assert_eq!(log.damaged(), [], "{when}: log {p}");
        for (i, time) in (0..i64::try_from(written.len()).expect("small")).map(|i| (i, i * 1_000)) {
            let found = log.offset_for_time(Timestamp::from_millis(time), Offset::MAX).expect("readable");
            let expected = (offset(i.unsigned_abs()), Timestamp::from_millis(time));
            assert_eq!(found, Some(expected), "{when}: the record at {time}");
        }
    }
}

// Catches a repair that is served before it is durable, lost by a crash, by a rebuild of the index or of everything, by a
// checkpoint or by recycling, and neighbours that it hides.
#[test]
fn what_was_repaired_reads_as_before_damage_in_every_later_life() {
    for seed in 0..12 {
        let world = World::new(seed);
        let mut random = SmallRng::seed_from_u64(seed);
        let (mut store, content) = filled(&world);
        for round in 0..3 {
            for _ in 0..random.random_range(1..6) {
                let (p, first) = (random.random_range(0..2), random.random_range(0..105_u64));
                for base in first..first + random.random_range(1..5) {
                    decay(&world, &log_of(&store, p), base);
                }
            }
            // Most lies in sealed segments and in the index; what is left is found by reading.
            store.scrub_step(u64::MAX).expect("the scrub runs");
            for (p, written) in content.iter().enumerate() {
                let log = log_of(&store, p);
                let mut cursor = offset(0);
                while cursor < log.log_end() {
                    match read(&log, cursor, ReadLimit { bytes_max: 4_000, below: Offset::MAX }) {
                        Ok((_, next)) | Err(ReadError::Damaged { next, .. }) => cursor = next,
                        Err(error) => panic!("{error}"),
                    }
                }
                let (damaged, lost) = (log.damaged(), missing(&log, written));
                let mut durable = log.repair(lost).expect("repaired");
                assert_eq!(log.damaged(), damaged, "seed {seed}: not before it is durable");
                settle(&store);
                assert_eq!(durable.now(), Some(Ok(())));
            }
            assert_whole(&store, &content, &format!("seed {seed} round {round}, at once"));
            let others = create(&store, 9);
            fill(&store, &others, random.random_range(0..120), 900);
            others.trim(others.log_end()).expect("trimmed");
            settle(&store);
            store.apply_retention(Timestamp::from_millis(0));
            settle(&store);
            store = world.crash_and_open(store).0;
            assert_whole(&store, &content, &format!("seed {seed} round {round}, after a crash"));
        }
        drop(store);
        world.index.wipe();
        let store = world.open();
        assert_whole(&store, &content, &format!("seed {seed}, with a new index"));
        settle(&store);
        assert_whole(&store, &content, &format!("seed {seed}, with a new checkpoint"));
    }
}

// Catches a repair of a hole that recovery found: no extent covers it, and the epochs that began in it are unknown.
#[test]
fn a_hole_that_recovery_found_can_be_filled() {
    let world = World::new(1);
    let store = world.open();
    let log = create(&store, 0);
    for salt in 0..12 {
        append(
            &log,
            &Spec { epoch: if salt < 4 { 1 } else { 2 }, salt, time_ms: 1_000 * salt as i64, ..Spec::default() },
        );
        settle(&store);
    }
    store.step_idle();
    let content = read_all(&log).expect("readable");
    (3..7).for_each(|base| decay(&world, &log, base));
    drop((log, store));
    world.index.wipe();
    for name in world.memory.list("checkpoint-").expect("list") {
        world.memory.remove(&name).expect("removed");
    }
    let store = world.open();
    let log = log_of(&store, 0);
    assert_eq!(log.damaged().len(), 1);
    assert_eq!(log.end_offset_for(epoch(1)), EpochEnd::Ended { epoch: epoch(1), end: offset(7) }, "as far as it knows");
    log.repair(missing(&log, &content)).expect("repaired");
    settle(&store);
    assert_whole(&store, std::slice::from_ref(&content), "filled");
    let (store, _) = world.crash_and_open(store);
    assert_whole(&store, &[content], "after a crash");
    let ended = EpochEnd::Ended { epoch: epoch(1), end: offset(4) };
    assert_eq!(log_of(&store, 0).end_offset_for(epoch(1)), ended, "the batches say where it ended");
}

// Catches a repair that replaces what is good, or that brings another history's batches in.
#[test]
fn only_damage_is_replaced_and_only_by_what_fits() {
    let world = World::new(2);
    let (store, content) = filled(&world);
    let log = log_of(&store, 0);
    decay(&world, &log, 5);
    let good = log.repair(vec![content[0][7].clone()]);
    assert!(matches!(good, Err(RepairError::NotDamaged { base, .. }) if base == offset(7)), "{good:?}");
    let wide = batch(offset(4), &Spec { records: 2, ..Spec::default() }).into_bytes();
    assert!(matches!(log.repair(vec![wide]), Err(RepairError::NotDamaged { .. })), "it would hide a good batch");
    let foreign = batch(offset(5), &Spec { epoch: 3, ..Spec::default() }).into_bytes();
    assert!(matches!(log.repair(vec![foreign]), Err(RepairError::Epoch { .. })));
    let garbage = log.repair(vec![Bytes::from_static(b"no batch")]);
    assert!(matches!(garbage, Err(RepairError::Invalid(_))), "{garbage:?}");
    let unordered = log.repair(vec![content[0][5].clone(), content[0][5].clone()]);
    assert!(matches!(unordered, Err(RepairError::Invalid(_))), "{unordered:?}");
    let above = batch(log.log_end(), &Spec::default()).into_bytes();
    assert!(matches!(log.repair(vec![above]), Err(RepairError::Read(ReadError::OutOfRange { .. }))));
    // Nobody has met the damage yet; the repair looks for itself.
    assert_eq!(log.damaged().len(), 1, "the refusals above have found it");
    log.repair(vec![content[0][5].clone()]).expect("repaired");
    settle(&store);
    let entries = store.metrics().commit_entries.get();
    log.repair(vec![content[0][5].clone()]).expect("nothing to do");
    settle(&store);
    assert_eq!(store.metrics().commit_entries.get(), entries, "a repair that is repeated stores nothing");
    assert_whole(&store, &content, "in the end");
}

// Catches a second copy that is believed for ever, and one that outlives its offsets.
#[test]
fn a_second_copy_can_decay_be_repaired_cut_and_trimmed() {
    let world = World::new(3);
    let (store, content) = filled(&world);
    let log = log_of(&store, 0);
    for base in [5, 100, 101] {
        decay(&world, &log, base);
        log.repair(vec![content[0][usize::try_from(base).expect("small")].clone()]).expect("repaired");
        settle(&store);
    }
    fill(&store, &create(&store, 2), 60, 900);
    decay(&world, &log, 100);
    decay(&world, &log, 100);
    // Twice the same bit of the first copy, which is bad either way; so only the second one counts.
    decay(&world, &log, 100);
    store.scrub_step(u64::MAX).expect("the scrub runs");
    let damaged: Vec<_> = log.damaged().iter().map(|range| (range.base, range.next)).collect();
    assert_eq!(damaged, [(offset(100), offset(101))]);
    log.repair(vec![content[0][100].clone()]).expect("repaired again");
    settle(&store);
    assert_whole(&store, &content, "repaired twice");

    assert_eq!(log.truncate(offset(101)).expect("truncated").0, offset(101));
    let mut expected = content[0][..101].to_vec();
    append(&log, &Spec { salt: 500, ..Spec::default() });
    settle(&store);
    expected.push(batch(offset(101), &Spec { salt: 500, ..Spec::default() }).into_bytes());
    assert_eq!(read_all(&log).expect("readable"), expected, "what was cut stays cut");
    log.trim(offset(50)).expect("trimmed");
    settle(&store);
    let (store, _) = world.crash_and_open(store);
    assert_eq!(read_all(&log_of(&store, 0)).expect("readable"), expected[50..]);
}

// Catches damaged ranges that were merged over a repaired one, so that whoever goes by them asks for it without end.
#[test]
fn very_many_ranges_are_repaired_in_the_end() {
    let mut world = World::new(7);
    world.config.tail_cache_bytes = 0;
    let store = world.open();
    let log = create(&store, 0);
    let mut content = Vec::new();
    for salt in 0..2_700 {
        let batch = batch(log.log_end(), &Spec { record_bytes: 100, salt, ..Spec::default() });
        log.append(batch.clone()).expect("accepted");
        content.push(batch.into_bytes());
        if salt % 20 == 19 {
            settle(&store);
        }
    }
    settle(&store);
    let lose = |base: u64| {
        decay(&world, &log, base);
        read(&log, offset(base), ReadLimit { bytes_max: 1, below: Offset::MAX }).expect_err("damaged");
    };
    (0..3).for_each(lose);
    log.repair(vec![content[1].clone()]).expect("repaired");
    settle(&store);
    // The two around it are the closest when there are too many.
    (1..260).for_each(|i| lose(i * 10));
    assert!(log.damaged().iter().any(|range| range.base == offset(0) && range.next >= offset(3)));
    for batches in missing(&log, &content).chunks(20) {
        log.repair(batches.to_vec()).expect("repaired");
        settle(&store);
    }
    assert_eq!(log.damaged(), []);
    assert_eq!(read_all(&log).expect("readable"), content);
}

// Catches a segment that is recycled although the only thing alive in it is a repair.
#[test]
fn a_segment_lives_as_long_as_a_repair_in_it() {
    let world = World::new(4);
    let (store, content) = filled(&world);
    let log = log_of(&store, 0);
    decay(&world, &log, 5);
    let other = create(&store, 2);
    fill(&store, &other, 60, 900);
    log.repair(vec![content[0][5].clone()]).expect("repaired");
    fill(&store, &other, 120, 900);
    other.trim(other.log_end()).expect("trimmed");
    for _ in 0..3 {
        settle(&store);
        store.apply_retention(Timestamp::from_millis(0));
    }
    assert!(store.metrics().segments_recycled.get() > 0, "around it, segments went");
    assert_whole(&store, &content, "in the end");
}

// Catches an extent that grows over the second copy of one of its batches: out of order, it would hide where batches
// begin, and a truncation would take too much.
#[test]
fn a_truncation_behind_a_repair_finds_its_batch() {
    let world = World::new(5);
    let store = world.open();
    let log = create(&store, 0);
    for salt in 0..3 {
        append(&log, &Spec { records: 10, record_bytes: 10, salt, ..Spec::default() });
    }
    settle(&store);
    let content = read_all(&log).expect("readable");
    decay(&world, &log, 0);
    log.repair(vec![content[0].clone()]).expect("repaired");
    append(&log, &Spec { records: 10, record_bytes: 10, salt: 3, ..Spec::default() });
    settle(&store);
    // Out of the cache, so that the boundary must be looked up.
    fill(&store, &create(&store, 1), 10, 3_000);
    assert_eq!(log.truncate(offset(25)).expect("truncated").0, offset(20));
    assert_eq!(read_all(&log).expect("readable"), content[..2]);
}
