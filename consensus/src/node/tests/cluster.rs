//! Brokers of one process, each with its own disk, and what the tests ask of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::{Condvar, Mutex};
use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::{BrokerId, DirectoryId, TopicId, TopicName};
use streambus_protocol::timestamp::Timestamp;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::command::{Assignment, ClusterEndpoint, Command, Incarnation};
use crate::config::{Bootstrap, ConsensusConfig, Tuning};
use crate::database::{DatabaseError, DatabaseSource};
use crate::error::StartError;
use crate::founding::StartPhase;
use crate::image::ClusterImage;
use crate::in_process::InProcessNetwork;
use crate::node::{ConsensusEnv, MetadataNode};
use crate::outcome::Outcome;
use crate::peer_door::PeerDoor;
use crate::types::RaftId;

/// No test waits longer for anything; each wait is for an event.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn broker(n: u32) -> BrokerId {
    BrokerId::new(n)
}

pub(super) fn endpoint(id: u32) -> BrokerEndpoint {
    BrokerEndpoint { id: BrokerId::new(id), host: "localhost".to_owned(), port: 9092, rack: None }
}

/// A broker that always serves, so that topics can be created whatever happens to the others.
pub(super) const HOST: u32 = 99;

/// A topic whose only replica is on broker `on`.
pub(super) fn create(name: &str, id: u128, on: u32) -> Command {
    Command::CreateTopic {
        name: TopicName::new(name).unwrap(),
        id: TopicId::from_bytes(id.to_be_bytes()),
        partitions: vec![Assignment { replicas: vec![BrokerId::new(on)] }],
        config: BTreeMap::new(),
        at: Timestamp::from_millis(1),
    }
}

/// Holds up one disk's syncs.
#[derive(Clone, Default)]
pub(super) struct Stall {
    stalled: Arc<(Mutex<bool>, Condvar)>,
}

impl Stall {
    pub(super) fn set(&self, stalled: bool) {
        *self.stalled.0.lock() = stalled;
        self.stalled.1.notify_all();
    }

    fn pass(&self) {
        let mut stalled = self.stalled.0.lock();
        while *stalled {
            self.stalled.1.wait(&mut stalled);
        }
    }
}

/// Clusters of this process so far.
static CLUSTERS: AtomicU8 = AtomicU8::new(0);

/// The start of a broker's process.
pub(super) type Start = BoxFuture<'static, Result<MetadataNode, StartError>>;

/// A cluster that is being tested.
pub(super) struct Cluster {
    pub(super) network: InProcessNetwork,
    pub(super) nodes: BTreeMap<u32, MetadataNode>,
    pub(super) doors: BTreeMap<u32, PeerDoor>,
    pub(super) stalls: BTreeMap<u32, Stall>,
    pub(super) tuning: Tuning,
    pub(super) patience: Duration,
    founders: Vec<u32>,
    data: tempfile::TempDir,
    lives: u8,
    /// Two clusters draw different ids.
    number: u8,
    /// The control loops, as a broker runs them.
    loops: JoinSet<()>,
}

impl Drop for Cluster {
    /// A test that fails while a disk is stalled must end all the same.
    fn drop(&mut self) {
        for stall in self.stalls.values() {
            stall.set(false);
        }
    }
}

impl Cluster {
    /// Three founders, none of them started.
    pub(super) fn new() -> Self {
        Self {
            network: InProcessNetwork::new(),
            nodes: BTreeMap::new(),
            doors: BTreeMap::new(),
            stalls: BTreeMap::new(),
            // Nobody sends heartbeats here.
            tuning: Tuning { session: PATIENCE * 10, ..Tuning::default() },
            patience: Duration::from_secs(10),
            founders: vec![1, 2, 3],
            data: tempfile::tempdir().unwrap(),
            lives: 0,
            number: CLUSTERS.fetch_add(1, Ordering::Relaxed),
            loops: JoinSet::new(),
        }
    }

    /// Three founders, started together.
    pub(super) async fn started() -> Self {
        let mut cluster = Self::new();
        cluster.start(&[1, 2, 3]).await;
        cluster
    }

    pub(super) fn directory(&self, n: u32) -> std::path::PathBuf {
        self.data.path().join(n.to_string())
    }

    pub(super) fn config(&self, n: u32) -> ConsensusConfig {
        let mut config = ConsensusConfig::alone(self.directory(n), endpoint(n));
        config.tuning = self.tuning;
        config.bootstrap = Bootstrap::Peers {
            peers: self.founders.iter().map(|n| (broker(*n), InProcessNetwork::address(broker(*n)))).collect(),
            me: broker(n),
            advertised: InProcessNetwork::address(broker(n)),
            founding_patience: self.patience,
        };
        config
    }

    /// The start of a broker's process. Nothing happens before it is polled; dropping it kills the process.
    pub(super) fn begin(&mut self, n: u32) -> Start {
        let config = self.config(n);
        self.begin_with(n, config)
    }

    pub(super) fn begin_with(&mut self, n: u32, config: ConsensusConfig) -> Start {
        self.lives += 1;
        let (life, cluster) = (self.lives, self.number);
        let door = PeerDoor::new(broker(n));
        self.doors.insert(n, door.clone());
        self.network.attach(door.clone());
        let stall = self.stalls.entry(n).or_default().clone();
        let transport = self.network.transport(broker(n));
        Box::pin(async move {
            loop {
                let mut drawn = 0;
                let random = move || {
                    drawn += 1;
                    let mut bytes = [life; 16];
                    bytes[0] = drawn;
                    bytes[1] = cluster;
                    bytes
                };
                let stall = stall.clone();
                let env = ConsensusEnv {
                    random: Box::new(random),
                    transport: Arc::clone(&transport),
                    door: door.clone(),
                    database: DatabaseSource::Directory,
                    before_sync: Some(Arc::new(move || stall.pass())),
                };
                match MetadataNode::start(config.clone(), env).await {
                    // The former life's tasks let go of the database a moment after they were dropped.
                    Err(StartError::Database(DatabaseError::InUse { .. })) => tokio::task::yield_now().await,
                    other => return other,
                }
            }
        })
    }

    /// Starts these brokers together and waits until all of them run.
    pub(super) async fn start(&mut self, which: &[u32]) {
        let starts: Vec<_> = which.iter().map(|n| self.begin(*n)).collect();
        let started = timeout(PATIENCE, futures::future::join_all(starts)).await.expect("the brokers do not start");
        for (n, node) in which.iter().zip(started) {
            self.run(*n, node.unwrap_or_else(|e| panic!("broker {n}: {e}")));
        }
    }

    /// Takes a started broker in, and runs its control loop.
    pub(super) fn run(&mut self, n: u32, node: MetadataNode) {
        let looping = node.clone();
        self.loops.spawn(async move { looping.control_loop().await });
        self.nodes.insert(n, node);
    }

    /// Ends a broker's process.
    pub(super) async fn kill(&mut self, n: u32) {
        self.network.detach(broker(n));
        if let Some(node) = self.nodes.remove(&n) {
            node.shutdown().await;
        }
    }

    /// Empties the disk of a broker that does not run.
    pub(super) fn wipe(&self, n: u32) {
        assert!(!self.nodes.contains_key(&n));
        std::fs::remove_dir_all(self.directory(n)).unwrap();
    }

    pub(super) fn running(&self) -> Vec<u32> {
        self.nodes.keys().copied().collect()
    }

    /// The broker that is the controller in the view of all of `among`.
    pub(super) async fn controller(&self, among: &[u32]) -> u32 {
        let mut metrics: Vec<_> = among.iter().map(|n| self.nodes[n].inner.raft.metrics()).collect();
        let agree = async {
            loop {
                let leaders: Vec<_> = among.iter().map(|n| self.nodes[n].status().leader.map(BrokerId::get)).collect();
                let first = leaders.first().copied().flatten();
                let agreed = first.filter(|leader| leaders.iter().all(|l| *l == Some(*leader)));
                if let Some(leader) = agreed.filter(|leader| among.contains(leader)) {
                    return leader;
                }
                let changes: Vec<_> = metrics.iter_mut().map(|m| Box::pin(m.changed())).collect();
                futures::future::select_all(changes).await.0.unwrap();
            }
        };
        timeout(PATIENCE, agree).await.expect("no controller")
    }

    /// Waits until broker `n`'s image is at `index`.
    pub(super) async fn reached(&self, n: u32, index: u64) -> Arc<ClusterImage> {
        self.image(n, |image| image.applied >= index).await
    }

    /// Waits until broker `n`'s image is as wanted.
    pub(super) async fn image(&self, n: u32, wanted: impl FnMut(&Arc<ClusterImage>) -> bool) -> Arc<ClusterImage> {
        let mut images = self.nodes[&n].watch();
        let reached = timeout(PATIENCE, images.wait_for(wanted)).await;
        Arc::clone(&reached.expect("the image does not get there").unwrap())
    }

    /// Waits until broker `n` knows of these voters and no other, and their configuration is not joint any more.
    pub(super) async fn voters(&self, n: u32, wanted: impl Fn(&[(RaftId, u32)]) -> bool) -> Vec<(RaftId, u32)> {
        let mut metrics = self.nodes[&n].inner.raft.metrics();
        let waiting = async {
            loop {
                let voters = {
                    let metrics = metrics.borrow_watched();
                    let membership = metrics.committed_membership_config.membership();
                    let voter = |id: RaftId| (id, membership.get_node(&id).unwrap().broker.get());
                    let voters: Vec<_> = membership.voter_ids().map(voter).collect();
                    (membership.get_joint_config().len() == 1).then_some(voters)
                };
                if let Some(voters) = voters.filter(|voters| wanted(voters)) {
                    return voters;
                }
                metrics.changed().await.unwrap();
            }
        };
        timeout(PATIENCE, waiting).await.expect("the voters do not become what they should be")
    }

    /// Waits until the start of broker `n` is in such a phase.
    pub(super) async fn phase(&self, n: u32, wanted: impl FnMut(&StartPhase) -> bool) {
        let mut progress = self.doors[&n].progress();
        timeout(PATIENCE, progress.wait_for(wanted)).await.expect("the start does not get there").unwrap();
    }

    /// Registers a broker with a life of its own, without starting it.
    pub(super) async fn register(&self, via: u32, n: u32) -> BrokerEpoch {
        let (host, port) = InProcessNetwork::address(broker(n));
        let command = Command::RegisterBroker {
            incarnation: Incarnation::from_bytes([u8::try_from(n).unwrap(); 16]),
            endpoint: endpoint(n),
            cluster: ClusterEndpoint { host, port },
            directory: DirectoryId::from_bytes([u8::try_from(n).unwrap(); 16]),
            intact: true,
            version: "0".to_owned(),
        };
        match self.nodes[&via].propose_within(command, PATIENCE).await {
            Ok(Outcome::BrokerRegistered { epoch }) => epoch,
            other => panic!("{other:?}"),
        }
    }

    /// Registers a broker and puts it into service.
    pub(super) async fn serve(&self, via: u32, n: u32) {
        let epoch = self.register(via, n).await;
        let unfence = Command::UnfenceBroker { broker: broker(n), epoch };
        self.nodes[&via].propose_within(unfence, PATIENCE).await.unwrap();
    }

    /// Puts [`HOST`] into service.
    pub(super) async fn host(&self, via: u32) {
        self.network.attach(PeerDoor::new(broker(HOST)));
        self.serve(via, HOST).await;
    }

    pub(super) async fn stop(mut self) {
        for n in self.running() {
            self.nodes.remove(&n).unwrap().shutdown().await;
        }
        self.loops.shutdown().await;
    }
}
