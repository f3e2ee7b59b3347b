//! Where the batches of one log lie that were stored anew, outside the order of their offsets.
//!
//! They win over the extents that speak of their offsets. A log has two of these:
//! - *repaired*, because the disk had lost the first copy: the extent that held it still covers them, with a hole. There
//!   are few, so they stay in memory and in the checkpoint and never go to the index;
//! - *rewritten*, by compaction: they wait here until they take the place of whole extents in the index. Until then what
//!   they replace is kept, and replaying the journal finds them again.

use streambus_protocol::offset::Offset;

use crate::index::Extent;
use crate::journal::entry::ENTRY_ALIGN_BYTES;

/// Extents in order of their offsets, without overlaps. Costs nothing while there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OverlayExtents {
    extents: Vec<Extent>,
    /// The end of the extent that was added last, while nothing of it was forgotten: only that one may grow. Behind what is
    /// left of another lies what was forgotten, and growing over it would bring that back.
    open_end: Option<Offset>,
}

impl OverlayExtents {
    pub(crate) fn from_stored(extents: Vec<Extent>) -> Self {
        let mut repaired = Self::default();
        for extent in extents {
            repaired.insert(extent, 0);
        }
        repaired.open_end = None;
        repaired
    }

    pub(crate) fn as_slice(&self) -> &[Extent] {
        &self.extents
    }

    /// The extent that holds `offset`.
    pub(crate) fn find(&self, offset: Offset) -> Option<Extent> {
        let at = self.extents.partition_point(|extent| extent.next <= offset);
        self.extents.get(at).filter(|extent| extent.base <= offset).copied()
    }

    /// The first extent that ends above `offset`.
    pub(crate) fn first_from(&self, offset: Offset) -> Option<Extent> {
        self.extents.get(self.extents.partition_point(|extent| extent.next <= offset)).copied()
    }

    /// True when an extent shares offsets with `base..next`.
    pub(crate) fn overlaps(&self, base: Offset, next: Offset) -> bool {
        self.extents.iter().any(|extent| extent.base < next && base < extent.next)
    }

    /// The parts of `base..next` that no extent here holds.
    pub(crate) fn rest_of(&self, base: Offset, next: Offset) -> Vec<(Offset, Offset)> {
        let (mut rest, mut cursor) = (Vec::new(), base);
        for extent in self.extents.iter().filter(|extent| extent.base < next && base < extent.next) {
            if cursor < extent.base {
                rest.push((cursor, extent.base));
            }
            cursor = cursor.max(extent.next);
        }
        if cursor < next {
            rest.push((cursor, next));
        }
        rest
    }

    /// Adds an extent, in place of whatever was known of its offsets. One that lies right behind its neighbour joins it,
    /// up to `extent_bytes_max`.
    pub(crate) fn insert(&mut self, extent: Extent, extent_bytes_max: u32) {
        self.forget(extent.base, extent.next);
        let at = self.extents.partition_point(|known| known.base < extent.base);
        let open_end = self.open_end.replace(extent.next);
        if let Some(left) = at.checked_sub(1).and_then(|left| self.extents.get_mut(left))
            && left.segment == extent.segment
            && left.next == extent.base
            && open_end == Some(extent.base)
            && (left.position + u64::from(left.length)).next_multiple_of(ENTRY_ALIGN_BYTES as u64) == extent.position
            && let Ok(length) = u32::try_from(extent.position + u64::from(extent.length) - left.position)
            && length <= extent_bytes_max
            && let Some(batch_bytes) = left.batch_bytes.checked_add(extent.batch_bytes)
        {
            left.next = extent.next;
            left.length = length;
            left.batch_bytes = batch_bytes;
            left.max_timestamp = left.max_timestamp.max(extent.max_timestamp);
            return;
        }
        self.extents.insert(at, extent);
    }

    /// Forgets `base..next`: its second copy is damaged too.
    pub(crate) fn forget(&mut self, base: Offset, next: Offset) {
        if !self.overlaps(base, next) {
            return;
        }
        let mut kept = Vec::with_capacity(self.extents.len() + 1);
        for extent in self.extents.drain(..) {
            if extent.next <= base || next <= extent.base {
                kept.push(extent);
                continue;
            }
            self.open_end = self.open_end.filter(|open_end| *open_end != extent.next);
            if extent.base < base {
                kept.push(extent.part(extent.base, base));
            }
            if next < extent.next {
                kept.push(extent.part(next, extent.next));
            }
        }
        self.extents = kept;
    }

    /// Forgets what ends at or below `start`.
    pub(crate) fn trim(&mut self, start: Offset) {
        self.extents.retain(|extent| extent.next > start);
    }

    /// Forgets what lies at or above `end`.
    pub(crate) fn truncate(&mut self, end: Offset) {
        self.forget(end, Offset::MAX);
    }
}

#[cfg(test)]
mod tests {
    use streambus_protocol::timestamp::Timestamp;

    use super::*;
    use crate::journal::SegmentId;

    fn offset(value: u64) -> Offset {
        Offset::new(value).expect("small")
    }

    fn extent(base: u64, next: u64, position: u64) -> Extent {
        Extent {
            base: offset(base),
            next: offset(next),
            segment: SegmentId::new(1),
            position,
            length: 80,
            batch_bytes: 70,
            max_timestamp: Timestamp::from_millis(1),
        }
    }

    // Catches an extent that grows behind what was forgotten of it: readers would take that for what stands there now.
    #[test]
    fn only_an_extent_that_is_whole_grows() {
        let mut overlay = OverlayExtents::default();
        for (base, next, position) in [(0, 2, 0), (2, 4, 80), (4, 6, 160)] {
            overlay.insert(extent(base, next, position), 4096);
        }
        let whole = Extent { next: offset(6), length: 240, batch_bytes: 210, ..extent(0, 6, 0) };
        assert_eq!(overlay.as_slice(), [whole]);
        overlay.insert(extent(2, 5, 240), 4096);
        let expected = [whole.part(offset(0), offset(2)), extent(2, 5, 240), whole.part(offset(5), offset(6))];
        assert_eq!(overlay.as_slice(), expected);
        overlay.insert(extent(5, 6, 320), 4096);
        assert_eq!(overlay.as_slice().len(), 2, "the one before is whole, and grows");
        overlay.truncate(offset(4));
        overlay.insert(extent(4, 6, 400), 4096);
        assert_eq!(overlay.as_slice().len(), 3);
    }
}
