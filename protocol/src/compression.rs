//! The four codecs of the record batch, and reading them without trusting what they expand to.
//!
//! Framing is Kafka's, so that any Kafka client reads it: gzip as is, snappy in Xerial's blocks (raw accepted), the LZ4
//! frame format, zstd frames. Decompression stops at a cap: memory follows what has really been expanded, not what the
//! compressed bytes declare.

mod lz4;
mod snappy;
mod zstandard;

use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;

use bytes::{BufMut, Bytes, BytesMut};

/// How the records of a batch are compressed. The numbers are the batch format's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Compression {
    /// Not at all.
    #[default]
    None = 0,
    /// RFC 1952.
    Gzip = 1,
    /// Snappy in Xerial's framing.
    Snappy = 2,
    /// The LZ4 frame format.
    Lz4 = 3,
    /// RFC 8878.
    Zstd = 4,
}

/// Why bytes cannot be compressed or expanded.
#[derive(Debug, thiserror::Error)]
pub enum CompressionError {
    /// The expanded bytes would be more than allowed.
    #[error("the records expand to more than the {max} bytes allowed")]
    TooLarge {
        /// The cap in force.
        max: usize,
    },
    /// The bytes are not what the codec writes.
    #[error("the records are no valid {codec} data")]
    Corrupt {
        /// The codec.
        codec: Compression,
        /// What the codec's decoder found.
        #[source]
        source: std::io::Error,
    },
    /// The codec failed to compress.
    #[error("compressing with {codec} failed")]
    Failed {
        /// The codec.
        codec: Compression,
        /// What the codec's encoder said.
        #[source]
        source: std::io::Error,
    },
}

impl Compression {
    /// Every codec, in numeric order.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// Reads the batch format's number; `None` for one that means nothing.
    pub const fn from_wire(codec: u8) -> Option<Self> {
        match codec {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The batch format's number.
    pub const fn to_wire(self) -> u8 {
        self as u8
    }

    /// The codec's name, as configuration and JSON have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Appends `plain`, compressed, to `out`.
    pub fn compress(self, plain: &[u8], out: &mut BytesMut) -> Result<(), CompressionError> {
        let failed = |source| CompressionError::Failed { codec: self, source };
        match self {
            Self::None => out.extend_from_slice(plain),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(out.writer(), flate2::Compression::default());
                encoder.write_all(plain).and_then(|()| encoder.finish().map(drop)).map_err(failed)?;
            }
            Self::Snappy => snappy::compress(plain, out).map_err(|e| failed(e.into()))?,
            Self::Lz4 => lz4::compress(plain, out).map_err(failed)?,
            Self::Zstd => zstandard::compress(plain, out).map_err(failed)?,
        }
        Ok(())
    }

    /// Expands `compressed` to at most `bytes_max` bytes. Without compression that is a slice, no copy.
    ///
    /// Fails with `TooLarge` when there would be more, and with `Corrupt` when the codec does not understand the bytes.
    pub fn decompress(self, compressed: &Bytes, bytes_max: usize) -> Result<Bytes, CompressionError> {
        let corrupt = |source| CompressionError::Corrupt { codec: self, source };
        match self {
            Self::None if compressed.len() > bytes_max => Err(CompressionError::TooLarge { max: bytes_max }),
            Self::None => Ok(compressed.clone()),
            Self::Gzip => read_capped(flate2::read::MultiGzDecoder::new(&**compressed), compressed.len(), bytes_max)
                .map_err(|e| e.or(corrupt)),
            Self::Lz4 => lz4::decompress(compressed, bytes_max).map_err(|e| e.or(corrupt)),
            Self::Snappy => snappy::decompress(compressed, bytes_max).map_err(|e| e.or(corrupt)),
            Self::Zstd => zstandard::decompress(compressed, bytes_max).map_err(|e| e.or(corrupt)),
        }
    }
}

/// What a codec's reading can end with, before it is known whose it was.
enum ReadFailure {
    TooLarge { max: usize },
    Corrupt(std::io::Error),
}

impl ReadFailure {
    fn or(self, corrupt: impl FnOnce(std::io::Error) -> CompressionError) -> CompressionError {
        match self {
            Self::TooLarge { max } => CompressionError::TooLarge { max },
            Self::Corrupt(source) => corrupt(source),
        }
    }
}

/// Reads to the end or to the cap. The buffer starts at a few times what arrived and doubles with what is really read.
fn read_capped(mut source: impl Read, compressed_bytes: usize, bytes_max: usize) -> Result<Bytes, ReadFailure> {
    /// Text compresses about this well; a better guess would only save a copy.
    const EXPANSION_GUESS: usize = 4;
    /// Read at once, so that a small batch is read in one go.
    const STEP_BYTES_MIN: usize = 1024;

    let guess = compressed_bytes.saturating_mul(EXPANSION_GUESS).max(STEP_BYTES_MIN);
    let mut plain = vec![0; guess.min(bytes_max)];
    let mut filled = 0;
    loop {
        let Some(room) = plain.get_mut(filled..).filter(|room| !room.is_empty()) else {
            if plain.len() == bytes_max {
                // Full: the one byte more that would be too much is looked for outside.
                let mut one_more = [0; 1];
                return match read_some(&mut source, &mut one_more)? {
                    0 => Ok(Bytes::from(plain)),
                    _ => Err(ReadFailure::TooLarge { max: bytes_max }),
                };
            }
            let doubled = plain.len().saturating_mul(2).max(STEP_BYTES_MIN).min(bytes_max);
            plain.resize(doubled, 0);
            continue;
        };
        match read_some(&mut source, room)? {
            0 => break,
            count => filled += count,
        }
    }
    plain.truncate(filled);
    Ok(Bytes::from(plain))
}

/// Makes room for `more` bytes in `plain`, which never gets more than `bytes_max`. The vector's own doubling would
/// overshoot the cap.
fn grow(plain: &mut Vec<u8>, more: usize, bytes_max: usize) -> Result<(), ReadFailure> {
    let needed = plain.len().saturating_add(more);
    if needed > bytes_max {
        return Err(ReadFailure::TooLarge { max: bytes_max });
    }
    if needed > plain.capacity() {
        let target = plain.capacity().saturating_mul(2).clamp(needed, bytes_max);
        plain.reserve_exact(target - plain.len());
    }
    Ok(())
}

fn read_some(source: &mut impl Read, room: &mut [u8]) -> Result<usize, ReadFailure> {
    loop {
        match source.read(room) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            result => return result.map_err(ReadFailure::Corrupt),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no codec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no compression: use none, gzip, snappy, lz4 or zstd")]
pub struct UnknownCompression(String);

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(text: &str) -> Result<Self, UnknownCompression> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.as_str() == text)
            .ok_or_else(|| UnknownCompression(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Vec<u8> {
        (0..20_000_u32).flat_map(|i| format!("record {} of many; ", i % 97).into_bytes()).collect()
    }

    fn compressed(codec: Compression, plain: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::from(&b"kept"[..]);
        codec.compress(plain, &mut out).expect("compressing works");
        assert_eq!(&out[..4], b"kept", "{codec} must append");
        out[4..].to_vec()
    }

    #[test]
    fn every_codec_expands_what_it_compressed_and_really_compresses() {
        for codec in Compression::ALL {
            let small = compressed(codec, &text());
            assert!(codec == Compression::None || small.len() * 4 < text().len(), "{codec}: {} bytes", small.len());
            assert_eq!(codec.decompress(&small.into(), 1 << 20).expect("valid"), text(), "{codec}");
        }
    }

    /// Members, blocks or frames one after the other are one stream in each of these formats.
    #[test]
    fn streams_back_to_back_are_read_as_one() {
        for codec in [Compression::Gzip, Compression::Lz4, Compression::Zstd] {
            let twice = [compressed(codec, b"first "), compressed(codec, b"second")].concat();
            assert_eq!(codec.decompress(&twice.into(), 100).expect("valid"), &b"first second"[..], "{codec}");
        }
    }

    #[test]
    fn snappy_has_xerials_framing_and_one_raw_block_is_read_too() {
        let framed = compressed(Compression::Snappy, b"hello hello hello");
        assert_eq!(framed[..16], *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01");
        assert_eq!(u32::from_be_bytes([framed[16], framed[17], framed[18], framed[19]]) as usize, framed.len() - 20);
        let raw = Bytes::copy_from_slice(&framed[20..]);
        assert_eq!(Compression::Snappy.decompress(&raw, 100).expect("valid"), &b"hello hello hello"[..]);
    }

    #[test]
    fn names_are_read_as_they_are_shown() {
        for codec in Compression::ALL {
            assert_eq!(codec.to_string().parse(), Ok(codec));
            assert_eq!(Compression::from_wire(codec.to_wire()), Some(codec));
        }
        assert_eq!(Compression::from_wire(5), None);
        assert!("brotli".parse::<Compression>().expect_err("no codec").to_string().contains("zstd"));
    }
}
