//! The node: starts, proposals, restarts, and three nodes over a network with faults.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::ids::{ClusterId, DirectoryId, TopicId, TopicName};
use streambus_protocol::timestamp::Timestamp;

use super::*;
use crate::command::Assignment;
use crate::config::{Bootstrap, Tuning};
use crate::error::{StartError, UnknownOutcome};
use crate::identity::IdentityError;
use crate::in_process::InProcessNetwork;
use crate::outcome::RefusedReason;
use crate::types::RaftNode;

/// No test waits longer for anything; each wait is for an event.
const PATIENCE: Duration = Duration::from_secs(30);

fn endpoint(id: u32) -> BrokerEndpoint {
    BrokerEndpoint { id: BrokerId::new(id), host: "localhost".to_owned(), port: 9092, rack: None }
}

fn random(seed: u8) -> impl FnMut() -> [u8; 16] + Send + 'static {
    let mut count = 0u8;
    move || {
        count += 1;
        let mut bytes = [seed; 16];
        bytes[0] = count;
        bytes
    }
}

async fn start_alone(data: &Path, seed: u8) -> Result<MetadataNode, StartError> {
    let config = ConsensusConfig::alone(data.to_path_buf(), endpoint(1));
    MetadataNode::start(config, ConsensusEnv::alone(BrokerId::new(1), random(seed))).await
}

fn register(id: u32, life: u8) -> Command {
    Command::RegisterBroker {
        incarnation: Incarnation::from_bytes([life; 16]),
        endpoint: endpoint(id),
        cluster: ClusterEndpoint { host: "localhost".to_owned(), port: 9093 },
        directory: DirectoryId::from_bytes([1; 16]),
        intact: true,
        version: "0".to_owned(),
    }
}

/// Registers a broker through `node` and puts it into service.
async fn serve(node: &MetadataNode, id: u32) {
    let registered = node.propose_within(register(id, 1), PATIENCE).await.unwrap();
    let Outcome::BrokerRegistered { epoch } = registered else { panic!("{registered:?}") };
    let broker = BrokerId::new(id);
    node.propose_within(Command::UnfenceBroker { broker, epoch }, PATIENCE).await.unwrap();
}

fn create(name: &str, id: u8, brokers: &[u32]) -> Command {
    Command::CreateTopic {
        name: TopicName::new(name).unwrap(),
        id: TopicId::from_bytes([id; 16]),
        partitions: vec![Assignment { replicas: brokers.iter().copied().map(BrokerId::new).collect() }],
        config: BTreeMap::new(),
        at: Timestamp::from_millis(1),
    }
}

/// Catches: a start that waits for an election timeout, forgets what it acknowledged, or founds a second cluster.
#[tokio::test]
async fn lone_node_restarts_at_once_with_everything_it_acknowledged() {
    let data = tempfile::tempdir().unwrap();
    let node = start_alone(data.path(), 1).await.unwrap();
    let identity = *node.identity();
    let epoch = node.register().await.unwrap();
    assert_eq!(node.register().await.unwrap(), epoch, "one life, one epoch");
    let unfence = |epoch| Command::UnfenceBroker { broker: BrokerId::new(1), epoch };
    node.propose(unfence(epoch)).await.unwrap();
    node.propose(create("t", 9, &[1])).await.unwrap();
    let refused = node.propose(create("t", 8, &[1])).await;
    assert!(matches!(refused, Err(ProposeError::Refused(RefusedReason::TopicExists { .. }))), "{refused:?}");
    let before = node.image();
    assert_eq!(before.cluster_id, identity.cluster_id);
    node.shutdown().await;
    drop(node);

    let node = start_alone(data.path(), 2).await.unwrap();
    assert_eq!(*node.identity(), identity);
    assert_eq!(node.image().topics, before.topics);
    assert!(node.status().is_leader);
    assert_eq!(node.status().leader, Some(BrokerId::new(1)));
    let again = node.register().await.unwrap();
    assert!(again > epoch, "a new life, a new epoch");
    node.propose(unfence(again)).await.unwrap();
    let partition = node.image().topic_by_name(&TopicName::new("t").unwrap()).unwrap().partitions[0].clone();
    assert_eq!((partition.leader, partition.leader_epoch.get()), (Some(BrokerId::new(1)), 2));
    node.shutdown().await;
}

/// Catches: starting on a disk that is another broker's, another cluster's, or has lost its log or its identity.
#[tokio::test]
async fn foreign_or_incomplete_directories_are_refused() {
    let data = tempfile::tempdir().unwrap();
    let node = start_alone(data.path(), 1).await.unwrap();
    node.shutdown().await;
    drop(node);
    let start = |config| MetadataNode::start(config, ConsensusEnv::alone(BrokerId::new(1), random(5)));
    let refusal = |result: Result<MetadataNode, StartError>| match result {
        Err(StartError::Identity(error)) => error,
        Err(other) => panic!("refused for another reason: {other}"),
        Ok(_) => panic!("accepted"),
    };

    let other_broker = ConsensusConfig::alone(data.path().to_path_buf(), endpoint(2));
    assert!(matches!(refusal(start(other_broker).await), IdentityError::OtherBroker { .. }));
    let mut other_cluster = ConsensusConfig::alone(data.path().to_path_buf(), endpoint(1));
    other_cluster.expected_cluster = Some(ClusterId::from_bytes([9; 16]));
    assert!(matches!(refusal(start(other_cluster).await), IdentityError::OtherCluster { .. }));

    let directory = data.path().join("metadata");
    fs::rename(directory.join("db"), directory.join("kept")).unwrap();
    let lost = refusal(start_alone(data.path(), 3).await);
    assert!(lost.to_string().contains("must not vote under its old id"), "{lost}");
    fs::remove_dir_all(directory.join("db")).unwrap();
    fs::rename(directory.join("kept"), directory.join("db")).unwrap();

    fs::rename(directory.join("identity"), directory.join("aside")).unwrap();
    assert!(matches!(refusal(start_alone(data.path(), 3).await), IdentityError::FileMissing { .. }));
    fs::rename(directory.join("aside"), directory.join("identity")).unwrap();
    start_alone(data.path(), 3).await.unwrap().shutdown().await;
}

/// Catches: a first start that was interrupted and can never be completed.
#[tokio::test]
async fn interrupted_formatting_is_completed() {
    let data = tempfile::tempdir().unwrap();
    let directory = data.path().join("metadata");
    fs::create_dir_all(&directory).unwrap();
    let identity = Identity {
        cluster_id: ClusterId::from_bytes([4; 16]),
        broker_id: BrokerId::new(1),
        raft_id: RaftId::FOUNDER,
        directory_id: streambus_protocol::ids::DirectoryId::from_bytes([5; 16]),
    };
    identity.write(&directory, crate::identity::Phase::Formatting).unwrap();
    let node = start_alone(data.path(), 1).await.unwrap();
    assert_eq!(*node.identity(), identity);
    node.shutdown().await;
}

/// Catches: a proposal to a stopped node that is reported as failed, and a stop nobody hears of.
#[tokio::test]
async fn stopped_node_says_so_and_outcomes_are_unknown() {
    let data = tempfile::tempdir().unwrap();
    let node = start_alone(data.path(), 1).await.unwrap();
    node.shutdown().await;
    assert_eq!(timeout(PATIENCE, node.stopped()).await.unwrap(), "raft stopped");
    let outcome = node.propose(create("t", 1, &[1])).await;
    assert!(matches!(outcome, Err(ProposeError::Unknown(UnknownOutcome::Stopped(_)))), "{outcome:?}");
}

/// Catches: a command in the log that no node could read back.
#[tokio::test]
async fn unreadable_command_never_enters_the_log() {
    let data = tempfile::tempdir().unwrap();
    let node = start_alone(data.path(), 1).await.unwrap();
    let index = node.status().index;
    let mut command = create("t", 1, &[1]);
    if let Command::CreateTopic { config, .. } = &mut command {
        config.insert("k".to_owned(), "v".repeat(70_000));
    }
    let outcome = node.propose(command).await;
    assert!(matches!(outcome, Err(ProposeError::NotApplied(NotApplied::Malformed(_)))), "{outcome:?}");
    assert_eq!(node.status().index, index);
    node.shutdown().await;
}

/// Three nodes of one process, each with its own disk.
struct Trio {
    network: InProcessNetwork,
    data: tempfile::TempDir,
    nodes: BTreeMap<RaftId, MetadataNode>,
}

impl Trio {
    async fn start() -> Self {
        let mut trio =
            Self { network: InProcessNetwork::new(), data: tempfile::tempdir().unwrap(), nodes: BTreeMap::new() };
        for n in 1..=3 {
            trio.start_node(n, Tuning::default()).await;
        }
        // All at once, as three processes do: a follower waits for the controller to found the cluster.
        for recovered in futures::future::join_all(trio.nodes.values().map(|n| n.recovered(PATIENCE))).await {
            recovered.unwrap();
        }
        trio
    }

    async fn start_node(&mut self, n: u32, tuning: Tuning) {
        let raft_node = |n| RaftNode { broker: BrokerId::new(n), host: format!("node-{n}"), port: 9093 };
        let id = RaftId::new(u64::from(n));
        let mut config = ConsensusConfig::alone(self.data.path().join(n.to_string()), endpoint(n));
        config.tuning = tuning;
        config.bootstrap = Bootstrap::Founders {
            cluster_id: ClusterId::from_bytes([6; 16]),
            raft_id: id,
            voters: (1..=3).map(|n| (RaftId::new(u64::from(n)), raft_node(n))).collect(),
        };
        let door = PeerDoor::new(BrokerId::new(n));
        self.network.attach(door.clone());
        let transport = self.network.transport(BrokerId::new(n));
        let env = ConsensusEnv { random: Box::new(random(u8::try_from(n).unwrap())), transport, door };
        let node = MetadataNode::start(config, env).await.unwrap();
        self.nodes.insert(id, node);
    }

    async fn stop_node(&mut self, id: RaftId) {
        self.network.detach(broker_of(id));
        self.nodes.remove(&id).unwrap().shutdown().await;
    }

    /// The node that leads in the view of all of `among`.
    async fn leader(&self, among: &[RaftId]) -> RaftId {
        let mut metrics: Vec<_> = among.iter().map(|id| self.nodes[id].inner.raft.metrics()).collect();
        let agree = async {
            loop {
                let leaders: Vec<_> = metrics.iter().map(|m| m.borrow_watched().current_leader).collect();
                let first = leaders.first().copied().flatten();
                let agreed = first.filter(|leader| leaders.iter().all(|l| *l == Some(*leader)));
                if let Some(leader) = agreed.filter(|leader| among.contains(leader)) {
                    return leader;
                }
                let changes: Vec<_> = metrics.iter_mut().map(|m| Box::pin(m.changed())).collect();
                futures::future::select_all(changes).await.0.unwrap();
            }
        };
        timeout(PATIENCE, agree).await.expect("no leader")
    }

    async fn reached(&self, id: RaftId, index: u64) -> Arc<ClusterImage> {
        let mut images = self.nodes[&id].watch();
        let reached = timeout(PATIENCE, images.wait_for(|image| image.applied >= index)).await;
        Arc::clone(&reached.expect("the node did not catch up").unwrap())
    }

    async fn stop(self) {
        for node in self.nodes.values() {
            node.shutdown().await;
        }
    }
}

/// The broker of a founder.
fn broker_of(founder: RaftId) -> BrokerId {
    BrokerId::new(u32::try_from(founder.get()).unwrap())
}

fn ids() -> Vec<RaftId> {
    (1..=3).map(RaftId::new).collect()
}

/// Catches: split brain, a lost acknowledged command, a write accepted by an isolated leader, a follower that does
/// not name the leader, images that differ after healing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_survive_an_isolated_leader() {
    let trio = Trio::start().await;
    let leader = trio.leader(&ids()).await;
    for n in 1..=3 {
        serve(&trio.nodes[&leader], n).await;
    }
    trio.nodes[&leader].propose(create("before", 1, &[1, 2, 3])).await.unwrap();

    let follower = ids().into_iter().find(|id| *id != leader).unwrap();
    match trio.nodes[&follower].propose(create("elsewhere", 2, &[1])).await {
        Err(ProposeError::NotApplied(NotApplied::OtherController { id, node })) => {
            assert_eq!(id, leader);
            assert_eq!(node.host, format!("node-{leader}"));
        }
        other => panic!("{other:?}"),
    }

    trio.network.isolate(broker_of(leader));
    let rest: Vec<RaftId> = ids().into_iter().filter(|id| *id != leader).collect();
    let successor = trio.leader(&rest).await;
    trio.nodes[&successor].propose_within(create("during", 3, &[2, 3]), PATIENCE).await.unwrap();
    // The old leader must not say yes; whether it says "not applied" or "unknown" depends on its lease.
    let patience = Duration::from_millis(300);
    let outcome = trio.nodes[&leader].propose_within(create("lost", 4, &[1]), patience).await;
    assert!(matches!(outcome, Err(ProposeError::NotApplied(_) | ProposeError::Unknown(_))), "{outcome:?}");

    trio.network.heal();
    let current = trio.leader(&ids()).await;
    trio.nodes[&current].propose_within(create("after", 5, &[1]), PATIENCE).await.unwrap();
    let applied = trio.nodes[&current].image().applied;
    let mut images = Vec::new();
    for id in ids() {
        images.push(trio.reached(id, applied).await);
    }
    for name in ["before", "during", "after"] {
        assert!(images.iter().all(|i| i.topic_by_name(&TopicName::new(name).unwrap()).is_some()), "{name}");
    }
    assert!(images.iter().all(|i| i.topics == images[0].topics && i.brokers == images[0].brokers));
    trio.stop().await;
}

/// Catches: a node that was away beyond the purged log and never catches up, or catches up to another state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_node_catches_up_by_snapshot() {
    let mut trio = Trio::start().await;
    let leader = trio.leader(&ids()).await;
    let away = ids().into_iter().find(|id| *id != leader).unwrap();
    trio.stop_node(away).await;
    serve(&trio.nodes[&leader], 1).await;
    for n in 1..=20 {
        trio.nodes[&leader].propose_within(create(&format!("t{n}"), n, &[1]), PATIENCE).await.unwrap();
    }
    let raft = &trio.nodes[&leader].inner.raft;
    let index = trio.nodes[&leader].image().applied;
    raft.trigger().snapshot().await.unwrap();
    raft.wait(Some(PATIENCE)).metrics(|m| m.snapshot.is_some_and(|s| s.index >= index), "snapshot").await.unwrap();
    raft.trigger().purge_log(index).await.unwrap();
    raft.wait(Some(PATIENCE)).metrics(|m| m.purged.is_some_and(|p| p.index >= index), "purged").await.unwrap();

    let n = u32::try_from(away.get()).unwrap();
    trio.start_node(n, Tuning::default()).await;
    trio.nodes[&away].recovered(PATIENCE).await.unwrap();
    let caught_up = trio.reached(away, index).await;
    assert_eq!(caught_up.topics, trio.nodes[&leader].image().topics);
    assert_eq!(caught_up.topic_count(), 20);
    trio.stop().await;
}

/// Catches: a request that reaches another node or cluster than it was meant for and is answered all the same.
#[tokio::test]
async fn request_for_another_node_is_refused() {
    use crate::peer_service::PeerError;
    use crate::rpc::{Route, Rpc, encode_request};
    use crate::types::Vote;

    let data = tempfile::tempdir().unwrap();
    let node = start_alone(data.path(), 1).await.unwrap();
    let me = *node.identity();
    let vote = openraft::raft::VoteRequest::<TypeConfig>::new(Vote::new(99, RaftId::new(2)), None);
    let from = RaftId::new(2);
    for (cluster, to) in [(me.cluster_id, RaftId::new(3)), (ClusterId::from_bytes([1; 16]), me.raft_id)] {
        let request = encode_request(Route { cluster, from, to }, &vote);
        let answer = node.inner.peers.call(Rpc::Vote, &request).await;
        assert!(matches!(answer, Err(PeerError::NotMe { .. })), "{answer:?}");
    }
    assert!(node.status().term < 99);
    node.shutdown().await;
}
