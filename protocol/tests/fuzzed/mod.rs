//! What the fuzz targets do with one input: here, so that a stable toolchain compiles it and replays the corpus with it.
//!
//! Each function panics when what it asserts does not hold, and says whether the input made sense, for seeds must.

use bytes::{Bytes, BytesMut};
use streambus_protocol::batch::{PlacedBatch, UnverifiedBatch, batches};
use streambus_protocol::frame::{Flags, Frame, FrameDecoder, FrameHeader};
use streambus_protocol::ids::CorrelationId;
use streambus_protocol::limits::{BATCH_BYTES_MAX, FRAME_BYTES_MAX, READ_AHEAD_BYTES_MAX};

use crate::samples;

/// What a batch's records may expand to.
const EXPANDED_MAX: usize = 1 << 20;

/// A stream of bytes, in reads of changing size, through the frame decoder and whatever message each frame claims to be.
/// Returns how many messages it held.
pub(crate) fn frame(bytes: &[u8]) -> usize {
    let mut decoder = FrameDecoder::new(FRAME_BYTES_MAX);
    let mut buffer = BytesMut::new();
    let mut messages = 0;
    let step = bytes.first().map_or(1, |first| usize::from(*first) + 1);
    for piece in bytes.chunks(step) {
        let reserve = decoder.read_reserve(&buffer);
        assert!(reserve <= READ_AHEAD_BYTES_MAX);
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => messages += usize::from(matches!(samples::read_any(frame), Some(Ok(_)))),
                Ok(None) => break,
                Err(_) => return messages,
            }
        }
    }
    messages
}

/// Any body under any header: no panic, and what is read is written back and read again as the same. True when it was read.
///
/// Input: API, flags, two bytes of body length (little-endian), body, payload. No checksum stands in the way.
pub(crate) fn message(bytes: &[u8]) -> bool {
    let Some(([api, flags, low, high], rest)) = bytes.split_first_chunk() else { return false };
    let Some(flags) = Flags::from_wire(u16::from(*flags)) else { return false };
    let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
    let (body, payload) = rest.split_at(length);
    let header = FrameHeader { api: *api, version: 1, flags, correlation: CorrelationId::new(1), timeout_ms: 0 };
    let frame = Frame { header, body: body.to_vec().into(), payload: BytesMut::from(payload) };
    let Some(Ok(written)) = samples::read_any(frame) else { return false };
    let again = samples::read_any(samples::frame(&written)).expect("a known API").expect("what was written is read");
    assert_eq!(written, again);
    true
}

/// Bytes as stored batches, and, with length, place and checksum made right, as a client's batch and as records of every
/// codec. True when the records were read.
pub(crate) fn batch(bytes: &[u8]) -> bool {
    let _ = batches(Bytes::copy_from_slice(bytes)).count();
    let mut bytes = BytesMut::from(bytes);
    if bytes.len() > 61 {
        let length = i32::try_from(bytes.len() - 12).expect("a small input");
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[16] = 2;
        // A place in a log, or nothing behind it is ever looked at: no negative base offset, no negative leader epoch.
        bytes[0] &= 0x7f;
        bytes[12] &= 0x7f;
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    if let Ok(batch) = UnverifiedBatch::new(bytes.clone()).verify(BATCH_BYTES_MAX) {
        let _ = batch.check_records(EXPANDED_MAX);
    }
    let Ok(batch) = PlacedBatch::verify_stored(bytes.freeze()) else { return false };
    let whole = batch.check_records(EXPANDED_MAX).is_ok();
    let read = batch.records(EXPANDED_MAX).is_ok_and(|mut records| records.all(|record| record.is_ok()));
    assert_eq!(whole, read, "checking and reading must agree");
    read
}
