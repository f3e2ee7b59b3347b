//! Everything one open data directory shares.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use streambus_protocol::ids::DirectoryId;

use super::clean::Cleaning;
use super::commit_sink::CommitSink;
use super::compact::Compaction;
use super::index_damage::IndexDamage;
use super::lock::DirectoryLock;
use super::maintenance::Maintenance;
use crate::clock::Clock;
use crate::config::StoreConfig;
use crate::disk::Disk;
use crate::error::{AppendError, IndexError};
use crate::identity::Identity;
use crate::index::Index;
use crate::journal::{Committer, DamagedRange, Journal, JournalReader};
use crate::latch::{Latch, LatchedOperation};
use crate::metrics::StoreMetrics;
use crate::scrub::ScrubCursor;
use crate::tail_cache::TailCache;

/// Its presence tells the next start to rebuild the index from the journal.
pub(crate) const INDEX_DAMAGED_FILE: &str = "index-damaged";

/// Extents may pile up to this many times the configured number while the index is slow or refuses.
const EXTENTS_BEHIND_FACTOR: usize = 4;

/// The shared state behind [`Store`](super::Store) and every log.
#[derive(Debug)]
pub(crate) struct StoreInner {
    pub(crate) config: StoreConfig,
    pub(crate) directory: DirectoryId,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) index: Index,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) latch: Arc<Latch>,
    pub(crate) journal: Journal,
    pub(crate) reader: JournalReader,
    pub(crate) sink: Arc<CommitSink>,
    pub(crate) cache: Mutex<TailCache>,
    pub(crate) metrics: Arc<StoreMetrics>,
    pub(crate) identity: Mutex<Identity>,
    pub(crate) maintenance: Mutex<Maintenance>,
    pub(crate) scrub: Mutex<ScrubCursor>,
    pub(crate) compaction: Mutex<Compaction>,
    pub(crate) cleaning: Mutex<Cleaning>,
    /// Damage whose log is not known: every log's tail may be affected.
    pub(crate) unattributed: Mutex<Vec<DamagedRange>>,
    pub(crate) index_damage: Mutex<IndexDamage>,
    /// Background tasks that have panicked.
    pub(crate) panicked: Mutex<BTreeSet<&'static str>>,
    /// Free bytes to keep, for the status; the journal enforces it.
    pub(crate) reserve_bytes: u64,
    /// The commit loop of a store that is stepped; `None` when a thread has it.
    pub(crate) committer: Mutex<Option<Stepped>>,
    pub(crate) thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Held for as long as the directory is open.
    pub(crate) _lock: Option<DirectoryLock>,
}

/// A commit loop without a thread.
pub(crate) struct Stepped(pub(crate) Committer);

impl std::fmt::Debug for Stepped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stepped")
    }
}

impl StoreInner {
    /// Refuses changes once durability was lost.
    pub(crate) fn check_writable(&self) -> Result<(), AppendError> {
        match self.latch.reason() {
            Some(reason) => Err(AppendError::ReadOnly(reason.clone())),
            None => Ok(()),
        }
    }

    /// Refuses batches while the index has not taken extents for so long that memory would run out.
    pub(crate) fn check_index_keeps_up(&self) -> Result<(), AppendError> {
        let (held, max) =
            (self.sink.extents(), self.config.extents_in_memory_max.saturating_mul(EXTENTS_BEHIND_FACTOR));
        if held < max {
            return Ok(());
        }
        self.sink.wake();
        Err(AppendError::Full(format!("{held} index entries wait in memory because the index takes none").into()))
    }

    /// Changes small files, in turn with the journal's own changes of names. A failure other than a full disk sets the
    /// latch: nothing this directory says can be relied upon any more.
    pub(crate) fn change_names(&self, file: &str, change: impl FnOnce(&dyn Disk) -> io::Result<()>) -> io::Result<()> {
        let _names = self.journal.hold_names();
        change(&*self.disk).inspect_err(|error| {
            if error.kind() != io::ErrorKind::StorageFull {
                self.latch.trip(LatchedOperation::Sync, file, error);
            }
        })
    }

    /// Notes that background work panicked; the status says so from now on.
    pub(crate) fn task_panicked(&self, task: &'static str) {
        self.panicked.lock().insert(task);
        tracing::error!(task, "a task of the store panicked: report this as a defect, with the log before this line");
    }

    /// Damage whose log is not known and whose segment is still part of the journal.
    pub(crate) fn unattributed_damage(&self) -> Vec<DamagedRange> {
        let oldest = self.journal.segments().first().map_or_else(Default::default, |info| info.id);
        let mut unattributed = self.unattributed.lock();
        unattributed.retain(|range| range.segment >= oldest);
        unattributed.clone()
    }

    /// Notes that the index cannot be trusted, so that the next start rebuilds it.
    pub(crate) fn index_failed(&self, error: &IndexError) {
        match error {
            IndexError::Damaged(problem) => {
                let (is_news, is_noted) = {
                    let mut damage = self.index_damage.lock();
                    (damage.is_news(problem), damage.is_noted)
                };
                match is_news {
                    true => {
                        tracing::error!(
                            problem,
                            "the index is damaged: restart the broker to rebuild it from the journal"
                        );
                    }
                    false => tracing::debug!(problem, "the index is damaged, as was said before"),
                }
                if is_noted {
                    return;
                }
                let note = |disk: &dyn Disk| disk.write_file_atomically(INDEX_DAMAGED_FILE, problem.as_bytes());
                match self.change_names(INDEX_DAMAGED_FILE, note) {
                    Ok(()) => self.index_damage.lock().is_noted = true,
                    Err(error) => tracing::warn!(%error, "could not note that the index needs rebuilding"),
                }
            }
            IndexError::Store(problem) => tracing::warn!(problem, "the index failed"),
        }
    }
}

impl Drop for StoreInner {
    fn drop(&mut self) {
        // The thread holds no strong reference; it ends by itself when told.
        self.sink.stop();
    }
}
