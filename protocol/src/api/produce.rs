//! Appending record batches, and getting an identity to do so exactly once (KIP-98).

use bytes::BytesMut;

use super::session::ErrorBody;
use super::{ApiKey, Message, Request, field_message, messages};
use crate::batch::UnverifiedBatch;
use crate::codec::{DecodeError, Field, Reader, Writer, field_struct};
use crate::epoch::LeaderEpoch;
use crate::ids::{PartitionIndex, ProducerEpoch, ProducerId, TopicId};
use crate::limits::PARTITIONS_PER_REQUEST_MAX;
use crate::offset::Offset;
use crate::payload::Payload;
use crate::timestamp::Timestamp;

/// What must have happened before a produce request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Acks {
    /// Nothing: no response is sent, and an error closes the connection.
    None = 0,
    /// The batch is on the leader's disk.
    Leader = 1,
    /// The batch is on the disk of every in-sync replica.
    #[default]
    All = 2,
}

impl Acks {
    /// Reads the wire's number.
    pub const fn from_wire(acks: u8) -> Option<Self> {
        match acks {
            0 => Some(Self::None),
            1 => Some(Self::Leader),
            2 => Some(Self::All),
            _ => None,
        }
    }

    /// The wire's number.
    pub const fn to_wire(self) -> u8 {
        self as u8
    }
}

/// Appends one batch to each of some partitions. The batches are the frame's payload, in the order of the partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProduceRequest {
    /// When to answer.
    pub acks: Acks,
    /// Where to append what; each partition at most once.
    pub partitions: Vec<ProducePartition>,
}

/// One partition's batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducePartition {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionIndex,
    /// The leader epoch the client knows, or [`LeaderEpoch::UNKNOWN`].
    pub leader_epoch: LeaderEpoch,
    /// The batch, as it came.
    pub batch: UnverifiedBatch,
}

/// Bytes of a produce request's body before its first partition.
const HEAD_BYTES: usize = 5;
/// Bytes of one partition in a produce request's body.
const PARTITION_BYTES: usize = 28;

impl Message for ProduceRequest {
    const API: ApiKey = ApiKey::Produce;

    #[inline]
    fn body_bytes_hint(&self) -> usize {
        HEAD_BYTES + self.partitions.len() * PARTITION_BYTES
    }

    #[inline]
    fn encode(&self, w: &mut Writer<'_>) {
        w.fixed::<HEAD_BYTES>().u8(self.acks.to_wire()).length(self.partitions.len()).finish();
        for partition in &self.partitions {
            w.fixed::<PARTITION_BYTES>()
                .topic(partition.topic)
                .u32(partition.partition.get())
                .u32(partition.leader_epoch.get())
                .length(partition.batch.len())
                .finish();
        }
    }

    #[inline]
    fn payload(&self) -> Payload {
        let mut payload = Payload::None;
        for partition in &self.partitions {
            payload.push(partition.batch.to_bytes());
        }
        payload
    }

    #[inline]
    fn decode(r: &mut Reader<'_>, payload: &mut BytesMut) -> Result<Self, DecodeError> {
        let acks = r.u8()?;
        let acks = Acks::from_wire(acks).ok_or(DecodeError::Invalid { field: "ack level", value: u64::from(acks) })?;
        let count = r.array_len(PARTITION_BYTES, PARTITIONS_PER_REQUEST_MAX)?;
        let mut partitions = r.vec_for(count);
        for _ in 0..count {
            let mut fields = Reader::new(r.fixed::<PARTITION_BYTES>()?);
            partitions.push(ProducePartition {
                topic: Field::read(&mut fields)?,
                partition: Field::read(&mut fields)?,
                leader_epoch: Field::read(&mut fields)?,
                batch: take_batch(payload, fields.u32()?)?,
            });
        }
        Ok(Self { acks, partitions })
    }
}

/// Takes one batch off the front of the payload.
#[inline]
fn take_batch(payload: &mut BytesMut, bytes: u32) -> Result<UnverifiedBatch, DecodeError> {
    match usize::try_from(bytes) {
        // The usual request has one batch: moving it costs less than splitting nothing off.
        Ok(bytes) if bytes == payload.len() => Ok(UnverifiedBatch::new(std::mem::take(payload))),
        Ok(bytes) if bytes < payload.len() => Ok(UnverifiedBatch::new(payload.split_to(bytes))),
        needed => Err(DecodeError::PayloadTooShort { needed: needed.unwrap_or(usize::MAX), remaining: payload.len() }),
    }
}

impl Request for ProduceRequest {
    type Response = ProduceResponse;
}

field_struct! {
    /// What became of each partition's batch, in the order of the request.
    pub struct ProduceResponse {
        /// One for each partition of the request.
        pub partitions: Vec<ProduceOutcome>,
    }
}
field_message!(Produce, ProduceResponse);

field_struct! {
    /// What became of one partition's batch.
    pub struct ProduceOutcome {
        /// The topic.
        pub topic: TopicId,
        /// The partition.
        pub partition: PartitionIndex,
        /// Where the batch is, or why it is not there.
        pub result: Result<Produced, ErrorBody>,
    }
    count_max = PARTITIONS_PER_REQUEST_MAX;
}

field_struct! {
    /// Where a batch is.
    #[derive(Copy)]
    pub struct Produced {
        /// The offset of its first record.
        pub base_offset: Offset,
        /// The append time given to its records, or [`Timestamp::NONE`] when they kept their own.
        pub timestamp: Timestamp,
        /// How safe it was when this was sent.
        pub receipt: Receipt,
    }
}

field_struct! {
    /// How many replicas had a batch when its acknowledgement was sent.
    #[derive(Copy, Hash)]
    pub struct Receipt {
        /// Replicas that hold it, in memory at least.
        pub replicas: u8,
        /// Replicas that have it on disk.
        pub durable: u8,
    }
}

field_struct! {
    /// Asks for an identity for idempotent producing, or for the next epoch of one.
    pub struct InitProducerRequest {
        /// The identity to renew, or `None` for a new one.
        pub producer: Option<(ProducerId, ProducerEpoch)>,
    }
}

field_struct! {
    /// An identity for idempotent producing.
    #[derive(Copy)]
    pub struct InitProducerResponse {
        /// The producer's id.
        pub id: ProducerId,
        /// Its epoch; older ones are fenced.
        pub epoch: ProducerEpoch,
    }
}

messages! {
    InitProducer: InitProducerRequest => InitProducerResponse;
}
