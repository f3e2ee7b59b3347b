//! Between a partition's leader and its followers, on the cluster listener only.

use bytes::BytesMut;

use super::fetch::{Batches, take_chunk};
use super::session::ErrorBody;
use super::topics::ReplicaDescription;
use super::{ApiKey, Message, Request, field_message, messages};
use crate::codec::{DecodeError, Field, Reader, Writer, field_struct};
use crate::epoch::{BrokerEpoch, LeaderEpoch};
use crate::ids::{BrokerId, PartitionId, PartitionIndex, TopicId};
use crate::limits::PARTITIONS_PER_REQUEST_MAX;
use crate::offset::Offset;
use crate::payload::Payload;

field_struct! {
    /// A follower's long poll for what it does not have yet, over all partitions it copies from one leader.
    ///
    /// A session (after KIP-227) keeps what each partition said last: a request names only those that changed, the
    /// answer only those with news.
    pub struct ReplicaFetchRequest {
        /// The follower.
        pub broker: BrokerId,
        /// The epoch of its registration.
        pub broker_epoch: BrokerEpoch,
        /// The session that the leader gave; 0 when there is none.
        pub session: u32,
        /// Counts the requests of a session; 0 starts a new one, with every partition in `changed`.
        pub sequence: u32,
        /// How long to wait for news, in milliseconds.
        pub wait_ms: u32,
        /// Record bytes in the whole answer, at most; one batch comes whole even if it is larger.
        pub bytes_max: u32,
        /// Partitions that are new in the session, or not where the session has them.
        pub changed: Vec<ReplicaFetchPartition>,
        /// Partitions that leave the session.
        pub forgotten: Vec<PartitionId>,
    }
}

field_struct! {
    /// Where a follower is in one partition.
    #[derive(Copy)]
    pub struct ReplicaFetchPartition {
        /// The topic.
        pub topic: TopicId,
        /// The partition.
        pub partition: PartitionIndex,
        /// The leader epoch the follower follows.
        pub leader_epoch: LeaderEpoch,
        /// What to read next: the follower's log end.
        pub fetch_offset: Offset,
        /// Everything below is on the follower's stable storage: what counts for a topic whose durability is `sync`. The
        /// leader decides which of the two ends counts; the follower may know the topic's settings later than it.
        pub durable_end: Offset,
        /// What counts for a topic whose durability is `async`: everything below is accepted.
        pub accepted_end: Offset,
        /// The epoch of the follower's last batch, [`LeaderEpoch::UNKNOWN`] for an empty log.
        pub last_fetched_epoch: LeaderEpoch,
        /// The first offset the follower still has.
        pub log_start: Offset,
        /// The high watermark the follower knows; the leader answers as soon as its own is higher.
        pub known_high_watermark: Offset,
        /// Record bytes of this partition, at most.
        pub bytes_max: u32,
    }
    count_max = PARTITIONS_PER_REQUEST_MAX;
}

/// What is new. The batches are the frame's payload, in the order of the outcomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaFetchResponse {
    /// The session, for the next request.
    pub session: u32,
    /// The sequence of the request that this answers.
    pub sequence: u32,
    /// Only partitions with news.
    pub partitions: Vec<ReplicaFetchOutcome>,
}

/// What is new in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaFetchOutcome {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionIndex,
    /// The leader's epoch.
    pub leader_epoch: LeaderEpoch,
    /// Where the follower's log leaves the leader's: the last epoch both know and its end here (KIP-595). Then there are
    /// no batches, and the follower truncates before it asks again.
    pub diverging: Option<(LeaderEpoch, Offset)>,
    /// The batches with the leader's ends, or why there are none.
    pub result: Result<ReplicaFetched, ErrorBody>,
}

/// Batches for a follower with the ends of the leader's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaFetched {
    /// The first offset not committed yet.
    pub high_watermark: Offset,
    /// The first offset the leader still has.
    pub log_start: Offset,
    /// The offset the leader's next record gets.
    pub log_end: Offset,
    /// Whole record batches back to back, perhaps none. The first starts where the follower's log ends.
    pub batches: Batches,
}

field_struct! {
    /// [`ReplicaFetchOutcome`] as the body has it, the batches being elsewhere.
    struct OutcomeHead {
        /// The topic.
        pub topic: TopicId,
        /// The partition.
        pub partition: PartitionIndex,
        /// The leader's epoch.
        pub leader_epoch: LeaderEpoch,
        /// Where the logs part.
        pub diverging: Option<(LeaderEpoch, Offset)>,
        /// The ends and the size.
        pub result: Result<FetchedHead, ErrorBody>,
    }
}

field_struct! {
    /// [`ReplicaFetched`] as the body has it.
    #[derive(Copy)]
    struct FetchedHead {
        /// The first offset not committed yet.
        pub high_watermark: Offset,
        /// The first offset the leader still has.
        pub log_start: Offset,
        /// The offset the leader's next record gets.
        pub log_end: Offset,
        /// Bytes of the batches in the payload.
        pub batches_bytes: u32,
    }
}

/// About how many bytes a successful outcome takes in a body.
const OUTCOME_BYTES_HINT: usize = 68;

impl Message for ReplicaFetchResponse {
    const API: ApiKey = ApiKey::ReplicaFetch;

    fn body_bytes_hint(&self) -> usize {
        12 + self.partitions.len() * OUTCOME_BYTES_HINT
    }

    fn encode(&self, w: &mut Writer<'_>) {
        w.u32(self.session);
        w.u32(self.sequence);
        w.array_len(self.partitions.len());
        for outcome in &self.partitions {
            let head = |fetched: &ReplicaFetched| FetchedHead {
                high_watermark: fetched.high_watermark,
                log_start: fetched.log_start,
                log_end: fetched.log_end,
                batches_bytes: u32::try_from(fetched.batches.len()).unwrap_or(u32::MAX),
            };
            outcome.topic.write(w);
            outcome.partition.write(w);
            outcome.leader_epoch.write(w);
            outcome.diverging.write(w);
            match &outcome.result {
                Ok(fetched) => {
                    w.u16(0);
                    head(fetched).write(w);
                }
                Err(error) => error.write(w),
            }
        }
    }

    fn payload(&self) -> Payload {
        let mut payload = Payload::None;
        for fetched in self.partitions.iter().filter_map(|outcome| outcome.result.as_ref().ok()) {
            for chunk in fetched.batches.chunks() {
                payload.push(chunk.clone());
            }
        }
        payload
    }

    fn decode(r: &mut Reader<'_>, payload: &mut BytesMut) -> Result<Self, DecodeError> {
        let (session, sequence) = (r.u32()?, r.u32()?);
        let count = r.array_len(OutcomeHead::BYTES_MIN, PARTITIONS_PER_REQUEST_MAX)?;
        let mut partitions = r.vec_for(count);
        for _ in 0..count {
            let OutcomeHead { topic, partition, leader_epoch, diverging, result } = Field::read(r)?;
            let result = match result {
                Ok(head) => Ok(ReplicaFetched {
                    high_watermark: head.high_watermark,
                    log_start: head.log_start,
                    log_end: head.log_end,
                    batches: Batches::from_bytes(take_chunk(payload, head.batches_bytes)?),
                }),
                Err(error) => Err(error),
            };
            partitions.push(ReplicaFetchOutcome { topic, partition, leader_epoch, diverging, result });
        }
        Ok(Self { session, sequence, partitions })
    }
}

field_message!(ReplicaFetch, ReplicaFetchRequest);

impl Request for ReplicaFetchRequest {
    type Response = ReplicaFetchResponse;
}

field_struct! {
    /// What a follower has put on stable storage since its last fetch, said while that fetch waits. One-way; a session
    /// the leader does not know is ignored.
    pub struct ReplicaProgressRequest {
        /// The session of the fetch.
        pub session: u32,
        /// Partition, the leader epoch followed, and the end of what is on stable storage.
        pub ends: Vec<(PartitionId, LeaderEpoch, Offset)>,
    }
}

field_struct! {
    /// Never sent: progress is one-way.
    pub struct ReplicaProgressResponse {}
}

field_struct! {
    /// Asks a leader how it and its followers stand.
    pub struct ReplicaStateRequest {
        /// The partitions meant.
        pub partitions: Vec<PartitionId>,
    }
}

field_struct! {
    /// How leader and followers stand.
    pub struct ReplicaStateResponse {
        /// For each partition of the request, its state or why this broker cannot tell.
        pub partitions: Vec<(PartitionId, Result<LeaderLogState, ErrorBody>)>,
    }
}

field_struct! {
    /// A partition's log as its leader has it.
    pub struct LeaderLogState {
        /// The first offset still there.
        pub log_start: Offset,
        /// The first offset not committed yet.
        pub high_watermark: Offset,
        /// The offset the next record gets.
        pub log_end: Offset,
        /// Bytes of its record batches.
        pub size_bytes: u64,
        /// Damaged ranges of offsets, half-open.
        pub damaged: Vec<(Offset, Offset)>,
        /// Each replica as the leader sees it.
        pub replicas: Vec<ReplicaDescription>,
    }
}

messages! {
    ReplicaProgress: ReplicaProgressRequest => ReplicaProgressResponse;
    ReplicaState: ReplicaStateRequest => ReplicaStateResponse;
}
