//! Fixed little-endian header fields, read and written without an index that could be out of range.
//!
//! Both kinds of header share their first eight bytes: magic, then the seeded checksum of all that follows.

use super::entry::ChecksumSeed;

/// Reads fields one after the other; `None` past the end.
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields behind magic and checksum, when both are right.
    pub(crate) fn checked<const N: usize>(header: &'a [u8; N], magic: u32, seed: ChecksumSeed) -> Option<Self> {
        let mut fields = Self(header);
        if fields.u32()? != magic || fields.u32()? != seed.checksum(header.get(8..)?) {
            return None;
        }
        Some(fields)
    }

    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_le_bytes)
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take()
    }
}

/// Writes fields one after the other into `N` zeroed bytes.
///
/// # Panics
/// When more is written than fits, which the first test of a format shows.
pub(crate) struct FieldsMut<const N: usize> {
    bytes: [u8; N],
    used: usize,
}

#[allow(clippy::indexing_slicing, reason = "our own memory: out of range is a mistake of this file, not of a disk")]
impl<const N: usize> FieldsMut<N> {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; N], used: 0 }
    }

    pub(crate) fn put(&mut self, field: &[u8]) {
        let end = self.used + field.len();
        self.bytes[self.used..end].copy_from_slice(field);
        self.used = end;
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.put(&value.to_le_bytes());
    }

    pub(crate) fn finish(self) -> [u8; N] {
        self.bytes
    }

    /// Fills in the checksum (bytes 4..8) over everything behind it.
    pub(crate) fn finish_with_checksum(mut self, seed: ChecksumSeed) -> [u8; N] {
        let checksum = seed.checksum(&self.bytes[8..]);
        self.bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        self.bytes
    }
}
