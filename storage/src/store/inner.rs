//! Everything one open data directory shares.

use std::sync::Arc;

use parking_lot::Mutex;
use streambus_protocol::ids::DirectoryId;

use super::commit_sink::CommitSink;
use super::lock::DirectoryLock;
use super::maintenance::Maintenance;
use crate::clock::Clock;
use crate::config::StoreConfig;
use crate::disk::Disk;
use crate::error::{AppendError, IndexError};
use crate::identity::Identity;
use crate::index::Index;
use crate::journal::{Committer, DamagedRange, Journal, JournalReader};
use crate::latch::Latch;
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
    /// Damage whose log is not known: every log's tail may be affected.
    pub(crate) unattributed: Mutex<Vec<DamagedRange>>,
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

    /// Notes that the index cannot be trusted, so that the next start rebuilds it.
    pub(crate) fn index_failed(&self, error: &IndexError) {
        match error {
            IndexError::Damaged(problem) => {
                tracing::error!(problem, "the index is damaged: restart the broker to rebuild it from the journal");
                if let Err(error) = self.disk.write_file_atomically(INDEX_DAMAGED_FILE, problem.as_bytes()) {
                    tracing::warn!(%error, "could not note that the index needs rebuilding");
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
