//! The journal: appending to memory, and committing to the disk, alone and in groups, held against raw writes of the same
//! sizes into a file of the same kind: one whose blocks were all written before. That is what a recycled segment is, and a
//! new one that the journal zeroes ahead of the commits.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::ids::DirectoryId;
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;
use streambus_storage::clock::SystemClock;
use streambus_storage::disk::Disk;
use streambus_storage::disk::memory::MemoryDisk;
use streambus_storage::disk::real::RealDisk;
use streambus_storage::journal::{
    CommittedEntry, Committer, EntryKind, Journal, JournalConfig, JournalObserver, JournalParts, LogId, NewEntry,
    RecoverFrom, ReplayDecision, SegmentId,
};
use streambus_storage::latch::{Latch, LatchReason};

use super::MicroError;
use super::disk_rows::recycled_row;
use super::sampler::{Sampler, nanos};
use super::wire_rows::placed_batch;
use crate::stopwatch::Stopwatch;

/// Bytes of an entry's payload such that, with its header, 16 fill 64 KiB and 256 fill 1 MiB together with the commit's
/// header, so that a commit is exactly as many bytes on disk as the raw write it is held against.
const PAYLOAD_BYTES: usize = 3_960;
const SEGMENT_BYTES: u32 = 64 << 20;
const QUEUE_BYTES: u32 = 4 << 20;
/// Commits of 1 MiB that roll through enough segments that what follows is written to recycled ones.
const MIB_UNTIL_RECYCLED: u32 = 4 * (SEGMENT_BYTES >> 20);
/// Commits of the sizes of `disk_rows`, largest first: by the time the small ones run, every segment is a recycled one.
const GROUPS: [(usize, &str); 3] = [(256, "1MiB"), (16, "64KiB"), (1, "4KiB")];

/// Single entries that a new segment takes before they are timed: by then the zeros are ahead of the commits.
const UNTIL_ZEROED: usize = 64;
const RECYCLED: &str = "recycled segments";
const NEW_SEGMENT: &str = "new segment, zeroed ahead";

/// Measures the journal in memory and under `directory`.
pub fn measure(sampler: &mut Sampler<'_>, directory: &Path) -> Result<(), MicroError> {
    let entry = entry()?;
    append_unsynced(sampler, &entry)?;
    let scratch =
        tempfile::Builder::new().prefix("streambus-micro-").tempdir_in(directory).map_err(MicroError::io("journal"))?;
    commits(sampler, &entry, scratch.path())?;
    let scratch =
        tempfile::Builder::new().prefix("streambus-micro-").tempdir_in(directory).map_err(MicroError::io("journal"))?;
    threaded(sampler, &entry, scratch.path())
}

fn entry() -> Result<NewEntry, MicroError> {
    let overhead = placed_batch(1, 100)?.as_bytes().len() - 100;
    let batch = placed_batch(1, PAYLOAD_BYTES - overhead - 2)?;
    Ok(NewEntry {
        log: LogId::new(1),
        kind: EntryKind::Batch,
        base: Offset::ZERO,
        last: Offset::ZERO,
        epoch: LeaderEpoch::ZERO,
        max_timestamp: Timestamp::NONE,
        payload: Bytes::clone(batch.as_bytes()),
    })
}

/// Passes what happened to the measuring thread.
struct Reporter(mpsc::Sender<Event>);

enum Event {
    Committed(usize),
    Sealed,
    Failed(String),
}

impl JournalObserver for Reporter {
    // A measuring thread that has gone has its rows.
    fn committed(&self, entries: &[CommittedEntry]) {
        let _gone = self.0.send(Event::Committed(entries.len()));
    }

    fn sealed(&self, _segment: SegmentId) {
        let _gone = self.0.send(Event::Sealed);
    }

    fn failed(&self, reason: &LatchReason) {
        let _gone = self.0.send(Event::Failed(reason.to_string()));
    }
}

fn open(disk: Arc<dyn Disk>) -> Result<JournalParts, MicroError> {
    let mut config = JournalConfig::new(DirectoryId::from_bytes([9; 16]));
    config.segment_bytes = SEGMENT_BYTES;
    config.queue_bytes_max = QUEUE_BYTES;
    config.payload_bytes_max = 1 << 20;
    let latch = Arc::new(Latch::new(Arc::new(SystemClock::new())));
    Journal::open(disk, config, RecoverFrom::default(), latch, &mut |_| ReplayDecision::Continue)
        .map(|(parts, _report)| parts)
        .map_err(|error| MicroError::refused("opening a journal", error))
}

fn real_disk(directory: &Path) -> Result<Arc<dyn Disk>, MicroError> {
    Ok(Arc::new(RealDisk::open(directory).map_err(MicroError::io("journal"))?))
}

/// Appending alone: the copy into the group that collects. The commits in between are not timed.
fn append_unsynced(sampler: &mut Sampler<'_>, entry: &NewEntry) -> Result<(), MicroError> {
    let name = "journal/append 4KiB, memory, no commit";
    if !sampler.wants(name) {
        return Ok(());
    }
    let (events, _received) = mpsc::channel();
    let (journal, mut committer) = open(Arc::new(MemoryDisk::new()))?.manual(Arc::new(Reporter(events)));
    let a_round = 128;
    let mut samples = Vec::new();
    for _ in 0..sampler.operations() / 20 {
        let watch = Stopwatch::start();
        for _ in 0..a_round {
            journal.append(entry.clone()).map_err(|error| MicroError::refused(name, error))?;
        }
        samples.push(nanos(watch.elapsed()) / f64::from(a_round));
        drain(&journal, &mut committer);
        recycle_sealed(&journal);
    }
    sampler.add(name, entry.payload.len() as u64, Some("machine/memcpy 64KiB"), samples);
    Ok(())
}

/// One thread appends a group and commits it: the journal's own cost, without a hop between threads.
fn commits(sampler: &mut Sampler<'_>, entry: &NewEntry, directory: &Path) -> Result<(), MicroError> {
    let named = |size: &str| format!("journal/commit {size}, disk");
    if !GROUPS.iter().any(|(_, size)| sampler.wants(&named(size))) {
        return Ok(());
    }
    let (events, _received) = mpsc::channel();
    let (journal, mut committer) = open(real_disk(directory)?)?.manual(Arc::new(Reporter(events)));
    for _ in 0..MIB_UNTIL_RECYCLED {
        commit_group(&journal, &mut committer, entry, 256)?;
        recycle_sealed(&journal);
    }
    for (count, size) in GROUPS {
        let name = named(size);
        if !sampler.wants(&name) {
            continue;
        }
        let mut samples = Vec::new();
        for _ in 0..sampler.operations().min(512 * 256 / count) {
            let watch = Stopwatch::start();
            commit_group(&journal, &mut committer, entry, count)?;
            samples.push(nanos(watch.elapsed()));
            recycle_sealed(&journal);
        }
        let bytes = (count * entry.payload.len()) as u64;
        sampler.add_under(RECYCLED, &name, bytes, Some(&recycled_row(size)), samples);
    }
    Ok(())
}

fn commit_group(
    journal: &Journal,
    committer: &mut Committer,
    entry: &NewEntry,
    count: usize,
) -> Result<(), MicroError> {
    for _ in 0..count {
        journal.append(entry.clone()).map_err(|error| MicroError::refused("journal/commit", error))?;
    }
    drain(journal, committer);
    Ok(())
}

fn drain(journal: &Journal, committer: &mut Committer) {
    let mut pending = journal.pending_bytes();
    while pending > 0 {
        let _more = committer.step();
        let now = journal.pending_bytes();
        // A latched journal never drains; the next append says why.
        if now >= pending {
            return;
        }
        pending = now;
    }
}

fn recycle_sealed(journal: &Journal) {
    for segment in journal.segments() {
        if segment.sealed {
            // A segment that cannot be recycled stays where it is: the next one is then a new file.
            let _kept = journal.recycle(segment.id);
        }
    }
}

/// As the broker runs it: a thread of its own commits, the appender waits for the news. In a new segment first, then in
/// recycled ones.
fn threaded(sampler: &mut Sampler<'_>, entry: &NewEntry, directory: &Path) -> Result<(), MicroError> {
    let recycled = "journal/append and wait 4KiB, disk, commit thread";
    let new_segment = "journal/append and wait 4KiB, disk, commit thread, new segment";
    // The name of the one begins with the other's.
    if !sampler.wants(new_segment) {
        return Ok(());
    }
    let (events, received) = mpsc::channel();
    let journal = open(real_disk(directory)?)?.run(Arc::new(Reporter(events))).map_err(MicroError::io(recycled))?;
    let waiting = Waiting { journal: &journal, received, entry };
    let bytes = entry.payload.len() as u64;
    let base = recycled_row("4KiB");

    waiting.time(UNTIL_ZEROED)?;
    let samples = waiting.time(sampler.operations())?;
    sampler.add_under(NEW_SEGMENT, new_segment, bytes, Some(&base), samples);
    if sampler.wants(recycled) {
        for _ in 0..MIB_UNTIL_RECYCLED {
            waiting.append(256)?;
            recycle_sealed(&journal);
        }
        let samples = waiting.time(sampler.operations())?;
        sampler.add_under(RECYCLED, recycled, bytes, Some(&base), samples);
    }
    journal.close();
    Ok(())
}

/// An appender that waits for the commit thread.
struct Waiting<'a> {
    journal: &'a Journal,
    received: mpsc::Receiver<Event>,
    entry: &'a NewEntry,
}

impl Waiting<'_> {
    /// Appends entries one after the other, each when the one before is durable; nanoseconds of each.
    fn time(&self, operations: usize) -> Result<Vec<f64>, MicroError> {
        let mut samples = Vec::new();
        for _ in 0..operations {
            let watch = Stopwatch::start();
            self.append(1)?;
            samples.push(nanos(watch.elapsed()));
        }
        Ok(samples)
    }

    /// Appends `count` entries together and returns when all are durable.
    fn append(&self, count: usize) -> Result<(), MicroError> {
        let refused = |why: &dyn std::fmt::Display| MicroError::refused("journal/append and wait", why);
        for _ in 0..count {
            self.journal.append(self.entry.clone()).map_err(|error| refused(&error))?;
        }
        let mut durable = 0;
        while durable < count {
            match self.received.recv() {
                Ok(Event::Sealed) => {}
                Ok(Event::Committed(entries)) => durable += entries,
                Ok(Event::Failed(reason)) => return Err(refused(&reason)),
                Err(_) => return Err(refused(&"the commit thread ended")),
            }
        }
        Ok(())
    }
}
