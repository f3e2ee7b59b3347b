//! Taking a broker's life out of service and putting it into service. Each names the life it means, so that a
//! controller that is out of date does nothing to the next one.

use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::{BrokerId, PartitionId};

use super::transition::{Loss, Transition};
use super::{ClusterState, RowKey, Touched};
use crate::election::Standing;
use crate::image::{BrokerImage, PartitionImage};
use crate::outcome::{Outcome, RefusedReason};

impl ClusterState {
    /// B2: the broker leads nothing and is in sync nowhere that others are, in the same change.
    pub(super) fn fence_broker(
        &mut self,
        id: BrokerId,
        epoch: BrokerEpoch,
        touched: &mut Touched,
    ) -> Result<Outcome, RefusedReason> {
        if !self.broker(id).is_some_and(|broker| broker.epoch == epoch && !broker.fenced) {
            return Ok(Outcome::BrokerFenced { changed: false });
        }
        let changes = self.end_of_life(id, None)?;
        self.update_broker(id, touched, |broker| broker.fenced = true);
        self.change_partitions(changes, touched);
        Ok(Outcome::BrokerFenced { changed: true })
    }

    /// What waits for this broker is led again. A life that has begun to stop is never put into service again.
    pub(super) fn unfence_broker(
        &mut self,
        id: BrokerId,
        epoch: BrokerEpoch,
        touched: &mut Touched,
    ) -> Result<Outcome, RefusedReason> {
        let waits = |b: &BrokerImage| b.epoch == epoch && b.fenced && !b.in_controlled_shutdown;
        let Some(broker) = self.broker(id).filter(|broker| waits(broker)) else {
            return Ok(Outcome::BrokerUnfenced { changed: false });
        };
        let now = BrokerImage { fenced: false, ..broker.clone() }.standing();
        let changes = self.plan_changes(
            |partition| partition.leader.is_none() && partition.replicas.contains(&id),
            |_, same| same,
            |broker| if broker == id { now } else { self.standing(broker) },
        )?;
        self.update_broker(id, touched, |broker| broker.fenced = false);
        self.change_partitions(changes, touched);
        Ok(Outcome::BrokerUnfenced { changed: true })
    }

    /// B3: leaders move first. The broker stays in sync where its leaving would stop writes before it has to.
    pub(super) fn begin_shutdown(
        &mut self,
        id: BrokerId,
        epoch: BrokerEpoch,
        touched: &mut Touched,
    ) -> Result<Outcome, RefusedReason> {
        let broker = self.current_broker(id, epoch)?;
        if !broker.in_controlled_shutdown {
            let fenced = broker.fenced;
            let standing = |broker: BrokerId| match self.standing(broker) {
                _ if broker == id && !fenced => Standing::Stopping,
                other => other,
            };
            let mut changes = Vec::new();
            for (partition_id, topic, partition) in self.image.partitions() {
                if !partition.isr.contains(&id) {
                    continue;
                }
                let others = partition.isr.iter().filter(|b| **b != id && standing(**b).is_eligible()).count();
                let may_leave = others > 0 && partition.isr.len() > partition.in_sync_min(&topic.settings);
                let same = Transition::new(partition, &topic.settings);
                let wanted = if may_leave { same.retain_in_sync(|broker| broker != id) } else { same };
                if let Some(next) = wanted.finish(standing)? {
                    changes.push((partition_id, next));
                }
            }
            self.update_broker(id, touched, |broker| broker.in_controlled_shutdown = true);
            self.change_partitions(changes, touched);
        }
        let led = self.image.partitions().filter(|(_, _, p)| p.leader == Some(id)).count();
        Ok(Outcome::ShutdownBegun { leaderless_after: u32::try_from(led).unwrap_or(u32::MAX) })
    }

    /// The partitions as they are once this life of the broker is over.
    pub(super) fn end_of_life(
        &self,
        id: BrokerId,
        loss: Option<Loss>,
    ) -> Result<Vec<(PartitionId, PartitionImage)>, RefusedReason> {
        self.plan_changes(
            |partition| {
                let counted = [&partition.isr, &partition.elr, &partition.last_known_elr];
                counted.iter().any(|set| set.contains(&id))
            },
            |partition, same| match loss {
                Some(loss) => same.without(id, loss),
                // The last one stays, since everything that was counted is on its disk.
                None if partition.isr.len() > 1 => same.retain_in_sync(|broker| broker != id),
                None => same,
            },
            |broker| if broker == id { Standing::Fenced } else { self.standing(broker) },
        )
    }

    fn update_broker(&mut self, id: BrokerId, touched: &mut Touched, change: impl FnOnce(&mut BrokerImage)) {
        if let Some(broker) = self.image.brokers.get_mut(&id) {
            change(broker);
            touched.insert(RowKey::Broker(id));
        }
    }
}
