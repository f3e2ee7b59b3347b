//! One broker with its replica: the adapters around the pure rules, as short as they can be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use streambus_consensus::image::{ClusterImage, PartitionImage};
use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch};
use streambus_protocol::ids::BrokerId;
use streambus_protocol::offset::Offset;
use streambus_protocol::topic_config::Durability;

use super::model_log::{Entry, ModelLog, index, offset};
use super::random::Random;
use super::world::PARTITION;
use crate::replication::follower_progress::FollowerReport;
use crate::replication::follower_state::{
    Answer, Asked, FollowerState, LeaderEnds, Prefix, Step, compare, may_lose_committed,
};
use crate::replication::in_sync::PartitionVersion;
use crate::replication::leader_state::{LeaderState, LeaderView, Registered};
use crate::replication::planted::PlantedBug;
use crate::replication::watermark::LeaderLog;

pub(super) const LAG_LIMIT: Duration = Duration::from_secs(10);
/// Records in one answer.
const RECORDS_MAX: usize = 3;

/// A broker, alive or not.
pub(super) struct Replica {
    pub(super) id: BrokerId,
    /// Which disk it has.
    pub(super) disk: u8,
    pub(super) log: ModelLog,
    pub(super) is_up: bool,
    /// Counts its lives.
    pub(super) life: u8,
    /// Its registration, in this life.
    pub(super) epoch: Option<BrokerEpoch>,
    /// The metadata it has seen.
    pub(super) seen: Option<Arc<ClusterImage>>,
    pub(super) part: Part,
    pub(super) high_watermark: usize,
    /// Changes proposed so far, and the one whose answer is awaited.
    pub(super) changes: u64,
    pub(super) open_change: Option<u64>,
    sequence: u64,
    /// The last fetch from before its log was cut last.
    cut_after: u64,
    planted: Option<PlantedBug>,
}

pub(super) enum Part {
    Idle,
    Leading(Box<Leading>),
    Following(BrokerId, FollowerState),
}

pub(super) struct Leading {
    pub(super) state: LeaderState,
    /// The last fetch of each follower: an older message says nothing.
    heard: BTreeMap<BrokerId, (BrokerEpoch, u64)>,
}

/// A follower's fetch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fetch {
    pub(super) from: BrokerId,
    pub(super) broker_epoch: BrokerEpoch,
    pub(super) sequence: u64,
    pub(super) leader_epoch: LeaderEpoch,
    pub(super) log_end: Offset,
    pub(super) durable_end: Offset,
    pub(super) last_epoch: LeaderEpoch,
}

/// A leader's answer.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) life: u8,
    /// The number of the fetch.
    sequence: u64,
    pub(super) asked: Asked,
    pub(super) answer: Answer,
    pub(super) entries: Vec<Entry>,
}

impl Replica {
    pub(super) fn new(id: BrokerId, planted: Option<PlantedBug>) -> Self {
        Self {
            id,
            disk: 0,
            log: ModelLog::default(),
            is_up: false,
            life: 0,
            epoch: None,
            seen: None,
            part: Part::Idle,
            high_watermark: 0,
            changes: 0,
            open_change: None,
            sequence: 0,
            cut_after: 0,
            planted,
        }
    }

    fn has(&self, bug: PlantedBug) -> bool {
        self.planted == Some(bug)
    }

    pub(super) fn start(&mut self) {
        assert!(!self.is_up);
        self.is_up = true;
        self.life += 1;
        self.epoch = None;
        self.seen = None;
        self.high_watermark = self.log.committed();
    }

    pub(super) fn crash(&mut self, random: &mut Random) {
        self.is_up = false;
        self.part = Part::Idle;
        self.log.crash(random);
    }

    pub(super) fn wipe(&mut self) {
        assert!(!self.is_up);
        self.disk += 1;
        self.log = ModelLog::default();
    }

    pub(super) fn leads(&self) -> Option<LeaderEpoch> {
        match &self.part {
            Part::Leading(leading) => Some(leading.state.leader_epoch()),
            Part::Idle | Part::Following(..) => None,
        }
    }

    /// The leadership whose records it shows; none while it shows none, as a follower that an unclean election may make
    /// cut what it has shown.
    pub(super) fn reads_in(&self) -> Option<LeaderEpoch> {
        match &self.part {
            Part::Leading(leading) => Some(leading.state.leader_epoch()),
            Part::Following(_, state) => (state.is_matched() || !state.is_unclean()).then_some(state.leader_epoch()),
            Part::Idle => None,
        }
    }

    /// What counts as durable on this broker.
    pub(super) fn durable_end(&self) -> Offset {
        match self.has(PlantedBug::AckBeforeSync) {
            true => offset(self.log.len()),
            false => offset(self.log.durable_len()),
        }
    }

    pub(super) fn leader_log(&self) -> LeaderLog {
        LeaderLog { durable_end: self.durable_end(), end: offset(self.log.len()), durability: Durability::Sync }
    }

    /// Takes its part in the partition, as `image` says.
    pub(super) fn see(&mut self, image: Arc<ClusterImage>, now: Duration) {
        let registered = image.brokers.get(&self.id).map(|broker| broker.epoch);
        if self.epoch.is_none() || registered != self.epoch {
            // Before its own registration a broker has no part.
            return;
        }
        let Some((view, state)) = view(&image) else { return };
        self.seen = Some(Arc::clone(&image));
        let epoch = state.leader_epoch;
        match state.leader {
            Some(leader) if leader == self.id => {
                if let Part::Leading(leading) = &mut self.part
                    && leading.state.leader_epoch() == epoch
                {
                    leading.state.on_metadata(view, now);
                } else {
                    // The epoch is on disk before anything is served (rule E2).
                    if self.log.latest_epoch() != Some(epoch) {
                        self.log.start_epoch(epoch);
                    }
                    self.log.sync(usize::MAX);
                    let end = offset(self.log.len());
                    let known = offset(self.high_watermark).min(end);
                    let log = self.leader_log();
                    let mut state = LeaderState::new(self.id, view, end, (known, log), LAG_LIMIT, now);
                    state.plant(self.planted);
                    self.part = Part::Leading(Box::new(Leading { state, heard: BTreeMap::new() }));
                }
                self.advance(now);
            }
            Some(leader) => {
                let unclean = !self.has(PlantedBug::UncleanElectionUnknown)
                    && may_lose_committed(state.recovering, state.unclean_epoch, self.log.latest_epoch());
                let was_unclean = match &mut self.part {
                    Part::Following(known, state) if *known == leader && state.leader_epoch() == epoch => {
                        if unclean {
                            state.on_unclean_election();
                        }
                        None
                    }
                    Part::Following(_, state) => Some(state.is_unclean()),
                    Part::Idle | Part::Leading(_) => Some(false),
                };
                if let Some(was_unclean) = was_unclean {
                    if self.has(PlantedBug::TruncateToWatermark) {
                        self.log.truncate(self.high_watermark);
                    }
                    let known = offset(self.high_watermark.min(self.log.len()));
                    let mut state = FollowerState::new(epoch, known, unclean || was_unclean);
                    state.plant(self.planted);
                    self.part = Part::Following(leader, state);
                }
            }
            None => self.part = Part::Idle,
        }
    }

    /// Its next fetch and the leader it goes to.
    pub(super) fn fetch(&mut self) -> Option<(BrokerId, Fetch)> {
        let Part::Following(leader, state) = &self.part else { return None };
        let fetch = Fetch {
            from: self.id,
            broker_epoch: self.epoch?,
            sequence: self.sequence + 1,
            leader_epoch: state.leader_epoch(),
            log_end: offset(self.log.len()),
            durable_end: self.durable_end(),
            last_epoch: self.log.latest_epoch().unwrap_or(LeaderEpoch::UNKNOWN),
        };
        self.sequence += 1;
        Some((*leader, fetch))
    }

    /// Answers a follower.
    pub(super) fn on_fetch(&mut self, fetch: Fetch, follower_life: u8, now: Duration) -> Option<Reply> {
        let log = self.leader_log();
        let (is_stale_ok, end) = (self.has(PlantedBug::StaleEpochCommit), self.log.len());
        let Part::Leading(leading) = &mut self.part else { return None };
        let heard = leading.heard.get(&fetch.from).copied();
        if heard.is_some_and(|last| last >= (fetch.broker_epoch, fetch.sequence)) {
            return None;
        }
        let report = FollowerReport {
            broker_epoch: fetch.broker_epoch,
            log_end: fetch.log_end,
            durable_end: fetch.durable_end,
            accepted_end: fetch.log_end,
            log_start: Offset::ZERO,
        };
        let leader_epoch = leading.state.leader_epoch();
        if fetch.leader_epoch != leader_epoch {
            if is_stale_ok && index(fetch.log_end) <= end {
                leading.state.on_fetch(fetch.from, report, log, now);
                self.advance(now);
            }
            return None;
        }
        leading.heard.insert(fetch.from, (fetch.broker_epoch, fetch.sequence));
        let prefix = compare(fetch.log_end, fetch.last_epoch, leader_epoch, &self.log);
        let (diverging, entries) = match prefix {
            Prefix::Matches => {
                leading.state.on_fetch(fetch.from, report, log, now);
                let rest = self.log.entries().get(index(fetch.log_end)..).unwrap_or_default();
                (None, rest.iter().take(RECORDS_MAX).copied().collect())
            }
            Prefix::Diverges(epoch, end) => (Some((epoch, end)), Vec::new()),
            Prefix::BelowStart | Prefix::Unknown => (None, Vec::new()),
        };
        self.advance(now);
        let ends = LeaderEnds {
            log_start: Offset::ZERO,
            high_watermark: offset(self.high_watermark),
            log_end: offset(self.log.len()),
        };
        let asked = Asked { leader_epoch: fetch.leader_epoch, fetch_offset: fetch.log_end };
        let answer = Answer { leader_epoch, diverging, ends: Ok(ends) };
        Some(Reply { life: follower_life, sequence: fetch.sequence, asked, answer, entries })
    }

    /// A follower's disk has moved.
    pub(super) fn on_progress(&mut self, progress: Fetch, now: Duration) {
        let log = self.leader_log();
        let Part::Leading(leading) = &mut self.part else { return };
        let is_current = leading
            .heard
            .get(&progress.from)
            .is_some_and(|(epoch, sequence)| *epoch == progress.broker_epoch && *sequence <= progress.sequence);
        if is_current && progress.leader_epoch == leading.state.leader_epoch() {
            leading.state.on_durable_end(progress.from, progress.durable_end, log, now);
            self.advance(now);
        }
    }

    /// What to say of the disk in between fetches.
    pub(super) fn progress(&self) -> Option<(BrokerId, Fetch)> {
        let Part::Following(leader, state) = &self.part else { return None };
        let progress = Fetch {
            from: self.id,
            broker_epoch: self.epoch?,
            sequence: self.sequence,
            leader_epoch: state.leader_epoch(),
            log_end: offset(self.log.len()),
            durable_end: self.durable_end(),
            last_epoch: LeaderEpoch::UNKNOWN,
        };
        Some((*leader, progress))
    }

    /// Takes its leader's answer.
    pub(super) fn on_reply(&mut self, from: BrokerId, reply: &Reply) -> Result<(), String> {
        // One fetch at a time is on its way: none about the log before a cut is answered after it.
        if reply.life != self.life || reply.sequence <= self.cut_after {
            return Ok(());
        }
        let Part::Following(leader, state) = &mut self.part else { return Ok(()) };
        if *leader != from {
            return Ok(());
        }
        match state.judge(reply.asked, &reply.answer, &self.log) {
            Step::Append(ends) => {
                for entry in &reply.entries {
                    self.log.append(*entry);
                }
                state.on_matched(ends, offset(self.log.len()));
            }
            Step::Truncate(to) => {
                self.log.truncate(index(to));
                state.on_cut(to);
                self.cut_after = self.sequence;
            }
            Step::RestartAt(at) => return Err(format!("broker {} restarts at {at} in a log from 0", self.id)),
            Step::Ignore | Step::Wait(_) => {}
            Step::Stop(alarm) => return Err(format!("F7: broker {} stops: {alarm}", self.id)),
        }
        self.high_watermark = index(state.high_watermark());
        Ok(())
    }

    /// Appends as leader. The offset after the record, also of one that is there already.
    pub(super) fn produce(&mut self, value: u64, is_numbered: bool) -> Option<usize> {
        let Part::Leading(leading) = &self.part else { return None };
        let epoch = leading.state.leader_epoch();
        if is_numbered {
            if !leading.state.has_enough_in_sync() {
                return None;
            }
            let forgets = self.has(PlantedBug::DedupeLostOnFailover);
            let is_known = |entry: &Entry| !forgets || entry.epoch == epoch;
            if let Some(at) = self.log.entries().iter().position(|entry| entry.value == value && is_known(entry)) {
                return Some(at + 1);
            }
            let numbered =
                self.log.entries().iter().filter(|entry| is_known(entry) && entry.value < super::world::NOISE);
            let last = numbered.map(|entry| entry.value).max();
            // An unknown producer may begin anywhere; a known one may leave no gap.
            if last.is_some_and(|last| last + 1 != value) {
                return None;
            }
        }
        self.log.append(Entry { epoch, value });
        Some(self.log.len())
    }

    pub(super) fn advance(&mut self, now: Duration) {
        let log = self.leader_log();
        if let Part::Leading(leading) = &mut self.part {
            leading.state.advance(log, now);
            self.high_watermark = index(leading.state.high_watermark());
        }
    }
}

/// The partition in `image`, as its leader's rules take it.
fn view(image: &ClusterImage) -> Option<(LeaderView, &PartitionImage)> {
    let topic = image.topic_by_id(PARTITION.topic)?;
    let state = topic.partition(PARTITION.partition)?;
    let registered = |id: &BrokerId| {
        let broker = image.brokers.get(id)?;
        Some((*id, Registered { epoch: broker.epoch, may_join: broker.standing().is_eligible() }))
    };
    let view = LeaderView {
        version: PartitionVersion {
            leader_epoch: state.leader_epoch,
            partition_epoch: state.partition_epoch,
            isr: state.isr.clone(),
            recovering: state.recovering,
        },
        replicas: state.replicas.clone(),
        replicas_min: state.in_sync_min(&topic.settings),
        registered: state.replicas.iter().filter_map(registered).collect(),
    };
    Some((view, state))
}
