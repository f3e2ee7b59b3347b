//! The adapter of compaction: surveys the index, copies a budget's worth at a time, gives emptied segments back.
//!
//! ```text
//! survey -> plan -> copy to the end of the journal -> committed -> the index names the copies -> survey: nothing lives
//!        -> index flushed -> segment recycled
//! ```
//! The old copy is kept until the last step, so a crash anywhere costs nothing but the work: replay finds the copies
//! again, or the index still names what they are copies of. Segments that recovery could start from are left alone.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use streambus_protocol::batch::PlacedBatch;
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;

use super::Store;
use super::inner::StoreInner;
use super::settle::settle_rewritten;
use crate::compaction::{SegmentUse, dies_by, plan};
use crate::error::{IndexError, ReadError};
use crate::index::{Extent, IndexChanges};
use crate::journal::{self, LogId, SegmentId};
use crate::partition_log::PartitionLog;
use crate::partition_log::log_core::LogCore;
use crate::partition_log::rewrite::{Stretch, WholeStretch};

/// What retention takes within this time is not copied, in milliseconds.
const PATIENCE_MS: i64 = 60 * 60 * 1_000;

/// What compaction remembers between its steps.
#[derive(Debug, Default)]
pub(crate) struct Compaction {
    queue: VecDeque<Unit>,
    /// When the last survey found nothing to do.
    idle_since: Option<Timestamp>,
    /// The disk was full: segments are emptied one by one.
    is_tight: bool,
    /// Segments that could not be emptied: the reason is in the log, the next start tries again.
    left_alone: Vec<SegmentId>,
}

/// An extent to be copied.
#[derive(Clone, Copy, Debug)]
struct Unit {
    log: LogId,
    segment: SegmentId,
    base: Offset,
    next: Offset,
}

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactionOutcome {
    /// Bytes of batches copied.
    pub copied_bytes: u64,
    /// Segments given back.
    pub segments_freed: u64,
    /// Extents that were left where they are, because they are damaged or could not be read.
    pub left_alone: u64,
    /// There is nothing to do until something expires.
    pub is_idle: bool,
}

/// Why a step ended early. Nothing is lost: the next step goes on.
enum Stop {
    Index(IndexError),
    /// The journal takes nothing at the moment, or no more.
    Journal(journal::AppendError),
}

impl From<IndexError> for Stop {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}

/// What a survey needs to know of one log.
struct LogBounds {
    core: Arc<LogCore>,
    start: Offset,
    end: Offset,
    retention_ms: Option<u64>,
}

impl Store {
    /// Copies up to about `budget_bytes` out of segments of which little lives, as of `now`, and gives segments back in
    /// which nothing does. Blocking: reads the index and the disk. Does nothing once durability was lost.
    ///
    /// A panic in it is noted in the status; the next step starts with a new survey.
    pub fn compact_step(&self, now: Timestamp, budget_bytes: u64) -> CompactionOutcome {
        let mut outcome = CompactionOutcome::default();
        let store = &self.inner;
        if store.latch.is_set() {
            return outcome;
        }
        let mut compaction = store.compaction.lock();
        let stepped =
            catch_unwind(AssertUnwindSafe(|| store.compact(&mut compaction, now, budget_bytes, &mut outcome)));
        match stepped {
            Ok(Ok(())) => {}
            Ok(Err(Stop::Index(error))) => store.index_failed(&error),
            Ok(Err(Stop::Journal(error))) => {
                tracing::debug!(%error, "compaction waits");
                if matches!(error, journal::AppendError::Full { .. }) {
                    // Perhaps what was copied so far lets a segment go: look, and then empty one at a time.
                    compaction.queue.clear();
                    compaction.is_tight = true;
                }
            }
            Err(_) => {
                *compaction = Compaction::default();
                store.task_panicked("compaction");
            }
        }
        store.metrics.compacted_bytes.add(outcome.copied_bytes);
        store.metrics.segments_compacted.add(outcome.segments_freed);
        outcome
    }
}

impl StoreInner {
    fn compact(
        self: &Arc<Self>,
        compaction: &mut Compaction,
        now: Timestamp,
        budget_bytes: u64,
        outcome: &mut CompactionOutcome,
    ) -> Result<(), Stop> {
        if compaction.queue.is_empty() && !self.survey(compaction, now, outcome)? {
            return Ok(());
        }
        while outcome.copied_bytes < budget_bytes.max(1)
            && let Some(unit) = compaction.queue.pop_front()
        {
            let mut run = vec![unit];
            // Neighbours are copied side by side, so that they become one extent.
            while let (Some(last), Some(next)) = (run.last(), compaction.queue.front())
                && (next.log, next.base) == (last.log, last.next)
                && run.len() < RUN_EXTENTS_MAX
            {
                run.extend(compaction.queue.pop_front());
            }
            if let Err(stop) = self.copy(compaction, &mut run, outcome) {
                run.into_iter().rev().for_each(|unit| compaction.queue.push_front(unit));
                return Err(stop);
            }
        }
        Ok(())
    }

    /// Copies the extents of `run`, as many side by side as the journal takes at once; those done leave it.
    fn copy(
        self: &Arc<Self>,
        compaction: &mut Compaction,
        run: &mut Vec<Unit>,
        outcome: &mut CompactionOutcome,
    ) -> Result<(), Stop> {
        let most = u64::from(self.config.extent_bytes_max.min(self.config.queue_bytes_max / 2));
        while let Some(first) = run.first().copied() {
            let core = self.sink.table.read().by_id.get(&first.log).cloned();
            let Some(core) = core else {
                run.clear();
                return Ok(());
            };
            let log = PartitionLog::new(self.clone(), core);
            let (stretch, next) = match gather(&log, first, run.get(1..).unwrap_or_default(), most)? {
                Gathered::Whole(stretch, next) => (stretch, next),
                Gathered::Nothing(why) => {
                    if let Some(why) = why {
                        self.leave_alone(compaction, &first, &why, outcome);
                    }
                    run.remove(0);
                    continue;
                }
            };
            let proven = stretch.batches.iter().cloned().map(PlacedBatch::verify_stored).collect::<Result<Vec<_>, _>>();
            match proven {
                Ok(batches) => match log.store_anew(&stretch, batches) {
                    Ok(true) => outcome.copied_bytes += stretch.bytes(),
                    // The log was cut meanwhile: the next survey sees what is left.
                    Ok(false) => {}
                    Err(error @ journal::AppendError::TooLarge { .. }) => {
                        self.leave_alone(compaction, &first, &error, outcome);
                    }
                    Err(error) => return Err(Stop::Journal(error)),
                },
                Err(error) => self.leave_alone(compaction, &first, &error, outcome),
            }
            run.retain(|unit| unit.next > next);
        }
        Ok(())
    }

    fn leave_alone(
        &self,
        compaction: &mut Compaction,
        unit: &Unit,
        why: &dyn std::fmt::Display,
        outcome: &mut CompactionOutcome,
    ) {
        tracing::warn!(
            log = %unit.log, base = %unit.base, segment = %unit.segment, %why,
            "compaction leaves a segment alone until the next start"
        );
        compaction.left_alone.push(unit.segment);
        compaction.queue.retain(|queued| queued.segment != unit.segment);
        outcome.left_alone += 1;
    }

    /// Settles what was copied, gives dead segments back and plans anew; false when there is nothing to copy.
    fn survey(
        &self,
        compaction: &mut Compaction,
        now: Timestamp,
        outcome: &mut CompactionOutcome,
    ) -> Result<bool, Stop> {
        let pause_ms = i64::try_from(self.config.compaction_pause.as_millis()).unwrap_or(i64::MAX);
        if compaction
            .idle_since
            .is_some_and(|since| (0..pause_ms).contains(&now.as_millis().saturating_sub(since.as_millis())))
        {
            outcome.is_idle = true;
            return Ok(false);
        }
        let keep_from = {
            let maintenance = self.maintenance.lock();
            // So that the index that is flushed before a segment goes does not name what was given up in it.
            self.forget_deleted()?;
            self.forget_trimmed()?;
            settle_rewritten(&self.sink, &self.index)?;
            match maintenance.generations.as_slice() {
                [_, older, ..] => *older,
                _ => return Ok(false),
            }
        };
        // After that, or a log could be missing that has something before it.
        let cores: Vec<Arc<LogCore>> = self.sink.table.read().by_id.values().cloned().collect();
        // What was copied must be on the disk before one can tell what is left to copy.
        if cores.iter().any(|core| core.state.lock().is_rewriting()) {
            return Ok(false);
        }
        let uses = self.uses(&cores, keep_from, now)?;
        let mut limits = self.config.compaction;
        if compaction.is_tight {
            limits.copy_bytes_max = 0;
        }
        let left_alone = |segment: &SegmentId| compaction.left_alone.contains(segment);
        let plan = plan(uses.into_iter().filter(|(segment, _)| !left_alone(segment)), &limits);
        outcome.segments_freed = self.free(&plan.dead)?;
        let chosen: Vec<SegmentId> = plan.emptied.iter().map(|emptying| emptying.segment).collect();
        for emptying in &plan.emptied {
            tracing::debug!(?emptying, "compaction empties a segment");
        }
        if !chosen.is_empty() {
            self.live_extents(&cores, |log, _, extent| {
                if chosen.contains(&extent.segment) {
                    compaction.queue.push_back(Unit {
                        log,
                        segment: extent.segment,
                        base: extent.base,
                        next: extent.next,
                    });
                }
            })?;
        }
        compaction.is_tight &= outcome.segments_freed == 0;
        compaction.idle_since = (compaction.queue.is_empty() && outcome.segments_freed == 0).then_some(now);
        outcome.is_idle = compaction.idle_since.is_some();
        Ok(!compaction.queue.is_empty())
    }

    /// What the sealed segments before `keep_from` hold.
    fn uses(
        &self,
        cores: &[Arc<LogCore>],
        keep_from: SegmentId,
        now: Timestamp,
    ) -> Result<BTreeMap<SegmentId, SegmentUse>, IndexError> {
        let mut uses: BTreeMap<SegmentId, SegmentUse> = self
            .journal
            .segments()
            .into_iter()
            .filter(|info| info.sealed && info.id < keep_from)
            .map(|info| (info.id, SegmentUse::new(info.bytes)))
            .collect();
        // Looked at after the settling: what is not in the index by now stays with what it replaces.
        for segment in self.stored_anew(cores) {
            if let Some(held) = uses.get_mut(&segment) {
                held.is_pinned = true;
            }
        }
        let soon = Timestamp::from_millis(now.as_millis().saturating_add(PATIENCE_MS));
        self.live_extents(cores, |log, bounds, extent| {
            if let Some(held) = uses.get_mut(&extent.segment) {
                held.add(log, extent, dies_by(extent, bounds.retention_ms, soon));
                let state = bounds.core.state.lock();
                held.is_pinned |= state.damage.overlaps(extent.base, extent.next);
            }
        })?;
        Ok(uses)
    }

    /// Visits every extent of the index that its log still needs, clipped to what the log has.
    fn live_extents(
        &self,
        cores: &[Arc<LogCore>],
        mut visit: impl FnMut(LogId, &LogBounds, &Extent),
    ) -> Result<(), IndexError> {
        let bounds: BTreeMap<LogId, LogBounds> = cores
            .iter()
            .map(|core| {
                let state = core.state.lock();
                let (start, end, retention_ms) =
                    (state.durable_start, state.settled_end(), state.options.retention_in_force().time_ms);
                (core.id, LogBounds { core: core.clone(), start, end, retention_ms })
            })
            .collect();
        self.index.all_extents(|log, extent| {
            // A log that is not in the table was deleted, durably, or has nothing in the segments asked about yet.
            if let Some(bounds) = bounds.get(&log) {
                let extent =
                    Extent { base: extent.base.max(bounds.start), next: extent.next.min(bounds.end), ..extent };
                if extent.base < extent.next {
                    visit(log, bounds, &extent);
                }
            }
            ControlFlow::Continue(())
        })
    }

    /// Gives back segments that the index does not name.
    fn free(&self, dead: &[SegmentId]) -> Result<u64, IndexError> {
        if dead.is_empty() {
            return Ok(0);
        }
        // The index must not go back to an entry that names them: replay would not bring the new one if a checkpoint
        // lies behind it.
        self.index.flush()?;
        let mut freed = 0;
        for segment in dead {
            if let Err(error) = self.journal.recycle(*segment) {
                tracing::warn!(%segment, %error, "a segment could not be recycled");
                continue;
            }
            let mut changes = IndexChanges::default();
            changes.remove_shares(*segment);
            self.index.write(&changes)?;
            self.metrics.segments_recycled.increment();
            freed += 1;
        }
        if freed > 0 {
            tracing::info!(segments = freed, "compaction gave segments back");
        }
        Ok(freed)
    }
}

/// What was read of neighbouring extents.
enum Gathered {
    /// The first of them, and those behind it that fit, up to the offset.
    Whole(WholeStretch, Offset),
    /// The first cannot be copied: the log has given it up, or for the reason given.
    Nothing(Option<String>),
}

/// Reads `first` and as many of `rest`, its neighbours, as are whole and together hold at most `bytes_max`.
fn gather(log: &PartitionLog, first: Unit, rest: &[Unit], bytes_max: u64) -> Result<Gathered, IndexError> {
    let mut whole = match log.read_stretch(first.base, first.next) {
        Ok(Stretch::Whole(stretch)) => stretch,
        Ok(Stretch::Gone | Stretch::Moving) => return Ok(Gathered::Nothing(None)),
        Ok(Stretch::Damaged) => return Ok(Gathered::Nothing(Some("a part of it is damaged".to_owned()))),
        Err(ReadError::Index(error)) => return Err(error),
        Err(error) => return Ok(Gathered::Nothing(Some(error.to_string()))),
    };
    let mut next = first.next;
    for unit in rest {
        // What is wrong with a neighbour is dealt with when it is the first.
        let Ok(Stretch::Whole(stretch)) = log.read_stretch(unit.base, unit.next) else { break };
        whole = match whole.join(stretch, bytes_max) {
            Ok(joined) => joined,
            Err(alone) => return Ok(Gathered::Whole(alone, next)),
        };
        next = unit.next;
    }
    Ok(Gathered::Whole(whole, next))
}

/// Neighbouring extents copied in one go at most.
const RUN_EXTENTS_MAX: usize = 64;
