//! Finding the first record at or after an instant: extents by their newest time, then batches, then records.

use std::ops::ControlFlow;

use streambus_protocol::batch::PlacedBatch;
use streambus_protocol::limits::{BATCH_BYTES_MAX, DECOMPRESSED_FACTOR_MAX};
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;

use super::PartitionLog;
use crate::error::ReadError;
use crate::index::Extent;

/// What a compressed batch may expand to.
const EXPANDED_BYTES_MAX: usize = BATCH_BYTES_MAX * DECOMPRESSED_FACTOR_MAX;

impl PartitionLog {
    /// The first record below `below` whose time is `at` or later, with its time; `None` when there is none. Damaged
    /// batches are passed over. Blocking: may read the index and the disk.
    ///
    /// # Errors
    /// [`ReadError::Deleted`], [`ReadError::Index`], [`ReadError::Journal`].
    pub fn offset_for_time(&self, at: Timestamp, below: Offset) -> Result<Option<(Offset, Timestamp)>, ReadError> {
        let (mut from, mut looked_again) = (self.log_start(), false);
        while let Some(extent) = self.extent_reaching(at, from, below)? {
            match self.read_extent(&extent) {
                // Compaction may have moved it since the lookup; the next one names the new place.
                Ok(batches) if batches.is_empty() && !looked_again => {
                    looked_again = true;
                    continue;
                }
                Ok(batches) => {
                    for stored in batches {
                        if let Ok(batch) = PlacedBatch::verify_stored(stored.bytes)
                            && let Some(found) = self.record_at(&batch, at, below)
                        {
                            return Ok(Some(found));
                        }
                    }
                }
                // Trimmed while looking: what it held is gone.
                Err(ReadError::OutOfRange { .. }) => {}
                Err(error) => return Err(error),
            }
            from = extent.next;
            looked_again = false;
        }
        self.cached_record_at(at, below)
    }

    /// The first extent with a base at or above that of the one holding `from` whose newest time is `at` or later.
    fn extent_reaching(&self, at: Timestamp, from: Offset, below: Offset) -> Result<Option<Extent>, ReadError> {
        let reaches = |extent: &Extent| extent.next > from && extent.base < below && extent.max_timestamp >= at;
        let index_end = {
            let state = self.core.state.lock();
            if state.deleted {
                return Err(ReadError::Deleted);
            }
            state.index_end()
        };
        let mut found = None;
        if from < index_end {
            let first = self.store.index.floor(self.core.id, from)?.map_or(from, |extent| extent.base);
            self.store.index.extents(self.core.id, first, |mut extent| {
                extent.next = extent.next.min(index_end);
                if extent.base >= index_end || extent.base >= below {
                    return ControlFlow::Break(());
                }
                if reaches(&extent) {
                    found = Some(extent);
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })?;
        }
        let state = self.core.state.lock();
        if found.is_none() {
            found = state.extents.as_slice().iter().find(|extent| reaches(extent)).copied();
        }
        // What was stored anew comes where it belongs: within an extent that has a hole there, or on its own.
        let repaired = state.repaired.as_slice().iter().find(|extent| reaches(extent)).copied();
        if let Some(repaired) = repaired {
            found = match found {
                Some(extent) if extent.base.max(from) < repaired.base => {
                    Some(Extent { next: extent.next.min(repaired.base), ..extent })
                }
                _ => Some(repaired),
            };
        }
        Ok(found)
    }

    /// Looks through the batches that are accepted and not yet durable: they are in the cache and in no extent.
    fn cached_record_at(&self, at: Timestamp, below: Offset) -> Result<Option<(Offset, Timestamp)>, ReadError> {
        let mut cursor = {
            let state = self.core.state.lock();
            state.synced_end.max(state.start)
        };
        while cursor < below {
            let Some((batches, next)) = self.store.cache.lock().read(self.core.id, cursor, below, 1) else { break };
            if next <= cursor {
                break;
            }
            for bytes in batches {
                if let Ok(batch) = PlacedBatch::verify_stored(bytes)
                    && let Some(found) = self.record_at(&batch, at, below)
                {
                    return Ok(Some(found));
                }
            }
            cursor = next;
        }
        Ok(None)
    }

    fn record_at(&self, batch: &PlacedBatch, at: Timestamp, below: Offset) -> Option<(Offset, Timestamp)> {
        if batch.max_timestamp() < at || batch.is_control() {
            return None;
        }
        let start = self.log_start();
        // A batch whose records do not decode was accepted so; its own header is the best answer there is.
        let Ok(records) = batch.records(EXPANDED_BYTES_MAX) else {
            let base = batch.base_offset().max(start);
            return (base < below).then_some((base, batch.max_timestamp()));
        };
        records
            .map_while(Result::ok)
            .filter(|stored| stored.offset >= start && stored.record.timestamp >= at)
            .map(|stored| (stored.offset, stored.record.timestamp))
            .next()
            .filter(|(offset, _)| *offset < below)
    }
}
