//! Topics, offsets, and the cluster's state.

mod placement;
mod strays;

use std::collections::BTreeMap;

use streambus_protocol::api::cluster::{ClusterDescribeRequest, ClusterDescribeResponse};
use streambus_protocol::api::offsets::{OffsetFound, OffsetQuery};
use streambus_protocol::api::session::{HealthRequest, HealthResponse};
use streambus_protocol::api::topics::{
    AddPartitionsRequest, AlterTopicRequest, CreateTopicRequest, CreateTopicResponse, DeleteTopicRequest,
    DescribeTopicRequest, DescribeTopicResponse, ListTopicsRequest, TopicListing, TrimLogRequest,
};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{PartitionIndex, TopicId, TopicName};
use streambus_protocol::offset::Offset;

use crate::client::Client;
use crate::engine::{Effect, leaderless};
use crate::error::{Error, TopicPartition};
use crate::op::{Op, Scope};

/// How a topic is to be created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Topic {
    partitions: u32,
    replicas: u16,
    config: BTreeMap<String, String>,
    validate_only: bool,
}

impl Topic {
    /// A topic with so many partitions; 0 for the broker's default.
    pub fn partitions(partitions: u32) -> Self {
        Self { partitions, ..Self::default() }
    }

    /// Keeps so many copies of each partition; 0, the default, for the broker's default.
    pub fn replicas(mut self, replicas: u16) -> Self {
        self.replicas = replicas;
        self
    }

    /// Sets a configuration key of the topic, such as `retention.ms`.
    pub fn config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.insert(key.into(), value.into());
        self
    }

    /// Only checks whether the topic could be created.
    pub fn validate_only(mut self) -> Self {
        self.validate_only = true;
        self
    }
}

/// Looks after topics. Cheap to clone.
///
/// Reads are retried until their time is over. Changes are retried as long as it is certain that nothing was changed; a
/// change whose outcome is unknown ends with an error that says so. A change that is dropped after its first poll may
/// still be applied.
#[derive(Clone, Debug)]
pub struct Admin {
    client: Client,
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Creates a topic.
    ///
    /// # Errors
    ///
    /// [`Error::Broker`] with `TOPIC_EXISTS`, `INVALID_CONFIG`, `INVALID_PARTITIONS` or `INVALID_REPLICATION_FACTOR`.
    pub fn create_topic(&self, name: &str, topic: Topic) -> Op<'_, CreateTopicResponse> {
        let name = TopicName::new(name);
        self.op("create_topic", move |scope| async move {
            let Topic { partitions, replicas: replication_factor, config, validate_only } = topic;
            let request =
                CreateTopicRequest { name: valid(name)?, partitions, replication_factor, config, validate_only };
            self.client.engine().call(&scope, Effect::Change, &request).await
        })
    }

    /// Deletes a topic with its records; returns the identity it had.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`].
    pub fn delete_topic(&self, name: &str) -> Op<'_, TopicId> {
        let name = TopicName::new(name);
        self.op("delete_topic", move |scope| async move {
            let request = DeleteTopicRequest { name: valid(name)? };
            let outcome = self.client.engine().call(&scope, Effect::Change, &request).await;
            outcome.map(|response| response.id).map_err(|error| about(error, &request.name))
        })
    }

    /// Every topic, in the order of their names.
    pub fn list_topics(&self) -> Op<'_, Vec<TopicListing>> {
        self.op("list_topics", move |scope| async move {
            self.client.engine().call(&scope, Effect::Read, &ListTopicsRequest {}).await.map(|response| response.topics)
        })
    }

    /// A topic with its configuration and its partitions' logs, as their leaders know them. A leader that does not answer
    /// within 0.9 s leaves its partitions as the asked broker knows them, without the state of the replicas.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`].
    pub fn describe_topic(&self, name: &str) -> Op<'_, DescribeTopicResponse> {
        let name = TopicName::new(name);
        self.op("describe_topic", move |scope| async move {
            let request = DescribeTopicRequest { name: valid(name)? };
            let outcome = self.client.engine().call(&scope, Effect::Read, &request).await;
            let topic = outcome.map_err(|error| about(error, &request.name))?;
            Ok(self.complete(topic).await)
        })
    }

    /// Changes a topic's configuration: sets the keys of `set`, returns those of `remove` to their defaults.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`]; [`Error::Broker`] with `INVALID_CONFIG`, whose message names every problem.
    pub fn alter_topic<S, R>(&self, name: &str, set: S, remove: R) -> Op<'_, ()>
    where
        S: IntoIterator<Item = (String, String)>,
        R: IntoIterator<Item = String>,
    {
        let (name, set, remove) = (TopicName::new(name), set.into_iter().collect(), remove.into_iter().collect());
        self.op("alter_topic", move |scope| async move {
            let request = AlterTopicRequest { name: valid(name)?, set, remove };
            let outcome = self.client.engine().call(&scope, Effect::Change, &request).await;
            outcome.map(|_| ()).map_err(|error| about(error, &request.name))
        })
    }

    /// Grows a topic to `total` partitions; returns how many it has. Keys may move, see
    /// [`crate::Partitioner`].
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`]; [`Error::Broker`] with `INVALID_PARTITIONS` when it has more already.
    pub fn add_partitions(&self, name: &str, total: u32) -> Op<'_, u32> {
        let name = TopicName::new(name);
        self.op("add_partitions", move |scope| async move {
            let request = AddPartitionsRequest { name: valid(name)?, total };
            let outcome = self.client.engine().call(&scope, Effect::Change, &request).await;
            outcome.map(|response| response.total).map_err(|error| about(error, &request.name))
        })
    }

    /// Deletes the records before `before` from one partition; returns the first offset still there.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`]; [`Error::Broker`] with `OFFSET_OUT_OF_RANGE`.
    pub fn trim(&self, topic: &str, partition: u32, before: u64) -> Op<'_, u64> {
        let topic = TopicName::new(topic);
        self.op("trim", move |scope| async move {
            let topic = valid(topic)?;
            let before = valid_offset(before)?;
            let at = TopicPartition { topic: topic.clone(), partition };
            let request = TrimLogRequest { topic, partition: PartitionIndex::new(partition), before };
            let (engine, at, request, scope) = (self.client.engine(), &at, &request, &scope);
            // Trimming twice to the same place is trimming once.
            engine
                .retry(scope, Effect::Read, || async move {
                    let view = engine.metadata.topic(&at.topic).await?;
                    let leader = view.partition(at.partition)?.leader.ok_or_else(|| leaderless(at))?;
                    let connection = engine.metadata.connect(leader).await?;
                    scope.sent(true);
                    let outcome = connection.call(request, scope.deadline()).await;
                    let response = outcome.map_err(|error| match error {
                        crate::connection::call_error::CallError::Refused(body) => {
                            Error::from_partition_body(body, at.clone())
                        }
                        other => other.into_error(connection.address(), true),
                    })?;
                    Ok(response.log_start.get())
                })
                .await
        })
    }

    /// One offset in each of some partitions: the first, the next to be written, or the first at or after a time.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`].
    pub fn list_offsets(
        &self,
        wanted: impl IntoIterator<Item = (TopicPartition, OffsetQuery)>,
    ) -> Op<'_, Vec<(TopicPartition, OffsetFound)>> {
        let wanted: Vec<_> = wanted.into_iter().collect();
        self.op("list_offsets", move |scope| async move {
            let found = self.client.engine().list_offsets(&scope, &wanted).await?;
            Ok(wanted.into_iter().map(|(at, _)| at).zip(found).collect())
        })
    }

    /// The partitions of a topic, by number.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`].
    pub fn partitions(&self, topic: &str) -> Op<'_, Vec<TopicPartition>> {
        let topic = TopicName::new(topic);
        self.op("partitions", move |scope| async move {
            let topic = valid(topic)?;
            let engine = self.client.engine();
            let view = engine.retry(&scope, Effect::Read, || engine.metadata.topic(&topic)).await?;
            let numbers = (0u32..).zip(&view.partitions);
            Ok(numbers.map(|(partition, _)| TopicPartition { topic: topic.clone(), partition }).collect())
        })
    }

    /// The cluster: brokers, topics, what is wrong.
    pub fn describe_cluster(&self) -> Op<'_, ClusterDescribeResponse> {
        self.op("describe_cluster", move |scope| async move {
            self.client.engine().call(&scope, Effect::Read, &ClusterDescribeRequest {}).await
        })
    }

    /// How the broker at the other end is.
    pub fn health(&self) -> Op<'_, HealthResponse> {
        self.op("health", move |scope| async move {
            self.client.engine().call(&scope, Effect::Read, &HealthRequest {}).await
        })
    }

    fn op<'a, T, F, Fut>(&'a self, name: &'static str, start: F) -> Op<'a, T>
    where
        F: FnOnce(Scope) -> Fut + Send + 'a,
        Fut: Future<Output = Result<T, Error>> + Send + 'a,
    {
        Op::new(name, self.client.context(), Some(self.client.engine().config.request_timeout), start)
    }
}

fn valid(name: Result<TopicName, streambus_protocol::ids::IdError>) -> Result<TopicName, Error> {
    name.map_err(|error| Error::Invalid { what: error.to_string() })
}

/// Checks an offset that a caller gave as a plain number.
pub(crate) fn valid_offset(offset: u64) -> Result<Offset, Error> {
    Offset::new(offset)
        .ok_or_else(|| Error::Invalid { what: format!("{offset} is no offset: at most {}", Offset::MAX) })
}

/// Names the topic in a refusal that says it does not exist.
fn about(error: Error, topic: &TopicName) -> Error {
    match error {
        Error::Broker { code: ErrorCode::UnknownTopic, .. } => Error::UnknownTopic { topic: topic.to_string() },
        other => other,
    }
}
