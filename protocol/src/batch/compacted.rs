//! Stored batches that compaction has taken records from.
//!
//! Whatever goes, the offsets stay: a batch keeps its base and last offset, its leader epoch, its codec and its
//! producer's stamp, and its records keep their offsets. A stretch of which nothing is left is one *placeholder*, a batch
//! without records and without a producer, so that a log has no gap, and a hole in it stays what it is: damage. Readers
//! of Kafka's format skip both.

use bytes::{BufMut, BytesMut};

use super::builder::put_record;
use super::header::{
    BATCH_HEADER_BYTES, BatchHeader, CODEC_MASK, CRC_AT, DELETE_HORIZON_BIT, TIMESTAMP_TYPE_BIT, checksum,
};
use super::{BuildError, PlacedBatch, patch};
use crate::epoch::LeaderEpoch;
use crate::offset::Offset;
use crate::record::StoredRecord;
use crate::timestamp::Timestamp;

impl PlacedBatch {
    /// When compaction may remove the batch's tombstones; `None` before it has met them (KIP-534).
    pub const fn delete_horizon(&self) -> Option<Timestamp> {
        self.header().delete_horizon()
    }

    /// True when the batch stands for offsets and for nothing else: no records, no producer, no control.
    pub fn is_placeholder(&self) -> bool {
        self.record_count() == 0 && self.producer().is_none() && !self.is_control()
    }

    /// A placeholder for the offsets `base..next`; `None` when there are none, or more than a batch can have.
    ///
    /// # Panics
    ///
    /// When the epoch does not fit the format's signed 32 bits.
    pub fn placeholder(base: Offset, next: Offset, epoch: LeaderEpoch, max_timestamp: Timestamp) -> Option<Self> {
        let last_offset_delta = i32::try_from(base.distance_to(next)?.checked_sub(1)?).ok()?;
        assert!(i32::try_from(epoch.get()).is_ok(), "leader epoch {epoch} does not fit a batch");
        let header = BatchHeader {
            base_offset: base.to_wire(),
            length: 0,
            leader_epoch: epoch.get().cast_signed(),
            crc: 0,
            attributes: 0,
            last_offset_delta,
            base_timestamp: max_timestamp.as_millis(),
            max_timestamp: max_timestamp.as_millis(),
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            record_count: 0,
        };
        Some(seal(header, BytesMut::zeroed(BATCH_HEADER_BYTES)))
    }

    /// The part of a placeholder from `from` on; any other batch, and one that begins there or later, as it is. A
    /// replica's log may end inside what another has made a placeholder.
    #[must_use]
    pub fn placeholder_from(self, from: Offset) -> Self {
        self.placeholder_within(from, Offset::MAX)
    }

    /// The part of a placeholder that lies in `from..to`; any other batch, and one that lies outside, as it is. A replica
    /// may have lost a part of what another has made a placeholder.
    #[must_use]
    pub fn placeholder_within(self, from: Offset, to: Offset) -> Self {
        let (base, next) = (self.base_offset().max(from), self.next_offset().min(to));
        if !self.is_placeholder() || (base, next) == (self.base_offset(), self.next_offset()) {
            return self;
        }
        Self::placeholder(base, next, self.leader_epoch(), self.max_timestamp()).unwrap_or(self)
    }

    /// The batch with `kept` of its records and no others; with none it says only who produced it. `horizon` is when its
    /// tombstones may go; without one, the batch's own stays.
    ///
    /// # Errors
    ///
    /// [`BuildError::Compression`] and [`BuildError::TooLarge`]: the batch must stay as it is then.
    pub fn with_records(&self, kept: &[StoredRecord], horizon: Option<Timestamp>) -> Result<Self, BuildError> {
        let mut header = *self.header();
        if let Some(horizon) = horizon {
            header.attributes |= DELETE_HORIZON_BIT;
            header.base_timestamp = horizon.as_millis();
        }
        let mut records = BytesMut::new();
        for stored in kept {
            let timestamp_delta = stored.record.timestamp.as_millis().wrapping_sub(header.base_timestamp);
            let offset_delta =
                self.base_offset().distance_to(stored.offset).and_then(|delta| i64::try_from(delta).ok());
            debug_assert!(offset_delta.is_some(), "a record lies before its batch");
            put_record(&mut records, &stored.record, timestamp_delta, offset_delta.unwrap_or(0));
        }
        let newest = kept.iter().map(|stored| stored.record.timestamp.as_millis()).max();
        if header.attributes & TIMESTAMP_TYPE_BIT == 0 {
            header.max_timestamp = newest.unwrap_or(header.max_timestamp);
        }
        header.record_count = i32::try_from(kept.len()).map_err(|_| BuildError::TooLarge { bytes: records.len() })?;
        let mut batch = BytesMut::with_capacity(BATCH_HEADER_BYTES + records.len());
        batch.put_bytes(0, BATCH_HEADER_BYTES);
        if kept.is_empty() {
            header.attributes &= !CODEC_MASK;
        } else if let Ok(codec) = header.codec() {
            // An unknown codec was refused when the batch was proven.
            codec.compress(&records, &mut batch)?;
        }
        if BatchHeader::length_for(batch.len()).is_none() {
            return Err(BuildError::TooLarge { bytes: batch.len() });
        }
        Ok(seal(header, batch))
    }
}

/// Completes a batch whose header has a place: length, checksum.
fn seal(mut header: BatchHeader, mut batch: BytesMut) -> PlacedBatch {
    header.length = BatchHeader::length_for(batch.len()).unwrap_or(i32::MAX);
    header.write(batch.get_mut(..BATCH_HEADER_BYTES).unwrap_or_default());
    header.crc = checksum(&batch);
    patch(&mut batch, CRC_AT, header.crc.to_be_bytes());
    PlacedBatch::from_proven(header, batch.freeze())
}
