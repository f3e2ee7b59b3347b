//! How long the metadata group is without a controller: three nodes of one process, their disks in the directory given
//! (default: a temporary one). Prints the time from the controller's death, or its silent isolation, to the first
//! command that another node got committed, and the elections of a stretch without faults.

#![expect(clippy::print_stdout, reason = "a measurement prints")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use streambus_consensus::command::{ClusterEndpoint, Command, Incarnation};
use streambus_consensus::config::{Bootstrap, ConsensusConfig, FOUNDING_PATIENCE, Tuning};
use streambus_consensus::in_process::InProcessNetwork;
use streambus_consensus::node::{ConsensusEnv, MetadataNode};
use streambus_consensus::outcome::Outcome;
use streambus_consensus::peer_door::PeerDoor;
use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::ids::{BrokerId, DirectoryId};
use tokio::task::JoinSet;
use tokio::time::Instant;

const TRIALS: usize = 30;
const PATIENCE: Duration = Duration::from_secs(30);
const HOST: u32 = 99;

type Failure = Box<dyn Error + Send + Sync>;

struct Nodes {
    network: InProcessNetwork,
    directory: PathBuf,
    running: BTreeMap<u32, MetadataNode>,
    loops: JoinSet<()>,
    lives: u8,
}

impl Nodes {
    async fn start(&mut self, which: &[u32]) -> Result<(), Failure> {
        let mut starts = Vec::new();
        for n in which {
            self.lives += 1;
            let (me, life, mut drawn) = (BrokerId::new(*n), self.lives, 0);
            let random = move || {
                drawn += 1;
                let mut bytes = [life; 16];
                bytes[0] = drawn;
                bytes
            };
            let door = PeerDoor::new(me);
            self.network.attach(door.clone());
            let transport = self.network.transport(me);
            let env = ConsensusEnv { transport, door, ..ConsensusEnv::alone(me, random) };
            let endpoint = BrokerEndpoint { id: me, host: "localhost".to_owned(), port: 9092, rack: None };
            let mut config = ConsensusConfig::alone(self.directory.join(n.to_string()), endpoint);
            config.tuning = Tuning { session: PATIENCE * 100, ..Tuning::default() };
            let address = |n| (BrokerId::new(n), InProcessNetwork::address(BrokerId::new(n)));
            config.bootstrap = Bootstrap::Peers {
                peers: (1..=3).map(address).collect(),
                me,
                advertised: InProcessNetwork::address(me),
                founding_patience: FOUNDING_PATIENCE,
            };
            starts.push(MetadataNode::start(config, env));
        }
        for (n, node) in which.iter().zip(futures::future::join_all(starts).await) {
            let node = node?;
            let looping = node.clone();
            self.loops.spawn(async move { looping.control_loop().await });
            self.running.insert(*n, node);
        }
        Ok(())
    }

    /// Waits until all running nodes take the same one for the controller.
    async fn controller(&self) -> Result<u32, Failure> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let leaders: Vec<_> = self.running.values().map(|node| node.status().leader).collect();
            let first = leaders.first().copied().flatten();
            if let Some(leader) = first.filter(|leader| leaders.iter().all(|l| *l == Some(*leader))) {
                return Ok(leader.get());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err("no controller".into())
    }

    fn other_than(&self, not: u32) -> Result<&MetadataNode, Failure> {
        let other = self.running.iter().find(|(n, _)| **n != not);
        Ok(other.ok_or("no other node")?.1)
    }

    fn term(&self) -> u64 {
        self.running.values().map(|node| node.status().term).max().unwrap_or(0)
    }
}

/// Any command will do; this one can be repeated.
async fn commit(node: &MetadataNode, draining: bool) -> Result<(), Failure> {
    let broker = BrokerId::new(HOST);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match node.propose_within(Command::SetDraining { broker, draining }, PATIENCE).await {
            Ok(_) => return Ok(()),
            Err(e) if Instant::now() >= deadline => return Err(e.into()),
            Err(_) => {}
        }
    }
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: usize| times.get((times.len() * part / 100).min(times.len().saturating_sub(1)));
    println!("{what}: p50 {:?}, p90 {:?}, p99 {:?}, worst {:?}", at(50), at(90), at(99), times.last());
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let temporary = std::env::temp_dir().join(format!("metadata-failover-{}", std::process::id()));
    let directory = std::env::args().nth(1).map_or(temporary, PathBuf::from);
    run(&directory).await?;
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

async fn run(directory: &Path) -> Result<(), Failure> {
    let network = InProcessNetwork::new();
    let mut nodes = Nodes {
        network,
        directory: directory.to_path_buf(),
        running: BTreeMap::new(),
        loops: JoinSet::new(),
        lives: 0,
    };
    let before = Instant::now();
    nodes.start(&[1, 2, 3]).await?;
    println!("founded in {:?}", before.elapsed());
    register_host(&nodes).await?;

    let (term, began, mut commits) = (nodes.term(), Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(15) {
        commit(nodes.other_than(0)?, commits % 2 == 0).await?;
        commits += 1;
    }
    println!("without faults: {commits} commands in {:?}, {} elections", began.elapsed(), nodes.term() - term);

    let mut times = Vec::new();
    for trial in 0..TRIALS {
        let controller = nodes.controller().await?;
        let dead = nodes.running.remove(&controller).ok_or("no such node")?;
        let before = Instant::now();
        nodes.network.detach(BrokerId::new(controller));
        let survivor = nodes.other_than(0)?;
        let committed = async { commit(survivor, trial % 2 == 0).await.map(|()| before.elapsed()) };
        let ((), took) = tokio::join!(dead.shutdown(), committed);
        times.push(took?);
        drop(dead);
        nodes.start(&[controller]).await?;
    }
    report("controller killed, to the first commit", times);

    let mut times = Vec::new();
    for trial in 0..TRIALS {
        let controller = nodes.controller().await?;
        let before = Instant::now();
        nodes.network.isolate(BrokerId::new(controller));
        commit(nodes.other_than(controller)?, trial % 2 == 0).await?;
        times.push(before.elapsed());
        nodes.network.heal();
        nodes.controller().await?;
    }
    report("controller isolated in silence, to the first commit", times);
    for node in nodes.running.values() {
        node.shutdown().await;
    }
    nodes.loops.shutdown().await;
    Ok(())
}

async fn register_host(nodes: &Nodes) -> Result<(), Failure> {
    let (id, node) = (BrokerId::new(HOST), nodes.other_than(0)?);
    nodes.network.attach(PeerDoor::new(id));
    let (host, port) = InProcessNetwork::address(id);
    let registration = Command::RegisterBroker {
        incarnation: Incarnation::from_bytes([99; 16]),
        endpoint: BrokerEndpoint { id, host: "localhost".to_owned(), port: 9092, rack: None },
        cluster: ClusterEndpoint { host, port },
        directory: DirectoryId::from_bytes([99; 16]),
        intact: true,
        version: "0".to_owned(),
    };
    match node.propose(registration).await? {
        Outcome::BrokerRegistered { .. } => Ok(()),
        other => Err(format!("registration was answered with {other:?}").into()),
    }
}
