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
    let asked = Arc::new(Asked { file, reads: Mutex::default() });
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
