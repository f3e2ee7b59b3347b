//! A running metadata node: its disk, its part in Raft, and the images it publishes.

mod control_loop;
mod disk;
mod expulsion;
pub mod membership;
mod office;
mod propose;
mod read_index;
mod settle;
mod start;
mod takeover;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::RaftMetrics;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use parking_lot::Mutex;
use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::{BrokerId, DirectoryId};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use self::membership::NodeStatus;
use self::office::Office;

use crate::command::{Command, Incarnation};
use crate::config::ConsensusConfig;
use crate::controller::liveness::Heartbeat;
use crate::database::{BeforeSync, DatabaseSource};
use crate::error::{NotApplied, ProposeError, ReadIndexError, TransferError};
use crate::forward::Confirmation;
use crate::heartbeat::{HeartbeatAnswer, HeartbeatError};
use crate::identity::Identity;
use crate::image::ClusterImage;
use crate::network::{AddressBook, NoPeers, RaftTransport};
use crate::outcome::Outcome;
use crate::outcome_board::OutcomeBoard;
use crate::peer_door::PeerDoor;
use crate::peer_service::PeerService;
use crate::round_trip::RoundTrip;
use crate::snapshot::SnapshotCounts;
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
    /// Where the metadata is kept.
    pub database: DatabaseSource,
    /// Called before each sync of the log in a directory; none outside of tests that stall a disk.
    pub before_sync: Option<BeforeSync>,
}

impl ConsensusEnv {
    /// The surroundings of a node without peers.
    pub fn alone(broker: BrokerId, random: impl FnMut() -> [u8; 16] + Send + 'static) -> Self {
        Self {
            random: Box::new(random),
            transport: Arc::new(NoPeers),
            door: PeerDoor::new(broker),
            database: DatabaseSource::Directory,
            before_sync: None,
        }
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
    transport: Arc<dyn RaftTransport>,
    addresses: AddressBook,
    outcomes: OutcomeBoard,
    /// What this node knows as the controller; none while it is none.
    office: Mutex<Option<Office>>,
    /// What heartbeats asked the controller to propose.
    requested: Mutex<Vec<Command>>,
    /// Brokers whose connections broke since the control loop looked.
    disconnected: Mutex<BTreeSet<BrokerId>>,
    /// Voters and peers that did not answer when this node, without a controller, asked last.
    silent: Mutex<BTreeSet<BrokerId>>,
    /// Wakes the control loop.
    hint: Notify,
    began: Instant,
    closed: watch::Receiver<()>,
    /// Why this node must end although Raft runs.
    ended: watch::Sender<Option<String>>,
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
    /// Every node of the Raft group.
    pub nodes: Vec<NodeStatus>,
    /// This node.
    pub node: RaftId,
    /// The term of the vote that is on this node's disk.
    pub voted_term: u64,
    /// Index of the last entry in this node's log, also before it is on the disk.
    pub last_index: u64,
    /// Index of the last entry in this node's newest snapshot; zero before the first.
    pub snapshot_index: u64,
    /// Index of the last entry that this node's log has let go, because a snapshot holds it; zero before the first.
    pub purged_index: u64,
    /// Snapshots since this node was started.
    pub snapshots: SnapshotCounts,
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
            nodes: self.inner.nodes(),
            node: metrics.id,
            voted_term: metrics.vote.leader_id.term,
            last_index: metrics.last_log_index.unwrap_or(0),
            snapshot_index: metrics.snapshot.as_ref().map_or(0, |id| id.index),
            purged_index: metrics.purged.as_ref().map_or(0, |id| id.index),
            snapshots: self.inner.peers.snapshots.made(),
        }
    }

    /// The voters and configured peers that did not answer when this node asked last, which it does while it hears no
    /// controller that a majority answers. Empty while it does, and before it has asked.
    pub fn silent_brokers(&self) -> Vec<BrokerId> {
        self.inner.silent.lock().iter().copied().collect()
    }

    /// Registers the new life of a broker without peers, whose records are on the disk that the identity names.
    pub async fn register(&self) -> Result<BrokerEpoch, ProposeError> {
        self.register_disk(self.inner.identity.directory_id, true).await
    }

    /// Registers this broker's new life with the cluster and returns its epoch. It starts fenced. Call it once per
    /// start, when the broker can serve. `directory` is the disk of its records; `intact` is false when their recovery
    /// found damage or loss.
    pub async fn register_disk(&self, directory: DirectoryId, intact: bool) -> Result<BrokerEpoch, ProposeError> {
        let config = &self.inner.config;
        let command = Command::RegisterBroker {
            incarnation: self.inner.incarnation,
            endpoint: config.advertised.clone(),
            cluster: config.cluster_endpoint(),
            directory,
            intact,
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

    /// Proposes a command and waits at most `patience` for its outcome; on any node, the controller appends it. While
    /// there is no controller it tries again by itself; once the command may have been appended, it never does.
    ///
    /// After an outcome or a refusal, this node's image contains what the command did.
    pub async fn propose_within(&self, command: Command, patience: Duration) -> Result<Outcome, ProposeError> {
        self.inner.propose(command, patience).await
    }

    /// How far this node and its peers may be apart.
    pub fn round_trip(&self) -> RoundTrip {
        self.inner.config.tuning.round_trip
    }

    /// Waits until this node's image contains everything that was acknowledged anywhere before the call, and returns
    /// the index it is at. To be used before a decision that an old image would make wrong, such as deleting, and before an
    /// answer that something does not exist. The controller asks a quorum, once for all who ask at a time.
    pub async fn read_index(&self) -> Result<u64, ReadIndexError> {
        self.read_index_within(self.inner.config.tuning.propose).await
    }

    /// As [`MetadataNode::read_index`], for at most `patience`.
    pub async fn read_index_within(&self, patience: Duration) -> Result<u64, ReadIndexError> {
        self.inner.read_index(Confirmation::Quorum, patience).await
    }

    /// As [`MetadataNode::read_index_within`], without a round through the quorum: the controller answers while a quorum
    /// has answered it less than a lease ago. For lists and overviews, where what was true a lease ago does no harm, and for
    /// nothing that is denied or cannot be taken back: for less than a lease it may answer from before. So it is when a voter
    /// that had answered it was restarted, which forgets the lease, and helps to elect another; when it was taken over from
    /// because connections to it are refused although it runs; and on a machine whose monotonic clock stands still while it is
    /// suspended.
    pub async fn lease_read_within(&self, patience: Duration) -> Result<u64, ReadIndexError> {
        self.inner.read_index(Confirmation::Lease, patience).await
    }

    /// Tells the controller that this broker is alive, and hears whether it may serve. To be sent several times per
    /// session; a broker that is not heard for a session is fenced.
    pub async fn heartbeat(&self, beat: Heartbeat) -> Result<HeartbeatAnswer, HeartbeatError> {
        self.inner.heartbeat(beat).await
    }

    /// Hands the controller's office over, if this node has it, and says to whom. To be called before a planned stop.
    pub async fn transfer_controller(&self, patience: Duration) -> Result<BrokerId, TransferError> {
        self.inner.transfer_controller(patience).await
    }

    /// A hint that the connection to or from that broker broke. The node looks for itself.
    pub fn peer_disconnected(&self, broker: BrokerId) {
        self.inner.door.peer_disconnected(broker);
    }

    /// Waits until this node has stopped, or was removed from the cluster, and says why. A storage error stops it for
    /// good: the process should follow, because what is on disk can no longer be trusted to grow.
    pub async fn stopped(&self) -> String {
        let mut ended = self.inner.ended.subscribe();
        let removed = async move {
            loop {
                if let Some(reason) = ended.borrow_and_update().clone() {
                    return reason;
                }
                // The sender is as old as this node.
                if ended.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            biased;
            reason = removed => reason,
            reason = self.raft_stopped() => reason,
        }
    }

    async fn raft_stopped(&self) -> String {
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

    /// Why this node has stopped by itself, if it has: its disk failed, most likely. Also after [`Self::shutdown`], which is
    /// no such reason.
    pub fn failure(&self) -> Option<String> {
        match &self.inner.raft.metrics().borrow_watched().running_state {
            Ok(()) | Err(Fatal::Stopped) => None,
            Err(fatal @ (Fatal::StorageError(_) | Fatal::Panicked)) => Some(fatal.to_string()),
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

impl Inner {
    /// A hint: the control loop looks whether that broker's process is gone.
    pub(crate) fn note_disconnected(&self, broker: BrokerId) {
        self.disconnected.lock().insert(broker);
        self.hint.notify_one();
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
