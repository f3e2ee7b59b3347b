//! What is behind the cluster listener: the metadata group and, once it is there, replication.

use std::fmt;
use std::sync::{Arc, OnceLock};

use streambus_consensus::peer_door::PeerDoor;
use streambus_consensus::peer_service::PeerError;
use streambus_consensus::snapshot::SnapshotFileError;
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::error_code::ErrorCode;

use crate::cluster::local::LocalBroker;
use crate::cluster::pool::peer_limits;
use crate::cluster::replica_service::ReplicaService;
use crate::cluster::session::PeerSession;
use crate::metrics::BrokerMetrics;
use crate::net::door::{Door, FrameHandler, Opened};
use crate::net::limits::NetLimits;

/// What every connection of the cluster listener shares. It is there before the metadata node is: brokers that start
/// together have to hear one another first.
pub struct ClusterDoor {
    local: LocalBroker,
    metadata: PeerDoor,
    replicas: OnceLock<Arc<dyn ReplicaService>>,
    metrics: Arc<BrokerMetrics>,
    limits: NetLimits,
}

impl fmt::Debug for ClusterDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterDoor").field("local", &self.local).finish_non_exhaustive()
    }
}

impl ClusterDoor {
    /// A door to `metadata` on behalf of `local`.
    pub fn new(local: LocalBroker, metadata: PeerDoor, metrics: Arc<BrokerMetrics>) -> Self {
        Self { local, metadata, replicas: OnceLock::new(), metrics, limits: peer_limits() }
    }

    /// Serves replication from now on.
    pub fn attach_replicas(&self, replicas: Arc<dyn ReplicaService>) {
        let attached = self.replicas.set(replicas);
        debug_assert!(attached.is_ok(), "replication is attached once");
    }

    pub(super) fn local(&self) -> &LocalBroker {
        &self.local
    }

    pub(super) fn metadata(&self) -> &PeerDoor {
        &self.metadata
    }

    pub(super) fn limits(&self) -> &NetLimits {
        &self.limits
    }

    /// # Errors
    /// `NOT_READY` while this broker starts.
    pub(super) fn replicas(&self) -> Result<&Arc<dyn ReplicaService>, ErrorBody> {
        let starting = || {
            ErrorBody::new(ErrorCode::NotReady, format!("broker {} is starting: try again shortly", self.local.id()))
        };
        self.replicas.get().ok_or_else(starting)
    }

    /// A connection from `peer` has ended.
    pub(super) fn disconnected(&self, peer: streambus_protocol::ids::BrokerId, fetched: bool) {
        self.metadata.peer_disconnected(peer);
        if let Some(replicas) = self.replicas.get().filter(|_| fetched) {
            replicas.disconnected(peer);
        }
    }
}

impl Door for ClusterDoor {
    fn metrics(&self) -> &Arc<BrokerMetrics> {
        &self.metrics
    }

    fn is_for_clients(&self) -> bool {
        false
    }

    fn open(self: Arc<Self>, connection: Opened) -> Box<dyn FrameHandler> {
        Box::new(PeerSession::new(self, connection))
    }
}

/// The metadata group's refusals on the wire. Each says that nothing was done.
pub(super) fn peer_error(error: &PeerError) -> ErrorBody {
    let code = match error {
        PeerError::NotReady | PeerError::Stopped(_) => ErrorCode::NotReady,
        PeerError::Malformed(_) | PeerError::SnapshotRefused { source: SnapshotFileError::Damaged(_), .. } => {
            ErrorCode::MalformedRequest
        }
        PeerError::SnapshotRefused { source: SnapshotFileError::Unreadable(_), .. } => ErrorCode::StorageFailed,
        PeerError::NotMe { .. } => ErrorCode::WrongCluster,
        PeerError::SenderRemoved { .. } => ErrorCode::UnknownBroker,
    };
    ErrorBody::new(code, error.to_string())
}
