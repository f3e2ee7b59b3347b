//! What the controller decides, and who asks it to: the true state machine, and the commands of brokers and operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use streambus_consensus::command::{ClusterEndpoint, Command, Election, ElectionKind, Incarnation};
use streambus_consensus::outcome::{Outcome, RefusedReason};
use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::ids::{BrokerId, DirectoryId};

use super::world::{PARTITION, World};

const UNCLEAN: &str = "unclean.leader.election.enable";

impl World {
    /// Applies a command; every state is kept, for brokers that lag.
    pub(super) fn decide(&mut self, command: &Command) -> Result<Outcome, RefusedReason> {
        let former = self.unclean_epoch();
        self.index += 1;
        let outcome = self.controller.apply(self.index, command);
        self.history.push(Arc::new(self.controller.image().clone()));
        if let Some(epoch) = self.unclean_epoch().filter(|epoch| former != Some(*epoch)) {
            self.lineages.on_unclean_election(epoch);
            self.note(format!("records may be given up from epoch {epoch} on"));
        }
        outcome
    }

    /// The last leadership that began with an unclean election.
    fn unclean_epoch(&self) -> Option<LeaderEpoch> {
        self.image().topic_by_id(PARTITION.topic)?.partition(PARTITION.partition)?.unclean_epoch
    }

    /// Applies a command and notes what it has come to.
    pub(super) fn apply(&mut self, command: &Command) -> Option<Outcome> {
        let outcome = self.decide(command);
        if !matches!(command, Command::FoundCluster { .. } | Command::CreateTopic { .. }) {
            let state = self.state();
            let text = format!(
                "apply {} -> {outcome:?}; leader {:?} epoch {} version {} isr {:?} elr {:?}",
                command.name(),
                state.leader.map(BrokerId::get),
                state.leader_epoch,
                state.partition_epoch,
                state.isr,
                state.elr
            );
            if self.image().topic_by_id(PARTITION.topic).is_some() {
                self.note(text);
            }
        }
        outcome.ok()
    }

    pub(super) fn register(&mut self, id: BrokerId) {
        let replica = self.replica(id);
        if !replica.is_up || replica.epoch.is_some() {
            return;
        }
        let number = u8::try_from(id.get()).expect("small");
        let mut incarnation = [replica.life; 16];
        incarnation[0] = number;
        let mut directory = [replica.disk + 1; 16];
        directory[0] = number;
        let command = Command::RegisterBroker {
            incarnation: Incarnation::from_bytes(incarnation),
            endpoint: BrokerEndpoint { id, host: "b".to_owned(), port: 9092, rack: None },
            cluster: ClusterEndpoint { host: "b".to_owned(), port: 9093 },
            directory: DirectoryId::from_bytes(directory),
            intact: true,
            version: "1".to_owned(),
        };
        self.register_with(id, &command);
    }

    fn register_with(&mut self, id: BrokerId, command: &Command) {
        let outcome = self.decide(command);
        self.note(format!("broker {id} registers -> {outcome:?}"));
        if let Ok(Outcome::BrokerRegistered { epoch }) = outcome {
            self.replica(id).epoch = Some(epoch);
        }
    }

    /// A broker whose registration is current and has reached it is put into service.
    pub(super) fn unfence(&mut self, id: BrokerId) {
        let registered = self.image().brokers.get(&id).map(|broker| (broker.epoch, broker.fenced));
        let replica = &self.replicas[&id];
        if let (true, Some(epoch), Some((current, true))) = (replica.is_up, replica.epoch, registered)
            && epoch == current
        {
            let outcome = self.decide(&Command::UnfenceBroker { broker: id, epoch });
            self.note(format!("broker {id} is unfenced -> {outcome:?}"));
        }
    }

    pub(super) fn fence(&mut self, id: BrokerId) {
        if let Some(broker) = self.image().brokers.get(&id)
            && !broker.fenced
        {
            let epoch = broker.epoch;
            let _outcome = self.apply(&Command::FenceBroker { broker: id, epoch });
        }
    }

    pub(super) fn change_min_isr(&mut self) {
        // Whoever is known to be complete is forgotten with the number that made it so (KIP-966): nobody changes that
        // while it is what a lost disk would be replaced from.
        if self.loses_disks && (self.state().isr.len() < 3 || !self.ids().iter().all(|id| self.has_own_disk(*id))) {
            return;
        }
        // With one replica enough, one lost disk may lose what was acknowledged: then nothing is lost here.
        let min = if self.loses_disks { 2 + self.random.below(2) } else { 1 + self.random.below(3) };
        let version = self.image().topic_by_id(PARTITION.topic).map_or(0, |topic| topic.config_version);
        let config = config(min);
        let _outcome =
            self.apply(&Command::AlterTopicConfig { id: PARTITION.topic, config, expected_version: version });
    }

    /// Gives up what only dead brokers have, if nobody who has it is alive and somebody else is: the operator elects, or
    /// has the topic allow it for a moment.
    pub(super) fn give_up(&mut self) {
        let state = self.state();
        let is_alive = |id: &BrokerId| self.image().brokers.get(id).is_some_and(|b| b.standing().is_eligible());
        if state.leader.is_some() || state.isr.iter().chain(&state.elr).any(is_alive) {
            return;
        }
        if self.desperation.chance(50) {
            let elections = vec![Election { id: PARTITION, kind: ElectionKind::Unclean }];
            let _outcome = self.apply(&Command::ElectLeaders { elections });
            return;
        }
        let Some((former, version)) =
            self.image().topic_by_id(PARTITION.topic).map(|topic| (topic.config.clone(), topic.config_version))
        else {
            return;
        };
        let mut allowing = former.clone();
        allowing.insert(UNCLEAN.to_owned(), "true".to_owned());
        for (config, expected_version) in [(allowing, version), (former, version + 1)] {
            let altered = self.apply(&Command::AlterTopicConfig { id: PARTITION.topic, config, expected_version });
            assert!(altered.is_some(), "nobody else changes the settings");
        }
    }
}

pub(super) fn config(min_isr: usize) -> BTreeMap<String, String> {
    [("min.insync.replicas".to_owned(), min_isr.to_string())].into()
}
