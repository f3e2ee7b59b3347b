//! The records inside a batch: reading them one after the other, as slices of the batch.
//!
//! A record is its length, attributes (unused), timestamp delta, offset delta, key, value and headers; every number but
//! the attributes is a zigzag varint, and a length of -1 means absent.

use bytes::Bytes;

use super::{BatchError, BatchHeader, TimestampType};
use crate::limits::{BATCH_RECORDS_MAX, RECORD_HEADERS_MAX};
use crate::offset::Offset;
use crate::record::{Header, Record, StoredRecord};
use crate::timestamp::Timestamp;
use crate::varint::{read_varint, read_varlong};

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The record, or a field of it, reaches past its end, or a number in it does not end.
    #[error("it is cut")]
    Truncated,
    /// Bytes follow the record's last field.
    #[error("{bytes} bytes follow its last field")]
    TrailingBytes {
        /// How many.
        bytes: usize,
    },
    /// A length or count is negative where it must not be.
    #[error("{0} is no length")]
    NegativeLength(i32),
    /// It has more headers than allowed.
    #[error("it has {0} headers, at most {RECORD_HEADERS_MAX} are allowed")]
    TooManyHeaders(i32),
    /// Its offset is not after the one before, or past the batch's last.
    #[error("its offset delta {0} is out of order")]
    OffsetDelta(i32),
    /// It has no key where every record must have one.
    #[error("it has no key")]
    NoKey,
    /// The batch has more records than its header says, or than allowed.
    #[error("the batch has more bytes than records")]
    TooManyRecords,
}

/// How the offset deltas of a batch's records must follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deltas {
    /// 0, 1, 2 and so on: a producer's.
    Consecutive,
    /// Ascending: a stored batch that may have lost records to compaction.
    Ascending,
}

/// A record's fields as slices of the records' bytes.
struct RawRecord<'a> {
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    header_count: usize,
    /// The headers' bytes, proven to be `header_count` headers.
    headers: &'a [u8],
}

/// Where reading is in a batch's records.
#[derive(Clone, Debug)]
struct Progress {
    deltas: Deltas,
    index: usize,
    count: usize,
    last_offset_delta: i32,
    /// The smallest offset delta the next record may have.
    next_delta: i64,
}

impl Progress {
    fn new(header: &BatchHeader, deltas: Deltas) -> Self {
        let count = usize::try_from(header.record_count).unwrap_or(0).min(BATCH_RECORDS_MAX);
        Self { deltas, index: 0, count, last_offset_delta: header.last_offset_delta, next_delta: 0 }
    }

    /// Takes the next record off the front of `rest`; `None` after the last one.
    fn next<'a>(&mut self, rest: &mut &'a [u8]) -> Option<Result<RawRecord<'a>, BatchError>> {
        if self.index == self.count {
            return (!rest.is_empty()).then(|| Err(self.error(RecordError::TooManyRecords)));
        }
        let record = match read_record(rest) {
            Ok(record) => record,
            Err(source) => return Some(Err(self.error(source))),
        };
        let delta = i64::from(record.offset_delta);
        let in_order = match self.deltas {
            Deltas::Consecutive => delta == self.next_delta,
            Deltas::Ascending => delta >= self.next_delta,
        };
        if !in_order || record.offset_delta > self.last_offset_delta {
            return Some(Err(self.error(RecordError::OffsetDelta(record.offset_delta))));
        }
        self.index += 1;
        self.next_delta = delta + 1;
        Some(Ok(record))
    }

    const fn error(&self, source: RecordError) -> BatchError {
        BatchError::Record { index: self.index, source }
    }
}

/// Checks the structure of every record in `plain`.
pub(super) fn check(plain: &[u8], header: &BatchHeader, deltas: Deltas) -> Result<(), BatchError> {
    let mut progress = Progress::new(header, deltas);
    let mut rest = plain;
    while let Some(record) = progress.next(&mut rest) {
        record?;
    }
    Ok(())
}

/// Checks the structure of every record in `plain`, and that it has a key.
pub(super) fn check_keyed(plain: &[u8], header: &BatchHeader) -> Result<(), BatchError> {
    let mut progress = Progress::new(header, Deltas::Consecutive);
    let mut rest = plain;
    while let Some(record) = progress.next(&mut rest) {
        if record?.key.is_none() {
            return Err(BatchError::Record { index: progress.index.saturating_sub(1), source: RecordError::NoKey });
        }
    }
    Ok(())
}

/// Iterates over the records of a stored batch. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Records {
    plain: Bytes,
    /// Where in `plain` the next record starts.
    position: usize,
    progress: Progress,
    base_offset: Offset,
    base_timestamp: i64,
    /// The one time of all records, when the leader gave it.
    append_time: Option<Timestamp>,
}

impl Records {
    pub(super) fn new(plain: Bytes, header: &BatchHeader, base_offset: Offset) -> Self {
        let append_time = match header.timestamp_type() {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(header.max_timestamp()),
        };
        let progress = Progress::new(header, Deltas::Ascending);
        Self { plain, position: 0, progress, base_offset, base_timestamp: header.base_timestamp, append_time }
    }

    /// How many records are still to come, if all are well.
    pub const fn remaining(&self) -> usize {
        self.progress.count - self.progress.index
    }

    fn stored(&self, raw: &RawRecord<'_>) -> Result<StoredRecord, BatchError> {
        let slice = |field: &[u8]| self.plain.slice_ref(field);
        let mut headers = Vec::with_capacity(raw.header_count);
        let mut rest = raw.headers;
        for _ in 0..raw.header_count {
            let (key, value) = read_header(&mut rest).map_err(|source| self.progress.error(source))?;
            headers.push(Header { key: slice(key), value: value.map(slice) });
        }
        let delta = u64::try_from(raw.offset_delta).ok();
        let offset = delta.and_then(|delta| self.base_offset.checked_add(delta));
        let timestamp = match self.append_time {
            Some(at) => at,
            None => Timestamp::from_millis(self.base_timestamp.wrapping_add(raw.timestamp_delta)),
        };
        Ok(StoredRecord {
            offset: offset.ok_or(self.progress.error(RecordError::OffsetDelta(raw.offset_delta)))?,
            record: Record { key: raw.key.map(slice), value: raw.value.map(slice), headers, timestamp },
        })
    }

    /// After an error the rest means nothing.
    fn end(&mut self) {
        self.position = self.plain.len();
        self.progress.count = self.progress.index;
    }
}

impl Iterator for Records {
    type Item = Result<StoredRecord, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut rest = self.plain.get(self.position..).unwrap_or_default();
        let next = match self.progress.next(&mut rest)? {
            Ok(raw) => self.stored(&raw),
            Err(error) => Err(error),
        };
        self.position = self.plain.len() - rest.len();
        if next.is_err() {
            self.end();
        }
        Some(next)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // The count is the header's word, not worth a reservation.
        (0, Some(self.remaining() + 1))
    }
}

impl std::iter::FusedIterator for Records {}

#[inline]
fn read_record<'a>(rest: &mut &'a [u8]) -> Result<RawRecord<'a>, RecordError> {
    let mut fields = take(rest)?.ok_or(RecordError::NegativeLength(-1))?;
    // Attributes of a record mean nothing yet.
    fields = fields.split_first().ok_or(RecordError::Truncated)?.1;
    let timestamp_delta = read_varlong(&mut fields).ok_or(RecordError::Truncated)?;
    let offset_delta = read_varint(&mut fields).ok_or(RecordError::Truncated)?;
    let key = take(&mut fields)?;
    let value = take(&mut fields)?;
    let declared = read_varint(&mut fields).ok_or(RecordError::Truncated)?;
    let header_count = usize::try_from(declared).map_err(|_| RecordError::NegativeLength(declared))?;
    if header_count > RECORD_HEADERS_MAX {
        return Err(RecordError::TooManyHeaders(declared));
    }
    let headers = fields;
    for _ in 0..header_count {
        read_header(&mut fields)?;
    }
    if !fields.is_empty() {
        return Err(RecordError::TrailingBytes { bytes: fields.len() });
    }
    Ok(RawRecord { timestamp_delta, offset_delta, key, value, header_count, headers })
}

fn read_header<'a>(fields: &mut &'a [u8]) -> Result<(&'a [u8], Option<&'a [u8]>), RecordError> {
    let key = take(fields)?.ok_or(RecordError::NegativeLength(-1))?;
    Ok((key, take(fields)?))
}

/// Takes a length and that many bytes; -1 is absence.
#[inline]
fn take<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, RecordError> {
    match read_varint(rest).ok_or(RecordError::Truncated)? {
        -1 => Ok(None),
        declared => {
            let length = usize::try_from(declared).map_err(|_| RecordError::NegativeLength(declared))?;
            let (taken, after) = rest.split_at_checked(length).ok_or(RecordError::Truncated)?;
            *rest = after;
            Ok(Some(taken))
        }
    }
}
