//! A metadata snapshot on its way over real connections: a node that joins when the log's beginning is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use streambus_consensus::command::Command;
use streambus_consensus::config::{Bootstrap, ConsensusConfig, Tuning};
use streambus_consensus::database::DatabaseSource;
use streambus_consensus::node::{ConsensusEnv, MetadataNode};
use streambus_consensus::peer_door::PeerDoor;
use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::ids::{BrokerId, DirectoryId};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::book::PeerBook;
use super::door::ClusterDoor;
use super::local::LocalBroker;
use super::pool::{PeerPool, peer_limits};
use super::raft_transport::PeerTransport;
use crate::metrics::BrokerMetrics;
use crate::net::admission::Admission;
use crate::net::connection::ConnectionContext;
use crate::net::listener;
use crate::net::network::TcpNetwork;
use crate::random::Random;

const PATIENCE: Duration = Duration::from_secs(30);
/// More entries than are kept behind a snapshot and purged at once.
const ENTRIES: usize = 700;

/// A metadata node behind a cluster listener of its own.
struct Node {
    metadata: MetadataNode,
    metrics: Arc<BrokerMetrics>,
    _directory: tempfile::TempDir,
    _tasks: TaskTracker,
}

/// Starts broker `id`, whose listener is bound; `founder` is where broker 1 listens.
async fn start(id: u32, socket: TcpListener, founder: (String, u16)) -> Node {
    let me = BrokerId::new(id);
    let address = socket.local_addr().expect("bound");
    let (local, door, metrics) = (LocalBroker::new(me), PeerDoor::new(me), Arc::new(BrokerMetrics::new()));
    let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
    let context = ConnectionContext {
        admission: Admission::new(peer_limits()),
        door: Arc::new(ClusterDoor::new(local.clone(), door.clone(), Arc::clone(&metrics))),
        draining: closing.clone(),
    };
    tasks.spawn(listener::accept_loop(socket.into(), Arc::new(context), tasks.clone(), closing.clone()));
    let pool = PeerPool::new(Arc::new(TcpNetwork), local, PeerBook::default(), |_, _| {}, tasks.clone(), closing);
    let directory = tempfile::tempdir().expect("a directory");
    let (host, port) = (address.ip().to_string(), address.port());
    let endpoint = BrokerEndpoint { id: me, host: host.clone(), port: 1, rack: None };
    let mut config = ConsensusConfig::alone(directory.path().to_path_buf(), endpoint);
    config.bootstrap = Bootstrap::Peers {
        peers: BTreeMap::from([(BrokerId::new(1), founder)]),
        me,
        advertised: (host, port),
        founding_patience: Duration::ZERO,
    };
    config.tuning = Tuning { snapshot_entries: 50, kept_entries: 10, ..Tuning::default() };
    let random = Random::from_os();
    let env = ConsensusEnv {
        random: Box::new(move || random.next_id()),
        transport: PeerTransport::new(pool),
        door,
        database: DatabaseSource::Directory,
        before_sync: None,
    };
    let metadata = tokio::time::timeout(PATIENCE, MetadataNode::start(config, env)).await.expect("in time");
    let metadata = metadata.expect("a node");
    let node = metadata.clone();
    tasks.spawn(async move { node.control_loop().await });
    Node { metadata, metrics, _directory: directory, _tasks: tasks }
}

// Catches a snapshot that arrives cut, in another order, or not at all: the node would never have the state of the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_late_gets_the_state_as_a_snapshot() {
    let first = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let founder = ("127.0.0.1".to_owned(), first.local_addr().expect("bound").port());
    let one = start(1, first, founder.clone()).await;
    let broker = BrokerId::new(1);
    let broker_epoch = one.metadata.register_disk(DirectoryId::from_bytes([1; 16]), true).await.expect("registered");
    for _ in 0..ENTRIES {
        let command = Command::AllocateProducerIds { broker, broker_epoch, count: 1 };
        one.metadata.propose(command).await.expect("applied");
    }
    let second = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let two = start(2, second, founder).await;
    let reached = one.metadata.image();
    let mut images = two.metadata.watch();
    let caught_up = images.wait_for(|image| image.applied >= reached.applied);
    let image = tokio::time::timeout(PATIENCE, caught_up).await.expect("in time").expect("running").clone();
    assert_eq!((image.cluster_id, &image.brokers), (reached.cluster_id, &reached.brokers));
    let metrics = two.metrics.render().expect("metrics");
    let steps = "streambus_requests_total{api=\"raft_snapshot\",outcome=\"ok\"} ";
    let taken = metrics.lines().find_map(|line| line.strip_prefix(steps)).expect("a counter");
    assert!(taken.parse::<u64>().expect("a number") >= 3, "begin, a chunk and finish: {taken}");
    two.metadata.shutdown().await;
    one.metadata.shutdown().await;
}
