//! Building a batch: records go straight into the batch's own buffer, compression happens once at the end.

use bytes::{BufMut, BytesMut};

use super::header::{BATCH_HEADER_BYTES, BatchHeader, CRC_AT, ProducerStamp, checksum};
use super::patch;
use crate::compression::{Compression, CompressionError};
use crate::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, RECORD_HEADERS_MAX};
use crate::record::Record;
use crate::varint::{VARLONG_BYTES_MAX, varint_bytes, write_varint};

/// How to build a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BatchOptions {
    /// How to compress the records.
    pub compression: Compression,
    /// The idempotent producer's stamp, if there is one; it may also be set later.
    pub producer: Option<ProducerStamp>,
    /// True for control records, which only brokers write.
    pub is_control: bool,
}

/// Why a record cannot be added. The builder is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The record alone is over the limit: no batch can hold it.
    #[error("the record needs a batch of {bytes} bytes, at most {max} are allowed")]
    RecordTooLarge {
        /// Bytes of a batch with only this record, uncompressed.
        bytes: usize,
        /// The limit in force.
        max: usize,
    },
    /// The record has too many headers: no batch can hold it.
    #[error("the record has {headers} headers, at most {RECORD_HEADERS_MAX} are allowed")]
    TooManyHeaders {
        /// How many it has.
        headers: usize,
    },
    /// The batch is full: build it and put the record into the next one.
    #[error("the batch is full")]
    BatchFull,
}

/// Why a batch cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// There is no record in it.
    #[error("a batch has at least one record")]
    Empty,
    /// The codec made it larger than a batch can be.
    #[error("the batch has {bytes} bytes, more than its format allows")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The codec failed.
    #[error(transparent)]
    Compression(#[from] CompressionError),
}

/// Collects records into one batch.
#[derive(Debug)]
pub struct BatchBuilder {
    options: BatchOptions,
    bytes_max: usize,
    /// Room for the header, then the records, uncompressed.
    buffer: BytesMut,
    record_count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// An empty batch of at most [`BATCH_BYTES_MAX`] bytes before compression.
    pub fn new(options: BatchOptions) -> Self {
        Self::with_bytes_max(options, BATCH_BYTES_MAX)
    }

    /// An empty batch of at most `bytes_max` bytes before compression, header included.
    pub fn with_bytes_max(options: BatchOptions, bytes_max: usize) -> Self {
        let bytes_max = bytes_max.min(BATCH_BYTES_MAX);
        Self { options, bytes_max, buffer: BytesMut::new(), record_count: 0, base_timestamp: 0, max_timestamp: 0 }
    }

    /// Reserves room for records of `bytes` in all, so that adding them does not grow the buffer.
    pub fn reserve(&mut self, bytes: usize) {
        self.buffer.reserve(bytes.saturating_add(BATCH_HEADER_BYTES).min(self.bytes_max));
    }

    /// Sets who produces the batch; a producer knows its sequence number only when it sends.
    pub const fn set_producer(&mut self, producer: ProducerStamp) {
        self.options.producer = Some(producer);
    }

    /// How many records are in the batch.
    pub fn record_count(&self) -> usize {
        usize::try_from(self.record_count).unwrap_or(0)
    }

    /// True when no record is in the batch.
    pub const fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Bytes of the batch as it is now, before compression.
    pub fn size_hint_bytes(&self) -> usize {
        self.buffer.len().max(BATCH_HEADER_BYTES)
    }

    /// Adds a record; its bytes are copied into the batch.
    pub fn push(&mut self, record: &Record) -> Result<(), PushError> {
        let timestamp = record.timestamp.as_millis();
        // The first record's time is the base, so its own delta is zero. Deltas wrap as the format's readers do.
        let base_timestamp = if self.record_count == 0 { timestamp } else { self.base_timestamp };
        let timestamp_delta = timestamp.wrapping_sub(base_timestamp);
        let offset_delta = i64::from(self.record_count);

        if record.headers.len() > RECORD_HEADERS_MAX {
            return Err(PushError::TooManyHeaders { headers: record.headers.len() });
        }
        let body_bytes = record_body_bytes(record, timestamp_delta, offset_delta);
        let record_bytes = varint_bytes(wire_length(body_bytes)).saturating_add(body_bytes);
        if record_bytes.saturating_add(BATCH_HEADER_BYTES) > self.bytes_max {
            let bytes = record_bytes.saturating_add(BATCH_HEADER_BYTES);
            return Err(PushError::RecordTooLarge { bytes, max: self.bytes_max });
        }
        if self.size_hint_bytes() + record_bytes > self.bytes_max || self.record_count() >= BATCH_RECORDS_MAX {
            return Err(PushError::BatchFull);
        }

        if self.buffer.is_empty() {
            self.buffer.reserve(BATCH_HEADER_BYTES + record_bytes);
            self.buffer.put_bytes(0, BATCH_HEADER_BYTES);
        }
        let before = self.buffer.len();
        self.buffer.reserve(record_bytes);
        put_record(&mut self.buffer, record, timestamp_delta, offset_delta);
        debug_assert_eq!(self.buffer.len() - before, record_bytes);

        self.base_timestamp = base_timestamp;
        self.max_timestamp = if self.record_count == 0 { timestamp } else { self.max_timestamp.max(timestamp) };
        self.record_count += 1;
        Ok(())
    }

    /// Compresses the records and completes the header. The base offset is 0 and the leader epoch unknown: a leader
    /// places the batch.
    pub fn build(self) -> Result<BytesMut, BuildError> {
        if self.record_count == 0 {
            return Err(BuildError::Empty);
        }
        let mut batch = match self.options.compression {
            Compression::None => self.buffer,
            codec => {
                let records = self.buffer.get(BATCH_HEADER_BYTES..).unwrap_or_default();
                let mut batch = BytesMut::with_capacity(BATCH_HEADER_BYTES + records.len() / 2);
                batch.put_bytes(0, BATCH_HEADER_BYTES);
                codec.compress(records, &mut batch)?;
                batch
            }
        };
        let length = BatchHeader::length_for(batch.len()).ok_or(BuildError::TooLarge { bytes: batch.len() })?;
        let producer = self.options.producer;
        let header = BatchHeader {
            base_offset: 0,
            length,
            leader_epoch: -1,
            crc: 0,
            attributes: BatchHeader::attributes_for(self.options.compression, self.options.is_control),
            last_offset_delta: self.record_count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: producer.map_or(-1, |stamp| stamp.id.get()),
            producer_epoch: producer.map_or(-1, |stamp| stamp.epoch.get()),
            base_sequence: producer.map_or(-1, |stamp| stamp.base_sequence.get()),
            record_count: self.record_count,
        };
        header.write(batch.get_mut(..BATCH_HEADER_BYTES).unwrap_or_default());
        let crc = checksum(&batch);
        patch(&mut batch, CRC_AT, crc.to_be_bytes());
        Ok(batch)
    }
}

/// Appends a record as a batch has it.
#[inline]
pub(super) fn put_record(buffer: &mut BytesMut, record: &Record, timestamp_delta: i64, offset_delta: i64) {
    put_varint(buffer, wire_length(record_body_bytes(record, timestamp_delta, offset_delta)));
    buffer.put_i8(0);
    put_varint(buffer, timestamp_delta);
    put_varint(buffer, offset_delta);
    put_optional(buffer, record.key.as_deref());
    put_optional(buffer, record.value.as_deref());
    put_varint(buffer, wire_length(record.headers.len()));
    for header in &record.headers {
        put_optional(buffer, Some(&header.key));
        put_optional(buffer, header.value.as_deref());
    }
}

/// Bytes of a record after its length.
fn record_body_bytes(record: &Record, timestamp_delta: i64, offset_delta: i64) -> usize {
    let optional = |bytes: Option<usize>| match bytes {
        None => 1,
        Some(bytes) => varint_bytes(wire_length(bytes)).saturating_add(bytes),
    };
    let fixed = 1
        + varint_bytes(timestamp_delta)
        + varint_bytes(offset_delta)
        + varint_bytes(wire_length(record.headers.len()));
    let key_and_value = optional(record.key.as_ref().map(|key| key.len()))
        .saturating_add(optional(record.value.as_ref().map(|value| value.len())));
    record.headers.iter().fold(key_and_value.saturating_add(fixed), |sum, header| {
        sum.saturating_add(optional(Some(header.key.len())))
            .saturating_add(optional(header.value.as_ref().map(|value| value.len())))
    })
}

/// A length as the format has it. One that does not fit is over every limit and refused as such.
fn wire_length(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[inline]
fn put_varint(buffer: &mut BytesMut, value: i64) {
    let mut scratch = [0; VARLONG_BYTES_MAX];
    let written = write_varint(&mut scratch, value);
    buffer.extend_from_slice(scratch.get(..written).unwrap_or_default());
}

#[inline]
fn put_optional(buffer: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        None => put_varint(buffer, -1),
        Some(bytes) => {
            put_varint(buffer, wire_length(bytes.len()));
            buffer.extend_from_slice(bytes);
        }
    }
}
