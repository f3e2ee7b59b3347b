//! Finding offsets by position or time.

use super::messages;
use super::session::ErrorBody;
use crate::codec::{DecodeError, Field, Reader, Writer, field_struct};
use crate::ids::{PartitionIndex, TopicId};
use crate::limits::PARTITIONS_PER_REQUEST_MAX;
use crate::offset::Offset;
use crate::timestamp::Timestamp;

/// Which offset is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetQuery {
    /// The first offset still there.
    Earliest,
    /// The high watermark: where reading waits for what comes next.
    Latest,
    /// The first record whose timestamp is this or later.
    At(Timestamp),
}

impl Field for OffsetQuery {
    const BYTES_MIN: usize = 1;

    fn write(&self, w: &mut Writer<'_>) {
        match self {
            Self::Earliest => w.u8(0),
            Self::Latest => w.u8(1),
            Self::At(timestamp) => {
                w.u8(2);
                timestamp.write(w);
            }
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.u8()? {
            0 => Ok(Self::Earliest),
            1 => Ok(Self::Latest),
            2 => Timestamp::read(r).map(Self::At),
            other => Err(DecodeError::Invalid { field: "offset query", value: u64::from(other) }),
        }
    }
}

field_struct! {
    /// Asks for one offset in each of some partitions.
    pub struct ListOffsetsRequest {
        /// What is wanted where.
        pub partitions: Vec<OffsetsPartition>,
    }
}

field_struct! {
    /// What is wanted in one partition.
    #[derive(Copy)]
    pub struct OffsetsPartition {
        /// The topic.
        pub topic: TopicId,
        /// The partition.
        pub partition: PartitionIndex,
        /// Which offset.
        pub query: OffsetQuery,
    }
    count_max = PARTITIONS_PER_REQUEST_MAX;
}

field_struct! {
    /// The offsets found, in the order of the request.
    pub struct ListOffsetsResponse {
        /// One for each partition of the request.
        pub partitions: Vec<OffsetsOutcome>,
    }
}

field_struct! {
    /// What was found in one partition.
    pub struct OffsetsOutcome {
        /// The topic.
        pub topic: TopicId,
        /// The partition.
        pub partition: PartitionIndex,
        /// The offset, or why there is none.
        pub result: Result<OffsetFound, ErrorBody>,
    }
    count_max = PARTITIONS_PER_REQUEST_MAX;
}

field_struct! {
    /// An offset found.
    #[derive(Copy)]
    pub struct OffsetFound {
        /// The offset; the high watermark when no record is as late as the time asked for.
        pub offset: Offset,
        /// That record's timestamp, or [`Timestamp::NONE`] when the query was not by time or found no record.
        pub timestamp: Timestamp,
    }
}

messages! {
    ListOffsets: ListOffsetsRequest => ListOffsetsResponse;
}
