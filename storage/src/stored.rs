//! Fixed-width fields of small stored values, read without an index that could be out of range.

use streambus_protocol::offset::Offset;

/// Reads fields one after the other; `None` past the end.
#[derive(Debug)]
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// True when every byte was read.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Big-endian, as keys are.
    pub(crate) fn u64_be(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(crate) fn offset(&mut self) -> Option<Offset> {
        Offset::new(self.u64()?)
    }

    /// A count of elements of at least `element_bytes` each; `None` when that many cannot follow.
    pub(crate) fn count(&mut self, element_bytes: usize) -> Option<usize> {
        let count = usize::try_from(self.u32()?).ok()?;
        (count.checked_mul(element_bytes)? <= self.0.len()).then_some(count)
    }
}

/// A count as it is stored. Collections that are stored hold far fewer elements than 2^32.
///
/// # Panics
/// When one does not, rather than to store a wrong count.
pub(crate) fn stored_count(count: usize) -> [u8; 4] {
    u32::try_from(count).expect("fewer than 2^32 elements").to_le_bytes()
}
