//! Registration of brokers, and what a broker's new life does to the partitions it led.

use std::sync::Arc;

use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::{BrokerId, PartitionIndex, TopicId};

use super::{ClusterState, RowKey, Touched};
use crate::command::Incarnation;
use crate::election::elect;
use crate::image::{BrokerImage, PartitionImage};
use crate::limits::BROKERS_MAX;
use crate::outcome::{Outcome, RefusedReason};

impl ClusterState {
    /// Registers a broker's new life: its epoch is the log index, and every partition that its former life led is
    /// led anew, by another in-sync broker if there is one, with a higher leader epoch in any case. Without that, a
    /// leader that lost an unsynced tail would write other records under the epoch of those it lost.
    pub(super) fn register_broker(
        &mut self,
        index: u64,
        incarnation: Incarnation,
        endpoint: &BrokerEndpoint,
        version: &str,
        touched: &mut Touched,
    ) -> Result<Outcome, RefusedReason> {
        let id = endpoint.id;
        if let Some(known) = self.broker(id) {
            if known.incarnation == incarnation {
                return Ok(Outcome::BrokerRegistered { epoch: known.epoch });
            }
        } else if self.image.brokers.len() >= BROKERS_MAX {
            return Err(RefusedReason::ClusterLimit { what: "brokers", max: BROKERS_MAX as u64 });
        }
        let renewed = self.renewed_leaderships(id)?;
        let epoch = BrokerEpoch::new(index);
        let broker = BrokerImage {
            endpoint: endpoint.clone(),
            epoch,
            incarnation,
            // A registration is proof of life; fencing belongs to the controller's liveness tracking.
            fenced: false,
            version: version.to_owned(),
            rack: endpoint.rack.clone(),
        };
        let former = self.image.brokers.insert(id, broker);
        assert!(former.is_none_or(|f| f.epoch < epoch), "broker epochs only grow");
        touched.insert(RowKey::Broker(id));
        for (topic_id, index, partition) in renewed {
            let topic = self.topics_mut().get_mut(&topic_id).map(Arc::make_mut);
            let position = usize::try_from(index.get()).ok();
            if let Some(slot) = topic.zip(position).and_then(|(topic, i)| topic.partitions.get_mut(i)) {
                *slot = Arc::new(partition);
                touched.insert(RowKey::Partition(topic_id, index));
            }
        }
        Ok(Outcome::BrokerRegistered { epoch })
    }

    /// The next state of every partition that waits for `broker` or is led by it. Computed before anything is
    /// changed, so that a refusal leaves no trace.
    fn renewed_leaderships(
        &self,
        broker: BrokerId,
    ) -> Result<Vec<(TopicId, PartitionIndex, PartitionImage)>, RefusedReason> {
        let mut renewed = Vec::new();
        for topic in self.image.topics() {
            for (index, partition) in (0..).zip(&topic.partitions) {
                let led_here = partition.leader == Some(broker);
                let waits = partition.leader.is_none() && partition.isr.contains(&broker);
                if !led_here && !waits {
                    continue;
                }
                let leader = elect(partition, |b| b == broker || self.image.is_alive(b), |b| b == broker);
                let next = PartitionImage {
                    leader,
                    leader_epoch: partition.leader_epoch.next().ok_or(RefusedReason::Exhausted("leader epoch"))?,
                    partition_epoch: partition
                        .partition_epoch
                        .next()
                        .ok_or(RefusedReason::Exhausted("partition epoch"))?,
                    ..PartitionImage::clone(partition)
                };
                renewed.push((topic.id, PartitionIndex::new(index), next));
            }
        }
        Ok(renewed)
    }
}
