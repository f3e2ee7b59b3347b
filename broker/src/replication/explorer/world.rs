//! The cluster: three brokers, the messages between them, the controller's state, a client, and who does what next.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use streambus_consensus::command::{Assignment, Command, Election, ElectionKind};
use streambus_consensus::explore::State;
use streambus_consensus::image::{ClusterImage, PartitionImage};
use streambus_protocol::epoch::{LeaderEpoch, PartitionEpoch};
use streambus_protocol::ids::{BrokerId, ClusterId, PartitionId, PartitionIndex, TopicId, TopicName};
use streambus_protocol::timestamp::Timestamp;

use super::controller::config;
use super::lineage::Lineages;
use super::random::Random;
use super::replica::{Fetch, Part, Replica, Reply};
use crate::replication::in_sync::{ChangeAnswer, IsrChange};
use crate::replication::metadata_authority;
use crate::replication::planted::PlantedBug;

pub(super) const PARTITION: PartitionId =
    PartitionId { topic: TopicId::from_bytes([5; 16]), partition: PartitionIndex::new(0) };
/// Records from here on come from producers that number nothing.
pub(super) const NOISE: u64 = 1_000_000;
/// Numbered records on their way at a time.
pub(super) const WINDOW: u64 = 3;
/// Tells the draws for unclean elections from all others of a seed.
const DESPERATION: u64 = 0x5eed_0fde_5a1e;
/// In how many of a thousand steps an operator who gives up looks whether there is reason to.
const DESPERATE_STEPS: usize = 10;
const LAST_STEPS: usize = 60;
const NAMES: &[&str] = &["BrokerId", "BrokerEpoch", "LeaderEpoch", "PartitionEpoch", "Offset"];

/// A message on its way.
#[derive(Clone, Debug)]
pub(super) enum Message {
    Fetch(BrokerId, Fetch, u8),
    Reply(BrokerId, BrokerId, Reply),
    Progress(BrokerId, Fetch),
    Alter(Sender, Command),
    AlterReply(Sender, ChangeAnswer),
}

/// Whose change of the in-sync set, and of which state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sender {
    broker: BrokerId,
    life: u8,
    leader_epoch: LeaderEpoch,
    asked: PartitionEpoch,
    /// Its number among the broker's changes.
    change: u64,
}

/// A record that waits to be acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) broker: BrokerId,
    pub(super) life: u8,
    pub(super) leader_epoch: LeaderEpoch,
    pub(super) value: u64,
    pub(super) next: usize,
}

/// The cluster.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) replicas: BTreeMap<BrokerId, Replica>,
    pub(super) controller: State,
    pub(super) index: u64,
    pub(super) history: Vec<Arc<ClusterImage>>,
    pub(super) messages: Vec<Message>,
    pub(super) waiting: Vec<Waiting>,
    pub(super) now: Duration,
    pub(super) next_value: u64,
    /// Records that were acknowledged, those included that were given up later.
    pub(super) acknowledged: usize,
    pub(super) next_noise: u64,
    /// What was promised.
    pub(super) lineages: Lineages,
    pub(super) wipes: usize,
    pub(super) loses_disks: bool,
    /// The operator gives records up rather than wait for those that have them.
    pub(super) gives_up: bool,
    /// Draws for that alone: a run without it is as it would be if there were no such thing.
    pub(super) desperation: Random,
    trace: VecDeque<String>,
    trace_hash: DefaultHasher,
}

impl World {
    pub(super) fn new(seed: u64, planted: Option<PlantedBug>) -> Self {
        let mut random = Random::new(seed);
        let loses_disks = random.chance(60);
        let mut desperation = Random::new(seed ^ DESPERATION);
        let gives_up = desperation.chance(35);
        let ids = (1..=3).map(BrokerId::new);
        let mut world = Self {
            random,
            replicas: ids.map(|id| (id, Replica::new(id, planted))).collect(),
            controller: State::new(),
            index: 0,
            history: Vec::new(),
            messages: Vec::new(),
            waiting: Vec::new(),
            now: Duration::ZERO,
            next_value: 1,
            acknowledged: 0,
            next_noise: NOISE,
            lineages: Lineages::new(),
            wipes: 0,
            loses_disks,
            gives_up,
            desperation,
            trace: VecDeque::new(),
            trace_hash: DefaultHasher::new(),
        };
        let _founded = world.apply(&Command::FoundCluster { cluster_id: ClusterId::from_bytes([9; 16]) });
        for id in world.ids() {
            world.start(id);
            world.register(id);
            world.unfence(id);
        }
        let created = world.apply(&Command::CreateTopic {
            name: TopicName::new("t").expect("a name"),
            id: PARTITION.topic,
            partitions: vec![Assignment { replicas: world.ids() }],
            config: config(2),
            at: Timestamp::from_millis(1),
        });
        assert!(created.is_some(), "the topic must exist");
        for id in world.ids() {
            world.see_latest(id);
        }
        world
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    pub(super) fn trace_hash(&self) -> u64 {
        self.trace_hash.finish()
    }

    pub(super) fn last_steps(&self) -> impl Iterator<Item = &String> {
        self.trace.iter()
    }

    pub(super) fn image(&self) -> &ClusterImage {
        self.controller.image()
    }

    pub(super) fn state(&self) -> &PartitionImage {
        let topic = self.image().topic_by_id(PARTITION.topic).expect("the topic");
        topic.partition(PARTITION.partition).expect("the partition")
    }

    pub(super) fn ids(&self) -> Vec<BrokerId> {
        self.replicas.keys().copied().collect()
    }

    pub(super) fn replica(&mut self, id: BrokerId) -> &mut Replica {
        self.replicas.get_mut(&id).expect("one of three")
    }

    fn any(&mut self) -> BrokerId {
        let ids = self.ids();
        ids[self.random.below(ids.len())]
    }

    pub(super) fn note(&mut self, what: String) {
        // The shape of a number's type says nothing.
        let what = NAMES.iter().fold(what, |text, name| text.replace(name, ""));
        what.hash(&mut self.trace_hash);
        if self.trace.len() == LAST_STEPS {
            self.trace.pop_front();
        }
        self.trace.push_back(what);
    }

    // --- the brokers

    pub(super) fn start(&mut self, id: BrokerId) {
        if !self.replicas[&id].is_up {
            self.replica(id).start();
            self.note(format!("broker {id} starts"));
        }
    }

    pub(super) fn crash(&mut self, id: BrokerId) {
        if self.replicas[&id].is_up {
            let mut random = Random::new(self.random.next());
            self.replica(id).crash(&mut random);
            let (len, durable) = (self.replicas[&id].log.len(), self.replicas[&id].log.durable_len());
            self.note(format!("broker {id} crashes and keeps {len} records, {durable} durable"));
        }
    }

    /// Loses a disk, if that is the only loss at the time: two others hold everything anybody could have read.
    fn lose_disk(&mut self, id: BrokerId) {
        let others: Vec<BrokerId> = self.ids().into_iter().filter(|other| *other != id).collect();
        let holds_all = |replica: &Replica| {
            let durable = replica.log.durable_len();
            let disk = replica.log.entries().get(..durable).unwrap_or_default();
            let lineage = self.lineages.of(self.state().leader_epoch);
            lineage.is_some_and(|lineage| lineage.check_promises().is_ok() && lineage.missing_in(disk).is_none())
        };
        let eligible = |other: &BrokerId| self.state().isr.contains(other) || self.state().elr.contains(other);
        if others.iter().all(|other| eligible(other) && holds_all(&self.replicas[other]) && self.has_own_disk(*other)) {
            self.crash(id);
            self.replica(id).wipe();
            self.wipes += 1;
            self.note(format!("broker {id} loses its disk"));
        }
    }

    /// True when the disk of `id` is the one the controller knows.
    pub(super) fn has_own_disk(&self, id: BrokerId) -> bool {
        let replica = &self.replicas[&id];
        self.image().brokers.get(&id).is_some_and(|broker| broker.directory.as_bytes()[1] == replica.disk + 1)
    }

    pub(super) fn see_latest(&mut self, id: BrokerId) {
        let (image, now) = (self.history.last().cloned(), self.now);
        if let (true, Some(image)) = (self.replicas[&id].is_up, image) {
            self.replica(id).see(image, now);
            self.note_leader(id);
        }
    }

    /// A broker sees a later state of the metadata, perhaps skipping some.
    fn see_some(&mut self, id: BrokerId) {
        let replica = &self.replicas[&id];
        let seen = replica.seen.as_ref().map_or(0, |image| image.applied);
        let later: Vec<Arc<ClusterImage>> =
            self.history.iter().filter(|image| image.applied > seen).map(Arc::clone).collect();
        if !replica.is_up || later.is_empty() {
            return;
        }
        let image = Arc::clone(&later[self.random.below(later.len())]);
        let now = self.now;
        self.note(format!("broker {id} sees metadata {}", image.applied));
        self.replica(id).see(image, now);
        self.note_leader(id);
    }

    /// A leader that begins has appended nothing yet.
    fn note_leader(&mut self, id: BrokerId) {
        let replica = &self.replicas[&id];
        if let Some(epoch) = replica.leads() {
            self.lineages.on_leading(epoch, replica.log.entries());
        }
    }

    pub(super) fn fetch(&mut self, id: BrokerId) {
        let life = self.replicas[&id].life;
        if let Some((leader, fetch)) = self.replica(id).fetch() {
            self.messages.push(Message::Fetch(leader, fetch, life));
        }
    }

    pub(super) fn sync(&mut self, id: BrokerId, count: usize) {
        let now = self.now;
        let replica = self.replica(id);
        if !replica.is_up || replica.log.unsynced() == 0 {
            return;
        }
        // As from time to time: a record goes to the disk behind what is on its way there.
        if !matches!(replica.part, Part::Idle) {
            replica.log.record_committed(replica.high_watermark);
        }
        replica.log.sync(count);
        replica.advance(now);
        let durable = replica.log.durable_len();
        if let Some((leader, progress)) = self.replicas[&id].progress() {
            self.messages.push(Message::Progress(leader, progress));
        }
        self.note(format!("broker {id} has {durable} records on disk"));
    }

    pub(super) fn propose(&mut self, id: BrokerId) {
        let now = self.now;
        let replica = self.replica(id);
        let (log, life, epoch) = (replica.leader_log(), replica.life, replica.epoch);
        let (Part::Leading(leading), Some(epoch)) = (&mut replica.part, epoch) else { return };
        let Some(change) = leading.state.next_change(log, now) else { return };
        replica.changes += 1;
        replica.open_change = Some(replica.changes);
        let number = replica.changes;
        let sender = Sender {
            broker: id,
            life,
            leader_epoch: change.leader_epoch,
            asked: change.partition_epoch,
            change: number,
        };
        self.note(format!("broker {id} proposes {}", brief(&change)));
        let command = metadata_authority::command(id, epoch, vec![(PARTITION, change)]);
        self.messages.push(Message::Alter(sender, command));
    }

    fn answer(&mut self, sender: Sender, answer: ChangeAnswer) {
        let now = self.now;
        let replica = self.replica(sender.broker);
        // An answer that comes after its sender gave up waiting finds nobody.
        if replica.open_change != Some(sender.change) {
            return;
        }
        replica.open_change = None;
        if replica.life == sender.life
            && let Part::Leading(leading) = &mut replica.part
            && leading.state.leader_epoch() == sender.leader_epoch
        {
            leading.state.on_change_answer(sender.asked, answer);
            replica.advance(now);
        }
    }

    // --- messages

    pub(super) fn deliver(&mut self, at: usize) -> Result<(), String> {
        let message = self.messages.swap_remove(at);
        self.note(format!("deliver {message:?}"));
        self.receive(message)
    }

    fn receive(&mut self, message: Message) -> Result<(), String> {
        let now = self.now;
        match message {
            Message::Fetch(to, fetch, life) => {
                if let Some(reply) = self.replica(to).on_fetch(fetch, life, now) {
                    self.messages.push(Message::Reply(to, fetch.from, reply));
                }
            }
            Message::Reply(from, to, reply) => {
                let before = self.replicas[&to].log.entries().to_vec();
                self.replica(to).on_reply(from, &reply)?;
                let (after, lineage) = (self.replicas[&to].log.len(), self.lineages.of(reply.answer.leader_epoch));
                if let Some(lineage) = lineage.filter(|_| after < before.len()) {
                    lineage.check_cut(&before, after).map_err(|broken| format!("broker {to}: {broken}"))?;
                }
            }
            Message::Progress(to, progress) => self.replica(to).on_progress(progress, now),
            Message::Alter(sender, command) => {
                let outcome = self.decide(&command);
                self.note(format!("the controller answers {outcome:?}"));
                let answer = match outcome {
                    Ok(outcome) => match metadata_authority::answers(Ok(outcome)) {
                        Ok(mut answers) => answers.pop().unwrap_or(ChangeAnswer::Unknown),
                        Err(answer) => answer,
                    },
                    Err(_) => ChangeAnswer::NotApplied,
                };
                self.messages.push(Message::AlterReply(sender, answer));
            }
            Message::AlterReply(sender, answer) => self.answer(sender, answer),
        }
        Ok(())
    }

    /// A message never arrives. The sender of a change learns only that it knows nothing.
    fn lose(&mut self, at: usize) {
        let message = self.messages.swap_remove(at);
        self.note(format!("lose {message:?}"));
        if let Message::Alter(sender, _) | Message::AlterReply(sender, _) = message {
            self.answer(sender, ChangeAnswer::Unknown);
        }
    }

    /// A message arrives and is still on its way; for a change, its sender gives up waiting.
    fn duplicate(&mut self, at: usize) {
        let message = self.messages[at].clone();
        if let Message::Alter(sender, _) = message {
            self.answer(sender, ChangeAnswer::Unknown);
        }
        if self.messages.len() < 60 {
            self.note(format!("duplicate {message:?}"));
            self.messages.push(message);
        }
    }

    // --- the scheduler

    /// One step of the phase with faults. A broken rule shows in the next check, or here.
    pub(super) fn step(&mut self) {
        self.now += Duration::from_millis(self.random.next() % 150);
        if self.gives_up && self.desperation.below(1_000) < DESPERATE_STEPS {
            self.give_up();
        }
        let id = self.any();
        match self.random.below(1_000) {
            0..=269 => self.deliver_any(),
            270..=289 => self.with_message(Self::lose),
            290..=299 => self.with_message(Self::duplicate),
            300..=449 => self.fetch(id),
            450..=599 => {
                let count = 1 + self.random.below(4);
                self.sync(id, count);
            }
            600..=699 => self.produce(id),
            700..=779 => self.see_some(id),
            780..=839 => self.see_latest(id),
            840..=889 => self.propose(id),
            890..=899 => self.now += Duration::from_secs(11),
            900..=906 => self.crash(id),
            907..=944 => {
                self.start(id);
                self.register(id);
            }
            945..=964 => self.unfence(id),
            965..=974 => {
                // A dead broker, or a live one that the controller takes for dead.
                if !self.replicas[&id].is_up || self.random.chance(30) {
                    self.fence(id);
                }
            }
            975..=981 => {
                let kind = if self.random.chance(50) { ElectionKind::Preferred } else { ElectionKind::To(id) };
                let _outcome = self.apply(&Command::ElectLeaders { elections: vec![Election { id: PARTITION, kind }] });
            }
            982..=987 => self.change_min_isr(),
            988..=989 => {
                let epoch = self.replicas[&id].epoch;
                if let Some(epoch) = epoch {
                    let _outcome = self.apply(&Command::BeginShutdown { broker: id, epoch });
                }
            }
            990..=993 => {
                // A life that began to shut down ends soon.
                if self.image().brokers.get(&id).is_some_and(|broker| broker.in_controlled_shutdown) {
                    self.crash(id);
                }
            }
            _ => {
                if self.loses_disks {
                    self.lose_disk(id);
                }
            }
        }
    }

    fn deliver_any(&mut self) {
        if !self.messages.is_empty() {
            let at = self.random.below(self.messages.len());
            self.deliver(at).unwrap_or_else(|broken| panic!("{broken}"));
        }
    }

    fn with_message(&mut self, act: fn(&mut Self, usize)) {
        if !self.messages.is_empty() {
            let at = self.random.below(self.messages.len());
            act(self, at);
        }
    }

    /// Acknowledges, then looks at every invariant.
    pub(super) fn check(&mut self) -> Result<(), String> {
        self.acknowledge()?;
        self.check_invariants()
    }
}

fn brief(change: &IsrChange) -> String {
    let members: Vec<_> = change.isr.iter().map(|member| (member.broker.get(), member.epoch.get())).collect();
    format!("isr {members:?} for version {}", change.partition_epoch)
}
