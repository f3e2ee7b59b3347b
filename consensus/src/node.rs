//! A running metadata node: its disk, its part in Raft, and the images it publishes.

mod propose;
mod start;

use std::sync::Arc;
use std::time::Duration;

use openraft::RaftMetrics;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::BrokerId;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::command::{ClusterEndpoint, Command, Incarnation};
use crate::config::ConsensusConfig;
use crate::error::{NotApplied, ProposeError};
use crate::identity::Identity;
use crate::image::ClusterImage;
use crate::network::{NoPeers, RaftTransport};
use crate::outcome::Outcome;
use crate::peer_door::PeerDoor;
use crate::peer_service::PeerService;
use crate::types::{Raft, RaftId, TypeConfig};

/// How long a stop waits for the database to close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// What a metadata node needs from its surroundings besides its configuration.
pub struct ConsensusEnv {
    /// 16 random bytes per call, for identities that must be unique.
    pub random: Box<dyn FnMut() -> [u8; 16] + Send>,
    /// How peers are reached.
    pub transport: Arc<dyn RaftTransport>,
    /// Where peers reach this node. The cluster listener serves it from before the start on.
    pub door: PeerDoor,
}

impl ConsensusEnv {
    /// The surroundings of a node without peers.
    pub fn alone(broker: BrokerId, random: impl FnMut() -> [u8; 16] + Send + 'static) -> Self {
        Self { random: Box::new(random), transport: Arc::new(NoPeers), door: PeerDoor::new(broker) }
    }
}

/// A running metadata node. Cheap to clone; all clones are the same node.
#[derive(Clone)]
pub struct MetadataNode {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    raft: Raft,
    identity: Identity,
    config: ConsensusConfig,
    incarnation: Incarnation,
    images: watch::Receiver<Arc<ClusterImage>>,
    pub(crate) peers: PeerService,
    door: PeerDoor,
    closed: watch::Receiver<()>,
}

/// Where a node stands in Raft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataStatus {
    /// The Raft term.
    pub term: u64,
    /// Index of the last applied entry; zero before the first.
    pub index: u64,
    /// The broker of the controller this node knows of.
    pub leader: Option<BrokerId>,
    /// True when this node is the controller.
    pub is_leader: bool,
}

impl MetadataNode {
    /// The newest applied state.
    pub fn image(&self) -> Arc<ClusterImage> {
        Arc::clone(&self.inner.images.borrow())
    }

    /// Every newest applied state; states in between are skipped by a slow reader.
    pub fn watch(&self) -> watch::Receiver<Arc<ClusterImage>> {
        self.inner.images.clone()
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// Where this node stands now.
    pub fn status(&self) -> MetadataStatus {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let node = |id: &RaftId| metrics.membership_config.membership().get_node(id).map(|node| node.broker);
        MetadataStatus {
            term: metrics.current_term,
            index: metrics.last_applied.as_ref().map_or(0, |id| id.index),
            leader: metrics.current_leader.as_ref().and_then(node),
            is_leader: metrics.state.is_leader(),
        }
    }

    /// Registers this broker's new life with the cluster and returns its epoch. Call it once per start, when the
    /// broker can serve.
    pub async fn register(&self) -> Result<BrokerEpoch, ProposeError> {
        let config = &self.inner.config;
        let command = Command::RegisterBroker {
            incarnation: self.inner.incarnation,
            endpoint: config.advertised.clone(),
            // A cluster of one has no cluster listener; its records are on the disk that the identity names.
            cluster: ClusterEndpoint { host: config.advertised.host.clone(), port: 0 },
            directory: self.inner.identity.directory_id,
            intact: true,
            version: config.version.clone(),
        };
        match self.propose(command).await? {
            Outcome::BrokerRegistered { epoch } => Ok(epoch),
            other => Err(NotApplied::Malformed(format!("a registration was answered with {other:?}")).into()),
        }
    }

    /// Proposes a command and waits for its outcome, for as long as the configuration says.
    pub async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        self.propose_within(command, self.inner.config.tuning.propose).await
    }

    /// Proposes a command and waits at most `patience` for its outcome. While there is no controller it tries again
    /// by itself; once the command may have been appended, it never does.
    pub async fn propose_within(&self, command: Command, patience: Duration) -> Result<Outcome, ProposeError> {
        propose::propose(&self.inner.raft, command, patience).await
    }

    /// A hint that the connection to or from that broker broke. The node looks for itself.
    pub fn peer_disconnected(&self, broker: BrokerId) {
        self.inner.door.peer_disconnected(broker);
    }

    /// Waits until this node has stopped and says why. A storage error stops it for good: the process should follow,
    /// because what is on disk can no longer be trusted to grow.
    pub async fn stopped(&self) -> String {
        let mut metrics = self.inner.raft.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_watched().running_state {
                return fatal.to_string();
            }
            // The sender is gone without a reason only when the core task panicked.
            if metrics.changed().await.is_err() {
                return running_error(&metrics.borrow_watched());
            }
        }
    }

    /// Stops this node; everything acknowledged is on disk already. On return its directory may be opened again.
    pub async fn shutdown(&self) {
        self.inner.door.detach();
        if let Err(e) = self.inner.raft.shutdown().await {
            tracing::warn!(error = %e, "the metadata node did not stop cleanly");
        }
        // openraft joins its core task only; the others let go of the database a moment later.
        let mut closed = self.inner.closed.clone();
        if timeout(CLOSE_PATIENCE, async { while closed.changed().await.is_ok() {} }).await.is_err() {
            tracing::warn!("the metadata database is still open after {CLOSE_PATIENCE:?}");
        }
    }
}

fn running_error(metrics: &RaftMetrics<TypeConfig>) -> String {
    match &metrics.running_state {
        Ok(()) => Fatal::<TypeConfig>::Panicked.to_string(),
        Err(fatal) => fatal.to_string(),
    }
}

#[cfg(test)]
mod tests;
