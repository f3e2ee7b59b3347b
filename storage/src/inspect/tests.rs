//! What inspection says of journals that are damaged in places.

use bytes::Bytes;
use streambus_protocol::batch::{BatchBuilder, BatchOptions, PlacedBatch, UnverifiedBatch};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::ids::{PartitionId, PartitionIndex, TopicId};
use streambus_protocol::offset::Offset;
use streambus_protocol::record::Record;
use streambus_protocol::timestamp::Timestamp;

use super::*;
use crate::clock::ManualClock;
use crate::config::StoreConfig;
use crate::disk::memory::MemoryDisk;
use crate::index::memory::MemoryIndex;
use crate::partition_log::LogOptions;
use crate::store::{Drive, RecoveryReport, Store, StoreEnv};

fn open(disk: &MemoryDisk, index: &Arc<MemoryIndex>) -> (Store, RecoveryReport) {
    let env = StoreEnv {
        disk: Arc::new(disk.clone()),
        index: Arc::clone(index) as _,
        clock: Arc::new(ManualClock::new(Timestamp::from_millis(1))),
        random: Box::new(|| 7),
        drive: Drive::Stepped,
    };
    Store::open(env, StoreConfig::tiny()).expect("the store opens")
}

fn batch(base: Offset) -> PlacedBatch {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(&Record::new(Bytes::from(vec![9; 900]), Timestamp::from_millis(1))).expect("room");
    let batch = UnverifiedBatch::new(builder.build().expect("a batch")).verify(1 << 20).expect("a sound batch");
    batch.place(base, LeaderEpoch::new(1))
}

/// Where batches start, the last one first.
fn batches(disk: &MemoryDisk) -> Vec<(String, u64)> {
    let names = disk.list("journal-").expect("list").into_iter().rev();
    let places = names.flat_map(|name| {
        let bytes = disk.read_file(&name).expect("read");
        let places = (4096..bytes.len() - 64).rev();
        let places = places.filter(|at| &bytes[*at..at + 4] == b"SBEN" && bytes[at + 60] == 1);
        places.map(|at| (name.clone(), at as u64)).collect::<Vec<_>>()
    });
    places.collect()
}

fn verified(disk: &MemoryDisk, index: &Arc<MemoryIndex>) -> (u64, usize) {
    let report = verify(disk, IndexToVerify::Open(Arc::clone(index) as _)).expect("inspected");
    (report.torn_tail_bytes, report.damaged.len())
}

// Catches an inspection that misses segments which went with what a log was trimmed of: the index that a crash leaves may
// still name them.
#[test]
fn what_was_trimmed_is_not_missed() {
    let (disk, index) = (MemoryDisk::new(), Arc::new(MemoryIndex::new()));
    let (store, _) = open(&disk, &index);
    let id = PartitionId { topic: TopicId::from_bytes([1; 16]), partition: PartitionIndex::new(0) };
    let log = store.create_log(id, LogOptions::default()).expect("a log");
    while store.metrics().checkpoints.get() < 4 {
        log.append(batch(log.log_end())).expect("appended");
        while store.step() {}
    }
    log.trim(log.log_end()).expect("trimmed");
    while store.step() {}
    assert!(store.apply_retention(Timestamp::from_millis(1)).segments_recycled > 0);
    drop((log, store));
    index.crash();
    let report = verify(&disk, IndexToVerify::Open(Arc::clone(&index) as _)).expect("inspected");
    assert_eq!(report.damaged, []);
    assert!(report.extents > 0, "the index has come back with what was trimmed");
    open(&disk, &index);
}

// Catches an inspection that calls a directory well whose recovery finds damage, and one that cries over a process that
// was killed: the last commit is damage below the end of a checkpoint, and torn above it.
#[test]
fn the_last_commit_is_judged_as_recovery_judges_it() {
    for is_below_checkpoint in [true, false] {
        let (disk, index) = (MemoryDisk::new(), Arc::new(MemoryIndex::new()));
        let (store, _) = open(&disk, &index);
        let id = PartitionId { topic: TopicId::from_bytes([1; 16]), partition: PartitionIndex::new(0) };
        let log = store.create_log(id, LogOptions::default()).expect("a log");
        let append = || {
            log.append(batch(log.log_end())).expect("appended");
            while store.step() {}
        };
        while store.metrics().checkpoints.get() == 0 {
            append();
        }
        if !is_below_checkpoint {
            append();
        }
        assert_eq!(verified(&disk, &index), (0, 0), "as it was written");
        let (name, position) = batches(&disk)[0].clone();
        disk.flip_bit(&name, position + 200, 1).expect("flipped");
        let (torn, damaged) = verified(&disk, &index);
        assert_eq!((torn > 0, damaged), if is_below_checkpoint { (false, 1) } else { (true, 0) });
        drop((log, store));
        let (_, report) = open(&disk, &index);
        let recovered = (report.journal.torn_tail_bytes > 0, report.journal.damaged.len());
        assert_eq!(recovered, (torn > 0, damaged), "recovery says the same");
    }
}

// Catches an inspection that goes on calling a batch lost that was stored anew, and one that takes a repair of another
// batch for it.
#[test]
fn a_batch_that_was_stored_anew_is_damaged_no_more() {
    let (disk, index) = (MemoryDisk::new(), Arc::new(MemoryIndex::new()));
    let (store, _) = open(&disk, &index);
    let id = PartitionId { topic: TopicId::from_bytes([1; 16]), partition: PartitionIndex::new(0) };
    let log = store.create_log(id, LogOptions::default()).expect("a log");
    let step = || while store.step() {};
    let mut bases = Vec::new();
    while store.metrics().checkpoints.get() < 3 {
        bases.push(log.log_end());
        log.append(batch(log.log_end())).expect("appended");
        step();
    }
    let damage = |nth_last: usize| {
        let (name, position) = batches(&disk)[nth_last].clone();
        disk.flip_bit(&name, position + 200, 1).expect("flipped");
    };
    damage(0);
    damage(1);
    let verify = || verify(&disk, IndexToVerify::Open(Arc::clone(&index) as _)).expect("inspected");
    assert_eq!((verify().damaged.len(), verify().repaired), (2, 0));
    log.repair(vec![batch(bases[bases.len() - 1]).into_bytes()]).expect("repaired");
    step();
    let report = verify();
    assert_eq!((report.damaged.len(), report.repaired), (1, 1));
    assert!(report.damaged[0].what.contains(&format!("offsets {}", bases[bases.len() - 2])), "{:?}", report.damaged);
    let mut text = Vec::new();
    dump::dump(&disk, &mut text).expect("dumped");
    let text = String::from_utf8(text).expect("text");
    let offsets = format!(" offsets={}..{} ", bases[bases.len() - 1], log.log_end());
    assert!(text.lines().any(|line| line.starts_with("DAMAGED") && line.contains(&offsets)), "{text}");
    assert!(text.lines().any(|line| line.contains(" repair ") && line.contains(&offsets)), "{text}");
}

// Catches an inspection that calls a batch lost behind a damaged header although it was stored anew, or blames the index
// that goes on naming its old place; and one that takes another log's equal batch for its copy.
#[test]
fn a_batch_behind_a_damaged_header_is_damaged_until_it_was_stored_anew_itself() {
    let (disk, index) = (MemoryDisk::new(), Arc::new(MemoryIndex::new()));
    let (store, _) = open(&disk, &index);
    let step = || while store.step() {};
    let logs = [0, 1].map(|index| {
        let id = PartitionId { topic: TopicId::from_bytes([1; 16]), partition: PartitionIndex::new(index) };
        store.create_log(id, LogOptions::default()).expect("a log")
    });
    let mut bases = Vec::new();
    while store.metrics().checkpoints.get() < 3 {
        bases.push(logs[0].log_end());
        for log in &logs {
            log.append(batch(log.log_end())).expect("appended");
            step();
        }
    }
    let decay = |log: LogId, base: Offset, at: u64| {
        let is_it = |(name, position): &(String, u64)| {
            let bytes = disk.read_file(name).expect("read");
            let word = |from: usize| {
                let from = usize::try_from(*position).expect("small") + from;
                u64::from_le_bytes(*bytes[from..].first_chunk().expect("eight bytes"))
            };
            (word(16), word(24)) == (log.get(), base.get())
        };
        let (name, position) = batches(&disk).into_iter().find(is_it).expect("it is in the journal");
        disk.flip_bit(&name, position + at, 1).expect("flipped");
    };
    let lost = &bases[3..8];
    for log in &logs {
        lost.iter().for_each(|base| decay(log.id(), *base, 10));
    }
    let verify = || verify(&disk, IndexToVerify::Open(Arc::clone(&index) as _)).expect("inspected");
    let before = verify();
    let in_journal = |report: &VerifyReport| report.damaged.iter().filter(|d| d.file.starts_with("journal-")).count();
    assert_eq!((in_journal(&before), before.repaired), (10, 0));
    assert!(before.damaged.len() > 10, "the index names some of them: {:?}", before.damaged);
    let repair = |log: &crate::partition_log::PartitionLog| {
        log.repair(lost.iter().map(|base| batch(*base).into_bytes()).collect()).expect("repaired");
        step();
    };
    repair(&logs[0]);
    let half = verify();
    assert_eq!((in_journal(&half), half.repaired), (5, 5), "the other log's are lost: {:?}", half.damaged);
    repair(&logs[1]);
    let whole = verify();
    assert_eq!((whole.damaged, whole.repaired), (Vec::new(), 10));
    // Nobody can tell what it was when its payload is damaged as well.
    decay(logs[0].id(), bases[9], 200);
    decay(logs[0].id(), bases[9], 10);
    logs[0].repair(vec![batch(bases[9]).into_bytes()]).expect("repaired");
    step();
    assert_eq!((in_journal(&verify()), verify().repaired), (1, 10));
}
