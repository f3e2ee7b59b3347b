//! Writes a structure of fixed size into room made for it at once: a buffer that may grow keeps its length in memory, and
//! there each field would wait for the one before it.
//!
//! The frame's checksum reads back in steps of eight bytes what was just written, and such a read waits for narrower
//! writes: where a request is small and frequent, neighbouring fields are written as one.

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

    /// Two neighbouring fields of 32 bits, written as one.
    #[inline]
    pub(crate) fn u32_pair(self, first: u32, second: u32) -> Self {
        self.u64(u64::from(first) | u64::from(second) << 32)
    }

    /// Neighbouring fields of 32, 64 and 32 bits, written as one.
    #[inline]
    pub(crate) fn u32_u64_u32(self, first: u32, second: u64, third: u32) -> Self {
        self.array((u128::from(first) | u128::from(second) << 32 | u128::from(third) << 96).to_le_bytes())
    }

    /// A length or count; one that does not fit becomes `u32::MAX`, which every receiver refuses.
    #[inline]
    pub(crate) fn length(self, value: usize) -> Self {
        self.u32(length(value))
    }

    /// A field of 32 bits and a length or count after it, written as one.
    #[inline]
    pub(crate) fn u32_and_length(self, first: u32, value: usize) -> Self {
        self.u32_pair(first, length(value))
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

/// One that does not fit becomes `u32::MAX`, which every receiver refuses.
#[inline]
fn length(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: fields that change places, or lose bits, where they are written as one.
    #[test]
    fn fields_written_as_one_are_the_bytes_of_each() {
        let mut one_by_one = [0; 32];
        let (a, b, c) = (0x0102_0304, 0x1112_1314_1516_1718, 0xF1F2_F3F4);
        Fixed::new(&mut one_by_one).u32(a).u32(c).u32(a).length(7).u32(c).u64(b).u32(a).finish();
        let mut as_one = [0; 32];
        Fixed::new(&mut as_one).u32_pair(a, c).u32_and_length(a, 7).u32_u64_u32(c, b, a).finish();
        assert_eq!(as_one, one_by_one);
    }
}
