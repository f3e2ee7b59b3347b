//! What this broker says about itself to others. It grows while the broker starts: a cluster, a Raft node, an epoch.

use std::sync::Arc;

use parking_lot::RwLock;
use streambus_protocol::api::peer::{PeerHandshakeRequest, PeerLane};
use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::{BrokerId, ClusterId};

use crate::native::SOFTWARE_VERSION;

/// This broker as its peers see it. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct LocalBroker {
    broker: BrokerId,
    standing: Arc<RwLock<Standing>>,
}

/// What a broker has become so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its cluster.
    pub cluster_id: Option<ClusterId>,
    /// Its node in the metadata group.
    pub raft_id: Option<u64>,
    /// The epoch of its registration.
    pub epoch: Option<BrokerEpoch>,
}

impl LocalBroker {
    /// A broker that belongs to no cluster yet.
    pub fn new(broker: BrokerId) -> Self {
        Self { broker, standing: Arc::default() }
    }

    /// The broker.
    pub fn id(&self) -> BrokerId {
        self.broker
    }

    /// What it has become so far.
    pub fn standing(&self) -> Standing {
        *self.standing.read()
    }

    /// It belongs to a cluster now.
    pub fn joined(&self, cluster_id: ClusterId, raft_id: u64) {
        let mut standing = self.standing.write();
        debug_assert!(
            standing.cluster_id.is_none_or(|known| known == cluster_id),
            "a broker changes its cluster never"
        );
        standing.cluster_id = Some(cluster_id);
        standing.raft_id = Some(raft_id);
    }

    /// It has registered.
    pub fn registered(&self, epoch: BrokerEpoch) {
        self.standing.write().epoch = Some(epoch);
    }

    pub(crate) fn handshake(&self, expected: Option<BrokerId>, lane: PeerLane) -> PeerHandshakeRequest {
        let Standing { cluster_id, raft_id, epoch } = self.standing();
        PeerHandshakeRequest {
            cluster_id,
            broker_id: self.broker,
            expected,
            lane,
            raft_id,
            broker_epoch: epoch,
            software_version: SOFTWARE_VERSION.to_owned(),
        }
    }
}
