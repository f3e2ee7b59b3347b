//! Reading record batches.

use bytes::{Bytes, BytesMut};

use super::session::ErrorBody;
use super::{ApiKey, Message, Request};
use crate::codec::{DecodeError, Field, Reader, Writer, field_struct};
use crate::epoch::LeaderEpoch;
use crate::ids::{PartitionIndex, TopicId};
use crate::limits::PARTITIONS_PER_REQUEST_MAX;
use crate::offset::Offset;
use crate::payload::Payload;

/// Reads committed batches from some partitions, and waits a while when there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    /// How long to wait for `bytes_min`, in milliseconds.
    pub wait_ms: u32,
    /// Answer as soon as this many bytes are there.
    pub bytes_min: u32,
    /// Record bytes in the whole answer, at most; the first batch comes whole even if it is larger.
    pub bytes_max: u32,
    /// What to read, most wanted first.
    pub partitions: Vec<FetchPartition>,
    /// Where the reader stands. Then the leader may name a replica in sync that stands there too, and such a replica
    /// answers; without it only the leader does.
    pub rack: Option<String>,
}

field_struct! {
    /// Where to read in one partition.
    #[derive(Copy)]
    pub struct FetchPartition {
        /// The topic.
        pub topic: TopicId,
        /// The partition.
        pub partition: PartitionIndex,
        /// The first offset wanted.
        pub offset: Offset,
        /// Record bytes of this partition, at most.
        pub bytes_max: u32,
        /// The leader epoch the client knows, or [`LeaderEpoch::UNKNOWN`].
        pub leader_epoch: LeaderEpoch,
    }
    count_max = PARTITIONS_PER_REQUEST_MAX;
}

/// Bytes of one partition in a fetch request's body.
const PARTITION_BYTES: usize = 36;
const _: () = assert!(PARTITION_BYTES == FetchPartition::BYTES_MIN);
/// Bytes of a fetch request's body before its first partition.
const HEAD_BYTES: usize = 16;

impl Message for FetchRequest {
    const API: ApiKey = ApiKey::Fetch;

    #[inline]
    fn body_bytes_hint(&self) -> usize {
        HEAD_BYTES + self.partitions.len() * PARTITION_BYTES + 2 + self.rack.as_ref().map_or(0, String::len)
    }

    #[inline]
    fn encode(&self, w: &mut Writer<'_>) {
        w.fixed::<HEAD_BYTES>()
            .u32_pair(self.wait_ms, self.bytes_min)
            .u32_and_length(self.bytes_max, self.partitions.len())
            .finish();
        for partition in &self.partitions {
            w.fixed::<PARTITION_BYTES>()
                .topic(partition.topic)
                .u32_u64_u32(partition.partition.get(), partition.offset.get(), partition.bytes_max)
                .u32(partition.leader_epoch.get())
                .finish();
        }
        self.rack.write(w);
    }

    #[inline]
    fn decode(r: &mut Reader<'_>, _: &mut BytesMut) -> Result<Self, DecodeError> {
        let (wait_ms, bytes_min, bytes_max) = (r.u32()?, r.u32()?, r.u32()?);
        let count = r.array_len(PARTITION_BYTES, PARTITIONS_PER_REQUEST_MAX)?;
        let mut partitions = r.vec_for(count);
        for _ in 0..count {
            partitions.push(FetchPartition::read(&mut Reader::new(r.fixed::<PARTITION_BYTES>()?))?);
        }
        let rack = Option::<String>::read(r)?;
        Ok(Self { wait_ms, bytes_min, bytes_max, partitions, rack })
    }
}

impl Request for FetchRequest {
    type Response = FetchResponse;
}

/// What was read, in the order of the request. The batches are the frame's payload, in the order of the outcomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchResponse {
    /// One for each partition of the request.
    pub partitions: Vec<FetchOutcome>,
}

/// What was read from one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchOutcome {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionIndex,
    /// The batches, or why there are none.
    pub result: Result<Fetched, ErrorBody>,
}

/// Batches of one partition with the ends of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The first offset not committed yet.
    pub high_watermark: Offset,
    /// The first offset still there.
    pub log_start: Offset,
    /// Whole record batches back to back, perhaps none. The first may start before the offset asked for.
    pub batches: Batches,
}

/// Record batches back to back. Written from the chunks they were read in, read as one piece: no copy either way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batches(Payload);

impl Batches {
    /// No batch.
    pub const EMPTY: Self = Self(Payload::None);

    /// Batches as they were read: each chunk holds whole ones.
    pub fn from_chunks(chunks: Vec<Bytes>) -> Self {
        Self(chunks.into())
    }

    /// Batches in one piece.
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self(bytes.into())
    }

    /// The chunks, in order; one at most after decoding.
    pub fn chunks(&self) -> &[Bytes] {
        self.0.chunks()
    }

    /// Bytes of all batches together.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there is no batch.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All batches in one piece: no copy after decoding.
    pub fn into_bytes(self) -> Bytes {
        self.0.into_bytes()
    }
}

impl Message for FetchResponse {
    const API: ApiKey = ApiKey::Fetch;

    #[inline]
    fn body_bytes_hint(&self) -> usize {
        outcomes_bytes_hint(&self.partitions)
    }

    #[inline]
    fn encode(&self, w: &mut Writer<'_>) {
        write_outcomes(&self.partitions, w);
    }

    #[inline]
    fn payload(&self) -> Payload {
        outcomes_payload(&self.partitions)
    }

    #[inline]
    fn decode(r: &mut Reader<'_>, payload: &mut BytesMut) -> Result<Self, DecodeError> {
        read_outcomes(r, payload).map(|partitions| Self { partitions })
    }
}

/// Bytes of a successful outcome in a body.
const OUTCOME_BYTES: usize = 42;
/// Bytes of the shortest outcome in a body: an error with an empty message.
const OUTCOME_BYTES_MIN: usize = 24;

#[inline]
pub(super) fn outcomes_bytes_hint(outcomes: &[FetchOutcome]) -> usize {
    4 + outcomes.len() * OUTCOME_BYTES
}

#[inline]
pub(super) fn write_outcomes(outcomes: &[FetchOutcome], w: &mut Writer<'_>) {
    w.array_len(outcomes.len());
    for outcome in outcomes {
        match &outcome.result {
            Ok(fetched) => {
                w.fixed::<OUTCOME_BYTES>()
                    .topic(outcome.topic)
                    .u32(outcome.partition.get())
                    .u16(0)
                    .u64(fetched.high_watermark.get())
                    .u64(fetched.log_start.get())
                    .length(fetched.batches.len())
                    .finish();
            }
            Err(error) => {
                outcome.topic.write(w);
                outcome.partition.write(w);
                error.write(w);
            }
        }
    }
}

#[inline]
pub(super) fn outcomes_payload(outcomes: &[FetchOutcome]) -> Payload {
    let mut payload = Payload::None;
    for fetched in outcomes.iter().filter_map(|outcome| outcome.result.as_ref().ok()) {
        for chunk in fetched.batches.chunks() {
            payload.push(chunk.clone());
        }
    }
    payload
}

#[inline]
pub(super) fn read_outcomes(r: &mut Reader<'_>, payload: &mut BytesMut) -> Result<Vec<FetchOutcome>, DecodeError> {
    let count = r.array_len(OUTCOME_BYTES_MIN, PARTITIONS_PER_REQUEST_MAX)?;
    let mut outcomes = r.vec_for(count);
    for _ in 0..count {
        outcomes.push(FetchOutcome {
            topic: Field::read(r)?,
            partition: Field::read(r)?,
            result: match Result::<FetchedHead, ErrorBody>::read(r)? {
                Ok(head) => Ok(Fetched {
                    high_watermark: head.high_watermark,
                    log_start: head.log_start,
                    batches: Batches::from_bytes(take_chunk(payload, head.batches_bytes)?),
                }),
                Err(error) => Err(error),
            },
        });
    }
    Ok(outcomes)
}

field_struct! {
    /// [`Fetched`] as the body has it, the batches being elsewhere.
    struct FetchedHead {
        /// The first offset not committed yet.
        pub high_watermark: Offset,
        /// The first offset still there.
        pub log_start: Offset,
        /// Bytes of the batches in the payload.
        pub batches_bytes: u32,
    }
}

/// Takes one partition's batches off the front of the payload.
#[inline]
pub(super) fn take_chunk(payload: &mut BytesMut, bytes: u32) -> Result<Bytes, DecodeError> {
    match usize::try_from(bytes) {
        Ok(0) => Ok(Bytes::new()),
        Ok(bytes) if bytes == payload.len() => Ok(std::mem::take(payload).freeze()),
        Ok(bytes) if bytes < payload.len() => Ok(payload.split_to(bytes).freeze()),
        needed => Err(DecodeError::PayloadTooShort { needed: needed.unwrap_or(usize::MAX), remaining: payload.len() }),
    }
}
