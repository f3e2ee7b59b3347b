//! The wire: building and proving batches, encoding and decoding frames.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use streambus_protocol::api::fetch::{Batches, FetchOutcome, FetchPartition, FetchRequest, FetchResponse, Fetched};
use streambus_protocol::api::produce::{Acks, ProducePartition, ProduceRequest};
use streambus_protocol::api::{Message, Request, decode_body, encode_request, encode_request_into, encode_response};
use streambus_protocol::batch::{BatchBuilder, BatchOptions, PlacedBatch, RecordBatch, UnverifiedBatch};
use streambus_protocol::compression::Compression;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::frame::FrameDecoder;
use streambus_protocol::ids::{CorrelationId, PartitionIndex, TopicId};
use streambus_protocol::limits::{BATCH_BYTES_MAX, FRAME_BYTES_MAX};
use streambus_protocol::offset::Offset;
use streambus_protocol::record::Record;
use streambus_protocol::timestamp::Timestamp;

use super::MicroError;
use super::sampler::Sampler;
use crate::stamp::{Filler, ValueMaker};

const RECORD_BYTES: usize = 100;
/// Records of 100 bytes in a batch, and the batch's name in rows.
const BATCHES: [(usize, &str); 2] = [(1, "1x100B"), (600, "600x100B")];

/// A batch of `count` records of `bytes`, as a producer makes it.
pub fn batch_bytes(count: usize, bytes: usize, compression: Compression) -> Result<BytesMut, MicroError> {
    let refused = |problem: &dyn std::fmt::Display| MicroError::refused("building a batch", problem);
    let maker =
        ValueMaker::new(1, 0, bytes, if compression == Compression::None { Filler::Random } else { Filler::Text });
    let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
    for sequence in 0..count {
        let value = maker.make(u32::try_from(sequence).unwrap_or(0), 0);
        builder.push(&Record::new(value, Timestamp::from_millis(1_700_000_000_000))).map_err(|e| refused(&e))?;
    }
    builder.build().map_err(|e| refused(&e))
}

/// A proven batch in its place.
pub fn placed_batch(count: usize, bytes: usize) -> Result<PlacedBatch, MicroError> {
    let batch: RecordBatch = UnverifiedBatch::new(batch_bytes(count, bytes, Compression::None)?)
        .verify(BATCH_BYTES_MAX)
        .map_err(|error| MicroError::refused("proving a batch", error))?;
    Ok(batch.place(Offset::ZERO, LeaderEpoch::ZERO))
}

/// Measures the wire.
pub fn measure(sampler: &mut Sampler<'_>) -> Result<(), MicroError> {
    for (count, name) in BATCHES {
        build(sampler, count, name)?;
        verify(sampler, count, name)?;
        frames(sampler, count, name)?;
    }
    fetch_request(sampler)?;
    compression(sampler)
}

fn build(sampler: &mut Sampler<'_>, count: usize, name: &str) -> Result<(), MicroError> {
    let maker = ValueMaker::new(1, 0, RECORD_BYTES, Filler::Random);
    let records: Vec<Record> = (0..u32::try_from(count).unwrap_or(0))
        .map(|sequence| Record::new(maker.make(sequence, 0), Timestamp::from_millis(1_700_000_000_000)))
        .collect();
    let bytes = (count * RECORD_BYTES) as u64;
    let mut failed = None;
    sampler.compute(&format!("wire/batch build {name}"), bytes, Some("machine/crc32c 64KiB"), |times| {
        for _ in 0..times {
            let mut builder = BatchBuilder::new(BatchOptions::default());
            builder.reserve(count * (RECORD_BYTES + 20));
            for record in &records {
                if let Err(error) = builder.push(record) {
                    failed = Some(error.to_string());
                }
            }
            match builder.build() {
                Ok(batch) => drop(black_box(batch)),
                Err(error) => failed = Some(error.to_string()),
            }
        }
    });
    failed.map_or(Ok(()), |problem| Err(MicroError::refused("wire/batch build", problem)))
}

fn verify(sampler: &mut Sampler<'_>, count: usize, name: &str) -> Result<(), MicroError> {
    let shared = batch_bytes(count, RECORD_BYTES, Compression::None)?.freeze();
    let bytes = shared.len() as u64;
    let stored = placed_batch(count, RECORD_BYTES)?.as_bytes().clone();
    let mut failed = false;
    sampler.compute(&format!("wire/batch verify {name}"), bytes, Some("machine/crc32c 64KiB"), |times| {
        for _ in 0..times {
            failed |= PlacedBatch::verify_stored(black_box(stored.clone())).is_err();
        }
    });
    // The broker's way: the receive buffer becomes the batch; the copy stands for reading it from the socket.
    sampler.compute(&format!("wire/batch copy, verify, place {name}"), bytes, Some("machine/crc32c 64KiB"), |times| {
        for _ in 0..times {
            match UnverifiedBatch::new(BytesMut::from(&shared[..])).verify(BATCH_BYTES_MAX) {
                Ok(batch) => drop(black_box(batch.place(Offset::ZERO, LeaderEpoch::ZERO))),
                Err(_) => failed = true,
            }
        }
    });
    if failed { Err(MicroError::refused("wire/batch verify", "a batch was refused")) } else { Ok(()) }
}

fn frames(sampler: &mut Sampler<'_>, count: usize, name: &str) -> Result<(), MicroError> {
    let batch = batch_bytes(count, RECORD_BYTES, Compression::None)?.freeze();
    let bytes = batch.len() as u64;
    let correlation = CorrelationId::new(7);
    let topic = TopicId::from_bytes([7; 16]);
    let request = ProduceRequest {
        acks: Acks::All,
        partitions: vec![ProducePartition {
            topic,
            partition: PartitionIndex::new(0),
            leader_epoch: LeaderEpoch::UNKNOWN,
            batch: UnverifiedBatch::from_shared(batch.clone()),
        }],
    };
    encode(sampler, &format!("wire/produce encode {name}"), &request);
    let response = FetchResponse {
        partitions: vec![FetchOutcome {
            topic,
            partition: PartitionIndex::new(0),
            result: Ok(Fetched {
                high_watermark: Offset::ZERO,
                log_start: Offset::ZERO,
                batches: Batches::from_bytes(batch),
            }),
        }],
    };
    sampler.compute(&format!("wire/fetch response encode {name}"), 0, None, |times| {
        for _ in 0..times {
            black_box(encode_response(black_box(&response), correlation));
        }
    });
    let wire: Vec<u8> =
        encode_request(&request, correlation, 1_000).into_chunks().flat_map(|c: Bytes| c.to_vec()).collect();
    decode::<ProduceRequest>(sampler, &format!("wire/produce decode {name}"), bytes, &wire)?;
    let wire: Vec<u8> = encode_response(&response, correlation).into_chunks().flat_map(|c: Bytes| c.to_vec()).collect();
    decode::<FetchResponse>(sampler, &format!("wire/fetch response decode {name}"), bytes, &wire)
}

/// A fetch request of one partition: the same for every size of batch.
fn fetch_request(sampler: &mut Sampler<'_>) -> Result<(), MicroError> {
    let request = FetchRequest {
        wait_ms: 500,
        bytes_min: 1,
        bytes_max: 1 << 20,
        partitions: vec![FetchPartition {
            topic: TopicId::from_bytes([7; 16]),
            partition: PartitionIndex::new(0),
            offset: Offset::ZERO,
            bytes_max: 1 << 20,
            leader_epoch: LeaderEpoch::ZERO,
        }],
        rack: None,
    };
    encode(sampler, "wire/fetch encode", &request);
    let frame = encode_request(&request, CorrelationId::new(7), 1_000);
    let wire: Vec<u8> = frame.into_chunks().flat_map(|c: Bytes| c.to_vec()).collect();
    decode::<FetchRequest>(sampler, "wire/fetch decode", 0, &wire)
}

/// Encodes into a buffer that is used again, as a connection does that writes many frames; and each into its own.
fn encode<M: Request>(sampler: &mut Sampler<'_>, name: &str, request: &M) {
    let correlation = CorrelationId::new(7);
    let mut buffer = BytesMut::with_capacity(4096);
    sampler.compute(name, 0, None, |times| {
        for _ in 0..times {
            buffer.clear();
            black_box(encode_request_into(black_box(request), correlation, 1_000, &mut buffer));
        }
    });
    sampler.compute(&format!("{name}, own buffer"), 0, None, |times| {
        for _ in 0..times {
            black_box(encode_request(black_box(request), correlation, 1_000));
        }
    });
}

/// Frames that one read from the socket brings, when they are small.
const FRAMES_PER_READ: usize = 64;

/// Decodes frames from a receive buffer; the copy into the buffer stands for reading them from the socket.
fn decode<M: Message>(sampler: &mut Sampler<'_>, name: &str, bytes: u64, wire: &[u8]) -> Result<(), MicroError> {
    let mut decoder = FrameDecoder::new(FRAME_BYTES_MAX);
    let mut failed = false;
    let frames = if wire.len() > 4096 { 1 } else { FRAMES_PER_READ };
    let received = wire.repeat(frames);
    sampler.compute(name, bytes, Some("machine/memcpy 64KiB"), |times| {
        let mut buffer = BytesMut::new();
        for _ in 0..times {
            if buffer.is_empty() {
                buffer = BytesMut::from(&received[..]);
            }
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => failed |= decode_body::<M>(black_box(frame)).is_err(),
                _ => failed = true,
            }
        }
    });
    if failed { Err(MicroError::refused(name, "the frame does not decode")) } else { Ok(()) }
}

fn compression(sampler: &mut Sampler<'_>) -> Result<(), MicroError> {
    for codec in [Compression::Lz4, Compression::Zstd, Compression::Snappy] {
        let plain = ValueMaker::new(1, 0, 64 << 10, Filler::Text).make(0, 0);
        let mut compressed = BytesMut::new();
        let name = format!("wire/compress {codec} 64KiB");
        codec.compress(&plain, &mut compressed).map_err(|error| MicroError::refused(&name, error))?;
        let mut failed = false;
        sampler.compute(&name, plain.len() as u64, Some("machine/memcpy 64KiB"), |times| {
            for _ in 0..times {
                let mut out = BytesMut::new();
                failed |= codec.compress(black_box(&plain), &mut out).is_err();
                black_box(out);
            }
        });
        let compressed = compressed.freeze();
        let name = format!("wire/decompress {codec} 64KiB");
        sampler.compute(&name, plain.len() as u64, Some("machine/memcpy 64KiB"), |times| {
            for _ in 0..times {
                failed |= codec.decompress(black_box(&compressed), plain.len()).is_err();
            }
        });
        if failed {
            return Err(MicroError::refused(&name, "the codec refused its own output"));
        }
    }
    Ok(())
}
