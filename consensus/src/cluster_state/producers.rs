//! Blocks of producer ids (KIP-98): unique in the cluster for ever, never handed out twice.

use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::{BrokerId, ProducerId};

use super::{ClusterState, RowKey, Touched};
use crate::limits::PRODUCER_BLOCK_MAX;
use crate::outcome::{Counter, Outcome, RefusedReason};

impl ClusterState {
    pub(super) fn allocate_producer_ids(
        &mut self,
        broker: BrokerId,
        given: BrokerEpoch,
        count: u32,
        touched: &mut Touched,
    ) -> Result<Outcome, RefusedReason> {
        self.current_broker(broker, given)?;
        if count == 0 || count > PRODUCER_BLOCK_MAX {
            return Err(RefusedReason::ProducerCount { requested: count, max: PRODUCER_BLOCK_MAX });
        }
        let first = self.producer_id_next;
        let next = first.checked_add(i64::from(count)).ok_or(RefusedReason::Exhausted(Counter::ProducerIds))?;
        assert!(first >= 0 && next > first, "producer ids only grow");
        self.producer_id_next = next;
        touched.insert(RowKey::Cluster);
        Ok(Outcome::ProducerIds { first: ProducerId::new(first), count })
    }
}
