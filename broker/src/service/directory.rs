//! Finding a topic or a partition, or saying what is wrong with the name.

use std::fmt;
use std::sync::Arc;

use streambus_consensus::image::{ClusterImage, TopicImage};
use streambus_consensus::node::MetadataNode;
use streambus_protocol::api::session::{ErrorBody, LeaderHint};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, PartitionId, PartitionIndex, TopicId, TopicName};

use crate::config::suggestion;
use crate::partition::Partition;
use crate::partition::registry::Registry;

/// Names compared for a suggestion: the comparison is quadratic in the name and linear in their number.
const SUGGESTION_TOPICS_MAX: usize = 2_000;

/// What this broker holds and what the cluster has.
#[derive(Clone)]
pub struct Directory {
    broker: BrokerId,
    metadata: MetadataNode,
    registry: Arc<Registry>,
}

impl Directory {
    /// The directory of broker `broker`.
    pub fn new(broker: BrokerId, metadata: MetadataNode, registry: Arc<Registry>) -> Self {
        Self { broker, metadata, registry }
    }

    /// This broker.
    pub fn broker(&self) -> BrokerId {
        self.broker
    }

    /// The partitions held here.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The metadata group.
    pub fn metadata(&self) -> &MetadataNode {
        &self.metadata
    }

    /// The cluster as this broker knows it.
    pub fn image(&self) -> Arc<ClusterImage> {
        self.metadata.image()
    }

    /// The topic of this name.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`, with the nearest name if one is near.
    pub fn topic(&self, image: &ClusterImage, name: &TopicName) -> Result<Arc<TopicImage>, ErrorBody> {
        image.topic_by_name(name).cloned().ok_or_else(|| unknown_topic(image, name))
    }

    /// The partition of this id, if it is held here.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_ID`, `UNKNOWN_PARTITION`, `NOT_LEADER`, or `NOT_READY` while the metadata is ahead of the disk.
    pub fn partition(&self, topic: TopicId, partition: PartitionIndex) -> Result<Arc<Partition>, ErrorBody> {
        // The map first: the image is looked at only to say what is wrong.
        self.registry.get(PartitionId { topic, partition }).ok_or_else(|| self.why_not_here(topic, partition))
    }

    fn why_not_here(&self, topic: TopicId, partition: PartitionIndex) -> ErrorBody {
        let image = self.image();
        let Some(topic_image) = image.topic_by_id(topic) else {
            return ErrorBody::new(
                ErrorCode::UnknownTopicId,
                format!("no topic has the id {topic}: it was deleted, perhaps created anew; refresh the metadata"),
            );
        };
        match topic_image.partition(partition) {
            None => ErrorBody::new(
                ErrorCode::UnknownPartition,
                format!(
                    "topic '{}' has {} partitions, numbered from 0: there is no partition {partition}",
                    topic_image.name,
                    topic_image.partitions.len()
                ),
            ),
            Some(state) if state.replicas.contains(&self.broker) => ErrorBody::new(
                ErrorCode::NotReady,
                format!("partition {partition} of '{}' is being opened: try again shortly", topic_image.name),
            ),
            Some(state) => ErrorBody::new(
                ErrorCode::NotLeader,
                match state.leader {
                    Some(leader) => format!("broker {leader} leads partition {partition} of '{}'", topic_image.name),
                    None => format!("partition {partition} of '{}' has no leader now", topic_image.name),
                },
            )
            .with_leader(state.leader.map(|leader| LeaderHint { leader, leader_epoch: state.leader_epoch })),
        }
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("broker", &self.broker).finish_non_exhaustive()
    }
}

fn unknown_topic(image: &ClusterImage, name: &TopicName) -> ErrorBody {
    let names = image.topics().take(SUGGESTION_TOPICS_MAX).map(|topic| topic.name.as_str());
    let hint = match suggestion::nearest(name.as_str(), names) {
        Some(near) => format!("did you mean '{near}'?"),
        None => "create it first, or list the topics there are".to_owned(),
    };
    ErrorBody::new(ErrorCode::UnknownTopic, format!("there is no topic '{name}': {hint}"))
}
