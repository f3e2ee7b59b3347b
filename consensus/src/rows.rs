//! The state as rows of bytes: what the database holds and what a snapshot carries.
//!
//! Keys sort as: cluster, brokers, topics, partitions, nodes, removed brokers, deleted topics. One state has exactly
//! one set of rows, so equal states have equal bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch};
use streambus_protocol::ids::{BrokerId, ClusterId, DirectoryId, PartitionIndex, TopicId};
use streambus_protocol::timestamp::Timestamp;
use streambus_protocol::topic_config::TopicConfig;

use crate::cluster_state::{ClusterState, RowKey};
use crate::command::Incarnation;
use crate::deleted_topics::{DeletedTopic, DeletedTopics};
use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::fields;
use crate::image::{BrokerImage, ClusterImage, NodeImage, PartitionImage, TopicImage};
use crate::limits::HOST_BYTES_MAX;
use crate::types::RaftId;

const ROW_VERSION: u8 = 2;

const CLUSTER: u8 = 1;
const BROKER: u8 = 2;
const TOPIC: u8 = 3;
const PARTITION: u8 = 4;
const NODE: u8 = 5;
const REMOVED_BROKER: u8 = 6;
const DELETED_TOPIC: u8 = 7;

impl RowKey {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Encoder::new();
        match self {
            Self::Cluster => out.u8(CLUSTER),
            Self::Broker(id) => {
                out.u8(BROKER);
                out.raw(&id.get().to_be_bytes());
            }
            Self::Topic(id) => {
                out.u8(TOPIC);
                out.raw(id.as_bytes());
            }
            Self::Partition(topic, index) => {
                out.u8(PARTITION);
                out.raw(topic.as_bytes());
                out.raw(&index.get().to_be_bytes());
            }
            Self::Node(id) => {
                out.u8(NODE);
                out.raw(&id.get().to_be_bytes());
            }
            Self::RemovedBroker(id) => {
                out.u8(REMOVED_BROKER);
                out.raw(&id.get().to_be_bytes());
            }
            Self::DeletedTopic(index) => {
                out.u8(DELETED_TOPIC);
                out.raw(&index.to_be_bytes());
            }
        }
        out.finish()
    }

    fn decode(key: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Decoder::new(key);
        let key = match input.u8()? {
            CLUSTER => Self::Cluster,
            BROKER => Self::Broker(BrokerId::new(u32::from_be_bytes(input.array()?))),
            TOPIC => Self::Topic(TopicId::from_bytes(input.array()?)),
            PARTITION => Self::Partition(
                TopicId::from_bytes(input.array()?),
                PartitionIndex::new(u32::from_be_bytes(input.array()?)),
            ),
            NODE => Self::Node(RaftId::new(u64::from_be_bytes(input.array()?))),
            REMOVED_BROKER => Self::RemovedBroker(BrokerId::new(u32::from_be_bytes(input.array()?))),
            DELETED_TOPIC => Self::DeletedTopic(u64::from_be_bytes(input.array()?)),
            other => return Err(DecodeError::Invalid { what: "row kind", found: other.to_string() }),
        };
        input.finish()?;
        Ok(key)
    }
}

impl ClusterState {
    /// The row's value, or none when the state has no such row (any more).
    pub(crate) fn row(&self, key: RowKey) -> Option<Vec<u8>> {
        let mut out = Encoder::new();
        out.u8(ROW_VERSION);
        match key {
            RowKey::Cluster => {
                out.raw(self.image.cluster_id.as_bytes());
                out.i64(self.producer_id_next);
            }
            RowKey::Broker(id) => write_broker(&mut out, self.broker(id)?),
            RowKey::Topic(id) => write_topic(&mut out, self.image.topic_by_id(id)?),
            RowKey::Partition(id, index) => write_partition(&mut out, self.partition(id, index)?),
            RowKey::Node(id) => write_node(&mut out, self.image.nodes.get(&id)?),
            RowKey::RemovedBroker(id) => out.u64(self.image.removed_brokers.get(&id)?.get()),
            RowKey::DeletedTopic(index) => {
                let topic = self.image.deleted.at(index)?;
                out.raw(topic.id.as_bytes());
                out.text(topic.name.as_str());
            }
        }
        Some(out.finish())
    }

    /// Every row's key, in key order.
    pub(crate) fn row_keys(&self) -> impl Iterator<Item = RowKey> {
        let brokers = self.image.brokers.keys().copied().map(RowKey::Broker);
        let topics = self.image.topics().map(|t| RowKey::Topic(t.id));
        let partitions = self.image.topics().flat_map(|topic| {
            (0..).zip(&topic.partitions).map(|(index, _)| RowKey::Partition(topic.id, PartitionIndex::new(index)))
        });
        let nodes = self.image.nodes.keys().copied().map(RowKey::Node);
        let removed = self.image.removed_brokers.keys().copied().map(RowKey::RemovedBroker);
        let deleted = self.image.deleted.indexes().map(RowKey::DeletedTopic);
        let placed = std::iter::once(RowKey::Cluster).chain(brokers).chain(topics).chain(partitions);
        placed.chain(nodes).chain(removed).chain(deleted)
    }
}

/// Rebuilds a state from its rows, in any order of arrival that keeps topics before their partitions.
#[derive(Debug, Default)]
pub(crate) struct StateBuilder {
    cluster_id: Option<ClusterId>,
    producer_id_next: i64,
    brokers: BTreeMap<BrokerId, BrokerImage>,
    topics: BTreeMap<TopicId, (TopicImage, u32)>,
    nodes: BTreeMap<RaftId, NodeImage>,
    removed_brokers: BTreeMap<BrokerId, BrokerEpoch>,
    deleted: DeletedTopics,
}

impl StateBuilder {
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), DecodeError> {
        let mut input = Decoder::new(value);
        let version = input.u8()?;
        if version > ROW_VERSION {
            return Err(DecodeError::NewerVersion { what: "metadata row", found: version, newest: ROW_VERSION });
        }
        if version < ROW_VERSION {
            return Err(DecodeError::Invalid { what: "metadata row", found: format!("version {version}") });
        }
        match RowKey::decode(key)? {
            RowKey::Cluster => {
                self.cluster_id = Some(ClusterId::from_bytes(input.array()?));
                self.producer_id_next = input.i64()?;
            }
            RowKey::Broker(id) => {
                let broker = read_broker(&mut input)?;
                if broker.endpoint.id != id {
                    return Err(DecodeError::Invalid { what: "broker row", found: broker.endpoint.id.to_string() });
                }
                self.brokers.insert(id, broker);
            }
            RowKey::Topic(id) => {
                self.topics.insert(id, read_topic(&mut input, id)?);
            }
            RowKey::Partition(id, index) => {
                let partition = read_partition(&mut input)?;
                let Some((topic, _)) = self.topics.get_mut(&id) else {
                    return Err(DecodeError::Invalid { what: "partition row without topic", found: id.to_string() });
                };
                if usize::try_from(index.get()).ok() != Some(topic.partitions.len()) {
                    return Err(DecodeError::Invalid { what: "order of partition rows", found: index.to_string() });
                }
                topic.partitions.push(Arc::new(partition));
            }
            RowKey::Node(id) => {
                self.nodes.insert(id, read_node(&mut input)?);
            }
            RowKey::RemovedBroker(id) => {
                self.removed_brokers.insert(id, BrokerEpoch::new(input.u64()?));
            }
            RowKey::DeletedTopic(index) => {
                let id = TopicId::from_bytes(input.array()?);
                self.deleted.add(index, DeletedTopic { id, name: fields::read_topic_name(&mut input)? });
            }
        }
        input.finish()
    }

    /// The state as of log index `applied`; refuses a topic with missing partitions.
    pub(crate) fn finish(self, applied: u64) -> Result<ClusterState, DecodeError> {
        let mut names = BTreeMap::new();
        let mut topics = BTreeMap::new();
        let mut partition_count = 0;
        for (id, (topic, expected)) in self.topics {
            if u32::try_from(topic.partitions.len()).ok() != Some(expected) {
                let found = format!("topic {id} has {} of {expected}", topic.partitions.len());
                return Err(DecodeError::Invalid { what: "number of partition rows", found });
            }
            partition_count += u64::from(expected);
            if names.insert(topic.name.clone(), id).is_some() {
                return Err(DecodeError::Invalid { what: "repeated topic name", found: topic.name.to_string() });
            }
            topics.insert(id, Arc::new(topic));
        }
        let image = ClusterImage {
            cluster_id: self.cluster_id.unwrap_or(ClusterId::from_bytes([0; 16])),
            applied,
            brokers: self.brokers,
            removed_brokers: self.removed_brokers,
            nodes: self.nodes,
            deleted: Arc::new(self.deleted),
            topics: Arc::new(topics),
            names: Arc::new(names),
            partition_count,
        };
        Ok(ClusterState { image, producer_id_next: self.producer_id_next })
    }
}

fn write_broker(out: &mut Encoder, broker: &BrokerImage) {
    fields::write_endpoint(out, &broker.endpoint);
    fields::write_cluster_endpoint(out, &broker.cluster);
    out.u64(broker.epoch.get());
    out.raw(broker.incarnation.as_bytes());
    out.raw(broker.directory.as_bytes());
    out.bool(broker.fenced);
    out.bool(broker.in_controlled_shutdown);
    out.bool(broker.draining);
    out.text(&broker.version);
}

fn read_broker(input: &mut Decoder<'_>) -> Result<BrokerImage, DecodeError> {
    let endpoint = fields::read_endpoint(input)?;
    let rack = endpoint.rack.clone();
    Ok(BrokerImage {
        endpoint,
        cluster: fields::read_cluster_endpoint(input)?,
        epoch: BrokerEpoch::new(input.u64()?),
        incarnation: Incarnation::from_bytes(input.array()?),
        directory: DirectoryId::from_bytes(input.array()?),
        fenced: input.bool()?,
        in_controlled_shutdown: input.bool()?,
        draining: input.bool()?,
        version: input.text("release version", HOST_BYTES_MAX)?.to_owned(),
        rack,
    })
}

fn write_node(out: &mut Encoder, node: &NodeImage) {
    out.u32(node.broker.get());
    out.raw(node.directory.as_bytes());
    out.text(&node.host);
    out.u16(node.port);
}

fn read_node(input: &mut Decoder<'_>) -> Result<NodeImage, DecodeError> {
    Ok(NodeImage {
        broker: BrokerId::new(input.u32()?),
        directory: DirectoryId::from_bytes(input.array()?),
        host: input.text("cluster host", HOST_BYTES_MAX)?.to_owned(),
        port: input.u16()?,
    })
}

fn write_topic(out: &mut Encoder, topic: &TopicImage) {
    out.text(topic.name.as_str());
    out.i64(topic.created_at.as_millis());
    out.u64(topic.config_version);
    fields::write_config(out, &topic.config);
    out.count(topic.partitions.len());
}

fn read_topic(input: &mut Decoder<'_>, id: TopicId) -> Result<(TopicImage, u32), DecodeError> {
    let name = fields::read_topic_name(input)?;
    let created_at = Timestamp::from_millis(input.i64()?);
    let config_version = input.u64()?;
    let config = fields::read_config(input)?;
    let settings = TopicConfig::parse(&config).map_err(|problems| DecodeError::Invalid {
        what: "stored topic configuration",
        found: format!("topic '{name}' has {} problem(s)", problems.len()),
    })?;
    let topic = TopicImage { id, name, created_at, config_version, config, settings, partitions: Vec::new() };
    Ok((topic, input.u32()?))
}

/// Bit of a partition's flags: its leader recovers from an election that may have lost records.
const IS_RECOVERING: u8 = 1;
/// Bit: the epoch of the last such election follows. A row without it, as earlier releases wrote all, knows of none; an
/// earlier release refuses a row with it.
const HAS_UNCLEAN_EPOCH: u8 = 2;
/// Bit: it moves under a limit of its own, which follows. As with the bit before it, for earlier releases.
const HAS_THROTTLE: u8 = 4;

fn write_partition(out: &mut Encoder, partition: &PartitionImage) {
    fields::write_brokers(out, &partition.replicas);
    fields::write_brokers(out, &partition.isr);
    fields::write_brokers(out, &partition.elr);
    fields::write_brokers(out, &partition.last_known_elr);
    fields::write_brokers(out, &partition.adding);
    fields::write_brokers(out, &partition.removing);
    let unclean = if partition.unclean_epoch.is_some() { HAS_UNCLEAN_EPOCH } else { 0 };
    let throttled = if partition.throttle.is_some() { HAS_THROTTLE } else { 0 };
    out.u8(u8::from(partition.recovering) | unclean | throttled);
    if let Some(epoch) = partition.unclean_epoch {
        out.u32(epoch.get());
    }
    if let Some(throttle) = partition.throttle {
        out.u64(throttle);
    }
    out.option(partition.leader, |out, leader| out.u32(leader.get()));
    out.u32(partition.leader_epoch.get());
    out.u32(partition.partition_epoch.get());
}

fn read_partition(input: &mut Decoder<'_>) -> Result<PartitionImage, DecodeError> {
    let mut brokers = || fields::read_brokers(input);
    let (replicas, isr, elr, last_known_elr) = (brokers()?, brokers()?, brokers()?, brokers()?);
    let (adding, removing) = (brokers()?, brokers()?);
    let flags = input.u8()?;
    if flags & !(IS_RECOVERING | HAS_UNCLEAN_EPOCH | HAS_THROTTLE) != 0 {
        return Err(DecodeError::Invalid { what: "partition flags", found: flags.to_string() });
    }
    let unclean_epoch = if flags & HAS_UNCLEAN_EPOCH != 0 { Some(LeaderEpoch::new(input.u32()?)) } else { None };
    let throttle = if flags & HAS_THROTTLE != 0 { Some(input.u64()?) } else { None };
    Ok(PartitionImage {
        replicas,
        isr,
        elr,
        last_known_elr,
        adding,
        removing,
        recovering: flags & IS_RECOVERING != 0,
        unclean_epoch,
        throttle,
        leader: input.option(|input| Ok(BrokerId::new(input.u32()?)))?,
        leader_epoch: LeaderEpoch::new(input.u32()?),
        partition_epoch: PartitionEpoch::new(input.u32()?),
    })
}
