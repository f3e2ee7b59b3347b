//! The cluster metadata as a state machine: a command in, the next state and an answer out.
//!
//! Deterministic by construction: no clock, randomness, hash order, floating point or configuration of the local
//! process. Every replica that applies the same entries has the same state, byte for byte. All checks are made here
//! and not before proposing, so that a leader that is out of date can do no harm.
//!
//! A rule in here is part of the replicated format: changing one needs a new command version, otherwise two releases
//! that apply the same log disagree. That holds for the parsing of topic configurations too.

mod brokers;
mod elections;
mod fencing;
mod in_sync;
mod moves;
mod nodes;
mod producers;
mod topics;
mod transition;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::{BrokerId, ClusterId, PartitionId, PartitionIndex, TopicId};

use self::transition::Transition;
use crate::command::Command;
use crate::election::Standing;
use crate::image::{BrokerImage, ClusterImage, NodeImage, PartitionImage, TopicImage};
use crate::outcome::{Outcome, RefusedReason};
use crate::types::RaftId;

/// The whole replicated state: what is published, and what only apply needs.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterState {
    pub(crate) image: ClusterImage,
    /// The first producer id that was never handed out.
    pub(crate) producer_id_next: i64,
}

/// One stored row of the state. Applying a command names the rows it changed, so that only those are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RowKey {
    Cluster,
    Broker(BrokerId),
    Topic(TopicId),
    Partition(TopicId, PartitionIndex),
    Node(RaftId),
    RemovedBroker(BrokerId),
    /// By the log index of the deletion.
    DeletedTopic(u64),
}

/// The rows that a batch of commands changed, added or removed.
pub(crate) type Touched = BTreeSet<RowKey>;

impl Default for ClusterState {
    fn default() -> Self {
        Self { image: ClusterImage::empty(), producer_id_next: 0 }
    }
}

impl ClusterState {
    /// The published part.
    pub fn image(&self) -> &ClusterImage {
        &self.image
    }

    /// Applies `command`, which stands at log index `index`. A refused command changes nothing.
    pub(crate) fn apply(
        &mut self,
        index: u64,
        command: &Command,
        touched: &mut Touched,
    ) -> Result<Outcome, RefusedReason> {
        assert!(index >= self.image.applied, "entry {index} applied after entry {}", self.image.applied);
        if let Command::FoundCluster { cluster_id } = command {
            return self.found_cluster(*cluster_id, touched);
        }
        if self.image.cluster_id.is_zero() {
            return Err(RefusedReason::NotFounded);
        }
        match command {
            Command::FoundCluster { cluster_id } => self.found_cluster(*cluster_id, touched),
            Command::RegisterBroker { .. } => self.register_broker(index, command, touched),
            Command::CreateTopic { name, id, partitions, config, at } => {
                self.create_topic(name, *id, partitions, config, *at, touched)
            }
            Command::DeleteTopic { id } => self.delete_topic(index, *id, touched),
            Command::AddPartitions { id, new, expected_count } => {
                self.add_partitions(*id, new, *expected_count, touched)
            }
            Command::AlterTopicConfig { id, config, expected_version } => {
                self.alter_topic_config(*id, config, *expected_version, touched)
            }
            Command::AllocateProducerIds { broker, broker_epoch, count } => {
                self.allocate_producer_ids(*broker, *broker_epoch, *count, touched)
            }
            Command::FenceBroker { broker, epoch } => self.fence_broker(*broker, *epoch, touched),
            Command::UnfenceBroker { broker, epoch } => self.unfence_broker(*broker, *epoch, touched),
            Command::BeginShutdown { broker, epoch } => self.begin_shutdown(*broker, *epoch, touched),
            Command::AlterPartitions { broker, broker_epoch, proposals } => {
                self.alter_partitions(*broker, *broker_epoch, proposals, touched)
            }
            Command::ElectLeaders { elections } => self.elect_leaders(elections, touched),
            Command::Reassign { id, replicas, throttle } => self.reassign(*id, replicas, *throttle, touched),
            Command::CancelReassign { id } => self.cancel_reassign(*id, touched),
            Command::SetDraining { broker, draining } => self.set_draining(*broker, *draining, touched),
            Command::RemoveBroker { broker, epoch } => self.remove_broker(*broker, *epoch, touched),
            Command::JoinNode { broker, directory, host, port, returns } => {
                let node = NodeImage { broker: *broker, directory: *directory, host: host.clone(), port: *port };
                self.join_node(index, node, *returns, touched)
            }
            Command::RemoveNode { raft_id } => Ok(self.remove_node(*raft_id, touched)),
        }
    }

    /// Notes that the entry at `index` was applied, also one of Raft's own.
    pub(crate) fn advance(&mut self, index: u64) {
        assert!(index >= self.image.applied, "the state at {} cannot go back to {index}", self.image.applied);
        self.image.applied = index;
    }

    fn found_cluster(&mut self, proposed: ClusterId, touched: &mut Touched) -> Result<Outcome, RefusedReason> {
        let current = self.image.cluster_id;
        if proposed.is_zero() {
            return Err(RefusedReason::ZeroId);
        }
        if current.is_zero() {
            self.image.cluster_id = proposed;
            touched.insert(RowKey::Cluster);
        } else if current != proposed {
            return Err(RefusedReason::OtherCluster { current, proposed });
        }
        Ok(Outcome::ClusterFounded { cluster_id: proposed })
    }

    fn topic(&self, id: TopicId) -> Result<&Arc<TopicImage>, RefusedReason> {
        self.image.topic_by_id(id).ok_or(RefusedReason::UnknownTopic(id))
    }

    /// The broker, provided that `epoch` is its registration.
    fn current_broker(&self, id: BrokerId, epoch: BrokerEpoch) -> Result<&BrokerImage, RefusedReason> {
        let broker = self.broker(id).ok_or(RefusedReason::UnknownBroker(id))?;
        if broker.epoch == epoch {
            return Ok(broker);
        }
        Err(RefusedReason::StaleBrokerEpoch { broker: id, current: broker.epoch, given: epoch })
    }

    /// What the broker may be asked to do.
    fn standing(&self, broker: BrokerId) -> Standing {
        self.broker(broker).map_or(Standing::Fenced, BrokerImage::standing)
    }

    /// The next state of every partition for which `concerns` holds, after `change`. Computed before anything is
    /// changed, so that a refusal leaves no trace.
    fn plan_changes<'a>(
        &'a self,
        concerns: impl Fn(&PartitionImage) -> bool,
        change: impl Fn(&PartitionImage, Transition<'a>) -> Transition<'a>,
        standing: impl Fn(BrokerId) -> Standing,
    ) -> Result<Vec<(PartitionId, PartitionImage)>, RefusedReason> {
        let mut changes = Vec::new();
        for (id, topic, partition) in self.image.partitions().filter(|(_, _, partition)| concerns(partition)) {
            let wanted = change(partition, Transition::new(partition, &topic.settings));
            if let Some(next) = wanted.finish(&standing)? {
                changes.push((id, next));
            }
        }
        Ok(changes)
    }

    /// Puts planned states in place.
    fn change_partitions(&mut self, changes: Vec<(PartitionId, PartitionImage)>, touched: &mut Touched) {
        let mut changes = changes.into_iter().peekable();
        while let Some((id, next)) = changes.next() {
            let Some(topic) = self.topics_mut().get_mut(&id.topic).map(Arc::make_mut) else { continue };
            let mut change = Some((id, next));
            while let Some((id, next)) = change {
                let slot = usize::try_from(id.partition.get()).ok().and_then(|i| topic.partitions.get_mut(i));
                if let Some(slot) = slot {
                    assert!(next.partition_epoch > slot.partition_epoch, "a partition epoch grows on every change");
                    assert!(next.leader_epoch >= slot.leader_epoch, "a leader epoch never goes back");
                    *slot = Arc::new(next);
                    touched.insert(RowKey::Partition(id.topic, id.partition));
                }
                change = changes.next_if(|(other, _)| other.topic == id.topic);
            }
        }
    }

    /// The topics for writing; copies the map once per published image.
    fn topics_mut(&mut self) -> &mut BTreeMap<TopicId, Arc<TopicImage>> {
        Arc::make_mut(&mut self.image.topics)
    }

    pub(crate) fn broker(&self, id: BrokerId) -> Option<&BrokerImage> {
        self.image.brokers.get(&id)
    }

    pub(crate) fn partition(&self, id: TopicId, index: PartitionIndex) -> Option<&Arc<PartitionImage>> {
        self.image.topic_by_id(id).and_then(|topic| topic.partition(index))
    }
}

#[cfg(test)]
mod tests;
