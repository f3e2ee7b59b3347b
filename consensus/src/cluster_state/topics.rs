//! Topics: creation, deletion, growth and configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use streambus_protocol::ids::{BrokerId, PartitionId, PartitionIndex, TopicId, TopicName};
use streambus_protocol::limits::PARTITIONS_PER_TOPIC_MAX;
use streambus_protocol::timestamp::Timestamp;
use streambus_protocol::topic_config::TopicConfig;

use super::transition::Transition;
use super::{ClusterState, RowKey, Touched};
use crate::command::Assignment;
use crate::deleted_topics::DeletedTopic;
use crate::election::{Elected, elect};
use crate::image::{PartitionImage, TopicImage};
use crate::limits::{PARTITIONS_MAX, REPLICAS_MAX, TOPICS_MAX};
use crate::outcome::{AssignmentProblem, Counter, Limited, Outcome, RefusedReason};

impl ClusterState {
    pub(super) fn create_topic(
        &mut self,
        name: &TopicName,
        id: TopicId,
        partitions: &[Assignment],
        config: &BTreeMap<String, String>,
        at: Timestamp,
        touched: &mut Touched,
    ) -> Result<Outcome, RefusedReason> {
        if id.is_zero() {
            return Err(RefusedReason::ZeroId);
        }
        if let Some(known) = self.image.topic_by_name(name) {
            if known.id == id {
                return Ok(Outcome::TopicCreated { id });
            }
            return Err(RefusedReason::TopicExists { name: name.clone(), id: known.id });
        }
        if let Some(known) = self.image.topic_by_id(id) {
            return Err(RefusedReason::TopicIdInUse { id, name: known.name.clone() });
        }
        if self.image.is_deleted(id) {
            return Err(RefusedReason::TopicDeleted(id));
        }
        if self.image.topic_count() >= TOPICS_MAX {
            return Err(RefusedReason::ClusterLimit { what: Limited::Topics, max: TOPICS_MAX as u64 });
        }
        let settings = TopicConfig::parse(config).map_err(RefusedReason::InvalidConfig)?;
        self.check_partition_count(0, partitions.len())?;
        let topic = TopicImage {
            id,
            name: name.clone(),
            created_at: at,
            config_version: 0,
            config: config.clone(),
            settings,
            partitions: self.place_partitions(partitions)?,
        };
        self.touch_topic(&topic, 0, touched);
        self.image.partition_count += topic.partitions.len() as u64;
        self.topics_mut().insert(id, Arc::new(topic));
        Arc::make_mut(&mut self.image.names).insert(name.clone(), id);
        Ok(Outcome::TopicCreated { id })
    }

    pub(super) fn delete_topic(
        &mut self,
        index: u64,
        id: TopicId,
        touched: &mut Touched,
    ) -> Result<Outcome, RefusedReason> {
        if let Some(deleted) = self.image.deleted.get(id) {
            return Ok(Outcome::TopicDeleted { id, name: deleted.name.clone() });
        }
        let topic = Arc::clone(self.topic(id)?);
        self.touch_topic(&topic, 0, touched);
        self.topics_mut().remove(&id);
        let named = Arc::make_mut(&mut self.image.names).remove(&topic.name);
        assert_eq!(named, Some(id), "every topic has exactly one name");
        self.image.partition_count -= topic.partitions.len() as u64;
        let record = DeletedTopic { id, name: topic.name.clone() };
        let dropped = Arc::make_mut(&mut self.image.deleted).add(index, record);
        touched.extend(dropped.into_iter().chain([index]).map(RowKey::DeletedTopic));
        Ok(Outcome::TopicDeleted { id, name: topic.name.clone() })
    }

    pub(super) fn add_partitions(
        &mut self,
        id: TopicId,
        new: &[Assignment],
        expected: u32,
        touched: &mut Touched,
    ) -> Result<Outcome, RefusedReason> {
        let topic = self.topic(id)?;
        let before = topic.partitions.len();
        let actual = u32::try_from(before).unwrap_or(u32::MAX);
        if actual != expected {
            let same = |p: &Arc<PartitionImage>, a: &Assignment| p.replicas == a.replicas;
            let retried = usize::try_from(expected)
                .ok()
                .and_then(|from| topic.partitions.get(from..))
                .is_some_and(|added| added.len() == new.len() && added.iter().zip(new).all(|(p, a)| same(p, a)));
            if retried {
                return Ok(Outcome::PartitionsAdded { total: actual });
            }
            return Err(RefusedReason::PartitionCountChanged { expected, actual });
        }
        if new.is_empty() {
            return Err(RefusedReason::PartitionCount {
                requested: u64::from(actual),
                max: u64::from(PARTITIONS_PER_TOPIC_MAX),
            });
        }
        self.check_partition_count(before, new.len())?;
        let mut added = self.place_partitions(new)?;
        let mut topic = TopicImage::clone(self.topic(id)?);
        topic.partitions.append(&mut added);
        let total = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
        self.touch_topic(&topic, before, touched);
        self.image.partition_count += new.len() as u64;
        self.topics_mut().insert(id, Arc::new(topic));
        Ok(Outcome::PartitionsAdded { total })
    }

    pub(super) fn alter_topic_config(
        &mut self,
        id: TopicId,
        config: &BTreeMap<String, String>,
        expected: u64,
        touched: &mut Touched,
    ) -> Result<Outcome, RefusedReason> {
        let topic = self.topic(id)?;
        let actual = topic.config_version;
        let version = expected.checked_add(1).ok_or(RefusedReason::Exhausted(Counter::ConfigVersion))?;
        if actual == version && topic.config == *config {
            return Ok(Outcome::TopicConfigAltered { version });
        }
        if actual != expected {
            return Err(RefusedReason::ConfigVersionChanged { expected, actual });
        }
        let settings = TopicConfig::parse(config).map_err(RefusedReason::InvalidConfig)?;
        let altered =
            TopicImage { config: config.clone(), settings, config_version: version, ..TopicImage::clone(topic) };
        let changes = self.settle_partitions(topic, &altered)?;
        self.topics_mut().insert(id, Arc::new(altered));
        touched.insert(RowKey::Topic(id));
        self.change_partitions(changes, touched);
        Ok(Outcome::TopicConfigAltered { version })
    }

    /// What new settings do to the partitions. L1: with another `min.insync.replicas`, who is eligible stays so unless
    /// enough are in sync by the new number, and every partition epoch grows: a leader's proposal that was made under the
    /// old number is then refused, and the leader sees the new one before it proposes again. (KIP-966 forgets everybody;
    /// here a leader learns the number and the in-sync set from one image, so it never counts one by the other's.) L2: a
    /// topic that allows unclean leaders gets them.
    fn settle_partitions(
        &self,
        before: &TopicImage,
        after: &TopicImage,
    ) -> Result<Vec<(PartitionId, PartitionImage)>, RefusedReason> {
        let recount = before.settings.min_insync_replicas != after.settings.min_insync_replicas;
        let mut changes = Vec::new();
        for (index, partition) in (0..).zip(&after.partitions) {
            let same = Transition::new(partition, &after.settings);
            let wanted = if recount { same.counted_anew() } else { same };
            if let Some(next) = wanted.finish(|broker| self.standing(broker))? {
                changes.push((PartitionId { topic: after.id, partition: PartitionIndex::new(index) }, next));
            }
        }
        Ok(changes)
    }

    fn check_partition_count(&self, before: usize, added: usize) -> Result<(), RefusedReason> {
        let requested = before as u64 + added as u64;
        let max = u64::from(PARTITIONS_PER_TOPIC_MAX);
        if requested == 0 || requested > max {
            return Err(RefusedReason::PartitionCount { requested, max });
        }
        if self.image.partition_count + added as u64 > PARTITIONS_MAX {
            return Err(RefusedReason::ClusterLimit { what: Limited::Partitions, max: PARTITIONS_MAX });
        }
        Ok(())
    }

    /// New partitions: every live replica is in sync, for there is nothing to copy yet; the first one leads.
    fn place_partitions(&self, assignments: &[Assignment]) -> Result<Vec<Arc<PartitionImage>>, RefusedReason> {
        let place = |(partition, assignment): (u32, &Assignment)| {
            let isr = self
                .check_replicas(&assignment.replicas)
                .map_err(|problem| RefusedReason::InvalidAssignment { partition, problem })?;
            let replicas = assignment.replicas.clone();
            let unled = PartitionImage { replicas, isr, ..PartitionImage::default() };
            let leader = elect(&unled, |broker| self.standing(broker), false).map(Elected::leader);
            Ok(Arc::new(PartitionImage { leader, ..unled }))
        };
        (0..).zip(assignments).map(place).collect()
    }

    /// The live ones among `replicas`, in the same order; at least one.
    fn check_replicas(&self, replicas: &[BrokerId]) -> Result<Vec<BrokerId>, AssignmentProblem> {
        if replicas.is_empty() {
            return Err(AssignmentProblem::Empty);
        }
        if replicas.len() > REPLICAS_MAX {
            return Err(AssignmentProblem::TooMany);
        }
        let mut isr = Vec::with_capacity(replicas.len());
        for (position, broker) in replicas.iter().enumerate() {
            if replicas.iter().take(position).any(|earlier| earlier == broker) {
                return Err(AssignmentProblem::Repeated(*broker));
            }
            let registered = self.broker(*broker).ok_or(AssignmentProblem::UnknownBroker(*broker))?;
            if registered.standing().is_eligible() {
                isr.push(*broker);
            }
        }
        if isr.is_empty() { Err(AssignmentProblem::NoneAlive) } else { Ok(isr) }
    }

    fn touch_topic(&self, topic: &TopicImage, from_partition: usize, touched: &mut Touched) {
        touched.insert(RowKey::Topic(topic.id));
        for (index, _) in (0..).zip(&topic.partitions).skip(from_partition) {
            touched.insert(RowKey::Partition(topic.id, PartitionIndex::new(index)));
        }
    }
}
