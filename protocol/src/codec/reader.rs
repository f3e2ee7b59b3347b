//! A cursor over bytes that have arrived, which refuses whatever they do not contain.

use crate::ids::{IdError, TopicName};
use crate::limits::STRING_BYTES_MAX;

/// Why a message body does not decode. The answer is always the same: refuse the message, it means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A field reaches past the end of the body.
    #[error("a field needs {needed} bytes and {remaining} remain in the body")]
    Truncated {
        /// Bytes the field needs.
        needed: usize,
        /// Bytes that are left.
        remaining: usize,
    },
    /// Bytes follow the last field of the body.
    #[error("{bytes} bytes follow the last field of the body")]
    TrailingBytes {
        /// How many.
        bytes: usize,
    },
    /// The payload is longer than the lengths in the body say.
    #[error("{bytes} payload bytes belong to no field of the body")]
    TrailingPayload {
        /// How many.
        bytes: usize,
    },
    /// A length in the body reaches past the end of the payload.
    #[error("the body names {needed} payload bytes and {remaining} remain")]
    PayloadTooShort {
        /// Bytes the body names.
        needed: usize,
        /// Bytes that are left.
        remaining: usize,
    },
    /// An array's count is above its limit or above what the remaining bytes can hold.
    #[error("an array declares {count} elements, at most {max} are possible here")]
    TooManyElements {
        /// The declared count.
        count: u32,
        /// The smaller of the limit and what the remaining bytes can hold.
        max: usize,
    },
    /// A string's length is above the limit.
    #[error("a string declares {bytes} bytes, at most {STRING_BYTES_MAX} are allowed")]
    StringTooLong {
        /// The declared length.
        bytes: usize,
    },
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// A map's keys are not in strictly ascending order.
    #[error("the keys of a map are not in strictly ascending order")]
    UnorderedKeys,
    /// A topic name breaks the naming rule.
    #[error(transparent)]
    TopicName(#[from] IdError),
    /// A number has no meaning in its field.
    #[error("{value} is no {field}")]
    Invalid {
        /// What the field is.
        field: &'static str,
        /// The number read.
        value: u64,
    },
    /// The frame carries another API's message than the one asked for.
    #[error("the frame carries API {found}, expected was {expected}")]
    WrongApi {
        /// The frame's API number.
        found: u8,
        /// The number of the API asked for.
        expected: u8,
    },
    /// The frame's API version is not one this crate reads.
    #[error("version {version} of API {api} is not supported")]
    UnsupportedVersion {
        /// The frame's API number.
        api: u8,
        /// The frame's API version.
        version: u8,
    },
}

/// A cursor over a message body. Every read returns what is there or an error, and never reserves memory.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

macro_rules! integers {
    ($($(#[$meta:meta])* $name:ident: $type:ty;)*) => {
        $($(#[$meta])*
        #[inline]
        pub fn $name(&mut self) -> Result<$type, DecodeError> {
            self.fixed().map(|bytes| <$type>::from_le_bytes(*bytes))
        })*
    };
}

impl<'a> Reader<'a> {
    /// Reads from the start of `body`.
    #[inline]
    pub const fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// Bytes not read yet.
    #[inline]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Takes the next `N` bytes at once: the fast way to read a structure of fixed size.
    #[inline]
    pub fn fixed<const N: usize>(&mut self) -> Result<&'a [u8; N], DecodeError> {
        match self.rest.split_first_chunk::<N>() {
            Some((chunk, rest)) => {
                self.rest = rest;
                Ok(chunk)
            }
            None => Err(self.truncated(N)),
        }
    }

    /// Takes the next `count` bytes.
    #[inline]
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(count) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.truncated(count)),
        }
    }

    integers! {
        /// Reads one byte.
        u8: u8;
        /// Reads 2 bytes, little-endian.
        u16: u16;
        /// Reads 4 bytes, little-endian.
        u32: u32;
        /// Reads 8 bytes, little-endian.
        u64: u64;
        /// Reads 2 bytes, little-endian, two's complement.
        i16: i16;
        /// Reads 4 bytes, little-endian, two's complement.
        i32: i32;
        /// Reads 8 bytes, little-endian, two's complement.
        i64: i64;
    }

    /// Reads a byte that must be 0 or 1.
    #[inline]
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::Invalid { field: "boolean", value: u64::from(other) }),
        }
    }

    /// Reads a `u16` length and that many bytes of UTF-8.
    #[inline]
    pub fn str(&mut self) -> Result<&'a str, DecodeError> {
        let length = self.u16()?;
        self.text(length)
    }

    /// Reads a string into its own memory.
    pub fn string(&mut self) -> Result<String, DecodeError> {
        self.str().map(str::to_owned)
    }

    /// Reads a string or its absence (length 0xFFFF). Mostly it is absent, which costs no call.
    #[inline]
    pub fn opt_string(&mut self) -> Result<Option<String>, DecodeError> {
        match self.u16()? {
            u16::MAX => Ok(None),
            length => self.text(length).map(|text| Some(text.to_owned())),
        }
    }

    /// Reads a topic name.
    pub fn topic_name(&mut self) -> Result<TopicName, DecodeError> {
        Ok(TopicName::new(self.str()?)?)
    }

    /// Reads an array's count. Refuses one above `max`, or one whose elements of at least `min_element_bytes` each
    /// cannot all be in the bytes that remain.
    #[inline]
    pub fn array_len(&mut self, min_element_bytes: usize, max: usize) -> Result<usize, DecodeError> {
        let count = self.u32()?;
        let max = max.min(self.rest.len() / min_element_bytes.max(1));
        match usize::try_from(count) {
            Ok(len) if len <= max => Ok(len),
            _ => Err(DecodeError::TooManyElements { count, max }),
        }
    }

    /// An empty vector for `count` elements to come. Its capacity is bounded by the bytes that remain, not by `count`:
    /// an element may be wider in memory than on the wire, and then the vector grows with what really decodes.
    #[inline]
    pub fn vec_for<T>(&self, count: usize) -> Vec<T> {
        Vec::with_capacity(count.min(self.rest.len() / size_of::<T>().max(1) + 1))
    }

    /// Ends reading; refuses bytes that no field claimed.
    #[inline]
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes { bytes: self.rest.len() }) }
    }

    fn text(&mut self, length: u16) -> Result<&'a str, DecodeError> {
        let length = usize::from(length);
        if length > STRING_BYTES_MAX {
            return Err(DecodeError::StringTooLong { bytes: length });
        }
        std::str::from_utf8(self.bytes(length)?).map_err(|_| DecodeError::NotUtf8)
    }

    #[cold]
    fn truncated(&self, needed: usize) -> DecodeError {
        DecodeError::Truncated { needed, remaining: self.rest.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_refused_before_its_elements_are_looked_for() {
        let mut reader = Reader::new(&[0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3]);
        assert_eq!(reader.array_len(1, 100), Err(DecodeError::TooManyElements { count: u32::MAX, max: 3 }));
        let mut reader = Reader::new(&[4, 0, 0, 0, 1, 2, 3]);
        assert_eq!(reader.array_len(0, 100), Err(DecodeError::TooManyElements { count: 4, max: 3 }));
        let mut reader = Reader::new(&[3, 0, 0, 0, 1, 2, 3]);
        assert_eq!(reader.array_len(1, 100), Ok(3));
        let mut reader = Reader::new(&[3, 0, 0, 0, 1, 2, 3]);
        assert_eq!(reader.array_len(1, 2), Err(DecodeError::TooManyElements { count: 3, max: 2 }));
    }

    #[test]
    fn a_string_is_bounded_by_the_limit_and_by_what_is_there() {
        assert_eq!(Reader::new(&[2, 0, b'h', b'i']).str(), Ok("hi"));
        assert_eq!(Reader::new(&[3, 0, b'h', b'i']).str(), Err(DecodeError::Truncated { needed: 3, remaining: 2 }));
        assert_eq!(Reader::new(&[1, 0, 0xFF]).str(), Err(DecodeError::NotUtf8));
        assert_eq!(Reader::new(&[1, 0x80]).str(), Err(DecodeError::StringTooLong { bytes: 0x8001 }));
        assert_eq!(Reader::new(&[0xFF, 0xFF]).opt_string(), Ok(None));
        assert_eq!(Reader::new(&[0xFF, 0xFF]).str(), Err(DecodeError::StringTooLong { bytes: 0xFFFF }));
    }

    #[test]
    fn what_no_field_claimed_is_refused() {
        let mut reader = Reader::new(&[1, 9]);
        assert_eq!(reader.bool(), Ok(true));
        assert_eq!(reader.clone().bool(), Err(DecodeError::Invalid { field: "boolean", value: 9 }));
        assert_eq!(reader.finish(), Err(DecodeError::TrailingBytes { bytes: 1 }));
    }
}
