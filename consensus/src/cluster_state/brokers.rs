//! Registration, draining and removal of brokers.

use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::BrokerId;

use super::transition::Loss;
use super::{ClusterState, RowKey, Touched};
use crate::command::Command;
use crate::election::Standing;
use crate::image::BrokerImage;
use crate::limits::BROKERS_MAX;
use crate::outcome::{Limited, Outcome, RefusedReason};

impl ClusterState {
    /// B1: registers a broker's new life, fenced, with the log index as its epoch. That ends the former life: what it
    /// led is led by others or by nobody, with a higher leader epoch in any case. Without that, a leader that lost an
    /// unsynced tail would write other records under the epoch of those it lost.
    ///
    /// L3: a life that has another disk, or found damage on its own, also leaves every in-sync and eligible set. One
    /// that lost nothing keeps its place where it was the last one: all that was counted is on its disk.
    pub(super) fn register_broker(
        &mut self,
        index: u64,
        command: &Command,
        touched: &mut Touched,
    ) -> Result<Outcome, RefusedReason> {
        let Command::RegisterBroker { incarnation, endpoint, cluster, directory, intact, version } = command else {
            unreachable!("only registrations are registered, not {command}");
        };
        let (id, epoch) = (endpoint.id, BrokerEpoch::new(index));
        let mut loss = None;
        let mut draining = false;
        match self.broker(id) {
            Some(known) if known.incarnation == *incarnation => {
                return Ok(Outcome::BrokerRegistered { epoch: known.epoch });
            }
            Some(known) => {
                let is_replaced = known.directory != *directory;
                if is_replaced && !known.fenced {
                    return Err(RefusedReason::DuplicateBroker {
                        broker: id,
                        current: known.directory,
                        given: *directory,
                    });
                }
                loss = match (is_replaced, intact) {
                    (true, _) => Some(Loss::Replaced),
                    (false, false) => Some(Loss::Damaged),
                    (false, true) => None,
                };
                draining = known.draining;
            }
            None if self.image.brokers.len() >= BROKERS_MAX => {
                return Err(RefusedReason::ClusterLimit { what: Limited::Brokers, max: BROKERS_MAX as u64 });
            }
            None => {}
        }
        let changes = self.end_of_life(id, loss)?;
        let broker = BrokerImage {
            endpoint: endpoint.clone(),
            cluster: cluster.clone(),
            epoch,
            incarnation: *incarnation,
            directory: *directory,
            fenced: true,
            in_controlled_shutdown: false,
            draining,
            version: version.clone(),
            rack: endpoint.rack.clone(),
        };
        let former = self.image.brokers.insert(id, broker);
        assert!(former.is_none_or(|f| f.epoch < epoch), "broker epochs only grow");
        touched.insert(RowKey::Broker(id));
        if self.image.removed_brokers.remove(&id).is_some() {
            touched.insert(RowKey::RemovedBroker(id));
        }
        self.change_partitions(changes, touched);
        Ok(Outcome::BrokerRegistered { epoch })
    }

    pub(super) fn set_draining(
        &mut self,
        id: BrokerId,
        draining: bool,
        touched: &mut Touched,
    ) -> Result<Outcome, RefusedReason> {
        let broker = self.image.brokers.get_mut(&id).ok_or(RefusedReason::UnknownBroker(id))?;
        let changed = broker.draining != draining;
        if changed {
            broker.draining = draining;
            touched.insert(RowKey::Broker(id));
        }
        Ok(Outcome::DrainingSet { changed })
    }

    pub(super) fn remove_broker(
        &mut self,
        id: BrokerId,
        epoch: BrokerEpoch,
        touched: &mut Touched,
    ) -> Result<Outcome, RefusedReason> {
        if self.broker(id).is_none() && self.image.removed_brokers.get(&id) == Some(&epoch) {
            return Ok(Outcome::BrokerRemoved { changed: false });
        }
        if self.current_broker(id, epoch)?.standing() != Standing::Fenced {
            return Err(RefusedReason::BrokerAlive(id));
        }
        let replicas = self.image.partitions().filter(|(_, _, p)| p.replicas.contains(&id)).count() as u64;
        if replicas > 0 {
            return Err(RefusedReason::BrokerHoldsReplicas { broker: id, replicas });
        }
        self.image.brokers.remove(&id);
        touched.insert(RowKey::Broker(id));
        let removed = &mut self.image.removed_brokers;
        removed.insert(id, epoch);
        touched.insert(RowKey::RemovedBroker(id));
        if removed.len() > BROKERS_MAX
            && let Some(oldest) = removed.iter().min_by_key(|(_, epoch)| **epoch).map(|(id, _)| *id)
        {
            removed.remove(&oldest);
            touched.insert(RowKey::RemovedBroker(oldest));
        }
        Ok(Outcome::BrokerRemoved { changed: true })
    }
}
