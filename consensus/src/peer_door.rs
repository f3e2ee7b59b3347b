//! The door through which peers reach this node: it exists before the node does.
//!
//! A broker opens its cluster listener first, because brokers that start together have to hear one another before
//! any of them can go on. Until a node is attached the door knows what its disk is and nothing else, and refuses
//! everything that only a running node can answer.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use streambus_protocol::ids::BrokerId;
use tokio::sync::watch;

use crate::encoding::DecodeError;
use crate::founding::StartPhase;
use crate::hello::{Hello, HelloAnswer, Introduction, Place, Standing, Wish};
use crate::limits::HELLO_BYTES_MAX;
use crate::node::Inner;
use crate::peer_service::PeerError;
use crate::rpc::{Rpc, decode, encode};
use crate::snapshot::{SnapshotFile, SnapshotSink};

/// Takes what a broker's cluster listener receives for its metadata node. Cheap to clone; all clones are one door.
#[derive(Clone)]
pub struct PeerDoor {
    room: Arc<Room>,
}

struct Room {
    broker: BrokerId,
    state: Mutex<State>,
    progress: watch::Sender<StartPhase>,
}

struct State {
    standing: Standing,
    founders: BTreeSet<BrokerId>,
    /// Weak: the listener may outlive the node, and must not keep its database open.
    node: Weak<Inner>,
}

impl PeerDoor {
    /// A door for the node of `broker`, which is not there yet.
    pub fn new(broker: BrokerId) -> Self {
        let state = State { standing: Standing::Opening, founders: BTreeSet::new(), node: Weak::new() };
        let progress = watch::Sender::new(StartPhase::Opening);
        Self { room: Arc::new(Room { broker, state: Mutex::new(state), progress }) }
    }

    /// The broker behind this door.
    pub fn broker(&self) -> BrokerId {
        self.room.broker
    }

    /// How far the node's start is, and what it waits for.
    pub fn progress(&self) -> watch::Receiver<StartPhase> {
        self.room.progress.subscribe()
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
    pub async fn forward(&self, request: &[u8]) -> Result<Vec<u8>, PeerError> {
        self.node()?.answer_forwarded(request).await
    }

    /// Answers a request that a peer's [`RaftTransport::hello`](crate::network::RaftTransport::hello) sent.
    pub async fn handle_hello(&self, hello: &[u8]) -> Result<Vec<u8>, PeerError> {
        if hello.len() > HELLO_BYTES_MAX {
            let (found, max) = (hello.len() as u64, HELLO_BYTES_MAX as u64);
            return Err(DecodeError::AboveLimit { what: "hello bytes", found, max }.into());
        }
        let hello: Hello = decode(hello)?;
        let answer: HelloAnswer = self.introduce(&hello).await;
        Ok(encode(&answer))
    }

    /// A hint: the connection to or from that broker broke. It decides nothing; the node looks for itself.
    pub fn peer_disconnected(&self, broker: BrokerId) {
        if let Ok(node) = self.node() {
            node.note_disconnected(broker);
        }
    }

    async fn introduce(&self, hello: &Hello) -> HelloAnswer {
        let me = self.room.broker;
        if hello.to != me {
            return Err(format!("this is broker {me}, not broker {}: correct the peers' addresses", hello.to));
        }
        if hello.from == me {
            return Err(format!("broker {me} runs here: another process uses the same broker id"));
        }
        let (node, standing) = {
            let state = self.room.state.lock();
            let founding = !matches!(state.standing, Standing::Opening | Standing::Member(_));
            if founding && hello.founders != state.founders {
                let (here, there) = (&state.founders, &hello.founders);
                return Err(format!("the configured peers differ: {here:?} here, {there:?} at broker {}", hello.from));
            }
            (state.node.upgrade(), state.standing)
        };
        let Some(node) = node else {
            return Ok(Introduction { broker: me, standing, place: Place::Unknown, joined: None });
        };
        let standing = node.standing(standing);
        let place = hello.disk.map_or(Place::Unknown, |disk| node.place_of(&disk));
        let joined = match &hello.wish {
            Wish::Join { cluster, directory, host, port } if standing == Standing::Member(*cluster) => {
                Some(node.give_raft_id(hello.from, *directory, host.clone(), *port).await)
            }
            Wish::Join { .. } | Wish::Nothing => None,
        };
        Ok(Introduction { broker: me, standing, place, joined })
    }

    pub(crate) fn expect_founders(&self, founders: BTreeSet<BrokerId>) {
        self.room.state.lock().founders = founders;
    }

    /// From now on the disk is this. Whoever asked before was answered before.
    pub(crate) fn stand(&self, standing: Standing) {
        self.room.state.lock().standing = standing;
    }

    pub(crate) fn report(&self, phase: StartPhase) {
        self.room.progress.send_if_modified(|current| {
            let changed = *current != phase;
            if changed {
                tracing::info!(broker = %self.room.broker, "metadata: {phase}");
                *current = phase;
            }
            changed
        });
    }

    pub(crate) fn attach(&self, node: &Arc<Inner>) {
        self.room.state.lock().node = Arc::downgrade(node);
    }

    pub(crate) fn detach(&self) {
        let mut state = self.room.state.lock();
        state.node = Weak::new();
        state.standing = Standing::Opening;
    }

    fn node(&self) -> Result<Arc<Inner>, PeerError> {
        self.room.state.lock().node.upgrade().ok_or(PeerError::NotReady)
    }
}
