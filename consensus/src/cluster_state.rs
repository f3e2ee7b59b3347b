//! The cluster metadata as a state machine: a command in, the next state and an answer out.
//!
//! Deterministic by construction: no clock, randomness, hash order, floating point or configuration of the local
//! process. Every replica that applies the same entries has the same state, byte for byte. All checks are made here
//! and not before proposing, so that a leader that is out of date can do no harm.
//!
//! A rule in here is part of the replicated format: changing one needs a new command version, otherwise two releases
//! that apply the same log disagree. That holds for the parsing of topic configurations too.

mod brokers;
mod producers;
mod topics;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use streambus_protocol::ids::{BrokerId, ClusterId, PartitionIndex, TopicId};

use crate::command::Command;
use crate::image::{BrokerImage, ClusterImage, PartitionImage, TopicImage};
use crate::outcome::{Outcome, RefusedReason};

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
            Command::RegisterBroker { incarnation, endpoint, version } => {
                self.register_broker(index, *incarnation, endpoint, version, touched)
            }
            Command::CreateTopic { name, id, partitions, config, at } => {
                self.create_topic(name, *id, partitions, config, *at, touched)
            }
            Command::DeleteTopic { id } => self.delete_topic(*id, touched),
            Command::AddPartitions { id, new, expected_count } => {
                self.add_partitions(*id, new, *expected_count, touched)
            }
            Command::AlterTopicConfig { id, config, expected_version } => {
                self.alter_topic_config(*id, config, *expected_version, touched)
            }
            Command::AllocateProducerIds { broker, broker_epoch, count } => {
                self.allocate_producer_ids(*broker, *broker_epoch, *count, touched)
            }
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
