//! Zstandard, expanded in one piece.
//!
//! A streaming decoder reserves the window a frame declares, up to 128 MiB for a few bytes of input. Expanding straight
//! into the output needs no window at all, because the output is the window; so that is what happens, into a buffer
//! that doubles up to the cap when it turns out too small.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;
use zstd::zstd_safe::{DCtx, get_error_name, get_frame_content_size};

use super::ReadFailure;

/// The level that Kafka's clients use when none is set.
const LEVEL: i32 = 3;
/// First guess of the expansion of a frame that does not say its size.
const EXPANSION_GUESS: usize = 6;
/// The smallest output tried.
const OUTPUT_BYTES_MIN: usize = 1024;

/// Appends `plain`, compressed, to `out`.
pub(super) fn compress(plain: &[u8], out: &mut BytesMut) -> io::Result<()> {
    out.put_slice(&zstd::bulk::compress(plain, LEVEL)?);
    Ok(())
}

/// Expands one or more frames to at most `bytes_max` bytes.
pub(super) fn decompress(compressed: &[u8], bytes_max: usize) -> Result<Bytes, ReadFailure> {
    let guess = compressed.len().saturating_mul(EXPANSION_GUESS).max(OUTPUT_BYTES_MIN);
    // A declared size is believed only up to the guess: it is free to declare.
    let declared = get_frame_content_size(compressed).ok().flatten().and_then(|size| usize::try_from(size).ok());
    let mut capacity = declared.unwrap_or(guess).clamp(1, guess).min(bytes_max);
    let mut context = DCtx::create();
    loop {
        let mut plain = Vec::with_capacity(capacity);
        match context.decompress(&mut plain, compressed) {
            Ok(_) if plain.len() <= bytes_max => return Ok(plain.into()),
            Ok(_) => return Err(ReadFailure::TooLarge { max: bytes_max }),
            Err(code) if !is_too_small(code) => {
                return Err(ReadFailure::Corrupt(io::Error::new(io::ErrorKind::InvalidData, get_error_name(code))));
            }
            Err(_) if capacity >= bytes_max => return Err(ReadFailure::TooLarge { max: bytes_max }),
            Err(_) => capacity = capacity.saturating_mul(4).min(bytes_max),
        }
    }
}

/// The library reports an error as its number, negated.
fn is_too_small(code: usize) -> bool {
    code == 0_usize.wrapping_sub(ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize)
}
