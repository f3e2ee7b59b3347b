//! Elections that the controller or an operator asks for. An in-sync replica leads without any loss; giving records up
//! is a decision of its own.

use streambus_protocol::ids::{BrokerId, PartitionId};

use super::in_sync::check_changes;
use super::transition::Transition;
use super::{ClusterState, Touched};
use crate::command::{Election, ElectionKind};
use crate::election::Standing;
use crate::image::{PartitionImage, TopicImage};
use crate::outcome::{ElectRefused, Outcome, RefusedReason};

impl ClusterState {
    pub(super) fn elect_leaders(
        &mut self,
        elections: &[Election],
        touched: &mut Touched,
    ) -> Result<Outcome, RefusedReason> {
        check_changes(elections.len())?;
        let mut results = Vec::with_capacity(elections.len());
        for election in elections {
            let result = self.check_election(*election);
            results.push(result.map(|(leader, next)| {
                if let Some(next) = next {
                    self.change_partitions(vec![(election.id, next)], touched);
                }
                leader
            }));
        }
        Ok(Outcome::LeadersElected { results })
    }

    /// Who leads, and the next state of the partition unless it is so already.
    fn check_election(&self, election: Election) -> Result<(BrokerId, Option<PartitionImage>), ElectRefused> {
        let (topic, partition) = self.elected_partition(election.id)?;
        let same = Transition::new(partition, &topic.settings);
        let wanted = match election.kind {
            ElectionKind::Preferred => partition.replicas.first().copied().ok_or(ElectRefused::NoneAlive)?,
            ElectionKind::To(broker) => broker,
            ElectionKind::Unclean => {
                if let Some(leader) = partition.leader {
                    return Ok((leader, None));
                }
                let next = finish(same.allow_unclean(), self)?.ok_or(ElectRefused::NoneAlive)?;
                return Ok((next.leader.ok_or(ElectRefused::NoneAlive)?, Some(next)));
            }
        };
        if partition.leader == Some(wanted) {
            return Ok((wanted, None));
        }
        if !partition.replicas.contains(&wanted) {
            return Err(ElectRefused::NotAReplica(wanted));
        }
        match self.standing(wanted) {
            Standing::Fenced | Standing::Stopping => return Err(ElectRefused::NotAlive(wanted)),
            Standing::Draining => return Err(ElectRefused::Draining(wanted)),
            Standing::Serving => {}
        }
        if !partition.isr.contains(&wanted) {
            return Err(ElectRefused::NotInSync(wanted));
        }
        Ok((wanted, finish(same.led_by(wanted), self)?))
    }

    fn elected_partition(&self, id: PartitionId) -> Result<(&TopicImage, &PartitionImage), ElectRefused> {
        let topic = self.image.topic_by_id(id.topic).ok_or(ElectRefused::UnknownTopic)?;
        Ok((topic, topic.partition(id.partition).ok_or(ElectRefused::UnknownPartition)?))
    }
}

fn finish(change: Transition<'_>, state: &ClusterState) -> Result<Option<PartitionImage>, ElectRefused> {
    change.finish(|broker| state.standing(broker)).map_err(|_| ElectRefused::Exhausted)
}
