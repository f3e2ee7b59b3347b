//! Leading a partition that other brokers copy: what followers ask and say, and the in-sync set.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use streambus_protocol::api::replica::ReplicaFetchPartition;
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, PartitionId};
use streambus_protocol::offset::Offset;
use streambus_storage::epoch_cache::EpochEnd;
use streambus_storage::partition_log::{LogEnds, PartitionLog};

use crate::partition::standing::Committed;
use crate::partition::{Part, Partition};
use crate::replication::follower_progress::FollowerReport;
use crate::replication::follower_state::{FollowerLog, LeaderEnds, Prefix, look_at};
use crate::replication::in_sync::{ChangeAnswer, IsrChange};
use crate::replication::leader_state::{Holders, LeaderState, ReplicaStanding};
use crate::replication::watermark::LeaderLog;

/// Where a leader tells a follower's open fetch that it may be answered. Called under the partition's lock: it only takes
/// a note.
pub trait FollowerNews: Send + Sync {
    /// There are records that the follower has not been sent.
    fn has_records(&self, id: PartitionId);
    /// The high watermark has moved, or the log starts later.
    fn has_watermark(&self, id: PartitionId);
}

/// A leadership and the fetches that wait on it.
pub(super) struct Leading {
    pub(super) state: LeaderState,
    /// Record bytes appended in this leadership.
    appended_bytes: u64,
    listeners: Vec<(BrokerId, Weak<dyn FollowerNews>)>,
}

/// A follower's position against the leader's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerLook {
    /// The leadership.
    pub leader_epoch: LeaderEpoch,
    /// The ends of the log, read before any batch.
    pub ends: LeaderEnds,
    /// How the follower's log compares.
    pub prefix: Prefix,
    /// A change of the in-sync set is due.
    pub wants_change: bool,
    /// Commits wait for the follower.
    pub is_waited_for: bool,
    /// Record bytes appended in this leadership: what a follower has to copy grows with it.
    pub appended_bytes: u64,
}

impl Leading {
    pub(super) fn new(state: LeaderState) -> Self {
        Self { state, appended_bytes: 0, listeners: Vec::new() }
    }

    fn listen(&mut self, follower: BrokerId, news: &Arc<dyn FollowerNews>) {
        let news = Arc::downgrade(news);
        self.listeners.retain(|(broker, known)| known.strong_count() > 0 && (*broker != follower));
        self.listeners.push((follower, news));
    }

    /// Tells everybody that the log starts later.
    pub(super) fn tell_start(&self, id: PartitionId) {
        self.tell(None, |news| news.has_watermark(id));
    }

    /// Tells everybody but `except`.
    fn tell(&self, except: Option<BrokerId>, what: impl Fn(&dyn FollowerNews)) {
        let others = self.listeners.iter().filter(|(broker, _)| Some(*broker) != except);
        for listener in others.filter_map(|(_, listener)| listener.upgrade()) {
            what(&*listener);
        }
    }
}

impl fmt::Debug for Leading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leading").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Partition {
    /// A follower said, in a fetch, where it is. `news` hears of what comes after.
    ///
    /// # Errors
    /// Not the leader in the epoch that the follower names, not a follower, or `OFFSET_OUT_OF_RANGE` for a log that
    /// cannot be compared.
    pub fn on_follower_fetch(
        &self,
        (follower, broker_epoch): (BrokerId, BrokerEpoch),
        position: &ReplicaFetchPartition,
        news: &Arc<dyn FollowerNews>,
        now: Duration,
    ) -> Result<FollowerLook, ErrorBody> {
        let mut part = self.part.lock();
        let leading = self.leading(&mut part, position.leader_epoch)?;
        let mut look = self.compare(leading, position)?;
        leading.listen(follower, news);
        if look.prefix == Prefix::Matches {
            let report = FollowerReport {
                broker_epoch,
                log_end: position.fetch_offset,
                durable_end: position.durable_end,
                accepted_end: position.accepted_end,
                log_start: position.log_start,
            };
            let log = self.leader_log();
            if !leading.state.on_fetch(follower, report, log, now) {
                return Err(ErrorBody::new(
                    ErrorCode::NotLeader,
                    format!("broker {follower} is no replica of '{}' partition {}", self.topic, self.id.partition),
                ));
            }
            self.advance(leading, log, now, Some(follower));
            let start = leading.state.followers_start();
            self.standing.send_if_modified(|standing| std::mem::replace(&mut standing.followers_start, start) != start);
            look.wants_change = leading.state.has_joiner(log);
            look.is_waited_for = leading.state.is_waited_for(follower, now);
            look.ends.high_watermark = leading.state.high_watermark().min(look.ends.log_end);
        }
        Ok(look)
    }

    /// Looks again at a position that `follower` said before.
    ///
    /// # Errors
    /// As [`Partition::on_follower_fetch`].
    pub fn look_for_follower(
        &self,
        follower: BrokerId,
        position: &ReplicaFetchPartition,
        now: Duration,
    ) -> Result<FollowerLook, ErrorBody> {
        let mut part = self.part.lock();
        let leading = self.leading(&mut part, position.leader_epoch)?;
        let look = self.compare(leading, position)?;
        Ok(FollowerLook { is_waited_for: leading.state.is_waited_for(follower, now), ..look })
    }

    /// A follower said, in between fetches, how far its disk is. Returns true when a change of the in-sync set is due.
    pub fn on_follower_progress(
        &self,
        follower: BrokerId,
        epoch: LeaderEpoch,
        durable_end: Offset,
        now: Duration,
    ) -> bool {
        let mut part = self.part.lock();
        let Ok(leading) = self.leading(&mut part, epoch) else { return false };
        let log = self.leader_log();
        if !leading.state.on_durable_end(follower, durable_end, log, now) {
            return false;
        }
        self.advance(leading, log, now, None);
        leading.state.has_joiner(log)
    }

    /// True when this broker leads in `epoch` and commits wait for `follower`.
    pub fn waits_for_follower(&self, follower: BrokerId, epoch: LeaderEpoch, now: Duration) -> bool {
        let mut part = self.part.lock();
        self.leading(&mut part, epoch).is_ok_and(|leading| leading.state.is_waited_for(follower, now))
    }

    /// This broker's own disk has moved.
    pub fn on_own_progress(&self, now: Duration) {
        if let Part::Leading(leading) = &mut *self.part.lock() {
            self.advance(leading, self.leader_log(), now, None);
        }
    }

    /// The change of the in-sync set to propose at `now`, if there is one. It counts as sent.
    pub fn next_isr_change(&self, now: Duration) -> Option<IsrChange> {
        match &mut *self.part.lock() {
            Part::Leading(leading) => leading.state.next_change(self.leader_log(), now),
            Part::Alone | Part::Following(..) | Part::Idle => None,
        }
    }

    /// Takes the answer to the change that was asked for in `epoch`, of the state `asked`.
    pub fn on_isr_answer(&self, epoch: LeaderEpoch, asked: PartitionEpoch, answer: ChangeAnswer, now: Duration) {
        let mut part = self.part.lock();
        let Ok(leading) = self.leading(&mut part, epoch) else { return };
        leading.state.on_change_answer(asked, answer);
        self.advance(leading, self.leader_log(), now, None);
        let (role, high_watermark) = (self.role.load(), leading.state.high_watermark());
        self.publish(&part, &role, high_watermark);
    }

    /// How many replicas have everything below `offset` now, and how many on stable storage, as they have said.
    pub fn holders(&self, offset: Offset) -> Holders {
        let log = self.leader_log();
        match &*self.part.lock() {
            Part::Leading(leading) => leading.state.holders(offset, log),
            Part::Alone | Part::Following(..) | Part::Idle => {
                Holders { replicas: 1, durable: usize::from(log.durable_end >= offset) }
            }
        }
    }

    /// Whose confirmation is missing for what lies below `offset` to be committed; none when another broker leads.
    pub fn unconfirmed(&self, offset: Offset, now: Duration) -> Vec<BrokerId> {
        match &*self.part.lock() {
            Part::Leading(leading) => leading.state.unconfirmed(offset, self.leader_log(), now),
            Part::Alone | Part::Following(..) | Part::Idle => Vec::new(),
        }
    }

    /// Every replica as this leader sees it; none when another broker leads.
    pub fn standings(&self, now: Duration) -> Vec<ReplicaStanding> {
        match &*self.part.lock() {
            Part::Leading(leading) => leading.state.standings(self.leader_log(), now),
            Part::Alone | Part::Following(..) | Part::Idle => Vec::new(),
        }
    }

    /// About how many record bytes lie between two offsets, as far as they are in the log.
    pub fn bytes_between(&self, from: Offset, to: Offset) -> u64 {
        self.bytes_of(from.max(self.log.log_start()).distance_to(to).unwrap_or(0))
    }

    /// About how many bytes so many records have: as many each as those on the disk.
    pub fn bytes_of(&self, records: u64) -> u64 {
        let stored = self.log.log_start().distance_to(self.log.synced_end()).unwrap_or(0);
        let bytes = u128::from(self.log.size_bytes()) * u128::from(records) / u128::from(stored.max(1));
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Tells followers' open fetches that `bytes` of records were appended.
    pub(super) fn tell_followers(&self, bytes: usize) {
        if let Part::Leading(leading) = &mut *self.part.lock() {
            leading.appended_bytes = leading.appended_bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
            leading.tell(None, |news| news.has_records(self.id));
        }
    }

    pub(super) fn leader_log(&self) -> LeaderLog {
        let LogEnds { durable, accepted, durability, .. } = self.log.ends();
        LeaderLog { durable_end: durable, end: accepted, durability }
    }

    fn leading<'a>(&self, part: &'a mut Part, epoch: LeaderEpoch) -> Result<&'a mut Leading, ErrorBody> {
        let role = self.role.load();
        // A follower always knows whom it follows: "not known" is no epoch of it.
        if epoch == LeaderEpoch::UNKNOWN {
            return Err(ErrorBody::new(ErrorCode::InvalidRequest, "a follower names the leader epoch it follows"));
        }
        let _token = role.lead(epoch)?;
        match part {
            Part::Leading(leading) if leading.state.leader_epoch() == epoch => Ok(leading),
            Part::Leading(_) | Part::Alone | Part::Following(..) | Part::Idle => {
                Err(ErrorBody::new(ErrorCode::NotReady, "the role changes this moment: try again shortly"))
            }
        }
    }

    fn compare(&self, leading: &Leading, position: &ReplicaFetchPartition) -> Result<FollowerLook, ErrorBody> {
        let leader_epoch = leading.state.leader_epoch();
        let (fetch_offset, last_epoch) = (position.fetch_offset, position.last_fetched_epoch);
        let watermark = leading.state.high_watermark();
        let (ends, prefix) = look_at(fetch_offset, last_epoch, leader_epoch, watermark, &self.log);
        if prefix == Prefix::Unknown {
            return Err(ErrorBody::new(
                ErrorCode::OffsetOutOfRange,
                format!("epoch {} of the follower's last batch is not known here", position.last_fetched_epoch),
            ));
        }
        let appended_bytes = leading.appended_bytes;
        Ok(FollowerLook { leader_epoch, ends, prefix, wants_change: false, is_waited_for: false, appended_bytes })
    }

    /// Moves the watermarks and tells every follower but `asking`, whose answer has it anyway.
    fn advance(&self, leading: &mut Leading, log: LeaderLog, now: Duration, asking: Option<BrokerId>) {
        let before = leading.state.high_watermark();
        if leading.state.advance(log, now) {
            let high_watermark = leading.state.high_watermark();
            self.log.set_committed(high_watermark);
            let committed = Committed::of(&leading.state);
            self.standing.send_modify(|standing| {
                standing.high_watermark = high_watermark;
                standing.committed = committed;
            });
            if high_watermark > before {
                leading.tell(asking, |news| news.has_watermark(self.id));
            }
        }
    }
}

impl FollowerLog for PartitionLog {
    fn start(&self) -> Offset {
        self.log_start()
    }

    fn end(&self) -> Offset {
        self.log_end()
    }

    fn end_offset_for(&self, epoch: LeaderEpoch) -> EpochEnd {
        Self::end_offset_for(self, epoch)
    }
}
