//! What a careless network or a hostile peer can do to a frame: cut it, flip a bit, or make it up.

mod samples;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use samples::{Sample, joined, read_any, samples};
use streambus_protocol::api::produce::ProduceRequest;
use streambus_protocol::api::{ApiKey, decode_body};
use streambus_protocol::batch::{PlacedBatch, UnverifiedBatch, batches};
use streambus_protocol::compression::Compression;
use streambus_protocol::frame::{Flags, Frame, FrameDecoder, FrameError, FrameHeader};
use streambus_protocol::ids::CorrelationId;
use streambus_protocol::limits::{BATCH_BYTES_MAX, FRAME_BYTES_MAX, FRAME_HEADER_BYTES};

fn decode(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
    FrameDecoder::new(FRAME_BYTES_MAX).decode(&mut BytesMut::from(bytes))
}

/// Where the checksummed part of a frame ends and the record bytes begin.
fn checked_bytes(frame: &[u8]) -> usize {
    FRAME_HEADER_BYTES + u32::from_le_bytes(frame[20..24].try_into().expect("four bytes")) as usize
}

#[test]
fn no_truncation_of_any_message_is_a_frame() {
    for Sample { name, bytes } in samples() {
        for end in 0..bytes.len() {
            assert!(matches!(decode(&bytes[..end]), Ok(None)), "{name} cut at {end}");
        }
    }
}

#[test]
fn every_flipped_bit_under_the_checksum_is_refused() {
    for Sample { name, bytes } in samples() {
        for bit in 0..checked_bytes(&bytes) * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // A larger length leaves the frame waiting for bytes; given those, it must be refused too.
            if matches!(decode(&flipped), Ok(None)) {
                let declared = u32::from_le_bytes(flipped[..4].try_into().expect("four bytes")) as usize + 4;
                flipped.resize(declared, 0);
            }
            assert!(decode(&flipped).is_err(), "{name} with bit {bit} flipped was accepted");
        }
    }
}

#[test]
fn a_flipped_bit_among_the_record_bytes_is_refused_by_the_batch() {
    let produce = samples().into_iter().find(|sample| sample.name == "produce_request").expect("a produce request");
    for bit in checked_bytes(&produce.bytes) * 8..produce.bytes.len() * 8 {
        let mut flipped = produce.bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let frame = decode(&flipped).expect("the frame itself is sound").expect("whole");
        let request = decode_body::<ProduceRequest>(frame).expect("the body is sound");
        let batch = request.partitions.into_iter().next().expect("one partition").batch;
        let at = bit / 8 - checked_bytes(&produce.bytes);
        // Base offset and leader epoch are the leader's to set and outside the checksum.
        let leaders_own = at < 8 || (12..16).contains(&at);
        assert_eq!(batch.verify(BATCH_BYTES_MAX).is_ok(), leaders_own, "bit {bit}, byte {at} of the batch");
    }
}

/// A body cut anywhere, under a checksum made right again: what a hostile peer sends, not what a network does.
#[test]
fn every_truncated_body_is_refused_and_so_is_every_body_with_a_byte_more() {
    for Sample { name, bytes } in samples() {
        let frame = samples::frame(&bytes);
        for end in 0..frame.body.len() {
            let cut = Frame { body: frame.body[..end].to_vec().into(), ..frame.clone() };
            assert!(read_any(cut).expect("a known API").is_err(), "{name} with a body cut at {end}");
        }
        let mut longer = frame.body.to_vec();
        longer.push(0);
        let longer = Frame { body: longer.into(), ..frame.clone() };
        assert!(read_any(longer).expect("a known API").is_err(), "{name} with a byte after its last field");
        let mut payload = frame.payload.clone();
        payload.extend_from_slice(b"x");
        let payload = Frame { payload, ..frame };
        assert!(read_any(payload).expect("a known API").is_err(), "{name} with a byte that no field claims");
    }
}

#[test]
fn no_flipped_bit_of_a_body_panics_and_what_is_read_is_written_back() {
    for Sample { name, bytes } in samples() {
        let frame = samples::frame(&bytes);
        for bit in 0..frame.body.len() * 8 {
            let mut body = frame.body.to_vec();
            body[bit / 8] ^= 1 << (bit % 8);
            let flipped = Frame { body: body.clone().into(), ..frame.clone() };
            if let Some(Ok(again)) = read_any(flipped) {
                let again = samples::frame(&again);
                // An unknown error code is read as another one on purpose.
                let reread = read_any(again.clone()).expect("a known API").expect("what was written is read");
                assert_eq!(samples::frame(&reread).body, again.body, "{name}, bit {bit}");
            }
        }
    }
}

#[test]
fn lengths_out_of_bounds_are_refused_before_the_rest_arrives() {
    let mut decoder = FrameDecoder::new(1000);
    let announced = |length: u32| BytesMut::from(&length.to_le_bytes()[..]);
    assert!(matches!(decoder.decode(&mut announced(996)), Ok(None)));
    assert_eq!(decoder.declared_bytes(&996_u32.to_le_bytes()), Ok(Some(1000)));
    assert_eq!(decoder.declared_bytes(&[1, 2, 3]), Ok(None));
    assert!(matches!(decoder.decode(&mut announced(997)), Err(FrameError::TooLarge { bytes: 1001, max: 1000 })));
    assert!(matches!(decoder.decode(&mut announced(u32::MAX)), Err(FrameError::TooLarge { .. })));
    assert!(matches!(decoder.decode(&mut announced(19)), Err(FrameError::TooSmall { bytes: 23 })));

    let mut header = [0; FRAME_HEADER_BYTES];
    header[..4].copy_from_slice(&30_u32.to_le_bytes());
    header[20..].copy_from_slice(&11_u32.to_le_bytes());
    assert!(matches!(
        decoder.decode(&mut BytesMut::from(&header[..])),
        Err(FrameError::BodyBeyondFrame { bytes: 11, room: 10 })
    ));
    decoder.set_frame_bytes_max(usize::MAX);
    header.copy_from_slice(&[0xFF; FRAME_HEADER_BYTES]);
    assert!(matches!(decoder.decode(&mut BytesMut::from(&header[..])), Err(FrameError::BodyTooLarge { .. })));
}

#[test]
fn frames_are_cut_wherever_the_network_cuts_them() {
    let all = samples();
    let stream: Vec<u8> = all.iter().flat_map(|sample| sample.bytes.clone()).collect();
    for step in [1, 3, 7, 64, 1000] {
        let mut decoder = FrameDecoder::new(FRAME_BYTES_MAX);
        let mut buffer = BytesMut::new();
        let mut read = Vec::new();
        for chunk in stream.chunks(step) {
            buffer.extend_from_slice(chunk);
            while let Some(frame) = decoder.decode(&mut buffer).expect("valid frames") {
                read.push(read_any(frame).expect("a known API").expect("a valid message"));
            }
        }
        assert!(buffer.is_empty());
        assert_eq!(read, all.iter().map(|sample| sample.bytes.clone()).collect::<Vec<_>>());
    }
}

#[test]
fn two_flags_that_exclude_each_other_are_refused_under_a_right_checksum() {
    let mut refused = 0;
    for bits in 0..=u16::from(u8::MAX) {
        match Flags::from_wire(bits) {
            Some(flags) => assert_eq!(flags.bits(), bits),
            None => refused += 1,
        }
    }
    assert_eq!(refused, 256 - 4);
    assert_eq!(Flags::from_wire(Flags::ERROR.bits()), None, "an error is a response");
}

#[test]
fn an_api_of_another_number_or_version_is_not_read() {
    let sample = samples().into_iter().find(|sample| sample.name == "produce_request").expect("a produce request");
    let frame = samples::frame(&sample.bytes);
    let other = |api, version| Frame { header: FrameHeader { api, version, ..frame.header }, ..frame.clone() };
    assert!(decode_body::<ProduceRequest>(other(ApiKey::Fetch.to_wire(), 1)).is_err());
    assert!(decode_body::<ProduceRequest>(other(ApiKey::Produce.to_wire(), 0)).is_err());
    assert!(decode_body::<ProduceRequest>(other(ApiKey::Produce.to_wire(), 2)).is_err());
    assert!(decode_body::<ProduceRequest>(other(ApiKey::Produce.to_wire(), 1)).is_ok());
}

#[test]
fn an_answer_that_no_receiver_would_take_is_answered_with_an_error() {
    use streambus_protocol::api::encode_response;
    use streambus_protocol::api::session::HealthResponse;
    let huge = HealthResponse { state: "ready".into(), ready: true, problems: vec!["x".repeat(32_000); 200] };
    let frame = samples::frame(&joined(encode_response(&huge, CorrelationId::new(9))));
    assert!(frame.header.flags.contains(Flags::ERROR));
    assert_eq!(frame.header.correlation, CorrelationId::new(9));
}

fn any_header() -> impl Strategy<Value = FrameHeader> {
    let flags = prop::sample::select(vec![0, 1, 3, 4]);
    (0_u8..20, 0_u8..3, flags, any::<u32>(), any::<u32>()).prop_map(|(api, version, flags, correlation, timeout_ms)| {
        FrameHeader {
            api,
            version,
            flags: Flags::from_wire(flags).expect("one of the four"),
            correlation: CorrelationId::new(correlation),
            timeout_ms,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic_the_frame_decoder(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn no_body_panics_any_message(
        header in any_header(),
        body in prop::collection::vec(any::<u8>(), 0..300),
        payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let frame = Frame { header, body: body.into(), payload: BytesMut::from(&payload[..]) };
        let _ = read_any(frame);
    }

    #[test]
    fn no_sample_with_a_spliced_body_panics(
        index in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        splice in prop::collection::vec(any::<u8>(), 0..12),
    ) {
        let all = samples();
        let frame = samples::frame(&all[index.index(all.len())].bytes);
        let mut body = frame.body.to_vec();
        let at = at.index(body.len() + 1);
        let end = (at + splice.len()).min(body.len());
        body.splice(at..end, splice);
        let _ = read_any(Frame { body: body.into(), ..frame });
    }

    #[test]
    fn no_bytes_panic_the_batch(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = UnverifiedBatch::new(BytesMut::from(&bytes[..])).verify(BATCH_BYTES_MAX);
        for batch in batches(Bytes::from(bytes)) {
            let _ = batch;
        }
    }

    /// The checksum made right again, so that what lies behind it is reached.
    #[test]
    fn no_batch_with_a_right_checksum_panics_its_readers(
        codec in prop::sample::select(Compression::ALL.to_vec()),
        at in any::<prop::sample::Index>(),
        splice in prop::collection::vec(any::<u8>(), 1..6),
    ) {
        let mut bytes = samples::batch_bytes(codec, None).to_vec();
        bytes[12..16].fill(0);
        let at = 21 + at.index(bytes.len() - 21);
        let end = (at + splice.len()).min(bytes.len());
        bytes.splice(at..end, splice);
        let length = i32::try_from(bytes.len() - 12).expect("a short batch");
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());

        if let Ok(batch) = UnverifiedBatch::new(BytesMut::from(&bytes[..])).verify(BATCH_BYTES_MAX) {
            let _ = batch.check_records(1 << 20);
        }
        if let Ok(batch) = PlacedBatch::verify_stored(bytes.into()) {
            let whole = batch.check_records(1 << 20).is_ok();
            let read = batch.records(1 << 20).is_ok_and(|mut records| records.all(|record| record.is_ok()));
            prop_assert_eq!(whole, read, "checking and reading must agree");
        }
    }

    #[test]
    fn no_bytes_panic_any_codec(
        codec in prop::sample::select(Compression::ALL.to_vec()),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        flip in any::<prop::sample::Index>(),
    ) {
        let _ = codec.decompress(&Bytes::from(bytes.clone()), 10_000);
        let mut compressed = BytesMut::new();
        codec.compress(&bytes, &mut compressed).expect("compressing works");
        if !compressed.is_empty() {
            let at = flip.index(compressed.len());
            compressed[at] ^= 0x41;
        }
        if let Ok(plain) = codec.decompress(&compressed.freeze(), 10_000) {
            prop_assert!(plain.len() <= 10_000);
        }
    }
}
