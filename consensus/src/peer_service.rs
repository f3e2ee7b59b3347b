//! The receiving side of the messages between metadata nodes. The broker's cluster listener hands requests in.

use std::io;
use std::sync::Arc;

use openraft::errors::{Fatal, RaftError};
use openraft::raft::{AppendEntriesRequest, VoteRequest};

use crate::encoding::DecodeError;
use crate::identity::Identity;
use crate::rpc::{Rpc, SnapshotHeader, decode, decode_route, encode};
use crate::snapshot::{SnapshotFile, SnapshotSink, SnapshotStore};
use crate::types::{Raft, RaftId, Snapshot, TypeConfig};

/// Answers the requests of peers. Cheap to clone.
#[derive(Clone)]
pub struct PeerService {
    pub(crate) raft: Raft,
    pub(crate) identity: Identity,
    pub(crate) snapshots: Arc<SnapshotStore>,
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
    /// This node has stopped.
    #[error("this metadata node has stopped: {0}")]
    Stopped(String),
}

impl PeerService {
    /// Answers one request that a peer's [`RaftTransport::call`](crate::network::RaftTransport::call) sent.
    pub async fn call(&self, rpc: Rpc, request: &[u8]) -> Result<Vec<u8>, PeerError> {
        let body = self.accept(request)?;
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

    /// Installs a received snapshot; answers what the sender's transport returns.
    pub async fn install_snapshot(&self, header: &[u8], snapshot: SnapshotFile) -> Result<Vec<u8>, PeerError> {
        let header: SnapshotHeader = decode(self.accept(header)?)?;
        let snapshot = Snapshot { meta: header.meta, snapshot };
        let answer = self.raft.install_full_snapshot(header.vote, snapshot).await;
        answer.map(|answer| encode(&answer)).map_err(|e: Fatal<_>| PeerError::Stopped(e.to_string()))
    }

    fn accept<'a>(&self, request: &'a [u8]) -> Result<&'a [u8], PeerError> {
        let (route, body) = decode_route(request)?;
        if route.cluster != self.identity.cluster_id || route.to != self.identity.raft_id {
            return Err(PeerError::NotMe { me: self.identity.raft_id, cluster: self.identity.cluster_id });
        }
        Ok(body)
    }
}

fn stopped(error: RaftError<TypeConfig>) -> PeerError {
    PeerError::Stopped(error.to_string())
}
