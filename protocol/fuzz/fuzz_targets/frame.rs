//! A stream of bytes, in reads of changing size, through the frame decoder and whatever message each frame claims to be.

#![no_main]

#[path = "../../tests/samples/mod.rs"]
mod samples;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use streambus_protocol::frame::FrameDecoder;
use streambus_protocol::limits::{FRAME_BYTES_MAX, READ_AHEAD_BYTES_MAX};

fuzz_target!(|bytes: &[u8]| {
    let mut decoder = FrameDecoder::new(FRAME_BYTES_MAX);
    let mut buffer = BytesMut::new();
    let step = bytes.first().map_or(1, |first| usize::from(*first) + 1);
    for piece in bytes.chunks(step) {
        let reserve = decoder.read_reserve(&buffer);
        assert!(reserve <= READ_AHEAD_BYTES_MAX);
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => drop(samples::read_any(frame)),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
});
