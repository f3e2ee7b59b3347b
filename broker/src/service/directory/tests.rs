//! What may be served without contact, and what may be denied without a quorum.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use streambus_consensus::command::{Assignment, Command};
use streambus_consensus::config::{Bootstrap, ConsensusConfig, FOUNDING_PATIENCE, Tuning};
use streambus_consensus::in_process::InProcessNetwork;
use streambus_consensus::node::ConsensusEnv;
use streambus_consensus::peer_door::PeerDoor;
use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::ids::DirectoryId;
use streambus_protocol::timestamp::Timestamp;
use streambus_protocol::topic_config::Durability;
use streambus_storage::clock::{Clock, ManualClock};
use streambus_storage::config::StoreConfig;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::partition::fixture;
use crate::partition::role::Role;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);

// Catches a leader that serves after a session of silence, right after its process was stopped and went on; and one
// that refuses what it alone holds, or what it follows.
#[test]
fn leader_without_contact_refuses_what_another_may_lead() {
    let session = Duration::from_secs(3);
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1)));
    let contact = Contact::new(Arc::clone(&clock) as Arc<dyn Clock>, session);
    let store = fixture::store(StoreConfig::default());
    let led = fixture::partition(&store, 0, Durability::Sync);
    let serve = |contact: &Contact| serve_as_leader(Arc::clone(&led), contact).map(|_| ()).map_err(|e| e.code);
    clock.advance(session);
    assert_eq!(serve(&contact), Ok(()), "nobody else holds it");
    let two = [BrokerId::new(1), BrokerId::new(2)].to_vec();
    let shared = Role { replicas: two.clone(), in_sync: two, ..Role::clone(&led.role()) };
    led.set_role(shared.clone(), Duration::ZERO);
    assert_eq!(serve(&contact), Err(ErrorCode::NotLeader));
    assert_eq!(serve(&Contact::alone()), Ok(()));
    assert_eq!(serve(&Contact::new(Arc::clone(&clock) as Arc<dyn Clock>, session)), Ok(()));
    led.set_role(Role { leadership: Leadership::There(BrokerId::new(2)), ..shared }, Duration::ZERO);
    assert_eq!(serve(&contact), Ok(()), "its role says who leads");
}

/// The metadata nodes of three brokers, on wires that can be cut.
struct Nodes {
    network: InProcessNetwork,
    doors: BTreeMap<BrokerId, PeerDoor>,
    running: BTreeMap<BrokerId, MetadataNode>,
    loops: JoinSet<()>,
    _disks: TempDir,
}

impl Nodes {
    async fn started() -> Self {
        let (network, disks) = (InProcessNetwork::new(), tempfile::tempdir().unwrap());
        let ids = [1, 2, 3].map(BrokerId::new);
        let mut doors = BTreeMap::new();
        let starts = ids.map(|me| {
            let mut drawn = 0;
            let random = move || {
                drawn += 1;
                let mut bytes = [drawn; 16];
                bytes[..4].copy_from_slice(&me.get().to_be_bytes());
                bytes
            };
            let door = PeerDoor::new(me);
            network.attach(door.clone());
            doors.insert(me, door.clone());
            let transport = network.transport(me);
            let env = ConsensusEnv { transport, door, ..ConsensusEnv::alone(me, random) };
            let endpoint = BrokerEndpoint { id: me, host: "localhost".to_owned(), port: 9092, rack: None };
            let mut config = ConsensusConfig::alone(disks.path().join(me.to_string()), endpoint);
            // Nobody sends a broker's heartbeats here.
            config.tuning = Tuning { session: PATIENCE * 10, ..Tuning::default() };
            config.bootstrap = Bootstrap::Peers {
                peers: ids.into_iter().map(|id| (id, InProcessNetwork::address(id))).collect(),
                me,
                advertised: InProcessNetwork::address(me),
                founding_patience: FOUNDING_PATIENCE,
            };
            MetadataNode::start(config, env)
        });
        let started = timeout(PATIENCE, join_all(starts)).await.expect("the nodes do not start");
        let running: BTreeMap<_, _> = ids.into_iter().zip(started.into_iter().map(Result::unwrap)).collect();
        let mut loops = JoinSet::new();
        for node in running.values() {
            let node: MetadataNode = node.clone();
            loops.spawn(async move { node.control_loop().await });
        }
        Self { network, doors, running, loops, _disks: disks }
    }

    /// The controller, and a broker that serves and is none.
    async fn settled(&self) -> (BrokerId, BrokerId) {
        let agree = async {
            loop {
                let leaders: Vec<_> = self.running.values().map(|node| node.status().leader).collect();
                let first = leaders.first().copied().flatten();
                if let Some(leader) = first.filter(|leader| leaders.iter().all(|other| *other == Some(*leader))) {
                    return leader;
                }
                tokio::task::yield_now().await;
            }
        };
        let controller = timeout(PATIENCE, agree).await.expect("no controller");
        let (other, node) = self.running.iter().find(|(id, _)| **id != controller).expect("three");
        let epoch = node.register_disk(DirectoryId::from_bytes([7; 16]), true).await.unwrap();
        node.propose_within(Command::UnfenceBroker { broker: *other, epoch }, PATIENCE).await.unwrap();
        (controller, *other)
    }

    /// The machine of `broker` refuses connections, and nothing that it sends arrives. It runs, and hears nothing of this.
    fn take_for_dead(&self, broker: BrokerId) {
        self.network.detach(broker);
        for other in self.running.keys().filter(|other| **other != broker) {
            self.network.cut(broker, *other);
        }
    }

    fn directory(&self, broker: BrokerId) -> Directory {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1)));
        let (metadata, registry) = (self.running[&broker].clone(), Arc::new(Registry::new()));
        Directory::new(broker, metadata, registry, Contact::alone(), ClusterDisks::default(), clock)
    }
}

/// A topic on broker `on`.
fn create(topic: &TopicName, on: BrokerId) -> Command {
    let mut id = [0; 16];
    let bytes = topic.as_str().as_bytes();
    id[..bytes.len()].copy_from_slice(bytes);
    Command::CreateTopic {
        name: topic.clone(),
        id: TopicId::from_bytes(id),
        partitions: vec![Assignment { replicas: vec![on] }],
        config: BTreeMap::new(),
        at: Timestamp::from_millis(1),
    }
}

// Catches a list that does not ask whether it has everything: a follower hears of a decision some time after it was made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_has_what_was_just_made_elsewhere() {
    const ROUNDS: usize = 20;
    let mut nodes = Nodes::started().await;
    let (controller, other) = nodes.settled().await;
    let directory = nodes.directory(other);
    nodes.network.set_delay(Duration::from_millis(10));
    let (mut lacked, mut listed) = (0, 0);
    for round in 0..ROUNDS {
        let topic = TopicName::new(&format!("round-{round}")).unwrap();
        nodes.running[&controller].propose_within(create(&topic, other), PATIENCE).await.unwrap();
        if directory.image().topic_by_name(&topic).is_none() {
            lacked += 1;
            let image = directory.recent(Deadline::after(PATIENCE)).await;
            listed += usize::from(image.topic_by_name(&topic).is_some());
        }
    }
    assert!(lacked > 0, "the follower always had it: this shows nothing");
    // It does not wait for long, so that a machine that stands still may cost one.
    assert!(2 * listed > lacked, "{listed} of {lacked} were listed");
    for node in nodes.running.values() {
        node.shutdown().await;
    }
    nodes.loops.shutdown().await;
}

// Catches a controller that was taken for dead and denies, on the word of its lease, what its successor has made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_controller_does_not_deny_what_its_successor_has_made() {
    let mut nodes = Nodes::started().await;
    let (former, other) = nodes.settled().await;
    let directory = nodes.directory(former);
    let orders = TopicName::new("orders").unwrap();
    let existing = async || directory.existing_topic(&orders, Deadline::after(PATIENCE)).await;
    let none = existing().await.expect_err("nobody has made it");
    assert_eq!(none.code, ErrorCode::UnknownTopic, "{none:?}");

    nodes.take_for_dead(former);
    // Over within a lease of the former controller's, where the machine is not busy.
    nodes.running[&other].propose_within(create(&orders, other), PATIENCE).await.unwrap();
    let unsure = existing().await.expect_err("it cannot know");
    assert_eq!(unsure.code, ErrorCode::NoController, "{unsure:?}");
    assert!(unsure.message.contains("no topic 'orders' is known here, but"), "{unsure:?}");

    nodes.network.attach(nodes.doors[&former].clone());
    nodes.network.heal();
    let found = async {
        loop {
            match existing().await {
                Ok(topic) => return topic,
                Err(error) => assert_eq!(error.code, ErrorCode::NoController, "{error:?}"),
            }
        }
    };
    assert_eq!(timeout(PATIENCE, found).await.expect("it never hears of it").name, orders);
    for node in nodes.running.values() {
        node.shutdown().await;
    }
    nodes.loops.shutdown().await;
}
