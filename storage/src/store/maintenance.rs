//! The background half of the store: extents of full segments go to the index, then a checkpoint remembers it.
//!
//! ```text
//! segment sealed -> extents to the index -> index flushed -> logs captured -> all captured entries durable -> checkpoint
//! ```
//! A crash anywhere in between costs nothing but a longer replay. While extents of a log move, its order lock is held,
//! so nothing cuts or trims it; its readers go on, because an extent is in the index before it leaves memory.

use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use streambus_protocol::offset::Offset;

use super::commit_sink::CommitSink;
use super::inner::StoreInner;
use super::settle::settle_rewritten;
use crate::checkpoint::Checkpoint;
use crate::error::IndexError;
use crate::index::{Extent, Index, IndexChanges, SegmentShare};
use crate::journal::{LogId, Lsn, SegmentId};
use crate::latch::LatchedOperation;
use crate::partition_log::damage::DamageMap;
use crate::partition_log::log_core::LogCore;
use crate::partition_log::overlay::OverlayExtents;

/// Extents written to the index under one hold of a log's order lock: bounds how long an append may wait.
const EXTENTS_PER_WRITE: usize = 256;

/// What maintenance remembers between its runs.
#[derive(Debug, Default)]
pub(crate) struct Maintenance {
    /// Where the newest checkpoint replays from: everything before is in the index.
    pub(crate) replay_from: SegmentId,
    /// Where each readable checkpoint replays from, newest first.
    pub(crate) generations: Vec<SegmentId>,
    /// The sequence of the newest checkpoint, written or not.
    pub(crate) sequence: u64,
    /// A checkpoint is wanted even without a full segment: the index was rebuilt.
    pub(crate) forced: bool,
    /// A captured checkpoint.
    pub(crate) pending: Option<Captured>,
}

/// A checkpoint to be written once everything it includes is durable.
#[derive(Debug)]
pub(crate) struct Captured {
    checkpoint: Checkpoint,
    /// Everything it includes has a number below.
    end: Lsn,
    /// Repairs that were on their way to the disk: replay skips them, so they are added before it is written.
    repairing: Vec<Repairing>,
}

/// Stretches of a log under repair.
#[derive(Debug)]
struct Repairing {
    core: Arc<LogCore>,
    generation: u32,
    offsets: Vec<Range<Offset>>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum MaintenanceError {
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error("writing a checkpoint failed: {0}")]
    Checkpoint(#[from] io::Error),
}

/// Which extents of a log may move.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Movable {
    /// Those in segments before this one.
    Below(SegmentId),
    /// All but the one that may still grow.
    Closed,
    /// All: the next batch begins a new one.
    All,
}

impl StoreInner {
    /// Does what there is to do. Failures leave everything as it was and are repeated at the next call.
    ///
    /// A panic in it may have left extents in no place at all, so it counts as lost durability: the next start replays.
    pub(crate) fn maintain(&self) {
        if self.latch.is_set() {
            return;
        }
        if catch_unwind(AssertUnwindSafe(|| self.maintain_unguarded())).is_err() {
            self.metrics.maintenance_failures.increment();
            let error = io::Error::other("storage maintenance panicked");
            let reason = self.latch.trip(LatchedOperation::Index, "index", &error);
            tracing::error!(%reason, "durability was lost");
        }
    }

    fn maintain_unguarded(&self) {
        let mut maintenance = self.maintenance.lock();
        let Err(error) = self.try_maintain(&mut maintenance) else { return };
        self.metrics.maintenance_failures.increment();
        match error {
            MaintenanceError::Index(error) => self.index_failed(&error),
            MaintenanceError::Checkpoint(error) if error.kind() == io::ErrorKind::StorageFull => {
                tracing::warn!(%error, "no space for a checkpoint; the next start replays more");
            }
            MaintenanceError::Checkpoint(error) => {
                tracing::error!(%error, "durability was lost: a checkpoint could not be written");
            }
        }
    }

    fn try_maintain(&self, maintenance: &mut Maintenance) -> Result<(), MaintenanceError> {
        self.write_pending(maintenance)?;
        // Read first: a deletion in a segment before it has been reported by now and is dealt with below.
        let active = self.journal.active_segment();
        self.forget_deleted()?;
        self.forget_trimmed()?;
        spill_extents(&self.sink, &self.index, self.config.extents_in_memory_max)?;
        let due = active > maintenance.replay_from || std::mem::take(&mut maintenance.forced);
        if due && maintenance.pending.is_none() {
            move_extents(&self.sink, &self.index, Movable::Below(active))?;
            settle_rewritten(&self.sink, &self.index)?;
            let sequence = maintenance.sequence + 1;
            self.index.flush_for(sequence)?;
            maintenance.sequence = sequence;
            maintenance.pending = Some(self.capture(sequence, active));
            self.write_pending(maintenance)?;
        }
        Ok(())
    }

    /// Writes the captured checkpoint if all it includes is durable, else asks to be woken then.
    fn write_pending(&self, maintenance: &mut Maintenance) -> Result<(), MaintenanceError> {
        let Some(mut captured) = maintenance.pending.take() else { return Ok(()) };
        if self.sink.durable_end() < captured.end {
            let end = captured.end;
            maintenance.pending = Some(captured);
            self.sink.await_durable(end);
            return Ok(());
        }
        captured.add_repaired();
        let stored = tell_lowered(&self.sink, &self.index).map_err(MaintenanceError::from).and_then(|()| {
            self.change_names("checkpoint", |disk| captured.checkpoint.store(disk)).map_err(MaintenanceError::from)
        });
        if let Err(error) = stored {
            maintenance.pending = Some(captured);
            return Err(error);
        }
        let checkpoint = captured.checkpoint;
        self.metrics.checkpoints.increment();
        if let Some(sealed) = maintenance.replay_from.distance_to(checkpoint.replay_segment) {
            self.metrics.segments_sealed.add(sealed);
        }
        maintenance.replay_from = checkpoint.replay_segment;
        maintenance.generations.insert(0, checkpoint.replay_segment);
        maintenance.generations.truncate(crate::checkpoint::GENERATIONS);
        Ok(())
    }

    fn capture(&self, sequence: u64, active: SegmentId) -> Captured {
        let (cores, next_log) = {
            let table = self.sink.table.read();
            (table.by_id.values().cloned().collect::<Vec<_>>(), table.next)
        };
        let base_lsn =
            self.journal.segments().into_iter().find(|info| info.id == active).and_then(|info| info.base_lsn);
        let mut repairing = Vec::new();
        let mut logs: Vec<_> = cores
            .iter()
            .filter_map(|core| {
                let state = core.state.lock();
                let offsets = state.repairing();
                if !offsets.is_empty() {
                    repairing.push(Repairing { core: core.clone(), generation: state.generation, offsets });
                }
                (!state.deleted).then(|| state.snapshot(core.id, core.partition))
            })
            .collect();
        logs.sort_unstable_by_key(|log| log.log);
        let checkpoint = Checkpoint {
            sequence,
            directory: self.directory,
            replay_segment: active,
            replay_lsn: base_lsn.unwrap_or_default(),
            next_log,
            logs,
            unattributed: self.unattributed_damage(),
        };
        // Read last: everything that was captured has a number below it.
        Captured { checkpoint, end: self.journal.next_lsn(), repairing }
    }

    /// Removes logs whose deletion is durable.
    pub(super) fn forget_deleted(&self) -> Result<(), IndexError> {
        let doomed = self.sink.take_doomed();
        for (done, log) in doomed.iter().enumerate() {
            let core = self.sink.table.write().by_id.remove(log);
            if let Some(core) = core {
                self.sink.extents_moved(core.state.lock().extents.len());
            }
            let mut changes = IndexChanges::default();
            changes.remove_extents(*log, Offset::ZERO, None);
            changes.remove_cleaned(*log);
            if let Err(error) = self.index.write(&changes) {
                doomed.iter().skip(done).for_each(|log| self.sink.doom(*log));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Removes extents below durable log starts from the index.
    pub(super) fn forget_trimmed(&self) -> Result<(), IndexError> {
        let trimmed = self.sink.take_trimmed();
        for (done, log) in trimmed.iter().enumerate() {
            let Some(core) = self.sink.table.read().by_id.get(log).cloned() else { continue };
            let _order = core.order.lock();
            let start = core.state.lock().durable_start;
            let removed = self.index.floor(*log, start).and_then(|floor| {
                let to = floor.filter(|extent| extent.next > start).map_or(start, |extent| extent.base);
                let mut changes = IndexChanges::default();
                changes.remove_extents(*log, Offset::ZERO, Some(to));
                self.index.write(&changes)
            });
            if let Err(error) = removed {
                self.sink.put_trimmed(trimmed.get(done..).unwrap_or_default());
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Captured {
    /// Adds the repairs that have become durable since: replay would skip them.
    fn add_repaired(&mut self) {
        for Repairing { core, generation, offsets } in std::mem::take(&mut self.repairing) {
            let Some(snapshot) = self.checkpoint.logs.iter_mut().find(|log| log.log == core.id) else { continue };
            let state = core.state.lock();
            // A log that was cut since may hold other batches there; its damage is found, or repaired, again.
            if state.generation != generation {
                continue;
            }
            let mut damaged = DamageMap::from_ranges(std::mem::take(&mut snapshot.damaged));
            let mut repaired = OverlayExtents::from_stored(std::mem::take(&mut snapshot.repaired));
            for range in offsets {
                for extent in state.repaired.as_slice() {
                    let (base, next) = (extent.base.max(range.start), extent.next.min(range.end));
                    if base < next {
                        damaged.remove(base, next);
                        repaired.insert(extent.part(base, next), 0);
                    }
                }
            }
            snapshot.damaged = damaged.ranges().to_vec();
            snapshot.repaired = repaired.as_slice().to_vec();
        }
    }
}

/// Tells the index, durably, of logs that are compacted less far than it says: a checkpoint knows the change that made
/// it so, and replay from there does not meet it again.
fn tell_lowered(sink: &CommitSink, index: &Index) -> Result<(), IndexError> {
    let cores: Vec<Arc<LogCore>> = sink.table.read().by_id.values().cloned().collect();
    let (mut told, mut changes) = (Vec::new(), IndexChanges::default());
    for core in cores {
        let Some(from) = core.state.lock().clean.untold() else { continue };
        if let Some(stored) = index.cleaned(core.id)? {
            let known = core.state.lock().clean.known();
            changes.put_cleaned(core.id, known.unwrap_or_else(|| stored.lowered(from)));
        }
        told.push((core, from));
    }
    if !changes.is_empty() {
        index.write(&changes)?;
        index.flush()?;
    }
    for (core, from) in told {
        core.state.lock().clean.told(from);
    }
    Ok(())
}

/// Makes room when `extents_max` are held in memory: first those that no longer grow, then, when very many logs hold
/// one each, all.
pub(crate) fn spill_extents(sink: &CommitSink, index: &Index, extents_max: usize) -> Result<(), IndexError> {
    if sink.extents() < extents_max {
        return Ok(());
    }
    move_extents(sink, index, Movable::Closed)?;
    if sink.extents() >= extents_max / 2 {
        move_extents(sink, index, Movable::All)?;
        settle_rewritten(sink, index)?;
    }
    Ok(())
}

/// Moves extents of every log from memory to the index, without making it durable.
pub(crate) fn move_extents(sink: &CommitSink, index: &Index, movable: Movable) -> Result<(), IndexError> {
    let cores: Vec<Arc<LogCore>> = sink.table.read().by_id.values().cloned().collect();
    for core in &cores {
        while move_some(sink, index, core, movable)? {}
    }
    // Truncations and trims drop extents without telling; this is where the count becomes exact again.
    let held = |core: &Arc<LogCore>| {
        let state = core.state.lock();
        state.extents.len() + state.rewritten.as_slice().len()
    };
    sink.set_extents(cores.iter().map(held).sum());
    Ok(())
}

/// Moves one portion; false when nothing is left to move.
fn move_some(sink: &CommitSink, index: &Index, core: &LogCore, movable: Movable) -> Result<bool, IndexError> {
    let _order = core.order.lock();
    let (extents, more) = {
        let mut state = core.state.lock();
        if matches!(movable, Movable::All) {
            // A commit that finishes while the index is written must begin an extent of its own: grown behind the copy,
            // its batch would be forgotten with it.
            state.extents.seal();
        }
        let movable = match movable {
            Movable::Below(segment) => state.extents.below(segment, EXTENTS_PER_WRITE + 1),
            Movable::Closed => state.extents.closed(EXTENTS_PER_WRITE + 1),
            Movable::All => state.extents.first(EXTENTS_PER_WRITE + 1),
        };
        (movable.iter().take(EXTENTS_PER_WRITE).copied().collect::<Vec<_>>(), movable.len() > EXTENTS_PER_WRITE)
    };
    let Some(first) = extents.first() else { return Ok(false) };
    let mut changes = IndexChanges::default();
    clean_above(index, core.id, first, &mut changes)?;
    for extent in &extents {
        changes.put_extent(core.id, extent);
        changes.put_share(extent.segment, core.id, &SegmentShare { next: extent.next });
    }
    index.write(&changes)?;
    core.state.lock().extents.forget_first(extents.len());
    sink.extents_moved(extents.len());
    Ok(more)
}

/// What the index holds of `log` at or above `first` is left over from a truncation or a crash: it must go before the
/// new extents come, or a lookup could find either.
fn clean_above(index: &Index, log: LogId, first: &Extent, changes: &mut IndexChanges) -> Result<(), IndexError> {
    changes.remove_extents(log, first.base, None);
    if let Some(before) = first.base.get().checked_sub(1).and_then(Offset::new)
        && let Some(below) = index.floor(log, before)?
        && below.next > first.base
    {
        changes.put_extent(log, &Extent { next: first.base, ..below });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
