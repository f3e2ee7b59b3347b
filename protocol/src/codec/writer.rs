//! Appends primitives to a buffer.

use bytes::BytesMut;

use super::Fixed;
use crate::limits::STRING_BYTES_MAX;

/// Writes a message body at the end of a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    buffer: &'a mut BytesMut,
}

macro_rules! integers {
    ($($(#[$meta:meta])* $name:ident: $type:ty;)*) => {
        $($(#[$meta])*
        #[inline]
        pub fn $name(&mut self, value: $type) {
            self.bytes(&value.to_le_bytes());
        })*
    };
}

impl<'a> Writer<'a> {
    /// Appends to `buffer`, which may hold bytes already.
    #[inline]
    pub const fn new(buffer: &'a mut BytesMut) -> Self {
        Self { buffer }
    }

    /// Writes bytes as they are: a structure of fixed size is fastest put together in an array and written at once.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Makes room for a structure of `N` bytes, to be filled field by field.
    #[inline]
    pub(crate) fn fixed<const N: usize>(&mut self) -> Fixed<'_, N> {
        self.buffer.extend_from_slice(&[0; N]);
        match self.buffer.last_chunk_mut() {
            Some(slot) => Fixed::new(slot),
            None => unreachable!("{N} bytes were just written"),
        }
    }

    integers! {
        /// Writes one byte.
        u8: u8;
        /// Writes 2 bytes, little-endian.
        u16: u16;
        /// Writes 4 bytes, little-endian.
        u32: u32;
        /// Writes 8 bytes, little-endian.
        u64: u64;
        /// Writes 2 bytes, little-endian, two's complement.
        i16: i16;
        /// Writes 4 bytes, little-endian, two's complement.
        i32: i32;
        /// Writes 8 bytes, little-endian, two's complement.
        i64: i64;
    }

    /// Writes 0 or 1.
    #[inline]
    pub fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    /// Writes a `u16` length and the text. A text above [`STRING_BYTES_MAX`] is written with a length that every
    /// receiver refuses, so it cannot arrive cut.
    pub fn string(&mut self, text: &str) {
        const LENGTH_MAX: u16 = u16::MAX - 1;
        let length = u16::try_from(text.len()).unwrap_or(LENGTH_MAX).min(LENGTH_MAX);
        self.u16(length);
        self.bytes(text.as_bytes().get(..usize::from(length)).unwrap_or_default());
    }

    /// Writes a string or its absence (length 0xFFFF). Mostly it is absent, which costs no call.
    #[inline]
    pub fn opt_string(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.string(text),
            None => self.u16(u16::MAX),
        }
    }

    /// Writes prose for a human, cut to the limit at a character's edge: a long explanation is better shortened than
    /// refused.
    pub fn prose(&mut self, text: &str) {
        let mut end = text.len().min(STRING_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.string(text.get(..end).unwrap_or_default());
    }

    /// Writes an array's count. A count above 32 bits is written as `u32::MAX`, which every receiver refuses.
    #[inline]
    pub fn array_len(&mut self, count: usize) {
        self.length(count);
    }

    /// Writes a length in bytes as 32 bits; one that does not fit becomes `u32::MAX`, which every receiver refuses.
    #[inline]
    pub fn length(&mut self, bytes: usize) {
        self.u32(u32::try_from(bytes).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DecodeError, Reader};
    use super::*;

    #[test]
    fn prose_is_cut_between_characters() {
        let mut bytes = BytesMut::new();
        Writer::new(&mut bytes).prose(&"é".repeat(STRING_BYTES_MAX));
        assert_eq!(Reader::new(&bytes).str().map(str::len), Ok(STRING_BYTES_MAX));
        bytes.clear();
        Writer::new(&mut bytes).prose(&format!("x{}", "é".repeat(STRING_BYTES_MAX)));
        assert_eq!(Reader::new(&bytes).str().map(str::len), Ok(STRING_BYTES_MAX - 1));
    }

    #[test]
    fn a_text_over_the_limit_is_refused_and_never_arrives_cut() {
        for bytes in [STRING_BYTES_MAX + 1, 0xFFFE, 0xFFFF, 0x1_0000, 1 << 20] {
            let mut buffer = BytesMut::new();
            Writer::new(&mut buffer).string(&"x".repeat(bytes));
            assert_eq!(Reader::new(&buffer).opt_string(), Err(DecodeError::StringTooLong { bytes: bytes.min(0xFFFE) }));
        }
    }
}
