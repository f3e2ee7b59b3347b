//! LZ4 frames that another implementation wrote: `lz4` 1.9.4, the reference implementation's command, with the options
//! named below. Checksums inside a frame are not judged here: a batch has one of its own over all of it. What our own
//! encoder writes was read back by the same command (see `an_own_frame_for_the_command`).

use std::path::Path;

use bytes::Bytes;
use streambus_protocol::compression::Compression;

fn short() -> Vec<u8> {
    (0..12_u32).flat_map(|i| format!("{:05}:offset, watermark;", i * i % 977).into_bytes()).collect()
}

fn long() -> Vec<u8> {
    (0..150_000_u32).map(|i| u8::try_from(i / 3_001 % 251).expect("small")).collect()
}

fn from_hex(text: &str) -> Bytes {
    text.split_whitespace().map(|pair| u8::from_str_radix(pair, 16).expect("two hexadecimal digits")).collect()
}

// Catches a reader that only understands what its own writer writes.
#[test]
fn frames_of_the_reference_implementation_are_read() {
    for (options, frame, plain) in [
        ("none: a content checksum", include_str!("lz4/short.hex"), short()),
        ("-BX --content-size: block checksums, a declared size", include_str!("lz4/short_checked.hex"), short()),
        ("-B4 -BD -BX: blocks of 64 KiB that refer to the one before", include_str!("lz4/long_linked.hex"), long()),
    ] {
        let frame = from_hex(frame);
        let read = Compression::Lz4.decompress(&frame, plain.len()).expect(options);
        assert!(read == plain, "{options}: other bytes");
    }
}

/// Writes a frame of our own for the command to read: `STREAMBUS_LZ4_FRAME=file cargo test --release -p
/// streambus-protocol --test lz4`, then `lz4 -dc file`. Without the variable it only reads its frame back.
#[test]
fn an_own_frame_for_the_command() {
    let plain = long();
    let mut frame = bytes::BytesMut::new();
    Compression::Lz4.compress(&plain, &mut frame).expect("compresses");
    if let Some(path) = std::env::var_os("STREAMBUS_LZ4_FRAME") {
        std::fs::write(Path::new(&path), &frame).expect("written");
    }
    assert!(Compression::Lz4.decompress(&frame.freeze(), plain.len()).expect("reads") == plain);
}
