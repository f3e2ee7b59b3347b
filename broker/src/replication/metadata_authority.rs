//! The metadata group as the authority over in-sync sets.

use std::fmt;

use futures::FutureExt;
use futures::future::BoxFuture;
use streambus_consensus::command::{Command, IsrMember, IsrProposal};
use streambus_consensus::error::ProposeError;
use streambus_consensus::node::MetadataNode;
use streambus_consensus::outcome::{AlterRefused, Outcome};
use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::{BrokerId, PartitionId};

use crate::replication::in_sync::{ChangeAnswer, IsrChange, PartitionVersion};
use crate::replication::isr_proposer::IsrAuthority;

/// Proposes as one broker.
#[derive(Clone)]
pub struct MetadataAuthority {
    broker: BrokerId,
    metadata: MetadataNode,
}

impl MetadataAuthority {
    /// Proposes as `broker`.
    pub fn new(broker: BrokerId, metadata: MetadataNode) -> Self {
        Self { broker, metadata }
    }
}

impl fmt::Debug for MetadataAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetadataAuthority").field("broker", &self.broker).finish_non_exhaustive()
    }
}

impl IsrAuthority for MetadataAuthority {
    fn propose(
        &self,
        epoch: BrokerEpoch,
        changes: Vec<(PartitionId, IsrChange)>,
    ) -> BoxFuture<'_, Result<Vec<ChangeAnswer>, ChangeAnswer>> {
        let command = command(self.broker, epoch, changes);
        async move { answers(self.metadata.propose(command).await) }.boxed()
    }
}

/// The command that asks for `changes`.
pub fn command(broker: BrokerId, broker_epoch: BrokerEpoch, changes: Vec<(PartitionId, IsrChange)>) -> Command {
    let proposal = |(id, change): (PartitionId, IsrChange)| IsrProposal {
        id,
        leader_epoch: change.leader_epoch,
        partition_epoch: change.partition_epoch,
        isr: change.isr.iter().map(|member| IsrMember { broker: member.broker, epoch: member.epoch }).collect(),
        recovering: change.recovering,
    };
    Command::AlterPartitions { broker, broker_epoch, proposals: changes.into_iter().map(proposal).collect() }
}

/// What the group's answer means for each change (rule I4).
///
/// # Errors
/// The same answer for all of them.
pub fn answers(result: Result<Outcome, ProposeError>) -> Result<Vec<ChangeAnswer>, ChangeAnswer> {
    match result {
        Ok(Outcome::PartitionsAltered { results }) => Ok(results.into_iter().map(answer).collect()),
        Ok(other) => {
            tracing::error!(?other, "the metadata group answered another command");
            Err(ChangeAnswer::Unknown)
        }
        Err(ProposeError::Refused(_) | ProposeError::NotApplied(_)) => Err(ChangeAnswer::NotApplied),
        Err(ProposeError::Unknown(_)) => Err(ChangeAnswer::Unknown),
    }
}

fn answer(result: Result<streambus_consensus::outcome::PartitionVersion, AlterRefused>) -> ChangeAnswer {
    match result {
        Ok(version) => ChangeAnswer::Applied(PartitionVersion {
            leader_epoch: version.leader_epoch,
            partition_epoch: version.partition_epoch,
            isr: version.isr,
            recovering: version.recovering,
        }),
        Err(AlterRefused::IneligibleReplica(_)) => ChangeAnswer::NotApplied,
        // Applied to a state that is older than what this broker has seen: the same again will be judged by a newer one.
        Err(AlterRefused::NotController) => ChangeAnswer::Unknown,
        Err(
            AlterRefused::UnknownTopic
            | AlterRefused::UnknownPartition
            | AlterRefused::FencedLeaderEpoch
            | AlterRefused::InvalidUpdateVersion
            | AlterRefused::NotLeader
            | AlterRefused::StaleBrokerEpoch,
        ) => ChangeAnswer::Superseded,
        Err(AlterRefused::InvalidRequest(problem)) => {
            tracing::error!(%problem, "the metadata group refused a change that this leader should not have proposed");
            ChangeAnswer::Superseded
        }
    }
}
