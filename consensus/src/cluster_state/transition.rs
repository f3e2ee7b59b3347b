//! From one state of a partition to the next, whatever the reason: every change goes through here, so that epochs,
//! leader, in-sync and eligible replicas, and a move that is under way fit together afterwards.
//!
//! E1: the leader epoch grows iff leadership changes or replicas go; the partition epoch grows on every change.
//! L1: a member that leaves the in-sync set and leaves too few behind becomes eligible, since it is complete: with too
//! few in sync the high watermark does not move. Once enough are in sync again, nobody is eligible. So whoever is
//! eligible left when there were too few, and there have been too few ever since, by each number that held meanwhile:
//! another number changes nothing for it, unless enough are in sync by that one.
//! R1, R2: a move is completed in the same change that gives it the last in-sync replica it needs.

use streambus_protocol::epoch::{LeaderEpoch, PartitionEpoch};
use streambus_protocol::ids::BrokerId;
use streambus_protocol::topic_config::TopicConfig;

use crate::election::{Elected, Standing, elect};
use crate::image::PartitionImage;
use crate::outcome::{Counter, RefusedReason};

/// The largest leader epoch: batch headers have 31 bits for it.
const LEADER_EPOCH_MAX: u32 = i32::MAX as u32;

/// What happened to a replica that left in a way that makes it incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Its disk is another one: it holds nothing.
    Replaced,
    /// Its disk is the same, and its recovery found damage.
    Damaged,
}

/// A move of a partition.
#[derive(Default)]
pub(super) struct Moving {
    /// Replicas that catch up and will stay.
    pub(super) adding: Vec<BrokerId>,
    /// Replicas that go once those are in sync.
    pub(super) removing: Vec<BrokerId>,
    /// What those that are added may be sent, in bytes per second.
    pub(super) throttle: Option<u64>,
}

/// What is to be changed.
pub(super) struct Transition<'a> {
    before: &'a PartitionImage,
    next: PartitionImage,
    settings: &'a TopicConfig,
    unclean: bool,
    forced: bool,
    lost: Option<(BrokerId, Loss)>,
    wanted: Option<BrokerId>,
}

impl<'a> Transition<'a> {
    /// Starts from `before`, of a topic with `settings`.
    pub(super) fn new(before: &'a PartitionImage, settings: &'a TopicConfig) -> Self {
        let unclean = settings.unclean_leader_election;
        Self { before, next: before.clone(), settings, unclean, forced: false, lost: None, wanted: None }
    }

    /// The in-sync replicas become those of the present ones for which `keep` holds.
    pub(super) fn retain_in_sync(mut self, keep: impl Fn(BrokerId) -> bool) -> Self {
        self.next.isr.retain(|broker| keep(*broker));
        self
    }

    /// The in-sync replicas become `members`, in order of assignment.
    pub(super) fn in_sync(mut self, members: impl Fn(BrokerId) -> bool, recovering: bool) -> Self {
        self.next.isr = select(&self.next.replicas, members);
        self.next.recovering = recovering;
        self
    }

    /// `broker` holds less than it was counted for.
    pub(super) fn without(mut self, broker: BrokerId, loss: Loss) -> Self {
        self.next.isr.retain(|member| *member != broker);
        self.lost = Some((broker, loss));
        self
    }

    /// Leaders must learn of it, also when the sets stay as they are: `min.insync.replicas` is another.
    pub(super) fn counted_anew(mut self) -> Self {
        self.forced = true;
        self
    }

    /// This in-sync replica shall lead.
    pub(super) fn led_by(mut self, leader: BrokerId) -> Self {
        self.wanted = Some(leader);
        self
    }

    /// Records may be given up, whatever the topic says.
    pub(super) fn allow_unclean(mut self) -> Self {
        self.unclean = true;
        self
    }

    /// The partition moves, or moves no more. Replicas that are not named any more go at once.
    pub(super) fn assigned(mut self, target: &[BrokerId], moving: Moving) -> Self {
        self.next.replicas = target.iter().chain(&moving.removing).copied().collect();
        // Nobody is sent anything by a move that adds nobody.
        self.next.throttle = moving.throttle.filter(|_| !moving.adding.is_empty());
        self.next.adding = moving.adding;
        self.next.removing = moving.removing;
        self.next.isr = select(&self.next.replicas, |b| self.before.isr.contains(&b));
        self
    }

    /// The replicas as they are wanted so far.
    pub(super) fn replicas(&self) -> &[BrokerId] {
        &self.next.replicas
    }

    /// The next state, or none when nothing changes.
    pub(super) fn finish(
        mut self,
        standing: impl Fn(BrokerId) -> Standing,
    ) -> Result<Option<PartitionImage>, RefusedReason> {
        let completed = self.complete_move(&standing);
        self.settle_eligible();
        let unclean = self.choose_leader(&standing);
        if unclean {
            self.next.elr.clear();
            self.next.last_known_elr.clear();
        } else {
            self.settle_eligible();
        }
        let next = &mut self.next;
        let goes = |broker: &BrokerId| !next.replicas.contains(broker);
        let renewed = next.leader != self.before.leader || completed || self.before.replicas.iter().any(goes);
        if !renewed && !self.forced && *next == *self.before {
            return Ok(None);
        }
        if renewed {
            next.leader_epoch = grown_leader_epoch(self.before.leader_epoch)?;
        }
        if unclean {
            next.unclean_epoch = Some(next.leader_epoch);
        }
        next.partition_epoch = grown_partition_epoch(self.before.partition_epoch)?;
        self.check(unclean);
        Ok(Some(self.next))
    }

    /// Ends the move when all that were added are in sync and enough of those that stay are.
    fn complete_move(&mut self, standing: &impl Fn(BrokerId) -> Standing) -> bool {
        let next = &self.next;
        if !next.is_moving() {
            return false;
        }
        let stays = |broker: BrokerId| !next.removing.contains(&broker);
        let stayed =
            PartitionImage { replicas: select(&next.replicas, stays), isr: select(&next.isr, stays), ..next.clone() };
        let all_added = stayed.adding.iter().all(|broker| stayed.isr.contains(broker));
        let enough = stayed.isr.len() >= stayed.in_sync_min(self.settings);
        let can_be_led = stayed.isr.iter().any(|broker| standing(*broker).is_eligible());
        if !all_added || !enough || !can_be_led {
            return false;
        }
        self.next = PartitionImage { adding: Vec::new(), removing: Vec::new(), throttle: None, ..stayed };
        true
    }

    /// L1. Also drops those that are no replicas any more.
    fn settle_eligible(&mut self) {
        let lost = |broker: BrokerId| self.lost.is_some_and(|(lost, _)| lost == broker);
        let replaced = |broker: BrokerId| self.lost == Some((broker, Loss::Replaced));
        let before = self.before;
        let next = &mut self.next;
        if next.isr.len() >= next.in_sync_min(self.settings) {
            next.elr.clear();
            next.last_known_elr.clear();
            return;
        }
        let was_eligible = next.elr.clone();
        let eligible = |broker: BrokerId| {
            (before.isr.contains(&broker) || was_eligible.contains(&broker))
                && !next.isr.contains(&broker)
                && !lost(broker)
        };
        next.elr = select(&next.replicas, eligible);
        let was_known = next.last_known_elr.clone();
        let known = |broker: BrokerId| {
            let was_complete = before.isr.contains(&broker) || was_eligible.contains(&broker);
            (was_known.contains(&broker) || was_complete)
                && !next.isr.contains(&broker)
                && !next.elr.contains(&broker)
                && !replaced(broker)
        };
        next.last_known_elr = select(&next.replicas, known);
    }

    /// L2. True when records may be lost by it.
    fn choose_leader(&mut self, standing: &impl Fn(BrokerId) -> Standing) -> bool {
        let next = &mut self.next;
        let elected = match self.wanted.filter(|wanted| next.isr.contains(wanted)) {
            Some(wanted) => Some(Elected::InSync(wanted)),
            None => elect(next, standing, self.unclean),
        };
        next.leader = elected.map(Elected::leader);
        match elected {
            None | Some(Elected::InSync(_)) => false,
            Some(Elected::Eligible(leader)) => {
                // A fenced member that was kept because it was the last one is only as complete as this leader.
                let stays = |b: BrokerId| b == leader || (next.isr.contains(&b) && standing(b) != Standing::Fenced);
                next.isr = select(&next.replicas, stays);
                false
            }
            Some(Elected::Unclean(leader)) => {
                next.isr = vec![leader];
                next.recovering = true;
                true
            }
        }
    }

    /// What holds after every change; a state that breaks it must not be replicated.
    fn check(&self, unclean: bool) {
        let next = &self.next;
        let is_replica = |broker: &BrokerId| next.replicas.contains(broker);
        assert!(!next.replicas.is_empty() && next.isr.iter().all(is_replica), "in sync are replicas only: {next:?}");
        assert!(next.leader.is_none_or(|leader| next.isr.contains(&leader)), "the leader is in sync: {next:?}");
        assert!(next.elr.iter().all(|b| is_replica(b) && !next.isr.contains(b)), "eligible are the others: {next:?}");
        assert!(next.throttle.is_none() || !next.adding.is_empty(), "a limit is for those that are added: {next:?}");
        let enough = next.isr.len() >= next.in_sync_min(self.settings);
        assert!(!enough || next.elr.is_empty(), "nobody is eligible while enough are in sync: {next:?}");
        assert!(!unclean || next.isr.len() == 1, "an unclean leader is alone: {next:?}");
        debug_assert!(!next.recovering || next.isr.len() <= 1, "a leader that recovers is alone: {next:?}");
    }
}

/// Those of `replicas` for which `is_member` holds, in the same order.
pub(super) fn select(replicas: &[BrokerId], is_member: impl Fn(BrokerId) -> bool) -> Vec<BrokerId> {
    replicas.iter().copied().filter(|broker| is_member(*broker)).collect()
}

fn grown_leader_epoch(epoch: LeaderEpoch) -> Result<LeaderEpoch, RefusedReason> {
    let next = epoch.next().filter(|next| next.get() <= LEADER_EPOCH_MAX);
    next.ok_or(RefusedReason::Exhausted(Counter::LeaderEpoch))
}

fn grown_partition_epoch(epoch: PartitionEpoch) -> Result<PartitionEpoch, RefusedReason> {
    epoch.next().ok_or(RefusedReason::Exhausted(Counter::PartitionEpoch))
}
