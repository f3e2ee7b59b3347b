//! The parts of replication put together, for the composition root and for tests.

use std::sync::Arc;

use streambus_storage::clock::Clock;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::partition::Owner;
use crate::partition::registry::Registry;
use crate::replication::copying::Copying;
use crate::replication::due_set::DueSet;
use crate::replication::isr_proposer::{IsrAuthority, IsrProposer};
use crate::replication::own_disk;
use crate::replication::peer_link::PeerLink;
use crate::replication::registration::Registration;
use crate::replication::repairer::{RepairBoard, Repairer};
use crate::replication::replica_service::LeaderService;
use crate::replication::settings::ReplicationSettings;
use crate::service::reader::ReadBudget;

/// Replication of one broker. The service exists before the tasks run: the cluster listener is there first.
#[derive(Debug)]
pub struct Engine {
    registry: Arc<Registry>,
    registration: Registration,
    clock: Arc<dyn Clock>,
    settings: ReplicationSettings,
    isr_due: Arc<DueSet>,
    service: LeaderService,
    repairs: RepairBoard,
}

impl Engine {
    /// Replication of the partitions in `registry`. `budget` bounds what followers' reads from disk hold in memory; it is
    /// theirs alone.
    pub fn new(
        registry: Arc<Registry>,
        registration: Registration,
        clock: Arc<dyn Clock>,
        settings: ReplicationSettings,
        budget: ReadBudget,
    ) -> Self {
        let isr_due = Arc::new(DueSet::new());
        let service =
            LeaderService::new(Arc::clone(&registry), budget, Arc::clone(&clock), settings, Arc::clone(&isr_due));
        Self { registry, registration, clock, settings, isr_due, service, repairs: RepairBoard::default() }
    }

    /// What partitions need to know of their broker.
    pub fn owner(&self) -> Owner {
        Owner { broker: self.registration.broker(), lag_limit: self.settings.lag_limit }
    }

    /// Where the broker's registration is to be set once it is known.
    pub fn registration(&self) -> &Registration {
        &self.registration
    }

    /// What followers ask.
    pub fn service(&self) -> LeaderService {
        self.service.clone()
    }

    /// What could not be repaired from other replicas.
    pub fn repairs(&self) -> RepairBoard {
        self.repairs.clone()
    }

    /// Starts the tasks on `tasks`: copying from leaders over `link`, repairing damage, moving watermarks, proposing
    /// changes to `authority`. They end when `stop` is cancelled.
    pub fn start(
        &self,
        link: Arc<dyn PeerLink>,
        authority: Arc<dyn IsrAuthority>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let registry = || Arc::clone(&self.registry);
        let clock = Arc::clone(&self.clock);
        let copying = Copying::new(registry(), Arc::clone(&link), self.registration.clone(), self.settings, clock);
        tasks.spawn(copying.run(stop.clone()));
        let (registration, clock) = (self.registration.clone(), Arc::clone(&self.clock));
        let repairer = Repairer::new(registry(), link, registration, clock, self.settings, self.repairs());
        tasks.spawn(repairer.run(stop.clone()));
        tasks.spawn(own_disk::run(registry(), Arc::clone(&self.clock), stop.clone()));
        let proposer = IsrProposer::new(
            registry(),
            authority,
            self.registration.clone(),
            Arc::clone(&self.clock),
            self.settings,
            Arc::clone(&self.isr_due),
        );
        tasks.spawn(proposer.run(stop.clone()));
    }
}
