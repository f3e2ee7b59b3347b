//! Who is in sync, while a change of that is on its way to the metadata group. Pure.
//!
//! ```text
//! committed   what the metadata says
//! maximal     committed, and every member of a proposal that may have been applied or may yet be
//! ```
//! The high watermark waits for the maximal set: a newcomer that the controller may already have elected must have
//! everything that is committed (rule I3, KIP-497). At most one proposal is on its way.

use std::collections::BTreeMap;

use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch};
use streambus_protocol::ids::BrokerId;

/// A partition's state in the metadata, as far as a change of its in-sync set goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionVersion {
    /// The leadership.
    pub leader_epoch: LeaderEpoch,
    /// Grows with each change.
    pub partition_epoch: PartitionEpoch,
    /// The in-sync replicas.
    pub isr: Vec<BrokerId>,
    /// True from an unclean election until the in-sync set is whole again.
    pub recovering: bool,
}

/// A member of a proposed in-sync set, in the life that the leader has seen it fetch in (KIP-903).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProposedMember {
    /// The broker.
    pub broker: BrokerId,
    /// The epoch of its registration.
    pub epoch: BrokerEpoch,
}

/// A change of the in-sync set for the controller to judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsrChange {
    /// The leadership that asks.
    pub leader_epoch: LeaderEpoch,
    /// The state that it is a change of.
    pub partition_epoch: PartitionEpoch,
    /// The whole new set.
    pub isr: Vec<ProposedMember>,
    /// Whether the partition still recovers from an unclean election.
    pub recovering: bool,
}

/// What became of a proposal (rule I4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeAnswer {
    /// The metadata says this now.
    Applied(PartitionVersion),
    /// This attempt was not applied and never will be.
    NotApplied,
    /// The metadata has moved on: its news will come by themselves, and until then nothing is known.
    Superseded,
    /// Nobody knows. The same proposal is to be sent again.
    Unknown,
}

/// The in-sync set of a partition, as its leader has it.
#[derive(Clone, Debug)]
pub struct InSyncSet {
    committed: PartitionVersion,
    proposal: Option<Proposal>,
    /// Members of attempts whose outcome nobody knows, in the life they were proposed in: a delayed attempt may be
    /// applied even after a repeated one was refused, until the state it is a change of is gone.
    doubtful: BTreeMap<BrokerId, BrokerEpoch>,
}

#[derive(Clone, Debug)]
struct Proposal {
    change: IsrChange,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// To be sent, for the first time or again.
    Ready,
    /// Sent; the answer is awaited.
    InFlight,
    /// Superseded: only newer metadata resolves it.
    AwaitsMetadata,
}

impl InSyncSet {
    /// The set that the metadata says, with nothing proposed.
    pub fn new(committed: PartitionVersion) -> Self {
        Self { committed, proposal: None, doubtful: BTreeMap::new() }
    }

    /// What the metadata says, as far as this broker knows.
    pub fn committed(&self) -> &PartitionVersion {
        &self.committed
    }

    /// True when the metadata counts `broker` as in sync.
    pub fn is_committed(&self, broker: BrokerId) -> bool {
        self.committed.isr.contains(&broker)
    }

    /// True when the high watermark must wait for `broker`.
    pub fn is_in_maximal(&self, broker: BrokerId) -> bool {
        let proposed = self.proposal.as_ref().is_some_and(|p| p.change.isr.iter().any(|m| m.broker == broker));
        self.is_committed(broker) || proposed || self.doubtful.contains_key(&broker)
    }

    /// True while a proposal waits to be sent or for its outcome.
    pub fn is_changing(&self) -> bool {
        self.proposal.is_some()
    }

    /// Proposes `isr`. From now on, before anything is sent, the maximal set has it.
    ///
    /// # Panics
    /// While another proposal is open: two changes of one state cannot both be judged.
    pub fn propose(&mut self, isr: Vec<ProposedMember>, recovering: bool) {
        assert!(self.proposal.is_none(), "at most one change of the in-sync set is on its way");
        let change = IsrChange {
            leader_epoch: self.committed.leader_epoch,
            partition_epoch: self.committed.partition_epoch,
            isr,
            recovering,
        };
        self.proposal = Some(Proposal { change, stage: Stage::Ready });
    }

    /// The change to send now, if there is one; it counts as sent.
    pub fn take_ready(&mut self) -> Option<IsrChange> {
        let proposal = self.proposal.as_mut().filter(|proposal| proposal.stage == Stage::Ready)?;
        proposal.stage = Stage::InFlight;
        Some(proposal.change.clone())
    }

    /// Takes the answer to the change of `asked` that was taken last; each change is answered once, with `Unknown` when its
    /// own answer may come later or never. Answers to changes that are no longer open say nothing.
    /// Returns true when the committed set changed.
    pub fn on_answer(&mut self, asked: PartitionEpoch, answer: ChangeAnswer) -> bool {
        let Some(proposal) = self.proposal.as_mut() else { return false };
        if proposal.change.partition_epoch != asked || proposal.stage == Stage::Ready {
            return false;
        }
        match answer {
            ChangeAnswer::Applied(version) => {
                // Applied, and ended this leadership with it; or the state was as proposed already and others have changed
                // it since. What else they changed, as how many replicas must be in sync, only the metadata says.
                let is_next = Some(version.partition_epoch) == asked.next();
                if version.leader_epoch != self.committed.leader_epoch || !is_next {
                    proposal.stage = Stage::AwaitsMetadata;
                    return false;
                }
                self.adopt(version)
            }
            ChangeAnswer::NotApplied => {
                self.proposal = None;
                false
            }
            ChangeAnswer::Superseded => {
                proposal.stage = Stage::AwaitsMetadata;
                false
            }
            ChangeAnswer::Unknown => {
                proposal.stage = Stage::Ready;
                self.doubtful.extend(proposal.change.isr.iter().map(|member| (member.broker, member.epoch)));
                false
            }
        }
    }

    /// Takes what the metadata says, if it is newer. Returns true when it was: every proposal of an older state is then
    /// resolved, since the controller refuses what is left of them on its way.
    pub fn adopt(&mut self, version: PartitionVersion) -> bool {
        if version.partition_epoch <= self.committed.partition_epoch {
            return false;
        }
        self.committed = version;
        self.proposal = None;
        self.doubtful.clear();
        true
    }

    /// Takes the epochs of all registered brokers: a life that is over can no longer be added to the set.
    pub fn on_registrations(&mut self, epoch_of: impl Fn(BrokerId) -> Option<BrokerEpoch>) {
        self.doubtful.retain(|broker, epoch| epoch_of(*broker) == Some(*epoch));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(id: u32) -> BrokerId {
        BrokerId::new(id)
    }

    fn version(partition_epoch: u32, isr: &[u32]) -> PartitionVersion {
        PartitionVersion {
            leader_epoch: LeaderEpoch::new(3),
            partition_epoch: PartitionEpoch::new(partition_epoch),
            isr: isr.iter().copied().map(BrokerId::new).collect(),
            recovering: false,
        }
    }

    fn members(ids: &[u32]) -> Vec<ProposedMember> {
        ids.iter().map(|id| ProposedMember { broker: broker(*id), epoch: BrokerEpoch::new(10) }).collect()
    }

    fn growing() -> InSyncSet {
        let mut set = InSyncSet::new(version(7, &[1, 2]));
        set.propose(members(&[1, 2, 3]), false);
        set
    }

    const ASKED: PartitionEpoch = PartitionEpoch::new(7);

    // I3. Catches a newcomer that counts only once the answer came: the controller may have elected it before that.
    #[test]
    fn i3_a_proposed_member_counts_before_it_is_sent_and_until_it_is_resolved() {
        let mut set = growing();
        assert!(set.is_in_maximal(broker(3)), "from the proposal on");
        assert!(!set.is_committed(broker(3)));
        let change = set.take_ready().expect("it is to be sent");
        assert_eq!((change.partition_epoch, change.isr.len()), (ASKED, 3));
        assert_eq!(set.take_ready(), None, "it is on its way");
        assert!(set.on_answer(ASKED, ChangeAnswer::Applied(version(8, &[1, 2, 3]))));
        assert!(set.is_committed(broker(3)) && !set.is_changing());
    }

    // I3. Catches a shrink that stops counting the leaving member before the controller agreed.
    #[test]
    fn i3_a_leaving_member_counts_until_the_controller_agrees() {
        let mut set = InSyncSet::new(version(7, &[1, 2]));
        set.propose(members(&[1]), false);
        assert!(set.is_in_maximal(broker(2)));
        assert!(set.take_ready().is_some());
        assert!(set.on_answer(ASKED, ChangeAnswer::Applied(version(8, &[1]))));
        assert!(!set.is_in_maximal(broker(2)));
    }

    // I4. Catches treating "cannot be applied" as unknown, which blocks every later change.
    #[test]
    fn i4_not_applied_returns_to_the_committed_set() {
        let mut set = growing();
        assert!(set.take_ready().is_some());
        assert!(!set.on_answer(ASKED, ChangeAnswer::NotApplied));
        assert!(!set.is_in_maximal(broker(3)) && !set.is_changing());
    }

    // I4. Catches giving up a proposal on an error that says only that the metadata has moved.
    #[test]
    fn i4_superseded_stays_open_until_the_metadata_arrives() {
        let mut set = growing();
        assert!(set.take_ready().is_some());
        assert!(!set.on_answer(ASKED, ChangeAnswer::Superseded));
        assert!(set.is_in_maximal(broker(3)) && set.is_changing());
        assert_eq!(set.take_ready(), None, "sending it again would be refused again");
        assert!(!set.adopt(version(7, &[1, 2])), "not newer");
        assert!(set.adopt(version(9, &[1, 2])));
        assert!(!set.is_in_maximal(broker(3)) && !set.is_changing());
    }

    // I4. Catches a lost reply taken for a refusal: the controller may have applied the change.
    #[test]
    fn i4_unknown_is_sent_again_and_keeps_the_union() {
        let mut set = growing();
        let first = set.take_ready();
        assert!(!set.on_answer(ASKED, ChangeAnswer::Unknown));
        assert!(set.is_in_maximal(broker(3)));
        assert_eq!(set.take_ready(), first, "the same proposal");
    }

    // Catches a refused repetition that releases the newcomer although the first attempt is still on its way.
    #[test]
    fn a_refused_repetition_does_not_clear_an_unknown_first_attempt() {
        let mut set = growing();
        assert!(set.take_ready().is_some());
        assert!(!set.on_answer(ASKED, ChangeAnswer::Unknown));
        assert!(set.take_ready().is_some());
        assert!(!set.on_answer(ASKED, ChangeAnswer::NotApplied));
        assert!(set.is_in_maximal(broker(3)), "the first attempt may yet be applied");
        assert!(!set.is_changing(), "another change may be proposed");
        set.on_registrations(|id| (id == broker(3)).then(|| BrokerEpoch::new(10)));
        assert!(set.is_in_maximal(broker(3)), "the same life");
        set.on_registrations(|id| (id == broker(3)).then(|| BrokerEpoch::new(11)));
        assert!(!set.is_in_maximal(broker(3)), "that life is over: the controller refuses it");
    }

    // I4. Catches an answer that overtakes newer metadata and takes the set back.
    #[test]
    fn i4_an_answer_that_comes_after_newer_metadata_changes_nothing() {
        let mut set = growing();
        assert!(set.take_ready().is_some());
        assert!(set.adopt(version(9, &[1])));
        assert!(!set.on_answer(ASKED, ChangeAnswer::Applied(version(8, &[1, 2, 3]))));
        assert_eq!(set.committed(), &version(9, &[1]));
    }

    // Found by the explorer. Catches a set that is adopted from a state in which more replicas must be in sync than this
    // leader knows: it would commit with too few while a replica that left counts as complete.
    #[test]
    fn an_answer_of_a_later_state_waits_for_the_metadata() {
        let mut set = InSyncSet::new(version(7, &[1, 2, 3]));
        set.propose(members(&[1, 2]), false);
        assert!(set.take_ready().is_some());
        assert!(!set.on_answer(ASKED, ChangeAnswer::Applied(version(9, &[1, 2]))));
        assert!(set.is_in_maximal(broker(3)) && set.is_committed(broker(3)));
        assert!(set.adopt(version(9, &[1, 2])));
        assert!(!set.is_in_maximal(broker(3)));
    }

    // R2: a change that completes a reassignment ends the leadership; its set is not this leadership's to use.
    #[test]
    fn an_answer_of_another_leadership_waits_for_the_metadata() {
        let mut set = growing();
        assert!(set.take_ready().is_some());
        let moved = PartitionVersion { leader_epoch: LeaderEpoch::new(4), ..version(8, &[2, 3]) };
        assert!(!set.on_answer(ASKED, ChangeAnswer::Applied(moved)));
        assert!(set.is_changing() && set.is_in_maximal(broker(1)) && set.is_in_maximal(broker(3)));
    }
}
