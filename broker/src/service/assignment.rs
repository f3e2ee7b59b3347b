//! Moving work between brokers: electing leaders, reassigning partitions, draining and removing brokers.
//!
//! The controller carries the moves out; here they are asked for, and their progress is told from the metadata.

use streambus_consensus::command::{Command, Election, ElectionKind};
use streambus_consensus::controller::drain;
use streambus_consensus::outcome::Outcome;
use streambus_protocol::api::cluster::{
    DrainBrokerRequest, DrainBrokerResponse, ElectLeaderRequest, ElectLeaderResponse, LeaderChoice, ReassignRequest,
    ReassignResponse, RemoveBrokerRequest, RemoveBrokerResponse,
};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, PartitionId, PartitionIndex, TopicName};

use crate::clock::Deadline;
use crate::service::directory::Directory;
use crate::service::refusal;

/// Moves work between brokers.
#[derive(Debug)]
pub struct AssignmentService {
    directory: Directory,
}

impl AssignmentService {
    /// A service over the cluster of `directory`.
    pub fn new(directory: Directory) -> Self {
        Self { directory }
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
        let id = self.partition(&request.topic, request.partition)?;
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
    /// `NO_REASSIGNMENT` when there is no move to stop; `NOT_ENOUGH_REPLICAS` when too few of the former replicas are in
    /// sync to go back to them; those of a metadata change.
    pub async fn reassign(&self, request: ReassignRequest, deadline: Deadline) -> Result<ReassignResponse, ErrorBody> {
        let id = self.partition(&request.topic, request.partition)?;
        let command = match request.replicas {
            Some(replicas) => {
                self.check_assignment(&replicas)?;
                Command::Reassign { id, replicas }
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
        let progress = drain::progress(&self.directory.image(), broker);
        let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(DrainBrokerResponse {
            leaders_left: count(progress.leaders_left),
            replicas_left: count(progress.replicas_left),
            moving: count(progress.moving),
        })
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

    fn partition(&self, topic: &TopicName, partition: PartitionIndex) -> Result<PartitionId, ErrorBody> {
        let image = self.directory.image();
        let topic = self.directory.topic(&image, topic)?;
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

fn unknown_broker(broker: BrokerId) -> ErrorBody {
    ErrorBody::new(ErrorCode::UnknownBroker, format!("broker {broker} is not registered: list the brokers there are"))
}

fn gone(topic: &TopicName) -> ErrorBody {
    ErrorBody::new(ErrorCode::UnknownTopicId, format!("topic '{topic}' was deleted meanwhile"))
}
