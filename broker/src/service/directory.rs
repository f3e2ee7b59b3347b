//! Finding a topic or a partition, or saying what is wrong with the name.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use streambus_consensus::image::{ClusterImage, TopicImage};
use streambus_consensus::node::MetadataNode;
use streambus_protocol::api::session::{ErrorBody, LeaderHint};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, PartitionId, PartitionIndex, TopicId, TopicName};
use streambus_storage::clock::Clock;

use crate::clock::Deadline;
use crate::cluster::contact::Contact;
use crate::cluster::disks::ClusterDisks;
use crate::config::suggestion;
use crate::partition::Partition;
use crate::partition::registry::Registry;
use crate::partition::role::Leadership;

/// Names compared for a suggestion: the comparison is quadratic in the name and linear in their number.
const SUGGESTION_TOPICS_MAX: usize = 2_000;

/// How long a list or an overview waits for the controller's word that this broker has everything. Nothing depends on it.
const LIST_WAIT_MAX: Duration = Duration::from_millis(300);

/// What this broker holds and what the cluster has.
#[derive(Clone)]
pub struct Directory {
    broker: BrokerId,
    metadata: MetadataNode,
    registry: Arc<Registry>,
    contact: Contact,
    disks: ClusterDisks,
    clock: Arc<dyn Clock>,
}

impl Directory {
    /// The directory of broker `broker`, which leads what it leads while it has `contact`, and knows `disks`.
    pub fn new(
        broker: BrokerId,
        metadata: MetadataNode,
        registry: Arc<Registry>,
        contact: Contact,
        disks: ClusterDisks,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { broker, metadata, registry, contact, disks, clock }
    }

    /// This broker.
    pub fn broker(&self) -> BrokerId {
        self.broker
    }

    /// The partitions held here.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// What is known of the brokers' disks.
    pub fn disks(&self) -> &ClusterDisks {
        &self.disks
    }

    /// The monotonic time.
    pub(crate) fn now(&self) -> Duration {
        self.clock.monotonic()
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

    /// The cluster with everything in it that was acknowledged anywhere before the call. Costs a round through a quorum of the
    /// voters: for what is about to be denied, which is rare.
    ///
    /// # Errors
    /// `NO_CONTROLLER` when none confirms it in time.
    pub(crate) async fn current(&self, deadline: Deadline) -> Result<Arc<ClusterImage>, ErrorBody> {
        let patience = deadline.left().min(self.metadata.round_trip().confirmation());
        match self.metadata.read_index_within(patience).await {
            Ok(_) => Ok(self.image()),
            Err(error) => Err(ErrorBody::new(
                ErrorCode::NoController,
                format!("what this broker knows of the cluster may be old: {error}; try again shortly"),
            )),
        }
    }

    /// The cluster for a list or an overview: with everything in it that was acknowledged anywhere before the call, on the
    /// word of the controller's lease, which may be from before for less than a lease. As it is known here, where that word
    /// does not come soon.
    pub(crate) async fn recent(&self, deadline: Deadline) -> Arc<ClusterImage> {
        // Without contact nobody answers, and the answer says how old it is.
        if !self.contact.is_lost()
            && let Err(error) = self.metadata.lease_read_within(deadline.left().min(LIST_WAIT_MAX)).await
        {
            tracing::debug!(%error, "what is listed is what this broker knows");
        }
        self.image()
    }

    /// The topic of this name. That there is none is said only when a controller confirms it: another broker may just have
    /// made it.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`, with the nearest name if one is near; `NO_CONTROLLER` when nobody knows.
    pub async fn existing_topic(&self, name: &TopicName, deadline: Deadline) -> Result<Arc<TopicImage>, ErrorBody> {
        if let Some(topic) = self.image().topic_by_name(name) {
            return Ok(topic.clone());
        }
        let image = self.current(deadline).await.map_err(|error| unconfirmed(name, error))?;
        self.topic(&image, name)
    }

    /// The partition of this id, if it is held here, to serve a client that takes this broker for its leader.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_ID`, `UNKNOWN_PARTITION`, `NOT_LEADER`, also when another may lead it by now because contact with
    /// the controller is lost, or `NOT_READY` while the metadata is ahead of the disk.
    pub fn partition(&self, topic: TopicId, partition: PartitionIndex) -> Result<Arc<Partition>, ErrorBody> {
        // The map first: the image is looked at only to say what is wrong.
        let id = PartitionId { topic, partition };
        let found = self.registry.get(id).ok_or_else(|| self.why_not_here(topic, partition))?;
        serve_as_leader(found, &self.contact)
    }

    /// True while nothing that this broker leads may be served.
    pub fn has_lost_contact(&self) -> bool {
        self.contact.is_lost()
    }

    /// This broker's contact with the controller.
    pub(crate) fn contact(&self) -> &Contact {
        &self.contact
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

/// What no other broker holds, nobody else can lead.
fn serve_as_leader(partition: Arc<Partition>, contact: &Contact) -> Result<Arc<Partition>, ErrorBody> {
    if contact.is_lost() {
        let role = partition.role();
        if role.leadership == Leadership::Here && role.is_replicated() {
            return Err(contact.refusal(&partition));
        }
    }
    Ok(partition)
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("broker", &self.broker).finish_non_exhaustive()
    }
}

/// The answer about a topic that is not known here, when nobody confirms that there is none.
pub(super) fn unconfirmed(name: &TopicName, reason: ErrorBody) -> ErrorBody {
    ErrorBody { message: format!("no topic '{name}' is known here, but {}", reason.message), ..reason }
}

fn unknown_topic(image: &ClusterImage, name: &TopicName) -> ErrorBody {
    let names = image.topics().take(SUGGESTION_TOPICS_MAX).map(|topic| topic.name.as_str());
    let hint = match suggestion::nearest(name.as_str(), names) {
        Some(near) => format!("did you mean '{near}'?"),
        None => "create it first, or list the topics there are".to_owned(),
    };
    ErrorBody::new(ErrorCode::UnknownTopic, format!("there is no topic '{name}': {hint}"))
}

#[cfg(test)]
mod tests;
