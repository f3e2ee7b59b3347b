//! Reading: consumers never past the high watermark, followers up to the log end.

use bytes::Bytes;
use streambus_protocol::api::fetch::{Batches, Fetched};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::offset::Offset;
use streambus_storage::partition_log::{DiskRead, Read, ReadLimit};

use crate::partition::Partition;
use crate::service::refusal;

/// What a read found, with the ends of the log as they were before it.
#[derive(Debug)]
pub struct PartitionRead {
    /// The first offset still there.
    pub log_start: Offset,
    /// The first offset not committed.
    pub high_watermark: Offset,
    /// The batches, or where they are.
    pub found: Found,
}

/// How far a read may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadScope {
    /// What is committed: for consumers.
    Committed,
    /// What this broker, which follows, knows to be committed: for consumers near it. What is not here may well be at the
    /// leader.
    Followed,
    /// Everything in the log, on stable storage or not: for followers.
    Accepted,
}

/// Where the batches of a read are.
#[derive(Debug)]
pub enum Found {
    /// Nothing is committed at the offset yet.
    Nothing,
    /// In memory; `next` is the offset after the last one.
    InMemory {
        /// Whole batches.
        chunks: Vec<Bytes>,
        /// Where the next read starts.
        next: Offset,
    },
    /// On disk: [`DiskRead::run`] blocks.
    OnDisk(DiskRead),
}

impl PartitionRead {
    /// The answer with `chunks` as its batches.
    pub fn answer(&self, chunks: Vec<Bytes>) -> Fetched {
        Fetched {
            high_watermark: self.high_watermark,
            log_start: self.log_start,
            batches: Batches::from_chunks(chunks),
        }
    }
}

impl Partition {
    /// Reads whole batches from `from` on: at most `bytes_max` bytes, but at least one batch if `scope` has one there.
    ///
    /// # Errors
    /// `OFFSET_OUT_OF_RANGE` below the log start or above the log end; `STORAGE_DAMAGED` where the disk lost them.
    pub fn read(&self, from: Offset, bytes_max: usize, scope: ReadScope) -> Result<PartitionRead, ErrorBody> {
        // In the order of the number line: each is at most the ones read after it.
        let log_start = self.log.log_start();
        let high_watermark = self.high_watermark();
        let log_end = self.log.log_end();
        if scope == ReadScope::Followed && (from < log_start || from > log_end) {
            return Err(ErrorBody::new(
                ErrorCode::OffsetNotAvailable,
                format!(
                    "offset {from} of '{}' partition {} is not at this follower, which has {log_start} up to {log_end}: \
                     ask the leader",
                    self.topic, self.id.partition
                ),
            ));
        }
        if from < log_start || from > log_end {
            return Err(ErrorBody::new(
                ErrorCode::OffsetOutOfRange,
                format!(
                    "offset {from} is outside the log of '{}' partition {}, which has {log_start} up to {log_end}: start \
                     at the earliest or latest offset",
                    self.topic, self.id.partition
                ),
            ));
        }
        let nothing = |found| PartitionRead { log_start, high_watermark, found };
        let below = match scope {
            ReadScope::Committed | ReadScope::Followed => high_watermark,
            ReadScope::Accepted => log_end,
        };
        if from >= below {
            return Ok(nothing(Found::Nothing));
        }
        let found = match self.log.read(from, ReadLimit { bytes_max, below }) {
            Ok(Read::Ready(chunks, _)) if chunks.is_empty() => Found::Nothing,
            Ok(Read::Ready(chunks, next)) => Found::InMemory { chunks, next },
            Ok(Read::Disk(read)) => Found::OnDisk(read),
            Err(error) => return Err(refusal::read(self, from, &error)),
        };
        Ok(PartitionRead { log_start, high_watermark, found })
    }
}
