//! One partition as its leader sees it: followers, the in-sync set, the high watermark. Pure: values in, values out.
//!
//! ```text
//! log start <= durable watermark <= high watermark <= counted end of every replica that must have what is committed <= log end
//!                                         ^
//!                                         epoch start: until the watermark is here, a new leader's may lag the true one (H3)
//! ```
//! What counts are durable ends, and accepted ends only while the topic is `async`. The leader's own setting decides for
//! all replicas, because they say both ends: one that has not heard of a change changes nothing. The durable watermark is
//! what the other one would be had the topic always been `sync`; without a change of the setting the two are one. The rule
//! numbers are those of the replication specification: H1-H3 for the
//! watermark, I1-I4 for the in-sync set.

use std::collections::BTreeMap;
use std::time::Duration;

use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch};
use streambus_protocol::ids::BrokerId;
use streambus_protocol::offset::Offset;
use streambus_protocol::topic_config::Durability;

use crate::replication::follower_progress::{FollowerProgress, FollowerReport};
use crate::replication::in_sync::{ChangeAnswer, InSyncSet, IsrChange, PartitionVersion, ProposedMember};
use crate::replication::watermark::{InSync, LeaderLog};

/// A partition in one version of the metadata, as its leader needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderView {
    /// Leadership, in-sync set and recovery.
    pub version: PartitionVersion,
    /// Every broker that holds the partition, the leader included.
    pub replicas: Vec<BrokerId>,
    /// The topic's `min.insync.replicas`.
    pub replicas_min: usize,
    /// The registered brokers among the replicas.
    pub registered: BTreeMap<BrokerId, Registered>,
}

/// A registered broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The epoch of its registration.
    pub epoch: BrokerEpoch,
    /// Neither fenced nor shutting down: it may join an in-sync set (KIP-841).
    pub may_join: bool,
}

/// What the leader knows of one replica, for whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaStanding {
    /// The replica.
    pub broker: BrokerId,
    /// The end of its log.
    pub log_end: Offset,
    /// The end of what it has on stable storage; of what it has accepted, while the topic is `async`.
    pub durable_end: Offset,
    /// Whether the metadata counts it as in sync.
    pub in_sync: bool,
    /// How long ago it had everything; none when it has not in this leadership. Zero for the leader.
    pub caught_up_ago: Option<Duration>,
    /// How many offsets its log grew by in a second, lately. Zero for the leader.
    pub records_per_second: u64,
}

/// A partition's replication in one leadership.
#[derive(Debug)]
pub struct LeaderState {
    me: BrokerId,
    epoch_start: Offset,
    replicas_min: usize,
    in_sync: InSyncSet,
    followers: BTreeMap<BrokerId, FollowerProgress>,
    registered: BTreeMap<BrokerId, Registered>,
    high_watermark: Offset,
    durable_watermark: Offset,
    lag_limit: Duration,
    #[cfg(test)]
    planted: Option<crate::replication::planted::PlantedBug>,
}

impl LeaderState {
    /// A leadership that begins at `now`. `epoch_start` is the end that the log had when it began, which is durable
    /// with the epoch (rule E2), or, of a leader that was the only replica until now, the end of what it has taken as that.
    /// `high_watermark` is what this broker knew as a follower, perhaps too little (rule H3). All below it is on the disks of
    /// those in sync if `log` counts by disks, as far as it is on this one.
    pub fn new(
        me: BrokerId,
        view: LeaderView,
        epoch_start: Offset,
        (high_watermark, log): (Offset, LeaderLog),
        lag_limit: Duration,
        now: Duration,
    ) -> Self {
        let durable_watermark = match log.durability {
            Durability::Sync => high_watermark.min(log.durable_end),
            Durability::Async => Offset::ZERO,
        };
        let others = view.replicas.iter().filter(|broker| **broker != me);
        let followers = others.map(|broker| (*broker, FollowerProgress::new(now))).collect();
        Self {
            me,
            epoch_start,
            replicas_min: view.replicas_min,
            in_sync: InSyncSet::new(view.version),
            followers,
            registered: view.registered,
            high_watermark,
            durable_watermark,
            lag_limit,
            #[cfg(test)]
            planted: None,
        }
    }

    /// The leadership.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.in_sync.committed().leader_epoch
    }

    /// The end of what is committed.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The end of what is committed and on the disks that [`LeaderState::durable_count`] counts.
    pub fn durable_watermark(&self) -> Offset {
        self.durable_watermark
    }

    /// Where this leadership's own records begin.
    pub fn epoch_start(&self) -> Offset {
        self.epoch_start
    }

    /// False while the watermark may lag the true one: then nobody may learn the latest offset from it (rule H3).
    pub fn is_watermark_settled(&self) -> bool {
        self.high_watermark >= self.epoch_start
    }

    /// The in-sync set.
    pub fn in_sync(&self) -> &InSyncSet {
        &self.in_sync
    }

    /// True while as many replicas are in sync, by the metadata, as the topic demands.
    pub fn has_enough_in_sync(&self) -> bool {
        self.in_sync.committed().isr.len() >= self.replicas_min
    }

    /// Takes newer metadata of the same leadership. Replicas that were added begin without progress; those that left and
    /// came back in between are told from the others by their own fetches.
    pub fn on_metadata(&mut self, view: LeaderView, now: Duration) {
        assert_eq!(view.version.leader_epoch, self.leader_epoch(), "another leadership is another state");
        self.replicas_min = view.replicas_min;
        self.followers.retain(|broker, _| view.replicas.contains(broker));
        for broker in view.replicas.iter().filter(|broker| **broker != self.me) {
            self.followers.entry(*broker).or_insert_with(|| FollowerProgress::new(now));
        }
        self.registered = view.registered;
        self.in_sync.adopt(view.version);
        let registered = &self.registered;
        self.in_sync.on_registrations(|broker| registered.get(&broker).map(|life| life.epoch));
    }

    /// A follower fetched under this leadership's epoch, and its log is a prefix of this one: `report` is what it has.
    /// Returns false when `broker` is no follower here.
    pub fn on_fetch(&mut self, broker: BrokerId, report: FollowerReport, log: LeaderLog, now: Duration) -> bool {
        debug_assert!(report.log_end <= log.end, "a log that matches is no longer than the leader's");
        let Some(follower) = self.followers.get_mut(&broker) else { return false };
        follower.on_fetch(report, log, now);
        true
    }

    /// A follower said how far its disk is. Returns false when that says nothing: it is no follower, or has not fetched
    /// in this leadership.
    pub fn on_durable_end(&mut self, broker: BrokerId, durable_end: Offset, log: LeaderLog, now: Duration) -> bool {
        self.followers.get_mut(&broker).is_some_and(|follower| follower.on_durable_end(durable_end, log, now))
    }

    /// Moves the watermarks as far as rule H1 allows. Returns true when one moved.
    ///
    /// It waits for the leader, the maximal in-sync set, and every follower that is about to join, which would never get
    /// there otherwise; and it stands still while fewer replicas are in sync than the topic demands (KAFKA-15583).
    pub fn advance(&mut self, log: LeaderLog, now: Duration) -> bool {
        debug_assert!(log.durable_end <= log.end);
        if !self.has_enough_in_sync() && !self.is_planted_watermark_below_min_isr() {
            return false;
        }
        let counted = self.followers.iter().filter(|(broker, follower)| self.must_have(**broker, follower, now));
        let counted: Vec<_> = counted.map(|(_, follower)| follower).collect();
        let smallest = |end: &dyn Fn(&FollowerProgress) -> Offset| counted.iter().map(|follower| end(follower)).min();
        let ends = InSync {
            leader_end: log.counted_end(),
            smallest_follower_end: smallest(&|follower| follower.counted_end(log.durability)),
        };
        let durable_ends = InSync {
            leader_end: log.durable_end,
            smallest_follower_end: smallest(&|follower| follower.counted_end(Durability::Sync)),
        };
        let high_watermark = ends.watermark(self.high_watermark);
        // Whatever followers say: what is committed on disks is committed.
        let durable_watermark = durable_ends.watermark(self.durable_watermark).min(high_watermark);
        assert!(high_watermark >= self.high_watermark, "within a leadership the watermark never goes back");
        let has_moved = (high_watermark, durable_watermark) != (self.high_watermark, self.durable_watermark);
        (self.high_watermark, self.durable_watermark) = (high_watermark, durable_watermark);
        has_moved
    }

    /// Takes time into account, and says which change of the in-sync set to send now, if any: an open one that is to be
    /// sent again, else one growth or shrink that rules I1 and I2 ask for.
    pub fn next_change(&mut self, log: LeaderLog, now: Duration) -> Option<IsrChange> {
        for follower in self.followers.values_mut() {
            follower.catch_up(log, now);
        }
        if !self.in_sync.is_changing()
            && let Some(isr) = self.wanted(log, now)
        {
            // Whoever joined has the recovered leader's log: there is nothing left to recover.
            let recovering = self.in_sync.committed().recovering && isr.len() == 1;
            self.in_sync.propose(isr, recovering);
        }
        self.in_sync.take_ready()
    }

    /// How many replicas are in sync, the leader included. Each has on disk what is committed, also if it has not been
    /// heard in this leadership.
    pub fn in_sync_count(&self) -> usize {
        let followers = self.followers.keys().filter(|broker| self.in_sync.is_committed(**broker)).count();
        followers + usize::from(self.in_sync.is_committed(self.me))
    }

    /// The smallest log start on the disk of a follower in sync, zero while one has not been heard in this leadership; none
    /// when nobody else is in sync.
    pub fn followers_start(&self) -> Option<Offset> {
        let start = |follower: &FollowerProgress| follower.report().map_or(Offset::ZERO, |report| report.log_start);
        let in_sync = self.followers.iter().filter(|(broker, _)| self.in_sync.is_committed(**broker));
        in_sync.map(|(_, follower)| start(follower)).min()
    }

    /// How many of those in sync have on disk what lies below the durable watermark. One that has not been heard in this
    /// leadership has; one that joined while the topic was `async` says so itself.
    pub fn durable_count(&self) -> usize {
        let has = |follower: &FollowerProgress| {
            follower.report().is_none() || follower.counted_end(Durability::Sync) >= self.durable_watermark
        };
        let followers = self.followers.iter().filter(|(broker, f)| self.in_sync.is_committed(**broker) && has(f));
        followers.count() + usize::from(self.in_sync.is_committed(self.me))
    }

    /// True when a follower may join the in-sync set and nothing is on its way.
    pub fn has_joiner(&self, log: LeaderLog) -> bool {
        let is_outside = |broker: BrokerId| !self.in_sync.is_committed(broker);
        let may_join = |(broker, follower): (&BrokerId, &FollowerProgress)| {
            is_outside(*broker) && self.may_join(*broker, follower, log.durability)
        };
        !self.in_sync.is_changing() && self.followers.iter().any(may_join)
    }

    /// Takes the answer to the change of `asked`.
    pub fn on_change_answer(&mut self, asked: PartitionEpoch, answer: ChangeAnswer) {
        self.in_sync.on_answer(asked, answer);
    }

    /// How many replicas hold everything below `offset`, and how many have it on stable storage, the leader included.
    pub fn holders(&self, offset: Offset, log: LeaderLog) -> Holders {
        let count = |has: &dyn Fn(FollowerReport) -> bool| {
            self.followers.values().filter_map(FollowerProgress::report).filter(|report| has(*report)).count()
        };
        Holders {
            replicas: count(&|report| report.log_end >= offset) + usize::from(log.end >= offset),
            durable: count(&|report| report.counted_end(Durability::Sync) >= offset)
                + usize::from(log.durable_end >= offset),
        }
    }

    /// Whom the commit of what lies below `offset` waits for, in order of their numbers: those that have not confirmed it
    /// and must.
    pub fn unconfirmed(&self, offset: Offset, log: LeaderLog, now: Duration) -> Vec<BrokerId> {
        let lacks = |(broker, follower): &(&BrokerId, &FollowerProgress)| {
            follower.counted_end(log.durability) < offset && self.must_have(**broker, follower, now)
        };
        let followers = self.followers.iter().filter(lacks).map(|(broker, _)| *broker);
        let mut lacking: Vec<BrokerId> = followers.chain((log.counted_end() < offset).then_some(self.me)).collect();
        lacking.sort_unstable();
        lacking
    }

    /// True when commits wait for this follower, or for any follower to join: whoever slows it down slows producers down.
    pub fn is_waited_for(&self, broker: BrokerId, now: Duration) -> bool {
        let commits_wait = |follower| !self.has_enough_in_sync() || self.must_have(broker, follower, now);
        self.followers.get(&broker).is_some_and(commits_wait)
    }

    /// Every replica as the leader sees it, in order of their numbers.
    pub fn standings(&self, log: LeaderLog, now: Duration) -> Vec<ReplicaStanding> {
        let leader = ReplicaStanding {
            broker: self.me,
            log_end: log.end,
            durable_end: log.counted_end(),
            in_sync: self.in_sync.is_committed(self.me),
            caught_up_ago: Some(Duration::ZERO),
            records_per_second: 0,
        };
        let followers = self.followers.iter().map(|(broker, follower)| ReplicaStanding {
            broker: *broker,
            log_end: follower.report().map_or(Offset::ZERO, |report| report.log_end),
            durable_end: follower.counted_end(log.durability),
            in_sync: self.in_sync.is_committed(*broker),
            caught_up_ago: match follower.report() {
                Some(_) if follower.counted_end(log.durability) >= log.end => Some(Duration::ZERO),
                _ => follower.has_caught_up().then(|| now.saturating_sub(follower.caught_up_at())),
            },
            records_per_second: follower.records_per_second(now),
        });
        let mut standings: Vec<_> = followers.chain([leader]).collect();
        standings.sort_unstable_by_key(|standing| standing.broker);
        standings
    }

    /// True when nothing may be committed that this follower does not have.
    fn must_have(&self, broker: BrokerId, follower: &FollowerProgress, now: Duration) -> bool {
        if self.is_planted_committed_isr_only() {
            return self.in_sync.is_committed(broker);
        }
        // Who has not been there in this leadership may have a whole log to copy: nobody waits for that.
        let is_joining = self.eligible_life(broker, follower).is_some()
            && follower.has_caught_up()
            && now.saturating_sub(follower.caught_up_at()) <= self.lag_limit;
        self.in_sync.is_in_maximal(broker) || is_joining
    }

    /// The in-sync set as it should be, if that differs from the committed one: without those that lag (I1), with those
    /// that have caught up (I2). Members stay in the life they are registered in.
    fn wanted(&self, log: LeaderLog, now: Duration) -> Option<Vec<ProposedMember>> {
        let committed = &self.in_sync.committed().isr;
        let mut members = Vec::with_capacity(committed.len() + 1);
        members.push(self.member(self.me)?);
        let mut differs = false;
        for (broker, follower) in &self.followers {
            let is_member = committed.contains(broker);
            let stays = is_member && !follower.is_lagging(log, self.lag_limit, now);
            let joins = !is_member && self.may_join(*broker, follower, log.durability);
            differs |= is_member != (stays || joins);
            if stays {
                // One that is not registered at all cannot be named: the controller has fenced it and will say so.
                members.push(self.member(*broker)?);
            } else if joins {
                let epoch = self.eligible_life(*broker, follower)?;
                members.push(ProposedMember { broker: *broker, epoch });
            }
        }
        differs.then_some(members)
    }

    fn member(&self, broker: BrokerId) -> Option<ProposedMember> {
        self.registered.get(&broker).map(|life| ProposedMember { broker, epoch: life.epoch })
    }

    /// Rule I2: it has all that is known to be committed and all that this leadership began with, as it said in a fetch of
    /// this leadership, from the life that is registered, which is neither fenced nor shutting down.
    ///
    /// What the leadership began with includes everything committed, also while the watermark lags (rule H3). To wait for
    /// the watermark itself to get there would be a deadlock: below `min.insync.replicas` only growth can move it.
    fn may_join(&self, broker: BrokerId, follower: &FollowerProgress, durability: Durability) -> bool {
        let end = follower.counted_end(durability);
        let has_epoch_start = end >= self.epoch_start || self.is_planted_growth_without_leso();
        self.eligible_life(broker, follower).is_some() && end >= self.high_watermark && has_epoch_start
    }

    /// The life in which the follower fetched, when that is the registered one and may join (KIP-841, KIP-903).
    fn eligible_life(&self, broker: BrokerId, follower: &FollowerProgress) -> Option<BrokerEpoch> {
        let fetched = follower.report()?.broker_epoch;
        let registered = self.registered.get(&broker).filter(|life| life.may_join)?.epoch;
        (fetched == registered || self.is_planted_broker_epoch_ignored()).then_some(registered)
    }
}

/// How many replicas have something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holders {
    /// In memory at least.
    pub replicas: usize,
    /// On stable storage.
    pub durable: usize,
}

/// Defects that the explorer plants to see that it finds them; none outside of tests.
mod planting {
    use super::LeaderState;
    #[cfg(test)]
    use crate::replication::planted::PlantedBug;

    macro_rules! planted {
        ($($method:ident = $bug:ident),* $(,)?) => {
            impl LeaderState {
                $(
                    #[cfg(test)]
                    pub(super) fn $method(&self) -> bool {
                        self.planted == Some(PlantedBug::$bug)
                    }

                    #[cfg(not(test))]
                    pub(super) const fn $method(&self) -> bool {
                        false
                    }
                )*

                /// Plants `bug`.
                #[cfg(test)]
                pub(crate) fn plant(&mut self, bug: Option<PlantedBug>) {
                    self.planted = bug;
                }
            }
        };
    }

    planted! {
        is_planted_watermark_below_min_isr = WatermarkBelowMinIsr,
        is_planted_committed_isr_only = CommittedIsrOnly,
        is_planted_growth_without_leso = GrowthWithoutEpochStart,
        is_planted_broker_epoch_ignored = BrokerEpochIgnored,
    }
}

#[cfg(test)]
mod tests;
