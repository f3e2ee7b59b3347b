//! Snappy in the framing of the Xerial Java library, which Kafka's clients use: a magic, two version numbers, then blocks
//! of a big-endian length and raw snappy data. Some clients write one raw block without framing; that is read too.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

use super::{ReadFailure, grow};

const MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
/// The framing's version and the oldest version that can read it.
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
/// Plain bytes in a block, as Xerial's library cuts them.
const BLOCK_BYTES: usize = 32 * 1024;
/// The most that snappy can expand: a copy of 64 bytes takes 3. A block that declares more is corrupt, and nothing is
/// reserved for it.
const EXPANSION_MAX: usize = 22;
/// Room for what a very short block may declare beyond [`EXPANSION_MAX`].
const EXPANSION_SLACK: usize = 64;

/// Appends `plain` in framed blocks to `out`.
pub(super) fn compress(plain: &[u8], out: &mut BytesMut) -> Result<(), snap::Error> {
    out.extend_from_slice(&MAGIC);
    out.put_u32(VERSION);
    out.put_u32(VERSION);
    let mut encoder = Encoder::new();
    let mut block = vec![0; max_compress_len(plain.len().min(BLOCK_BYTES))];
    for chunk in plain.chunks(BLOCK_BYTES) {
        let length = encoder.compress(chunk, &mut block)?;
        let compressed = block.get(..length).unwrap_or_default();
        out.put_u32(u32::try_from(length).map_err(|_| snap::Error::TooBig { given: u64::MAX, max: u64::MAX })?);
        out.extend_from_slice(compressed);
    }
    Ok(())
}

/// Expands framed blocks, or one raw block, to at most `bytes_max` bytes.
pub(super) fn decompress(compressed: &[u8], bytes_max: usize) -> Result<Bytes, ReadFailure> {
    let mut plain = Vec::new();
    if !compressed.starts_with(&MAGIC) {
        append_block(compressed, &mut plain, bytes_max)?;
        return Ok(plain.into());
    }
    let mut rest = compressed.get(HEADER_BYTES..).ok_or_else(|| corrupt("the framing ends within its header"))?;
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(|| corrupt("a block's length is cut"))?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (block, after) = after.split_at_checked(length).ok_or_else(|| corrupt("a block is cut"))?;
        append_block(block, &mut plain, bytes_max)?;
        rest = after;
    }
    Ok(plain.into())
}

fn append_block(block: &[u8], plain: &mut Vec<u8>, bytes_max: usize) -> Result<(), ReadFailure> {
    let declared = decompress_len(block).map_err(|e| ReadFailure::Corrupt(e.into()))?;
    let start = plain.len();
    if declared > block.len().saturating_mul(EXPANSION_MAX).saturating_add(EXPANSION_SLACK) {
        return Err(corrupt("a block declares more than snappy can expand"));
    }
    grow(plain, declared, bytes_max)?;
    plain.resize(start + declared, 0);
    let written = Decoder::new()
        .decompress(block, plain.get_mut(start..).unwrap_or_default())
        .map_err(|e| ReadFailure::Corrupt(e.into()))?;
    debug_assert_eq!(written, declared);
    Ok(())
}

fn corrupt(reason: &'static str) -> ReadFailure {
    ReadFailure::Corrupt(io::Error::new(io::ErrorKind::InvalidData, reason))
}
