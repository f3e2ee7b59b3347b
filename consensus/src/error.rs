//! Errors of starting a node and of proposing to it.

use std::io;
use std::time::Duration;

use streambus_protocol::ids::{BrokerId, ClusterId, DirectoryId};

use crate::database::DatabaseError;
use crate::founding::FoundingRefused;
use crate::identity::IdentityError;
use crate::outcome::RefusedReason;
use crate::types::{RaftId, RaftNode};

/// Why a metadata node does not start. The process should say so and stop.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The identity of the data directory is refused.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The database cannot be opened.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A stored value or snapshot is damaged, or the file system failed.
    #[error("the cluster metadata cannot be used: {0}")]
    Storage(#[source] io::Error),
    /// The timings contradict each other.
    #[error("the metadata timings are not valid: {0}")]
    Config(#[from] openraft::ConfigError),
    /// Raft stopped while it started.
    #[error("the metadata node stopped while it started: {0}")]
    Stopped(String),
    /// The founders' set does not contain this node.
    #[error("raft node {0} is not among the configured founders")]
    NotAFounder(RaftId),
    /// The state could not be confirmed by a quorum in time.
    #[error("the cluster metadata was not recovered within {0:?}: is a majority of its voters reachable?")]
    NotRecovered(Duration),
    /// The peers, or what they replicated, belong to another cluster than this directory.
    #[error(
        "this directory belongs to cluster {directory}, the configured peers to cluster {replicated}; nothing was \
         changed: start with an empty directory to join cluster {replicated}, or with the peers of cluster {directory} \
         (without any, if it was a cluster of one)"
    )]
    OtherCluster {
        /// The directory's cluster.
        directory: ClusterId,
        /// The peers' cluster.
        replicated: ClusterId,
    },
    /// The disk was a cluster of one, and who the peers are is not known.
    #[error(
        "this directory is the only member of cluster {directory}, and broker(s) {} of the configured peers did not say \
         within {waited:?} whether they belong to another cluster; nothing was changed: start with an empty directory to \
         join the peers' cluster, or without peers to use this directory alone; to let the peers join it, start them with \
         empty directories at the same time",
        listed(silent)
    )]
    PeersSilent {
        /// The directory's cluster.
        directory: ClusterId,
        /// The peers that did not answer.
        silent: Vec<BrokerId>,
        /// How long they were asked.
        waited: Duration,
    },
    /// The configured peers and this disk do not go together.
    #[error(transparent)]
    Peers(#[from] FoundingRefused),
    /// A founder's broker id is also its Raft id, and the higher ones are for nodes that join later.
    #[error("broker {broker} cannot be among the peers that found a cluster: their ids must be below {end}")]
    FounderId {
        /// The broker.
        broker: BrokerId,
        /// The first id that is not possible.
        end: u64,
    },
    /// The disk belongs to a cluster with other voters, and this broker knows no peers.
    #[error("this disk belongs to a cluster of several brokers: start the broker with the cluster's peers")]
    PeersMissing,
    /// Another disk has taken this one's place.
    #[error(
        "raft node {raft}, which is this disk, was removed from the cluster, says broker {told_by}: it can never be \
         a member again; empty the metadata directory, so that it joins as a new one"
    )]
    Removed {
        /// The node.
        raft: RaftId,
        /// The member that says so.
        told_by: BrokerId,
    },
    /// The disk went back behind what it had confirmed.
    #[error(
        "the metadata log of raft node {raft}, which is this disk, ends at {last}, but it had confirmed more, says \
         broker {told_by}: the disk was restored from an old copy or lost what it said it had; empty the metadata \
         directory, so that it joins as a new one"
    )]
    LogLost {
        /// The node.
        raft: RaftId,
        /// The last index it still has.
        last: u64,
        /// The controller, to which it had confirmed more.
        told_by: BrokerId,
    },
    /// Another process serves under this broker's id.
    #[error(
        "broker id {broker} is taken: the broker at {address} with directory {directory} has been in service under it for \
         the {waited:?} for which this broker's empty directory has waited to join; nothing was changed: give this broker an \
         id of its own (broker.id, and its entry in the peers), or stop the other one and start this one again"
    )]
    BrokerIdTaken {
        /// The id.
        broker: BrokerId,
        /// Where the other broker reaches others.
        address: String,
        /// The disk of its records.
        directory: DirectoryId,
        /// For how long.
        waited: Duration,
    },
    /// The new cluster could not be given its identity.
    #[error("the new cluster could not be founded: {0}")]
    Founding(#[source] ProposeError),
}

fn listed(brokers: &[BrokerId]) -> String {
    let names: Vec<String> = brokers.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// Why a proposal has no outcome to report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Certainly not applied: safe to propose again, here or elsewhere.
    #[error("not applied: {0}")]
    NotApplied(#[from] NotApplied),
    /// May have been applied, or may yet be. Never report it as failed; proposing the same command again is safe.
    #[error("the outcome is unknown: {0}")]
    Unknown(#[from] UnknownOutcome),
    /// Applied as a refusal: the state does not allow it.
    #[error("refused: {0}")]
    Refused(#[from] RefusedReason),
}

/// Why a command was certainly not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotApplied {
    /// Another node is the controller: propose there.
    #[error("the controller is {node} (raft node {id})")]
    OtherController {
        /// Its Raft node.
        id: RaftId,
        /// Where it is.
        node: RaftNode,
    },
    /// No controller was found before the deadline.
    #[error("the cluster metadata has no controller now")]
    NoController,
    /// The command is above the size limit, or would not be readable again.
    #[error("the command cannot be encoded: {0}")]
    Malformed(String),
}

/// Why an outcome is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownOutcome {
    /// The deadline passed after the command was handed over.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// A change of controller overtook the command.
    #[error("the controller changed meanwhile")]
    ControllerChanged,
    /// The node stopped.
    #[error("the metadata node stopped: {0}")]
    Stopped(String),
    /// The exchange with the controller broke, or its answer could not be read.
    #[error("the exchange with the controller broke: {0}")]
    Exchange(String),
    /// The command is in the log, but a snapshot brought this node past it, so what it answered is not known here.
    #[error("the command was committed, and a snapshot overtook its answer")]
    Overtaken,
}

/// Why a read index could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadIndexError {
    /// No controller confirmed by a quorum answered.
    #[error("no controller confirmed the state within {0:?}")]
    NoController(Duration),
    /// This node has not applied that far.
    #[error("the metadata here is at index {applied}, the cluster's is at {index}")]
    Behind {
        /// What a reader has to see.
        index: u64,
        /// What this node has applied.
        applied: u64,
    },
    /// The node stopped.
    #[error("the metadata node stopped: {0}")]
    Stopped(String),
}

/// Why the controller's office was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// This node does not have it.
    #[error("this broker is not the controller")]
    NotController,
    /// No other node that votes is there.
    #[error("no other broker can be the controller now")]
    NobodyElse,
    /// Nobody took it in time; this node may still have it.
    #[error("nobody took the office within {0:?}")]
    NotTaken(Duration),
    /// The node stopped.
    #[error("the metadata node stopped: {0}")]
    Stopped(String),
}
