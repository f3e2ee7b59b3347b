//! Following a partition's leader: what to ask for, and what becomes of the answer.
//!
//! Everything that changes the log holds the append lock and checks under it that this broker still follows that leader
//! in that epoch: a role that changed in between makes the answer one of the past (KAFKA-13207).

use std::sync::atomic::Ordering;

use bytes::Bytes;
use streambus_protocol::api::replica::ReplicaFetchPartition;
use streambus_protocol::batch::{BatchError, PlacedBatch, batches};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::BrokerId;
use streambus_protocol::offset::Offset;
use streambus_storage::error::{AppendError, StoreError};
use streambus_storage::partition_log::Durable;

use crate::partition::repair::CountedEnds;
use crate::partition::{Part, Partition};
use crate::replication::follower_state::{Alarm, Answer, Asked, FollowerState, Step};

/// What an answer has come to, without touching the disk.
#[derive(Debug)]
pub enum Taken {
    /// Its batches are in the log: none, when there was no news but the watermark. Resolves when they are durable.
    Appended(Option<Durable>),
    /// Its batches are in the log, and the log begins too early now: trim it where blocking is allowed.
    AppendedAbove(Option<Durable>, Offset),
    /// The log must be cut or begun anew first, where blocking is allowed: call [`Partition::realign`].
    Realign(Realignment),
    /// It is about the past, or this broker no longer follows that leader.
    Ignored,
    /// Nothing to do for a while.
    Wait(ErrorCode),
    /// This replica stops until its role changes.
    Stopped(Alarm),
}

/// How the log is made a prefix of the leader's.
#[derive(Debug)]
pub enum Realignment {
    /// Cut at this offset, or at the batch boundary below it.
    Truncate(Offset),
    /// Drop everything and go on here.
    RestartAt(Offset),
}

/// Why an answer was not used. The position is said again later.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The bytes are not the batches that the leader has.
    #[error("batches from the leader do not verify: {0}")]
    Batch(#[from] BatchError),
    /// The log takes no batch now, or not this one.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The log could not be cut or begun anew.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Partition {
    /// Where this broker is, for its next fetch from `leader`; none when it does not follow that broker, or has stopped.
    pub fn follower_position(&self, leader: BrokerId, bytes_max: u32) -> Option<ReplicaFetchPartition> {
        let part = self.part.lock();
        let state = following(&part, leader)?;
        if state.alarm().is_some() {
            return None;
        }
        // In the order of the number line.
        let log_start = self.log.synced_start();
        let CountedEnds { durable_end, accepted_end } = self.counted_ends();
        Some(ReplicaFetchPartition {
            topic: self.id.topic,
            partition: self.id.partition,
            leader_epoch: state.leader_epoch(),
            fetch_offset: self.log.log_end(),
            durable_end,
            accepted_end,
            last_fetched_epoch: self.log.latest_epoch().map_or(LeaderEpoch::UNKNOWN, |latest| latest.epoch),
            log_start,
            // Until the leader has said that the logs match, it is to answer also when it has no news.
            known_high_watermark: if state.is_matched() { state.high_watermark() } else { Offset::ZERO },
            bytes_max,
        })
    }

    /// True while what lies below the watermark known here is known to be the leader's: it has said so in this leadership,
    /// no unclean election is open, and the replica has not stopped.
    pub fn follows_soundly(&self, leader: BrokerId) -> bool {
        let is_sound = |state: &FollowerState| state.is_matched() && !state.is_unclean() && state.alarm().is_none();
        following(&self.part.lock(), leader).is_some_and(is_sound)
    }

    /// The leadership in which this broker follows `leader`, and the end of what it has on stable storage.
    pub fn follower_progress(&self, leader: BrokerId) -> Option<(LeaderEpoch, Offset)> {
        let part = self.part.lock();
        following(&part, leader).map(|state| (state.leader_epoch(), self.counted_ends().durable_end))
    }

    /// Takes the answer of `leader` to `asked`, with `chunks` of whole batches.
    ///
    /// # Errors
    /// The batches were not all used: what was appended stays, it is the leader's.
    pub fn take_answer(
        &self,
        leader: BrokerId,
        asked: Asked,
        answer: &Answer,
        chunks: &[Bytes],
    ) -> Result<Taken, FollowError> {
        let mut placed = Vec::new();
        for chunk in chunks {
            for batch in batches(chunk.clone()) {
                placed.push(batch?);
            }
        }
        let _order = self.append_lock.lock();
        let mut part = self.part.lock();
        let Some(state) = following_mut(&mut part, leader) else { return Ok(Taken::Ignored) };
        let ends = match state.judge(asked, answer, &self.log) {
            Step::Append(ends) => ends,
            Step::Truncate(to) => return Ok(Taken::Realign(Realignment::Truncate(to))),
            Step::RestartAt(at) => return Ok(Taken::Realign(Realignment::RestartAt(at))),
            Step::Ignore => return Ok(Taken::Ignored),
            Step::Wait(code) => return Ok(Taken::Wait(code)),
            Step::Stop(alarm) => return Ok(Taken::Stopped(alarm)),
        };
        let appended = self.append_placed(placed, ends.high_watermark);
        // Also after a refusal: what is in the log by now is the leader's.
        state.on_matched(ends, self.log.log_end());
        self.was_compared.store(true, Ordering::Relaxed);
        let high_watermark = state.high_watermark();
        let role = self.role.load();
        self.publish(&part, &role, high_watermark);
        let durable = appended?;
        let trim_to = ends.log_start.min(high_watermark);
        Ok(if trim_to > self.log.log_start() {
            Taken::AppendedAbove(durable, trim_to)
        } else {
            Taken::Appended(durable)
        })
    }

    /// Makes the log a prefix of the leader's, as an answer of `leader` to `asked` demands. Blocks on the disk. Returns the
    /// promise of the change, or nothing when the role or the log has changed since: the demand is one of the past.
    ///
    /// # Errors
    /// The log is as it was, or cut further than demanded.
    pub fn realign(&self, leader: BrokerId, asked: Asked, how: Realignment) -> Result<Option<Durable>, FollowError> {
        let _order = self.append_lock.lock();
        let mut part = self.part.lock();
        let Some(state) = following_mut(&mut part, leader) else { return Ok(None) };
        if state.leader_epoch() != asked.leader_epoch || self.log.log_end() != asked.fetch_offset {
            return Ok(None);
        }
        let durable = match how {
            Realignment::Truncate(to) => {
                let (end, durable) = self.log.truncate(to)?;
                let (partition, from) = (self.id, asked.fetch_offset);
                if end < state.high_watermark() {
                    let committed = state.high_watermark();
                    tracing::warn!(
                        %partition, %leader, %from, to = %end, %committed,
                        "the log was cut where it leaves the leader's, which lacks committed records: they are given up"
                    );
                } else {
                    tracing::info!(%partition, %leader, %from, to = %end, "the log was cut where it leaves the leader's");
                }
                state.on_cut(end);
                durable
            }
            Realignment::RestartAt(at) => {
                let durable = self.log.restart_at(at)?;
                tracing::info!(
                    partition = %self.id, %leader, from = %asked.fetch_offset, %at,
                    "the log begins anew where the leader's does"
                );
                state.on_restarted(at);
                durable
            }
        };
        let high_watermark = state.high_watermark();
        let role = self.role.load();
        self.publish(&part, &role, high_watermark);
        Ok(Some(durable))
    }

    /// Gives up what the leader has given up. Blocks on the disk. Returns the promise of the change, or nothing when this
    /// broker follows that leader no more.
    ///
    /// # Errors
    /// The log is as it was.
    pub fn trim_as_follower(&self, leader: BrokerId, before: Offset) -> Result<Option<Durable>, FollowError> {
        let _order = self.append_lock.lock();
        if following(&self.part.lock(), leader).is_none() {
            return Ok(None);
        }
        let (_, durable) = self.log.trim(before)?;
        Ok(Some(durable))
    }

    /// Appends what the leader placed. The caller holds the append lock.
    fn append_placed(&self, placed: Vec<PlacedBatch>, committed: Offset) -> Result<Option<Durable>, FollowError> {
        let mut last = None;
        for batch in placed {
            // What was committed before it came here was committed without this replica, which catches up.
            if batch.next_offset() <= committed {
                last = Some(self.log.append_old(batch)?.durable);
                continue;
            }
            // The leader's log may start within a batch, and an empty log here at that place: it takes the batch whole.
            // The journal is one for all: the last batch's promise is every earlier one's too.
            last = Some(self.log.append(batch)?.durable);
        }
        Ok(last)
    }
}

fn following(part: &Part, leader: BrokerId) -> Option<&FollowerState> {
    match part {
        Part::Following(followed, state) if *followed == leader => Some(state),
        Part::Following(..) | Part::Alone | Part::Leading(_) | Part::Idle => None,
    }
}

fn following_mut(part: &mut Part, leader: BrokerId) -> Option<&mut FollowerState> {
    match part {
        Part::Following(followed, state) if *followed == leader => Some(state),
        Part::Following(..) | Part::Alone | Part::Leading(_) | Part::Idle => None,
    }
}
