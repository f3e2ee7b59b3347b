//! The parts that only a broker with peers has: the cluster listener, and the connections to other brokers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use streambus_consensus::config::{Bootstrap, FOUNDING_PATIENCE};
use streambus_consensus::peer_door::PeerDoor;
use streambus_protocol::ids::BrokerId;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::cluster::book::PeerBook;
use crate::cluster::door::ClusterDoor;
use crate::cluster::local::LocalBroker;
use crate::cluster::pool::{PeerPool, peer_limits};
use crate::cluster::raft_transport::PeerTransport;
use crate::config::BrokerConfig;
use crate::config::address::HostPort;
use crate::lifecycle::{Component, Lifecycle, Problem};
use crate::metrics::BrokerMetrics;
use crate::net::admission::Admission;
use crate::net::connection::ConnectionContext;
use crate::net::listener;
use crate::net::network::{Listener, Network};

/// The connections between this broker and others. They are there before the store opens, and end after everything that
/// uses them.
pub(super) struct Peers {
    pub(super) local: LocalBroker,
    pub(super) metadata: PeerDoor,
    /// What is behind the cluster listener.
    pub(super) door: Arc<ClusterDoor>,
    pub(super) pool: PeerPool,
    /// Where other brokers are told to connect.
    pub(super) advertised: HostPort,
    founders: BTreeMap<BrokerId, (String, u16)>,
    tasks: TaskTracker,
    /// Ends the connections also when a start is given up half way: their port must be free again.
    closing: DropGuard,
}

impl Peers {
    /// Serves the cluster listener: hellos at once, everything else when its part is there.
    pub(super) fn open(
        config: &BrokerConfig,
        network: Arc<dyn Network>,
        listener: Listener,
        address: SocketAddr,
        metrics: &Arc<BrokerMetrics>,
    ) -> Self {
        let me = config.broker.id;
        let (local, metadata) = (LocalBroker::new(me), PeerDoor::new(me));
        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        let door = Arc::new(ClusterDoor::new(local.clone(), metadata.clone(), Arc::clone(metrics)));
        let context = ConnectionContext {
            admission: Admission::new(peer_limits()),
            door: Arc::clone(&door) as _,
            draining: closing.clone(),
        };
        tasks.spawn(listener::accept_loop(listener, Arc::new(context), tasks.clone(), closing.clone()));
        let peers = config.cluster.peers.iter();
        let book = PeerBook::new(peers.map(|(broker, address)| (broker, address.clone())).collect());
        let hint = metadata.clone();
        let on_disconnect = move |broker, _lane| hint.peer_disconnected(broker);
        let pool = PeerPool::new(network, local.clone(), book, on_disconnect, tasks.clone(), closing.clone());
        let founders = config.cluster.peers.iter();
        Self {
            local,
            metadata,
            door,
            pool,
            advertised: config.cluster.advertised(me, address.port()),
            founders: founders.map(|(broker, at)| (broker, (at.host.clone(), at.port))).collect(),
            tasks,
            closing: closing.drop_guard(),
        }
    }

    pub(super) fn transport(&self) -> Arc<PeerTransport> {
        PeerTransport::new(self.pool.clone())
    }

    pub(super) fn bootstrap(&self) -> Bootstrap {
        Bootstrap::Peers {
            peers: self.founders.clone(),
            me: self.local.id(),
            advertised: (self.advertised.host.clone(), self.advertised.port),
            founding_patience: FOUNDING_PATIENCE,
        }
    }

    /// Tells health what the metadata node waits for, for as long as it is polled.
    pub(super) async fn report_progress(&self, lifecycle: &Lifecycle) -> std::convert::Infallible {
        let mut phases = self.metadata.progress();
        loop {
            let message = phases.borrow_and_update().to_string();
            lifecycle.report(Problem { component: Component::Cluster, message, blocks_ready: true });
            if phases.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Ends every connection in both directions.
    pub(super) async fn close(self) {
        self.closing.disarm().cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
