//! The commit loop as a state machine: each [`Committer::step`] does one thing and returns. It owns the active segment.
//!
//! A thread runs it in production (`thread`), a test or a simulation steps it. No clock decides anything here: when
//! the journal counts as idle is the caller's decision.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::entry::CommittedEntry;
use super::group::{CommitPlace, Group};
use super::handle::{CommitStats, JournalObserver, JournalParts};
use super::position::{CommitSequence, Incarnation, Lsn, SegmentId};
use super::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, segment_file_name};
use super::state::{Intake, NextSegment, Phase, SegmentEntry, Shared};
use super::supply::CreateError;
use super::zero_ahead::ZeroAhead;
use crate::aligned::{AlignedBuffer, BLOCK_BYTES};
use crate::disk::DiskFile;
use crate::latch::LatchedOperation;

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A commit was written, synced and reported.
    Committed,
    /// A file for the next segment was made ready, or found impossible to make.
    Prepared,
    /// There is nothing to do.
    Idle,
    /// Nothing will ever be done again: the journal was closed and drained, or durability was lost.
    Stopped,
}

/// The segment that is being written.
#[derive(Debug)]
pub(crate) struct ActiveSegment {
    pub(crate) id: SegmentId,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Where the next commit goes.
    pub(crate) position: u64,
    pub(crate) bytes: u64,
    /// What of it was never written.
    pub(crate) zero_ahead: ZeroAhead,
}

/// The commit loop.
pub struct Committer {
    shared: Arc<Shared>,
    observer: Arc<dyn JournalObserver>,
    active: ActiveSegment,
    /// Of the next commit.
    sequence: CommitSequence,
    incarnation: Incarnation,
    /// The commit in flight; empty between steps.
    group: Group,
    committed: Vec<CommittedEntry>,
    /// True while the last commit has no proof behind it that it was synced.
    unproven: bool,
}

/// A commit that was taken from the intake, with its space accounted for.
struct Taken {
    roll: bool,
    padded: u64,
}

impl Committer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        observer: Arc<dyn JournalObserver>,
        active: ActiveSegment,
        sequence: CommitSequence,
        incarnation: Incarnation,
    ) -> Self {
        let group = Group::new(shared.config.group_bytes as usize);
        Self { shared, observer, active, sequence, incarnation, group, committed: Vec::new(), unproven: false }
    }

    /// Does the most urgent thing: prepare the next segment when it will soon be needed, else commit what has
    /// collected.
    pub fn step(&mut self) -> Step {
        if let Some(reason) = self.shared.latch.reason().cloned() {
            return self.stop(&reason);
        }
        // First, or a journal that is never idle would reach the segment's end with no next one. It happens once a
        // segment, with half of it left to fill.
        if self.prepare() {
            return Step::Prepared;
        }
        // Cloned so that the guard borrows from it and not from `self`.
        let shared = self.shared.clone();
        let taken = {
            let mut intake = shared.intake.lock();
            match intake.phase {
                Phase::Failed(_) => return Step::Stopped,
                Phase::Open | Phase::Closing => self.take(&mut intake),
            }
        };
        if let Some(taken) = taken {
            return self.commit(&taken);
        }
        match self.shared.intake.lock().phase {
            Phase::Closing => Step::Stopped,
            Phase::Open | Phase::Failed(_) => Step::Idle,
        }
    }

    /// True while a marker would prove something: the last commit could still be taken for a torn one if a bit of it
    /// flipped.
    pub fn wants_marker(&self) -> bool {
        self.unproven && !self.shared.latch.is_set()
    }

    /// Writes an empty commit as proof that the last one was synced, unless entries wait (their commit is proof) or
    /// the segment is full (the next one is).
    pub fn mark(&mut self) -> Step {
        if let Some(reason) = self.shared.latch.reason().cloned() {
            return self.stop(&reason);
        }
        let block = BLOCK_BYTES as u64;
        {
            let mut intake = self.shared.intake.lock();
            if intake.pending_bytes() > 0 {
                return Step::Idle;
            }
            if intake.remaining < block {
                self.unproven = false;
                return Step::Idle;
            }
            intake.remaining -= block;
        }
        let step = self.commit(&Taken { roll: false, padded: block });
        self.unproven = false;
        step
    }

    /// True while blocks that commits will soon reach were never written.
    pub fn wants_zeros(&self) -> bool {
        self.zeros_wanted().is_some() && !self.shared.latch.is_set()
    }

    /// Writes some zeros ahead of the commits, where nobody has written yet. To be called when there is nothing to commit.
    pub fn zero_ahead(&mut self) -> Step {
        if let Some(reason) = self.shared.latch.reason().cloned() {
            return self.stop(&reason);
        }
        let Some(range) = self.zeros_wanted() else { return Step::Idle };
        let ActiveSegment { id, file, zero_ahead, .. } = &mut self.active;
        let Ok(length) = usize::try_from(range.end - range.start) else { return Step::Idle };
        if let Err(error) = file.write_at_durably(range.start, zero_ahead.zeros().blocks(length)) {
            let name = segment_file_name(*id);
            return self.fail(LatchedOperation::Write, &name, &error);
        }
        zero_ahead.written(range.end);
        Step::Prepared
    }

    fn zeros_wanted(&self) -> Option<Range<u64>> {
        let ActiveSegment { position, bytes, zero_ahead, .. } = &self.active;
        zero_ahead.next(*position, *bytes, u64::from(self.shared.config.zero_ahead_bytes))
    }

    /// Takes the collecting group, if it holds anything, and accounts for its space.
    fn take(&mut self, intake: &mut Intake) -> Option<Taken> {
        intake.refill(self.shared.seed);
        if intake.group.is_empty() {
            return None;
        }
        debug_assert!(self.group.is_empty(), "one commit is in flight at a time");
        // What still queues is copied by the next appender, while this commit is being written, or by the next take.
        std::mem::swap(&mut intake.group, &mut self.group);
        let padded = self.group.padded_bytes();
        let roll = padded > intake.remaining;
        if roll {
            assert!(
                matches!(intake.next_segment, NextSegment::Ready),
                "entries were accepted without space reserved for them"
            );
            intake.remaining = u64::from(self.shared.config.segment_bytes) - SEGMENT_HEADER_BYTES;
            intake.next_segment = NextSegment::Wanted;
        }
        assert!(padded <= intake.remaining, "a commit is larger than a segment");
        intake.remaining -= padded;
        Some(Taken { roll, padded })
    }

    fn commit(&mut self, taken: &Taken) -> Step {
        if taken.roll
            && let Err((operation, file, error)) = self.roll()
        {
            return self.fail(operation, &file, &error);
        }
        let started = self.shared.latch.clock().monotonic();
        let place = CommitPlace { segment: self.active.id, sequence: self.sequence, incarnation: self.incarnation };
        // Only a marker uses it, and a marker is written when nothing waits.
        let next_lsn = Lsn::new(self.shared.durable_lsn.load(Ordering::Acquire));
        let end = self.active.position + taken.padded;
        let written = {
            let blocks = self.group.seal(place, next_lsn, self.shared.seed);
            assert!(blocks.len() as u64 == taken.padded && end <= self.active.bytes, "a commit outgrew its space");
            self.active.file.write_at_durably(self.active.position, blocks)
        };
        if let Err(error) = written {
            return self.fail(LatchedOperation::Write, &segment_file_name(self.active.id), &error);
        }
        // Somebody else may have been told meanwhile that an earlier change of this directory is not durable.
        if let Some(reason) = self.shared.latch.reason().cloned() {
            return self.stop(&reason);
        }
        self.committed.clear();
        self.group.committed(self.active.id, self.active.position, &mut self.committed);
        let stats = CommitStats {
            entries: self.committed.len() as u64,
            entry_bytes: self.group.entry_bytes(),
            disk_bytes: taken.padded,
            elapsed: self.shared.latch.clock().monotonic().saturating_sub(started),
        };
        self.active.position = end;
        self.sequence = self.sequence.next();
        self.unproven = !self.committed.is_empty();
        self.group.clear();
        if let Some(entry) = self.shared.catalog.read().get(&self.active.id) {
            entry.written.store(end, Ordering::Release);
        }
        if let Some(last) = self.committed.last() {
            self.shared.durable_lsn.store(last.lsn.next().get(), Ordering::Release);
            self.observer.committed(&self.committed);
        }
        self.observer.commit_finished(stats);
        Step::Committed
    }

    /// Brings the next segment into place: header, name, directory, in this order, each durable before the next.
    fn roll(&mut self) -> Result<(), (LatchedOperation, String, io::Error)> {
        let spare = self.shared.supply.lock().take();
        let Some(spare) = spare else { unreachable!("the intake said that the next segment is ready") };
        let id = self.active.id.next();
        let name = segment_file_name(id);
        let Some(base_lsn) = self.group.first_lsn() else { unreachable!("only a commit with entries rolls") };
        let bytes = u64::from(self.shared.config.segment_bytes);
        let header = SegmentHeader {
            directory: self.shared.config.directory,
            segment: id,
            base_lsn,
            first_sequence: self.sequence,
            incarnation: self.incarnation,
            segment_bytes: bytes,
        };
        write_header(&spare.file, &header).map_err(|error| (LatchedOperation::Write, spare.name.clone(), error))?;
        {
            let _names = self.shared.names.lock();
            if self.shared.latch.is_set() {
                return Err((LatchedOperation::Roll, name, io::Error::other("durability was lost meanwhile")));
            }
            let renamed = self.shared.disk.rename(&spare.name, &name);
            renamed.map_err(|error| (LatchedOperation::Roll, name.clone(), error))?;
            self.shared.disk.sync_dir().map_err(|error| (LatchedOperation::Sync, ".".to_owned(), error))?;
        }
        let sealed = self.active.id;
        {
            let mut catalog = self.shared.catalog.write();
            if let Some(old) = catalog.get(&sealed) {
                // A new entry without the open file, which readers that have the old one may still use.
                let replaced = SegmentEntry {
                    id: old.id,
                    bytes: old.bytes,
                    written: AtomicU64::new(self.active.position),
                    sealed: AtomicBool::new(true),
                    base_lsn: old.base_lsn,
                    first_sequence: old.first_sequence,
                    file: None,
                };
                catalog.insert(sealed, Arc::new(replaced));
            }
            catalog.insert(id, Arc::new(active_entry(&header, &spare.file, SEGMENT_HEADER_BYTES)));
        }
        let zero_ahead = spare.zero_ahead();
        self.active = ActiveSegment { id, file: spare.file, position: SEGMENT_HEADER_BYTES, bytes, zero_ahead };
        self.shared.refresh_next_segment();
        self.observer.sealed(sealed);
        Ok(())
    }

    /// Makes the next segment's file ready once half of the active one is used. True when it tried.
    pub(crate) fn prepare(&mut self) -> bool {
        {
            let mut intake = self.shared.intake.lock();
            if intake.remaining > u64::from(self.shared.config.segment_bytes) / 2
                || !matches!(intake.phase, Phase::Open)
            {
                return false;
            }
            match &mut intake.next_segment {
                NextSegment::Ready | NextSegment::Unavailable { retry: false, .. } => return false,
                NextSegment::Wanted => {}
                NextSegment::Unavailable { retry, .. } => *retry = false,
            }
        }
        if let Err((file, error)) = prepare_next_segment(&self.shared) {
            self.fail(LatchedOperation::Roll, &file, &error);
        }
        true
    }

    fn fail(&mut self, operation: LatchedOperation, file: &str, error: &io::Error) -> Step {
        let reason = self.shared.latch.trip(operation, file, error).clone();
        tracing::error!(%reason, "durability was lost");
        self.stop(&reason)
    }

    /// Refuses everything from now on and tells the observer, once.
    fn stop(&mut self, reason: &Arc<crate::latch::LatchReason>) -> Step {
        let first = {
            let mut intake = self.shared.intake.lock();
            let first = !matches!(intake.phase, Phase::Failed(_));
            intake.fail(reason);
            first
        };
        self.group.clear();
        self.unproven = false;
        if first {
            self.observer.failed(reason);
        }
        Step::Stopped
    }

    /// Gives everything but the observer back. No commit may be in flight, which holds between steps.
    pub(crate) fn into_parts(self) -> JournalParts {
        let Self { shared, active, sequence, incarnation, .. } = self;
        JournalParts { shared, active, sequence, incarnation }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl std::fmt::Debug for Committer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committer")
            .field("active", &self.active)
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

/// Makes a spare file unless one is at hand, and notes the outcome for appenders. The error is the disk's, with the file: a
/// full one is no error.
fn prepare_next_segment(shared: &Shared) -> Result<(), (String, io::Error)> {
    let in_use = shared.segment_bytes();
    let outcome = {
        let mut supply = shared.supply.lock();
        if supply.count() > 0 { Ok(()) } else { supply.create(in_use) }
    };
    let mut intake = shared.intake.lock();
    intake.next_segment = match outcome {
        Ok(()) => NextSegment::Ready,
        // A segment may have been recycled meanwhile.
        Err(_) if shared.supply.lock().count() > 0 => NextSegment::Ready,
        Err(CreateError::NoSpace(problem)) => {
            tracing::warn!(problem, "no space for the next journal segment");
            NextSegment::Unavailable { problem: problem.into(), retry: false }
        }
        Err(CreateError::Refused { file, source }) => return Err((file, source)),
    };
    Ok(())
}

/// Writes a segment's header block durably.
pub(crate) fn write_header(file: &Arc<dyn DiskFile>, header: &SegmentHeader) -> io::Result<()> {
    let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
    block.as_mut_slice().copy_from_slice(&header.encode());
    file.write_at_durably(0, block.blocks(BLOCK_BYTES))
}

/// What readers know of the segment that is being written.
pub(crate) fn active_entry(header: &SegmentHeader, file: &Arc<dyn DiskFile>, written: u64) -> SegmentEntry {
    SegmentEntry {
        id: header.segment,
        bytes: header.segment_bytes,
        written: AtomicU64::new(written),
        sealed: AtomicBool::new(false),
        base_lsn: Some(header.base_lsn),
        first_sequence: Some(header.first_sequence),
        file: Some(file.clone()),
    }
}
