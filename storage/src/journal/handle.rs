//! The journal's handle, its observer, and the recovered journal that does not run yet.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::committer::{ActiveSegment, Committer};
use super::config::JournalConfig;
use super::entry::{CommittedEntry, NewEntry, ReplayDecision, ReplayedEntry};
use super::error::{AppendError, OpenError, RecycleError};
use super::position::{CommitSequence, Incarnation, Lsn, SegmentId};
use super::reader::{JournalReader, SegmentInfo};
use super::recovery::{self, RecoverFrom};
use super::report::RecoveryReport;
use super::segment::segment_file_name;
use super::state::{Phase, Shared};
use super::thread::CommitThread;
use crate::disk::{Disk, WriteMode};
use crate::latch::{Latch, LatchReason, LatchedOperation};

/// Told what became durable. All calls come from the commit loop, one after the other, with no journal lock held; they
/// delay the next commit, so they must be short.
pub trait JournalObserver: Send + Sync + 'static {
    /// `entries` are on stable storage, and so is every entry before them. In the journal's order, each entry once.
    ///
    /// May run before the [`Journal::append`] that returns the entry's number has returned to its caller: hold a lock
    /// of your own around the append if that matters.
    fn committed(&self, entries: &[CommittedEntry]);

    /// `segment` gets no more entries; all of them have been reported.
    fn sealed(&self, segment: SegmentId);

    /// Durability was lost; no call follows. Entries appended and not reported may or may not be found at recovery.
    fn failed(&self, reason: &LatchReason);

    /// Figures of one commit, markers included.
    fn commit_finished(&self, _stats: CommitStats) {}
}

/// Figures of one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitStats {
    /// Entries in it; zero for a marker.
    pub entries: u64,
    /// Bytes of the entries, headers and padding included.
    pub entry_bytes: u64,
    /// Bytes written.
    pub disk_bytes: u64,
    /// Time of the durable write.
    pub elapsed: Duration,
}

/// A recovered journal that takes no entries yet.
#[derive(Debug)]
pub struct JournalParts {
    pub(super) shared: Arc<Shared>,
    pub(super) active: ActiveSegment,
    pub(super) sequence: CommitSequence,
    pub(super) incarnation: Incarnation,
}

impl JournalParts {
    /// Reads from the recovered segments.
    pub fn reader(&self) -> JournalReader {
        JournalReader::new(self.shared.clone())
    }

    /// Starts the one commit thread.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn run(self, observer: Arc<dyn JournalObserver>) -> io::Result<Journal> {
        let (mut journal, committer) = self.manual(observer);
        journal.thread = Mutex::new(Some(CommitThread::start(committer)?));
        Ok(journal)
    }

    /// A journal whose commits happen only when the returned [`Committer`] is stepped: for deterministic tests.
    pub fn manual(self, observer: Arc<dyn JournalObserver>) -> (Journal, Committer) {
        let journal = Journal { shared: self.shared.clone(), thread: Mutex::new(None) };
        (journal, Committer::new(self.shared, observer, self.active, self.sequence, self.incarnation))
    }
}

/// The handle of a running journal. Shared by reference; closing is explicit, dropping closes too.
pub struct Journal {
    shared: Arc<Shared>,
    thread: Mutex<Option<CommitThread>>,
}

impl Journal {
    /// Recovers the journal of `disk` and hands every entry from `from` on to `replay`, in order.
    ///
    /// An empty directory gets its first segment. On return the recovered tail is on stable storage. When the proof of
    /// this opening cannot be written, `latch` is set and the journal is readable.
    ///
    /// # Errors
    /// See [`OpenError`]. Damage is no error: it is in the report.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: JournalConfig,
        from: RecoverFrom,
        latch: Arc<Latch>,
        replay: &mut dyn FnMut(ReplayedEntry) -> ReplayDecision,
    ) -> Result<(JournalParts, RecoveryReport), OpenError> {
        recovery::open(disk, config, from, latch, replay)
    }

    /// Fixes `entry`'s place in the order. It is durable when [`JournalObserver::committed`] names it.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing was appended then.
    pub fn append(&self, entry: NewEntry) -> Result<Lsn, AppendError> {
        self.shared.append(entry)
    }

    /// Fixes the places of all of `batches`, which no other entry comes between, or of none; returns the number of the
    /// first. For background work: refused while callers of [`Journal::append`] queue.
    ///
    /// # Errors
    /// As [`Journal::append`]; [`AppendError::TooLarge`] also when they are more than may queue.
    pub fn append_run(&self, batches: Vec<NewEntry>) -> Result<Lsn, AppendError> {
        self.shared.append_run(batches)
    }

    /// Reads from the journal's segments.
    pub fn reader(&self) -> JournalReader {
        JournalReader::new(self.shared.clone())
    }

    /// The segment that gets the next commit, or is about to be replaced by the next one.
    pub fn active_segment(&self) -> SegmentId {
        self.shared.catalog.read().last_key_value().map_or(SegmentId::ZERO, |(id, _)| *id)
    }

    /// Every segment, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.reader().segments()
    }

    /// The number the next entry will get.
    pub fn next_lsn(&self) -> Lsn {
        self.shared.intake.lock().next_lsn
    }

    /// Every entry below this number is on stable storage.
    pub fn durable_lsn(&self) -> Lsn {
        Lsn::new(self.shared.durable_lsn.load(Ordering::Acquire))
    }

    /// Spare segment files: recycled ones, and the one made ahead.
    pub fn spare_segments(&self) -> usize {
        self.shared.supply.lock().count()
    }

    /// Bytes of entries that wait for a commit.
    pub fn pending_bytes(&self) -> u64 {
        self.shared.intake.lock().pending_bytes()
    }

    /// Bytes of all segment files, spare ones included.
    pub fn disk_bytes(&self) -> u64 {
        self.shared.segment_bytes() + self.shared.supply.lock().bytes()
    }

    /// How commits are made durable.
    pub fn write_mode(&self) -> WriteMode {
        self.shared.disk.write_mode()
    }

    /// Takes `segment` out of the journal and keeps its file for reuse.
    ///
    /// Only a segment that holds nothing live *and lies before the segment recovery starts from* may be recycled:
    /// recovery takes a gap behind its start for damage.
    ///
    /// # Errors
    /// See [`RecycleError`]. A failed directory sync sets the latch.
    pub fn recycle(&self, segment: SegmentId) -> Result<(), RecycleError> {
        if let Some(reason) = self.shared.latch.reason() {
            return Err(RecycleError::ReadOnly(reason.clone()));
        }
        {
            let mut catalog = self.shared.catalog.write();
            let Some(last) = catalog.keys().next_back().copied() else { return Err(RecycleError::NoSegment(segment)) };
            if segment == last {
                return Err(RecycleError::Active(segment));
            }
            // From here on readers that looked before notice that the segment is gone.
            catalog.remove(&segment).ok_or(RecycleError::NoSegment(segment))?;
        }
        let recycled = {
            let _names = self.shared.names.lock();
            let mut supply = self.shared.supply.lock();
            let name = supply.next_name();
            let disk = &self.shared.disk;
            // Durable before the content changes, or a crash could leave a segment of the old name with new content.
            disk.rename(&segment_file_name(segment), &name)
                .and_then(|()| {
                    disk.sync_dir().inspect_err(|error| {
                        self.shared.latch.trip(LatchedOperation::Sync, ".", error);
                    })
                })
                .and_then(|()| supply.adopt(name))
        };
        self.shared.refresh_next_segment();
        recycled.map_err(|source| RecycleError::Io { segment, source })
    }

    /// Keeps the journal from changing names of the directory: for whoever else syncs it, until a failure of that has set
    /// the latch.
    pub(crate) fn hold_names(&self) -> MutexGuard<'_, ()> {
        self.shared.names.lock()
    }

    /// Stops taking entries, commits what waits, proves it, and ends the commit thread. Later calls do nothing.
    ///
    /// A journal without a thread is closed by stepping its [`Committer`] until it is
    /// [`Stopped`](super::Step::Stopped).
    pub fn close(&self) {
        {
            let mut intake = self.shared.intake.lock();
            if matches!(intake.phase, Phase::Open) {
                intake.phase = Phase::Closing;
            }
            self.shared.unpark(&mut intake);
        }
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            thread.join();
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("active", &self.active_segment()).finish_non_exhaustive()
    }
}
