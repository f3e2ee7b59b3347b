//! The receiving side of the messages between metadata nodes. The broker's cluster listener hands requests in.
//!
//! Raft takes what it is handed for true: bytes that it cannot install end this node. So whatever arrives is proven here,
//! where the sender still gets an answer.

use std::io;
use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{Fatal, RaftError};
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::blocking;
use crate::encoding::DecodeError;
use crate::hello::Place;
use crate::identity::Identity;
use crate::image::ClusterImage;
use crate::last_heard::LastHeard;
use crate::rpc::{Route, Rpc, SnapshotHeader, decode, decode_route, encode};
use crate::snapshot::{SnapshotFile, SnapshotFileError, SnapshotSink, SnapshotStore};
use crate::types::{Raft, RaftId, Snapshot, TypeConfig};

/// Answers the requests of peers. Cheap to clone.
#[derive(Clone)]
pub struct PeerService {
    pub(crate) raft: Raft,
    pub(crate) identity: Identity,
    pub(crate) snapshots: Arc<SnapshotStore>,
    pub(crate) images: watch::Receiver<Arc<ClusterImage>>,
    pub(crate) heard: Arc<LastHeard>,
}

/// Why a peer's request has no answer. The transport reports all of them as refused; it never invents an answer.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// This node has not started, or has stopped; it has done nothing with the request.
    #[error("this metadata node is not running yet, or no more: try again")]
    NotReady,
    /// The bytes are not a message.
    #[error("the request does not decode: {0}")]
    Malformed(#[from] DecodeError),
    /// The request is meant for another node or another cluster.
    #[error("this is raft node {me} of cluster {cluster}, the request is for another")]
    NotMe {
        /// This node.
        me: RaftId,
        /// Its cluster.
        cluster: streambus_protocol::ids::ClusterId,
    },
    /// The sender is no member of the cluster any more.
    #[error("raft node {from} was removed from the cluster")]
    SenderRemoved {
        /// Who sent the request.
        from: RaftId,
    },
    /// The snapshot is no good. It may be sent again.
    #[error("the metadata snapshot that raft node {from} sent is refused: {source}")]
    SnapshotRefused {
        /// Who sent it.
        from: RaftId,
        /// What is wrong with it.
        source: SnapshotFileError,
    },
    /// This node has stopped.
    #[error("this metadata node has stopped: {0}")]
    Stopped(String),
}

impl PeerService {
    /// Answers one request that a peer's [`RaftTransport::call`](crate::network::RaftTransport::call) sent.
    pub async fn call(&self, rpc: Rpc, request: &[u8]) -> Result<Vec<u8>, PeerError> {
        let (route, body) = decode_route(request)?;
        self.check_route(&route)?;
        match rpc {
            Rpc::Append => self.heard.leader(route.from, Instant::now()),
            Rpc::Vote | Rpc::PreVote | Rpc::TransferLeader | Rpc::Snapshot => {
                self.heard.node(route.from, Instant::now())
            }
        }
        match rpc {
            Rpc::Append => {
                let request: AppendEntriesRequest<TypeConfig> = decode(body)?;
                self.raft.append_entries(request).await.map(|answer| encode(&answer)).map_err(stopped)
            }
            Rpc::Vote => {
                let request: VoteRequest<TypeConfig> = decode(body)?;
                self.raft.vote(request).await.map(|answer| encode(&answer)).map_err(stopped)
            }
            Rpc::PreVote => {
                let request: VoteRequest<TypeConfig> = decode(body)?;
                self.raft.pre_vote(request).await.map(|answer| encode(&answer)).map_err(stopped)
            }
            Rpc::TransferLeader => {
                let answer = self.raft.handle_transfer_leader(decode(body)?).await;
                answer.map(|answer| encode(&answer)).map_err(|e| PeerError::Stopped(e.to_string()))
            }
            Rpc::Snapshot => {
                let found = (Rpc::Snapshot as u8).to_string();
                Err(PeerError::Malformed(DecodeError::Invalid { what: "request without its snapshot", found }))
            }
        }
    }

    /// Somewhere to put a snapshot's chunks. Blocking.
    pub fn receive_snapshot(&self) -> io::Result<SnapshotSink> {
        self.snapshots.receive()
    }

    /// Installs a received snapshot, if it is one; answers what the sender's transport returns.
    pub async fn install_snapshot(&self, header: &[u8], snapshot: SnapshotFile) -> Result<Vec<u8>, PeerError> {
        let (route, body) = decode_route(header)?;
        self.check_route(&route)?;
        self.heard.leader(route.from, Instant::now());
        let header: SnapshotHeader = decode(body)?;
        let (store, announced, received) = (Arc::clone(&self.snapshots), header.meta.clone(), snapshot.clone());
        let proven = blocking::spawn(move || store.prove(&announced, &received)).await;
        if let Err(source) = proven.map_err(|_interrupted| PeerError::NotReady)? {
            let refused = PeerError::SnapshotRefused { from: route.from, source };
            tracing::warn!(
                error = %refused,
                "nothing was changed; if this goes on, restart the broker that sends it, which proves its snapshot at a start"
            );
            return Err(refused);
        }
        let snapshot = Snapshot { meta: header.meta, snapshot };
        let answer = self.raft.install_full_snapshot(header.vote, snapshot).await;
        answer.map(|answer| encode(&answer)).map_err(|e: Fatal<_>| PeerError::Stopped(e.to_string()))
    }

    /// Refuses a message for somebody else, and one from a node that was removed: nobody tells such a node, so it
    /// may campaign for ever.
    pub(crate) fn check_route(&self, route: &Route) -> Result<(), PeerError> {
        let Identity { cluster_id, raft_id, .. } = self.identity;
        if route.cluster != cluster_id || route.to != raft_id {
            return Err(PeerError::NotMe { me: raft_id, cluster: cluster_id });
        }
        match self.place_of(route.from) {
            Place::Removed => Err(PeerError::SenderRemoved { from: route.from }),
            Place::Member | Place::Unknown | Place::LogLost => Ok(()),
        }
    }

    /// What this node knows of a Raft id. Ids are never used twice, so one that a committed membership lacks although
    /// it was given out before is gone for ever.
    pub(crate) fn place_of(&self, id: RaftId) -> Place {
        let (joined, newer) = {
            let image = self.images.borrow();
            let node = image.nodes.get(&id).map(|node| node.broker);
            let newer = node.is_some_and(|broker| image.nodes.range(id..).any(|(n, i)| *n > id && i.broker == broker));
            let given_out = id.get().checked_sub(RaftId::JOINED_MIN.get());
            // Not applied so far, or still waiting to be let in.
            let unknown = given_out.is_some_and(|index| index >= image.applied || node.is_some());
            (unknown, newer)
        };
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let (effective, committed) = (&metrics.membership_config, &metrics.committed_membership_config);
        if effective.membership().get_node(&id).is_some() || committed.membership().get_node(&id).is_some() {
            return Place::Member;
        }
        if committed.log_id().is_none() || (joined && !newer) { Place::Unknown } else { Place::Removed }
    }
}

fn stopped(error: RaftError<TypeConfig>) -> PeerError {
    PeerError::Stopped(error.to_string())
}
