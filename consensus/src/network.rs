//! How a metadata node reaches its peers: a transport of ours, and openraft's network on top of it.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, Either, select};
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use streambus_protocol::ids::{BrokerId, ClusterId};
use tokio::time::Instant;

use crate::last_heard::LastHeard;
use crate::rpc::{Message, Route, Rpc, SnapshotHeader, decode, encode_request};
use crate::snapshot::SnapshotFile;
use crate::types::{RaftId, RaftNode, Snapshot, TypeConfig, Vote};

/// How long a follower may take to put entries on its disk and say so. They are sent again after that; a connection that
/// breaks says so earlier.
const ENTRIES_TTL: Duration = Duration::from_secs(5);

/// Whom to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The Raft node.
    pub id: RaftId,
    /// Where it was when it joined.
    pub node: RaftNode,
}

/// Traffic that must not wait for other traffic. A transport keeps one connection per lane and peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Entries and votes.
    Log,
    /// Heartbeats: a large append in front of one would cost the leader its lease.
    Heartbeat,
    /// Snapshots: long, and nobody waits for them.
    Snapshot,
}

/// Carries bytes between metadata nodes; the broker implements it over its cluster listener.
///
/// A request is delivered at most once per call and answered with the bytes that the [`PeerDoor`] of the other side
/// returned for it. A transport that fails says so: an invented answer, or one of an earlier request, breaks Raft.
/// `ttl` bounds the whole exchange.
///
/// [`PeerDoor`]: crate::peer_door::PeerDoor
pub trait RaftTransport: Send + Sync + 'static {
    /// One request and its answer.
    fn call(
        &self,
        peer: Peer,
        lane: Lane,
        rpc: Rpc,
        request: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;

    /// Sends `header` and then the snapshot in chunks; the other side hands them to
    /// [`PeerDoor::receive_snapshot`](crate::peer_door::PeerDoor::receive_snapshot) and installs it.
    fn send_snapshot(
        &self,
        peer: Peer,
        header: Bytes,
        snapshot: SnapshotFile,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;

    /// Hands a request of a broker's to the controller: a proposal, a heartbeat, a read. Answered by
    /// [`PeerDoor::forward`](crate::peer_door::PeerDoor::forward). The difference between
    /// [`TransportError::NotSent`] and every other failure decides whether a proposal may be made again.
    fn forward(&self, peer: Peer, request: Bytes, ttl: Duration) -> BoxFuture<'static, Result<Bytes, TransportError>>;

    /// Asks whoever listens at that address who it is, before anything else is known about it: it may belong to no
    /// cluster yet, or to another one. Answered by [`PeerDoor::handle_hello`](crate::peer_door::PeerDoor::handle_hello).
    fn hello(
        &self,
        host: String,
        port: u16,
        hello: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;

    /// Opens a connection to that address and closes it again.
    fn probe(&self, host: String, port: u16, ttl: Duration) -> BoxFuture<'static, Probe>;
}

/// What a connection attempt says about the process behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Somebody listens.
    Reachable,
    /// The machine answered that nobody listens: the process is gone.
    Refused,
    /// No answer: dead, cut off or slow. Only time can tell.
    Unknown,
}

/// Why a peer gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// There was no connection to send it on: the peer has certainly not seen the request.
    #[error("not sent: {0}")]
    NotSent(String),
    /// The connection broke while the request was under way: the peer may have seen it.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The other side is not who it should be, or does not take the request. It has done nothing with it.
    #[error("refused: {0}")]
    Refused(String),
}

/// The transport of a node that has no peers.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeers;

impl RaftTransport for NoPeers {
    fn call(
        &self,
        peer: Peer,
        _: Lane,
        _: Rpc,
        _: Bytes,
        _: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        Box::pin(async move { Err(no_transport(&peer)) })
    }

    fn send_snapshot(
        &self,
        peer: Peer,
        _: Bytes,
        _: SnapshotFile,
        _: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        Box::pin(async move { Err(no_transport(&peer)) })
    }

    fn forward(&self, peer: Peer, _: Bytes, _: Duration) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        Box::pin(async move { Err(no_transport(&peer)) })
    }

    fn hello(
        &self,
        host: String,
        port: u16,
        _: Bytes,
        _: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        Box::pin(async move { Err(TransportError::NotSent(format!("this node has no transport to {host}:{port}"))) })
    }

    fn probe(&self, _: String, _: u16, _: Duration) -> BoxFuture<'static, Probe> {
        Box::pin(async { Probe::Unknown })
    }
}

fn no_transport(peer: &Peer) -> TransportError {
    TransportError::NotSent(format!("this node has no transport to {}", peer.node))
}

/// Where brokers are reached: what is configured here is newer than what a membership says, which is where a node was
/// when it joined. The identity in each message guards against an address that belongs to somebody else by now.
#[derive(Clone, Debug, Default)]
pub(crate) struct AddressBook {
    configured: Arc<BTreeMap<BrokerId, (String, u16)>>,
}

impl AddressBook {
    pub(crate) fn new(configured: BTreeMap<BrokerId, (String, u16)>) -> Self {
        Self { configured: Arc::new(configured) }
    }

    /// The node with the address to use for it.
    pub(crate) fn locate(&self, node: &RaftNode) -> RaftNode {
        match self.configured.get(&node.broker) {
            Some((host, port)) => RaftNode { broker: node.broker, host: host.clone(), port: *port },
            None => node.clone(),
        }
    }
}

/// Makes openraft's clients.
pub(crate) struct Network {
    pub(crate) transport: Arc<dyn RaftTransport>,
    pub(crate) cluster: ClusterId,
    pub(crate) me: RaftId,
    pub(crate) addresses: AddressBook,
    pub(crate) heard: Arc<LastHeard>,
}

impl Network {
    fn client(&self, target: RaftId, node: &RaftNode, lane: Lane) -> PeerClient {
        let route = Route { cluster: self.cluster, from: self.me, to: target };
        let peer = Peer { id: target, node: self.addresses.locate(node) };
        PeerClient { transport: Arc::clone(&self.transport), route, peer, lane, heard: Arc::clone(&self.heard) }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerClient;

    async fn new_client(&mut self, target: RaftId, node: &RaftNode) -> PeerClient {
        self.client(target, node, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: RaftId, node: &RaftNode) -> PeerClient {
        self.client(target, node, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: RaftId, node: &RaftNode) -> PeerClient {
        self.client(target, node, Lane::Snapshot)
    }
}

/// openraft's view of one peer on one lane.
pub(crate) struct PeerClient {
    transport: Arc<dyn RaftTransport>,
    route: Route,
    peer: Peer,
    lane: Lane,
    heard: Arc<LastHeard>,
}

/// A failed exchange, before it is put into one of openraft's error types.
enum Failure {
    Transport(TransportError),
    Answer(crate::encoding::DecodeError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(e) => e.fmt(f),
            Self::Answer(e) => write!(f, "the answer does not decode: {e}"),
        }
    }
}

impl PeerClient {
    async fn call<A: Message>(
        &self,
        rpc: Rpc,
        action: RPCTypes,
        request: &impl Message,
        option: &RPCOption,
    ) -> Result<A, RPCError<TypeConfig>> {
        let ttl = self.ttl(rpc, option);
        let bytes = Bytes::from(encode_request(self.route, request));
        let call = self.transport.call(self.peer.clone(), self.lane, rpc, bytes, ttl);
        // The transport should keep to `ttl` itself; this makes sure.
        let answer = match tokio::time::timeout(ttl, call).await {
            Ok(answer) => answer.map_err(Failure::Transport),
            Err(_) => Err(Failure::Transport(TransportError::TimedOut(ttl))),
        };
        if answer.is_ok() {
            self.heard.node(self.peer.id, Instant::now());
        }
        let answer = answer.and_then(|bytes| decode(&bytes).map_err(Failure::Answer));
        answer.map_err(|failure| self.rpc_error(action, &failure))
    }

    /// How long an exchange may take. What openraft allows for entries is a heartbeat's time, and it ends nothing itself
    /// after that: a follower whose disk takes longer would be sent the same entries again and again, and one that is far
    /// away would never have them.
    fn ttl(&self, rpc: Rpc, option: &RPCOption) -> Duration {
        match (self.lane, rpc) {
            (Lane::Log, Rpc::Append) => ENTRIES_TTL.max(option.hard_ttl()),
            (Lane::Log | Lane::Heartbeat | Lane::Snapshot, _) => option.hard_ttl(),
        }
    }

    fn rpc_error(&self, action: RPCTypes, failure: &Failure) -> RPCError<TypeConfig> {
        match failure {
            Failure::Transport(TransportError::TimedOut(timeout)) => {
                RPCError::Timeout(Timeout { action, id: self.route.from, target: self.route.to, timeout: *timeout })
            }
            Failure::Answer(_) => RPCError::Network(NetworkError::from_string(failure)),
            Failure::Transport(_) => RPCError::Unreachable(Unreachable::from_string(failure)),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for PeerClient {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(Rpc::Append, RPCTypes::AppendEntries, &rpc, &option).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(Rpc::Vote, RPCTypes::Vote, &rpc, &option).await
    }

    /// Without this the default would grant every pre-vote unasked.
    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(Rpc::PreVote, RPCTypes::Vote, &rpc, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let header = SnapshotHeader { vote, meta: snapshot.meta };
        let header = Bytes::from(encode_request(self.route, &header));
        let ttl = option.soft_ttl();
        let send = self.transport.send_snapshot(self.peer.clone(), header, snapshot.snapshot, ttl);
        let failure = match select(send, Box::pin(cancel)).await {
            Either::Left((Ok(answer), _)) => match decode(&answer) {
                Ok(response) => return Ok(response),
                Err(e) => Failure::Answer(e),
            },
            Either::Left((Err(e), _)) => Failure::Transport(e),
            Either::Right((closed, _)) => return Err(StreamingError::Closed(closed)),
        };
        Err(StreamingError::from(self.rpc_error(RPCTypes::InstallSnapshot, &failure)))
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(Rpc::TransferLeader, RPCTypes::TransferLeader, &req, &option).await
    }
}
