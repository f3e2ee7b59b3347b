//! How a segment is read: how much at once, and how often.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::model::{Bench, directory, small_config};
use crate::aligned::Blocks;
use crate::disk::memory::MemoryDisk;
use crate::disk::{Disk, DiskFile, OpenHow, WriteMode};
use crate::journal::entry::ChecksumSeed;
use crate::journal::scan::{Expected, Found, SegmentCursor};
use crate::journal::segment::segment_file_name;
use crate::journal::*;

/// A file that remembers what was asked of it.
#[derive(Debug)]
struct Asked {
    file: Arc<dyn DiskFile>,
    reads: Mutex<Vec<(u64, usize)>>,
}

impl DiskFile for Asked {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.reads.lock().push((position, buffer.len()));
        self.file.read_at(position, buffer)
    }

    fn write_at_durably(&self, position: u64, blocks: Blocks<'_>) -> io::Result<()> {
        self.file.write_at_durably(position, blocks)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    /// A file system that reserves what is zeros.
    fn written_from(&self, position: u64) -> io::Result<u64> {
        let length = self.len()?;
        let mut rest = vec![0; usize::try_from(length.saturating_sub(position)).expect("small")];
        self.file.read_at(position, &mut rest)?;
        let written = rest.iter().position(|byte| *byte != 0);
        Ok(written.map_or(length, |at| position + at as u64))
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn write_mode(&self) -> WriteMode {
        self.file.write_mode()
    }
}

impl Asked {
    fn new(file: Arc<dyn DiskFile>) -> Arc<Self> {
        Arc::new(Self { file, reads: Mutex::default() })
    }

    fn bytes(&self) -> usize {
        self.reads.lock().iter().map(|(_, length)| *length).sum()
    }
}

/// Catches a start that reads a whole segment because nothing was written to most of it, and a commit behind such space
/// that is not found: what is before it would be taken for a torn tail, and lost in silence.
#[test]
fn reserved_space_is_passed_over_and_what_lies_behind_it_is_found() {
    let memory = MemoryDisk::new();
    let config = JournalConfig { segment_bytes: 8 << 20, payload_bytes_max: 200_000, ..small_config() };
    let mut bench = Bench::open(Arc::new(memory.clone()), config);
    for _ in 0..20 {
        bench.append(1, 50_000);
        bench.step_until_idle();
    }
    let segment = bench.observer.entries().first().expect("entries").location.segment;
    bench.finish();
    let name = segment_file_name(segment);
    let open = |content: Vec<u8>| {
        memory.set_content(&name, content);
        let asked = Asked::new(memory.open(&name, OpenHow::Scan).expect("opens"));
        let seed = ChecksumSeed::of(directory());
        let mut cursor = SegmentCursor::new(asked.clone(), segment, seed, Expected::default(), None).expect("starts");
        cursor.read_gently();
        (asked, cursor)
    };
    let whole = memory.read_file(&name).expect("reads");
    let (asked, mut cursor) = open(whole.clone());
    let mut commits = Vec::new();
    let end = loop {
        match cursor.next() {
            Found::Commit { header, position, .. } => commits.push((position, header.sequence)),
            Found::End { position } => break position,
            found @ Found::Gap { .. } => panic!("{found:?}"),
        }
    };
    let limit = usize::try_from(end).expect("small") + 2 * 128 * 1024;
    assert!(asked.bytes() < limit && limit < whole.len() / 4, "{} bytes read for {end} written", asked.bytes());

    let (first, (last, sequence)) = (commits[0].0, commits[commits.len() - 1]);
    let (first, behind) = (usize::try_from(first).expect("small"), usize::try_from(last).expect("small"));
    assert!(behind - first > 4 * 128 * 1024, "more than is read at once");
    let mut gone = whole;
    gone[first..behind].fill(0);
    let (asked, mut cursor) = open(gone);
    match cursor.next() {
        Found::Gap { next, length, .. } => assert_eq!((next.sequence, length), (sequence, (behind - first) as u64)),
        found => panic!("{found:?}: the commit behind the reserved space is lost"),
    }
    assert!(asked.bytes() < behind - first, "{} bytes read of reserved space", asked.bytes());
}

/// Catches a scrub that asks the disk for megabytes while a commit waits, and a commit larger than what is asked for at
/// once that is read twice or not whole.
#[test]
fn a_gentle_reader_asks_for_little_and_for_nothing_twice() {
    let memory = MemoryDisk::new();
    let config = JournalConfig {
        segment_bytes: 8 << 20,
        group_bytes: 1 << 20,
        queue_bytes_max: 2 << 20,
        payload_bytes_max: 200_000,
        ..small_config()
    };
    let mut bench = Bench::open(Arc::new(memory.clone()), config);
    for commit in 0..6 {
        for entry in 0..(1 + commit % 3 * 4) {
            bench.append(1, 20_000 + entry * 7_001);
        }
        bench.step_until_idle();
    }
    let written = bench.observer.entries();
    bench.finish();
    let segment = written.first().expect("entries").location.segment;
    let file = memory.open(&segment_file_name(segment), OpenHow::Scan).expect("opens");
    let asked = Asked::new(file);
    let seed = ChecksumSeed::of(directory());
    let mut cursor = SegmentCursor::new(asked.clone(), segment, seed, Expected::default(), None).expect("starts");
    cursor.read_gently();
    let (mut entries, mut largest_commit) = (0, 0);
    while let Found::Commit { items, header, intact, .. } = cursor.next() {
        assert!(intact);
        entries += items.len();
        largest_commit = largest_commit.max(header.bytes);
    }
    let here = written.iter().filter(|entry| entry.location.segment == segment).count();
    assert!(entries >= here, "{entries} of {here} and a marker");
    let mut reads = std::mem::take(&mut *asked.reads.lock());
    let most = reads.iter().map(|(_, length)| *length).max().expect("reads");
    assert!(most <= 128 * 1024 && largest_commit > 256 * 1024, "{most} at once, commits of {largest_commit}");
    reads.sort_unstable();
    let twice = reads.windows(2).find(|pair| pair[0].0 + pair[0].1 as u64 > pair[1].0);
    assert_eq!(twice, None, "the same bytes");
}
