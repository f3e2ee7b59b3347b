//! Batches that have a place in a partition's log.

use bytes::Bytes;

use super::records::{self, Deltas, Records};
use super::{BATCH_HEADER_BYTES, BatchError, BatchHeader, ProducerStamp};
use crate::epoch::LeaderEpoch;
use crate::offset::Offset;
use crate::timestamp::Timestamp;

/// A proven batch at its offset. Cheap to clone: the bytes are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedBatch {
    header: BatchHeader,
    bytes: Bytes,
}

impl PlacedBatch {
    /// Wraps what has been checked.
    #[inline]
    pub(super) fn from_proven(header: BatchHeader, bytes: Bytes) -> Self {
        debug_assert_eq!(header.size_bytes(), bytes.len());
        debug_assert!(header.check_position().is_ok());
        Self { header, bytes }
    }

    /// Proves that `bytes` are exactly one stored batch: its checksum, its codec, its counts, and a place in a log.
    /// Unlike a client's, it may be a control batch and may have lost records to compaction.
    pub fn verify_stored(bytes: Bytes) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(&bytes)?;
        header.check_stored(bytes.len())?;
        header.check_checksum(&bytes)?;
        Ok(Self::from_proven(header, bytes))
    }

    /// The header.
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Offset of the first record.
    #[inline]
    pub fn base_offset(&self) -> Offset {
        // Proven not to be negative.
        Offset::from_wire(self.header.base_offset).unwrap_or(Offset::ZERO)
    }

    /// Offset of the last record, or of the last one before compaction.
    #[inline]
    pub fn last_offset(&self) -> Offset {
        let delta = u64::try_from(self.header.last_offset_delta).unwrap_or(0);
        self.base_offset().checked_add(delta).unwrap_or(Offset::MAX)
    }

    /// The offset after the batch's last.
    #[inline]
    pub fn next_offset(&self) -> Offset {
        self.last_offset().next().unwrap_or(Offset::MAX)
    }

    /// The leader that placed the batch.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch::new(self.header.leader_epoch.cast_unsigned())
    }

    /// The latest of the records' timestamps.
    pub const fn max_timestamp(&self) -> Timestamp {
        self.header.max_timestamp()
    }

    /// How many records there are.
    pub fn record_count(&self) -> u32 {
        self.header.records()
    }

    /// Who produced the batch, when that was an idempotent producer.
    pub const fn producer(&self) -> Option<ProducerStamp> {
        self.header.producer()
    }

    /// True for a batch of control records, which are the broker's and no application's.
    pub const fn is_control(&self) -> bool {
        self.header.is_control()
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Bytes of the whole batch.
    pub const fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The records, one after the other. Compressed ones are expanded here, to at most `expanded_bytes_max` bytes; keys
    /// and values are slices of the batch or of what it expanded to.
    pub fn records(&self, expanded_bytes_max: usize) -> Result<Records, BatchError> {
        let stored = self.bytes.slice(BATCH_HEADER_BYTES..);
        let expanded = self.header.codec()?.decompress(&stored, expanded_bytes_max)?;
        Ok(Records::new(expanded, &self.header, self.base_offset()))
    }

    /// Checks every record's structure without keeping any, see [`super::RecordBatch::check_records`].
    pub fn check_records(&self, expanded_bytes_max: usize) -> Result<(), BatchError> {
        let stored = self.bytes.slice(BATCH_HEADER_BYTES..);
        let expanded = self.header.codec()?.decompress(&stored, expanded_bytes_max)?;
        records::check(&expanded, &self.header, Deltas::Ascending)
    }
}

/// Cuts the first batch off `bytes` and reads its header, without proving its checksum. `None` at the end.
///
/// Fails with `TooShort` when the batch is cut.
pub fn split_first(bytes: &mut Bytes) -> Result<Option<(BatchHeader, Bytes)>, BatchError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let header = BatchHeader::parse(bytes)?;
    let size = header.size_bytes();
    if size > bytes.len() {
        return Err(BatchError::TooShort { needed: size, found: bytes.len() });
    }
    Ok(Some((header, bytes.split_to(size))))
}

/// The stored batches in `bytes`, back to back, each proven as [`PlacedBatch::verify_stored`] does. Ends after the first
/// error: where the next batch starts is unknown then.
pub const fn batches(bytes: Bytes) -> Batches {
    Batches { rest: bytes }
}

/// Iterates over stored batches, see [`batches`].
#[derive(Clone, Debug)]
pub struct Batches {
    rest: Bytes,
}

impl Iterator for Batches {
    type Item = Result<PlacedBatch, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let proven = match split_first(&mut self.rest) {
            Ok(None) => return None,
            Ok(Some((header, bytes))) => header
                .check_stored(bytes.len())
                .and_then(|()| header.check_checksum(&bytes))
                .map(|()| PlacedBatch::from_proven(header, bytes)),
            Err(error) => Err(error),
        };
        if proven.is_err() {
            self.rest.clear();
        }
        Some(proven)
    }
}

impl std::iter::FusedIterator for Batches {}
