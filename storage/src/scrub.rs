//! Scrubbing: reading sealed segments in the background, a budget at a time, so that damage is found while another
//! replica can still repair it.

use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::sync::Arc;

use streambus_protocol::offset::Offset;

use crate::error::{IndexError, ReadError};
use crate::index::Extent;
use crate::journal::{self, DamageReason, DamagedRange, EntryKind, LogId, ScannedPart, SegmentId, SegmentInfo};
use crate::partition_log::PartitionLog;
use crate::partition_log::log_core::LogCore;
use crate::store::Store;
use crate::store::inner::StoreInner;

/// Where the scrub goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScrubCursor {
    segment: SegmentId,
    position: u64,
}

/// What one step of the scrub saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubOutcome {
    /// Bytes read and verified.
    pub bytes: u64,
    /// Entries that prove.
    pub entries: u64,
    /// Damaged byte ranges met, known ones included.
    pub damaged: Vec<DamagedRange>,
    /// Every sealed segment and the index were seen: the next step starts over.
    pub pass_finished: bool,
}

impl Store {
    /// Verifies sealed segments from where the last step stopped, for about `budget_bytes` (at least one commit). Damage
    /// is remembered with its log and offsets, and not served. At the end of a pass the index's checksums are checked.
    /// Blocking.
    ///
    /// # Errors
    /// [`ReadError::Journal`] when a segment's file does not open, and the next step goes on behind it;
    /// [`ReadError::Index`] when the index cannot tell whose bytes are damaged, or is damaged itself.
    pub fn scrub_step(&self, budget_bytes: u64) -> Result<ScrubOutcome, ReadError> {
        let store = self.inner();
        let mut cursor = store.scrub.lock();
        let mut outcome = ScrubOutcome::default();
        while outcome.bytes < budget_bytes.max(1) {
            let next = store.journal.segments().into_iter().find(|info| info.sealed && info.id >= cursor.segment);
            let Some(info) = next else {
                *cursor = ScrubCursor::default();
                store.metrics.scrub_passes.increment();
                outcome.pass_finished = true;
                store.index.verify().inspect_err(|error| store.index_failed(error))?;
                break;
            };
            let position = if info.id == cursor.segment { cursor.position } else { 0 };
            let left = budget_bytes.saturating_sub(outcome.bytes);
            let part = match store.reader.scan(info.id, position, left, &mut |_| {}) {
                Ok(part) => part,
                // Recycled while it was read.
                Err(journal::ReadError::NoSegment(_)) => {
                    *cursor = ScrubCursor { segment: info.id.next(), position: 0 };
                    continue;
                }
                Err(journal::ReadError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                    missing_segment(&info)
                }
                Err(error) => {
                    // The rest of the journal must not wait for it.
                    *cursor = ScrubCursor { segment: info.id.next(), position: 0 };
                    return Err(error.into());
                }
            };
            *cursor = match part.next_position {
                Some(position) => ScrubCursor { segment: info.id, position },
                None => ScrubCursor { segment: info.id.next(), position: 0 },
            };
            // A segment costs at least one byte of budget, or empty ones would make a step endless.
            outcome.bytes += part.bytes.max(1);
            outcome.entries += part.entries;
            for range in &part.damaged {
                self.attribute_damage(range)?;
            }
            outcome.damaged.extend(part.damaged);
        }
        store.metrics.scrubbed_bytes.add(outcome.bytes);
        Ok(outcome)
    }

    /// Reads again every extent that overlaps a damaged byte range: what does not prove is remembered as damage of its log.
    fn attribute_damage(&self, range: &DamagedRange) -> Result<(), ReadError> {
        let store = self.inner();
        let mut logs: Vec<LogId> = Vec::new();
        match range.entry {
            Some(entry) => logs.push(entry.log),
            None => store.index.shares(range.segment, |log, _| {
                logs.push(log);
                ControlFlow::Continue(())
            })?,
        }
        for log in logs {
            let core: Option<Arc<LogCore>> = store.sink.table.read().by_id.get(&log).cloned();
            let Some(core) = core else { continue };
            let log = PartitionLog::new(store.clone(), core);
            for extent in log.extents_over(range)? {
                match log.verify_extent(&extent) {
                    Ok(()) | Err(ReadError::OutOfRange { .. } | ReadError::Deleted) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// After recovery: marks the batches that damage in the replayed part of the journal took from logs whose checkpoint
/// includes them, which replay itself cannot tell from batches that were truncated away. A log that cannot be asked now is
/// asked by its first reader.
pub(crate) fn mark_recovered_damage(store: &Arc<StoreInner>, damaged: &[DamagedRange]) {
    for range in damaged {
        let Some(entry) = range.entry else {
            forget_cleaned(store);
            continue;
        };
        let core = store.sink.table.read().by_id.get(&entry.log).cloned();
        let Some(core) = core.filter(|_| entry.kind.holds_batch()) else { continue };
        let is_compacted = entry.kind == EntryKind::Rewrite && core.state.lock().options.compaction.is_some();
        let log = PartitionLog::new(store.clone(), core);
        let looked = log.look_at(entry.base).and_then(|()| {
            // What it took the place of may still be there. A copy has the same records; what a log was compacted to has
            // fewer, and what it dropped must not come back.
            let next = entry.last.next().filter(|_| is_compacted);
            next.map_or(Ok(()), |next| log.mark_unless_newer(range, entry.base, next))
        });
        if let Err(error) = looked {
            tracing::warn!(
                log = %log.partition(), base = %entry.base, %error,
                "a damaged batch could not be looked at"
            );
        }
    }
}

/// Damage has taken what could be any log's, also what one was compacted to: what it took the place of may be back.
fn forget_cleaned(store: &StoreInner) {
    for core in store.sink.table.read().by_id.values() {
        let mut state = core.state.lock();
        if state.options.compaction.is_some() {
            state.clean.lower(Offset::ZERO);
        }
    }
}

/// What a scan of a segment sees whose file is gone.
fn missing_segment(info: &SegmentInfo) -> ScannedPart {
    let range = DamagedRange {
        segment: info.id,
        position: 0,
        length: info.bytes,
        base_lsn: info.base_lsn.unwrap_or_default(),
        next_lsn: None,
        entry: None,
        reason: DamageReason::Missing,
    };
    ScannedPart { bytes: 0, entries: 0, damaged: vec![range], next_position: None }
}

impl PartitionLog {
    /// The log's extents that share bytes with `range`.
    fn extents_over(&self, range: &DamagedRange) -> Result<Vec<Extent>, IndexError> {
        let end = range.position.saturating_add(range.length.max(1));
        let overlaps = |extent: &Extent| {
            extent.segment == range.segment
                && extent.position < end
                && range.position < extent.position + u64::from(extent.length)
        };
        let (start, index_end, mut found) = {
            let state = self.core().state.lock();
            let held = state.extents.as_slice().iter().chain(state.repaired.as_slice());
            let held = held.chain(state.rewritten.as_slice());
            let in_memory: Vec<_> = held.filter(|e| overlaps(e)).copied().collect();
            (state.start, state.index_end(), in_memory)
        };
        let first = self.store().index.floor(self.id(), start)?.map_or(start, |extent| extent.base);
        self.store().index.extents(self.id(), first, |extent| {
            if extent.base >= index_end {
                return ControlFlow::Break(());
            }
            if overlaps(&extent) {
                found.push(Extent { next: extent.next.min(index_end), ..extent });
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }
}
