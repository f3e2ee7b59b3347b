//! What happens on the journal's commit thread: tell each log what became durable, and nothing slower than that.
//!
//! It holds the table of logs, because that is what commits are delivered to; it does not hold the journal, so that
//! neither keeps the other alive.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Condvar, Mutex, RwLock};
use streambus_protocol::ids::PartitionId;

use crate::error::DurabilityLost;
use crate::journal::{CommitStats, CommittedEntry, EntryKind, JournalObserver, LogId, Lsn, SegmentId};
use crate::latch::LatchReason;
use crate::metrics::StoreMetrics;
use crate::partition_log::log_core::LogCore;
use crate::partition_log::state::{LogLimits, LogState};

/// The logs of a data directory, by both of their names.
#[derive(Debug, Default)]
pub(crate) struct LogTable {
    /// Logs that exist.
    pub(crate) by_partition: HashMap<PartitionId, Arc<LogCore>>,
    /// Those, and logs whose deletion is not durable yet: their data must stay until it is.
    pub(crate) by_id: HashMap<LogId, Arc<LogCore>>,
    /// The number the next log gets.
    pub(crate) next: LogId,
}

impl LogTable {
    pub(crate) fn insert(&mut self, core: Arc<LogCore>) {
        self.next = self.next.max(core.id.next());
        self.by_partition.insert(core.partition, core.clone());
        self.by_id.insert(core.id, core);
    }
}

/// Work for the maintenance thread.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    pub(crate) work: bool,
    pub(crate) stop: bool,
}

/// The observer of the journal.
#[derive(Debug)]
pub(crate) struct CommitSink {
    pub(crate) table: RwLock<LogTable>,
    pub(crate) limits: LogLimits,
    pub(crate) metrics: Arc<StoreMetrics>,
    /// Every entry below this number is durable.
    durable_end: AtomicU64,
    /// A checkpoint waits until everything below this number is durable.
    awaited: AtomicU64,
    /// Extents held in memory by all logs, and how many are too many.
    extents: AtomicUsize,
    extents_max: usize,
    /// Logs whose deletion is durable: the index may forget them.
    doomed: Mutex<Vec<LogId>>,
    /// Logs whose durable start moved: the index may forget extents below it.
    trimmed: Mutex<Vec<LogId>>,
    failed: OnceLock<Arc<LatchReason>>,
    wake: Mutex<Wake>,
    woken: Condvar,
}

impl CommitSink {
    pub(crate) fn new(limits: LogLimits, extents_max: usize, metrics: Arc<StoreMetrics>) -> Self {
        Self {
            table: RwLock::default(),
            limits,
            metrics,
            durable_end: AtomicU64::new(0),
            awaited: AtomicU64::new(u64::MAX),
            extents: AtomicUsize::new(0),
            extents_max,
            doomed: Mutex::default(),
            trimmed: Mutex::default(),
            failed: OnceLock::new(),
            wake: Mutex::default(),
            woken: Condvar::new(),
        }
    }

    /// Every entry below this number is on stable storage.
    pub(crate) fn durable_end(&self) -> Lsn {
        Lsn::new(self.durable_end.load(Ordering::Acquire))
    }

    /// Recovery starts with everything durable.
    pub(crate) fn set_durable_end(&self, end: Lsn) {
        self.durable_end.store(end.get(), Ordering::Release);
    }

    /// Wakes maintenance once everything below `end` is durable.
    pub(crate) fn await_durable(&self, end: Lsn) {
        self.awaited.store(end.get(), Ordering::SeqCst);
        if self.durable_end.load(Ordering::SeqCst) >= end.get() {
            self.wake();
        }
    }

    /// Why durability was lost, once it was.
    pub(crate) fn failure(&self) -> Option<DurabilityLost> {
        self.failed.get().map(|reason| DurabilityLost::Latched(reason.clone()))
    }

    /// Applies one committed entry to its log, whose state is locked by the caller.
    pub(crate) fn commit(&self, core: &LogCore, state: &mut LogState, entry: &CommittedEntry) {
        let Some(effect) = state.commit(entry, self.limits) else { return };
        if effect.extent_added {
            self.extent_added();
        }
        if effect.start_moved {
            self.trimmed.lock().push(core.id);
        }
        if entry.kind == EntryKind::LogDeleted {
            self.doomed.lock().push(core.id);
            self.wake();
        }
        core.publish(state);
    }

    pub(crate) fn extent_added(&self) {
        // Also well above it, in case the first call failed.
        let held = self.extents.fetch_add(1, Ordering::Relaxed) + 1;
        if held >= self.extents_max && held.is_multiple_of(self.extents_max) {
            self.wake();
        }
    }

    pub(crate) fn extents_moved(&self, count: usize) {
        self.extents.fetch_sub(count.min(self.extents.load(Ordering::Relaxed)), Ordering::Relaxed);
    }

    /// Extents held in memory.
    pub(crate) fn extents(&self) -> usize {
        self.extents.load(Ordering::Relaxed)
    }

    /// Recounts after truncations and trims, which drop extents without telling.
    pub(crate) fn set_extents(&self, count: usize) {
        self.extents.store(count, Ordering::Relaxed);
    }

    pub(crate) fn take_doomed(&self) -> Vec<LogId> {
        std::mem::take(&mut *self.doomed.lock())
    }

    /// Remembers a log whose index entries must go: its deletion is durable.
    pub(crate) fn doom(&self, log: LogId) {
        self.doomed.lock().push(log);
    }

    pub(crate) fn take_trimmed(&self) -> Vec<LogId> {
        let mut logs = std::mem::take(&mut *self.trimmed.lock());
        logs.sort_unstable();
        logs.dedup();
        logs
    }

    /// Puts logs back whose index entries could not be removed.
    pub(crate) fn put_trimmed(&self, logs: &[LogId]) {
        self.trimmed.lock().extend_from_slice(logs);
    }

    /// Wakes the maintenance thread.
    pub(crate) fn wake(&self) {
        self.wake.lock().work = true;
        self.woken.notify_one();
    }

    /// Ends the maintenance thread.
    pub(crate) fn stop(&self) {
        self.wake.lock().stop = true;
        self.woken.notify_all();
    }

    /// Waits for work; false when the thread must end.
    pub(crate) fn wait(&self) -> bool {
        let mut wake = self.wake.lock();
        while !wake.work && !wake.stop {
            self.woken.wait(&mut wake);
        }
        wake.work = false;
        !wake.stop
    }

    /// True when there is work; for a store that is stepped.
    pub(crate) fn take_work(&self) -> bool {
        std::mem::take(&mut self.wake.lock().work)
    }
}

impl JournalObserver for CommitSink {
    fn committed(&self, entries: &[CommittedEntry]) {
        {
            let table = self.table.read();
            for entry in entries {
                // A log that is not in the table was deleted, durably.
                if let Some(core) = table.by_id.get(&entry.log) {
                    self.commit(core, &mut core.state.lock(), entry);
                }
            }
        }
        if let Some(last) = entries.last() {
            // After the logs know: the tail cache lets go of what is below, and the extents must be there by then.
            self.durable_end.store(last.lsn.next().get(), Ordering::SeqCst);
            if self.awaited.load(Ordering::SeqCst) <= last.lsn.next().get() {
                self.awaited.store(u64::MAX, Ordering::SeqCst);
                self.wake();
            }
        }
    }

    fn sealed(&self, _segment: SegmentId) {
        self.wake();
    }

    fn failed(&self, reason: &LatchReason) {
        tracing::error!(%reason, "durability was lost: the data directory takes no more writes");
        // Set before the logs are visited: an append that is under way sees one or the other.
        let reason = self.failed.get_or_init(|| Arc::new(reason.clone())).clone();
        let lost = DurabilityLost::Latched(reason);
        for core in self.table.read().by_id.values() {
            core.state.lock().waiters.fail(&lost);
        }
    }

    fn commit_finished(&self, stats: CommitStats) {
        self.metrics.commits.increment();
        self.metrics.commit_entries.add(stats.entries);
        self.metrics.commit_entry_bytes.add(stats.entry_bytes);
        self.metrics.commit_disk_bytes.add(stats.disk_bytes);
        self.metrics.commit_latency.observe(stats.elapsed);
    }
}
