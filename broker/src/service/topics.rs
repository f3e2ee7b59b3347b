//! Topics: creating, changing, trimming, deleting, describing.
//!
//! A change is answered when this broker serves its result, not when the metadata group accepted it.

use std::collections::BTreeMap;
use std::sync::Arc;

use streambus_consensus::blocking;
use streambus_consensus::command::{Assignment, Command};
use streambus_consensus::image::{ClusterImage, TopicImage};
use streambus_consensus::outcome::Outcome;
use streambus_consensus::placement;
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::api::topics::{
    AddPartitionsRequest, AddPartitionsResponse, AlterTopicRequest, AlterTopicResponse, CreateTopicRequest,
    CreateTopicResponse, DeleteTopicRequest, DeleteTopicResponse, DescribeTopicRequest, DescribeTopicResponse,
    ListTopicsResponse, TopicListing, TrimLogRequest, TrimLogResponse,
};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::TopicId;
use streambus_protocol::limits::PARTITIONS_PER_TOPIC_MAX;
use streambus_protocol::topic_config::TopicConfig;
use streambus_storage::clock::Clock;

use crate::clock::Deadline;
use crate::random::Random;
use crate::service::directory::Directory;
use crate::service::leader_states::LeaderStates;
use crate::service::refusal;
use crate::service::topic_description;

/// Creates, changes and describes topics.
#[derive(Debug)]
pub struct TopicService {
    directory: Directory,
    clock: Arc<dyn Clock>,
    random: Arc<Random>,
    defaults: TopicDefaults,
    /// None for a broker on its own: it leads everything.
    leaders: Option<LeaderStates>,
}

/// Three replicas survive any one broker, and one more while another is being repaired.
const REPLICATION_FACTOR_DEFAULT_MAX: u16 = 3;

/// What a topic gets when its creator does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicDefaults {
    /// Partitions, at least 1.
    pub partitions: u32,
    /// Replicas of each, at least 1.
    pub replication_factor: u16,
}

impl Default for TopicDefaults {
    fn default() -> Self {
        Self { partitions: 1, replication_factor: 1 }
    }
}

impl TopicDefaults {
    /// What suits a cluster that `founders` brokers found; 0 is a broker on its own.
    pub fn of_cluster(founders: usize) -> Self {
        let replication_factor = u16::try_from(founders).unwrap_or(u16::MAX).clamp(1, REPLICATION_FACTOR_DEFAULT_MAX);
        Self { replication_factor, ..Self::default() }
    }
}

impl TopicService {
    /// A service over the cluster of `directory`.
    pub fn new(
        directory: Directory,
        clock: Arc<dyn Clock>,
        random: Arc<Random>,
        defaults: TopicDefaults,
        leaders: Option<LeaderStates>,
    ) -> Self {
        Self { directory, clock, random, defaults, leaders }
    }

    /// Creates a topic and answers when its partitions here can be written.
    ///
    /// # Errors
    /// Everything that is wrong with its name, counts or configuration; those of a metadata change.
    pub async fn create(
        &self,
        request: CreateTopicRequest,
        deadline: Deadline,
    ) -> Result<CreateTopicResponse, ErrorBody> {
        // Another broker may just have deleted it.
        if self.directory.image().topic_by_name(&request.name).is_some()
            && self.directory.current(deadline).await?.topic_by_name(&request.name).is_some()
        {
            return Err(ErrorBody::new(ErrorCode::TopicExists, format!("topic '{}' exists", request.name)));
        }
        let mut config = request.config;
        let settings = parse_config(&config)?;
        let count = if request.partitions == 0 { self.defaults.partitions } else { request.partitions };
        check_partition_count(count)?;
        let replication_factor = match request.replication_factor {
            0 => self.defaults.replication_factor,
            given => given,
        };
        let settings = in_sync_default(&mut config, settings, replication_factor);
        check_in_sync(&settings, usize::from(replication_factor))?;
        let partitions = self.place(count, replication_factor, self.random.next_u64(), deadline).await?;
        let response = |id| CreateTopicResponse { id, partitions: count, replication_factor };
        if request.validate_only {
            return Ok(response(TopicId::from_bytes([0; 16])));
        }
        let id = TopicId::from_bytes(self.random.next_id());
        let command = Command::CreateTopic { name: request.name, id, partitions, config, at: self.clock.now() };
        match self.propose(command, deadline).await? {
            Outcome::TopicCreated { id } => {
                self.wait_until_held(id, deadline).await?;
                Ok(response(id))
            }
            other => Err(refusal::unexpected(&other)),
        }
    }

    /// Deletes a topic and answers when this broker no longer serves it.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`; those of a metadata change.
    pub async fn delete(
        &self,
        request: DeleteTopicRequest,
        deadline: Deadline,
    ) -> Result<DeleteTopicResponse, ErrorBody> {
        let id = self.directory.existing_topic(&request.name, deadline).await?.id;
        match self.propose(Command::DeleteTopic { id }, deadline).await? {
            Outcome::TopicDeleted { id, .. } => {
                let registry = self.directory.registry();
                let mut changes = registry.watch_changes();
                let gone = async { while !registry.of_topic(id).is_empty() && changes.changed().await.is_ok() {} };
                // It is deleted whether or not the wait ends in time.
                let _late = deadline.limit(gone).await;
                Ok(DeleteTopicResponse { id })
            }
            other => Err(refusal::unexpected(&other)),
        }
    }

    /// Every topic, by name: as the controller has them or, where it does not answer, as this broker knows them.
    pub async fn list(&self, deadline: Deadline) -> ListTopicsResponse {
        let image = self.directory.recent(deadline).await;
        let topics = image
            .topics_by_name()
            .map(|topic| TopicListing {
                name: topic.name.clone(),
                id: topic.id,
                partitions: u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX),
                replication_factor: replication_factor(topic),
                internal: topic.name.as_str().starts_with("__"),
            })
            .collect();
        ListTopicsResponse { topics }
    }

    /// One topic with the state of its partitions' logs here.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`.
    pub async fn describe(
        &self,
        request: &DescribeTopicRequest,
        deadline: Deadline,
    ) -> Result<DescribeTopicResponse, ErrorBody> {
        let topic = self.directory.existing_topic(&request.name, deadline).await?;
        Ok(topic_description::describe(&topic, self.directory.registry(), self.clock.monotonic()))
    }

    /// One topic with the state of its partitions' logs at their leaders.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`.
    pub async fn describe_fully(
        &self,
        request: &DescribeTopicRequest,
        deadline: Deadline,
    ) -> Result<DescribeTopicResponse, ErrorBody> {
        let mut topic = self.describe(request, deadline).await?;
        if let Some(leaders) = &self.leaders {
            leaders.complete(&mut topic, deadline.left()).await;
        }
        Ok(topic)
    }

    /// Grows a topic to `total` partitions and answers when the new ones here can be written.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`; `INVALID_PARTITIONS` for fewer than it has or too many; those of a metadata change.
    pub async fn add_partitions(
        &self,
        request: AddPartitionsRequest,
        deadline: Deadline,
    ) -> Result<AddPartitionsResponse, ErrorBody> {
        let topic = self.directory.existing_topic(&request.name, deadline).await?;
        check_partition_count(request.total)?;
        let current = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
        let Some(added) = request.total.checked_sub(current) else {
            return Err(ErrorBody::new(
                ErrorCode::InvalidPartitions,
                format!("topic '{}' has {current} partitions; they can only become more", request.name),
            ));
        };
        if added == 0 {
            return Ok(AddPartitionsResponse { total: current });
        }
        let new = self.place(added, replication_factor(&topic), u64::from(current), deadline).await?;
        let command = Command::AddPartitions { id: topic.id, new, expected_count: current };
        match self.propose(command, deadline).await? {
            Outcome::PartitionsAdded { total } => {
                self.wait_until_held(topic.id, deadline).await?;
                Ok(AddPartitionsResponse { total })
            }
            other => Err(refusal::unexpected(&other)),
        }
    }

    /// Changes a topic's configuration and answers when this broker obeys it.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`; `INVALID_CONFIG` with every problem; those of a metadata change.
    pub async fn alter(&self, request: AlterTopicRequest, deadline: Deadline) -> Result<AlterTopicResponse, ErrorBody> {
        let topic = self.directory.existing_topic(&request.name, deadline).await?;
        let mut config = topic.config.clone();
        config.extend(request.set);
        for key in &request.remove {
            config.remove(key);
        }
        let settings = parse_config(&config)?;
        check_in_sync(&settings, usize::from(replication_factor(&topic)))?;
        let command = Command::AlterTopicConfig { id: topic.id, config, expected_version: topic.config_version };
        match self.propose(command, deadline).await? {
            Outcome::TopicConfigAltered { .. } => {
                let registry = self.directory.registry();
                let mut changes = registry.watch_changes();
                let obeyed = async {
                    loop {
                        let held = registry.of_topic(topic.id);
                        if held.iter().all(|partition| partition.role().settings == settings)
                            || changes.changed().await.is_err()
                        {
                            return;
                        }
                    }
                };
                // It is changed whether or not the wait ends in time.
                let _late = deadline.limit(obeyed).await;
                Ok(AlterTopicResponse {})
            }
            other => Err(refusal::unexpected(&other)),
        }
    }

    /// Deletes the records of one partition before an offset, whole batches at a time; never past the high watermark. They are
    /// gone from every replica in sync then.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`, `UNKNOWN_PARTITION`, `NOT_LEADER`, `OFFSET_OUT_OF_RANGE`, or those of the store: nothing was deleted.
    /// `TIMEOUT`, `LEADERSHIP_LOST`: perhaps not on every replica.
    pub async fn trim(&self, request: TrimLogRequest, deadline: Deadline) -> Result<TrimLogResponse, ErrorBody> {
        let topic = self.directory.existing_topic(&request.topic, deadline).await?;
        let partition = self.directory.partition(topic.id, request.partition)?;
        let trimming = blocking::spawn(move || partition.trim_as_leader(request.before));
        let late = |what: &str| ErrorBody::new(ErrorCode::Timeout, format!("the deadline passed before {what}"));
        let trimmed = match deadline.limit(trimming).await {
            Some(Ok(trimmed)) => trimmed?,
            Some(Err(error)) => return Err(refusal::blocking_failed(&error)),
            None => return Err(late("the log was trimmed")),
        };
        match deadline.limit(trimmed.everywhere()).await {
            Some(log_start) => Ok(TrimLogResponse { log_start: log_start? }),
            None => Err(late("every replica in sync had the records off its disk: trim again to the same offset")),
        }
    }

    /// Places partitions on brokers that serve. That they are too few is said only when a controller confirms it: one of
    /// them may just have begun.
    async fn place(
        &self,
        partitions: u32,
        replication_factor: u16,
        offset: u64,
        deadline: Deadline,
    ) -> Result<Vec<Assignment>, ErrorBody> {
        let place_in = |image: &ClusterImage| {
            placement::place(&placement::candidates(image), partitions, replication_factor, offset)
        };
        if let Ok(placed) = place_in(&self.directory.image()) {
            return Ok(placed);
        }
        let image = self.directory.current(deadline).await?;
        place_in(&image).map_err(|error| refusal::placement(&error))
    }

    async fn propose(&self, command: Command, deadline: Deadline) -> Result<Outcome, ErrorBody> {
        let proposed = self.directory.metadata().propose_within(command, deadline.left()).await;
        proposed.map_err(|error| refusal::propose(&error))
    }

    /// Waits until every partition of the topic that belongs here is held here.
    async fn wait_until_held(&self, topic: TopicId, deadline: Deadline) -> Result<(), ErrorBody> {
        let mut changes = self.directory.registry().watch_changes();
        let held = async { while !self.is_held(&self.directory.image(), topic) && changes.changed().await.is_ok() {} };
        deadline.limit(held).await.ok_or_else(|| {
            ErrorBody::new(
                ErrorCode::MetadataOutcomeUnknown,
                "the change is made, but this broker could not open the partitions before the deadline",
            )
        })
    }

    fn is_held(&self, image: &ClusterImage, topic: TopicId) -> bool {
        let Some(topic) = image.topic_by_id(topic) else { return false };
        let broker = self.directory.broker();
        let here = topic.partitions.iter().filter(|partition| partition.replicas.contains(&broker)).count();
        self.directory.registry().of_topic(topic.id).len() >= here
    }
}

/// A topic with three replicas or more, whose creator did not say how many must be in sync, gets two: then what is
/// acknowledged survives any one disk. It is written into the configuration, where everybody sees it.
fn in_sync_default(
    config: &mut BTreeMap<String, String>,
    mut settings: TopicConfig,
    replication_factor: u16,
) -> TopicConfig {
    if replication_factor > IN_SYNC_DEFAULT && !config.contains_key(MIN_IN_SYNC) {
        config.insert(MIN_IN_SYNC.to_owned(), IN_SYNC_DEFAULT.to_string());
        settings.min_insync_replicas = IN_SYNC_DEFAULT;
    }
    settings
}

const MIN_IN_SYNC: &str = "min.insync.replicas";
const IN_SYNC_DEFAULT: u16 = 2;

fn parse_config(config: &BTreeMap<String, String>) -> Result<TopicConfig, ErrorBody> {
    TopicConfig::parse(config).map_err(|problems| refusal::config(&problems))
}

fn check_partition_count(count: u32) -> Result<(), ErrorBody> {
    if (1..=PARTITIONS_PER_TOPIC_MAX).contains(&count) {
        return Ok(());
    }
    Err(ErrorBody::new(
        ErrorCode::InvalidPartitions,
        format!("a topic has 1 to {PARTITIONS_PER_TOPIC_MAX} partitions, {count} were asked for"),
    ))
}

/// With more in-sync replicas demanded than there are replicas, nothing could ever be committed.
fn check_in_sync(settings: &TopicConfig, replicas: usize) -> Result<(), ErrorBody> {
    let demanded = usize::from(settings.min_insync_replicas);
    if demanded <= replicas {
        return Ok(());
    }
    Err(ErrorBody::new(
        ErrorCode::InvalidConfig,
        format!("min.insync.replicas is {demanded}, but the topic has {replicas} replica(s): nothing could be written"),
    ))
}

fn replication_factor(topic: &TopicImage) -> u16 {
    let replicas = topic.partitions.first().map_or(1, |partition| partition.replicas.len());
    u16::try_from(replicas).unwrap_or(u16::MAX)
}
