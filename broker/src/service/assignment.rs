//! Moving work between brokers: electing leaders, reassigning partitions, draining and removing brokers.
//!
//! The controller carries the moves out; here they are asked for, and their progress is told from the metadata.

use std::collections::BTreeMap;
use std::time::Duration;

use streambus_consensus::command::{Command, Election, ElectionKind};
use streambus_consensus::controller::drain;
use streambus_consensus::image::PartitionImage;
use streambus_consensus::outcome::Outcome;
use streambus_protocol::api::cluster::{
    DrainBrokerRequest, DrainBrokerResponse, ElectLeaderRequest, ElectLeaderResponse, LeaderChoice, ReassignRequest,
    ReassignResponse, RemoveBrokerRequest, RemoveBrokerResponse,
};
use streambus_protocol::api::replica::LeaderLogState;
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, PartitionId, PartitionIndex, TopicName};
use streambus_protocol::limits::PARTITIONS_PER_REQUEST_MAX;

use crate::clock::Deadline;
use crate::service::directory::Directory;
use crate::service::leader_states::LeaderStates;
use crate::service::refusal;
use crate::service::topic_description::leader_log_state;

/// Moves work between brokers.
#[derive(Debug)]
pub struct AssignmentService {
    directory: Directory,
    /// None for a broker on its own: it leads everything.
    leaders: Option<LeaderStates>,
}

impl AssignmentService {
    /// A service over the cluster of `directory`.
    pub fn new(directory: Directory, leaders: Option<LeaderStates>) -> Self {
        Self { directory, leaders }
    }

    /// Gives a partition another leader.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`, `UNKNOWN_PARTITION`; `INELIGIBLE_REPLICA` when the chosen one lacks records or is not alive;
    /// those of a metadata change.
    pub async fn elect(
        &self,
        request: ElectLeaderRequest,
        deadline: Deadline,
    ) -> Result<ElectLeaderResponse, ErrorBody> {
        let id = self.partition(&request.topic, request.partition, deadline).await?;
        let kind = match request.choice {
            LeaderChoice::Preferred => ElectionKind::Preferred,
            LeaderChoice::Broker(broker) => ElectionKind::To(broker),
            LeaderChoice::Unclean => ElectionKind::Unclean,
        };
        let elections = vec![Election { id, kind }];
        let leader = match self.propose(Command::ElectLeaders { elections }, deadline).await? {
            Outcome::LeadersElected { results } => match results.as_slice() {
                [Ok(leader)] => *leader,
                [Err(reason)] => return Err(refusal::election(reason)),
                _ => return Err(refusal::unexpected(&Outcome::LeadersElected { results })),
            },
            other => return Err(refusal::unexpected(&other)),
        };
        let image = self.directory.image();
        let state = image.partition(id).ok_or_else(|| gone(&request.topic))?;
        Ok(ElectLeaderResponse { leader, leader_epoch: state.leader_epoch })
    }

    /// Moves a partition to other brokers, or stops moving it.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`, `UNKNOWN_PARTITION`; `INVALID_ASSIGNMENT` for a list that is no set of registered brokers;
    /// `INVALID_REQUEST` for a limit on no move; `NO_REASSIGNMENT` when there is no move to stop; `NOT_ENOUGH_REPLICAS`
    /// when too few of the former replicas are in sync to go back to them; those of a metadata change.
    pub async fn reassign(&self, request: ReassignRequest, deadline: Deadline) -> Result<ReassignResponse, ErrorBody> {
        let id = self.partition(&request.topic, request.partition, deadline).await?;
        let command = match request.replicas {
            Some(replicas) => {
                self.check_assignment(&replicas)?;
                Command::Reassign { id, replicas, throttle: request.throttle }
            }
            None if request.throttle.is_some() => {
                let text = "a move that is stopped sends nothing: leave out the limit, or name the replicas";
                return Err(ErrorBody::new(ErrorCode::InvalidRequest, text));
            }
            None => {
                if !self.directory.image().partition(id).is_some_and(|state| state.is_moving()) {
                    let text = format!("partition {} of '{}' is not being moved", request.partition, request.topic);
                    return Err(ErrorBody::new(ErrorCode::NoReassignment, text));
                }
                Command::CancelReassign { id }
            }
        };
        match self.propose(command, deadline).await? {
            Outcome::Reassigned { adding, removing } => {
                let image = self.directory.image();
                let state = image.partition(id).ok_or_else(|| gone(&request.topic))?;
                Ok(ReassignResponse { replicas: state.replicas.clone(), adding, removing })
            }
            other => Err(refusal::unexpected(&other)),
        }
    }

    /// Starts or ends draining a broker, and tells how far it is.
    ///
    /// # Errors
    /// `UNKNOWN_BROKER`; those of a metadata change.
    pub async fn drain(
        &self,
        request: DrainBrokerRequest,
        deadline: Deadline,
    ) -> Result<DrainBrokerResponse, ErrorBody> {
        let DrainBrokerRequest { broker, draining } = request;
        let image = self.directory.image();
        let known = image.brokers.get(&broker).ok_or_else(|| unknown_broker(broker))?;
        if known.draining != draining {
            match self.propose(Command::SetDraining { broker, draining }, deadline).await? {
                Outcome::DrainingSet { .. } => {}
                other => return Err(refusal::unexpected(&other)),
            }
        }
        let image = self.directory.image();
        let progress = drain::progress(&image, broker);
        let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let held = image.partitions().filter(|(_, _, partition)| partition.replicas.contains(&broker));
        let held: BTreeMap<PartitionId, &PartitionImage> = held.map(|(id, _, partition)| (id, partition)).collect();
        let states = self.leader_states(&held, deadline.left()).await;
        let lacking = states.iter().filter_map(|(id, state)| Some(lacking_bytes(held.get(id)?, state)));
        Ok(DrainBrokerResponse {
            leaders_left: count(progress.leaders_left),
            replicas_left: count(progress.replicas_left),
            moving: count(progress.moving),
            bytes_left: lacking.fold(0, u64::saturating_add),
            unmeasured: u32::try_from(held.len().saturating_sub(states.len())).unwrap_or(u32::MAX),
        })
    }

    /// What the leaders of `partitions` say about them, as far as each can say in one answer.
    async fn leader_states(
        &self,
        partitions: &BTreeMap<PartitionId, &PartitionImage>,
        left: Duration,
    ) -> BTreeMap<PartitionId, LeaderLogState> {
        let now = self.directory.now();
        let mut states = BTreeMap::new();
        let mut elsewhere: BTreeMap<BrokerId, Vec<PartitionId>> = BTreeMap::new();
        for (id, partition) in partitions {
            match partition.leader {
                Some(leader) if leader == self.directory.broker() => {
                    let here = self.directory.registry().get(*id);
                    states.extend(here.map(|partition| (*id, leader_log_state(&partition, now))));
                }
                Some(leader) => {
                    let asked = elsewhere.entry(leader).or_default();
                    if asked.len() < PARTITIONS_PER_REQUEST_MAX {
                        asked.push(*id);
                    }
                }
                None => {}
            }
        }
        if let Some(leaders) = &self.leaders {
            states.extend(leaders.ask(elsewhere, left).await);
        }
        states
    }

    /// Forgets a broker that is fenced and holds nothing.
    ///
    /// # Errors
    /// `UNKNOWN_BROKER`; `BROKER_NOT_EMPTY`; those of a metadata change.
    pub async fn remove(
        &self,
        request: RemoveBrokerRequest,
        deadline: Deadline,
    ) -> Result<RemoveBrokerResponse, ErrorBody> {
        let broker = request.broker;
        let image = self.directory.image();
        let epoch = image.brokers.get(&broker).ok_or_else(|| unknown_broker(broker))?.epoch;
        match self.propose(Command::RemoveBroker { broker, epoch }, deadline).await? {
            Outcome::BrokerRemoved { .. } => Ok(RemoveBrokerResponse {}),
            other => Err(refusal::unexpected(&other)),
        }
    }

    async fn partition(
        &self,
        topic: &TopicName,
        partition: PartitionIndex,
        deadline: Deadline,
    ) -> Result<PartitionId, ErrorBody> {
        let topic = self.directory.existing_topic(topic, deadline).await?;
        if topic.partition(partition).is_some() {
            return Ok(PartitionId { topic: topic.id, partition });
        }
        let (name, count) = (&topic.name, topic.partitions.len());
        let text = format!("topic '{name}' has {count} partitions, numbered from 0: there is no partition {partition}");
        Err(ErrorBody::new(ErrorCode::UnknownPartition, text))
    }

    fn check_assignment(&self, replicas: &[BrokerId]) -> Result<(), ErrorBody> {
        let refuse = |text: String| Err(ErrorBody::new(ErrorCode::InvalidAssignment, text));
        let image = self.directory.image();
        if replicas.is_empty() {
            return refuse("a partition has at least one replica".to_owned());
        }
        for (i, broker) in replicas.iter().enumerate() {
            if replicas.iter().take(i).any(|other| other == broker) {
                return refuse(format!("broker {broker} is named twice"));
            }
            if !image.brokers.contains_key(broker) {
                return refuse(format!("broker {broker} is not registered"));
            }
        }
        Ok(())
    }

    async fn propose(&self, command: Command, deadline: Deadline) -> Result<Outcome, ErrorBody> {
        let proposed = self.directory.metadata().propose_within(command, deadline.left()).await;
        proposed.map_err(|error| refusal::propose(&error))
    }
}

/// What those that take over a replica still lack: all of it, as long as nobody was chosen.
fn lacking_bytes(partition: &PartitionImage, state: &LeaderLogState) -> u64 {
    if !partition.is_moving() {
        return state.size_bytes;
    }
    let added = state.replicas.iter().filter(|replica| partition.adding.contains(&replica.broker));
    added.fold(0, |bytes, replica| bytes.saturating_add(replica.lag_bytes))
}

fn unknown_broker(broker: BrokerId) -> ErrorBody {
    ErrorBody::new(ErrorCode::UnknownBroker, format!("broker {broker} is not registered: list the brokers there are"))
}

fn gone(topic: &TopicName) -> ErrorBody {
    ErrorBody::new(ErrorCode::UnknownTopicId, format!("topic '{topic}' was deleted meanwhile"))
}

#[cfg(test)]
mod tests {
    use streambus_protocol::api::topics::ReplicaDescription;
    use streambus_protocol::offset::Offset;

    use super::*;

    // Catches a drain that counts what the replicas lack that stay, or nothing before its moves have begun.
    #[test]
    fn what_is_left_is_what_those_who_take_over_lack() {
        let id = BrokerId::new;
        let replica = |broker, lag_bytes| ReplicaDescription {
            broker: id(broker),
            log_end: Offset::ZERO,
            durable_end: Offset::ZERO,
            lag_records: 1,
            in_sync: false,
            caught_up_ms_ago: None,
            lag_bytes,
            bytes_per_second: 0,
        };
        let state = LeaderLogState {
            log_start: Offset::ZERO,
            high_watermark: Offset::ZERO,
            log_end: Offset::ZERO,
            size_bytes: 1_000,
            damaged: Vec::new(),
            replicas: vec![replica(1, 0), replica(2, 7), replica(3, 400), replica(4, 50)],
        };
        let still = PartitionImage { replicas: vec![id(1), id(2)], ..PartitionImage::default() };
        assert_eq!(lacking_bytes(&still, &state), 1_000, "a whole copy");
        let moving = PartitionImage { adding: vec![id(3), id(4)], removing: vec![id(2)], ..still.clone() };
        assert_eq!(lacking_bytes(&moving, &state), 450);
        let leaving = PartitionImage { removing: vec![id(2)], ..still };
        assert_eq!(lacking_bytes(&leaving, &state), 0, "nobody takes over");
    }
}
