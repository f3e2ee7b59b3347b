//! The extents of one log that are not in the index yet: those of segments that are still being filled.
//!
//! ```text
//!   offsets    start      index       first in memory      synced end            end
//!              |--- extents in the index ---|--- extents here ---|-- not yet durable --|
//! ```
//! Whatever the index holds at or above the first offset here (or the synced end, when there is none here) is left over
//! from a crash or a truncation and means nothing.

use streambus_protocol::offset::Offset;

use crate::index::Extent;
use crate::journal::{CommittedEntry, SegmentId};

/// An extent may hold this many times its own batches' bytes: more and reading it wastes the disk.
const SPARSENESS_MAX: u64 = 16;

/// Extents in order of their offsets. A vector: they come at the end and leave from the front in bulk, and a log
/// without any must cost nothing.
#[derive(Debug, Default)]
pub(crate) struct MemoryExtents {
    extents: Vec<Extent>,
    /// The last extent takes no further batch: a truncation lies between.
    sealed: bool,
}

impl MemoryExtents {
    pub(crate) fn len(&self) -> usize {
        self.extents.len()
    }

    pub(crate) fn as_slice(&self) -> &[Extent] {
        &self.extents
    }

    /// The first offset that is looked up here and not in the index.
    pub(crate) fn first_base(&self) -> Option<Offset> {
        self.extents.first().map(|extent| extent.base)
    }

    /// The extent that holds `offset`.
    pub(crate) fn find(&self, offset: Offset) -> Option<Extent> {
        let at = self.extents.partition_point(|extent| extent.next <= offset);
        self.extents.get(at).filter(|extent| extent.base <= offset).copied()
    }

    /// The first extent with a base above `offset`.
    pub(crate) fn first_above(&self, offset: Offset) -> Option<Extent> {
        self.extents.get(self.extents.partition_point(|extent| extent.base <= offset)).copied()
    }

    /// Adds a committed batch that ends before `next`. Returns true when it began a new extent.
    pub(crate) fn push(&mut self, entry: &CommittedEntry, next: Offset, extent_bytes_max: u32) -> bool {
        let position = u64::from(entry.location.position);
        let end = position + u64::from(entry.location.length);
        let batch_bytes = entry.payload_bytes();
        if let Some(last) = self.extents.last_mut()
            && !self.sealed
            && last.segment == entry.location.segment
            && last.next == entry.base
            && let Some(span) = end.checked_sub(last.position)
            && span <= u64::from(extent_bytes_max)
            && span <= (u64::from(last.batch_bytes) + u64::from(batch_bytes)) * SPARSENESS_MAX
            && let (Ok(length), Some(bytes)) = (u32::try_from(span), last.batch_bytes.checked_add(batch_bytes))
        {
            last.next = next;
            last.length = length;
            last.batch_bytes = bytes;
            last.max_timestamp = last.max_timestamp.max(entry.max_timestamp);
            return false;
        }
        assert!(
            self.extents.last().is_none_or(|last| last.next <= entry.base),
            "extents that overlap would serve truncated batches"
        );
        self.sealed = false;
        self.extents.push(Extent {
            base: entry.base,
            next,
            segment: entry.location.segment,
            position,
            length: entry.location.length,
            batch_bytes,
            max_timestamp: entry.max_timestamp,
        });
        true
    }

    /// Cuts everything at or above `end`; returns the batch bytes that went with whole extents.
    pub(crate) fn truncate(&mut self, end: Offset) -> u64 {
        let mut bytes = 0;
        while let Some(last) = self.extents.last_mut()
            && last.next > end
        {
            if last.base < end {
                last.next = end;
                break;
            }
            bytes += u64::from(last.batch_bytes);
            self.extents.pop();
        }
        self.seal();
        bytes
    }

    /// Cuts what lies at or above `end`, if anything does; else the last extent may go on growing.
    pub(crate) fn cut_to(&mut self, end: Offset) {
        if self.extents.last().is_some_and(|last| last.next > end) {
            self.truncate(end);
        }
    }

    /// Ends the last extent: the entries of cut batches lie behind it, and extending it over them would bring them back.
    pub(crate) fn seal(&mut self) {
        self.sealed = true;
    }

    /// Drops extents that end at or below `start`; returns their batch bytes.
    pub(crate) fn trim(&mut self, start: Offset) -> u64 {
        let gone = self.extents.partition_point(|extent| extent.next <= start);
        self.extents.drain(..gone).map(|extent| u64::from(extent.batch_bytes)).sum()
    }

    /// The first `most` extents that lie in segments before `segment`. They are a prefix: segments fill in order.
    pub(crate) fn below(&self, segment: SegmentId, most: usize) -> &[Extent] {
        let count = self.extents.partition_point(|extent| extent.segment < segment).min(most);
        self.extents.get(..count).unwrap_or_default()
    }

    /// Every extent but the last, which may still grow; at most `most`.
    pub(crate) fn closed(&self, most: usize) -> &[Extent] {
        let count = self.extents.len().saturating_sub(1).min(most);
        self.extents.get(..count).unwrap_or_default()
    }

    /// The first `most` extents.
    pub(crate) fn first(&self, most: usize) -> &[Extent] {
        self.extents.get(..self.extents.len().min(most)).unwrap_or_default()
    }

    /// Forgets the first `count` extents: they are in the index now.
    pub(crate) fn forget_first(&mut self, count: usize) {
        self.extents.drain(..count.min(self.extents.len()));
        if self.extents.is_empty() {
            self.extents = Vec::new();
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.extents.capacity() * size_of::<Extent>()
    }
}

#[cfg(test)]
mod tests {
    use streambus_protocol::epoch::LeaderEpoch;
    use streambus_protocol::timestamp::Timestamp;

    use super::*;
    use crate::journal::{EntryKind, Location, LogId, Lsn};

    fn offset(value: u64) -> Offset {
        Offset::new(value).expect("small")
    }

    fn entry(base: u64, segment: u64, position: u32, length: u32) -> CommittedEntry {
        CommittedEntry {
            log: LogId::new(1),
            kind: EntryKind::Batch,
            base: offset(base),
            last: offset(base),
            epoch: LeaderEpoch::new(0),
            max_timestamp: Timestamp::from_millis(i64::from(position)),
            lsn: Lsn::new(base),
            location: Location { segment: SegmentId::new(segment), position, length },
        }
    }

    fn pushed(entries: &[(u64, u64, u32, u32)]) -> MemoryExtents {
        let mut extents = MemoryExtents::default();
        for (base, segment, position, length) in entries {
            extents.push(&entry(*base, *segment, *position, *length), offset(base + 1), 4096);
        }
        extents
    }

    #[test]
    fn neighbours_join_until_the_span_is_full_sparse_or_in_another_segment() {
        let joined = pushed(&[(0, 1, 0, 1000), (1, 1, 1000, 1000)]);
        assert_eq!(joined.len(), 1);
        assert_eq!(joined.find(offset(1)).map(|e| (e.next, e.length)), Some((offset(2), 2000)));
        assert_eq!(pushed(&[(0, 1, 0, 3000), (1, 1, 3000, 3000)]).len(), 2, "over the span");
        assert_eq!(pushed(&[(0, 1, 0, 100), (1, 1, 3900, 100)]).len(), 2, "mostly other logs' bytes");
        assert_eq!(pushed(&[(0, 1, 0, 100), (1, 2, 100, 100)]).len(), 2, "another segment");
    }

    // Catches an extent that grows over truncated batches: a read would serve what the log gave up.
    #[test]
    fn a_truncated_extent_never_grows_again() {
        let mut extents = pushed(&[(0, 1, 0, 500), (1, 1, 500, 500), (2, 1, 1000, 500)]);
        extents.truncate(offset(1));
        extents.push(&entry(1, 1, 1500, 500), offset(2), 4096);
        assert_eq!(extents.len(), 2);
        assert_eq!(extents.find(offset(0)).map(|e| e.next), Some(offset(1)));
        assert_eq!(extents.find(offset(1)).map(|e| e.position), Some(1500));
    }

    #[test]
    fn lookups_and_prefixes() {
        let mut extents = pushed(&[(0, 1, 0, 3000), (1, 1, 3000, 3000), (2, 2, 0, 3000)]);
        assert_eq!(extents.below(SegmentId::new(2), 9).len(), 2);
        assert_eq!(extents.closed(9).len(), 2);
        assert_eq!(extents.first_above(offset(0)).map(|e| e.base), Some(offset(1)));
        assert_eq!(extents.trim(offset(1)), 3000 - 64);
        extents.forget_first(1);
        assert_eq!(extents.first_base(), Some(offset(2)));
        assert_eq!(extents.find(offset(1)), None);
    }
}
