//! Streams of record batches: a subscription, its credit, its end.

use bytes::BytesMut;

use super::fetch::{FetchOutcome, outcomes_bytes_hint, outcomes_payload, read_outcomes, write_outcomes};
use super::session::ErrorBody;
use super::{ApiKey, Message, messages};
use crate::codec::{DecodeError, Reader, Writer, field_struct};
use crate::epoch::LeaderEpoch;
use crate::ids::{PartitionIndex, TopicId};
use crate::limits::PARTITIONS_PER_REQUEST_MAX;
use crate::offset::Offset;
use crate::payload::Payload;

field_struct! {
    /// Starts a stream of committed batches from some partitions.
    pub struct SubscribeRequest {
        /// The client's number for it, not in use on this connection.
        pub subscription: u32,
        /// Record bytes the broker may push before it needs more credit.
        pub credit_bytes: u64,
        /// Where to start.
        pub partitions: Vec<SubscribePartition>,
        /// Where the reader stands, as in [`FetchRequest`](super::fetch::FetchRequest).
        pub rack: Option<String>,
    }
}

field_struct! {
    /// Where to start in one partition.
    #[derive(Copy)]
    pub struct SubscribePartition {
        /// The topic.
        pub topic: TopicId,
        /// The partition.
        pub partition: PartitionIndex,
        /// The first offset wanted.
        pub offset: Offset,
        /// The leader epoch the client knows, or [`LeaderEpoch::UNKNOWN`].
        pub leader_epoch: LeaderEpoch,
    }
    count_max = PARTITIONS_PER_REQUEST_MAX;
}

field_struct! {
    /// Which partitions are streaming now.
    pub struct SubscribeResponse {
        /// For each partition of the request, its log's ends or why it does not stream.
        pub partitions: Vec<(TopicId, PartitionIndex, Result<Watermarks, ErrorBody>)>,
    }
}

field_struct! {
    /// The ends of a partition's log.
    #[derive(Copy)]
    pub struct Watermarks {
        /// The first offset still there.
        pub log_start: Offset,
        /// The first offset not committed yet.
        pub high_watermark: Offset,
    }
}

field_struct! {
    /// Lets a stream push more. One-way; an unknown subscription is ignored, for it may just have ended.
    #[derive(Copy)]
    pub struct CreditRequest {
        /// The stream.
        pub subscription: u32,
        /// Record bytes to add to its credit.
        pub add_bytes: u64,
    }
}

field_struct! {
    /// Never sent: credit is one-way.
    #[derive(Copy)]
    pub struct CreditResponse {}
}

field_struct! {
    /// Ends a stream. Pushes already under way may still arrive, before the response.
    #[derive(Copy)]
    pub struct UnsubscribeRequest {
        /// The stream.
        pub subscription: u32,
    }
}

field_struct! {
    /// The stream has ended; nothing more of it follows.
    #[derive(Copy)]
    pub struct UnsubscribeResponse {}
}

messages! {
    Subscribe: SubscribeRequest => SubscribeResponse;
    Credit: CreditRequest => CreditResponse;
    Unsubscribe: UnsubscribeRequest => UnsubscribeResponse;
}

/// Batches of a subscription, pushed under the correlation of its request. An error outcome ends that partition's part
/// of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedBatches {
    /// The stream.
    pub subscription: u32,
    /// What there is, for some of its partitions.
    pub partitions: Vec<FetchOutcome>,
}

impl Message for PushedBatches {
    const API: ApiKey = ApiKey::Subscribe;

    #[inline]
    fn body_bytes_hint(&self) -> usize {
        4 + outcomes_bytes_hint(&self.partitions)
    }

    #[inline]
    fn encode(&self, w: &mut Writer<'_>) {
        w.u32(self.subscription);
        write_outcomes(&self.partitions, w);
    }

    #[inline]
    fn payload(&self) -> Payload {
        outcomes_payload(&self.partitions)
    }

    #[inline]
    fn decode(r: &mut Reader<'_>, payload: &mut BytesMut) -> Result<Self, DecodeError> {
        Ok(Self { subscription: r.u32()?, partitions: read_outcomes(r, payload)? })
    }
}
