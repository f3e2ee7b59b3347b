//! Changes of in-sync replicas that leaders ask for (KIP-497), with the checks of rule I5 in their order.

use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::{BrokerId, PartitionId};

use super::transition::Transition;
use super::{ClusterState, Touched};
use crate::command::IsrProposal;
use crate::image::PartitionImage;
use crate::limits::PROPOSALS_MAX;
use crate::outcome::{AlterRefused, InvalidProposal, Outcome, PartitionVersion, RefusedReason};

impl ClusterState {
    pub(super) fn alter_partitions(
        &mut self,
        sender: BrokerId,
        sender_epoch: BrokerEpoch,
        proposals: &[IsrProposal],
        touched: &mut Touched,
    ) -> Result<Outcome, RefusedReason> {
        check_changes(proposals.len())?;
        let mut results = Vec::with_capacity(proposals.len());
        for proposal in proposals {
            let result = self.check_proposal(sender, sender_epoch, proposal);
            results.push(result.map(|next| {
                if let Some(next) = next {
                    self.change_partitions(vec![(proposal.id, next)], touched);
                }
                self.version(proposal.id)
            }));
        }
        Ok(Outcome::PartitionsAltered { results })
    }

    /// The next state of the partition, or none when it is as proposed already.
    fn check_proposal(
        &self,
        sender: BrokerId,
        sender_epoch: BrokerEpoch,
        proposal: &IsrProposal,
    ) -> Result<Option<PartitionImage>, AlterRefused> {
        let topic = self.image.topic_by_id(proposal.id.topic).ok_or(AlterRefused::UnknownTopic)?;
        let partition = topic.partition(proposal.id.partition).ok_or(AlterRefused::UnknownPartition)?;
        if proposal.leader_epoch > partition.leader_epoch || proposal.partition_epoch > partition.partition_epoch {
            return Err(AlterRefused::NotController);
        }
        if proposal.leader_epoch < partition.leader_epoch {
            return Err(AlterRefused::FencedLeaderEpoch);
        }
        if partition.leader != Some(sender) {
            return Err(AlterRefused::NotLeader);
        }
        if self.broker(sender).is_none_or(|broker| broker.epoch != sender_epoch) {
            return Err(AlterRefused::StaleBrokerEpoch);
        }
        let proposed = |broker: BrokerId| proposal.isr.iter().any(|member| member.broker == broker);
        let same_members =
            proposal.isr.len() == partition.isr.len() && partition.isr.iter().all(|member| proposed(*member));
        if same_members && proposal.recovering == partition.recovering {
            return Ok(None);
        }
        if proposal.partition_epoch < partition.partition_epoch {
            return Err(AlterRefused::InvalidUpdateVersion);
        }
        check_members(sender, partition, proposal).map_err(AlterRefused::InvalidRequest)?;
        for member in proposal.isr.iter().filter(|member| !partition.isr.contains(&member.broker)) {
            let registered = self.broker(member.broker).filter(|broker| broker.epoch == member.epoch);
            if !registered.is_some_and(|broker| broker.standing().is_eligible()) {
                return Err(AlterRefused::IneligibleReplica(member.broker));
            }
        }
        let change = Transition::new(partition, &topic.settings).in_sync(proposed, proposal.recovering);
        let next = change.finish(|broker| self.standing(broker));
        next.map_err(|_| AlterRefused::InvalidRequest(InvalidProposal::Exhausted))
    }

    fn version(&self, id: PartitionId) -> PartitionVersion {
        let partition = self.image.partition(id).map(|partition| PartitionImage::clone(partition)).unwrap_or_default();
        PartitionVersion {
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            isr: partition.isr,
            recovering: partition.recovering,
        }
    }
}

fn check_members(sender: BrokerId, partition: &PartitionImage, proposal: &IsrProposal) -> Result<(), InvalidProposal> {
    for (position, member) in proposal.isr.iter().enumerate() {
        if !partition.replicas.contains(&member.broker) {
            return Err(InvalidProposal::NotAReplica(member.broker));
        }
        if proposal.isr.iter().take(position).any(|earlier| earlier.broker == member.broker) {
            return Err(InvalidProposal::Repeated(member.broker));
        }
    }
    if !proposal.isr.iter().any(|member| member.broker == sender) {
        return Err(InvalidProposal::WithoutLeader);
    }
    match (partition.recovering, proposal.recovering) {
        (false, true) => Err(InvalidProposal::RecoveringAgain),
        (_, true) if proposal.isr.len() > 1 => Err(InvalidProposal::RecoveringWithOthers),
        _ => Ok(()),
    }
}

/// One command changes a limited number of partitions.
pub(super) fn check_changes(changes: usize) -> Result<(), RefusedReason> {
    if changes <= PROPOSALS_MAX {
        return Ok(());
    }
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Err(RefusedReason::TooManyChanges { requested: number(changes), max: number(PROPOSALS_MAX) })
}
