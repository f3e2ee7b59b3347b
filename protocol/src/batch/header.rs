//! The batch header: 61 bytes, big-endian, in front of the records.
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 8 | base offset |
//! | 8 | 4 | length of everything after this field |
//! | 12 | 4 | partition leader epoch |
//! | 16 | 1 | magic, 2 |
//! | 17 | 4 | CRC-32C of everything after this field |
//! | 21 | 2 | attributes: codec (bits 0-2), timestamp type (3), transactional (4), control (5), delete horizon (6) |
//! | 23 | 4 | last offset delta |
//! | 27 | 8 | base timestamp |
//! | 35 | 8 | maximum timestamp |
//! | 43 | 8 | producer id |
//! | 51 | 2 | producer epoch |
//! | 53 | 4 | base sequence |
//! | 57 | 4 | record count |

use bytes::{Buf, BufMut};

use super::{BATCH_RECORDS_MAX, BatchError, RECORD_BYTES_MIN};
use crate::compression::Compression;
use crate::ids::{ProducerEpoch, ProducerId, Sequence};
use crate::offset::Offset;
use crate::timestamp::Timestamp;

/// Bytes of a batch before its records.
pub const BATCH_HEADER_BYTES: usize = 61;
pub(super) const BASE_OFFSET_AT: usize = 0;
pub(super) const LEADER_EPOCH_AT: usize = 12;
pub(super) const CRC_AT: usize = 17;
pub(super) const ATTRIBUTES_AT: usize = 21;
pub(super) const MAX_TIMESTAMP_AT: usize = 35;
/// Bytes that the length field does not count: base offset and the field itself.
const LENGTH_END: usize = 12;
const MAGIC: i8 = 2;
pub(super) const CODEC_MASK: i16 = 0b111;
pub(super) const TIMESTAMP_TYPE_BIT: i16 = 1 << 3;
const TRANSACTIONAL_BIT: i16 = 1 << 4;
const CONTROL_BIT: i16 = 1 << 5;
/// The base timestamp is when tombstones of the batch may go (KIP-534).
pub(super) const DELETE_HORIZON_BIT: i16 = 1 << 6;

/// The header's fields as they are written; the accessors give their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record; a client writes anything.
    pub base_offset: i64,
    /// Bytes after the length field.
    pub length: i32,
    /// Epoch of the leader that placed the batch; -1 from a client.
    pub leader_epoch: i32,
    /// CRC-32C from the attributes to the end.
    pub crc: u32,
    /// Codec, timestamp type, transactional and control bits.
    pub attributes: i16,
    /// Offset of the last record relative to the first; outlives compaction.
    pub last_offset_delta: i32,
    /// What the records' timestamps are relative to, in milliseconds since the Unix epoch.
    pub base_timestamp: i64,
    /// The latest of the records' timestamps, in milliseconds since the Unix epoch.
    pub max_timestamp: i64,
    /// The idempotent producer, or -1.
    pub producer_id: i64,
    /// Its epoch, or -1.
    pub producer_epoch: i16,
    /// Sequence number of the first record, or -1.
    pub base_sequence: i32,
    /// How many records there are.
    pub record_count: i32,
}

/// Whose clock the records' timestamps are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum TimestampType {
    /// The producer's: each record has its own.
    #[default]
    CreateTime,
    /// The leader's when it appended: all records have the batch's maximum timestamp.
    LogAppendTime,
}

/// Identifies an idempotent producer's batch (KIP-98).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProducerStamp {
    /// The producer.
    pub id: ProducerId,
    /// Its incarnation.
    pub epoch: ProducerEpoch,
    /// Sequence number of the batch's first record.
    pub base_sequence: Sequence,
}

impl BatchHeader {
    /// Reads the header at the front of `bytes`. Checks that the format is 2 and that the length covers the header;
    /// whether the records are there is the caller's question.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        // The format number stands in the same place in every format, so it can be told from a header that is cut.
        if let Some(magic) = bytes.get(CRC_AT - 1).map(|byte| byte.cast_signed()).filter(|magic| *magic != MAGIC) {
            return Err(BatchError::Magic(magic));
        }
        let Some(head) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
            return Err(BatchError::TooShort { needed: BATCH_HEADER_BYTES, found: bytes.len() });
        };
        // Reading a field off the front cannot fail: the header's size is in its type.
        let mut head: &[u8] = head;
        let base_offset = head.get_i64();
        let length = head.get_i32();
        let leader_epoch = head.get_i32();
        head.advance(1);
        let header = Self {
            base_offset,
            length,
            leader_epoch,
            crc: head.get_u32(),
            attributes: head.get_i16(),
            last_offset_delta: head.get_i32(),
            base_timestamp: head.get_i64(),
            max_timestamp: head.get_i64(),
            producer_id: head.get_i64(),
            producer_epoch: head.get_i16(),
            base_sequence: head.get_i32(),
            record_count: head.get_i32(),
        };
        debug_assert!(head.is_empty());
        match usize::try_from(length) {
            Ok(length) if length >= BATCH_HEADER_BYTES - LENGTH_END => Ok(header),
            _ => Err(BatchError::Length { declared: length, found: bytes.len() }),
        }
    }

    /// Writes the header as 61 bytes.
    pub(super) fn write(&self, mut slot: &mut [u8]) {
        debug_assert_eq!(slot.len(), BATCH_HEADER_BYTES);
        slot.put_i64(self.base_offset);
        slot.put_i32(self.length);
        slot.put_i32(self.leader_epoch);
        slot.put_i8(MAGIC);
        slot.put_u32(self.crc);
        slot.put_i16(self.attributes);
        slot.put_i32(self.last_offset_delta);
        slot.put_i64(self.base_timestamp);
        slot.put_i64(self.max_timestamp);
        slot.put_i64(self.producer_id);
        slot.put_i16(self.producer_epoch);
        slot.put_i32(self.base_sequence);
        slot.put_i32(self.record_count);
    }

    /// Attributes for a batch to be built.
    pub(super) fn attributes_for(codec: Compression, is_control: bool) -> i16 {
        i16::from(codec.to_wire()) | if is_control { CONTROL_BIT } else { 0 }
    }

    /// The length field of a batch of `bytes`, or `None` when it does not fit.
    pub(super) fn length_for(bytes: usize) -> Option<i32> {
        i32::try_from(bytes.checked_sub(LENGTH_END)?).ok()
    }

    /// Bytes of the whole batch, from its length field.
    pub fn size_bytes(&self) -> usize {
        usize::try_from(self.length).unwrap_or(0) + LENGTH_END
    }

    /// How the records are compressed. Fails with `Codec` on a number that means nothing.
    pub fn codec(&self) -> Result<Compression, BatchError> {
        let codec = (self.attributes & CODEC_MASK).to_be_bytes()[1];
        Compression::from_wire(codec).ok_or(BatchError::Codec(codec))
    }

    /// Whose clock the timestamps are from.
    pub const fn timestamp_type(&self) -> TimestampType {
        if self.attributes & TIMESTAMP_TYPE_BIT == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime }
    }

    /// True for a batch of a transaction.
    pub const fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// True for a batch of control records, which are the broker's and no application's.
    pub const fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// When compaction may remove the batch's tombstones; `None` before it has met them (KIP-534).
    pub const fn delete_horizon(&self) -> Option<Timestamp> {
        if self.attributes & DELETE_HORIZON_BIT == 0 { None } else { Some(Timestamp::from_millis(self.base_timestamp)) }
    }

    /// The latest of the records' timestamps.
    pub const fn max_timestamp(&self) -> Timestamp {
        Timestamp::from_millis(self.max_timestamp)
    }

    /// Who produced the batch, when that was an idempotent producer.
    pub const fn producer(&self) -> Option<ProducerStamp> {
        if self.producer_id < 0 {
            return None;
        }
        Some(ProducerStamp {
            id: ProducerId::new(self.producer_id),
            epoch: ProducerEpoch::new(self.producer_epoch),
            base_sequence: Sequence::new(self.base_sequence),
        })
    }

    /// The record count of a proven batch.
    pub(super) fn records(&self) -> u32 {
        u32::try_from(self.record_count).unwrap_or(0)
    }

    /// What a client's batch of `bytes` must fulfil, the checksum aside.
    #[inline]
    pub(super) fn check_client(&self, bytes: usize) -> Result<(), BatchError> {
        if self.size_bytes() != bytes {
            return Err(BatchError::Length { declared: self.length, found: bytes });
        }
        let codec = self.codec()?;
        if self.is_control() || self.delete_horizon().is_some() {
            return Err(BatchError::Control);
        }
        // Compressed records can be any number; plain ones need room.
        let room = match codec {
            Compression::None => (bytes - BATCH_HEADER_BYTES) / RECORD_BYTES_MIN,
            Compression::Gzip | Compression::Snappy | Compression::Lz4 | Compression::Zstd => BATCH_RECORDS_MAX,
        };
        let fits = usize::try_from(self.record_count).is_ok_and(|count| count <= room.min(BATCH_RECORDS_MAX));
        if !fits || self.record_count < 1 || self.last_offset_delta != self.record_count - 1 {
            return Err(self.count_error());
        }
        // Without a producer id the other two fields mean nothing, and clients differ in what they write there.
        let stamped = self.producer_id >= 0 && self.producer_epoch >= 0 && self.base_sequence >= 0;
        let plain = self.producer_id == -1 && !self.is_transactional();
        if !stamped && !plain {
            return Err(BatchError::Producer {
                id: self.producer_id,
                epoch: self.producer_epoch,
                base_sequence: self.base_sequence,
            });
        }
        Ok(())
    }

    /// What a stored batch of `bytes` must fulfil, the checksum aside: like a client's, but it has a place, may be a
    /// control batch, and compaction may have removed records.
    #[inline]
    pub(super) fn check_stored(&self, bytes: usize) -> Result<(), BatchError> {
        if self.size_bytes() != bytes {
            return Err(BatchError::Length { declared: self.length, found: bytes });
        }
        self.codec()?;
        if self.record_count < 0 || i64::from(self.record_count) > i64::from(self.last_offset_delta) + 1 {
            return Err(self.count_error());
        }
        self.check_position()
    }

    /// That the offsets and the leader epoch name a place in a log.
    #[inline]
    pub(super) fn check_position(&self) -> Result<(), BatchError> {
        let next = Offset::from_wire(self.base_offset)
            .zip(u64::try_from(self.last_offset_delta).ok())
            .and_then(|(base, delta)| base.checked_add(delta)?.next());
        if next.is_none() || self.leader_epoch < 0 {
            return Err(BatchError::Position { base_offset: self.base_offset, leader_epoch: self.leader_epoch });
        }
        Ok(())
    }

    /// That the batch in `bytes` is the one that was written.
    #[inline]
    pub(super) fn check_checksum(&self, bytes: &[u8]) -> Result<(), BatchError> {
        let computed = checksum(bytes);
        if computed == self.crc { Ok(()) } else { Err(BatchError::Checksum { declared: self.crc, computed }) }
    }

    const fn count_error(&self) -> BatchError {
        BatchError::Count { records: self.record_count, last_offset_delta: self.last_offset_delta }
    }
}

/// CRC-32C of a batch from its attributes on.
#[inline]
pub(super) fn checksum(batch: &[u8]) -> u32 {
    crc32c::crc32c(batch.get(ATTRIBUTES_AT..).unwrap_or_default())
}
