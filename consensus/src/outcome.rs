//! What a command's application answers: an outcome, or a refusal with its reason.

use std::fmt;

use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch};
use streambus_protocol::ids::{BrokerId, ClusterId, DirectoryId, PartitionId, ProducerId, TopicId, TopicName};
use streambus_protocol::topic_config::ConfigProblem;

use crate::types::RaftId;

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The cluster has this identity.
    ClusterFounded {
        /// The identity.
        cluster_id: ClusterId,
    },
    /// The broker is registered under this epoch.
    BrokerRegistered {
        /// Its epoch: the log index of the registration.
        epoch: BrokerEpoch,
    },
    /// The topic exists.
    TopicCreated {
        /// Its identity, as proposed.
        id: TopicId,
    },
    /// The topic is gone.
    TopicDeleted {
        /// Its identity.
        id: TopicId,
        /// Its name.
        name: TopicName,
    },
    /// The topic has this many partitions now.
    PartitionsAdded {
        /// All its partitions.
        total: u32,
    },
    /// The topic's configuration was replaced.
    TopicConfigAltered {
        /// The new version.
        version: u64,
    },
    /// These producer ids belong to the proposer: `first` to `first + count`, exclusive.
    ProducerIds {
        /// The first id.
        first: ProducerId,
        /// How many.
        count: u32,
    },
    /// The broker's life is out of service, or was not the current one.
    BrokerFenced {
        /// False when nothing happened.
        changed: bool,
    },
    /// The broker's life is in service, or was not the current one, or is stopping.
    BrokerUnfenced {
        /// False when nothing happened.
        changed: bool,
    },
    /// The broker may stop.
    ShutdownBegun {
        /// Partitions that it still leads because nobody else can: they have no leader once it stops.
        leaderless_after: u32,
    },
    /// One answer per proposal, in their order.
    PartitionsAltered {
        /// The partition's state now, or why the proposal changed nothing.
        results: Vec<Result<PartitionVersion, AlterRefused>>,
    },
    /// One answer per election, in their order.
    LeadersElected {
        /// Who leads now, or why nothing was changed.
        results: Vec<Result<BrokerId, ElectRefused>>,
    },
    /// The partition moves, or has moved when both lists are empty.
    Reassigned {
        /// Replicas that have to catch up.
        adding: Vec<BrokerId>,
        /// Replicas that go after that.
        removing: Vec<BrokerId>,
    },
    /// The broker's wish to be emptied is recorded.
    DrainingSet {
        /// False when it was so already.
        changed: bool,
    },
    /// The broker is forgotten.
    BrokerRemoved {
        /// False when it was so already.
        changed: bool,
    },
    /// The disk has this Raft id.
    NodeJoined {
        /// Its id, for ever.
        raft_id: RaftId,
    },
    /// The node is forgotten.
    NodeRemoved {
        /// False when it was so already.
        changed: bool,
    },
}

/// A partition's state after a leader's proposal. The leader epoch is above the sender's when the change completed a
/// move that ends its leadership: then it must stop leading and wait for the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionVersion {
    /// The leader epoch.
    pub leader_epoch: LeaderEpoch,
    /// The partition epoch.
    pub partition_epoch: PartitionEpoch,
    /// The in-sync replicas, in order of assignment.
    pub isr: Vec<BrokerId>,
    /// True while the leader has not recovered from an unclean election.
    pub recovering: bool,
}

/// Why a leader's proposal changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AlterRefused {
    /// The topic was deleted, or never existed.
    #[error("there is no such topic")]
    UnknownTopic,
    /// The topic has no such partition.
    #[error("there is no such partition")]
    UnknownPartition,
    /// The sender has seen a newer state than the one this was applied to.
    #[error("the sender knows a newer state of the partition")]
    NotController,
    /// Leadership was granted anew since: the sender leads no more, or in a later epoch.
    #[error("the leader epoch is out of date")]
    FencedLeaderEpoch,
    /// The partition changed since the sender decided.
    #[error("the partition epoch is out of date")]
    InvalidUpdateVersion,
    /// The sender does not lead the partition.
    #[error("the sender is not the leader")]
    NotLeader,
    /// The sender registered anew since.
    #[error("the sender's broker epoch is out of date")]
    StaleBrokerEpoch,
    /// A replica that was to be added is fenced, stops, or has registered anew since it was seen.
    #[error("broker {0} may not be in sync now")]
    IneligibleReplica(BrokerId),
    /// The proposal contradicts itself or the assignment.
    #[error("the proposal is not valid: {0}")]
    InvalidRequest(InvalidProposal),
}

impl AlterRefused {
    /// True when this answer proves that the answered proposal changed nothing, so that the leader may go back to the
    /// committed in-sync replicas. It proves nothing about an earlier try of the same proposal whose outcome is still
    /// unknown. Any other refusal leaves the proposal pending until the metadata tells.
    pub const fn is_definitely_not_applied(&self) -> bool {
        matches!(self, Self::IneligibleReplica(_))
    }
}

/// What is wrong with a leader's proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidProposal {
    /// The leader is always in sync with itself.
    #[error("the leader is missing")]
    WithoutLeader,
    /// A member is not assigned.
    #[error("broker {0} is no replica")]
    NotAReplica(BrokerId),
    /// A member is named twice.
    #[error("broker {0} is named twice")]
    Repeated(BrokerId),
    /// A leader that has not recovered is alone.
    #[error("a partition that recovers has one in-sync replica")]
    RecoveringWithOthers,
    /// Recovery happens once per unclean election.
    #[error("a partition that has recovered does not recover again")]
    RecoveringAgain,
    /// A counter has reached its end; cannot happen in any real cluster.
    #[error("an epoch is exhausted")]
    Exhausted,
}

/// Why an election changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElectRefused {
    /// The topic was deleted, or never existed.
    #[error("there is no such topic")]
    UnknownTopic,
    /// The topic has no such partition.
    #[error("there is no such partition")]
    UnknownPartition,
    /// The broker has no replica of the partition.
    #[error("broker {0} has no replica of the partition")]
    NotAReplica(BrokerId),
    /// The replica lacks records.
    #[error("broker {0} is not in sync")]
    NotInSync(BrokerId),
    /// The broker is fenced or stops.
    #[error("broker {0} is not alive, or is stopping")]
    NotAlive(BrokerId),
    /// The broker is being emptied.
    #[error("broker {0} is being drained")]
    Draining(BrokerId),
    /// No replica is alive.
    #[error("no replica is alive")]
    NoneAlive,
    /// A counter has reached its end; cannot happen in any real cluster.
    #[error("an epoch is exhausted")]
    Exhausted,
}

/// Why a command changed nothing. A refusal is final for this state: the same command succeeds only after the state
/// has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedReason {
    /// The cluster has no identity yet.
    #[error("the cluster is not founded yet")]
    NotFounded,
    /// The cluster has another identity.
    #[error("this is cluster {current}, not {proposed}")]
    OtherCluster {
        /// The identity it has.
        current: ClusterId,
        /// The one proposed.
        proposed: ClusterId,
    },
    /// An identity must not be all zero.
    #[error("the identity is zero")]
    ZeroId,
    /// The broker never registered.
    #[error("broker {0} is not registered")]
    UnknownBroker(BrokerId),
    /// The broker registered anew since.
    #[error("broker {broker} has epoch {current}, the command names {given}")]
    StaleBrokerEpoch {
        /// The broker.
        broker: BrokerId,
        /// Its epoch.
        current: BrokerEpoch,
        /// The epoch in the command.
        given: BrokerEpoch,
    },
    /// Another process serves under this broker id, with another disk.
    #[error(
        "broker {broker} is alive with directory {current}, this process has directory {given}: give it another \
         broker id, or stop the other one first"
    )]
    DuplicateBroker {
        /// The broker id that both use.
        broker: BrokerId,
        /// The disk of the one that is alive.
        current: DirectoryId,
        /// The disk in the command.
        given: DirectoryId,
    },
    /// A broker that is alive is not removed.
    #[error("broker {0} is alive: stop it before it is removed")]
    BrokerAlive(BrokerId),
    /// A broker that holds replicas is not removed.
    #[error("broker {broker} holds {replicas} replica(s): drain it before it is removed")]
    BrokerHoldsReplicas {
        /// The broker.
        broker: BrokerId,
        /// How many partitions name it.
        replicas: u64,
    },
    /// The disk belongs to another broker.
    #[error("directory {directory} joined as broker {owner}")]
    DirectoryInUse {
        /// The disk.
        directory: DirectoryId,
        /// Whose it is.
        owner: BrokerId,
    },
    /// The partition does not exist.
    #[error("there is no partition {0}")]
    UnknownPartition(PartitionId),
    /// Too few of the replicas that would stay are in sync and alive: records could be lost, or nobody could lead.
    #[error(
        "partition {id}: {in_sync} of the replicas that would stay are in sync and alive, {needed} are needed: wait \
         until they caught up"
    )]
    TooFewInSync {
        /// The partition.
        id: PartitionId,
        /// How many are.
        in_sync: u32,
        /// How many must be.
        needed: u32,
    },
    /// The topic was created and deleted since the proposer drew its id.
    #[error("topic {0} was deleted")]
    TopicDeleted(TopicId),
    /// More changes in one command than the limit.
    #[error("{requested} changes in one command, at most {max} are possible")]
    TooManyChanges {
        /// The number in the command.
        requested: u32,
        /// The limit.
        max: u32,
    },
    /// A topic of that name exists under another id.
    #[error("topic '{name}' exists")]
    TopicExists {
        /// The name.
        name: TopicName,
        /// The identity of the one that exists.
        id: TopicId,
    },
    /// The topic id is in use under another name.
    #[error("topic id {id} is in use by '{name}'")]
    TopicIdInUse {
        /// The identity.
        id: TopicId,
        /// Who has it.
        name: TopicName,
    },
    /// No topic of that id: deleted, or never created.
    #[error("there is no topic with id {0}")]
    UnknownTopic(TopicId),
    /// A topic needs at least one partition and has an upper limit.
    #[error("{requested} partitions asked for, 1 to {max} are possible")]
    PartitionCount {
        /// Partitions the topic would have.
        requested: u64,
        /// The most allowed.
        max: u64,
    },
    /// The topic's partition count changed since the proposer read it.
    #[error("the topic has {actual} partitions, the command expects {expected}")]
    PartitionCountChanged {
        /// The count in the command.
        expected: u32,
        /// The count now.
        actual: u32,
    },
    /// The topic's configuration changed since the proposer read it.
    #[error("the topic's configuration has version {actual}, the command expects {expected}")]
    ConfigVersionChanged {
        /// The version in the command.
        expected: u64,
        /// The version now.
        actual: u64,
    },
    /// The configuration is not valid; all problems at once.
    #[error("the topic configuration has {} problem(s)", .0.len())]
    InvalidConfig(Vec<ConfigProblem>),
    /// A partition without replicas, with a repeated one, or with too many.
    #[error("partition {partition} has an invalid replica list: {problem}")]
    InvalidAssignment {
        /// Its position in the command.
        partition: u32,
        /// What is wrong.
        problem: AssignmentProblem,
    },
    /// A limit of the cluster is reached.
    #[error("the cluster's limit of {max} {what} is reached")]
    ClusterLimit {
        /// What is limited.
        what: Limited,
        /// The limit.
        max: u64,
    },
    /// A block of producer ids has at least one and at most the limit.
    #[error("{requested} producer ids asked for, 1 to {max} are possible")]
    ProducerCount {
        /// The number in the command.
        requested: u32,
        /// The limit.
        max: u32,
    },
    /// A counter has reached its end; cannot happen in any real cluster.
    #[error("the counter '{0}' is exhausted")]
    Exhausted(Counter),
}

/// What a cluster has a limited number of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    /// Brokers, the removed ones included.
    Brokers,
    /// Topics.
    Topics,
    /// Partitions of all topics.
    Partitions,
    /// Raft nodes.
    Nodes,
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Brokers => "brokers",
            Self::Topics => "topics",
            Self::Partitions => "partitions",
            Self::Nodes => "nodes",
        })
    }
}

/// A number that only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// A partition's leader epoch.
    LeaderEpoch,
    /// A partition's own epoch.
    PartitionEpoch,
    /// A topic's configuration version.
    ConfigVersion,
    /// Producer ids.
    ProducerIds,
    /// Raft ids.
    RaftIds,
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LeaderEpoch => "leader epoch",
            Self::PartitionEpoch => "partition epoch",
            Self::ConfigVersion => "configuration version",
            Self::ProducerIds => "producer ids",
            Self::RaftIds => "raft ids",
        })
    }
}

/// What is wrong with one partition's replica list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignmentProblem {
    /// No replica.
    #[error("it is empty")]
    Empty,
    /// More than the limit.
    #[error("it has more than {} replicas", crate::limits::REPLICAS_MAX)]
    TooMany,
    /// The same broker twice.
    #[error("broker {0} is in it twice")]
    Repeated(BrokerId),
    /// A broker that never registered.
    #[error("broker {0} is not registered")]
    UnknownBroker(BrokerId),
    /// No replica's broker is alive, so nothing could lead.
    #[error("all its brokers are fenced")]
    NoneAlive,
    /// A new replica's broker is fenced, so it could not catch up.
    #[error("broker {0} is fenced and could not catch up")]
    Fenced(BrokerId),
    /// A new replica's broker is being emptied.
    #[error("broker {0} is being drained")]
    Draining(BrokerId),
}

/// What applying one log entry answers to its proposer, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The entry was Raft's own.
    Nothing,
    /// The command's answer.
    Command(Result<Outcome, RefusedReason>),
}
