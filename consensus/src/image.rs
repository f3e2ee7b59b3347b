//! The cluster metadata as of one log index: immutable, shared, cheap to clone.

use std::collections::BTreeMap;
use std::sync::Arc;

use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch};
use streambus_protocol::ids::{BrokerId, ClusterId, PartitionIndex, TopicId, TopicName};
use streambus_protocol::timestamp::Timestamp;
use streambus_protocol::topic_config::TopicConfig;

use crate::command::Incarnation;

/// A consistent view of the whole cluster. Published on a watch after every applied batch; a reader keeps its `Arc`
/// for as long as one decision takes, and asks again for the next.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterImage {
    /// The cluster's identity; zero until it is founded.
    pub cluster_id: ClusterId,
    /// Log index of the last applied entry.
    pub applied: u64,
    /// Every registered broker.
    pub brokers: BTreeMap<BrokerId, BrokerImage>,
    pub(crate) topics: Arc<BTreeMap<TopicId, Arc<TopicImage>>>,
    pub(crate) names: Arc<BTreeMap<TopicName, TopicId>>,
    pub(crate) partition_count: u64,
}

/// One registered broker.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokerImage {
    /// Where clients reach it.
    pub endpoint: BrokerEndpoint,
    /// Its registration; grows each time its process starts.
    pub epoch: BrokerEpoch,
    /// The life of the process that registered.
    pub incarnation: Incarnation,
    /// True while it may lead nothing.
    pub fenced: bool,
    /// The release it runs.
    pub version: String,
    /// Its failure domain, as configured.
    pub rack: Option<String>,
}

/// One topic.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicImage {
    /// Its identity: a topic created anew under the same name has another.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// When it was created.
    pub created_at: Timestamp,
    /// Grows with every change of the configuration, from zero.
    pub config_version: u64,
    /// The configuration as set: only what differs from the defaults.
    pub config: BTreeMap<String, String>,
    /// The configuration with its defaults, parsed.
    pub settings: TopicConfig,
    /// Its partitions, by index. Shared, because one partition changes far more often than its topic.
    pub partitions: Vec<Arc<PartitionImage>>,
}

/// One partition's replication state (`leader_epoch` and `partition_epoch` are never compared with one another).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionImage {
    /// Assigned brokers in order of preference.
    pub replicas: Vec<BrokerId>,
    /// In-sync replicas.
    pub isr: Vec<BrokerId>,
    /// Eligible leader replicas (KIP-966): out of sync, yet known to be complete.
    pub elr: Vec<BrokerId>,
    /// Who leads; none while no eligible broker is alive.
    pub leader: Option<BrokerId>,
    /// Grows each time leadership changes or is granted anew.
    pub leader_epoch: LeaderEpoch,
    /// Grows on every change.
    pub partition_epoch: PartitionEpoch,
}

impl ClusterImage {
    /// The metadata before the first entry.
    pub fn empty() -> Self {
        Self {
            cluster_id: ClusterId::from_bytes([0; 16]),
            applied: 0,
            brokers: BTreeMap::new(),
            topics: Arc::new(BTreeMap::new()),
            names: Arc::new(BTreeMap::new()),
            partition_count: 0,
        }
    }

    /// The topic of that name.
    pub fn topic_by_name(&self, name: &TopicName) -> Option<&Arc<TopicImage>> {
        self.names.get(name).and_then(|id| self.topics.get(id))
    }

    /// The topic of that identity.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<TopicImage>> {
        self.topics.get(&id)
    }

    /// Every topic, by identity.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<TopicImage>> {
        self.topics.values()
    }

    /// Every topic, by name.
    pub fn topics_by_name(&self) -> impl Iterator<Item = &Arc<TopicImage>> {
        self.names.values().filter_map(|id| self.topics.get(id))
    }

    /// How many topics there are.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// How many partitions there are, over all topics.
    pub fn partition_count(&self) -> u64 {
        self.partition_count
    }

    /// True when the broker is registered and not fenced.
    pub fn is_alive(&self, broker: BrokerId) -> bool {
        self.brokers.get(&broker).is_some_and(|b| !b.fenced)
    }
}

impl TopicImage {
    /// One partition.
    pub fn partition(&self, index: PartitionIndex) -> Option<&Arc<PartitionImage>> {
        self.partitions.get(usize::try_from(index.get()).ok()?)
    }
}
