//! Between two replicas of a partition, on the cluster listener only: what one disk has lost is read from another.

use bytes::BytesMut;

use super::fetch::{Batches, take_chunk};
use super::{ApiKey, Message, Request, field_message};
use crate::codec::{DecodeError, Reader, Writer, field_struct};
use crate::epoch::{BrokerEpoch, LeaderEpoch};
use crate::ids::{BrokerId, PartitionIndex, TopicId};
use crate::offset::Offset;
use crate::payload::Payload;

field_struct! {
    /// Asks a replica, leader or follower, for committed batches as it has them.
    #[derive(Copy)]
    pub struct ReplicaRepairRequest {
        /// Who asks: a replica of the partition.
        pub broker: BrokerId,
        /// The epoch of its registration.
        pub broker_epoch: BrokerEpoch,
        /// The topic.
        pub topic: TopicId,
        /// The partition.
        pub partition: PartitionIndex,
        /// The leader epoch that both must be in: then both logs are the leader's up to their watermarks.
        pub leader_epoch: LeaderEpoch,
        /// The first offset wanted.
        pub from: Offset,
        /// The offset after the last one wanted.
        pub to: Offset,
        /// Record bytes, at most; one batch comes whole even if it is larger.
        pub bytes_max: u32,
    }
}

/// The batches, as the frame's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaRepairResponse {
    /// Whole batches back to back, at least one: the first holds the first offset wanted, all are committed.
    pub batches: Batches,
}

impl Message for ReplicaRepairResponse {
    const API: ApiKey = ApiKey::ReplicaRepair;

    fn body_bytes_hint(&self) -> usize {
        size_of::<u32>()
    }

    fn encode(&self, w: &mut Writer<'_>) {
        w.u32(u32::try_from(self.batches.len()).unwrap_or(u32::MAX));
    }

    fn payload(&self) -> Payload {
        let mut payload = Payload::None;
        for chunk in self.batches.chunks() {
            payload.push(chunk.clone());
        }
        payload
    }

    fn decode(r: &mut Reader<'_>, payload: &mut BytesMut) -> Result<Self, DecodeError> {
        let bytes = r.u32()?;
        Ok(Self { batches: Batches::from_bytes(take_chunk(payload, bytes)?) })
    }
}

field_message!(ReplicaRepair, ReplicaRepairRequest);

impl Request for ReplicaRepairRequest {
    type Response = ReplicaRepairResponse;
}
