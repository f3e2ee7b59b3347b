//! The door through which peers reach this node: it exists before the node does.
//!
//! A broker opens its cluster listener first, because brokers that start together have to hear one another before
//! any of them can go on. Until a node is attached the door knows who it stands for and nothing else, and refuses
//! everything that only a running node can answer.

use std::io;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use streambus_protocol::ids::BrokerId;

use crate::node::Inner;
use crate::peer_service::PeerError;
use crate::rpc::Rpc;
use crate::snapshot::{SnapshotFile, SnapshotSink};

/// Takes what a broker's cluster listener receives for its metadata node. Cheap to clone; all clones are one door.
#[derive(Clone)]
pub struct PeerDoor {
    room: Arc<Room>,
}

struct Room {
    broker: BrokerId,
    /// Weak: the listener may outlive the node, and must not keep its database open.
    node: Mutex<Weak<Inner>>,
}

impl PeerDoor {
    /// A door for the node of `broker`, which is not there yet.
    pub fn new(broker: BrokerId) -> Self {
        Self { room: Arc::new(Room { broker, node: Mutex::new(Weak::new()) }) }
    }

    /// The broker behind this door.
    pub fn broker(&self) -> BrokerId {
        self.room.broker
    }

    /// Answers one request that a peer's [`RaftTransport::call`](crate::network::RaftTransport::call) sent.
    pub async fn call(&self, rpc: Rpc, request: &[u8]) -> Result<Vec<u8>, PeerError> {
        self.node()?.peers.call(rpc, request).await
    }

    /// Somewhere to put the chunks of a snapshot that a peer sends. Blocking.
    pub fn receive_snapshot(&self) -> Result<SnapshotSink, PeerError> {
        self.node()?.peers.receive_snapshot().map_err(|e: io::Error| PeerError::Stopped(e.to_string()))
    }

    /// Installs a received snapshot; answers what the sender's transport returns.
    pub async fn install_snapshot(&self, header: &[u8], snapshot: SnapshotFile) -> Result<Vec<u8>, PeerError> {
        self.node()?.peers.install_snapshot(header, snapshot).await
    }

    /// Answers a request that a peer's [`RaftTransport::forward`](crate::network::RaftTransport::forward) sent.
    pub async fn forward(&self, _request: &[u8]) -> Result<Vec<u8>, PeerError> {
        self.node()?;
        Err(PeerError::NotReady)
    }

    /// Answers a request that a peer's [`RaftTransport::hello`](crate::network::RaftTransport::hello) sent.
    pub async fn handle_hello(&self, _hello: &[u8]) -> Result<Vec<u8>, PeerError> {
        Err(PeerError::NotReady)
    }

    /// A hint: the connection to or from that broker broke. It decides nothing; the node looks for itself.
    pub fn peer_disconnected(&self, _broker: BrokerId) {}

    pub(crate) fn attach(&self, node: &Arc<Inner>) {
        *self.room.node.lock() = Arc::downgrade(node);
    }

    pub(crate) fn detach(&self) {
        *self.room.node.lock() = Weak::new();
    }

    fn node(&self) -> Result<Arc<Inner>, PeerError> {
        self.room.node.lock().upgrade().ok_or(PeerError::NotReady)
    }
}
