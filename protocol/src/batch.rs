//! The record batch, Kafka's format 2 byte for byte (KIP-98): the unit that is produced, stored, replicated and fetched.
//!
//! Bytes from a wire are an [`UnverifiedBatch`]. Its `verify` is the one place where checksum, counts and sizes of what a
//! client sent are proven; it returns a [`RecordBatch`], and only that can be placed at an offset and appended. A
//! [`PlacedBatch`] has its offset and is shared from then on. Nothing here copies or expands records: base offset and
//! leader epoch are outside the checksum and are set in place.

mod builder;
mod compacted;
mod header;
mod records;
mod stored;

pub use builder::{BatchBuilder, BatchOptions, BuildError, PushError};
pub use header::{BATCH_HEADER_BYTES, BatchHeader, ProducerStamp, TimestampType};
pub use records::{RecordError, Records};
pub use stored::{Batches, PlacedBatch, batches, split_first};

use bytes::{Bytes, BytesMut};

use crate::compression::{Compression, CompressionError};
use crate::epoch::LeaderEpoch;
use crate::error_code::ErrorCode;
use crate::limits::BATCH_RECORDS_MAX;
use crate::offset::Offset;
use crate::timestamp::Timestamp;
use header::{ATTRIBUTES_AT, CRC_AT, MAX_TIMESTAMP_AT, TIMESTAMP_TYPE_BIT};

/// The fewest bytes a record takes: its length and six one-byte fields.
const RECORD_BYTES_MIN: usize = 7;

/// Why bytes are no batch, or not one that is accepted here.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The bytes end before the batch does.
    #[error("a batch needs {needed} bytes, {found} are there")]
    TooShort {
        /// Bytes the batch needs.
        needed: usize,
        /// Bytes that are there.
        found: usize,
    },
    /// The batch's length field is impossible, or other bytes follow the one batch that is expected.
    #[error("the batch's length field says {declared}, its {found} bytes say otherwise")]
    Length {
        /// What the length field says.
        declared: i32,
        /// Bytes that are there.
        found: usize,
    },
    /// The batch is larger than allowed.
    #[error("the batch has {bytes} bytes, at most {max} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit in force.
        max: usize,
    },
    /// The format is not number 2.
    #[error("the batch has format {0}, only format 2 is accepted")]
    Magic(i8),
    /// The bytes are not the ones that were written.
    #[error("the batch's checksum is {declared:08x}, its bytes give {computed:08x}")]
    Checksum {
        /// What the header says.
        declared: u32,
        /// What the bytes say.
        computed: u32,
    },
    /// Record count and last offset do not agree, or are out of bounds.
    #[error("the batch has {records} records and a last offset delta of {last_offset_delta}, which cannot be")]
    Count {
        /// The record count.
        records: i32,
        /// The last offset delta.
        last_offset_delta: i32,
    },
    /// The codec's number means nothing.
    #[error("the batch names codec {0}, which does not exist")]
    Codec(u8),
    /// A client sent a batch that only brokers write: control records, or a time for its tombstones to go.
    #[error("clients may not write control batches or delete horizons")]
    Control,
    /// Producer id, epoch, sequence and the transactional bit do not go together.
    #[error("producer {id}, epoch {epoch}, sequence {base_sequence} do not go together")]
    Producer {
        /// The producer id.
        id: i64,
        /// The producer epoch.
        epoch: i16,
        /// The first sequence number.
        base_sequence: i32,
    },
    /// A stored batch's offset or leader epoch is negative, or its offsets end past the largest.
    #[error("a stored batch has base offset {base_offset} and leader epoch {leader_epoch}, which cannot be")]
    Position {
        /// The base offset.
        base_offset: i64,
        /// The leader epoch.
        leader_epoch: i32,
    },
    /// The records do not expand, or to too much.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// A record is not as the format wants it.
    #[error("record {index} of the batch is wrong")]
    Record {
        /// Its number in the batch, from zero.
        index: usize,
        /// What is wrong.
        #[source]
        source: RecordError,
    },
}

impl BatchError {
    /// The code to answer a client with.
    pub const fn error_code(&self) -> ErrorCode {
        match self {
            Self::TooLarge { .. } | Self::Compression(CompressionError::TooLarge { .. }) => ErrorCode::BatchTooLarge,
            Self::Magic(_) | Self::Codec(_) | Self::Control => ErrorCode::UnsupportedBatch,
            Self::Record { source: RecordError::NoKey, .. } => ErrorCode::InvalidRecord,
            Self::TooShort { .. }
            | Self::Length { .. }
            | Self::Checksum { .. }
            | Self::Count { .. }
            | Self::Producer { .. }
            | Self::Position { .. }
            | Self::Compression(CompressionError::Corrupt { .. } | CompressionError::Failed { .. })
            | Self::Record { .. } => ErrorCode::CorruptBatch,
        }
    }
}

/// Bytes that claim to be one batch: from a wire, or on their way to one.
#[derive(Clone, Debug)]
pub struct UnverifiedBatch(BatchBytes);

/// A receive buffer is owned and can be changed in place; what a client keeps for a retry is shared.
#[derive(Clone, Debug)]
enum BatchBytes {
    Owned(BytesMut),
    Shared(Bytes),
}

impl UnverifiedBatch {
    /// Bytes that nobody else holds: placing them will not copy.
    #[inline]
    pub const fn new(bytes: BytesMut) -> Self {
        Self(BatchBytes::Owned(bytes))
    }

    /// Bytes that are shared, as a producer holds them until they are acknowledged: sending them will not copy.
    #[inline]
    pub const fn from_shared(bytes: Bytes) -> Self {
        Self(BatchBytes::Shared(bytes))
    }

    /// How many bytes there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// True when there is not one byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            BatchBytes::Owned(bytes) => bytes,
            BatchBytes::Shared(bytes) => bytes,
        }
    }

    /// The bytes, shared: no copy for [`UnverifiedBatch::from_shared`], one copy for [`UnverifiedBatch::new`].
    #[inline]
    pub fn to_bytes(&self) -> Bytes {
        match &self.0 {
            BatchBytes::Owned(bytes) => Bytes::copy_from_slice(bytes),
            BatchBytes::Shared(bytes) => bytes.clone(),
        }
    }

    /// Proves that the bytes are exactly one batch that a client may append: size at most `bytes_max`, format 2, right
    /// checksum, as many records as offsets, a known codec, no control batch, and a producer stamp that makes sense.
    /// Sizes are checked before the checksum is computed. The records themselves are not looked into, see
    /// [`RecordBatch::check_records`].
    pub fn verify(self, bytes_max: usize) -> Result<RecordBatch, BatchError> {
        let bytes = self.as_bytes();
        if bytes.len() > bytes_max {
            return Err(BatchError::TooLarge { bytes: bytes.len(), max: bytes_max });
        }
        let header = BatchHeader::parse(bytes)?;
        header.check_client(bytes.len())?;
        header.check_checksum(bytes)?;
        let bytes = match self.0 {
            BatchBytes::Owned(bytes) => bytes,
            // The last holder of the bytes may change them; any other needs its own copy.
            BatchBytes::Shared(bytes) => bytes.try_into_mut().unwrap_or_else(|bytes| BytesMut::from(&*bytes)),
        };
        Ok(RecordBatch { header, bytes })
    }
}

/// Equal when the bytes are.
impl PartialEq for UnverifiedBatch {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for UnverifiedBatch {}

/// A proven batch that has no place in a log yet. The offsets in its header are the client's and mean nothing.
#[derive(Debug)]
pub struct RecordBatch {
    header: BatchHeader,
    bytes: BytesMut,
}

impl RecordBatch {
    /// The header.
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Bytes of the whole batch.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// How many records it has; at least one.
    pub fn record_count(&self) -> u32 {
        self.header.records()
    }

    /// Who produced it, when that was an idempotent producer.
    pub const fn producer(&self) -> Option<ProducerStamp> {
        self.header.producer()
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Gives the records the leader's time: sets the timestamp type and the maximum timestamp, and the checksum anew.
    pub fn set_append_time(&mut self, at: Timestamp) {
        self.header.attributes |= TIMESTAMP_TYPE_BIT;
        self.header.max_timestamp = at.as_millis();
        patch(&mut self.bytes, ATTRIBUTES_AT, self.header.attributes.to_be_bytes());
        patch(&mut self.bytes, MAX_TIMESTAMP_AT, at.as_millis().to_be_bytes());
        self.header.crc = header::checksum(&self.bytes);
        patch(&mut self.bytes, CRC_AT, self.header.crc.to_be_bytes());
    }

    /// Checks every record's structure, as a consumer would read it: lengths, consecutive offset deltas, headers. Expands
    /// compressed records to at most `expanded_bytes_max`. Not on the hot path: a batch with a right checksum and wrong
    /// records harms only its readers, who check.
    pub fn check_records(&self, expanded_bytes_max: usize) -> Result<(), BatchError> {
        self.on_records(expanded_bytes_max, |plain| records::check(plain, &self.header, records::Deltas::Consecutive))
    }

    /// The same, and that every record has a key: a topic that keeps the last record of each key takes no others.
    pub fn check_keys(&self, expanded_bytes_max: usize) -> Result<(), BatchError> {
        self.on_records(expanded_bytes_max, |plain| records::check_keyed(plain, &self.header))
    }

    fn on_records(
        &self,
        expanded_bytes_max: usize,
        check: impl FnOnce(&[u8]) -> Result<(), BatchError>,
    ) -> Result<(), BatchError> {
        let stored = self.bytes.get(BATCH_HEADER_BYTES..).unwrap_or_default();
        let expanded = match self.header.codec()? {
            Compression::None if stored.len() <= expanded_bytes_max => None,
            codec => Some(codec.decompress(&Bytes::copy_from_slice(stored), expanded_bytes_max)?),
        };
        check(expanded.as_deref().unwrap_or(stored))
    }

    /// Puts the batch at `base`, under the leader of `epoch`, in place.
    ///
    /// # Panics
    ///
    /// When the offsets would end past [`Offset::MAX`] or the epoch does not fit the format's signed 32 bits: both are
    /// the leader's own state, and going on would corrupt its log.
    pub fn place(mut self, base: Offset, epoch: LeaderEpoch) -> PlacedBatch {
        assert!(base.checked_add(u64::from(self.record_count())).is_some(), "offsets end past the largest");
        assert!(i32::try_from(epoch.get()).is_ok(), "leader epoch {epoch} does not fit a batch");
        self.header.base_offset = base.to_wire();
        self.header.leader_epoch = epoch.get().cast_signed();
        patch(&mut self.bytes, header::BASE_OFFSET_AT, self.header.base_offset.to_be_bytes());
        patch(&mut self.bytes, header::LEADER_EPOCH_AT, self.header.leader_epoch.to_be_bytes());
        PlacedBatch::from_proven(self.header, self.bytes.freeze())
    }

    /// Keeps the place that the batch carries, as its leader gave it. Fails with `Position` when that is none.
    pub fn into_placed(self) -> Result<PlacedBatch, BatchError> {
        self.header.check_position()?;
        Ok(PlacedBatch::from_proven(self.header, self.bytes.freeze()))
    }
}

/// Overwrites a header field of a proven batch, which is long enough.
fn patch<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    let field = bytes.get_mut(at..at + N);
    debug_assert!(field.is_some());
    if let Some(field) = field {
        field.copy_from_slice(&value);
    }
}

const _: () = assert!(BATCH_RECORDS_MAX < i32::MAX as usize);
