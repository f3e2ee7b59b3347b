//! A drain ends with an empty broker, keeps the replica count and spreads over racks; balance returns afterwards.

use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::ids::{ClusterId, DirectoryId, PartitionIndex, TopicId, TopicName};
use streambus_protocol::timestamp::Timestamp;

use super::*;
use crate::command::{Assignment, ClusterEndpoint, Incarnation, IsrMember, IsrProposal};
use crate::controller::preferred;
use crate::explore::State;
use crate::outcome::Outcome;

const TOPIC: TopicId = TopicId::from_bytes([9; 16]);

struct Cluster {
    state: State,
    index: u64,
}

impl Cluster {
    fn new(racks: &[Option<&str>], partitions: &[&[u32]]) -> Self {
        let mut cluster = Self { state: State::new(), index: 0 };
        cluster.apply(&Command::FoundCluster { cluster_id: ClusterId::from_bytes([1; 16]) });
        for (id, rack) in (1..).map(BrokerId::new).zip(racks) {
            let rack = rack.map(str::to_owned);
            let registered = cluster.apply(&Command::RegisterBroker {
                incarnation: Incarnation::from_bytes([1; 16]),
                endpoint: BrokerEndpoint { id, host: "h".to_owned(), port: 1, rack },
                cluster: ClusterEndpoint { host: "h".to_owned(), port: 2 },
                directory: DirectoryId::from_bytes([1; 16]),
                intact: true,
                version: "0".to_owned(),
            });
            let Outcome::BrokerRegistered { epoch } = registered else { panic!("{registered:?}") };
            cluster.apply(&Command::UnfenceBroker { broker: id, epoch });
        }
        let place = |p: &&[u32]| Assignment { replicas: p.iter().copied().map(BrokerId::new).collect() };
        cluster.apply(&Command::CreateTopic {
            name: TopicName::new("t").unwrap(),
            id: TOPIC,
            partitions: partitions.iter().map(place).collect(),
            config: BTreeMap::from([("min.insync.replicas".to_owned(), "2".to_owned())]),
            at: Timestamp::from_millis(1),
        });
        cluster
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        self.index += 1;
        self.state.apply(self.index, command).unwrap()
    }

    fn image(&self) -> &ClusterImage {
        self.state.image()
    }

    fn partition(&self, index: u32) -> &PartitionImage {
        self.image().partition(PartitionId { topic: TOPIC, partition: PartitionIndex::new(index) }).unwrap()
    }

    /// Every leader takes all its unfenced replicas into the in-sync set, as after a while of copying.
    fn catch_up(&mut self) {
        let image = self.image().clone();
        for (id, _, partition) in image.partitions().filter(|(_, _, p)| p.isr.len() < p.replicas.len()) {
            let leader = partition.leader.unwrap();
            let member = |broker: &BrokerId| IsrMember { broker: *broker, epoch: image.brokers[broker].epoch };
            let proposals = vec![IsrProposal {
                id,
                leader_epoch: partition.leader_epoch,
                partition_epoch: partition.partition_epoch,
                isr: partition.replicas.iter().map(member).collect(),
                recovering: false,
            }];
            let altered = self.apply(&Command::AlterPartitions {
                broker: leader,
                broker_epoch: image.brokers[&leader].epoch,
                proposals,
            });
            assert!(matches!(&altered, Outcome::PartitionsAltered { results } if results[0].is_ok()), "{altered:?}");
        }
    }
}

/// Catches: a drain that moves replicas before leaders, moves too many at once, never ends, or puts two replicas into
/// one rack while another is free.
#[test]
fn drained_broker_ends_up_empty() {
    let racks = [Some("a"), Some("b"), Some("c"), Some("a"), Some("a")];
    let placed: [&[u32]; 4] = [&[1, 2, 3], &[2, 3, 1], &[3, 1, 2], &[1, 3, 2]];
    let mut cluster = Cluster::new(&racks, &placed);
    let broker = BrokerId::new(1);
    cluster.apply(&Command::SetDraining { broker, draining: true });
    let before = progress(cluster.image(), broker);
    assert_eq!(before, DrainProgress { leaders_left: 2, replicas_left: 4, moving: 0, stuck: 0 });
    let first = plan(cluster.image(), broker, 2);
    assert!(matches!(&first[..], [Command::ElectLeaders { elections }] if elections.len() == 2), "{first:?}");
    let mut rounds = 0;
    while !progress(cluster.image(), broker).is_done() {
        rounds += 1;
        assert!(rounds < 20, "{:?}", progress(cluster.image(), broker));
        for command in plan(cluster.image(), broker, 2) {
            cluster.apply(&command);
        }
        assert!(progress(cluster.image(), broker).moving <= 2);
        assert_eq!(plan(cluster.image(), broker, progress(cluster.image(), broker).moving.try_into().unwrap()), []);
        cluster.catch_up();
    }
    let image = cluster.image();
    for (_, _, partition) in image.partitions() {
        assert_eq!((partition.replicas.len(), partition.isr.len(), partition.is_moving()), (3, 3, false));
        let racks: std::collections::BTreeSet<_> =
            partition.replicas.iter().map(|b| image.brokers[b].rack.clone()).collect();
        assert_eq!(racks.len(), 3, "{partition:?}");
    }
    let load = Load::of(image).replicas;
    assert_eq!((load[&BrokerId::new(4)], load[&BrokerId::new(5)]), (2, 2), "the two free brokers share");
}

/// Catches: a drain that says it goes on although nobody is free to take the replicas.
#[test]
fn drain_without_a_free_broker_is_stuck_and_says_so() {
    let mut cluster = Cluster::new(&[None, None, None], &[&[1, 2, 3]]);
    let broker = BrokerId::new(1);
    cluster.apply(&Command::SetDraining { broker, draining: true });
    for command in plan(cluster.image(), broker, 5) {
        cluster.apply(&command);
    }
    assert_eq!(cluster.partition(0).leader, Some(BrokerId::new(2)));
    assert_eq!(plan(cluster.image(), broker, 5), []);
    let left = progress(cluster.image(), broker);
    assert_eq!(left, DrainProgress { leaders_left: 0, replicas_left: 1, moving: 0, stuck: 1 });
    assert!(!left.is_done());
}

/// L6. Catches: an election of a replica that is out of sync, fenced or drained, and one more than was asked for.
#[test]
fn preferred_leaders_return_when_they_are_fit() {
    let mut cluster = Cluster::new(&[None, None, None], &[&[1, 2, 3], &[1, 3, 2], &[2, 1, 3]]);
    let one = BrokerId::new(1);
    let epoch = cluster.image().brokers[&one].epoch;
    assert_eq!(preferred::imbalance(cluster.image(), 9), []);
    cluster.apply(&Command::FenceBroker { broker: one, epoch });
    assert_eq!(preferred::imbalance(cluster.image(), 9), [], "it is fenced");
    cluster.apply(&Command::UnfenceBroker { broker: one, epoch });
    assert_eq!(preferred::imbalance(cluster.image(), 9), [], "it is out of sync");
    cluster.catch_up();
    assert_eq!(preferred::imbalance(cluster.image(), 9).len(), 2);
    cluster.apply(&Command::SetDraining { broker: one, draining: true });
    assert_eq!(preferred::imbalance(cluster.image(), 9), [], "it is being drained");
    cluster.apply(&Command::SetDraining { broker: one, draining: false });
    assert_eq!(preferred::imbalance(cluster.image(), 1).len(), 1);
    let elections = preferred::imbalance(cluster.image(), 9);
    cluster.apply(&Command::ElectLeaders { elections });
    assert_eq!(preferred::imbalance(cluster.image(), 9), []);
    assert_eq!(cluster.partition(0).leader, Some(one));
}
