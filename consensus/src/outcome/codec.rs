//! Answers as bytes: version, kind, fields. They travel between brokers, when one forwards a command to the
//! controller; they are not stored.

use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch};
use streambus_protocol::ids::{BrokerId, ClusterId, DirectoryId, PartitionId, ProducerId, TopicId};
use streambus_protocol::topic_config::ConfigProblem;

use super::{
    AlterRefused, AssignmentProblem, Counter, ElectRefused, InvalidProposal, Limited, Outcome, PartitionVersion,
    RefusedReason, Reply,
};
use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::fields;
use crate::limits::{CONFIG_ENTRIES_MAX, PROPOSALS_MAX};
use crate::types::RaftId;

const VERSION: u8 = 1;
/// Bytes of one text about a configuration.
const PROBLEM_BYTES_MAX: usize = 4096;

impl Reply {
    /// The answer's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.u8(VERSION);
        match self {
            Self::Nothing => out.u8(0),
            Self::Command(Ok(outcome)) => {
                out.u8(1);
                write_outcome(&mut out, outcome);
            }
            Self::Command(Err(reason)) => {
                out.u8(2);
                write_refused(&mut out, reason);
            }
        }
        out.finish()
    }

    /// Reads an answer; every count and length is bounded, and nothing may follow it.
    ///
    /// # Errors
    /// When the bytes are not exactly one answer of a version known here.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Decoder::new(bytes);
        let version = input.u8()?;
        if version != VERSION {
            return Err(DecodeError::NewerVersion { what: "answer", found: version, newest: VERSION });
        }
        let reply = match input.u8()? {
            0 => Self::Nothing,
            1 => Self::Command(Ok(read_outcome(&mut input)?)),
            2 => Self::Command(Err(read_refused(&mut input)?)),
            other => return Err(unknown("answer", other)),
        };
        input.finish()?;
        Ok(reply)
    }
}

fn unknown(what: &'static str, kind: u8) -> DecodeError {
    DecodeError::Invalid { what, found: format!("kind {kind}") }
}

fn write_outcome(out: &mut Encoder, outcome: &Outcome) {
    match outcome {
        Outcome::ClusterFounded { cluster_id } => {
            out.u8(1);
            out.raw(cluster_id.as_bytes());
        }
        Outcome::BrokerRegistered { epoch } => {
            out.u8(2);
            out.u64(epoch.get());
        }
        Outcome::TopicCreated { id } => {
            out.u8(3);
            out.raw(id.as_bytes());
        }
        Outcome::TopicDeleted { id, name } => {
            out.u8(4);
            out.raw(id.as_bytes());
            out.text(name.as_str());
        }
        Outcome::PartitionsAdded { total } => {
            out.u8(5);
            out.u32(*total);
        }
        Outcome::TopicConfigAltered { version } => {
            out.u8(6);
            out.u64(*version);
        }
        Outcome::ProducerIds { first, count } => {
            out.u8(7);
            out.i64(first.get());
            out.u32(*count);
        }
        Outcome::BrokerFenced { changed } => write_changed(out, 8, *changed),
        Outcome::BrokerUnfenced { changed } => write_changed(out, 9, *changed),
        Outcome::ShutdownBegun { leaderless_after } => {
            out.u8(10);
            out.u32(*leaderless_after);
        }
        Outcome::PartitionsAltered { results } => {
            out.u8(11);
            out.count(results.len());
            results.iter().for_each(|result| write_altered(out, result));
        }
        Outcome::LeadersElected { results } => {
            out.u8(12);
            out.count(results.len());
            results.iter().for_each(|result| write_elected(out, *result));
        }
        Outcome::Reassigned { adding, removing } => {
            out.u8(13);
            fields::write_brokers(out, adding);
            fields::write_brokers(out, removing);
        }
        Outcome::DrainingSet { changed } => write_changed(out, 14, *changed),
        Outcome::BrokerRemoved { changed } => write_changed(out, 15, *changed),
        Outcome::NodeJoined { raft_id } => {
            out.u8(16);
            out.u64(raft_id.get());
        }
        Outcome::NodeRemoved { changed } => write_changed(out, 17, *changed),
    }
}

fn write_changed(out: &mut Encoder, kind: u8, changed: bool) {
    out.u8(kind);
    out.bool(changed);
}

fn read_outcome(input: &mut Decoder<'_>) -> Result<Outcome, DecodeError> {
    Ok(match input.u8()? {
        1 => Outcome::ClusterFounded { cluster_id: ClusterId::from_bytes(input.array()?) },
        2 => Outcome::BrokerRegistered { epoch: BrokerEpoch::new(input.u64()?) },
        3 => Outcome::TopicCreated { id: TopicId::from_bytes(input.array()?) },
        4 => Outcome::TopicDeleted { id: TopicId::from_bytes(input.array()?), name: fields::read_topic_name(input)? },
        5 => Outcome::PartitionsAdded { total: input.u32()? },
        6 => Outcome::TopicConfigAltered { version: input.u64()? },
        7 => Outcome::ProducerIds { first: ProducerId::new(input.i64()?), count: input.u32()? },
        8 => Outcome::BrokerFenced { changed: input.bool()? },
        9 => Outcome::BrokerUnfenced { changed: input.bool()? },
        10 => Outcome::ShutdownBegun { leaderless_after: input.u32()? },
        11 => {
            let count = input.count("altered partitions", 1, PROPOSALS_MAX)?;
            Outcome::PartitionsAltered { results: (0..count).map(|_| read_altered(input)).collect::<Result<_, _>>()? }
        }
        12 => {
            let count = input.count("elections", 1, PROPOSALS_MAX)?;
            Outcome::LeadersElected { results: (0..count).map(|_| read_elected(input)).collect::<Result<_, _>>()? }
        }
        13 => Outcome::Reassigned { adding: fields::read_brokers(input)?, removing: fields::read_brokers(input)? },
        14 => Outcome::DrainingSet { changed: input.bool()? },
        15 => Outcome::BrokerRemoved { changed: input.bool()? },
        16 => Outcome::NodeJoined { raft_id: RaftId::new(input.u64()?) },
        17 => Outcome::NodeRemoved { changed: input.bool()? },
        other => return Err(unknown("outcome", other)),
    })
}

fn write_altered(out: &mut Encoder, result: &Result<PartitionVersion, AlterRefused>) {
    match result {
        Ok(version) => {
            out.u8(0);
            out.u32(version.leader_epoch.get());
            out.u32(version.partition_epoch.get());
            fields::write_brokers(out, &version.isr);
            out.bool(version.recovering);
        }
        Err(AlterRefused::UnknownTopic) => out.u8(1),
        Err(AlterRefused::UnknownPartition) => out.u8(2),
        Err(AlterRefused::NotController) => out.u8(3),
        Err(AlterRefused::FencedLeaderEpoch) => out.u8(4),
        Err(AlterRefused::InvalidUpdateVersion) => out.u8(5),
        Err(AlterRefused::NotLeader) => out.u8(6),
        Err(AlterRefused::StaleBrokerEpoch) => out.u8(7),
        Err(AlterRefused::IneligibleReplica(broker)) => write_about(out, 8, *broker),
        Err(AlterRefused::InvalidRequest(InvalidProposal::WithoutLeader)) => out.u8(9),
        Err(AlterRefused::InvalidRequest(InvalidProposal::NotAReplica(broker))) => write_about(out, 10, *broker),
        Err(AlterRefused::InvalidRequest(InvalidProposal::Repeated(broker))) => write_about(out, 11, *broker),
        Err(AlterRefused::InvalidRequest(InvalidProposal::RecoveringWithOthers)) => out.u8(12),
        Err(AlterRefused::InvalidRequest(InvalidProposal::RecoveringAgain)) => out.u8(13),
        Err(AlterRefused::InvalidRequest(InvalidProposal::Exhausted)) => out.u8(14),
    }
}

fn read_altered(input: &mut Decoder<'_>) -> Result<Result<PartitionVersion, AlterRefused>, DecodeError> {
    let refused = match input.u8()? {
        0 => {
            return Ok(Ok(PartitionVersion {
                leader_epoch: LeaderEpoch::new(input.u32()?),
                partition_epoch: PartitionEpoch::new(input.u32()?),
                isr: fields::read_brokers(input)?,
                recovering: input.bool()?,
            }));
        }
        1 => AlterRefused::UnknownTopic,
        2 => AlterRefused::UnknownPartition,
        3 => AlterRefused::NotController,
        4 => AlterRefused::FencedLeaderEpoch,
        5 => AlterRefused::InvalidUpdateVersion,
        6 => AlterRefused::NotLeader,
        7 => AlterRefused::StaleBrokerEpoch,
        8 => AlterRefused::IneligibleReplica(broker(input)?),
        9 => AlterRefused::InvalidRequest(InvalidProposal::WithoutLeader),
        10 => AlterRefused::InvalidRequest(InvalidProposal::NotAReplica(broker(input)?)),
        11 => AlterRefused::InvalidRequest(InvalidProposal::Repeated(broker(input)?)),
        12 => AlterRefused::InvalidRequest(InvalidProposal::RecoveringWithOthers),
        13 => AlterRefused::InvalidRequest(InvalidProposal::RecoveringAgain),
        14 => AlterRefused::InvalidRequest(InvalidProposal::Exhausted),
        other => return Err(unknown("altered partition", other)),
    };
    Ok(Err(refused))
}

fn write_elected(out: &mut Encoder, result: Result<BrokerId, ElectRefused>) {
    match result {
        Ok(leader) => write_about(out, 0, leader),
        Err(ElectRefused::UnknownTopic) => out.u8(1),
        Err(ElectRefused::UnknownPartition) => out.u8(2),
        Err(ElectRefused::NotAReplica(broker)) => write_about(out, 3, broker),
        Err(ElectRefused::NotInSync(broker)) => write_about(out, 4, broker),
        Err(ElectRefused::NotAlive(broker)) => write_about(out, 5, broker),
        Err(ElectRefused::Draining(broker)) => write_about(out, 6, broker),
        Err(ElectRefused::NoneAlive) => out.u8(7),
        Err(ElectRefused::Exhausted) => out.u8(8),
    }
}

fn read_elected(input: &mut Decoder<'_>) -> Result<Result<BrokerId, ElectRefused>, DecodeError> {
    Ok(Err(match input.u8()? {
        0 => return Ok(Ok(broker(input)?)),
        1 => ElectRefused::UnknownTopic,
        2 => ElectRefused::UnknownPartition,
        3 => ElectRefused::NotAReplica(broker(input)?),
        4 => ElectRefused::NotInSync(broker(input)?),
        5 => ElectRefused::NotAlive(broker(input)?),
        6 => ElectRefused::Draining(broker(input)?),
        7 => ElectRefused::NoneAlive,
        8 => ElectRefused::Exhausted,
        other => return Err(unknown("election", other)),
    }))
}

fn write_about(out: &mut Encoder, kind: u8, broker: BrokerId) {
    out.u8(kind);
    out.u32(broker.get());
}

fn broker(input: &mut Decoder<'_>) -> Result<BrokerId, DecodeError> {
    Ok(BrokerId::new(input.u32()?))
}

fn write_refused(out: &mut Encoder, reason: &RefusedReason) {
    match reason {
        RefusedReason::NotFounded => out.u8(1),
        RefusedReason::OtherCluster { current, proposed } => {
            out.u8(2);
            out.raw(current.as_bytes());
            out.raw(proposed.as_bytes());
        }
        RefusedReason::ZeroId => out.u8(3),
        RefusedReason::UnknownBroker(broker) => write_about(out, 4, *broker),
        RefusedReason::StaleBrokerEpoch { broker, current, given } => {
            write_about(out, 5, *broker);
            out.u64(current.get());
            out.u64(given.get());
        }
        RefusedReason::DuplicateBroker { broker, current, given } => {
            write_about(out, 6, *broker);
            out.raw(current.as_bytes());
            out.raw(given.as_bytes());
        }
        RefusedReason::BrokerAlive(broker) => write_about(out, 7, *broker),
        RefusedReason::BrokerHoldsReplicas { broker, replicas } => {
            write_about(out, 8, *broker);
            out.u64(*replicas);
        }
        RefusedReason::DirectoryInUse { directory, owner } => {
            write_about(out, 9, *owner);
            out.raw(directory.as_bytes());
        }
        RefusedReason::UnknownPartition(id) => {
            out.u8(10);
            fields::write_partition_id(out, *id);
        }
        RefusedReason::TooFewInSync { id, in_sync, needed } => {
            out.u8(11);
            fields::write_partition_id(out, *id);
            out.u32(*in_sync);
            out.u32(*needed);
        }
        RefusedReason::TopicDeleted(id) => {
            out.u8(12);
            out.raw(id.as_bytes());
        }
        RefusedReason::TooManyChanges { requested, max } => {
            out.u8(13);
            out.u32(*requested);
            out.u32(*max);
        }
        RefusedReason::TopicExists { name, id } => {
            out.u8(14);
            out.text(name.as_str());
            out.raw(id.as_bytes());
        }
        RefusedReason::TopicIdInUse { id, name } => {
            out.u8(15);
            out.raw(id.as_bytes());
            out.text(name.as_str());
        }
        RefusedReason::UnknownTopic(id) => {
            out.u8(16);
            out.raw(id.as_bytes());
        }
        RefusedReason::PartitionCount { requested, max } => {
            out.u8(17);
            out.u64(*requested);
            out.u64(*max);
        }
        RefusedReason::PartitionCountChanged { expected, actual } => {
            out.u8(18);
            out.u32(*expected);
            out.u32(*actual);
        }
        RefusedReason::ConfigVersionChanged { expected, actual } => {
            out.u8(19);
            out.u64(*expected);
            out.u64(*actual);
        }
        RefusedReason::InvalidConfig(problems) => {
            out.u8(20);
            out.count(problems.len());
            for problem in problems {
                out.text(&problem.key);
                out.text(&problem.problem);
                out.option(problem.suggestion.as_deref(), Encoder::text);
            }
        }
        RefusedReason::InvalidAssignment { partition, problem } => {
            out.u8(21);
            out.u32(*partition);
            write_assignment_problem(out, *problem);
        }
        RefusedReason::ClusterLimit { what, max } => {
            out.u8(22);
            out.u8(match what {
                Limited::Brokers => 1,
                Limited::Topics => 2,
                Limited::Partitions => 3,
                Limited::Nodes => 4,
            });
            out.u64(*max);
        }
        RefusedReason::ProducerCount { requested, max } => {
            out.u8(23);
            out.u32(*requested);
            out.u32(*max);
        }
        RefusedReason::Exhausted(counter) => {
            out.u8(24);
            out.u8(match counter {
                Counter::LeaderEpoch => 1,
                Counter::PartitionEpoch => 2,
                Counter::ConfigVersion => 3,
                Counter::ProducerIds => 4,
                Counter::RaftIds => 5,
            });
        }
    }
}

fn read_refused(input: &mut Decoder<'_>) -> Result<RefusedReason, DecodeError> {
    Ok(match input.u8()? {
        1 => RefusedReason::NotFounded,
        2 => RefusedReason::OtherCluster {
            current: ClusterId::from_bytes(input.array()?),
            proposed: ClusterId::from_bytes(input.array()?),
        },
        3 => RefusedReason::ZeroId,
        4 => RefusedReason::UnknownBroker(broker(input)?),
        5 => RefusedReason::StaleBrokerEpoch {
            broker: broker(input)?,
            current: BrokerEpoch::new(input.u64()?),
            given: BrokerEpoch::new(input.u64()?),
        },
        6 => RefusedReason::DuplicateBroker {
            broker: broker(input)?,
            current: DirectoryId::from_bytes(input.array()?),
            given: DirectoryId::from_bytes(input.array()?),
        },
        7 => RefusedReason::BrokerAlive(broker(input)?),
        8 => RefusedReason::BrokerHoldsReplicas { broker: broker(input)?, replicas: input.u64()? },
        9 => {
            let owner = broker(input)?;
            RefusedReason::DirectoryInUse { directory: DirectoryId::from_bytes(input.array()?), owner }
        }
        10 => RefusedReason::UnknownPartition(partition_id(input)?),
        11 => RefusedReason::TooFewInSync { id: partition_id(input)?, in_sync: input.u32()?, needed: input.u32()? },
        12 => RefusedReason::TopicDeleted(TopicId::from_bytes(input.array()?)),
        13 => RefusedReason::TooManyChanges { requested: input.u32()?, max: input.u32()? },
        14 => RefusedReason::TopicExists {
            name: fields::read_topic_name(input)?,
            id: TopicId::from_bytes(input.array()?),
        },
        15 => RefusedReason::TopicIdInUse {
            id: TopicId::from_bytes(input.array()?),
            name: fields::read_topic_name(input)?,
        },
        16 => RefusedReason::UnknownTopic(TopicId::from_bytes(input.array()?)),
        17 => RefusedReason::PartitionCount { requested: input.u64()?, max: input.u64()? },
        18 => RefusedReason::PartitionCountChanged { expected: input.u32()?, actual: input.u32()? },
        19 => RefusedReason::ConfigVersionChanged { expected: input.u64()?, actual: input.u64()? },
        20 => {
            let count = input.count("configuration problems", 9, CONFIG_ENTRIES_MAX)?;
            RefusedReason::InvalidConfig((0..count).map(|_| read_problem(input)).collect::<Result<_, _>>()?)
        }
        21 => RefusedReason::InvalidAssignment { partition: input.u32()?, problem: read_assignment_problem(input)? },
        22 => {
            let what = match input.u8()? {
                1 => Limited::Brokers,
                2 => Limited::Topics,
                3 => Limited::Partitions,
                4 => Limited::Nodes,
                other => return Err(unknown("limit", other)),
            };
            RefusedReason::ClusterLimit { what, max: input.u64()? }
        }
        23 => RefusedReason::ProducerCount { requested: input.u32()?, max: input.u32()? },
        24 => RefusedReason::Exhausted(match input.u8()? {
            1 => Counter::LeaderEpoch,
            2 => Counter::PartitionEpoch,
            3 => Counter::ConfigVersion,
            4 => Counter::ProducerIds,
            5 => Counter::RaftIds,
            other => return Err(unknown("counter", other)),
        }),
        other => return Err(unknown("refusal", other)),
    })
}

fn partition_id(input: &mut Decoder<'_>) -> Result<PartitionId, DecodeError> {
    fields::read_partition_id(input)
}

fn read_problem(input: &mut Decoder<'_>) -> Result<ConfigProblem, DecodeError> {
    let text = |input: &mut Decoder<'_>| input.text("configuration problem", PROBLEM_BYTES_MAX).map(str::to_owned);
    Ok(ConfigProblem { key: text(input)?, problem: text(input)?, suggestion: input.option(text)? })
}

fn write_assignment_problem(out: &mut Encoder, problem: AssignmentProblem) {
    match problem {
        AssignmentProblem::Empty => out.u8(1),
        AssignmentProblem::TooMany => out.u8(2),
        AssignmentProblem::Repeated(broker) => write_about(out, 3, broker),
        AssignmentProblem::UnknownBroker(broker) => write_about(out, 4, broker),
        AssignmentProblem::NoneAlive => out.u8(5),
        AssignmentProblem::Fenced(broker) => write_about(out, 6, broker),
        AssignmentProblem::Draining(broker) => write_about(out, 7, broker),
    }
}

fn read_assignment_problem(input: &mut Decoder<'_>) -> Result<AssignmentProblem, DecodeError> {
    Ok(match input.u8()? {
        1 => AssignmentProblem::Empty,
        2 => AssignmentProblem::TooMany,
        3 => AssignmentProblem::Repeated(broker(input)?),
        4 => AssignmentProblem::UnknownBroker(broker(input)?),
        5 => AssignmentProblem::NoneAlive,
        6 => AssignmentProblem::Fenced(broker(input)?),
        7 => AssignmentProblem::Draining(broker(input)?),
        other => return Err(unknown("assignment problem", other)),
    })
}

#[cfg(test)]
mod tests;
