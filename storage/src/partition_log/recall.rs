//! Looking up, before a truncation, what it would make the log forget of its producers.
//!
//! The log is read backwards from where it is to end, until every producer in question has as many batches as are
//! remembered, and no further than a bound: a retry is of what was sent lately.

use bytes::Bytes;
use streambus_protocol::batch::PlacedBatch;
use streambus_protocol::offset::Offset;

use super::read::Place;
use super::state::sequences_of;
use super::{PartitionLog, Read, ReadLimit};
use crate::error::ReadError;
use crate::producer_state::recall::{Recalled, Wanted};

/// What is read at most. The caller holds up everything else of its log.
const READ_BYTES_MAX: usize = 64 << 20;

impl PartitionLog {
    /// What the log has, below `end`, of the producers of whom a truncation there leaves too little. May read the disk.
    /// The caller holds the order lock.
    pub(super) fn recall_producers(&self, end: Offset) -> Result<Vec<Recalled>, ReadError> {
        let (mut wanted, start) = {
            let state = self.core.state.lock();
            (state.producers.forgotten_by(end), state.start)
        };
        let (mut cursor, mut read_bytes) = (end, 0);
        while cursor > start && read_bytes < READ_BYTES_MAX && !wanted.iter().all(Wanted::is_done) {
            let (found, base) = self.batches_before(cursor, start)?;
            assert!(base < cursor, "a step back goes back");
            for batch in found.iter().rev() {
                read_bytes += batch.size_bytes();
                if let Some(stamp) = batch.producer().filter(|stamp| stamp.base_sequence.get() >= 0) {
                    wanted.iter_mut().for_each(|one| one.see(stamp, sequences_of(batch), batch.base_offset()));
                }
            }
            cursor = base;
        }
        Ok(wanted.into_iter().filter_map(Wanted::into_recalled).collect())
    }

    /// Some batches that end at or below `cursor`, in order, and where the step back ends: at `start` at the lowest.
    fn batches_before(&self, cursor: Offset, start: Offset) -> Result<(Vec<PlacedBatch>, Offset), ReadError> {
        let Some(last) = cursor.get().checked_sub(1).and_then(Offset::new) else { return Ok((Vec::new(), start)) };
        // What is not durable is in the cache; what has left the cache has its extent.
        let cached = self.store.cache.lock().base_of(self.core.id, last);
        if let Some(base) = cached.map(|base| base.max(start))
            && let Read::Ready(found, _) = self.read(base, ReadLimit { bytes_max: 1, below: cursor })?
        {
            return Ok((proven(found), base));
        }
        Ok(match self.locate(last)? {
            Place::Damaged(range) => (Vec::new(), range.base.max(start)),
            Place::Extent(extent) => {
                let found = self.read_extent(&extent)?.into_iter().filter(|batch| batch.next <= cursor);
                (proven(found.map(|batch| batch.bytes)), extent.base.max(start))
            }
        })
    }
}

/// Those that this version knows; others say nothing of producers.
fn proven(found: impl IntoIterator<Item = Bytes>) -> Vec<PlacedBatch> {
    found.into_iter().filter_map(|bytes| PlacedBatch::verify_stored(bytes).ok()).collect()
}
