//! The explored cluster: two state machines that apply the same log, the processes around them, and their records.

use std::collections::BTreeMap;

use streambus_consensus::command::{
    ClusterEndpoint, Command, Election, ElectionKind, Incarnation, IsrMember, IsrProposal,
};
use streambus_consensus::election::Standing;
use streambus_consensus::explore::State;
use streambus_consensus::image::{ClusterImage, PartitionImage};
use streambus_consensus::outcome::{Outcome, RefusedReason};
use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::ids::{BrokerId, ClusterId, DirectoryId, PartitionId};

use crate::invariants;
use crate::records::Records;

pub(crate) const BROKERS: u32 = 5;

/// Numbers from a seed (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        let index = usize::try_from(self.below((from.len() as u64).max(1))).unwrap();
        from.get(index).cloned()
    }
}

/// A broker's process and disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pub(crate) life: u8,
    pub(crate) directory: u8,
    pub(crate) intact: bool,
}

/// How often the explorer came to the places it is meant to come to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reached {
    counts: BTreeMap<&'static str, u64>,
}

impl Reached {
    pub(crate) fn note(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }

    /// An explorer that never gets somewhere proves nothing about it.
    pub(crate) fn assert_everything_was_reached(&self) {
        let places = [
            "a partition without leader",
            "an eligible leader",
            "an unclean leader",
            "several eligible replicas",
            "an empty in-sync set",
            "a completed move",
            "a cancelled move",
            "a refused command",
            "an ineligible replica",
            "a stale proposal",
            "a grown in-sync set",
            "a removed broker",
            "a stopping broker",
            "a deleted topic",
        ];
        for place in places {
            assert!(
                self.counts.get(place).copied().unwrap_or(0) >= 10,
                "hardly ever reached: {place}: {:?}",
                self.counts
            );
        }
    }
}

pub(crate) struct World {
    pub(crate) random: Random,
    state: State,
    replica: State,
    index: u64,
    pub(crate) processes: BTreeMap<BrokerId, Process>,
    pub(crate) records: BTreeMap<PartitionId, Records>,
    /// An image from some steps ago: what a slow broker or an isolated controller still believes.
    pub(crate) stale: ClusterImage,
    pub(crate) history: invariants::History,
    pub(crate) reached: Reached,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let process = Process { life: 1, directory: 1, intact: true };
        let mut world = Self {
            random: Random(seed),
            state: State::new(),
            replica: State::new(),
            index: 0,
            processes: (1..=BROKERS).map(|id| (BrokerId::new(id), process)).collect(),
            records: BTreeMap::new(),
            stale: ClusterImage::empty(),
            history: invariants::History::default(),
            reached: Reached::default(),
        };
        world.apply(&Command::FoundCluster { cluster_id: ClusterId::from_bytes([1; 16]) }).unwrap();
        for id in 1..=BROKERS {
            world.start(BrokerId::new(id));
        }
        world
    }

    pub(crate) fn image(&self) -> &ClusterImage {
        self.state.image()
    }

    pub(crate) fn state_bytes(&self) -> Vec<u8> {
        self.state.to_bytes()
    }

    pub(crate) fn reached(&self) -> Reached {
        self.reached.clone()
    }

    /// One random event: records move, or a command is applied.
    pub(crate) fn step(&mut self) {
        if self.random.one_in(20) {
            self.stale = self.image().clone();
        }
        if self.random.one_in(40) {
            // A replica that restarts from a snapshot goes on as if nothing had happened.
            self.replica = State::from_bytes(&self.state.to_bytes(), self.index).unwrap();
        }
        if self.random.one_in(2) {
            self.move_records();
        } else if let Some(command) = self.random_command() {
            // Refusals are answers like others, and checked as such.
            let _outcome = self.apply(&command);
        }
    }

    /// Applies a command to both machines and checks everything.
    pub(crate) fn apply(&mut self, command: &Command) -> Result<Outcome, RefusedReason> {
        self.index += 1;
        let before = self.state.clone();
        let outcome = self.state.apply(self.index, command);
        let reread = Command::decode(&command.encode()).unwrap();
        assert_eq!(&reread, command);
        assert_eq!(self.replica.apply(self.index, &reread), outcome, "two machines disagree about {command:?}");
        assert_eq!(self.replica.to_bytes(), self.state.to_bytes(), "two machines differ after {command:?}");
        let image = self.state.image().clone();
        let step = invariants::Step { command, before: before.image(), after: &image, outcome: &outcome };
        if outcome.is_err() {
            assert_eq!(before.to_bytes(), self.state.to_bytes(), "a refused {command:?} changed the state");
            self.reached.note("a refused command");
        }
        self.note_losses(before.image(), &image);
        self.history.check(&step, &mut self.reached);
        invariants::check_records(&step, &mut self.records);
        outcome
    }

    /// Registers the process as it is and, if it may, puts it into service.
    pub(crate) fn start(&mut self, broker: BrokerId) {
        let process = self.processes[&broker];
        let command = registration(broker, process);
        if let Ok(Outcome::BrokerRegistered { epoch }) = self.apply(&command) {
            self.apply(&Command::UnfenceBroker { broker, epoch }).unwrap();
        }
    }

    /// What a lossy registration costs, before anything is elected on it.
    fn note_losses(&mut self, before: &ClusterImage, after: &ClusterImage) {
        for (id, broker) in &after.brokers {
            let Some(former) = before.brokers.get(id).filter(|former| former.epoch != broker.epoch) else { continue };
            let process = self.processes[id];
            for records in self.records.values_mut() {
                if former.directory != broker.directory {
                    records.length.insert(*id, 0);
                } else if !process.intact {
                    let left = records.of(*id) / 2;
                    records.length.insert(*id, left);
                }
            }
        }
    }

    /// Leaders append, followers copy, the high watermark moves.
    pub(crate) fn move_records(&mut self) {
        let image = self.image().clone();
        let led: Vec<PartitionId> =
            image.partitions().filter(|(_, _, p)| p.leader.is_some()).map(|(id, _, _)| id).collect();
        let Some(id) = self.random.pick(&led) else { return };
        let Some(partition) = image.partition(id) else { return };
        let Some(leader) = partition.leader else { return };
        let records = self.records.entry(id).or_default();
        if self.random.one_in(2) {
            *records.length.entry(leader).or_default() += 1;
        }
        for follower in partition.replicas.iter().filter(|replica| **replica != leader) {
            if image.is_alive(*follower) && !self.random.one_in(3) {
                records.copy(leader, *follower, image.brokers[follower].epoch, partition.leader_epoch);
            }
        }
        if let Some(topic) = image.topic_by_id(id.topic) {
            records.commit(partition, &topic.settings);
        }
    }

    /// The in-sync set that the leader of `id` asks for by what it has seen: everybody who caught up, with the life in
    /// which it was seen, and of the present members those for which `keeps` holds.
    pub(crate) fn proposal(
        &self,
        id: PartitionId,
        partition: &PartitionImage,
        image: &ClusterImage,
        mut keeps: impl FnMut(BrokerId) -> bool,
    ) -> Option<IsrProposal> {
        let leader = partition.leader?;
        let records = self.records.get(&id).cloned().unwrap_or_default();
        let mut isr = Vec::new();
        for replica in &partition.replicas {
            let epoch = image.brokers.get(replica)?.epoch;
            if *replica == leader || (partition.isr.contains(replica) && keeps(*replica)) {
                isr.push(IsrMember { broker: *replica, epoch });
            } else if !partition.isr.contains(replica) && records.is_caught_up(*replica, partition.leader_epoch) {
                isr.push(IsrMember { broker: *replica, epoch: records.seen[replica].life });
            }
        }
        let (leader_epoch, partition_epoch) = (partition.leader_epoch, partition.partition_epoch);
        Some(IsrProposal { id, leader_epoch, partition_epoch, isr, recovering: false })
    }

    /// The faults end: every process runs again with the disk it has, and everything must come right.
    pub(crate) fn heal(&mut self) {
        for id in 1..=BROKERS {
            let broker = BrokerId::new(id);
            let process = self.processes.get_mut(&broker).unwrap();
            process.life += 1;
            process.intact = true;
            if let Some(registered) = self.image().brokers.get(&broker).cloned() {
                self.apply(&Command::FenceBroker { broker, epoch: registered.epoch }).unwrap();
                self.apply(&Command::SetDraining { broker, draining: false }).unwrap();
            }
            self.start(broker);
        }
        for round in 0..6 {
            self.elect_the_lost();
            let image = self.image().clone();
            for (id, topic, partition) in image.partitions() {
                let leader = partition.leader.unwrap_or_else(|| panic!("{id} has no leader: {partition:?}"));
                let records = self.records.entry(id).or_default();
                for follower in partition.replicas.iter().filter(|replica| **replica != leader) {
                    records.copy(leader, *follower, image.brokers[follower].epoch, partition.leader_epoch);
                }
                records.commit(partition, &topic.settings);
                let proposal = self.proposal(id, partition, &image, |_| true).unwrap();
                let broker_epoch = image.brokers[&leader].epoch;
                let command = Command::AlterPartitions { broker: leader, broker_epoch, proposals: vec![proposal] };
                let altered = self.apply(&command);
                let Ok(Outcome::PartitionsAltered { results }) = altered else { panic!("{altered:?}") };
                assert!(results[0].is_ok(), "round {round}: {results:?} for {partition:?}");
            }
        }
        for (id, _, partition) in self.image().partitions() {
            let all = partition.isr == partition.replicas && !partition.is_moving() && !partition.recovering;
            assert!(all && partition.elr.is_empty() && partition.last_known_elr.is_empty(), "{id}: {partition:?}");
        }
    }

    /// Only where every complete replica lost its disk or records, an operator has to decide.
    fn elect_the_lost(&mut self) {
        let image = self.image().clone();
        for (id, _, partition) in image.partitions().filter(|(_, _, p)| p.leader.is_none()) {
            assert!(partition.isr.is_empty() && partition.elr.is_empty(), "{id} could be led: {partition:?}");
            let elections = vec![Election { id, kind: ElectionKind::Unclean }];
            let elected = self.apply(&Command::ElectLeaders { elections });
            assert!(matches!(&elected, Ok(Outcome::LeadersElected { results }) if results[0].is_ok()), "{elected:?}");
        }
    }

    pub(crate) fn brokers_standing(&self, wanted: &[Standing]) -> Vec<BrokerId> {
        let stands = self.image().brokers.iter().filter(|(_, broker)| wanted.contains(&broker.standing()));
        stands.map(|(id, _)| *id).collect()
    }

    pub(crate) fn partitions(&self) -> Vec<PartitionId> {
        self.image().partitions().map(|(id, _, _)| id).collect()
    }
}

pub(crate) fn registration(broker: BrokerId, process: Process) -> Command {
    let mut incarnation = [process.life; 16];
    incarnation[0] = u8::try_from(broker.get()).unwrap();
    let mut directory = [process.directory; 16];
    directory[0] = incarnation[0];
    Command::RegisterBroker {
        incarnation: Incarnation::from_bytes(incarnation),
        endpoint: BrokerEndpoint { id: broker, host: "h".to_owned(), port: 1, rack: None },
        cluster: ClusterEndpoint { host: "h".to_owned(), port: 2 },
        directory: DirectoryId::from_bytes(directory),
        intact: process.intact,
        version: "0".to_owned(),
    }
}
