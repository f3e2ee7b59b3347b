//! The same client without `async`: every call blocks the calling thread. Not for use inside an async runtime, where
//! blocking calls panic.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use streambus_protocol::api::cluster::{
    ClusterDescribeResponse, DrainBrokerResponse, ElectLeaderResponse, LeaderChoice, ReassignResponse,
};
use streambus_protocol::api::offsets::{OffsetFound, OffsetQuery};
use streambus_protocol::api::session::HealthResponse;
use streambus_protocol::api::strays::{ListStraysResponse, StrayDescription};
use streambus_protocol::api::topics::{CreateTopicResponse, DescribeTopicResponse, TopicListing};
use streambus_protocol::ids::TopicId;
use tokio::runtime::Runtime;

use crate::admin::Topic;
use crate::config::Config;
use crate::consumer::{OutOfRange, PartitionProgress, Seek, Start};
use crate::context::Ctx;
use crate::environment::Environment;
use crate::error::{Error, TopicPartition, TrySendError};
use crate::producer::{Delivery, ProducerConfig};
use crate::record::{ConsumedRecord, Position, Record};

/// A client that blocks. Cheap to clone; owns a runtime of one background thread, which ends with the last handle.
#[derive(Clone)]
pub struct Client {
    runtime: Arc<Runtime>,
    client: crate::Client,
}

impl Client {
    /// As [`crate::Client::connect`].
    ///
    /// # Errors
    ///
    /// As there, and [`Error::Io`] when no background thread can be started.
    pub fn connect(address: &str) -> Result<Self, Error> {
        Self::connect_with(Config::new(address.split(',').map(str::trim)))
    }

    /// As [`crate::Client::connect_with`].
    ///
    /// # Errors
    ///
    /// As [`Client::connect`].
    pub fn connect_with(config: Config) -> Result<Self, Error> {
        Self::connect_in(config, Environment::system())
    }

    /// As [`crate::Client::connect_in`].
    ///
    /// # Errors
    ///
    /// As [`Client::connect`].
    pub fn connect_in(config: Config, environment: Environment) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("streambus-client")
            .enable_all()
            .build()
            .map_err(|source| Error::Io {
                addr: "background thread".to_owned(),
                source: Arc::new(source),
                outcome: streambus_protocol::error_code::Applied::No,
            })?;
        let client = runtime.block_on(crate::Client::connect_in(config, environment))?;
        Ok(Self { runtime: Arc::new(runtime), client })
    }

    /// As [`crate::Client::with`]. A context with a timeout is made inside a runtime, or with [`Ctx::with_deadline`].
    pub fn with(&self, ctx: &Ctx) -> Self {
        Self { client: self.client.with(ctx), ..self.clone() }
    }

    /// As [`crate::Client::producer`].
    pub fn producer(&self) -> Producer {
        let _in = self.runtime.enter();
        Producer { runtime: Arc::clone(&self.runtime), producer: self.client.producer() }
    }

    /// As [`crate::Client::producer_with`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn producer_with(&self, config: ProducerConfig) -> Result<Producer, Error> {
        let _in = self.runtime.enter();
        Ok(Producer { runtime: Arc::clone(&self.runtime), producer: self.client.producer_with(config)? })
    }

    /// As [`crate::Client::consumer`].
    pub fn consumer<I>(&self, topics: I) -> ConsumerBuilder
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        ConsumerBuilder { runtime: Arc::clone(&self.runtime), builder: self.client.consumer(topics) }
    }

    /// As [`crate::Client::admin`].
    pub fn admin(&self) -> Admin {
        Admin { runtime: Arc::clone(&self.runtime), admin: self.client.admin() }
    }

    /// As [`crate::Client::close`].
    pub fn close(self) {
        self.runtime.block_on(self.client.close());
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blocking {:?}", self.client)
    }
}

/// A producer that blocks, see [`crate::Producer`].
#[derive(Clone, Debug)]
pub struct Producer {
    runtime: Arc<Runtime>,
    producer: crate::Producer,
}

impl Producer {
    /// As [`crate::Producer::send`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send(&self, record: impl Into<Record>) -> Result<Position, Error> {
        self.runtime.block_on(self.producer.send(record))
    }

    /// As [`crate::Producer::send`], within `timeout`.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send_within(&self, record: impl Into<Record>, timeout: Duration) -> Result<Position, Error> {
        self.runtime.block_on(self.producer.send(record).timeout(timeout))
    }

    /// As [`crate::Producer::send_all`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send_all(&self, records: impl IntoIterator<Item = Record>) -> Result<Vec<Result<Position, Error>>, Error> {
        self.runtime.block_on(self.producer.send_all(records))
    }

    /// As [`crate::Producer::enqueue`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn enqueue(&self, record: Record) -> Result<Delivery, Error> {
        self.runtime.block_on(self.producer.enqueue(record))
    }

    /// As [`crate::Producer::try_enqueue`].
    ///
    /// # Errors
    ///
    /// As there.
    #[expect(clippy::result_large_err, reason = "handing the record back is the point")]
    pub fn try_enqueue(&self, record: Record) -> Result<Delivery, TrySendError> {
        let _in = self.runtime.enter();
        self.producer.try_enqueue(record)
    }

    /// Waits for what became of an enqueued record.
    ///
    /// # Errors
    ///
    /// As [`Producer::send`].
    pub fn wait(&self, delivery: Delivery) -> Result<Position, Error> {
        self.runtime.block_on(delivery)
    }

    /// As [`crate::Producer::flush`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn flush(&self) -> Result<(), Error> {
        self.runtime.block_on(self.producer.flush())
    }

    /// As [`crate::Producer::close`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn close(self) -> Result<(), Error> {
        self.runtime.block_on(self.producer.close())
    }
}

/// A consumer to be started, see [`crate::ConsumerBuilder`].
#[derive(Debug)]
#[must_use = "nothing is read before `.start()`"]
pub struct ConsumerBuilder {
    runtime: Arc<Runtime>,
    builder: crate::ConsumerBuilder,
}

impl ConsumerBuilder {
    /// As [`crate::ConsumerBuilder::from`].
    pub fn from(self, start: Start) -> Self {
        Self { builder: self.builder.from(start), ..self }
    }

    /// As [`crate::ConsumerBuilder::partitions`].
    pub fn partitions(self, partitions: impl IntoIterator<Item = u32>) -> Self {
        Self { builder: self.builder.partitions(partitions), ..self }
    }

    /// As [`crate::ConsumerBuilder::until_end`].
    pub fn until_end(self) -> Self {
        Self { builder: self.builder.until_end(), ..self }
    }

    /// As [`crate::ConsumerBuilder::on_out_of_range`].
    pub fn on_out_of_range(self, what: OutOfRange) -> Self {
        Self { builder: self.builder.on_out_of_range(what), ..self }
    }

    /// As [`crate::ConsumerBuilder::buffer_bytes`].
    pub fn buffer_bytes(self, bytes: usize) -> Self {
        Self { builder: self.builder.buffer_bytes(bytes), ..self }
    }

    /// As [`crate::ConsumerBuilder::start`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn start(self) -> Result<Consumer, Error> {
        let consumer = self.runtime.block_on(self.builder.start())?;
        Ok(Consumer { runtime: self.runtime, consumer })
    }
}

/// A consumer that blocks, see [`crate::Consumer`]. Also an [`Iterator`].
#[derive(Debug)]
pub struct Consumer {
    runtime: Arc<Runtime>,
    consumer: crate::Consumer,
}

impl Consumer {
    /// Up to `max` records, as [`crate::Consumer::next_batch`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn next_batch(&mut self, max: usize, wait: Duration) -> Result<Vec<ConsumedRecord>, Error> {
        self.runtime.block_on(self.consumer.next_batch(max, wait))
    }

    /// As [`crate::Consumer::seek`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn seek(&mut self, to: Seek) -> Result<(), Error> {
        self.runtime.block_on(self.consumer.seek(to))
    }

    /// As [`crate::Consumer::seek_partition`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn seek_partition(&mut self, at: &TopicPartition, to: Seek) -> Result<(), Error> {
        self.runtime.block_on(self.consumer.seek_partition(at, to))
    }

    /// As [`crate::Consumer::pause`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), Error> {
        self.consumer.pause(partitions)
    }

    /// As [`crate::Consumer::resume`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), Error> {
        self.consumer.resume(partitions)
    }

    /// As [`crate::Consumer::progress`].
    pub fn progress(&self) -> Vec<PartitionProgress> {
        self.consumer.progress()
    }

    /// As [`crate::Consumer::close`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn close(self) -> Result<(), Error> {
        self.runtime.block_on(self.consumer.close())
    }
}

impl Iterator for Consumer {
    type Item = Result<ConsumedRecord, Error>;

    /// As [`crate::Consumer::next`]; ends where that returns `None`.
    fn next(&mut self) -> Option<Self::Item> {
        self.runtime.block_on(self.consumer.next()).transpose()
    }
}

/// Topics, offsets and the cluster's state, see [`crate::Admin`].
#[derive(Clone, Debug)]
pub struct Admin {
    runtime: Arc<Runtime>,
    admin: crate::Admin,
}

impl Admin {
    /// As [`crate::Admin::create_topic`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn create_topic(&self, name: &str, topic: Topic) -> Result<CreateTopicResponse, Error> {
        self.runtime.block_on(self.admin.create_topic(name, topic))
    }

    /// As [`crate::Admin::delete_topic`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn delete_topic(&self, name: &str) -> Result<TopicId, Error> {
        self.runtime.block_on(self.admin.delete_topic(name))
    }

    /// As [`crate::Admin::list_topics`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn list_topics(&self) -> Result<Vec<TopicListing>, Error> {
        self.runtime.block_on(self.admin.list_topics())
    }

    /// As [`crate::Admin::describe_topic`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn describe_topic(&self, name: &str) -> Result<DescribeTopicResponse, Error> {
        self.runtime.block_on(self.admin.describe_topic(name))
    }

    /// As [`crate::Admin::alter_topic`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn alter_topic(
        &self,
        name: &str,
        set: impl IntoIterator<Item = (String, String)>,
        remove: impl IntoIterator<Item = String>,
    ) -> Result<(), Error> {
        self.runtime.block_on(self.admin.alter_topic(name, set, remove))
    }

    /// As [`crate::Admin::add_partitions`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn add_partitions(&self, name: &str, total: u32) -> Result<u32, Error> {
        self.runtime.block_on(self.admin.add_partitions(name, total))
    }

    /// As [`crate::Admin::trim`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn trim(&self, topic: &str, partition: u32, before: u64) -> Result<u64, Error> {
        self.runtime.block_on(self.admin.trim(topic, partition, before))
    }

    /// As [`crate::Admin::list_offsets`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn list_offsets(
        &self,
        wanted: impl IntoIterator<Item = (TopicPartition, OffsetQuery)>,
    ) -> Result<Vec<(TopicPartition, OffsetFound)>, Error> {
        self.runtime.block_on(self.admin.list_offsets(wanted))
    }

    /// As [`crate::Admin::elect_leader`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn elect_leader(
        &self,
        topic: &str,
        partition: u32,
        choice: LeaderChoice,
    ) -> Result<ElectLeaderResponse, Error> {
        self.runtime.block_on(self.admin.elect_leader(topic, partition, choice))
    }

    /// As [`crate::Admin::reassign`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn reassign(
        &self,
        topic: &str,
        partition: u32,
        replicas: impl IntoIterator<Item = u32>,
    ) -> Result<ReassignResponse, Error> {
        self.runtime.block_on(self.admin.reassign(topic, partition, replicas))
    }

    /// As [`crate::Admin::reassign_throttled`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn reassign_throttled(
        &self,
        topic: &str,
        partition: u32,
        replicas: impl IntoIterator<Item = u32>,
        bytes_per_second: u64,
    ) -> Result<ReassignResponse, Error> {
        self.runtime.block_on(self.admin.reassign_throttled(topic, partition, replicas, bytes_per_second))
    }

    /// As [`crate::Admin::cancel_reassign`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn cancel_reassign(&self, topic: &str, partition: u32) -> Result<ReassignResponse, Error> {
        self.runtime.block_on(self.admin.cancel_reassign(topic, partition))
    }

    /// As [`crate::Admin::drain_broker`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn drain_broker(&self, broker: u32, draining: bool) -> Result<DrainBrokerResponse, Error> {
        self.runtime.block_on(self.admin.drain_broker(broker, draining))
    }

    /// As [`crate::Admin::remove_broker`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn remove_broker(&self, broker: u32) -> Result<(), Error> {
        self.runtime.block_on(self.admin.remove_broker(broker))
    }

    /// As [`crate::Admin::list_strays`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn list_strays(&self, broker: u32) -> Result<ListStraysResponse, Error> {
        self.runtime.block_on(self.admin.list_strays(broker))
    }

    /// As [`crate::Admin::discard_stray`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn discard_stray(&self, broker: u32, stray: &StrayDescription) -> Result<(), Error> {
        self.runtime.block_on(self.admin.discard_stray(broker, stray))
    }

    /// As [`crate::Admin::describe_cluster`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn describe_cluster(&self) -> Result<ClusterDescribeResponse, Error> {
        self.runtime.block_on(self.admin.describe_cluster())
    }

    /// As [`crate::Admin::health`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn health(&self) -> Result<HealthResponse, Error> {
        self.runtime.block_on(self.admin.health())
    }
}
