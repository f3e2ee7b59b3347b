//! Appending: the leadership check, the producer's sequence, the offsets and the log, in that order under one lock.
//!
//! Two stages: [`Partition::append`] fixes the order and returns at once; the [`Appended`] it returns is the wait for
//! what the acknowledgement promises.

use std::sync::Arc;

use streambus_protocol::api::produce::{Acks, Receipt};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::batch::RecordBatch;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::offset::Offset;
use streambus_protocol::topic_config::Durability;
use streambus_storage::partition_log::Durable;
use streambus_storage::producer_state::SequenceVerdict;

use crate::partition::Partition;
use crate::partition::standing;
use crate::replication::leader_state::Holders;
use crate::service::refusal;

/// A batch that has its place in the log.
#[derive(Debug)]
#[must_use = "the append is acknowledged only after `committed`"]
pub struct Appended {
    /// Offset of its first record.
    pub base: Offset,
    /// Offset after its last record.
    pub next: Offset,
    /// Whether it was appended now or by an earlier request.
    pub placing: Placing,
    /// What the log promised when it took the batch. The topic's setting may be another by now.
    promise: Durability,
    wait: CommitWait,
}

/// When a batch got its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placing {
    /// By this append.
    New,
    /// By an earlier one that an idempotent producer repeats: what was written then stays, its times included.
    Repeated,
}

#[derive(Debug)]
enum CommitWait {
    /// The only replica's disk, or nothing for a topic that does not wait for it.
    Local(Durable),
    /// The same of a leader that others copy.
    Leader(Durable, Arc<Partition>),
    /// The high watermark, moved by the leadership that appended: every in-sync replica's disk.
    Watermark(Arc<Partition>, LeaderEpoch),
}

impl Appended {
    /// Completes when the acknowledgement's promise holds, and says how safe the batch is then. Dropping it does not
    /// take the append back.
    ///
    /// # Errors
    /// The outcome is unknown: `STORAGE_FAILED` when the sync failed, and what
    /// [`standing::committed`](super::standing) says when the replicas or the leadership went.
    pub async fn committed(self) -> Result<Receipt, ErrorBody> {
        let Self { next, promise, wait, .. } = self;
        let holders = match wait {
            CommitWait::Local(durable) => {
                durable.await.map_err(refusal::durability_lost)?;
                Holders { replicas: 1, durable: 1 }
            }
            CommitWait::Leader(durable, partition) => {
                durable.await.map_err(refusal::durability_lost)?;
                partition.holders(next)
            }
            CommitWait::Watermark(partition, epoch) => {
                let committed = standing::committed(Arc::clone(&partition), next, epoch).await?;
                // A leader that has not heard its followers yet knows what being committed means all the same.
                let now = partition.holders(next);
                let is_on_disks = committed.durable_watermark >= next;
                let durable = if is_on_disks { now.durable.max(committed.disks) } else { now.durable };
                Holders { replicas: now.replicas.max(committed.replicas), durable }
            }
        };
        let count = |replicas| u8::try_from(replicas).unwrap_or(u8::MAX);
        let durable = match promise {
            Durability::Sync => count(holders.durable),
            Durability::Async => 0,
        };
        Ok(Receipt { replicas: count(holders.replicas), durable })
    }
}

impl Partition {
    /// Appends `batch` as leader, in the epoch that the request names or the current one.
    ///
    /// A batch that an idempotent producer repeats is not appended again: the answer names its first place.
    ///
    /// # Errors
    /// Nothing was appended: not the leader, an epoch of KIP-320, too few in-sync replicas for `Acks::All`, a producer
    /// sequence of KIP-98, or a log that takes no writes.
    pub fn append(self: &Arc<Self>, batch: RecordBatch, epoch: LeaderEpoch, acks: Acks) -> Result<Appended, ErrorBody> {
        let stamp = batch.producer();
        let record_count = batch.record_count();
        let append_guard = self.append_lock.lock();
        let role = self.role.load();
        let token = self.lead_as(&role, epoch)?;
        if acks == Acks::All && !role.has_enough_in_sync() {
            return Err(ErrorBody::new(
                ErrorCode::NotEnoughReplicas,
                format!(
                    "{} of the {} replicas that topic '{}' demands are in sync: wait for brokers to return",
                    role.in_sync.len(),
                    role.commit_replicas_min(),
                    self.topic
                ),
            ));
        }
        if let Some(stamp) = stamp {
            match self.log.check_sequence(stamp, record_count) {
                SequenceVerdict::Accept => {}
                SequenceVerdict::Duplicate { base } => {
                    let next =
                        base.checked_add(u64::from(record_count)).ok_or_else(|| refusal::offsets_exhausted(self))?;
                    // Acknowledged only once the original is committed, whatever level the repeat asks for.
                    return Ok(Appended {
                        base,
                        next,
                        placing: Placing::Repeated,
                        promise: self.log.options().durability,
                        wait: CommitWait::Watermark(Arc::clone(self), role.leader_epoch),
                    });
                }
                refused => return Err(refusal::sequence(stamp, &refused)),
            }
        }
        let base = self.log.log_end();
        let placed = batch.place(base, token.epoch());
        debug_assert_eq!(placed.base_offset(), base);
        let (next, bytes) = (placed.next_offset(), placed.size_bytes());
        assert!(next > base, "a batch has at least one record");
        let appended = self.log.append(placed).map_err(|error| refusal::append(&error))?;
        drop(append_guard);
        if role.is_replicated() {
            self.tell_followers(bytes);
        }
        debug_assert_eq!((appended.base, appended.next), (base, next));
        let wait = if !role.is_replicated() {
            CommitWait::Local(appended.durable)
        } else if acks == Acks::All {
            CommitWait::Watermark(Arc::clone(self), role.leader_epoch)
        } else {
            CommitWait::Leader(appended.durable, Arc::clone(self))
        };
        Ok(Appended { base, next, placing: Placing::New, promise: appended.promise, wait })
    }
}

#[cfg(test)]
mod tests;
