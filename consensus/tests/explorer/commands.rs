//! Random commands, most of which make sense in the state as it is, and some in a state of a while ago.

use std::collections::BTreeMap;

use streambus_consensus::command::{Assignment, Command, Election, ElectionKind};
use streambus_consensus::election::Standing;
use streambus_consensus::image::ClusterImage;
use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::{BrokerId, DirectoryId, PartitionId, TopicId, TopicName};
use streambus_protocol::timestamp::Timestamp;

use crate::world::{BROKERS, World, registration};

impl World {
    pub(crate) fn random_command(&mut self) -> Option<Command> {
        let broker = BrokerId::new(u32::try_from(self.random.below(u64::from(BROKERS))).unwrap() + 1);
        let believed = self.believed();
        let epoch = believed.brokers.get(&broker).map_or(BrokerEpoch::ZERO, |broker| broker.epoch);
        Some(match self.random.below(40) {
            0..=2 => Command::FenceBroker { broker, epoch },
            3..=9 => {
                let waiting = self.brokers_standing(&[Standing::Fenced]);
                let broker = self.random.pick(&waiting)?;
                Command::UnfenceBroker { broker, epoch: believed.brokers.get(&broker)?.epoch }
            }
            10..=13 => self.restart(broker),
            14 => Command::BeginShutdown { broker, epoch },
            15..=25 => return self.leader_proposal(&believed),
            26..=28 => {
                let id = self.pick_partition()?;
                let kind = match self.random.below(6) {
                    0..=1 => ElectionKind::Preferred,
                    2..=4 => ElectionKind::To(broker),
                    _ => ElectionKind::Unclean,
                };
                Command::ElectLeaders { elections: vec![Election { id, kind }] }
            }
            29..=31 => {
                let throttle = self.random.one_in(3).then_some(1 << 20);
                Command::Reassign { id: self.pick_partition()?, replicas: self.pick_brokers(), throttle }
            }
            32 => Command::CancelReassign { id: self.pick_partition()? },
            33 => Command::SetDraining { broker, draining: self.random.one_in(2) },
            34 => return self.create_topic(),
            35 => match self.random.below(6) {
                0 => Command::DeleteTopic { id: self.topic_id() },
                1..=2 => {
                    let expected_count = u32::try_from(self.random.below(4)).unwrap();
                    let new = vec![Assignment { replicas: self.pick_brokers() }];
                    Command::AddPartitions { id: self.topic_id(), new, expected_count }
                }
                _ => {
                    let id = self.topic_id();
                    let expected_version = believed.topic_by_id(id)?.config_version;
                    Command::AlterTopicConfig { id, config: self.config(), expected_version }
                }
            },
            36 => Command::RemoveBroker { broker, epoch },
            37 => {
                let directory = DirectoryId::from_bytes([u8::try_from(self.random.below(6)).unwrap(); 16]);
                let port = u16::try_from(self.random.below(3)).unwrap();
                Command::JoinNode { broker, directory, host: "h".to_owned(), port, returns: port == 0 }
            }
            38 => {
                let nodes: Vec<_> = believed.nodes.keys().copied().collect();
                Command::RemoveNode { raft_id: self.random.pick(&nodes)? }
            }
            _ => Command::AllocateProducerIds { broker, broker_epoch: epoch, count: 10 },
        })
    }

    /// The state as it is, or, now and then, as it was.
    fn believed(&mut self) -> ClusterImage {
        if self.random.one_in(6) { self.stale.clone() } else { self.image().clone() }
    }

    fn restart(&mut self, broker: BrokerId) -> Command {
        let fate = self.random.below(10);
        let repeated = self.random.one_in(8);
        let fenced = self.image().brokers.get(&broker).is_none_or(|broker| broker.fenced);
        let process = self.processes.get_mut(&broker).unwrap();
        if !repeated {
            process.life += 1;
            process.intact = !matches!(fate, 0 | 3);
            // An operator exchanges the disk of a broker that is down; a second process is refused anyway.
            if fate == 1 && fenced {
                process.directory += 1;
            }
        }
        let command = registration(broker, *process);
        if fate == 2 {
            // Another machine under the same id.
            process.directory += 100;
            let rival = registration(broker, *process);
            process.directory -= 100;
            return if fenced { command } else { rival };
        }
        command
    }

    fn leader_proposal(&mut self, believed: &ClusterImage) -> Option<Command> {
        let led: Vec<_> = believed.partitions().filter(|(_, _, p)| p.leader.is_some()).map(|(id, _, _)| id).collect();
        let id = self.random.pick(&led)?;
        let partition = believed.partition(id)?;
        let leader = partition.leader?;
        let mut broker_epoch = believed.brokers.get(&leader)?.epoch;
        let drop = if self.random.one_in(3) { self.random.pick(&partition.replicas) } else { None };
        let drops_all = self.random.one_in(12);
        let mut proposal = self.proposal(id, partition, believed, |broker| !drops_all && Some(broker) != drop)?;
        if partition.recovering && self.random.one_in(2) {
            proposal.recovering = true;
            proposal.isr.retain(|member| member.broker == leader);
        }
        // Now and then not from any state there was yet, or by an earlier life.
        let is_current = self.image().partition(id).is_some_and(|current| current == partition);
        match self.random.below(30) {
            0 if is_current => proposal.partition_epoch = proposal.partition_epoch.next()?,
            1 if is_current => proposal.leader_epoch = proposal.leader_epoch.next()?,
            2 => broker_epoch = BrokerEpoch::new(broker_epoch.get() - 1),
            _ => {}
        }
        Some(Command::AlterPartitions { broker: leader, broker_epoch, proposals: vec![proposal] })
    }

    fn create_topic(&mut self) -> Option<Command> {
        let id = TopicId::from_bytes([u8::try_from(self.random.below(40)).unwrap(); 16]);
        let name = TopicName::new(&format!("t{}", self.random.below(3))).unwrap();
        let partitions = (0..=self.random.below(2)).map(|_| Assignment { replicas: self.pick_brokers() }).collect();
        let config = self.config();
        Some(Command::CreateTopic { name, id, partitions, config, at: Timestamp::from_millis(1) })
    }

    fn config(&mut self) -> BTreeMap<String, String> {
        let mut config = BTreeMap::new();
        config.insert("min.insync.replicas".to_owned(), (1 + self.random.below(3)).to_string());
        if self.random.one_in(6) {
            config.insert("unclean.leader.election.enable".to_owned(), "true".to_owned());
        }
        config
    }

    /// Mostly a topic that exists; otherwise a new one, one that was deleted, or the id that names nothing.
    fn topic_id(&mut self) -> TopicId {
        let known: Vec<TopicId> = self.image().topics().map(|topic| topic.id).collect();
        match self.random.pick(&known) {
            Some(id) if !self.random.one_in(4) => id,
            _ => TopicId::from_bytes([u8::try_from(self.random.below(40)).unwrap(); 16]),
        }
    }

    fn pick_partition(&mut self) -> Option<PartitionId> {
        let partitions = self.partitions();
        self.random.pick(&partitions)
    }

    /// One to four distinct brokers.
    fn pick_brokers(&mut self) -> Vec<BrokerId> {
        let mut left: Vec<u32> = (1..=BROKERS).collect();
        let count = 1 + self.random.below(4);
        let mut chosen = Vec::new();
        for _ in 0..count {
            let index = usize::try_from(self.random.below(left.len() as u64)).unwrap();
            chosen.push(BrokerId::new(left.remove(index)));
        }
        chosen
    }
}
