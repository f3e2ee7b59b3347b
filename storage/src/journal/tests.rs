//! The journal as a whole, on the faulty disk and without threads. `model` has the small vocabulary of these tests.

use std::sync::Arc;

use super::*;
use crate::disk::Disk;
use crate::disk::faulty::{Fault, FaultyDisk};
use crate::disk::memory::MemoryDisk;

mod model;
mod names;
mod power;
mod running;
mod scanning;

use model::{Bench, directory, open, recovered, small_config};

fn disk() -> MemoryDisk {
    MemoryDisk::new()
}

/// Catches a header field that is written and not read, and one that the checksum leaves out.
#[test]
fn headers_survive_the_disk_and_notice_every_flipped_bit() {
    let seed = entry::ChecksumSeed::of(directory());
    let header = commit::CommitHeader {
        segment: SegmentId::new(3),
        sequence: position::CommitSequence::new(4),
        incarnation: position::Incarnation::new(5),
        first_lsn: Lsn::new(6),
        durable_lsn: Lsn::new(7),
        bytes: 800,
        entries: 9,
    };
    let bytes = header.encode(seed);
    assert_eq!(commit::CommitHeader::decode(&bytes, seed), Some(header));
    let entry = model::entry(1, 2, b"some payload");
    let mut group = group::Group::new(4096);
    group.push(Lsn::new(77), &entry, crc32c::crc32c(&entry.payload), seed);
    let mut committed = Vec::new();
    group.committed(SegmentId::new(1), 4096, &mut committed);
    assert_eq!((committed[0].lsn.get(), committed[0].log.get(), committed[0].base.get()), (77, 1, 2));
    let other = entry::ChecksumSeed::of(streambus_protocol::ids::DirectoryId::from_bytes([9; 16]));
    assert_eq!(commit::CommitHeader::decode(&bytes, other), None, "another directory's header is none");
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(commit::CommitHeader::decode(&flipped, seed), None, "bit {bit}");
    }
}

/// Catches a batch accepted under a header that says something else: a misplaced write.
#[test]
fn a_batch_must_match_its_header_in_every_byte() {
    let batch = model::batch(5, 2, 3, b"records");
    let header = entry::EntryHeader {
        lsn: Lsn::new(1),
        log: LogId::new(1),
        kind: EntryKind::Batch,
        base: streambus_protocol::offset::Offset::new(5).expect("small"),
        last: streambus_protocol::offset::Offset::new(6).expect("small"),
        epoch: streambus_protocol::epoch::LeaderEpoch::new(3),
        max_timestamp: streambus_protocol::timestamp::Timestamp::NONE,
        payload_bytes: u32::try_from(batch.len()).expect("small"),
        payload_crc: 0,
    };
    assert!(header.covers(&batch));
    for bit in 0..batch.len() * 8 {
        let mut flipped = batch.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(!header.covers(&flipped), "bit {bit}");
    }
    assert!(!header.covers(&batch[..batch.len() - 1]));
    assert!(!header.covers(&[]));
}

/// Catches entries reported out of order, at wrong places, or before they can be read back.
#[test]
fn entries_come_back_where_they_were_reported() {
    let memory = disk();
    let mut bench = Bench::open(Arc::new(memory.clone()), small_config());
    for round in 0..600 {
        bench.append(round % 7, usize::try_from(round * 37 % 5000).expect("small"));
        if round % 3 == 0 {
            bench.step_until_idle();
        }
    }
    bench.step_until_idle();
    let reported = bench.observer.entries();
    assert_eq!(reported.len(), 600);
    assert!(reported.windows(2).all(|pair| pair[0].lsn.next() == pair[1].lsn), "numbers grow by one");
    let reader = bench.journal.reader();
    for entry in &reported {
        let read = reader.entry(entry.location).expect("is valid");
        assert_eq!(read.entry, *entry);
        assert_eq!(read.payload, bench.payload_of(entry.lsn), "lsn {}", entry.lsn);
    }
    assert!(bench.journal.segments().len() > 3, "segments rolled");
    assert_eq!(bench.observer.sealed().len() + 1, bench.journal.segments().len());
    for info in bench.journal.segments() {
        let mut seen = 0;
        let part = reader.scan(info.id, 0, u64::MAX, &mut |_| seen += 1).expect("scans");
        assert_eq!((part.damaged.len(), part.next_position), (0, None));
        assert_eq!(seen, reported.iter().filter(|entry| entry.location.segment == info.id).count());
    }
    bench.finish();
    let (entries, report) = recovered(&memory, &small_config());
    assert_eq!(entries.len(), 600);
    assert_eq!((report.damaged.len(), report.torn_tail_bytes), (0, 0));
    assert!(entries.iter().zip(&reported).all(|(found, told)| found.entry == *told), "replay is what was reported");
}

/// Catches an extent parser that loses entries at the boundaries of commits.
#[test]
fn an_extent_may_span_commits() {
    let mut bench = Bench::open(Arc::new(disk()), small_config());
    for _ in 0..3 {
        bench.append(1, 100);
        bench.append(1, 50);
        bench.step_until_idle();
        bench.committer.mark();
    }
    let all = bench.observer.entries();
    let (first, last) = (all[0].location, all[5].location);
    let length = last.end() - u64::from(first.position);
    let reader = bench.journal.reader();
    let read = reader.entries(first.segment, u64::from(first.position), length).expect("is valid");
    assert_eq!(read.iter().map(|entry| entry.entry).collect::<Vec<_>>(), all);
    let cut = reader.entries(first.segment, u64::from(first.position), length - 20);
    assert!(matches!(cut, Err(ReadError::Damaged { .. })), "a cut entry is never served");
}

/// Catches refusing to start, or worse starting, on files that are not this directory's.
#[test]
fn foreign_newer_and_strange_files_are_refused_by_name() {
    let memory = disk();
    Bench::open(Arc::new(memory.clone()), small_config()).finish();
    let name = segment::segment_file_name(SegmentId::new(1));
    let mut other = small_config();
    other.directory = streambus_protocol::ids::DirectoryId::from_bytes([3; 16]);
    let foreign = open(Arc::new(memory.clone()), &other).expect_err("is foreign");
    assert!(matches!(&foreign, OpenError::ForeignSegment { file, .. } if *file == name), "{foreign}");

    let mut content = memory.read_file(&name).expect("reads");
    content[8] = 200;
    let checksum = crc32c::crc32c(&content[..4092]);
    content[4092..4096].copy_from_slice(&checksum.to_le_bytes());
    memory.set_content(&name, content);
    let newer = open(Arc::new(memory.clone()), &small_config()).expect_err("is newer");
    assert!(matches!(newer, OpenError::NewerFormat { found: 200, supported: 1, .. }), "{newer}");

    let memory = disk();
    memory.set_content("journal-backup.seg", Vec::new());
    let strange = open(Arc::new(memory), &small_config()).expect_err("is strange");
    assert!(matches!(strange, OpenError::StrangeFile { .. }), "{strange}");
}

/// Catches a sync failure that is retried, forgotten, or after which anything is still reported as durable.
#[test]
fn a_failed_write_latches_for_good() {
    let faulty = FaultyDisk::new(Arc::new(disk()), 1);
    let mut bench = Bench::open(Arc::new(faulty.clone()), small_config());
    bench.append(1, 100);
    bench.step_until_idle();
    faulty.plan(Fault::FailWrite(faulty.counters().writes + 1));
    bench.append(1, 100);
    bench.append(1, 9000);
    assert_eq!(bench.committer.step(), Step::Stopped);
    let writes = faulty.counters().writes;
    assert_eq!(bench.committer.step(), Step::Stopped);
    assert_eq!(bench.committer.mark(), Step::Stopped);
    assert!(matches!(bench.try_append(1, 10), Err(AppendError::ReadOnly(_))));
    assert!(matches!(bench.journal.recycle(SegmentId::new(1)), Err(RecycleError::ReadOnly(_))));
    assert_eq!(faulty.counters().writes, writes, "nothing is written after the failure");
    assert_eq!(bench.observer.entries().len(), 1, "nothing is reported after the failure");
    assert_eq!(bench.observer.failures(), 1, "the failure is reported once");
    let first = bench.observer.entries()[0];
    assert_eq!(bench.journal.reader().entry(first.location).expect("stays readable").entry, first);
}

/// Catches a disk that refuses the zeros ahead of the commits, and is relied upon for the commits all the same.
#[test]
fn a_refused_write_of_zeros_latches_for_good() {
    let faulty = FaultyDisk::new(Arc::new(disk()), 1);
    let mut bench = Bench::open(Arc::new(faulty.clone()), small_config());
    assert!(bench.committer.wants_zeros());
    faulty.plan(Fault::FailWrite(faulty.counters().writes + 1));
    assert_eq!(bench.committer.zero_ahead(), Step::Stopped);
    assert!(bench.latch.is_set());
    assert_eq!(bench.observer.failures(), 1);
    assert!(matches!(bench.try_append(1, 10), Err(AppendError::ReadOnly(_))));
    let writes = faulty.counters().writes;
    assert_eq!((bench.committer.zero_ahead(), bench.committer.step()), (Step::Stopped, Step::Stopped));
    assert_eq!(faulty.counters().writes, writes, "nothing is written after the failure");
}

/// Catches running out of space after an entry was accepted, and a full journal that never heals.
#[test]
fn a_full_disk_refuses_before_accepting_and_heals() {
    let memory = MemoryDisk::with_capacity(3 * u64::from(small_config().segment_bytes));
    let mut bench = Bench::open(Arc::new(memory), small_config());
    let mut refused = false;
    for _ in 0..10_000 {
        match bench.try_append(1, 3000) {
            Ok(_) => {}
            Err(AppendError::Full { .. }) => {
                refused = true;
                break;
            }
            Err(other) => panic!("{other}"),
        }
        bench.step_until_idle();
    }
    assert!(refused, "the disk fills up");
    bench.step_until_idle();
    assert!(!bench.latch.is_set(), "a full disk is no lost durability");
    assert_eq!(bench.observer.entries().len(), bench.appended(), "everything accepted was committed");
    let trim = NewEntry { kind: EntryKind::Trim, ..model::entry(1, 1, b"") };
    bench.append_entry(trim).expect("what frees space still fits");
    bench.step_until_idle();
    bench.journal.recycle(SegmentId::new(1)).expect("recycles");
    bench.append(1, 3000);
    bench.step_until_idle();
    assert_eq!(bench.observer.entries().len(), bench.appended());
}

/// Catches a next segment that is only prepared by an idle journal, so that a busy one refuses entries.
#[test]
fn a_journal_that_is_never_idle_has_its_next_segment_in_time() {
    let mut bench = Bench::open(Arc::new(disk()), small_config());
    for _ in 0..1000 {
        bench.try_append(1, 3000).expect("there is always space");
        assert_ne!(bench.committer.step(), Step::Idle);
        bench.try_append(1, 3000).expect("there is always space");
        if bench.journal.pending_bytes() > 9000 {
            bench.committer.step();
        }
    }
    assert!(bench.journal.segments().len() > 10);
}

/// Catches an unbounded queue, and an entry larger than a group that is lost or blocks.
#[test]
fn the_queue_is_bounded_and_large_entries_are_commits_of_their_own() {
    let mut bench = Bench::open(Arc::new(disk()), small_config());
    let mut busy = false;
    for _ in 0..100 {
        match bench.try_append(1, 12_000) {
            Ok(_) => {}
            Err(AppendError::Busy { limit_bytes, .. }) => {
                assert_eq!(limit_bytes, u64::from(small_config().queue_bytes_max));
                busy = true;
                break;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(busy);
    bench.step_until_idle();
    assert_eq!(bench.observer.entries().len(), bench.appended());
    assert!(matches!(bench.try_append(1, 12_001), Err(AppendError::TooLarge { .. })));
}

/// Catches a recycled file whose old bytes are taken for entries, and files that pile up.
#[test]
fn recycled_files_are_reused_and_their_old_bytes_mean_nothing() {
    let memory = disk();
    let mut bench = Bench::open(Arc::new(memory.clone()), small_config());
    for round in 0..400 {
        bench.append(round % 3, 2000);
        bench.step_until_idle();
        let segments = bench.journal.segments();
        if segments.len() > 2 {
            bench.journal.recycle(segments[0].id).expect("recycles");
            assert!(matches!(bench.journal.recycle(segments[0].id), Err(RecycleError::NoSegment(_))));
        }
    }
    let active = bench.journal.active_segment();
    assert!(matches!(bench.journal.recycle(active), Err(RecycleError::Active(_))));
    let first = bench.journal.segments()[0].id;
    let kept: Vec<_> = bench.observer.entries().into_iter().filter(|entry| entry.location.segment >= first).collect();
    assert!(memory.list("").expect("lists").len() <= 6, "{:?}", memory.list(""));
    // No marker: the crash leaves the stale bytes of the recycled file right behind the last commit.
    let (entries, report) = recovered(&memory, &small_config());
    assert_eq!(entries.iter().map(|entry| entry.entry).collect::<Vec<_>>(), kept);
    assert_eq!(report.damaged, Vec::new());
}

/// Catches media errors at the tail that are taken for a torn write.
#[test]
fn an_unreadable_tail_is_damage_and_the_journal_goes_on_elsewhere() {
    let faulty = FaultyDisk::new(Arc::new(disk()), 5);
    let mut bench = Bench::open(Arc::new(faulty.clone()), small_config());
    bench.append(1, 100);
    bench.step_until_idle();
    bench.append(1, 200);
    bench.step_until_idle();
    let last = bench.observer.entries()[1].location;
    let name = segment::segment_file_name(last.segment);
    let start = u64::from(last.position) - 64;
    faulty.plan(Fault::Unreadable { name, bytes: start..start + 1 });
    let (entries, report) = recovered(&faulty, &small_config());
    assert_eq!(entries.len(), 1);
    assert_eq!(report.damaged.len(), 1);
    assert_eq!((report.damaged[0].position, report.damaged[0].reason), (start, DamageReason::Unreadable));
    let (entries, report) = recovered(&faulty, &small_config());
    assert_eq!((entries.len(), report.damaged.len()), (1, 1), "the next start says the same");
}
