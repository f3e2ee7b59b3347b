//! Commands as bytes: version, kind, fields. Golden tests below fix the format; a change takes a new version.

use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch};
use streambus_protocol::ids::{BrokerId, ClusterId, DirectoryId, TopicId};
use streambus_protocol::timestamp::Timestamp;

use super::{Command, Election, ElectionKind, Incarnation, IsrMember, IsrProposal};
use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::fields::{
    read_assignments, read_brokers, read_cluster_endpoint, read_config, read_endpoint, read_partition_id,
    read_topic_name, write_assignments, write_brokers, write_cluster_endpoint, write_config, write_endpoint,
    write_partition_id,
};
use crate::limits::{HOST_BYTES_MAX, PROPOSALS_MAX, REPLICAS_MAX};
use crate::types::RaftId;

const VERSION: u8 = 2;

const FOUND_CLUSTER: u8 = 1;
const REGISTER_BROKER: u8 = 2;
const CREATE_TOPIC: u8 = 3;
const DELETE_TOPIC: u8 = 4;
const ADD_PARTITIONS: u8 = 5;
const ALTER_TOPIC_CONFIG: u8 = 6;
const ALLOCATE_PRODUCER_IDS: u8 = 7;
const FENCE_BROKER: u8 = 8;
const UNFENCE_BROKER: u8 = 9;
const BEGIN_SHUTDOWN: u8 = 10;
const ALTER_PARTITIONS: u8 = 11;
const ELECT_LEADERS: u8 = 12;
const REASSIGN: u8 = 13;
const CANCEL_REASSIGN: u8 = 14;
const SET_DRAINING: u8 = 15;
const REMOVE_BROKER: u8 = 16;
const JOIN_NODE: u8 = 17;
const REMOVE_NODE: u8 = 18;
/// A [`REASSIGN`] with a limit of its own. One without keeps the bytes it has always had.
const REASSIGN_THROTTLED: u8 = 19;
/// A [`JOIN_NODE`] of a broker that was removed. Any other keeps the bytes it has always had.
const JOIN_NODE_AGAIN: u8 = 20;

impl Command {
    /// The command's bytes, as the log and the peers carry them.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.u8(VERSION);
        match self {
            Self::FoundCluster { cluster_id } => {
                out.u8(FOUND_CLUSTER);
                out.raw(cluster_id.as_bytes());
            }
            Self::RegisterBroker { incarnation, endpoint, cluster, directory, intact, version } => {
                out.u8(REGISTER_BROKER);
                out.raw(incarnation.as_bytes());
                write_endpoint(&mut out, endpoint);
                write_cluster_endpoint(&mut out, cluster);
                out.raw(directory.as_bytes());
                out.bool(*intact);
                out.text(version);
            }
            Self::CreateTopic { name, id, partitions, config, at } => {
                out.u8(CREATE_TOPIC);
                out.text(name.as_str());
                out.raw(id.as_bytes());
                write_assignments(&mut out, partitions);
                write_config(&mut out, config);
                out.i64(at.as_millis());
            }
            Self::DeleteTopic { id } => {
                out.u8(DELETE_TOPIC);
                out.raw(id.as_bytes());
            }
            Self::AddPartitions { id, new, expected_count } => {
                out.u8(ADD_PARTITIONS);
                out.raw(id.as_bytes());
                write_assignments(&mut out, new);
                out.u32(*expected_count);
            }
            Self::AlterTopicConfig { id, config, expected_version } => {
                out.u8(ALTER_TOPIC_CONFIG);
                out.raw(id.as_bytes());
                write_config(&mut out, config);
                out.u64(*expected_version);
            }
            Self::AllocateProducerIds { broker, broker_epoch, count } => {
                out.u8(ALLOCATE_PRODUCER_IDS);
                out.u32(broker.get());
                out.u64(broker_epoch.get());
                out.u32(*count);
            }
            Self::FenceBroker { broker, epoch } => write_life(&mut out, FENCE_BROKER, *broker, *epoch),
            Self::UnfenceBroker { broker, epoch } => write_life(&mut out, UNFENCE_BROKER, *broker, *epoch),
            Self::BeginShutdown { broker, epoch } => write_life(&mut out, BEGIN_SHUTDOWN, *broker, *epoch),
            Self::AlterPartitions { broker, broker_epoch, proposals } => {
                write_life(&mut out, ALTER_PARTITIONS, *broker, *broker_epoch);
                out.count(proposals.len());
                proposals.iter().for_each(|proposal| write_proposal(&mut out, proposal));
            }
            Self::ElectLeaders { elections } => {
                out.u8(ELECT_LEADERS);
                out.count(elections.len());
                elections.iter().for_each(|election| write_election(&mut out, election));
            }
            Self::Reassign { id, replicas, throttle } => {
                out.u8(if throttle.is_some() { REASSIGN_THROTTLED } else { REASSIGN });
                write_partition_id(&mut out, *id);
                write_brokers(&mut out, replicas);
                if let Some(throttle) = throttle {
                    out.u64(*throttle);
                }
            }
            Self::CancelReassign { id } => {
                out.u8(CANCEL_REASSIGN);
                write_partition_id(&mut out, *id);
            }
            Self::SetDraining { broker, draining } => {
                out.u8(SET_DRAINING);
                out.u32(broker.get());
                out.bool(*draining);
            }
            Self::RemoveBroker { broker, epoch } => write_life(&mut out, REMOVE_BROKER, *broker, *epoch),
            Self::JoinNode { broker, directory, host, port, returns } => {
                out.u8(if *returns { JOIN_NODE_AGAIN } else { JOIN_NODE });
                out.u32(broker.get());
                out.raw(directory.as_bytes());
                out.text(host);
                out.u16(*port);
            }
            Self::RemoveNode { raft_id } => {
                out.u8(REMOVE_NODE);
                out.u64(raft_id.get());
            }
        }
        out.finish()
    }

    /// Reads a command; every count and length is bounded, and nothing may follow it.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Decoder::new(bytes);
        let version = input.u8()?;
        if version > VERSION {
            return Err(DecodeError::NewerVersion { what: "command", found: version, newest: VERSION });
        }
        if version < VERSION {
            return Err(DecodeError::Invalid { what: "command", found: format!("version {version}") });
        }
        let command = match input.u8()? {
            FOUND_CLUSTER => Self::FoundCluster { cluster_id: ClusterId::from_bytes(input.array()?) },
            REGISTER_BROKER => Self::RegisterBroker {
                incarnation: Incarnation::from_bytes(input.array()?),
                endpoint: read_endpoint(&mut input)?,
                cluster: read_cluster_endpoint(&mut input)?,
                directory: DirectoryId::from_bytes(input.array()?),
                intact: input.bool()?,
                version: input.text("release version", HOST_BYTES_MAX)?.to_owned(),
            },
            CREATE_TOPIC => Self::CreateTopic {
                name: read_topic_name(&mut input)?,
                id: TopicId::from_bytes(input.array()?),
                partitions: read_assignments(&mut input)?,
                config: read_config(&mut input)?,
                at: Timestamp::from_millis(input.i64()?),
            },
            DELETE_TOPIC => Self::DeleteTopic { id: TopicId::from_bytes(input.array()?) },
            ADD_PARTITIONS => Self::AddPartitions {
                id: TopicId::from_bytes(input.array()?),
                new: read_assignments(&mut input)?,
                expected_count: input.u32()?,
            },
            ALTER_TOPIC_CONFIG => Self::AlterTopicConfig {
                id: TopicId::from_bytes(input.array()?),
                config: read_config(&mut input)?,
                expected_version: input.u64()?,
            },
            ALLOCATE_PRODUCER_IDS => Self::AllocateProducerIds {
                broker: BrokerId::new(input.u32()?),
                broker_epoch: BrokerEpoch::new(input.u64()?),
                count: input.u32()?,
            },
            FENCE_BROKER => Self::FenceBroker { broker: broker(&mut input)?, epoch: broker_epoch(&mut input)? },
            UNFENCE_BROKER => Self::UnfenceBroker { broker: broker(&mut input)?, epoch: broker_epoch(&mut input)? },
            BEGIN_SHUTDOWN => Self::BeginShutdown { broker: broker(&mut input)?, epoch: broker_epoch(&mut input)? },
            ALTER_PARTITIONS => Self::AlterPartitions {
                broker: broker(&mut input)?,
                broker_epoch: broker_epoch(&mut input)?,
                proposals: read_proposals(&mut input)?,
            },
            ELECT_LEADERS => Self::ElectLeaders { elections: read_elections(&mut input)? },
            kind @ (REASSIGN | REASSIGN_THROTTLED) => Self::Reassign {
                id: read_partition_id(&mut input)?,
                replicas: read_brokers(&mut input)?,
                throttle: if kind == REASSIGN_THROTTLED { Some(input.u64()?) } else { None },
            },
            CANCEL_REASSIGN => Self::CancelReassign { id: read_partition_id(&mut input)? },
            SET_DRAINING => Self::SetDraining { broker: broker(&mut input)?, draining: input.bool()? },
            REMOVE_BROKER => Self::RemoveBroker { broker: broker(&mut input)?, epoch: broker_epoch(&mut input)? },
            kind @ (JOIN_NODE | JOIN_NODE_AGAIN) => Self::JoinNode {
                broker: broker(&mut input)?,
                directory: DirectoryId::from_bytes(input.array()?),
                host: input.text("cluster host", HOST_BYTES_MAX)?.to_owned(),
                port: input.u16()?,
                returns: kind == JOIN_NODE_AGAIN,
            },
            REMOVE_NODE => Self::RemoveNode { raft_id: RaftId::new(input.u64()?) },
            kind => return Err(DecodeError::Invalid { what: "command", found: format!("kind {kind}") }),
        };
        input.finish()?;
        Ok(command)
    }
}

fn write_life(out: &mut Encoder, kind: u8, broker: BrokerId, epoch: BrokerEpoch) {
    out.u8(kind);
    out.u32(broker.get());
    out.u64(epoch.get());
}

fn broker(input: &mut Decoder<'_>) -> Result<BrokerId, DecodeError> {
    Ok(BrokerId::new(input.u32()?))
}

fn broker_epoch(input: &mut Decoder<'_>) -> Result<BrokerEpoch, DecodeError> {
    Ok(BrokerEpoch::new(input.u64()?))
}

fn write_proposal(out: &mut Encoder, proposal: &IsrProposal) {
    write_partition_id(out, proposal.id);
    out.u32(proposal.leader_epoch.get());
    out.u32(proposal.partition_epoch.get());
    out.count(proposal.isr.len());
    for member in &proposal.isr {
        out.u32(member.broker.get());
        out.u64(member.epoch.get());
    }
    out.bool(proposal.recovering);
}

fn read_proposals(input: &mut Decoder<'_>) -> Result<Vec<IsrProposal>, DecodeError> {
    let count = input.count("proposals", 33, PROPOSALS_MAX)?;
    let member = |input: &mut Decoder<'_>| Ok(IsrMember { broker: broker(input)?, epoch: broker_epoch(input)? });
    let proposal = |input: &mut Decoder<'_>| {
        Ok(IsrProposal {
            id: read_partition_id(input)?,
            leader_epoch: LeaderEpoch::new(input.u32()?),
            partition_epoch: PartitionEpoch::new(input.u32()?),
            isr: {
                let members = input.count("in-sync replicas", 12, REPLICAS_MAX)?;
                (0..members).map(|_| member(input)).collect::<Result<_, DecodeError>>()?
            },
            recovering: input.bool()?,
        })
    };
    (0..count).map(|_| proposal(input)).collect()
}

fn write_election(out: &mut Encoder, election: &Election) {
    write_partition_id(out, election.id);
    match election.kind {
        ElectionKind::Preferred => out.u8(1),
        ElectionKind::To(broker) => {
            out.u8(2);
            out.u32(broker.get());
        }
        ElectionKind::Unclean => out.u8(3),
    }
}

fn read_elections(input: &mut Decoder<'_>) -> Result<Vec<Election>, DecodeError> {
    let count = input.count("elections", 21, PROPOSALS_MAX)?;
    let election = |input: &mut Decoder<'_>| {
        let id = read_partition_id(input)?;
        let kind = match input.u8()? {
            1 => ElectionKind::Preferred,
            2 => ElectionKind::To(broker(input)?),
            3 => ElectionKind::Unclean,
            other => return Err(DecodeError::Invalid { what: "election kind", found: other.to_string() }),
        };
        Ok(Election { id, kind })
    };
    (0..count).map(|_| election(input)).collect()
}

#[cfg(test)]
mod tests;
