//! What this replica's disk has lost, and putting in place what another replica has.
//!
//! Two logs of one leadership are equal as far as both are known to be the leader's: the leader's own, and a follower's
//! once an answer of the leader has matched it. Below both watermarks they are so for ever. Only that is asked for, served
//! and stored.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use streambus_protocol::api::repair::ReplicaRepairRequest;
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::batch::{BatchError, PlacedBatch, batches};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, PartitionId};
use streambus_protocol::offset::Offset;
use streambus_storage::cleaner::deletions::Deletions;
use streambus_storage::error::RepairError;
use streambus_storage::partition_log::{DamagedOffsets, Durable, LogEnds};

use crate::partition::{Part, Partition};
use crate::replication::follower_state::Alarm;

/// What becomes of the damage of this disk. A leader serves all the same; it decides what a follower counts for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prospect {
    /// It was not tried yet, or is being repaired: a member of the in-sync set stays one meanwhile.
    #[default]
    Open,
    /// Nobody could be asked with success: what lies behind the damage does not count.
    Delayed,
    /// Every other replica has lost or given up the same: waiting for it would only make the partition unavailable.
    Hopeless,
}

/// Up to where a follower counts: no further than lies before damage that keeps it from being complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CountedEnds {
    /// For a topic whose durability is `sync`: what is on stable storage.
    pub(super) durable_end: Offset,
    /// For one with `async`: what is accepted.
    pub(super) accepted_end: Offset,
}

/// Damage of one replica that others may have whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The partition.
    pub id: PartitionId,
    /// The leadership in which others are to be asked.
    pub leader_epoch: LeaderEpoch,
    /// What is lost and known to be committed, oldest first. Empty while nothing is known, or without a leader.
    pub ranges: Vec<DamagedOffsets>,
    /// Every other replica, the most complete first.
    pub sources: Vec<BrokerId>,
}

/// Batches that were put in place.
#[derive(Debug)]
pub struct Mended {
    /// How many.
    pub batches: usize,
    /// The first offset of the first one.
    pub base: Offset,
    /// The offset after the last one.
    pub next: Offset,
    /// Resolves when they are on stable storage, and no longer damaged.
    pub durable: Durable,
}

/// Why batches of another replica were not put in place.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    /// The role has changed since they were asked for.
    #[error("the role has changed since")]
    Past,
    /// They are not stored batches.
    #[error("they do not verify: {0}")]
    Batch(#[from] BatchError),
    /// They are not the ones that were asked for, without a gap.
    #[error("they have offset {found} where {expected} is due")]
    OutOfPlace {
        /// The offset that is due.
        expected: Offset,
        /// Where they are instead; what is due again when there are none.
        found: Offset,
    },
    /// The log does not take them.
    #[error(transparent)]
    Repair(#[from] RepairError),
}

impl Partition {
    /// The damage of this disk, if it has any.
    pub fn damage(&self) -> Option<Damage> {
        let damaged = self.log.damaged();
        if damaged.is_empty() {
            return None;
        }
        let role = self.role();
        let committed = self.matched_below(role.leader_epoch);
        let clip = |range: &DamagedOffsets| {
            let next = range.next.min(committed?);
            (range.base < next).then_some(DamagedOffsets { next, ..*range })
        };
        let ranked = role.in_sync.iter().chain(&role.eligible).chain(&role.replicas);
        let mut sources: Vec<BrokerId> = Vec::new();
        for broker in ranked.filter(|broker| **broker != self.owner.broker) {
            if !sources.contains(broker) {
                sources.push(*broker);
            }
        }
        let ranges = damaged.iter().filter_map(clip).collect();
        Some(Damage { id: self.id, leader_epoch: role.leader_epoch, ranges, sources })
    }

    /// Why this replica has stopped, if it has.
    pub fn alarm(&self) -> Option<Alarm> {
        match &*self.part.lock() {
            Part::Following(_, state) => state.alarm(),
            Part::Alone | Part::Leading(_) | Part::Idle => None,
        }
    }

    /// True when this log was compared with a leader's since it was opened, and is in sync now.
    pub fn is_compared(&self) -> bool {
        self.was_compared.load(Ordering::Relaxed) && self.role.load().in_sync.contains(&self.owner.broker)
    }

    /// What becomes of the damage of this disk; true when that is news.
    pub fn set_prospect(&self, prospect: Prospect) -> bool {
        std::mem::replace(&mut *self.prospect.lock(), prospect) != prospect
    }

    /// What this follower may count for, which no setting of its own decides.
    pub(super) fn counted_ends(&self) -> CountedEnds {
        let LogEnds { durable, accepted, damage, .. } = self.log.ends();
        let whole = CountedEnds { durable_end: durable, accepted_end: accepted };
        let Some(damage) = damage else { return whole };
        let counts_whole = match *self.prospect.lock() {
            Prospect::Open => self.role.load().in_sync.contains(&self.owner.broker),
            Prospect::Delayed => false,
            Prospect::Hopeless => true,
        };
        if counts_whole {
            whole
        } else {
            CountedEnds { durable_end: durable.min(damage), accepted_end: accepted.min(damage) }
        }
    }

    /// The watermark up to which this log is known to be that of the leader of `epoch`; none when it is not known, or
    /// another leadership is in force here.
    fn matched_below(&self, epoch: LeaderEpoch) -> Option<Offset> {
        match &*self.part.lock() {
            Part::Leading(leading) if leading.state.leader_epoch() == epoch => Some(leading.state.high_watermark()),
            Part::Following(_, state) if state.leader_epoch() == epoch && state.is_matched() => {
                state.alarm().is_none().then(|| state.high_watermark())
            }
            Part::Leading(_) | Part::Following(..) | Part::Alone | Part::Idle => None,
        }
    }

    /// Below it lie the tombstones that this log has dropped; none when it drops none. While it has damage, it drops none
    /// above that: what was said first goes on being true.
    pub fn may_lack_tombstones_below(&self) -> Option<Offset> {
        let compacts = self.log.options().compaction.is_some();
        // The watermark of a leadership that has just begun may lie below the one that compaction went by.
        compacts.then(|| self.log.committed().max(self.high_watermark()))
    }

    /// Checks that this replica may answer `request`; returns the watermark below which it may. Ask again after reading: a
    /// role that changed in between makes the answer one of the past.
    ///
    /// # Errors
    /// `INELIGIBLE_REPLICA`, `STALE_BROKER_EPOCH`, `FENCED_LEADER_EPOCH`, `UNKNOWN_LEADER_EPOCH`, `NOT_READY`,
    /// `OFFSET_NOT_AVAILABLE`.
    pub fn may_serve_repair(&self, request: &ReplicaRepairRequest) -> Result<Offset, ErrorBody> {
        let role = self.role();
        let asker = request.broker;
        let known = role.registered.get(&asker).filter(|_| role.replicas.contains(&asker));
        let known = known.ok_or_else(|| {
            ErrorBody::new(
                ErrorCode::IneligibleReplica,
                format!("broker {asker} is no registered replica of {}", self.id),
            )
        })?;
        if request.broker_epoch < known.epoch {
            return Err(ErrorBody::new(
                ErrorCode::StaleBrokerEpoch,
                format!("broker {asker} is registered under epoch {} by now", known.epoch),
            ));
        }
        if request.leader_epoch != role.leader_epoch {
            let code = match request.leader_epoch < role.leader_epoch {
                true => ErrorCode::FencedLeaderEpoch,
                false => ErrorCode::UnknownLeaderEpoch,
            };
            return Err(ErrorBody::new(code, format!("leader epoch {} is in force here", role.leader_epoch)));
        }
        let committed = self.matched_below(role.leader_epoch).ok_or_else(|| {
            ErrorBody::new(
                ErrorCode::NotReady,
                "this replica has not been compared with its leader yet: try again shortly",
            )
        })?;
        if request.from >= committed {
            return Err(ErrorBody::new(
                ErrorCode::OffsetNotAvailable,
                format!("offset {} is not known to be committed here, only what lies below {committed}", request.from),
            ));
        }
        Ok(committed)
    }

    /// Puts `chunks`, which another replica gave for the damage `wanted` in the leadership `epoch`, in its place, but for
    /// what `deletions` says that replica knows to be deleted and this one no longer does. May read the disk.
    ///
    /// # Errors
    /// See [`MendError`]; nothing was put in place unless the journal refused in the middle.
    pub fn mend(
        &self,
        epoch: LeaderEpoch,
        wanted: DamagedOffsets,
        chunks: &[Bytes],
        deletions: &Deletions,
    ) -> Result<Mended, MendError> {
        let found = in_place(wanted, chunks)?;
        let (Some(first), Some(last)) = (found.first(), found.last()) else {
            return Err(MendError::OutOfPlace { expected: wanted.base, found: wanted.base });
        };
        let (base, next) = (first.base_offset(), last.next_offset());
        let _order = self.append_lock.lock();
        if self.matched_below(epoch).is_none_or(|committed| wanted.next > committed) {
            return Err(MendError::Past);
        }
        let (batches, bytes) = (found.len(), found.into_iter().map(PlacedBatch::into_bytes).collect());
        let durable = self.log.repair_but(bytes, deletions)?;
        Ok(Mended { batches, base, next, durable })
    }
}

/// The batches in `chunks` for `wanted`, verified: the first holds its base, and none is missing between two. What lies
/// behind it is left out.
fn in_place(wanted: DamagedOffsets, chunks: &[Bytes]) -> Result<Vec<PlacedBatch>, MendError> {
    let (mut due, mut found) = (wanted.base, Vec::new());
    for batch in chunks.iter().flat_map(|chunk| batches(chunk.clone())) {
        if due >= wanted.next {
            break;
        }
        // What compaction has left nothing of may reach further there than here.
        let batch = batch?.placeholder_within(wanted.base, wanted.next);
        let (base, next) = (batch.base_offset(), batch.next_offset());
        // The first may begin before what is wanted: batches are whole.
        let fits = if found.is_empty() { base <= due && due < next } else { base == due };
        if !fits {
            return Err(MendError::OutOfPlace { expected: due, found: base });
        }
        due = next;
        found.push(batch);
    }
    Ok(found)
}
