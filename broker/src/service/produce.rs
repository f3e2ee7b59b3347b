//! Appending: verify every batch, give each its place, answer when the acknowledgement's promise holds.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use streambus_protocol::api::produce::{
    Acks, ProduceOutcome, ProducePartition, ProduceRequest, ProduceResponse, Produced, Receipt,
};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::batch::{TimestampType, UnverifiedBatch};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{PartitionIndex, TopicId};
use streambus_protocol::limits::{BATCH_BYTES_MAX, DECOMPRESSED_FACTOR_MAX};
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;
use streambus_storage::clock::Clock;

use crate::clock::Deadline;
use crate::cluster::contact::Contact;
use crate::metrics::BrokerMetrics;
use crate::partition::Partition;
use crate::partition::append::{Appended, Placing};
use crate::service::directory::Directory;
use crate::service::refusal;

/// What a compressed batch may expand to where its records are looked at.
const EXPANDED_BYTES_MAX: usize = BATCH_BYTES_MAX * DECOMPRESSED_FACTOR_MAX;

/// Appends record batches.
#[derive(Debug)]
pub struct ProduceService {
    directory: Directory,
    clock: Arc<dyn Clock>,
    metrics: Arc<BrokerMetrics>,
}

/// A request whose batches have their places; what is left is to wait.
#[derive(Debug)]
#[must_use = "a produce is answered only after `complete`"]
pub struct PlacedProduce {
    acks: Acks,
    partitions: Vec<PlacedPartition>,
    /// For whoever waits in vain.
    contact: Contact,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct PlacedPartition {
    topic: TopicId,
    partition: PartitionIndex,
    result: Result<PlacedBatch, ErrorBody>,
}

#[derive(Debug)]
struct PlacedBatch {
    partition: Arc<Partition>,
    appended: Appended,
    append_time: Timestamp,
}

impl ProduceService {
    /// A service over the partitions of `directory`.
    pub fn new(directory: Directory, clock: Arc<dyn Clock>, metrics: Arc<BrokerMetrics>) -> Self {
        Self { directory, clock, metrics }
    }

    /// Appends and waits. A partition whose promise does not hold at `deadline` answers `TIMEOUT`: its batch may yet
    /// be committed.
    pub async fn produce(&self, request: ProduceRequest, deadline: Deadline) -> ProduceResponse {
        self.place(request).complete(deadline).await
    }

    /// Appends without waiting: when this returns, the order is fixed. It neither blocks nor waits, so that a
    /// connection's requests are placed in the order in which they came.
    pub fn place(&self, request: ProduceRequest) -> PlacedProduce {
        let acks = request.acks;
        // A producer's sequence could not be checked against a batch of the same request.
        let mut seen = HashSet::new();
        let many = request.partitions.len() > 1;
        let payload_bytes: usize = request.partitions.iter().map(|wanted| wanted.batch.len()).sum();
        let partitions = request
            .partitions
            .into_iter()
            .map(|wanted| {
                let (topic, partition) = (wanted.topic, wanted.partition);
                let result = if many && !seen.insert((topic, partition)) {
                    Err(ErrorBody::new(
                        ErrorCode::InvalidRequest,
                        format!("partition {partition} is named twice: a request has one batch for a partition"),
                    ))
                } else {
                    self.place_one(detach(wanted, payload_bytes), acks)
                };
                PlacedPartition { topic, partition, result }
            })
            .collect();
        PlacedProduce { acks, partitions, contact: self.directory.contact().clone(), clock: Arc::clone(&self.clock) }
    }

    fn place_one(&self, wanted: ProducePartition, acks: Acks) -> Result<PlacedBatch, ErrorBody> {
        let partition = self.directory.partition(wanted.topic, wanted.partition)?;
        let role = partition.role();
        let bytes_max = usize::try_from(role.settings.batch_bytes_max).unwrap_or(usize::MAX);
        let mut batch = wanted.batch.verify(bytes_max).map_err(|error| refusal::batch(&partition, &error))?;
        if batch.header().is_transactional() {
            return Err(ErrorBody::new(
                ErrorCode::UnsupportedBatch,
                "transactions are not supported yet: produce without one",
            ));
        }
        if role.settings.cleanup.compacts() {
            batch.check_keys(EXPANDED_BYTES_MAX).map_err(|error| refusal::batch(&partition, &error))?;
        }
        let mut append_time = Timestamp::NONE;
        match role.settings.timestamp_type {
            TimestampType::CreateTime => {}
            TimestampType::LogAppendTime => {
                append_time = self.clock.now();
                batch.set_append_time(append_time);
            }
        }
        let (records, bytes) = (batch.record_count(), batch.size_bytes());
        let appended = partition.append(batch, wanted.leader_epoch, acks)?;
        self.metrics.produced(records, bytes);
        Ok(PlacedBatch { partition, appended, append_time })
    }
}

impl PlacedProduce {
    /// When to answer.
    pub fn acks(&self) -> Acks {
        self.acks
    }

    /// The first refusal, if there is one.
    pub fn first_refusal(&self) -> Option<&ErrorBody> {
        self.partitions.iter().find_map(|placed| placed.result.as_ref().err())
    }

    /// Waits for every partition's promise, up to `deadline`. The commits go on whether anybody waits or not.
    pub async fn complete(self, deadline: Deadline) -> ProduceResponse {
        let acks = self.acks;
        let mut partitions = Vec::with_capacity(self.partitions.len());
        for PlacedPartition { topic, partition, result } in self.partitions {
            let result = match result {
                Ok(placed) => {
                    let (partition, next) = (Arc::clone(&placed.partition), placed.appended.next);
                    let late = || late(&partition, next, acks, &self.contact, self.clock.monotonic());
                    committed(placed, acks, deadline).await.unwrap_or_else(|| Err(late()))
                }
                Err(error) => Err(error),
            };
            partitions.push(ProduceOutcome { topic, partition, result });
        }
        ProduceResponse { partitions }
    }
}

/// Copies a batch that is less than half of its request's payload. All batches of a request share the buffer in which
/// they arrived, and the tail cache keeps a batch long after the request: with the others refused, it would keep many
/// times its size.
fn detach(mut wanted: ProducePartition, payload_bytes: usize) -> ProducePartition {
    if wanted.batch.len() < payload_bytes / 2 {
        wanted.batch = UnverifiedBatch::new(BytesMut::from(wanted.batch.as_bytes()));
    }
    wanted
}

/// What became of a batch by the deadline; nothing when that is not known yet.
async fn committed(placed: PlacedBatch, acks: Acks, deadline: Deadline) -> Option<Result<Produced, ErrorBody>> {
    let PlacedBatch { appended, append_time, .. } = placed;
    let base_offset = appended.base;
    // The stored records of a repeated batch keep their first time, which is not known here.
    let timestamp = match appended.placing {
        Placing::New => append_time,
        Placing::Repeated => Timestamp::NONE,
    };
    if acks == Acks::None {
        return Some(Ok(Produced { base_offset, timestamp, receipt: Receipt { replicas: 0, durable: 0 } }));
    }
    let result = deadline.limit(appended.committed()).await?;
    Some(result.map(|receipt| Produced { base_offset, timestamp, receipt }))
}

/// The answer for a batch that ends at `next` when the deadline passed first: what it waits for.
fn late(partition: &Partition, next: Offset, acks: Acks, contact: &Contact, now: Duration) -> ErrorBody {
    let role = partition.role();
    let (number, topic) = (partition.id().partition, partition.topic());
    let mut text = format!("partition {number} of '{topic}' has not committed offsets below {next} in time");
    let lacking = if acks == Acks::All { partition.unconfirmed(next, now) } else { Vec::new() };
    if !lacking.is_empty() {
        let names: Vec<String> = lacking.iter().map(ToString::to_string).collect();
        text.push_str(&format!(
            ": broker(s) {} must have it on disk and have not confirmed it (`topic describe` shows how far they are)",
            names.join(", ")
        ));
    } else if partition.log().durable_end() < next {
        text.push_str(": the disk of its leader has not confirmed it");
    }
    if let Some(silence) = contact.lost_for().filter(|_| role.is_replicated()) {
        text.push_str(&format!(
            "; its leader has had no contact with the controller for {silence:.1?} and cannot go on without the others: see \
             that most brokers run and reach one another"
        ));
    }
    text.push_str("; it may yet be committed");
    ErrorBody::new(ErrorCode::Timeout, text)
}

#[cfg(test)]
mod tests {
    use streambus_protocol::epoch::LeaderEpoch;
    use streambus_protocol::ids::BrokerId;
    use streambus_protocol::topic_config::Durability;
    use streambus_storage::clock::ManualClock;
    use streambus_storage::config::StoreConfig;

    use super::*;
    use crate::partition::fixture;
    use crate::partition::role::Role;

    // Catches a producer that hears that time ran out, and not for whom or what it waited.
    #[tokio::test]
    async fn who_waits_in_vain_hears_for_what() {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(10)));
        let session = Duration::from_secs(3);
        let contact = Contact::new(Arc::clone(&clock) as Arc<dyn Clock>, session);
        let store = fixture::store(StoreConfig::default());
        let partition = fixture::partition(&store, 0, Durability::Sync);
        let ids = |ids: &[u32]| ids.iter().copied().map(BrokerId::new).collect::<Vec<_>>();
        let (replicas, in_sync) = (ids(&[1, 2, 3]), ids(&[1, 3]));
        let role = Role { replicas, in_sync, leader_epoch: LeaderEpoch::new(2), ..Role::clone(&partition.role()) };
        partition.log().start_epoch(role.leader_epoch).expect("a new leadership");
        partition.set_role(role, Duration::ZERO);
        let said = async |acks| {
            let batch = fixture::batch(b"v", None);
            let appended = partition.append(batch, LeaderEpoch::UNKNOWN, acks).expect("appended");
            let placed = PlacedBatch { partition: Arc::clone(&partition), appended, append_time: Timestamp::NONE };
            let produced = PlacedProduce {
                acks,
                partitions: vec![PlacedPartition {
                    topic: partition.id().topic,
                    partition: partition.id().partition,
                    result: Ok(placed),
                }],
                contact: contact.clone(),
                clock: Arc::clone(&clock) as Arc<dyn Clock>,
            };
            let mut answer = produced.complete(Deadline::after(Duration::ZERO)).await;
            let late = answer.partitions.remove(0).result.expect_err("nobody confirms anything");
            assert_eq!(late.code, ErrorCode::Timeout);
            late.message
        };
        let text = said(Acks::All).await;
        assert!(text.contains("partition 0 of 't'") && text.contains("broker(s) 1, 3 must"), "{text}");
        assert!(!text.contains("controller"), "{text}");
        let text = said(Acks::Leader).await;
        assert!(text.contains("the disk of its leader"), "{text}");
        while store.step() {}
        clock.advance(session);
        let text = said(Acks::All).await;
        assert!(
            text.contains("broker(s) 1, 3 must") && text.contains("no contact with the controller for 3.0s"),
            "{text}"
        );
    }

    // Catches a small batch that keeps the large buffer in which it arrived.
    #[test]
    fn a_batch_that_is_less_than_half_of_its_request_gets_its_own_buffer() {
        let mut payload = BytesMut::from(&[7; 1_000][..]);
        let small = payload.split_to(100);
        let wanted = |bytes| ProducePartition {
            topic: TopicId::from_bytes([1; 16]),
            partition: PartitionIndex::new(0),
            leader_epoch: LeaderEpoch::UNKNOWN,
            batch: UnverifiedBatch::new(bytes),
        };
        let (small_at, large_at) = (small.as_ptr(), payload.as_ptr());
        let small = detach(wanted(small), 1_000).batch;
        assert_eq!(small.as_bytes(), [7; 100]);
        assert_ne!(small.as_bytes().as_ptr(), small_at);
        assert_eq!(detach(wanted(payload), 1_000).batch.as_bytes().as_ptr(), large_at, "not copied");
    }
}
