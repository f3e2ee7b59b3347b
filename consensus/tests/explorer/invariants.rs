//! What must hold after every command: one property per function, named as in the replication literature where it has
//! a name there. The rule numbers are those of the state machine's own modules.

use std::collections::{BTreeMap, BTreeSet};

use streambus_consensus::command::{Command, ElectionKind};
use streambus_consensus::election::Standing;
use streambus_consensus::image::{ClusterImage, PartitionImage, TopicImage};
use streambus_consensus::outcome::{AlterRefused, Outcome, RefusedReason};
use streambus_consensus::types::RaftId;
use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch};
use streambus_protocol::ids::{BrokerId, DirectoryId, PartitionId, TopicId};

use crate::records::Records;
use crate::world::Reached;

/// One applied command.
pub(crate) struct Step<'a> {
    pub(crate) command: &'a Command,
    pub(crate) before: &'a ClusterImage,
    pub(crate) after: &'a ClusterImage,
    pub(crate) outcome: &'a Result<Outcome, RefusedReason>,
}

/// What was true once and must stay so.
#[derive(Default)]
pub(crate) struct History {
    leaders: BTreeMap<(PartitionId, LeaderEpoch), BrokerId>,
    raft_ids: BTreeMap<RaftId, DirectoryId>,
    deleted: BTreeSet<TopicId>,
    broker_epochs: BTreeMap<BrokerId, BrokerEpoch>,
    producer_ids_end: i64,
}

impl History {
    pub(crate) fn check(&mut self, step: &Step<'_>, reached: &mut Reached) {
        answers_are_earned(step);
        stopping_keeps_writes_going(step);
        self.broker_epochs_only_grow(step);
        self.raft_ids_are_never_reused(step);
        self.deleted_topics_stay_deleted(step);
        self.producer_ids_are_handed_out_once(step);
        for (id, topic, partition) in step.after.partitions() {
            let context =
                || format!("{id} after {:?}:\n{partition:#?}\nbefore: {:#?}", step.command, step.before.partition(id));
            leader_in_isr(step, partition, &context);
            sets_fit_together(topic, partition, &context);
            self.one_leader_per_epoch(id, partition, &context);
            note_places(partition, reached);
            if let Some(before) = step.before.partition(id) {
                let change = Change { step, topic, before, after: partition, context: &context };
                change.epochs_grow();
                change.eligible_replicas_are_kept();
                change.in_sync_set_grows_by_proposal_or_election();
                change.moves_end_complete(reached);
                change.unclean_only_with_leave(reached);
            }
        }
        note_answers(step, reached);
    }

    fn broker_epochs_only_grow(&mut self, step: &Step<'_>) {
        for (id, broker) in &step.after.brokers {
            let known = self.broker_epochs.insert(*id, broker.epoch);
            assert!(known.is_none_or(|known| known <= broker.epoch), "the epoch of broker {id} went back");
            assert!(broker.epoch.get() <= step.after.applied);
            if known != Some(broker.epoch) {
                assert!(broker.fenced && !broker.in_controlled_shutdown, "B1: a new life starts fenced");
            }
            let same_life = step.before.brokers.get(id).filter(|before| before.incarnation == broker.incarnation);
            if let Some(before) = same_life {
                assert_eq!(before.epoch, broker.epoch, "B1: one life of broker {id}, one epoch");
                let put_into_service = before.fenced && !broker.fenced;
                assert!(!put_into_service || !broker.in_controlled_shutdown, "B3: a life that stops serves again");
            }
        }
    }

    fn raft_ids_are_never_reused(&mut self, step: &Step<'_>) {
        for (id, node) in &step.after.nodes {
            let owner = *self.raft_ids.entry(*id).or_insert(node.directory);
            assert_eq!(owner, node.directory, "raft id {id} was given to another disk");
        }
        let disks: BTreeSet<_> = step.after.nodes.values().map(|node| node.directory).collect();
        assert_eq!(disks.len(), step.after.nodes.len(), "a disk has two raft ids");
    }

    fn deleted_topics_stay_deleted(&mut self, step: &Step<'_>) {
        if let Ok(Outcome::TopicDeleted { id, .. }) = step.outcome {
            self.deleted.insert(*id);
        }
        for id in &self.deleted {
            assert!(step.after.topic_by_id(*id).is_none(), "topic {id} came back");
            assert!(step.after.is_deleted(*id));
        }
    }

    fn producer_ids_are_handed_out_once(&mut self, step: &Step<'_>) {
        if let Ok(Outcome::ProducerIds { first, count }) = step.outcome {
            assert!(first.get() >= self.producer_ids_end);
            self.producer_ids_end = first.get() + i64::from(*count);
        }
    }

    fn one_leader_per_epoch(&mut self, id: PartitionId, partition: &PartitionImage, context: &dyn Fn() -> String) {
        if let Some(leader) = partition.leader {
            let first = *self.leaders.entry((id, partition.leader_epoch)).or_insert(leader);
            assert_eq!(first, leader, "two leaders in one epoch: {}", context());
        }
    }
}

/// Compare and set: a command that names an epoch changes something only if it is the current one.
fn answers_are_earned(step: &Step<'_>) {
    let epoch_of = |broker: &BrokerId| step.before.brokers.get(broker).map(|broker| broker.epoch);
    match (step.command, step.outcome) {
        (Command::FenceBroker { broker, epoch }, Ok(Outcome::BrokerFenced { changed: true }))
        | (Command::UnfenceBroker { broker, epoch }, Ok(Outcome::BrokerUnfenced { changed: true }))
        | (Command::BeginShutdown { broker, epoch }, Ok(_))
        | (Command::RemoveBroker { broker, epoch }, Ok(Outcome::BrokerRemoved { changed: true })) => {
            assert_eq!(epoch_of(broker), Some(*epoch), "another life of broker {broker} was meant");
        }
        (Command::AlterPartitions { broker, broker_epoch, proposals }, Ok(Outcome::PartitionsAltered { results })) => {
            assert_eq!(proposals.len(), results.len());
            for (proposal, _) in proposals.iter().zip(results).filter(|(_, result)| result.is_ok()) {
                let before = step.before.partition(proposal.id).expect("it was there");
                assert_eq!(before.leader, Some(*broker), "I5: {broker} did not lead");
                assert_eq!(epoch_of(broker), Some(*broker_epoch), "I5: an earlier life of {broker}");
                assert_eq!(before.leader_epoch, proposal.leader_epoch, "I5: another leadership");
                assert!(before.partition_epoch >= proposal.partition_epoch, "I5: the sender knows more");
            }
        }
        (Command::ElectLeaders { elections }, Ok(Outcome::LeadersElected { results })) => {
            for (election, leader) in elections.iter().zip(results) {
                let after = step.after.partition(election.id).and_then(|partition| partition.leader);
                assert!(leader.is_err() || leader.ok() == after, "L6: {leader:?} was not elected");
            }
        }
        _ => {}
    }
    for (id, _, partition) in step.after.partitions() {
        let registered = |broker: &BrokerId| step.after.brokers.contains_key(broker);
        assert!(partition.replicas.iter().all(registered), "{id} has a replica nowhere");
    }
}

/// B3: a broker that begins to stop does not take the in-sync set below what writes need.
fn stopping_keeps_writes_going(step: &Step<'_>) {
    if !matches!(step.command, Command::BeginShutdown { .. }) {
        return;
    }
    for (id, topic, after) in step.after.partitions() {
        let Some(before) = step.before.partition(id) else { continue };
        let min = before.in_sync_min(&topic.settings);
        assert!(before.isr.len() < min || after.isr.len() >= min, "{id} stops with its broker: {after:?}");
    }
}

/// LeaderInIsr, and: a fenced broker leads nothing.
fn leader_in_isr(step: &Step<'_>, partition: &PartitionImage, context: &dyn Fn() -> String) {
    if let Some(leader) = partition.leader {
        assert!(partition.isr.contains(&leader), "the leader is out of sync: {}", context());
        assert!(step.after.is_alive(leader), "the leader is fenced: {}", context());
    }
    for member in &partition.isr {
        let is_last = partition.isr.len() == 1;
        assert!(is_last || step.after.is_alive(*member), "B2: {member} is fenced and in sync: {}", context());
    }
    // L2: nobody waits while somebody complete could lead.
    let could_lead = |b: &BrokerId| step.after.brokers.get(b).is_some_and(|broker| broker.standing().is_eligible());
    if partition.leader.is_none() {
        assert!(!partition.isr.iter().chain(&partition.elr).any(could_lead), "nobody leads: {}", context());
    }
}

/// WeakIsr and the shape of a move.
fn sets_fit_together(topic: &TopicImage, partition: &PartitionImage, context: &dyn Fn() -> String) {
    let PartitionImage { replicas, isr, elr, last_known_elr, adding, removing, recovering, .. } = partition;
    let distinct = |set: &[BrokerId]| set.iter().collect::<BTreeSet<_>>().len() == set.len();
    for set in [replicas, isr, elr, last_known_elr, adding, removing] {
        assert!(distinct(set) && set.iter().all(|b| replicas.contains(b)), "not replicas, or twice: {}", context());
    }
    assert!(!replicas.is_empty());
    let ordered: Vec<BrokerId> = replicas.iter().copied().filter(|b| isr.contains(b)).collect();
    assert_eq!(&ordered, isr, "one state has one form: {}", context());
    assert!(!elr.iter().any(|b| isr.contains(b)), "in sync and eligible: {}", context());
    assert!(!last_known_elr.iter().any(|b| isr.contains(b) || elr.contains(b)), "complete and lossy: {}", context());
    assert!(!adding.iter().any(|b| removing.contains(b)), "comes and goes: {}", context());
    let enough = isr.len() >= partition.in_sync_min(&topic.settings);
    assert!(!enough || (elr.is_empty() && last_known_elr.is_empty()), "L1: eligible for nothing: {}", context());
    assert!(!recovering || isr.len() <= 1, "recovers in company: {}", context());
    let tail: Vec<BrokerId> = replicas.iter().copied().skip(replicas.len() - removing.len()).collect();
    assert_eq!(&tail, removing, "the target comes first: {}", context());
}

struct Change<'a> {
    step: &'a Step<'a>,
    topic: &'a TopicImage,
    before: &'a PartitionImage,
    after: &'a PartitionImage,
    context: &'a dyn Fn() -> String,
}

impl Change<'_> {
    /// E1: a partition epoch per change, a leader epoch per change of leadership or loss of replicas.
    fn epochs_grow(&self) {
        let Self { before, after, context, .. } = self;
        if before == after {
            return;
        }
        assert!(after.partition_epoch > before.partition_epoch, "a change without an epoch: {}", context());
        let goes = before.replicas.iter().any(|b| !after.replicas.contains(b));
        // A new target may end a move because nothing is left to do, or because it completes it.
        let by_target = matches!(self.step.command, Command::Reassign { .. } | Command::CancelReassign { .. });
        let completes = before.is_moving() && !after.is_moving();
        let leads_anew = before.leader != after.leader || goes || (completes && !by_target);
        let grew = after.leader_epoch > before.leader_epoch;
        assert!(after.leader_epoch >= before.leader_epoch);
        assert!(grew == leads_anew || (grew && completes && by_target), "the leader epoch is wrong: {}", context());
    }

    /// L1, MinIsrRecoveryQuorum: as many complete replicas as writes need do not vanish by themselves.
    fn eligible_replicas_are_kept(&self) {
        let Self { before, after, context, topic, step } = self;
        let complete = |partition: &PartitionImage| partition.isr.len() + partition.elr.len();
        let settings = step.before.topic_by_id(topic.id).map_or(&topic.settings, |before| &before.settings);
        let was_enough = complete(before) >= before.in_sync_min(settings);
        let (was_min, is_min) = (before.in_sync_min(settings), after.in_sync_min(&topic.settings));
        let loses = matches!(step.command, Command::RegisterBroker { .. }) || self.is_unclean();
        let other_min = settings.min_insync_replicas != topic.settings.min_insync_replicas || is_min > was_min;
        if was_enough && !loses && !other_min {
            assert!(complete(after) >= is_min, "too few complete replicas: {}", context());
        }
        if !loses && !other_min && before.replicas == after.replicas && complete(before) > 0 {
            let left = after.isr.len() + after.elr.len();
            assert!(left > 0, "the last complete replica was forgotten: {}", context());
        }
    }

    /// R2, I5: nobody comes into the in-sync set but by its leader's proposal or by becoming the leader.
    fn in_sync_set_grows_by_proposal_or_election(&self) {
        let Self { before, after, context, step, .. } = self;
        for member in after.isr.iter().filter(|member| !before.isr.contains(member)) {
            let is_proposed = match step.command {
                Command::AlterPartitions { proposals, .. } => proposals.iter().flat_map(|p| &p.isr).any(|proposed| {
                    let life = step.before.brokers.get(member).map(|broker| broker.epoch);
                    proposed.broker == *member && Some(proposed.epoch) == life
                }),
                _ => false,
            };
            let standing = step.after.brokers.get(member).map_or(Standing::Fenced, |broker| broker.standing());
            assert!(is_proposed || after.leader == Some(*member), "{member} came from nowhere: {}", context());
            assert!(standing.is_eligible(), "KIP-841: {member} may not be in sync: {}", context());
        }
        let took_over = after.leader.filter(|leader| before.leader != Some(*leader));
        if let Some(leader) = took_over {
            let standing = step.after.brokers.get(&leader).map_or(Standing::Fenced, |broker| broker.standing());
            assert!(standing.is_eligible(), "{leader} may not take over: {}", context());
        }
    }

    /// R2, R3.
    fn moves_end_complete(&self, reached: &mut Reached) {
        let Self { before, after, context, topic, .. } = self;
        if !before.is_moving() || after.is_moving() {
            return;
        }
        if self.is_cancel() {
            reached.note("a cancelled move");
            return;
        }
        if matches!(self.step.command, Command::Reassign { .. }) {
            return;
        }
        reached.note("a completed move");
        let stays: Vec<BrokerId> = before.replicas.iter().copied().filter(|b| !before.removing.contains(b)).collect();
        assert_eq!(after.replicas, stays, "R2: {}", context());
        assert!(before.adding.iter().all(|b| after.isr.contains(b)), "R2: {}", context());
        assert!(after.isr.len() >= after.in_sync_min(&topic.settings), "R2: {}", context());
        assert!(after.leader.is_some(), "KAFKA-14424: {}", context());
    }

    fn unclean_only_with_leave(&self, reached: &mut Reached) {
        let remembered = if self.is_unclean() { Some(self.after.leader_epoch) } else { self.before.unclean_epoch };
        assert_eq!(self.after.unclean_epoch, remembered, "the last unclean election: {}", (self.context)());
        if !self.is_unclean() {
            return;
        }
        reached.note("an unclean leader");
        let Self { before, after, context, topic, step } = self;
        let asked = matches!(step.command, Command::ElectLeaders { elections }
            if elections.iter().any(|election| election.kind == ElectionKind::Unclean));
        // One that comes with another disk in this very command is no longer among them.
        let exchanged = |broker: &BrokerId| match step.command {
            Command::RegisterBroker { endpoint, directory, .. } => {
                endpoint.id == *broker && step.before.brokers.get(broker).is_some_and(|b| b.directory != *directory)
            }
            _ => false,
        };
        let mut last_known = before.last_known_elr.iter().filter(|broker| !exchanged(broker));
        let is_last_known = last_known.next() == after.leader.as_ref() && last_known.next().is_none();
        let nobody_complete = before.isr.iter().chain(&before.elr).all(exchanged);
        let allowed = topic.settings.unclean_leader_election || asked || (is_last_known && nobody_complete);
        assert!(allowed && after.recovering && after.isr.len() == 1, "an unclean leader: {}", context());
    }

    /// A leader that nobody counted as complete.
    fn is_unclean(&self) -> bool {
        let Self { before, after, .. } = self;
        let was_complete = |leader: &BrokerId| before.isr.contains(leader) || before.elr.contains(leader);
        before.leader_epoch != after.leader_epoch
            && after.recovering
            && after.leader.is_some_and(|leader| !was_complete(&leader))
    }

    fn is_cancel(&self) -> bool {
        matches!(self.step.command, Command::CancelReassign { .. })
    }
}

/// LeaderCompleteness and LeaderCandidateCompleteness: what was acknowledged is on every replica that leads or may.
pub(crate) fn check_records(step: &Step<'_>, all: &mut BTreeMap<PartitionId, Records>) {
    for (id, topic, after) in step.after.partitions() {
        let records = all.entry(id).or_default();
        if let Some(before) = step.before.partition(id) {
            let context = || String::new();
            let change = Change { step, topic, before, after, context: &context };
            if change.is_unclean()
                && let Some(leader) = after.leader
            {
                records.committed = records.committed.min(records.of(leader));
            }
        }
        for member in after.isr.iter().chain(&after.elr) {
            assert!(
                records.of(*member) >= records.committed,
                "{id}: broker {member} has {} of {} acknowledged records after {:?}: {after:#?}\n{:#?}",
                records.of(*member),
                records.committed,
                step.command,
                step.before.partition(id),
            );
        }
        records.commit(after, &topic.settings);
    }
}

fn note_places(partition: &PartitionImage, reached: &mut Reached) {
    if partition.leader.is_none() {
        reached.note("a partition without leader");
    }
    if partition.elr.len() > 1 {
        reached.note("several eligible replicas");
    }
    if partition.isr.is_empty() {
        reached.note("an empty in-sync set");
    }
}

fn note_answers(step: &Step<'_>, reached: &mut Reached) {
    match step.outcome {
        Ok(Outcome::PartitionsAltered { results }) => {
            for result in results {
                match result {
                    Ok(version) if version.isr.len() > 1 => reached.note("a grown in-sync set"),
                    Err(AlterRefused::IneligibleReplica(_)) => reached.note("an ineligible replica"),
                    Err(_) => reached.note("a stale proposal"),
                    Ok(_) => {}
                }
            }
        }
        Ok(Outcome::BrokerRemoved { changed: true }) => reached.note("a removed broker"),
        Ok(Outcome::ShutdownBegun { .. }) => reached.note("a stopping broker"),
        Ok(Outcome::TopicDeleted { .. }) => reached.note("a deleted topic"),
        _ => {}
    }
    for (id, _, after) in step.after.partitions() {
        let Some(before) = step.before.partition(id) else { continue };
        if after.leader.is_some_and(|leader| before.elr.contains(&leader)) {
            reached.note("an eligible leader");
        }
    }
}
