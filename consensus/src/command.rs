//! Everything that can change the cluster metadata, as values and as bytes.
//!
//! A command carries all it needs: time, identities and placement are drawn by the proposer, so that applying it
//! needs no clock and no randomness. Commands are checked when they are applied, not when they are proposed; each
//! names the state it expects (an epoch, a version, a count), so that a retry after an unknown outcome is safe.

mod codec;

use std::collections::BTreeMap;
use std::fmt;

use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch};
use streambus_protocol::ids::{BrokerId, ClusterId, DirectoryId, PartitionId, TopicId, TopicName};
use streambus_protocol::timestamp::Timestamp;

use crate::types::RaftId;

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

/// Where the brokers of a cluster reach one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterEndpoint {
    /// Host name or address of its cluster listener.
    pub host: String,
    /// Port of its cluster listener; zero for a cluster of one, which has none.
    pub port: u16,
}

/// A replica that a leader counts as in sync, in the life in which it was seen fetching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IsrMember {
    /// The replica.
    pub broker: BrokerId,
    /// Its registration as of its last fetch: a later life may have lost what was fetched (KIP-903).
    pub epoch: BrokerEpoch,
}

/// The in-sync replicas of one partition, as its leader wants them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsrProposal {
    /// The partition.
    pub id: PartitionId,
    /// The epoch the sender leads in.
    pub leader_epoch: LeaderEpoch,
    /// The state the sender starts from.
    pub partition_epoch: PartitionEpoch,
    /// All members, the leader included.
    pub isr: Vec<IsrMember>,
    /// False once the leader has recovered from an unclean election. Never true again after it was false.
    pub recovering: bool,
}

/// Which replica shall lead a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Election {
    /// The partition.
    pub id: PartitionId,
    /// Who.
    pub kind: ElectionKind,
}

/// How a leader is chosen on request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElectionKind {
    /// The first replica of the assignment.
    Preferred,
    /// This replica, which must be in sync.
    To(BrokerId),
    /// Any replica that is alive, if nobody can lead without a loss. Records may be lost: an operator's decision.
    Unclean,
}

/// One change of the cluster metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Gives a new cluster its identity. Succeeds again with the same id.
    FoundCluster {
        /// The identity, drawn once.
        cluster_id: ClusterId,
    },
    /// A broker process started. It is fenced until the controller has heard that it follows the metadata. Succeeds
    /// again for the same incarnation without a new epoch.
    RegisterBroker {
        /// This life of the process.
        incarnation: Incarnation,
        /// The broker's id and where clients reach it.
        endpoint: BrokerEndpoint,
        /// Where brokers reach it.
        cluster: ClusterEndpoint,
        /// The disk its records are on.
        directory: DirectoryId,
        /// True when recovery found everything that was ever counted as durable: nothing cut off, nothing damaged.
        intact: bool,
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
    /// Takes a broker's life out of service. Does nothing when the broker has registered anew since.
    FenceBroker {
        /// The broker.
        broker: BrokerId,
        /// The life meant.
        epoch: BrokerEpoch,
    },
    /// Puts a broker's life into service. Does nothing for another life, or for one that has begun to shut down.
    UnfenceBroker {
        /// The broker.
        broker: BrokerId,
        /// The life meant.
        epoch: BrokerEpoch,
    },
    /// A broker is about to stop: moves what others can lead. Succeeds again.
    BeginShutdown {
        /// The broker.
        broker: BrokerId,
        /// The life that stops.
        epoch: BrokerEpoch,
    },
    /// A leader's changes of in-sync replicas (KIP-497). Each proposal stands for itself.
    AlterPartitions {
        /// The leader.
        broker: BrokerId,
        /// Its life.
        broker_epoch: BrokerEpoch,
        /// At most one per partition.
        proposals: Vec<IsrProposal>,
    },
    /// Elections on request. Each stands for itself, and succeeds again when its result is there already.
    ElectLeaders {
        /// At most one per partition.
        elections: Vec<Election>,
    },
    /// Moves a partition to other brokers: new replicas catch up first, then the old ones go. Replaces a move that is
    /// under way. Succeeds again.
    Reassign {
        /// The partition.
        id: PartitionId,
        /// The replicas it shall have, the preferred leader first.
        replicas: Vec<BrokerId>,
        /// Bytes per second that its leader may send to the new ones, zero for no limit; none for what leaders are set to.
        throttle: Option<u64>,
    },
    /// Ends a move and returns to the replicas from before it. Succeeds when nothing moves.
    CancelReassign {
        /// The partition.
        id: PartitionId,
    },
    /// Says whether a broker is to be emptied: it gets no new replicas and leads only when nobody else can.
    SetDraining {
        /// The broker.
        broker: BrokerId,
        /// True to drain it, false to use it again.
        draining: bool,
    },
    /// Forgets a broker that is fenced and holds no replica. Succeeds again.
    RemoveBroker {
        /// The broker.
        broker: BrokerId,
        /// The life that was decided on.
        epoch: BrokerEpoch,
    },
    /// Gives a disk its Raft id, which no other disk ever gets. Succeeds again for the same disk with the same id.
    JoinNode {
        /// The broker it serves.
        broker: BrokerId,
        /// The identity of the disk.
        directory: DirectoryId,
        /// Host name or address of its cluster listener.
        host: String,
        /// Port of its cluster listener.
        port: u16,
        /// The broker was removed and comes back: from now on it is one that joins, like any other.
        returns: bool,
    },
    /// Forgets a node that is no member of the Raft group any more. Succeeds again.
    RemoveNode {
        /// The node.
        raft_id: RaftId,
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
            Self::FenceBroker { .. } => "fence_broker",
            Self::UnfenceBroker { .. } => "unfence_broker",
            Self::BeginShutdown { .. } => "begin_shutdown",
            Self::AlterPartitions { .. } => "alter_partitions",
            Self::ElectLeaders { .. } => "elect_leaders",
            Self::Reassign { .. } => "reassign",
            Self::CancelReassign { .. } => "cancel_reassign",
            Self::SetDraining { .. } => "set_draining",
            Self::RemoveBroker { .. } => "remove_broker",
            Self::JoinNode { .. } => "join_node",
            Self::RemoveNode { .. } => "remove_node",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
