//! What appenders, the commit loop and readers share: the intake, the catalog of segments, the spare files.
//!
//! Lock order: names, intake, then supply; the catalog's lock is innermost. No lock is held over a write to the disk,
//! except names, and the supply's, which only making and recycling spare files takes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use super::config::{JournalConfig, worst_case_bytes};
use super::entry::{ChecksumSeed, EntryKind, NewEntry};
use super::error::AppendError;
use super::group::{Group, entry_bytes};
use super::position::{CommitSequence, Lsn, SegmentId};
use super::supply::Supply;
use crate::disk::{Disk, DiskFile};
use crate::latch::{Latch, LatchReason};

/// Space at the end of the last segment that batches do not get when no other segment can be made.
const SPACE_KEPT_BYTES: u64 = 256 * 1024;

/// Whether entries are taken.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    Open,
    /// Nothing new is taken; what waits is still committed.
    Closing,
    Failed(Arc<LatchReason>),
}

/// Whether the segment after the active one is at hand.
#[derive(Clone, Debug)]
pub(crate) enum NextSegment {
    Ready,
    /// To be made before the active one is full.
    Wanted,
    /// Could not be made. `retry` asks for another attempt.
    Unavailable {
        problem: Arc<str>,
        retry: bool,
    },
}

/// Entries accepted and not yet in a commit, and the space they will need.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) group: Group,
    /// Behind a full group, in order. `queued_bytes` of them, headers and padding included.
    queue: VecDeque<(Lsn, u32, NewEntry)>,
    queued_bytes: u64,
    pub(crate) next_lsn: Lsn,
    /// Bytes of the active segment behind the commit in flight.
    pub(crate) remaining: u64,
    pub(crate) next_segment: NextSegment,
    pub(crate) phase: Phase,
    /// True while the commit thread waits to be woken.
    parked: bool,
}

impl Intake {
    pub(crate) fn new(config: &JournalConfig, next_lsn: Lsn, remaining: u64, next_segment: NextSegment) -> Self {
        Self {
            group: Group::new(config.group_bytes as usize),
            queue: VecDeque::new(),
            queued_bytes: 0,
            next_lsn,
            remaining,
            next_segment,
            phase: Phase::Open,
            parked: false,
        }
    }

    /// Bytes of entries that no commit has taken.
    pub(crate) fn pending_bytes(&self) -> u64 {
        self.group.entry_bytes() + self.queued_bytes
    }

    /// Moves what fits from the queue to the group, in order.
    pub(crate) fn refill(&mut self, seed: ChecksumSeed) {
        while let Some((_, _, entry)) = self.queue.front() {
            let bytes = entry_bytes(&entry.payload);
            if !self.group.fits(bytes) {
                return;
            }
            let Some((lsn, payload_crc, entry)) = self.queue.pop_front() else { return };
            self.queued_bytes -= bytes as u64;
            self.group.push(lsn, &entry, payload_crc, seed);
        }
    }

    /// Gives an admitted entry its number and its place.
    fn push(&mut self, entry: NewEntry, payload_crc: u32, seed: ChecksumSeed) -> Lsn {
        let (lsn, bytes) = (self.next_lsn, entry_bytes(&entry.payload));
        self.next_lsn = lsn.next();
        if self.queue.is_empty() && self.group.fits(bytes) {
            self.group.push(lsn, &entry, payload_crc, seed);
        } else {
            self.queued_bytes += bytes as u64;
            self.queue.push_back((lsn, payload_crc, entry));
        }
        lsn
    }

    /// Drops everything that waits: durability was lost.
    pub(crate) fn fail(&mut self, reason: &Arc<LatchReason>) {
        self.phase = Phase::Failed(reason.clone());
        self.group.clear();
        self.queue.clear();
        self.queued_bytes = 0;
    }

    fn has_work(&self) -> bool {
        let wants_segment = matches!(self.next_segment, NextSegment::Unavailable { retry: true, .. });
        self.pending_bytes() > 0 || wants_segment || !matches!(self.phase, Phase::Open)
    }
}

/// One segment of the journal as readers know it.
#[derive(Debug)]
pub(crate) struct SegmentEntry {
    pub(crate) id: SegmentId,
    pub(crate) bytes: u64,
    /// End of the last commit; `u64::MAX` for a sealed segment that this process neither wrote nor replayed.
    pub(crate) written: AtomicU64,
    pub(crate) sealed: AtomicBool,
    pub(crate) base_lsn: Option<Lsn>,
    pub(crate) first_sequence: Option<CommitSequence>,
    /// The open file of a segment this process writes; sealed ones are opened for each read, so that the number of
    /// open files does not grow with the data.
    pub(crate) file: Option<Arc<dyn DiskFile>>,
}

/// Everything that outlives a borrow of the commit loop.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) config: JournalConfig,
    pub(crate) seed: ChecksumSeed,
    pub(crate) latch: Arc<Latch>,
    pub(crate) intake: Mutex<Intake>,
    pub(crate) wake: Condvar,
    pub(crate) catalog: RwLock<BTreeMap<SegmentId, Arc<SegmentEntry>>>,
    pub(crate) supply: Mutex<Supply>,
    /// Held from a change of names until its directory sync is known to have worked, or the latch is set: the kernel
    /// reports a failed sync once, and whoever is told must speak for all.
    pub(crate) names: Mutex<()>,
    /// Every entry below this number is on stable storage.
    pub(crate) durable_lsn: AtomicU64,
}

impl Shared {
    /// Accepts `entry` and fixes its place in the order.
    pub(crate) fn append(&self, entry: NewEntry) -> Result<Lsn, AppendError> {
        self.check_size(&entry)?;
        // Outside the lock. A batch brings its own checksum.
        let payload_crc = if entry.kind.holds_batch() { 0 } else { crc32c::crc32c(&entry.payload) };
        let bytes = entry_bytes(&entry.payload) as u64;
        let mut intake = self.intake.lock();
        intake.refill(self.seed);
        self.admit(&mut intake, entry.kind, bytes)?;
        let lsn = intake.push(entry, payload_crc, self.seed);
        self.unpark(&mut intake);
        Ok(lsn)
    }

    /// Accepts all of `batches` next to one another, or none of them; returns the number of the first. Background work
    /// calls it: it is refused as busy while anything queues behind the commit that collects.
    pub(crate) fn append_run(&self, batches: Vec<NewEntry>) -> Result<Lsn, AppendError> {
        let mut bytes = 0;
        for entry in &batches {
            assert!(entry.kind.holds_batch(), "a run is made of batches");
            self.check_size(entry)?;
            bytes += entry_bytes(&entry.payload) as u64;
        }
        let max = u64::from(self.config.queue_bytes_max);
        if batches.len() > 1 && bytes > max {
            return Err(AppendError::TooLarge { bytes, max });
        }
        let mut intake = self.intake.lock();
        intake.refill(self.seed);
        if intake.queued_bytes > 0 {
            return Err(AppendError::Busy { queued_bytes: intake.queued_bytes, limit_bytes: max });
        }
        // Nothing queues, so the queue takes one run of any legal size.
        self.admit(&mut intake, EntryKind::Rewrite, bytes)?;
        let first = intake.next_lsn;
        for entry in batches {
            intake.push(entry, 0, self.seed);
        }
        self.unpark(&mut intake);
        Ok(first)
    }

    fn check_size(&self, entry: &NewEntry) -> Result<(), AppendError> {
        let (bytes, max) = (entry.payload.len() as u64, u64::from(self.config.payload_bytes_max));
        if bytes > max { Err(AppendError::TooLarge { bytes, max }) } else { Ok(()) }
    }

    fn admit(&self, intake: &mut Intake, kind: EntryKind, bytes: u64) -> Result<(), AppendError> {
        match &intake.phase {
            Phase::Open => {}
            Phase::Closing => return Err(AppendError::Closed),
            Phase::Failed(reason) => return Err(AppendError::ReadOnly(reason.clone())),
        }
        if let Some(reason) = self.latch.reason() {
            return Err(AppendError::ReadOnly(reason.clone()));
        }
        let limit = u64::from(self.config.queue_bytes_max);
        let busy = AppendError::Busy { queued_bytes: intake.queued_bytes, limit_bytes: limit };
        let queues = !intake.queue.is_empty() || !intake.group.fits(usize::try_from(bytes).unwrap_or(usize::MAX));
        // An empty queue takes one entry of any legal size, so that a limit below the largest entry refuses nothing
        // for ever.
        if queues && intake.queued_bytes > 0 && intake.queued_bytes + bytes > limit {
            return Err(busy);
        }
        // Accepted entries always have space that is already reserved: running out of it later would mean taking
        // back an order that callers have built upon.
        let worst = worst_case_bytes(intake.pending_bytes() + bytes, u64::from(self.config.group_bytes));
        // The last of the space is for what frees space: trims and deletions must not be refused on a full disk, and
        // before it is down to them, copies that let a whole segment go.
        let kept = SPACE_KEPT_BYTES.min(u64::from(self.config.segment_bytes) / 8);
        let kept = match kind {
            EntryKind::Batch | EntryKind::Repair => kept,
            EntryKind::Rewrite => kept / 2,
            _ => 0,
        };
        if worst + kept <= intake.remaining {
            return Ok(());
        }
        match &mut intake.next_segment {
            NextSegment::Ready => Ok(()),
            NextSegment::Wanted => Err(busy),
            NextSegment::Unavailable { problem, retry } => {
                let problem = problem.clone();
                *retry = true;
                self.unpark(intake);
                Err(AppendError::Full { problem })
            }
        }
    }

    /// Wakes the commit thread when it waits.
    pub(crate) fn unpark(&self, intake: &mut Intake) {
        if std::mem::take(&mut intake.parked) {
            self.wake.notify_one();
        }
    }

    /// Waits until there is something to commit; false when `timeout` passed before.
    pub(crate) fn park(&self, timeout: Option<Duration>) -> bool {
        let mut intake = self.intake.lock();
        while !intake.has_work() {
            intake.parked = true;
            match timeout {
                None => self.wake.wait(&mut intake),
                Some(timeout) => {
                    // A spurious wake-up restarts the full wait: the time is a courtesy, not a promise.
                    if self.wake.wait_for(&mut intake, timeout).timed_out() && !intake.has_work() {
                        intake.parked = false;
                        return false;
                    }
                }
            }
        }
        intake.parked = false;
        true
    }

    /// Notes whether a spare file is at hand after one was added or taken.
    pub(crate) fn refresh_next_segment(&self) {
        let mut intake = self.intake.lock();
        let count = self.supply.lock().count();
        if count > 0 {
            intake.next_segment = NextSegment::Ready;
        } else if matches!(intake.next_segment, NextSegment::Ready) {
            intake.next_segment = NextSegment::Wanted;
        }
    }

    /// Bytes of the journal's segment files, spare ones not included.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.catalog.read().values().map(|entry| entry.bytes).sum()
    }
}

impl SegmentEntry {
    pub(crate) fn written(&self) -> Option<u64> {
        let written = self.written.load(Ordering::Acquire);
        (written != u64::MAX).then_some(written)
    }
}
