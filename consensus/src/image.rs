//! The cluster metadata as of one log index: immutable, shared, cheap to clone.

use std::collections::BTreeMap;
use std::sync::Arc;

use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch};
use streambus_protocol::ids::{BrokerId, ClusterId, DirectoryId, PartitionId, PartitionIndex, TopicId, TopicName};
use streambus_protocol::timestamp::Timestamp;
use streambus_protocol::topic_config::TopicConfig;

use crate::command::{ClusterEndpoint, Incarnation};
use crate::deleted_topics::DeletedTopics;
use crate::election::Standing;
use crate::types::RaftId;

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
    /// Brokers that were removed and have not registered again, with their last epoch.
    pub removed_brokers: BTreeMap<BrokerId, BrokerEpoch>,
    /// Raft nodes that joined. The founders are not in it until they join anew with another disk.
    pub nodes: BTreeMap<RaftId, NodeImage>,
    pub(crate) deleted: Arc<DeletedTopics>,
    pub(crate) topics: Arc<BTreeMap<TopicId, Arc<TopicImage>>>,
    pub(crate) names: Arc<BTreeMap<TopicName, TopicId>>,
    pub(crate) partition_count: u64,
}

/// One registered broker.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokerImage {
    /// Where clients reach it.
    pub endpoint: BrokerEndpoint,
    /// Where brokers reach it.
    pub cluster: ClusterEndpoint,
    /// Its registration; grows each time its process starts.
    pub epoch: BrokerEpoch,
    /// The life of the process that registered.
    pub incarnation: Incarnation,
    /// The disk its records are on.
    pub directory: DirectoryId,
    /// True while it may lead nothing.
    pub fenced: bool,
    /// True from the moment this life began to stop.
    pub in_controlled_shutdown: bool,
    /// True while an operator wants it empty. Outlives a restart.
    pub draining: bool,
    /// The release it runs.
    pub version: String,
    /// Its failure domain, as configured.
    pub rack: Option<String>,
}

/// One Raft node that joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeImage {
    /// The broker it serves.
    pub broker: BrokerId,
    /// The identity of its disk.
    pub directory: DirectoryId,
    /// Host name or address of its cluster listener.
    pub host: String,
    /// Port of its cluster listener.
    pub port: u16,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionImage {
    /// Assigned brokers in order of preference; while the partition moves, the ones it leaves come last.
    pub replicas: Vec<BrokerId>,
    /// In-sync replicas, in the order of `replicas`. Empty only after every one of them lost its disk or records.
    pub isr: Vec<BrokerId>,
    /// Eligible leader replicas (KIP-966): out of sync, yet known to be complete. Empty while enough are in sync.
    pub elr: Vec<BrokerId>,
    /// Replicas that were complete until their recovery found damage: the best there is when `isr` and `elr` are empty.
    pub last_known_elr: Vec<BrokerId>,
    /// Replicas that catch up and will stay.
    pub adding: Vec<BrokerId>,
    /// Replicas that go once all of `adding` are in sync.
    pub removing: Vec<BrokerId>,
    /// Bytes per second that the leader may send to `adding`, zero for no limit; none for what leaders are set to.
    pub throttle: Option<u64>,
    /// True after an election that may have lost records, until the leader has said that it recovered.
    pub recovering: bool,
    /// The last leadership that began with an election that may have lost records; none when there was none.
    pub unclean_epoch: Option<LeaderEpoch>,
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
            removed_brokers: BTreeMap::new(),
            nodes: BTreeMap::new(),
            deleted: Arc::new(DeletedTopics::default()),
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

    /// One partition.
    pub fn partition(&self, id: PartitionId) -> Option<&Arc<PartitionImage>> {
        self.topic_by_id(id.topic).and_then(|topic| topic.partition(id.partition))
    }

    /// Every partition with its topic.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, &TopicImage, &PartitionImage)> {
        self.topics.values().flat_map(|topic| {
            (0..)
                .map(PartitionIndex::new)
                .zip(&topic.partitions)
                .map(|(partition, state)| (PartitionId { topic: topic.id, partition }, topic.as_ref(), state.as_ref()))
        })
    }

    /// True when the topic is known to have been deleted. False says nothing: it may exist, may be one this state has
    /// not heard of yet, or may have been deleted so long ago that it is forgotten. So a log may be deleted because of
    /// a `true`, and never because of a `false`.
    pub fn is_deleted(&self, topic: TopicId) -> bool {
        self.deleted.get(topic).is_some()
    }

    /// True when the broker is registered and not fenced.
    pub fn is_alive(&self, broker: BrokerId) -> bool {
        self.brokers.get(&broker).is_some_and(|b| !b.fenced)
    }
}

impl BrokerImage {
    /// What the broker may be asked to do.
    pub const fn standing(&self) -> Standing {
        match self {
            Self { fenced: true, .. } => Standing::Fenced,
            Self { in_controlled_shutdown: true, .. } => Standing::Stopping,
            Self { draining: true, .. } => Standing::Draining,
            _ => Standing::Serving,
        }
    }
}

impl PartitionImage {
    /// How many replicas must be in sync for the high watermark to move: `min.insync.replicas`, at least one, and no
    /// more than there are replicas. Leaders and this crate must agree on it: below this number a replica that leaves
    /// the in-sync set stays complete, which is what [`PartitionImage::elr`] rests on.
    pub fn in_sync_min(&self, settings: &TopicConfig) -> usize {
        usize::from(settings.min_insync_replicas).min(self.replicas.len()).max(1)
    }

    /// True while the partition moves to other brokers.
    pub fn is_moving(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }
}

impl TopicImage {
    /// One partition.
    pub fn partition(&self, index: PartitionIndex) -> Option<&Arc<PartitionImage>> {
        self.partitions.get(usize::try_from(index.get()).ok()?)
    }
}
