//! One data directory: its identity, its journal and index, and the logs in them.
//!
//! [`Store::open_dir`] is the production door (real disk, RocksDB, lock file, two threads); [`Store::open`] takes every
//! part as an argument, so that a test can run the whole store on a simulated disk, step by step.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::ids::{BrokerId, ClusterId, DirectoryId, PartitionId};
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;

use crate::clock::Clock;
use crate::config::StoreConfig;
use crate::disk::{Disk, WriteMode};
use crate::error::{AppendError, IndexError, OpenError, StoreError};
use crate::identity::{Claim, IDENTITY_FILE};
use crate::index::IndexStore;
use crate::journal::{self, EntryKind, Lsn, NewEntry, Step};
use crate::metrics::StoreMetrics;
use crate::partition_log::log_core::LogCore;
use crate::partition_log::state::LogState;
use crate::partition_log::{LogOptions, PartitionLog};

pub(crate) mod clean;
pub(crate) mod commit_sink;
pub(crate) mod compact;
mod directory;
mod index_damage;
pub(crate) mod inner;
pub mod lock;
pub(crate) mod maintenance;
mod maintenance_thread;
mod open;
mod reclaim;
pub(crate) mod replay;
mod settle;
#[cfg(test)]
mod stepped_world;

use self::inner::StoreInner;
pub use clean::CleanOutcome;
pub use compact::CompactionOutcome;
pub use directory::INDEX_DIRECTORY;
pub use reclaim::RetentionOutcome;

/// An open data directory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<StoreInner>,
}

/// Everything outside that a store touches.
pub struct StoreEnv {
    /// The files of the data directory.
    pub disk: Arc<dyn Disk>,
    /// The ordered store below the index.
    pub index: Arc<dyn IndexStore>,
    /// Time, for retention, producer expiry and figures.
    pub clock: Arc<dyn Clock>,
    /// Draws the directory's identity when it is formatted.
    pub random: Box<dyn FnMut() -> u128 + Send>,
    /// Who runs commits and maintenance.
    pub drive: Drive,
}

/// Who runs the store's background work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drive {
    /// Two threads of its own.
    Threads,
    /// The caller, through [`Store::step`]: nothing becomes durable by itself.
    Stepped,
}

/// What opening found.
#[derive(Clone, Debug, Default)]
pub struct RecoveryReport {
    /// Logs in the directory.
    pub logs: usize,
    /// The index was missing, old or damaged, and was rebuilt from the whole journal. False when there was nothing to
    /// rebuild it from, as in a new directory.
    pub index_rebuilt: bool,
    /// Entries that belong to no known log, because the entry that created it is damaged.
    pub orphans: u64,
    /// Time from start to ready.
    pub elapsed: Duration,
    /// What the journal found.
    pub journal: journal::RecoveryReport,
}

impl RecoveryReport {
    /// True when every damage of the journal is of a batch: then what is still missing is in the status, and what was
    /// repaired before is not. Anything else may have been any log's.
    pub fn is_damage_attributed(&self) -> bool {
        let of_batch = |entry: &journal::DamagedEntry| matches!(entry.kind, EntryKind::Batch | EntryKind::Repair);
        self.journal.damaged.iter().all(|range| range.entry.as_ref().is_some_and(of_batch))
    }
}

/// A damaged range of one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DamagedExtent {
    /// The partition; `None` when the damage could be of any log.
    pub partition: Option<PartitionId>,
    /// First damaged offset.
    pub base: Offset,
    /// The first offset behind the damage.
    pub next: Offset,
}

/// The state of a data directory.
#[derive(Clone, Debug)]
pub struct StoreStatus {
    /// Why it takes no more writes, once durability was lost.
    pub read_only: Option<String>,
    /// Background tasks that have panicked since the start: what they do may be left undone until a restart.
    pub panicked: Vec<&'static str>,
    /// No further segment can be made: appends are refused once the current one is used up.
    pub full: bool,
    /// Bytes of the journal's files, spare ones included.
    pub used_bytes: u64,
    /// Bytes still free on the file system; zero when it cannot be asked.
    pub free_bytes: u64,
    /// Every damaged range known.
    pub damaged: Vec<DamagedExtent>,
    /// Segments in the journal.
    pub segments: usize,
    /// How commits are made durable.
    pub write_mode: WriteMode,
    /// The directory's identity.
    pub directory: DirectoryId,
    /// Logs.
    pub logs: usize,
    /// Bytes of batches in the tail cache, bookkeeping included.
    pub tail_cache_bytes: usize,
    /// Index entries held in memory.
    pub extents_in_memory: usize,
}

/// How far commits are. What lies between the two waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitProgress {
    /// Entries that were accepted end here.
    pub accepted: Lsn,
    /// Entries on stable storage end here.
    pub durable: Lsn,
}

impl Store {
    /// Opens or formats the directory `path`: takes its lock, refuses what is not its own, recovers.
    ///
    /// # Errors
    /// See [`OpenError`]; the directory is as it was, but for a longer replay avoided.
    pub fn open_dir(
        path: &Path,
        config: StoreConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        directory::open(path, config, clock)
    }

    /// Opens what `env` describes.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(env: StoreEnv, config: StoreConfig) -> Result<(Self, RecoveryReport), OpenError> {
        let mut env = env;
        let (inner, report) = match open::open(&mut env, config.clone(), &mut None) {
            Err(OpenError::Index(IndexError::Damaged(_))) => open::open(&mut env, config, &mut None)?,
            opened => opened?,
        };
        Ok((Self { inner }, report))
    }

    pub(crate) fn inner(&self) -> &Arc<StoreInner> {
        &self.inner
    }

    /// The log of `id`, created when there is none; its options become `options` either way, and a hold
    /// ([`PartitionLog::hold`]) ends. A created log is as durable as the first batch in it.
    ///
    /// # Errors
    /// [`StoreError::Append`] when the journal takes nothing.
    pub fn create_log(&self, id: PartitionId, options: LogOptions) -> Result<PartitionLog, StoreError> {
        let store = &self.inner;
        // Held over the append (which never waits): a checkpoint sees the log or numbers below it, never neither.
        let mut table = store.sink.table.write();
        // One that is being deleted this moment is replaced.
        let known = table.by_partition.get(&id).filter(|core| !core.state.lock().deleted).cloned();
        if let Some(core) = known {
            drop(table);
            core.state.lock().held = false;
            self.apply_options(&core, options);
            return Ok(PartitionLog::new(store.clone(), core));
        }
        store.check_writable()?;
        let log = table.next;
        let entry = NewEntry {
            log,
            kind: EntryKind::LogCreated,
            base: Offset::ZERO,
            last: Offset::ZERO,
            epoch: LeaderEpoch::ZERO,
            max_timestamp: Timestamp::NONE,
            payload: replay::encode_creation(id, options),
        };
        let lsn = store.journal.append(entry).map_err(AppendError::from)?;
        let core = Arc::new(LogCore::new(log, id, LogState::new(lsn, options)));
        table.insert(core.clone());
        drop(table);
        Ok(PartitionLog::new(store.clone(), core))
    }

    /// The log of `id`, if there is one.
    pub fn log(&self, id: PartitionId) -> Option<PartitionLog> {
        let core = self.inner.sink.table.read().by_partition.get(&id).cloned()?;
        Some(PartitionLog::new(self.inner.clone(), core))
    }

    /// The partitions that have a log, in order.
    pub fn log_ids(&self) -> Vec<PartitionId> {
        let mut ids: Vec<_> = self.inner.sink.table.read().by_partition.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Deletes the log of `id`. Its handles refuse everything from now on; its space comes back by and by.
    ///
    /// # Errors
    /// [`StoreError::UnknownLog`]; [`StoreError::Append`] when the journal takes nothing.
    pub fn delete_log(&self, id: PartitionId) -> Result<(), StoreError> {
        let log = self.log(id).ok_or(StoreError::UnknownLog)?;
        log.delete()?;
        let mut table = self.inner.sink.table.write();
        // Somebody may have created it anew meanwhile.
        if table.by_partition.get(&id).is_some_and(|core| core.id == log.id()) {
            table.by_partition.remove(&id);
        }
        Ok(())
    }

    /// Changes a log's options. They are stored with the next checkpoint; whoever knows the topic's configuration sets
    /// them again after opening.
    ///
    /// # Errors
    /// [`StoreError::UnknownLog`].
    pub fn set_options(&self, id: PartitionId, options: LogOptions) -> Result<(), StoreError> {
        let core = self.inner.sink.table.read().by_partition.get(&id).cloned().ok_or(StoreError::UnknownLog)?;
        self.apply_options(&core, options);
        Ok(())
    }

    fn apply_options(&self, core: &LogCore, options: LogOptions) {
        let mut state = core.state.lock();
        state.options = options;
        core.publish(&state);
    }

    /// Binds the directory to a broker of a cluster, durably, or confirms that it is bound to it.
    ///
    /// # Errors
    /// [`StoreError::Identity`] when it belongs to another.
    pub fn claim(&self, broker: BrokerId, cluster: ClusterId) -> Result<(), StoreError> {
        let mut identity = self.inner.identity.lock();
        let claimed = identity.claimed_by(Claim { broker, cluster })?;
        if *identity != claimed {
            self.inner
                .change_names(IDENTITY_FILE, |disk| disk.write_file_atomically(IDENTITY_FILE, &claimed.encode()))
                .map_err(|source| StoreError::Io { operation: "writing", file: IDENTITY_FILE.to_owned(), source })?;
            *identity = claimed;
        }
        Ok(())
    }

    /// Who the directory is bound to.
    pub fn claimed_by(&self) -> Option<Claim> {
        self.inner.identity.lock().claim
    }

    /// Why the directory takes no more writes, once durability was lost; `None` before. Asks no file system.
    pub fn read_only(&self) -> Option<String> {
        self.inner.latch.reason().map(ToString::to_string)
    }

    /// How far commits are. Asks no file system, and does not wait for one.
    pub fn commit_progress(&self) -> CommitProgress {
        // In this order: what is durable was accepted before.
        let durable = self.inner.journal.durable_lsn();
        CommitProgress { accepted: self.inner.journal.next_lsn(), durable }
    }

    /// The state of the directory. Asks the file system for its free space.
    pub fn status(&self) -> StoreStatus {
        let store = &self.inner;
        let segments = store.journal.segments();
        let used_bytes = store.journal.disk_bytes();
        let free_bytes = store.disk.free_bytes().unwrap_or(0);
        let spare_bytes = used_bytes.saturating_sub(segments.iter().map(|info| info.bytes).sum());
        let wanted = store.config.segment_bytes.saturating_add(store.reserve_bytes);
        let mut damaged: Vec<_> = {
            let table = store.sink.table.read();
            let damage_of = |core: &Arc<LogCore>| {
                let partition = Some(core.partition);
                let state = core.state.lock();
                let ranges = state.damage.ranges().iter();
                ranges.map(|range| DamagedExtent { partition, base: range.base, next: range.next }).collect::<Vec<_>>()
            };
            table.by_partition.values().flat_map(damage_of).collect()
        };
        damaged.sort_unstable_by_key(|extent| (extent.partition, extent.base));
        let anywhere = DamagedExtent { partition: None, base: Offset::ZERO, next: Offset::MAX };
        damaged.extend(store.unattributed_damage().iter().map(|_| anywhere));
        StoreStatus {
            read_only: self.read_only(),
            panicked: store.panicked.lock().iter().copied().collect(),
            full: spare_bytes == 0 && free_bytes < wanted,
            used_bytes,
            free_bytes,
            damaged,
            segments: segments.len(),
            write_mode: store.journal.write_mode(),
            directory: store.directory,
            logs: store.sink.table.read().by_partition.len(),
            tail_cache_bytes: store.cache.lock().bytes(),
            extents_in_memory: store.sink.extents(),
        }
    }

    /// True when recovery found damage that may have been any log's, and nobody has told that all are whole again.
    pub fn has_unattributed_damage(&self) -> bool {
        !self.inner.unattributed_damage().is_empty()
    }

    /// Takes back damage that may have been any log's: every log has been compared with another replica since. The
    /// next checkpoint remembers it.
    pub fn forget_unattributed_damage(&self) {
        self.inner.unattributed.lock().clear();
    }

    /// What the store has counted.
    pub fn metrics(&self) -> &StoreMetrics {
        &self.inner.metrics
    }

    /// Does one piece of background work of a [`Drive::Stepped`] store: a commit, a segment, or maintenance. False when
    /// there was nothing to do.
    pub fn step(&self) -> bool {
        let stepped = match self.inner.committer.lock().as_mut() {
            Some(committer) => committer.0.step(),
            None => return false,
        };
        match stepped {
            Step::Committed | Step::Prepared => true,
            Step::Idle | Step::Stopped => {
                let work = self.inner.sink.take_work();
                if work {
                    self.inner.maintain();
                }
                work
            }
        }
    }

    /// Commits a marker that proves the last commit, as a running store does after a moment without work.
    pub fn step_idle(&self) {
        if let Some(committer) = self.inner.committer.lock().as_mut()
            && committer.0.wants_marker()
        {
            committer.0.mark();
        }
    }

    /// Writes to the journal what logs were told to be committed since the last time, where that is on stable storage;
    /// returns how many have news. A later start knows it, so call it from time to time; closing does too.
    ///
    /// # Errors
    /// When the journal takes nothing: what is left is tried again with the next call.
    pub fn record_committed(&self) -> Result<usize, StoreError> {
        let cores: Vec<_> = self.inner.sink.table.read().by_id.values().cloned().collect();
        let mut recorded = 0;
        for core in cores {
            // Looked at without the order first: most logs have no news.
            if core.state.lock().unrecorded().is_some() {
                recorded += usize::from(PartitionLog::new(self.inner.clone(), core).record_committed()?);
            }
        }
        Ok(recorded)
    }

    /// Commits what waits, writes what maintenance has ready, and ends the threads. Logs refuse changes afterwards and
    /// can still be read.
    ///
    /// # Errors
    /// [`StoreError::Append`] when durability was lost before.
    pub fn close(&self) -> Result<(), StoreError> {
        if let Err(error) = self.record_committed() {
            // Only a lower bound: the next start knows an older one.
            tracing::debug!(%error, "what is committed was not recorded before closing");
        }
        self.inner.journal.close();
        while self.step() {}
        self.inner.sink.stop();
        let thread = self.inner.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the storage maintenance thread panicked");
        }
        self.inner.maintain();
        Ok(self.inner.check_writable()?)
    }
}
