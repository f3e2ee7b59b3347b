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
}

impl OverlayExtents {
    pub(crate) fn from_stored(extents: Vec<Extent>) -> Self {
        let mut repaired = Self::default();
        for extent in extents {
            repaired.insert(extent, 0);
        }
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

    pub(crate) fn is_empty(&self) -> bool {
        self.extents.is_empty()
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
        if let Some(left) = at.checked_sub(1).and_then(|left| self.extents.get_mut(left))
            && left.segment == extent.segment
            && left.next == extent.base
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
            if extent.base < base {
                kept.push(Extent { next: base, ..extent });
            }
            if next < extent.next {
                kept.push(Extent { base: next, ..extent });
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
