//! Everything that can change the cluster metadata, as values and as bytes.
//!
//! A command carries all it needs: time, identities and placement are drawn by the proposer, so that applying it
//! needs no clock and no randomness. Commands are checked when they are applied, not when they are proposed; each
//! names the state it expects (an epoch, a version, a count), so that a retry after an unknown outcome is safe.

mod codec;

use std::collections::BTreeMap;
use std::fmt;

use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::{BrokerId, ClusterId, TopicId, TopicName};
use streambus_protocol::timestamp::Timestamp;

/// One life of a broker process, drawn at random when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation([u8; 16]);

impl Incarnation {
    /// Wraps 16 random bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// Where one partition's replicas go; the first is the preferred leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Distinct brokers, in order of preference.
    pub replicas: Vec<BrokerId>,
}

/// One change of the cluster metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Gives a new cluster its identity. Succeeds again with the same id.
    FoundCluster {
        /// The identity, drawn once.
        cluster_id: ClusterId,
    },
    /// A broker process started. Succeeds again for the same incarnation without a new epoch.
    RegisterBroker {
        /// This life of the process.
        incarnation: Incarnation,
        /// The broker's id and where clients reach it.
        endpoint: BrokerEndpoint,
        /// The release it runs.
        version: String,
    },
    /// Creates a topic. Succeeds again for the same id under the same name.
    CreateTopic {
        /// The name.
        name: TopicName,
        /// The identity, drawn by the proposer.
        id: TopicId,
        /// One entry per partition.
        partitions: Vec<Assignment>,
        /// Topic configuration, only what differs from the defaults.
        config: BTreeMap<String, String>,
        /// When it was created.
        at: Timestamp,
    },
    /// Deletes a topic.
    DeleteTopic {
        /// Its identity.
        id: TopicId,
    },
    /// Adds partitions at the end. Succeeds again when exactly these are the last ones already.
    AddPartitions {
        /// The topic.
        id: TopicId,
        /// One entry per added partition.
        new: Vec<Assignment>,
        /// How many partitions the topic had when the proposer decided.
        expected_count: u32,
    },
    /// Replaces a topic's configuration. Succeeds again when it is the next version already.
    AlterTopicConfig {
        /// The topic.
        id: TopicId,
        /// The whole new configuration.
        config: BTreeMap<String, String>,
        /// The version the proposer has read.
        expected_version: u64,
    },
    /// Reserves a block of producer ids. A retry wastes a block, which is harmless: ids are never used twice.
    AllocateProducerIds {
        /// The broker that will hand them out.
        broker: BrokerId,
        /// Its registration.
        broker_epoch: BrokerEpoch,
        /// How many.
        count: u32,
    },
}

impl Command {
    /// The command's name, for logs and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::FoundCluster { .. } => "found_cluster",
            Self::RegisterBroker { .. } => "register_broker",
            Self::CreateTopic { .. } => "create_topic",
            Self::DeleteTopic { .. } => "delete_topic",
            Self::AddPartitions { .. } => "add_partitions",
            Self::AlterTopicConfig { .. } => "alter_topic_config",
            Self::AllocateProducerIds { .. } => "allocate_producer_ids",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
