//! Writes a structure of fixed size into room made for it at once: a buffer that may grow keeps its length in memory, and
//! there each field would wait for the one before it.

use crate::ids::TopicId;

/// `N` bytes of a buffer, filled from the front.
#[derive(Debug)]
pub(crate) struct Fixed<'a, const N: usize> {
    slot: &'a mut [u8; N],
    filled: usize,
}

impl<'a, const N: usize> Fixed<'a, N> {
    #[inline]
    pub(super) const fn new(slot: &'a mut [u8; N]) -> Self {
        Self { slot, filled: 0 }
    }

    #[inline]
    pub(crate) fn u8(self, value: u8) -> Self {
        self.array([value])
    }

    #[inline]
    pub(crate) fn u16(self, value: u16) -> Self {
        self.array(value.to_le_bytes())
    }

    #[inline]
    pub(crate) fn u32(self, value: u32) -> Self {
        self.array(value.to_le_bytes())
    }

    #[inline]
    pub(crate) fn u64(self, value: u64) -> Self {
        self.array(value.to_le_bytes())
    }

    /// A length or count; one that does not fit becomes `u32::MAX`, which every receiver refuses.
    #[inline]
    pub(crate) fn length(self, value: usize) -> Self {
        self.u32(u32::try_from(value).unwrap_or(u32::MAX))
    }

    #[inline]
    pub(crate) fn topic(self, topic: TopicId) -> Self {
        self.array(*topic.as_bytes())
    }

    /// Ends the structure.
    #[inline]
    pub(crate) fn finish(self) {
        debug_assert_eq!(self.filled, N, "a structure's size and its fields differ");
    }

    #[inline]
    fn array<const M: usize>(mut self, value: [u8; M]) -> Self {
        let slot = self.slot.get_mut(self.filled..self.filled + M);
        debug_assert!(slot.is_some(), "a structure's fields are larger than its size");
        if let Some(slot) = slot {
            slot.copy_from_slice(&value);
        }
        self.filled += M;
        self
    }
}
