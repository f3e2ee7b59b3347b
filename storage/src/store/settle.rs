//! Rewritten extents take the place of the ones they replace in the index.
//!
//! Before that they are looked up ahead of the index, so nothing hurries; but only what the index has given up can free
//! a segment. A rewritten run that covers an index entry in part (its other part was torn by a crash) waits: until
//! somebody rewrites the rest, the old entry and what it names are kept.

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
    if core.state.lock().rewritten.is_empty() {
        return Ok(None);
    }
    let _order = core.order.lock();
    let (start, index_end, anew) = {
        let state = core.state.lock();
        let (start, index_end) = (state.durable_start, state.index_end());
        let anew = state.rewritten.as_slice().iter().filter(|extent| extent.base >= from && extent.next <= index_end);
        (start, index_end, anew.take(EXTENTS_PER_WRITE).copied().collect::<Vec<_>>())
    };
    let Some(last) = anew.last() else { return Ok(None) };
    let mut changes = IndexChanges::default();
    let mut settled: Vec<Extent> = Vec::new();
    let (mut added_bytes, mut removed_bytes) = (0, 0);
    // A gapless run is one replacement: an index entry may lie under several of its extents.
    for run in anew.chunk_by(|left, right| left.next == right.base) {
        let (Some(first), Some(end)) = (run.first(), run.last().map(|extent| extent.next)) else { continue };
        let Some(replaced) = replaced(index, core, start, first.base..end, index_end)? else { continue };
        changes.remove_extents(core.id, replaced.base, Some(end));
        for extent in run {
            changes.put_extent(core.id, extent);
            let share = index.share(extent.segment, core.id)?.map_or(extent.next, |share| share.next.max(extent.next));
            changes.put_share(extent.segment, core.id, &SegmentShare { next: share });
            added_bytes += u64::from(extent.batch_bytes);
        }
        removed_bytes += replaced.bytes;
        settled.extend_from_slice(run);
    }
    index.write(&changes)?;
    let mut state = core.state.lock();
    for extent in &settled {
        state.rewritten.forget(extent.base, extent.next);
    }
    state.size_bytes = (state.size_bytes + added_bytes).saturating_sub(removed_bytes);
    sink.extents_moved(settled.len());
    Ok(Some(last.next))
}

/// Index entries that a run takes the place of.
struct Replaced {
    /// The first one's key.
    base: Offset,
    /// Their batch bytes.
    bytes: u64,
}

/// The index entries under `run`; `None` when one reaches beyond it, but for what lies below the log's durable `start`.
fn replaced(
    index: &Index,
    core: &LogCore,
    start: Offset,
    run: Range<Offset>,
    index_end: Offset,
) -> Result<Option<Replaced>, IndexError> {
    let mut base = run.start;
    if let Some(before) = run.start.get().checked_sub(1).and_then(Offset::new)
        && let Some(below) = index.floor(core.id, before)?
        && below.next > run.start
    {
        if run.start > start {
            return Ok(None);
        }
        base = below.base;
    }
    let (mut bytes, mut crosses) = (0, false);
    index.extents(core.id, base, |extent| {
        if extent.base >= run.end {
            return ControlFlow::Break(());
        }
        bytes += u64::from(extent.batch_bytes);
        crosses |= extent.next.min(index_end) > run.end;
        ControlFlow::Continue(())
    })?;
    Ok((!crosses).then_some(Replaced { base, bytes }))
}
