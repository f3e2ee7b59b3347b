//! Apply: what is accepted, what is refused, and that it is deterministic. Rule numbers are those of the replication
//! rules that the modules above name.

mod in_sync;
mod lifecycle;
mod membership;
mod moves;

use proptest::prelude::*;
use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch};
use streambus_protocol::ids::{DirectoryId, TopicName};
use streambus_protocol::timestamp::Timestamp;

use super::*;
use crate::command::{Assignment, ClusterEndpoint, Election, ElectionKind, Incarnation, IsrMember, IsrProposal};
use crate::delta::ClusterDelta;
use crate::outcome::{AlterRefused, AssignmentProblem, PartitionVersion};
use crate::snapshot;
use crate::types::SnapshotMeta;

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

/// A state and the index its next command gets.
struct Machine {
    state: ClusterState,
    index: u64,
}

impl Machine {
    fn founded() -> Self {
        let mut machine = Self { state: ClusterState::default(), index: 0 };
        machine.apply(&Command::FoundCluster { cluster_id: CLUSTER }).unwrap();
        machine
    }

    fn with_brokers(count: u32) -> Self {
        let mut machine = Self::founded();
        for id in 1..=count {
            machine.serve(id, 1);
        }
        machine
    }

    /// A broker's new life that lost nothing, in service.
    fn serve(&mut self, id: u32, life: u8) {
        let Ok(Outcome::BrokerRegistered { epoch }) = self.apply(&register(id, life)) else { panic!("not registered") };
        self.apply(&Command::UnfenceBroker { broker: BrokerId::new(id), epoch }).unwrap();
    }

    fn apply(&mut self, command: &Command) -> Result<Outcome, RefusedReason> {
        self.index += 1;
        let before = self.state.clone();
        let mut touched = Touched::new();
        let outcome = self.state.apply(self.index, command, &mut touched);
        if outcome.is_err() {
            assert_eq!(self.state, before, "a refused {command} changed the state");
            assert!(touched.is_empty(), "a refused {command} touched rows");
        }
        self.state.advance(self.index);
        outcome
    }

    fn epoch(&self, id: u32) -> BrokerEpoch {
        self.state.broker(BrokerId::new(id)).unwrap().epoch
    }

    fn fence(&mut self, id: u32) {
        let command = Command::FenceBroker { broker: BrokerId::new(id), epoch: self.epoch(id) };
        assert_eq!(self.apply(&command), Ok(Outcome::BrokerFenced { changed: true }));
    }

    fn unfence(&mut self, id: u32) {
        let command = Command::UnfenceBroker { broker: BrokerId::new(id), epoch: self.epoch(id) };
        assert_eq!(self.apply(&command), Ok(Outcome::BrokerUnfenced { changed: true }));
    }

    /// A new life on the same disk that found damage (`Some(true)`), or on another disk (`Some(false)`).
    fn restart(&mut self, id: u32, life: u8, damaged: Option<bool>) {
        let mut command = register(id, life);
        if let Command::RegisterBroker { directory, intact, .. } = &mut command {
            *intact = damaged != Some(true);
            if damaged == Some(false) {
                *directory = DirectoryId::from_bytes([life; 16]);
            }
        }
        self.apply(&command).unwrap();
    }

    /// Topic 1 with one partition on `replicas` and this `min.insync.replicas`.
    fn topic(&mut self, replicas: &[u32], min_in_sync: u16) {
        let mut command = create("t", 1, &[replicas]);
        if let Command::CreateTopic { config, .. } = &mut command {
            config.insert("min.insync.replicas".to_owned(), min_in_sync.to_string());
        }
        self.apply(&command).unwrap();
    }

    /// The in-sync set that the leader of topic 1 proposes, with everything up to date.
    fn proposal(&self, isr: &[u32]) -> IsrProposal {
        let partition = self.partition(1, 0);
        let member = |id: &u32| IsrMember { broker: BrokerId::new(*id), epoch: self.epoch(*id) };
        IsrProposal {
            id: partition_id(),
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            isr: isr.iter().map(member).collect(),
            recovering: false,
        }
    }

    fn propose(&mut self, proposal: IsrProposal) -> Result<PartitionVersion, AlterRefused> {
        let broker = self.partition(1, 0).leader.expect("a leader");
        self.propose_as(broker.get(), self.epoch(broker.get()), proposal)
    }

    fn propose_as(
        &mut self,
        id: u32,
        broker_epoch: BrokerEpoch,
        proposal: IsrProposal,
    ) -> Result<PartitionVersion, AlterRefused> {
        let before = self.state.clone();
        let proposals = vec![proposal];
        let broker = BrokerId::new(id);
        match self.apply(&Command::AlterPartitions { broker, broker_epoch, proposals }) {
            Ok(Outcome::PartitionsAltered { mut results }) => {
                let result = results.remove(0);
                if result.is_err() {
                    assert_eq!(self.state.image.topics, before.image.topics, "a refused proposal changed something");
                }
                result
            }
            other => panic!("{other:?}"),
        }
    }

    fn in_sync(&mut self, isr: &[u32]) {
        let proposal = self.proposal(isr);
        let version = self.propose(proposal).unwrap();
        assert_eq!(ids(&version.isr), isr);
    }

    /// The leader, the in-sync replicas, the eligible ones and those last known, of topic 1.
    fn sets(&self) -> (Option<u32>, Vec<u32>, Vec<u32>, Vec<u32>) {
        let p = self.partition(1, 0);
        (p.leader.map(BrokerId::get), ids(&p.isr), ids(&p.elr), ids(&p.last_known_elr))
    }

    fn epochs(&self) -> (u32, u32) {
        let p = self.partition(1, 0);
        (p.leader_epoch.get(), p.partition_epoch.get())
    }

    fn partition(&self, topic: u8, index: u32) -> &PartitionImage {
        self.state.partition(topic_id(topic), PartitionIndex::new(index)).unwrap()
    }
}

fn topic_id(n: u8) -> TopicId {
    TopicId::from_bytes([n; 16])
}

fn ids(brokers: &[BrokerId]) -> Vec<u32> {
    brokers.iter().map(|broker| broker.get()).collect()
}

fn partition_id() -> PartitionId {
    PartitionId { topic: topic_id(1), partition: PartitionIndex::new(0) }
}

fn register(id: u32, life: u8) -> Command {
    Command::RegisterBroker {
        incarnation: Incarnation::from_bytes([life; 16]),
        endpoint: BrokerEndpoint { id: BrokerId::new(id), host: format!("b{id}"), port: 9092, rack: None },
        cluster: ClusterEndpoint { host: format!("b{id}"), port: 9093 },
        directory: DirectoryId::from_bytes([7; 16]),
        intact: true,
        version: "0".to_owned(),
    }
}

fn assignment(brokers: &[u32]) -> Assignment {
    Assignment { replicas: brokers.iter().copied().map(BrokerId::new).collect() }
}

fn config(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn create(name: &str, id: u8, partitions: &[&[u32]]) -> Command {
    Command::CreateTopic {
        name: TopicName::new(name).unwrap(),
        id: topic_id(id),
        partitions: partitions.iter().map(|p| assignment(p)).collect(),
        config: BTreeMap::new(),
        at: Timestamp::from_millis(1),
    }
}

/// Catches: a retry after an unknown outcome that fails, doubles something, or replaces another proposer's topic.
#[test]
fn retried_commands_give_the_first_outcome() {
    let mut m = Machine::with_brokers(2);
    let topic = create("t", 1, &[&[1, 2]]);
    assert_eq!(m.apply(&topic), Ok(Outcome::TopicCreated { id: topic_id(1) }));
    assert_eq!(m.apply(&topic), Ok(Outcome::TopicCreated { id: topic_id(1) }));
    let other = m.apply(&create("t", 2, &[&[1]]));
    assert!(matches!(other, Err(RefusedReason::TopicExists { id, .. }) if id == topic_id(1)), "{other:?}");
    assert!(matches!(m.apply(&create("u", 1, &[&[1]])), Err(RefusedReason::TopicIdInUse { .. })));

    let grow = Command::AddPartitions { id: topic_id(1), new: vec![assignment(&[2]); 2], expected_count: 1 };
    assert_eq!(m.apply(&grow), Ok(Outcome::PartitionsAdded { total: 3 }));
    assert_eq!(m.apply(&grow), Ok(Outcome::PartitionsAdded { total: 3 }));
    let rival = Command::AddPartitions { id: topic_id(1), new: vec![assignment(&[1]); 2], expected_count: 1 };
    assert_eq!(m.apply(&rival), Err(RefusedReason::PartitionCountChanged { expected: 1, actual: 3 }));

    let alter = |value: &str, expected_version| Command::AlterTopicConfig {
        id: topic_id(1),
        config: config(&[("retention.ms", value)]),
        expected_version,
    };
    assert_eq!(m.apply(&alter("1000", 0)), Ok(Outcome::TopicConfigAltered { version: 1 }));
    assert_eq!(m.apply(&alter("1000", 0)), Ok(Outcome::TopicConfigAltered { version: 1 }));
    assert_eq!(m.apply(&alter("2000", 0)), Err(RefusedReason::ConfigVersionChanged { expected: 0, actual: 1 }));

    let founded = Command::FoundCluster { cluster_id: ClusterId::from_bytes([8; 16]) };
    assert!(matches!(m.apply(&founded), Err(RefusedReason::OtherCluster { .. })));
}

/// Catches: a producer id handed out twice, or to a broker that has registered anew since.
#[test]
fn producer_ids_are_unique_and_fenced_by_broker_epoch() {
    let mut m = Machine::with_brokers(1);
    let epoch = m.state.broker(BrokerId::new(1)).unwrap().epoch;
    let allocate = |broker_epoch, count| Command::AllocateProducerIds { broker: BrokerId::new(1), broker_epoch, count };
    let first = |n| Ok(Outcome::ProducerIds { first: streambus_protocol::ids::ProducerId::new(n), count: 1000 });
    assert_eq!(m.apply(&allocate(epoch, 1000)), first(0));
    assert_eq!(m.apply(&allocate(epoch, 1000)), first(1000));
    assert!(matches!(m.apply(&allocate(epoch, 0)), Err(RefusedReason::ProducerCount { .. })));
    m.apply(&register(1, 2)).unwrap();
    let stale = m.apply(&allocate(epoch, 1));
    assert!(matches!(stale, Err(RefusedReason::StaleBrokerEpoch { .. })), "{stale:?}");
    m.state.producer_id_next = i64::MAX;
    let epoch = m.state.broker(BrokerId::new(1)).unwrap().epoch;
    assert!(m.apply(&allocate(epoch, 1)).is_err(), "the counter must not wrap");
}

/// B1, E1. Catches: a broker's new life that keeps the leader epoch (lost unsynced records would be overwritten
/// unnoticed) or leads before it is in service, a retried registration that bumps it, or leadership that stays although
/// another in-sync broker is alive.
#[test]
fn new_life_of_a_broker_renews_its_leaderships() {
    let mut m = Machine::with_brokers(2);
    m.apply(&create("t", 1, &[&[1], &[1, 2], &[2]])).unwrap();
    assert_eq!(m.partition(1, 0).leader_epoch, LeaderEpoch::ZERO);
    let registered = m.apply(&register(1, 9)).unwrap();
    let epoch = BrokerEpoch::new(m.index);
    assert_eq!(registered, Outcome::BrokerRegistered { epoch });
    assert_eq!((m.partition(1, 0).leader, m.partition(1, 0).leader_epoch.get()), (None, 1));
    assert_eq!((m.partition(1, 1).leader, m.partition(1, 1).leader_epoch.get()), (Some(BrokerId::new(2)), 1));
    assert_eq!((m.partition(1, 2).leader, m.partition(1, 2).leader_epoch.get()), (Some(BrokerId::new(2)), 0));
    assert_eq!(m.partition(1, 0).partition_epoch, PartitionEpoch::new(1));
    assert_eq!(m.apply(&register(1, 9)).unwrap(), registered, "the same life keeps its epoch");
    assert_eq!(m.partition(1, 0).leader_epoch.get(), 1);
    m.apply(&Command::UnfenceBroker { broker: BrokerId::new(1), epoch }).unwrap();
    assert_eq!((m.partition(1, 0).leader, m.partition(1, 0).leader_epoch.get()), (Some(BrokerId::new(1)), 2));
    assert_eq!(m.partition(1, 1).leader, Some(BrokerId::new(2)), "a valid leader stays");
}

/// Catches: topics that break a limit, or name brokers that are not there.
#[test]
fn creation_is_validated_in_apply() {
    let mut m = Machine::with_brokers(2);
    let problem = |m: &mut Machine, partitions: &[&[u32]]| match m.apply(&create("t", 1, partitions)) {
        Err(RefusedReason::InvalidAssignment { partition, problem }) => (partition, problem),
        other => panic!("{other:?}"),
    };
    assert_eq!(problem(&mut m, &[&[1], &[]]), (1, AssignmentProblem::Empty));
    assert_eq!(problem(&mut m, &[&[1, 1]]), (0, AssignmentProblem::Repeated(BrokerId::new(1))));
    assert_eq!(problem(&mut m, &[&[3]]), (0, AssignmentProblem::UnknownBroker(BrokerId::new(3))));
    assert_eq!(problem(&mut m, &[&[1; 17]]), (0, AssignmentProblem::TooMany));
    assert!(matches!(m.apply(&create("t", 1, &[])), Err(RefusedReason::PartitionCount { requested: 0, .. })));
    let many: Vec<&[u32]> = vec![&[1]; 10_001];
    assert!(matches!(m.apply(&create("t", 1, &many)), Err(RefusedReason::PartitionCount { requested: 10_001, .. })));
    assert_eq!(m.apply(&create("t", 0, &[&[1]])), Err(RefusedReason::ZeroId));
    let mut bad = create("t", 1, &[&[1]]);
    if let Command::CreateTopic { config: c, .. } = &mut bad {
        *c = config(&[("retention.mss", "1"), ("durability", "maybe")]);
    }
    assert!(matches!(m.apply(&bad), Err(RefusedReason::InvalidConfig(problems)) if problems.len() == 2));
    let mut unfounded = Machine { state: ClusterState::default(), index: 0 };
    assert_eq!(unfounded.apply(&register(1, 1)), Err(RefusedReason::NotFounded));
}

/// Catches: a delta that misses a change, or reports one where nothing happened.
#[test]
fn delta_names_exactly_what_changed() {
    let mut m = Machine::with_brokers(2);
    m.apply(&create("a", 1, &[&[1], &[2]])).unwrap();
    m.apply(&create("b", 2, &[&[1]])).unwrap();
    let before = m.state.image().clone();
    assert!(ClusterDelta::between(&before, &before).is_empty());
    m.apply(&create("c", 3, &[&[2]])).unwrap();
    m.apply(&Command::DeleteTopic { id: topic_id(2) }).unwrap();
    m.apply(&register(1, 5)).unwrap();
    let retention = config(&[("retention.ms", "5")]);
    m.apply(&Command::AlterTopicConfig { id: topic_id(1), config: retention, expected_version: 0 }).unwrap();
    m.apply(&Command::AddPartitions { id: topic_id(1), new: vec![assignment(&[2])], expected_count: 2 }).unwrap();
    let delta = ClusterDelta::between(&before, m.state.image());
    let names = |topics: &[Arc<TopicImage>]| topics.iter().map(|t| t.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&delta.created), ["c"]);
    assert_eq!(names(&delta.deleted), ["b"]);
    assert_eq!(names(&delta.reconfigured), ["a"]);
    assert_eq!(delta.brokers, BTreeSet::from([BrokerId::new(1)]));
    let changed: Vec<_> = delta.partitions.iter().map(|c| (c.id.partition.get(), c.before.is_some())).collect();
    assert_eq!(changed, [(0, true), (2, false)]);
}

/// The newer commands, with epochs that are sometimes right.
fn broker_command() -> impl Strategy<Value = Command> {
    let life = || (1u32..4, 0u64..20).prop_map(|(id, epoch)| (BrokerId::new(id), BrokerEpoch::new(epoch)));
    let partition = || {
        (1u8..4, 0u32..2)
            .prop_map(|(topic, index)| PartitionId { topic: topic_id(topic), partition: PartitionIndex::new(index) })
    };
    let member = || life().prop_map(|(broker, epoch)| IsrMember { broker, epoch });
    let proposal = (partition(), 0u32..4, 0u32..6, proptest::collection::vec(member(), 0..4), any::<bool>()).prop_map(
        |(id, leader, epoch, isr, recovering)| IsrProposal {
            id,
            leader_epoch: LeaderEpoch::new(leader),
            partition_epoch: PartitionEpoch::new(epoch),
            isr,
            recovering,
        },
    );
    let kind = prop_oneof![
        Just(ElectionKind::Preferred),
        (1u32..4).prop_map(|id| ElectionKind::To(BrokerId::new(id))),
        Just(ElectionKind::Unclean),
    ];
    let election = (partition(), kind).prop_map(|(id, kind)| Election { id, kind });
    let replicas = proptest::collection::vec((1u32..4).prop_map(BrokerId::new), 0..4);
    prop_oneof![
        2 => life().prop_map(|(broker, epoch)| Command::FenceBroker { broker, epoch }),
        4 => life().prop_map(|(broker, epoch)| Command::UnfenceBroker { broker, epoch }),
        1 => life().prop_map(|(broker, epoch)| Command::BeginShutdown { broker, epoch }),
        2 => (life(), proptest::collection::vec(proposal, 0..3)).prop_map(|((broker, broker_epoch), proposals)| {
            Command::AlterPartitions { broker, broker_epoch, proposals }
        }),
        2 => proptest::collection::vec(election, 0..3).prop_map(|elections| Command::ElectLeaders { elections }),
        2 => (partition(), replicas, any::<Option<u64>>())
            .prop_map(|(id, replicas, throttle)| Command::Reassign { id, replicas, throttle }),
        1 => partition().prop_map(|id| Command::CancelReassign { id }),
        1 => (1u32..4, any::<bool>())
            .prop_map(|(id, draining)| Command::SetDraining { broker: BrokerId::new(id), draining }),
        1 => life().prop_map(|(broker, epoch)| Command::RemoveBroker { broker, epoch }),
        1 => (1u32..4, 0u8..4, 0u16..3, any::<bool>()).prop_map(|(id, directory, port, returns)| Command::JoinNode {
            broker: BrokerId::new(id),
            directory: DirectoryId::from_bytes([directory; 16]),
            host: "h".to_owned(),
            port,
            returns,
        }),
        1 => (0u64..30).prop_map(|n| Command::RemoveNode { raft_id: RaftId::new(RaftId::JOINED_MIN.get() + n) }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let replicas = proptest::collection::vec(0u32..4, 0..4).prop_map(|r| assignment(&r));
    let assignments = proptest::collection::vec(replicas, 0..4);
    let settings = prop_oneof![
        Just(config(&[])),
        Just(config(&[("retention.ms", "1000")])),
        Just(config(&[("durability", "async"), ("min.insync.replicas", "2")])),
        Just(config(&[("nonsense", "1")])),
    ];
    prop_oneof![
        1 => (0u8..2).prop_map(|n| Command::FoundCluster { cluster_id: ClusterId::from_bytes([n + 7; 16]) }),
        3 => (0u32..4, 0u8..3).prop_map(|(id, life)| register(id, life)),
        4 => ("[ab]", 0u8..4, assignments.clone(), settings.clone(), any::<i32>()).prop_map(
            |(name, id, partitions, config, at)| Command::CreateTopic {
                name: TopicName::new(&name).unwrap(),
                id: topic_id(id),
                partitions,
                config,
                at: Timestamp::from_millis(i64::from(at)),
            }
        ),
        2 => (0u8..4).prop_map(|id| Command::DeleteTopic { id: topic_id(id) }),
        2 => (0u8..4, assignments, 0u32..5)
            .prop_map(|(id, new, expected_count)| Command::AddPartitions { id: topic_id(id), new, expected_count }),
        2 => (0u8..4, settings, 0u64..3).prop_map(|(id, config, expected_version)| Command::AlterTopicConfig {
            id: topic_id(id),
            config,
            expected_version,
        }),
        20 => broker_command(),
        1 => (0u32..4, 0u64..9, 0u32..3).prop_map(|(broker, epoch, count)| Command::AllocateProducerIds {
            broker: BrokerId::new(broker),
            broker_epoch: BrokerEpoch::new(epoch),
            count,
        }),
    ]
}

fn check_invariants(state: &ClusterState) {
    let image = state.image();
    assert_eq!(image.names.len(), image.topics.len());
    assert_eq!(image.partition_count, image.topics().map(|t| t.partitions.len() as u64).sum::<u64>());
    for (name, id) in image.names.iter() {
        assert_eq!(&image.topics.get(id).unwrap().name, name);
    }
    for partition in image.topics().flat_map(|t| &t.partitions) {
        assert!(partition.isr.iter().all(|b| partition.replicas.contains(b)), "ISR is part of the replicas");
        assert!(partition.leader.is_none_or(|l| partition.isr.contains(&l)), "the leader is in sync");
        assert!(partition.leader.is_none_or(|l| image.is_alive(l)), "the leader is alive");
    }
}

proptest! {
    /// Catches: hidden input in apply (clock, hash order, randomness), rows that are not written or not read back,
    /// epochs that go back, and any invariant that a sequence of commands can break.
    #[test]
    fn same_log_same_bytes(commands in proptest::collection::vec(command(), 0..60)) {
        let mut first = Machine { state: ClusterState::default(), index: 0 };
        let mut second = Machine { state: ClusterState::default(), index: 0 };
        let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let founding = [Command::FoundCluster { cluster_id: CLUSTER }, register(1, 1), register(2, 1), register(3, 1)];
        let serving = (1u32..4).map(|id| Command::UnfenceBroker {
            broker: BrokerId::new(id),
            epoch: BrokerEpoch::new(u64::from(id) + 1),
        });
        for command in founding.into_iter().chain(serving).chain(commands) {
            let command = &command;
            let before = first.state.image().clone();
            let mut touched = Touched::new();
            first.index += 1;
            let outcome = first.state.apply(first.index, command, &mut touched);
            first.state.advance(first.index);
            // The second replica reads the command from the log.
            let reread = Command::decode(&command.encode()).unwrap();
            prop_assert_eq!(&outcome, &second.apply(&reread));
            for key in touched {
                match first.state.row(key) {
                    Some(row) => rows.insert(key.encode(), row),
                    None => rows.remove(&key.encode()),
                };
            }
            check_invariants(&first.state);
            for change in ClusterDelta::between(&before, first.state.image()).partitions {
                if let Some(before) = change.before {
                    prop_assert!(change.after.partition_epoch > before.partition_epoch);
                    prop_assert!(change.after.leader_epoch >= before.leader_epoch);
                    let is_led_as_before = change.after.leader == before.leader;
                    prop_assert!(is_led_as_before || change.after.leader_epoch > before.leader_epoch);
                }
            }
        }
        let meta = SnapshotMeta::default();
        prop_assert_eq!(snapshot::encode(&meta, &first.state), snapshot::encode(&meta, &second.state));
        // The rows that were written one by one are the state.
        let mut builder = crate::rows::StateBuilder::default();
        for (key, row) in &rows {
            builder.add(key, row).unwrap();
        }
        prop_assert_eq!(&builder.finish(first.index).unwrap(), &first.state);
    }
}
