//! The LZ4 frame format, written by its library and read by hand.
//!
//! A frame declares blocks of up to 4 MiB, and a reader that believes it reserves several times that for a few bytes of
//! input. This one grows its output with what the blocks really hold. The frame's own checksums are skipped: the batch's
//! covers the same bytes.

use std::io::{self, Write};

use bytes::{BufMut, Bytes, BytesMut};
use lz4_flex::block::{DecompressError, decompress_into_with_dict};
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use super::{ReadFailure, grow};

const MAGIC: u32 = 0x184D_2204;
/// Sixteen magic numbers from this one on start a frame that readers skip.
const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;
/// The bits of the first descriptor byte.
const VERSION_MASK: u8 = 0b1100_0000;
const VERSION_1: u8 = 0b0100_0000;
const INDEPENDENT: u8 = 1 << 5;
const BLOCK_CHECKSUM: u8 = 1 << 4;
const CONTENT_SIZE: u8 = 1 << 3;
const CONTENT_CHECKSUM: u8 = 1 << 2;
const RESERVED_OR_DICTIONARY: u8 = 0b11;
/// In a block's length: the block is stored as it is.
const STORED: u32 = 1 << 31;
/// How far back a block may refer.
const WINDOW_BYTES: usize = 64 * 1024;
/// The most that LZ4 expands: a byte of length stands for 255.
const EXPANSION_MAX: usize = 255;
/// Room for what a very short block may hold beyond [`EXPANSION_MAX`].
const EXPANSION_SLACK: usize = 64;

/// Appends `plain` as one frame of independent blocks of 64 KiB, which is what Kafka's clients write and all of them
/// read, to `out`.
pub(super) fn compress(plain: &[u8], out: &mut BytesMut) -> io::Result<()> {
    let info = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, out.writer());
    encoder.write_all(plain)?;
    encoder.finish()?;
    Ok(())
}

/// Expands one or more frames to at most `bytes_max` bytes.
pub(super) fn decompress(compressed: &[u8], bytes_max: usize) -> Result<Bytes, ReadFailure> {
    let mut input = Input { rest: compressed };
    let mut plain = Vec::new();
    while !input.rest.is_empty() {
        match input.u32()? {
            MAGIC => read_frame(&mut input, &mut plain, bytes_max)?,
            magic if magic & !0xF == SKIPPABLE_MAGIC => {
                let length = input.u32()?;
                input.take(length)?;
            }
            _ => return Err(corrupt("no LZ4 frame starts here")),
        }
    }
    Ok(plain.into())
}

fn read_frame(input: &mut Input<'_>, plain: &mut Vec<u8>, bytes_max: usize) -> Result<(), ReadFailure> {
    let [flags, block_size] = *input.fixed::<2>()?;
    if flags & VERSION_MASK != VERSION_1 || flags & RESERVED_OR_DICTIONARY != 0 {
        return Err(corrupt("the frame has a version or a dictionary that is not supported"));
    }
    let block_bytes_max: usize = match block_size {
        0x40 => 64 << 10,
        0x50 => 256 << 10,
        0x60 => 1 << 20,
        0x70 => 4 << 20,
        _ => return Err(corrupt("the frame's block size means nothing")),
    };
    if flags & CONTENT_SIZE != 0 {
        input.fixed::<8>()?;
    }
    // The descriptor's checksum.
    input.fixed::<1>()?;
    let frame_start = plain.len();
    loop {
        let length = input.u32()?;
        if length == 0 {
            break;
        }
        let block = input.take(length & !STORED)?;
        if block.len() > block_bytes_max {
            return Err(corrupt("a block is larger than its frame allows"));
        }
        if length & STORED != 0 {
            grow(plain, block.len(), bytes_max)?;
            plain.extend_from_slice(block);
        } else {
            // Blocks that are not independent refer to what came before them in their frame.
            let window = if flags & INDEPENDENT == 0 { (plain.len() - frame_start).min(WINDOW_BYTES) } else { 0 };
            expand(block, plain, window, block_bytes_max, bytes_max)?;
        }
        if flags & BLOCK_CHECKSUM != 0 {
            input.fixed::<4>()?;
        }
    }
    if flags & CONTENT_CHECKSUM != 0 {
        input.fixed::<4>()?;
    }
    Ok(())
}

/// Appends what `block` holds to `plain`, of which the last `window` bytes may be referred to.
fn expand(
    block: &[u8],
    plain: &mut Vec<u8>,
    window: usize,
    block_bytes_max: usize,
    bytes_max: usize,
) -> Result<(), ReadFailure> {
    let start = plain.len();
    let possible = block_bytes_max.min(block.len().saturating_mul(EXPANSION_MAX).saturating_add(EXPANSION_SLACK));
    let room = possible.min(bytes_max.saturating_sub(start));
    grow(plain, room, bytes_max)?;
    plain.resize(start + room, 0);
    let (before, output) = plain.split_at_mut(start);
    let dictionary = before.get(start - window..).unwrap_or_default();
    match decompress_into_with_dict(block, output, dictionary) {
        Ok(written) => {
            plain.truncate(start + written);
            Ok(())
        }
        Err(DecompressError::OutputTooSmall { .. }) if room < possible => Err(ReadFailure::TooLarge { max: bytes_max }),
        Err(error) => Err(ReadFailure::Corrupt(io::Error::new(io::ErrorKind::InvalidData, error))),
    }
}

/// What is left of the compressed bytes.
struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn fixed<const N: usize>(&mut self) -> Result<&'a [u8; N], ReadFailure> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| corrupt("the frame is cut"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, ReadFailure> {
        self.fixed().map(|bytes| u32::from_le_bytes(*bytes))
    }

    fn take(&mut self, length: u32) -> Result<&'a [u8], ReadFailure> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(|| corrupt("a block is cut"))?;
        self.rest = rest;
        Ok(taken)
    }
}

fn corrupt(reason: &'static str) -> ReadFailure {
    ReadFailure::Corrupt(io::Error::new(io::ErrorKind::InvalidData, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other clients write linked blocks, checksums and larger blocks; the library writes them too.
    #[test]
    fn every_kind_of_frame_is_read() {
        let plain: Vec<u8> = (0..400_000_u32).flat_map(|i| (i / 7 % 1000).to_le_bytes()).collect();
        for mode in [BlockMode::Independent, BlockMode::Linked] {
            for size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB] {
                for (block_checksums, content_checksum, content_size) in
                    [(false, false, None), (true, true, Some(plain.len() as u64))]
                {
                    let info = FrameInfo::new()
                        .block_mode(mode)
                        .block_size(size)
                        .block_checksums(block_checksums)
                        .content_checksum(content_checksum)
                        .content_size(content_size);
                    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
                    encoder.write_all(&plain).expect("encodes");
                    let mut frame = encoder.finish().expect("encodes");
                    assert_eq!(decompress(&frame, plain.len()).ok().as_deref(), Some(&plain[..]), "{mode:?} {size:?}");
                    // A skippable frame and a second frame behind it.
                    frame.extend_from_slice(&[0x5A, 0x2A, 0x4D, 0x18, 2, 0, 0, 0, 9, 9]);
                    frame.extend_from_slice(&frame.clone());
                    assert_eq!(decompress(&frame, 2 * plain.len()).map(|p| p.len()).ok(), Some(2 * plain.len()));
                    assert!(decompress(&frame[..frame.len() - 11], 2 * plain.len()).is_err(), "cut");
                }
            }
        }
    }
}
