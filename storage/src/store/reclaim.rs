//! Giving space back: retention moves log starts, and segments in which nothing lives are recycled.
//!
//! A segment may go when every log that has something in it starts, durably, above that; and when it lies before the
//! older of the two checkpoints, so that recovery needs it in no case.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;

use super::Store;
use super::inner::StoreInner;
use crate::error::{IndexError, ReadError, StoreError};
use crate::index::{Extent, IndexChanges};
use crate::journal::SegmentId;
use crate::partition_log::PartitionLog;
use crate::partition_log::log_core::LogCore;
use crate::retention::RetentionPlan;

/// What one pass of retention did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionOutcome {
    /// Logs whose start moved.
    pub logs_trimmed: u64,
    /// Bytes of batches they let go.
    pub bytes_trimmed: u64,
    /// Segments recycled. A segment emptied by this pass goes in a later one, once the trims are durable.
    pub segments_recycled: u64,
    /// Idempotent producers forgotten for silence.
    pub producers_expired: u64,
    /// Logs or segments that could not be dealt with; the log says why, the next pass tries again.
    pub failures: u64,
}

impl Store {
    /// Applies every log's retention as of `now`, forgets silent producers and recycles dead segments; logs that are
    /// held ([`PartitionLog::hold`]) stay as they are. Blocking: reads the index. Works on a full disk; does nothing
    /// once durability was lost.
    ///
    /// A panic in it is noted in the status and counts as a failure; the next pass tries again.
    pub fn apply_retention(&self, now: Timestamp) -> RetentionOutcome {
        catch_unwind(AssertUnwindSafe(|| self.apply_retention_unguarded(now))).unwrap_or_else(|_| {
            self.inner.task_panicked("retention");
            RetentionOutcome { failures: 1, ..RetentionOutcome::default() }
        })
    }

    fn apply_retention_unguarded(&self, now: Timestamp) -> RetentionOutcome {
        let store = &self.inner;
        let mut outcome = RetentionOutcome::default();
        if store.latch.is_set() {
            return outcome;
        }
        // Whatever maintenance could not do before, it tries again at least this often.
        store.sink.wake();
        let cores: Vec<Arc<LogCore>> = store.sink.table.read().by_partition.values().cloned().collect();
        for core in cores {
            if core.state.lock().held {
                continue;
            }
            outcome.producers_expired += core.state.lock().expire_producers(now, store.config.producer_expiry) as u64;
            let log = PartitionLog::new(store.clone(), core.clone());
            let before = log.size_bytes();
            match log.apply_retention(now) {
                Ok(true) => {
                    outcome.logs_trimmed += 1;
                    outcome.bytes_trimmed += before.saturating_sub(log.size_bytes());
                }
                Ok(false) | Err(StoreError::Append(crate::error::AppendError::Deleted)) => {}
                Err(error) => {
                    if let StoreError::Index(error) = &error {
                        store.index_failed(error);
                    }
                    tracing::warn!(log = %core.partition, %error, "retention could not trim a log");
                    outcome.failures += 1;
                }
            }
        }
        match store.recycle_dead() {
            Ok(recycled) => outcome.segments_recycled = recycled,
            Err(error) => {
                store.index_failed(&error);
                outcome.failures += 1;
            }
        }
        store.metrics.producers_expired.add(outcome.producers_expired);
        outcome
    }
}

impl StoreInner {
    /// Recycles every segment in which nothing lives.
    fn recycle_dead(&self) -> Result<u64, IndexError> {
        let keep_from = match self.maintenance.lock().generations.as_slice() {
            [_, older, ..] => *older,
            _ => return Ok(0),
        };
        let cores: Vec<Arc<LogCore>> = self.sink.table.read().by_id.values().cloned().collect();
        let anew = self.stored_anew(&cores);
        let mut recycled = 0;
        for info in self.journal.segments() {
            if info.id >= keep_from || !info.sealed || anew.contains(&info.id) || self.is_alive(info.id)? {
                continue;
            }
            if let Err(error) = self.journal.recycle(info.id) {
                tracing::warn!(segment = %info.id, %error, "a segment could not be recycled");
                continue;
            }
            let mut changes = IndexChanges::default();
            changes.remove_shares(info.id);
            self.index.write(&changes)?;
            self.metrics.segments_recycled.increment();
            recycled += 1;
        }
        Ok(recycled)
    }

    /// The segments that hold batches which were stored anew and which the index does not name.
    pub(super) fn stored_anew(&self, cores: &[Arc<LogCore>]) -> BTreeSet<SegmentId> {
        let anew = |core: &Arc<LogCore>| {
            let state = core.state.lock();
            let extents = state.repaired.as_slice().iter().chain(state.rewritten.as_slice());
            extents.map(|extent| extent.segment).collect::<Vec<_>>()
        };
        cores.iter().flat_map(anew).collect()
    }

    /// True when some log still has something in `segment`. Stops at the first that does.
    fn is_alive(&self, segment: SegmentId) -> Result<bool, IndexError> {
        let mut alive = false;
        self.index.shares(segment, |log, share| {
            // A log that is not in the table was deleted, durably.
            let core = self.sink.table.read().by_id.get(&log).cloned();
            alive = core.is_some_and(|core| core.state.lock().durable_start < share.next);
            if alive { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(alive)
    }
}

impl PartitionLog {
    /// Trims what retention lets go; true when the start moved.
    fn apply_retention(&self, now: Timestamp) -> Result<bool, StoreError> {
        // Under one lock: what moves to the index afterwards is in the copy, so that neither view misses it.
        let (mut plan, index_end, in_memory) = {
            let state = self.core().state.lock();
            let limit = state.protect.unwrap_or(Offset::MAX).min(state.synced_end);
            let plan =
                RetentionPlan::new(state.options.retention_in_force(), now, state.start, limit, state.size_bytes);
            if plan.is_idle() {
                return Ok(false);
            }
            (plan, state.index_end(), state.extents.as_slice().to_vec())
        };
        let start = plan.new_start();
        let mut goes_on = true;
        if start < index_end {
            let index = &self.store().index;
            let first = index.floor(self.id(), start)?.map_or(start, |extent| extent.base);
            index.extents(self.id(), first, |extent| {
                let within = extent.base < index_end;
                let extent = Extent { next: extent.next.min(index_end), ..extent };
                goes_on = within && plan.consider(&extent);
                if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            // The scan ends before what is in memory; that is no reason to stop.
            goes_on |= plan.new_start() >= index_end;
        }
        if goes_on {
            for extent in in_memory {
                if !plan.consider(&extent) {
                    break;
                }
            }
        }
        if plan.new_start() <= start {
            return Ok(false);
        }
        match self.trim(plan.new_start()) {
            Ok(_) => Ok(true),
            // Truncated meanwhile, below what was to go: nothing to trim now.
            Err(StoreError::OutOfRange { .. } | StoreError::Read(ReadError::OutOfRange { .. })) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
