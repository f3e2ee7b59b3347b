//! Rewritten extents take the place of the ones they replace in the index.
//!
//! Before that they are looked up ahead of the index, so nothing hurries; but only what the index has given up can free
//! a segment, and a checkpoint waits for it: replay from there does not bring them back.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use streambus_protocol::offset::Offset;

use super::commit_sink::CommitSink;
use crate::error::IndexError;
use crate::index::{Extent, Index, IndexChanges, SegmentShare};
use crate::partition_log::log_core::LogCore;

/// Extents settled under one hold of a log's order lock: bounds how long an append may wait.
const EXTENTS_PER_WRITE: usize = 64;

/// Settles what can be settled, of every log. The caller holds the lock of maintenance: a checkpoint must not come
/// between the index and what a log remembers.
pub(crate) fn settle_rewritten(sink: &CommitSink, index: &Index) -> Result<(), IndexError> {
    let cores: Vec<Arc<LogCore>> = sink.table.read().by_id.values().cloned().collect();
    for core in &cores {
        let mut from = Offset::ZERO;
        while let Some(next) = settle_some(sink, index, core, from)? {
            from = next;
        }
    }
    Ok(())
}

/// Settles one portion from `from` on; returns where the next one begins.
fn settle_some(sink: &CommitSink, index: &Index, core: &LogCore, from: Offset) -> Result<Option<Offset>, IndexError> {
    // Held before the look: a copy that is committed and not yet accepted counts, or a checkpoint would leave it behind.
    let _order = core.order.lock();
    let (start, end, anew) = {
        let state = core.state.lock();
        let index_end = state.index_end();
        let anew = state.rewritten.as_slice().iter().filter(|extent| extent.base >= from && extent.next <= index_end);
        let anew = anew.take(EXTENTS_PER_WRITE).copied().collect::<Vec<_>>();
        // A truncation that is not durable yet may be undone: what the index has above it stays until then.
        (state.durable_start, state.settled_end(), anew)
    };
    let Some(from_next) = anew.last().map(|last| last.next) else { return Ok(None) };
    // A gapless run is one replacement: an index entry may lie under several of its extents. Each is written before the
    // next is looked at, because both may take their part of one entry.
    for run in anew.chunk_by(|left, right| left.next == right.base) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let mut changes = IndexChanges::default();
        let removed_bytes = replace(index, core, start..end, first.base..last.next, &mut changes)?;
        let mut added_bytes = 0;
        for extent in run {
            changes.put_extent(core.id, extent);
            let share = index.share(extent.segment, core.id)?.map_or(extent.next, |share| share.next.max(extent.next));
            changes.put_share(extent.segment, core.id, &SegmentShare { next: share });
            added_bytes += u64::from(extent.batch_bytes);
        }
        index.write(&changes)?;
        let mut state = core.state.lock();
        state.rewritten.forget(first.base, last.next);
        state.size_bytes = (state.size_bytes + added_bytes).saturating_sub(removed_bytes);
        sink.extents_moved(run.len());
    }
    Ok(Some(from_next))
}

/// Takes the index entries under `run` away; returns their batch bytes. Where an entry reaches beyond the run, the part of
/// it outside is put back, as far as it lies in `live`, the offsets that the log has in the index.
fn replace(
    index: &Index,
    core: &LogCore,
    live: Range<Offset>,
    run: Range<Offset>,
    changes: &mut IndexChanges,
) -> Result<u64, IndexError> {
    let mut under: Vec<Extent> = Vec::new();
    if let Some(before) = run.start.get().checked_sub(1).and_then(Offset::new)
        && let Some(below) = index.floor(core.id, before)?
        && below.next > run.start
    {
        under.push(below);
    }
    index.extents(core.id, run.start, |extent| {
        if extent.base >= run.end {
            return ControlFlow::Break(());
        }
        under.push(extent);
        ControlFlow::Continue(())
    })?;
    let first = under.first().map_or(run.start, |extent| extent.base.min(run.start));
    changes.remove_extents(core.id, first, Some(run.end));
    let mut bytes: u64 = 0;
    for extent in under {
        bytes += u64::from(extent.batch_bytes);
        // What lies below the start stays with what is kept in front of it: its offsets are nobody's any more.
        let outside =
            [(extent.base, run.start.min(extent.next)), (run.end.max(extent.base), extent.next.min(live.end))];
        for (base, next) in outside {
            if base < next && next > live.start {
                let part = extent.part(base, next);
                bytes = bytes.saturating_sub(u64::from(part.batch_bytes));
                changes.put_extent(core.id, &part);
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
