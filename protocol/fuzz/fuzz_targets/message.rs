//! Any body under any header: no panic, and what is read is written back and read again as the same.
//!
//! Input: API, flags, two bytes of body length (little-endian), body, payload. No checksum stands in the way.

#![no_main]

#[path = "../../tests/samples/mod.rs"]
mod samples;

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use streambus_protocol::frame::{Flags, Frame, FrameHeader};
use streambus_protocol::ids::CorrelationId;

fuzz_target!(|bytes: &[u8]| {
    let Some(([api, flags, low, high], rest)) = bytes.split_first_chunk() else { return };
    let Some(flags) = Flags::from_wire(u16::from(*flags)) else { return };
    let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
    let (body, payload) = rest.split_at(length);
    let header = FrameHeader { api: *api, version: 1, flags, correlation: CorrelationId::new(1), timeout_ms: 0 };
    let frame = Frame { header, body: Bytes::copy_from_slice(body), payload: BytesMut::from(payload) };
    if let Some(Ok(written)) = samples::read_any(frame) {
        let again =
            samples::read_any(samples::frame(&written)).expect("a known API").expect("what was written is read");
        assert_eq!(written, again);
    }
});
