//! What a command's application answers: an outcome, or a refusal with its reason.

use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::{BrokerId, ClusterId, ProducerId, TopicId, TopicName};
use streambus_protocol::topic_config::ConfigProblem;

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
        what: &'static str,
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
    Exhausted(&'static str),
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
}

/// What applying one log entry answers to its proposer, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The entry was Raft's own.
    Nothing,
    /// The command's answer.
    Command(Result<Outcome, RefusedReason>),
}
