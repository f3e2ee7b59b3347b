//! Memory that direct I/O accepts: starts at, and is measured in, whole blocks.
//!
//! No unsafe code: the vector is one block longer than asked, and the view starts at the first aligned byte in it.

use std::fmt;

/// The unit of every write: position, length and memory address are multiples of it.
pub const BLOCK_BYTES: usize = 4096;

/// The smallest multiple of [`BLOCK_BYTES`] that is not below `bytes`.
pub const fn round_up_to_block(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK_BYTES)
}

/// A fixed-capacity byte buffer at a block-aligned address.
pub struct AlignedBuffer {
    /// Never resized, so that the address and with it `offset` stay.
    backing: Vec<u8>,
    offset: usize,
    capacity: usize,
}

#[allow(clippy::indexing_slicing, reason = "our own memory: out of range is a mistake of this file, not of a disk")]
impl AlignedBuffer {
    /// A zeroed buffer of at least `bytes`, rounded up to whole blocks.
    pub fn zeroed(bytes: usize) -> Self {
        let capacity = round_up_to_block(bytes.max(1));
        let backing = vec![0u8; capacity + BLOCK_BYTES - 1];
        let offset = backing.as_ptr().align_offset(BLOCK_BYTES);
        assert!(offset < BLOCK_BYTES, "byte pointers can always be aligned");
        Self { backing, offset, capacity }
    }

    /// Usable bytes; a multiple of [`BLOCK_BYTES`].
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// All usable bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.backing[self.offset..self.offset + self.capacity]
    }

    /// All usable bytes.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.backing[self.offset..self.offset + self.capacity]
    }

    /// The first `bytes` of the buffer, proven to be whole aligned blocks.
    ///
    /// # Panics
    /// When `bytes` is above the capacity or no multiple of [`BLOCK_BYTES`]: writing anything else would corrupt.
    pub fn blocks(&self, bytes: usize) -> Blocks<'_> {
        assert!(bytes <= self.capacity && bytes.is_multiple_of(BLOCK_BYTES), "{bytes} bytes are not whole blocks");
        Blocks(&self.as_slice()[..bytes])
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuffer").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

/// Borrowed whole blocks at an aligned address: the only thing a [`DiskFile`](crate::disk::DiskFile) writes.
#[derive(Clone, Copy)]
pub struct Blocks<'a>(&'a [u8]);

impl<'a> Blocks<'a> {
    /// The bytes.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Their number.
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// True when there is no block.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Blocks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Blocks").field(&self.0.len()).finish()
    }
}

/// True when a read into `buffer` at `position` may bypass the page cache.
pub fn is_block_aligned(position: u64, buffer: &[u8]) -> bool {
    position.is_multiple_of(BLOCK_BYTES as u64)
        && buffer.len().is_multiple_of(BLOCK_BYTES)
        && buffer.as_ptr().align_offset(BLOCK_BYTES) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches a buffer whose view is not aligned or not as long as promised.
    #[test]
    fn every_size_is_aligned_and_whole() {
        for bytes in [0, 1, 4095, 4096, 4097, 1 << 20] {
            let mut buffer = AlignedBuffer::zeroed(bytes);
            assert!(buffer.capacity() >= bytes && buffer.capacity().is_multiple_of(BLOCK_BYTES));
            assert!(is_block_aligned(0, buffer.as_slice()));
            buffer.as_mut_slice().fill(9);
            assert_eq!(buffer.blocks(BLOCK_BYTES).as_bytes(), &[9; BLOCK_BYTES]);
        }
    }

    #[test]
    #[should_panic(expected = "not whole blocks")]
    fn a_partial_block_is_refused() {
        let _ = AlignedBuffer::zeroed(4096).blocks(100);
    }
}
