//! No hostile bytes make decoding reserve memory that has not arrived. Every allocation of this test binary is counted.

mod samples;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::{Bytes, BytesMut};
use samples::{Sample, read_any, samples};
use streambus_protocol::api::ApiKey;
use streambus_protocol::batch::{PlacedBatch, UnverifiedBatch};
use streambus_protocol::compression::{Compression, CompressionError};
use streambus_protocol::frame::{Flags, Frame, FrameDecoder, FrameHeader};
use streambus_protocol::ids::CorrelationId;
use streambus_protocol::limits::{BATCH_BYTES_MAX, FRAME_BYTES_MAX, READ_AHEAD_BYTES_MAX};

/// The system's allocator, and how much this thread has reserved through it.
struct Counting;

thread_local! {
    /// Bytes reserved now, and the most since it was last reset. Per thread, because tests run side by side.
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn reserved(bytes: usize) {
    // A thread that is ending has no counters any more, and nothing that is measured.
    let _ = NOW.try_with(|now| {
        now.set(now.get().saturating_add(bytes));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
    });
}

fn released(bytes: usize) {
    let _ = NOW.try_with(|now| now.set(now.get().saturating_sub(bytes)));
}

#[expect(unsafe_code, reason = "the only way to see what decoding reserves is to be the allocator")]
// SAFETY: every call goes to the system's allocator with the arguments it came with; the counters allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        reserved(layout.size());
        // SAFETY: the caller's promises are passed on unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        reserved(layout.size());
        // SAFETY: the caller's promises are passed on unchanged.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        released(layout.size());
        reserved(bytes);
        // SAFETY: the caller's promises are passed on unchanged.
        unsafe { System.realloc(pointer, layout, bytes) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        released(layout.size());
        // SAFETY: the caller's promises are passed on unchanged.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that was reserved at once during `work`, beyond what was reserved before it.
fn peak_of<T>(work: impl FnOnce() -> T) -> usize {
    let before = NOW.get();
    PEAK.set(before);
    let result = work();
    let peak = PEAK.get() - before;
    drop(result);
    peak
}

/// What decoding may reserve whatever the bytes say: a few small structures.
const CONSTANT: usize = 2 * 1024;

#[test]
fn the_counter_sees_what_is_reserved() {
    assert!(peak_of(|| vec![0_u8; 1 << 20]) >= 1 << 20);
    assert!(peak_of(|| Vec::<u64>::with_capacity(1000)) >= 8000);
    assert_eq!(peak_of(|| 7), 0);
}

/// Each four bytes of each body in turn say 2^32-1, or 1,000,000: whichever of them is a count, nothing is reserved for
/// it.
#[test]
fn no_declared_count_is_reserved_for() {
    for Sample { name, bytes } in samples() {
        let frame = samples::frame(&bytes);
        for declared in [u32::MAX, 1_000_000, 9_999] {
            for at in 0..frame.body.len().saturating_sub(3) {
                let mut body = frame.body.to_vec();
                body[at..at + 4].copy_from_slice(&declared.to_le_bytes());
                let hostile = Frame { body: body.into(), ..frame.clone() };
                let arrived = bytes.len();
                let peak = peak_of(|| read_any(hostile));
                assert!(peak <= 8 * arrived + CONSTANT, "{name}, {declared} at {at}: {peak} bytes for {arrived}");
            }
        }
    }
}

/// A body that is nothing but a count and as many bytes of zero: elements that do exist may be wider in memory than on
/// the wire, but only so much.
#[test]
fn real_elements_cost_a_bounded_multiple_of_their_bytes() {
    for api in ApiKey::ALL {
        for flags in [Flags::REQUEST, Flags::RESPONSE, Flags::PUSH] {
            for skipped in 0..64 {
                let mut body = vec![0; 40_000];
                body[skipped..skipped + 4].copy_from_slice(&1_000_u32.to_le_bytes());
                let header = FrameHeader {
                    api: api.to_wire(),
                    version: 1,
                    flags,
                    correlation: CorrelationId::new(1),
                    timeout_ms: 0,
                };
                let frame = Frame { header, body: body.into(), payload: BytesMut::new() };
                let peak = peak_of(|| read_any(frame));
                assert!(peak <= 8 * 40_000 + CONSTANT, "{api:?} {flags:?} at {skipped}: {peak} bytes");
            }
        }
    }
}

#[test]
fn no_declared_frame_size_is_reserved_for() {
    for length in [u32::MAX, i32::MAX as u32, (FRAME_BYTES_MAX - 4) as u32, 100_000] {
        let mut buffer = BytesMut::from(&length.to_le_bytes()[..]);
        let mut decoder = FrameDecoder::new(FRAME_BYTES_MAX);
        let peak = peak_of(|| {
            let reserve = decoder.read_reserve(&buffer);
            assert!(reserve <= READ_AHEAD_BYTES_MAX);
            let _ = decoder.declared_bytes(&buffer);
            let _ = decoder.decode(&mut buffer);
        });
        assert_eq!(peak, 0, "a length of {length}");
    }
}

/// Catches a small body that holds on to the buffer it came in: counting who holds it takes memory, and the buffer lives as
/// long as the message waits.
#[test]
fn taking_a_small_message_off_the_buffer_reserves_nothing() {
    let small = |bytes: &[u8]| {
        let frame = samples::frame(bytes);
        frame.body.len() <= 64 && frame.payload.is_empty()
    };
    let small: Vec<Sample> = samples().into_iter().filter(|sample| small(&sample.bytes)).collect();
    assert!(small.len() >= 10, "most requests are small");
    for Sample { name, bytes } in small {
        let mut buffer = BytesMut::from(&bytes[..]);
        let mut decoder = FrameDecoder::new(FRAME_BYTES_MAX);
        assert_eq!(peak_of(|| decoder.decode(&mut buffer)), 0, "{name}");
    }
}

/// A large frame that comes in small pieces costs what has come, not what was announced.
#[test]
fn a_slow_sender_costs_what_it_has_sent() {
    let mut decoder = FrameDecoder::new(FRAME_BYTES_MAX);
    let mut first = u32::try_from(FRAME_BYTES_MAX - 4).expect("32 bits").to_le_bytes().to_vec();
    first.resize(64, 0);
    let peak = peak_of(|| {
        let mut buffer = BytesMut::new();
        for piece in [&first[..], &[0; 1000], &[0; 1000]] {
            buffer.reserve(decoder.read_reserve(&buffer));
            buffer.extend_from_slice(piece);
            assert!(decoder.decode(&mut buffer).expect("no error yet").is_none());
        }
    });
    assert!(peak <= READ_AHEAD_BYTES_MAX + 2 * CONSTANT, "{peak} bytes for 2,064");
}

/// A batch's header claims a million records, a header two billion bytes of key, and so on.
#[test]
fn no_number_in_a_batch_is_reserved_for() {
    let sound = samples::batch_bytes(Compression::None, None);
    for at in 8..sound.len() - 4 {
        for hostile in [[0x7F, 0xFF, 0xFF, 0xFF], [0, 0x0F, 0x42, 0x3F], [0xFE, 0xFF, 0xFF, 0x0F]] {
            let mut bytes = sound.to_vec();
            bytes[12..16].fill(0);
            bytes[at..at + 4].copy_from_slice(&hostile);
            if !(17..21).contains(&at) {
                let crc = crc32c::crc32c(&bytes[21..]);
                bytes[17..21].copy_from_slice(&crc.to_be_bytes());
            }
            let bytes = Bytes::from(bytes);
            let peak = peak_of(|| {
                let _ = UnverifiedBatch::from_shared(bytes.clone()).verify(BATCH_BYTES_MAX);
                if let Ok(batch) = PlacedBatch::verify_stored(bytes.clone()) {
                    let _ = batch.check_records(1 << 20);
                    let _ = batch.records(1 << 20).map(Iterator::count);
                }
            });
            assert!(peak <= 8 * bytes.len() + CONSTANT, "{hostile:?} at {at}: {peak} bytes");
        }
    }
}

/// What a codec's decoder keeps for itself: windows and blocks, however small its output is.
const fn decoder_bytes(codec: Compression) -> usize {
    match codec {
        Compression::None | Compression::Snappy | Compression::Lz4 | Compression::Zstd => 0,
        Compression::Gzip => 80 * 1024,
    }
}

#[test]
fn a_bomb_is_refused_within_the_cap() {
    const CAP: usize = 100_000;
    let bomb = vec![0; 64 << 20];
    for codec in Compression::ALL {
        let mut compressed = BytesMut::new();
        codec.compress(&bomb, &mut compressed).expect("compressing works");
        let compressed = compressed.freeze();
        let peak = peak_of(|| {
            let refused = codec.decompress(&compressed, CAP);
            assert!(matches!(refused, Err(CompressionError::TooLarge { max: CAP })), "{codec}: {refused:?}");
        });
        let allowed = CAP + decoder_bytes(codec) + CONSTANT;
        assert!(peak <= allowed, "{codec}: {peak} bytes for a cap of {CAP}, allowed are {allowed}");
    }
}

/// Output of exactly the cap passes, one byte more does not: for each codec, at sizes around its block's.
#[test]
fn the_cap_is_exact() {
    for codec in Compression::ALL {
        for size in [0, 1, 1023, 1024, 1025, 32 * 1024, 32 * 1024 + 1, 65_536, 65_537, 300_000] {
            let plain = vec![7; size];
            let mut compressed = BytesMut::new();
            codec.compress(&plain, &mut compressed).expect("compressing works");
            let compressed = compressed.freeze();
            assert_eq!(codec.decompress(&compressed, size).expect("at the cap"), plain, "{codec} {size}");
            assert_eq!(codec.decompress(&compressed, size + 1).expect("below the cap"), plain, "{codec} {size}");
            if size > 0 {
                let refused = codec.decompress(&compressed, size - 1);
                assert!(matches!(refused, Err(CompressionError::TooLarge { .. })), "{codec} {size}: {refused:?}");
            }
        }
    }
}

/// Headers that declare an expanded size of gigabytes in front of a few bytes.
#[test]
fn no_declared_expanded_size_is_reserved_for() {
    const CAP: usize = 64 << 20;
    // Raw snappy: a varint of 60 MiB, then one literal.
    let snappy = [0x80, 0x80, 0x80, 0x1E, 0, 7];
    // A zstd frame of one segment with a content size of 60 MiB in eight bytes, then an empty last block.
    let mut zstd = vec![0x28, 0xB5, 0x2F, 0xFD, 0xE0];
    zstd.extend_from_slice(&(60_u64 << 20).to_le_bytes());
    zstd.extend_from_slice(&[1, 0, 0]);
    for (codec, bytes) in [(Compression::Snappy, snappy.to_vec()), (Compression::Zstd, zstd)] {
        let bytes = Bytes::from(bytes);
        let peak = peak_of(|| {
            let refused = codec.decompress(&bytes, CAP);
            assert!(matches!(refused, Err(CompressionError::Corrupt { .. })), "{codec}: {refused:?}");
        });
        assert!(peak <= CONSTANT, "{codec}: {peak} bytes for {}", bytes.len());
    }
    // An LZ4 frame that declares blocks of 4 MiB and a content of 4 GiB, and has no block.
    let mut lz4 = vec![0x04, 0x22, 0x4D, 0x18, 0x68, 0x70];
    lz4.extend_from_slice(&(4_u64 << 30).to_le_bytes());
    lz4.extend_from_slice(&[0, 0, 0, 0, 0]);
    let lz4 = Bytes::from(lz4);
    let peak = peak_of(|| assert!(Compression::Lz4.decompress(&lz4, CAP).is_ok_and(|plain| plain.is_empty())));
    assert!(peak <= CONSTANT, "lz4: {peak} bytes for {}", lz4.len());
}
