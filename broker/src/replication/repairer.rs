//! Repairs what this disk has lost from other replicas: looks for damage, asks one replica at a time for one piece at a time,
//! puts it in place, and says what it did and what it cannot.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use streambus_consensus::blocking;
use streambus_protocol::ids::PartitionId;
use streambus_protocol::offset::Offset;
use streambus_storage::clock::Clock;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::partition::registry::Registry;
use crate::partition::repair::{MendError, Mended};
use crate::replication::peer_link::PeerLink;
use crate::replication::registration::Registration;
use crate::replication::repair_source::{Given, RepairSource, joined};
use crate::replication::repair_state::{Ask, Next, Refusal, RepairPauses, RepairState, Stuck};
use crate::replication::settings::ReplicationSettings;

/// The longest pause before a replica is asked again for what it could not give.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What could not be repaired, for whoever tells the operator. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct RepairBoard {
    stuck: Arc<Mutex<Vec<Stuck>>>,
}

impl RepairBoard {
    /// Ranges that every other replica was asked for in vain.
    pub fn stuck(&self) -> Vec<Stuck> {
        self.stuck.lock().clone()
    }
}

/// The task.
pub struct Repairer {
    registry: Arc<Registry>,
    link: Arc<dyn PeerLink>,
    registration: Registration,
    clock: Arc<dyn Clock>,
    settings: ReplicationSettings,
    board: RepairBoard,
    state: RepairState,
    /// Where the tombstones lie that a damaged log may have dropped, as far as that was asked: a source is not to be
    /// overtaken by what is written meanwhile.
    lacking: BTreeMap<PartitionId, Offset>,
}

impl Repairer {
    /// Repairs the partitions of `registry` over `link`, and shows on `board` what it cannot.
    pub fn new(
        registry: Arc<Registry>,
        link: Arc<dyn PeerLink>,
        registration: Registration,
        clock: Arc<dyn Clock>,
        settings: ReplicationSettings,
        board: RepairBoard,
    ) -> Self {
        let state = RepairState::new(RepairPauses { min: settings.repair_interval, max: PAUSE_MAX });
        Self { registry, link, registration, clock, settings, board, state, lacking: BTreeMap::new() }
    }

    /// Runs until `stop`. An answer on its way is given up then.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.settings.repair_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.pass() => {}
            }
        }
    }

    /// Looks at every partition, and asks whoever can be asked now.
    async fn pass(&mut self) {
        // Those too that were closed meanwhile.
        let mut ids: BTreeSet<PartitionId> = self.state.damaged().into_iter().collect();
        let damaged = |partition: &Arc<crate::partition::Partition>| partition.log().has_damage();
        ids.extend(self.registry.all().iter().filter(|partition| damaged(partition)).map(|partition| partition.id()));
        for id in ids {
            self.look(id);
        }
        while let Next::Ask(ask) = self.state.next(self.clock.monotonic()) {
            let outcome = self.repair(&ask).await;
            match outcome {
                Ok((mended, bytes)) => tracing::info!(
                    partition = %ask.id, base = %mended.0, next = %mended.1, bytes, from = %ask.source,
                    "batches that this disk had lost were repaired from another replica"
                ),
                Err(refusal) => {
                    tracing::debug!(
                        partition = %ask.id, base = %ask.range.base, next = %ask.range.next, source = %ask.source,
                        why = refusal.text(), "a replica did not help to repair damage"
                    );
                    self.state.on_refused(&ask, refusal, self.clock.monotonic());
                }
            }
            self.look(ask.id);
        }
        *self.board.stuck.lock() = self.state.stuck();
    }

    /// Takes in how a partition is now. What it counts for may be another: its leader is told.
    fn look(&mut self, id: PartitionId) {
        let partition = self.registry.get(id);
        let damage = partition.as_ref().and_then(|partition| partition.damage());
        if damage.is_none() {
            self.lacking.remove(&id);
        }
        let mut is_news = self.state.observe(id, damage);
        if let Some(partition) = partition {
            is_news |= partition.set_prospect(self.state.prospect(id));
        }
        if is_news {
            self.registry.announce_role(id);
        }
    }

    /// Asks for a range and puts in place what comes: the offsets repaired, and their bytes.
    async fn repair(&mut self, ask: &Ask) -> Result<((Offset, Offset), usize), Refusal> {
        let Some(broker_epoch) = self.registration.epoch() else {
            return Err(Refusal::Later("this broker is not registered yet".to_owned()));
        };
        let gone = || Refusal::Later("the partition is gone".to_owned());
        let may_lack_below = self.registry.get(ask.id).ok_or_else(gone)?.may_lack_tombstones_below();
        let may_lack_below = may_lack_below.map(|now| {
            let first = self.lacking.entry(ask.id).or_insert(now);
            // A cut lowers it.
            *first = now.min(*first);
            *first
        });
        let source = RepairSource {
            link: &*self.link,
            asker: (self.registration.broker(), broker_epoch),
            ask,
            bytes_max: self.settings.partition_bytes_max,
            is_last_resort: self.state.is_last_resort(ask),
        };
        let (epoch, range) = (ask.leader_epoch, ask.range);
        let Given { chunks, bytes, deletions } = source.take(may_lack_below).await?;
        let partition = self.registry.get(ask.id).ok_or_else(gone)?;
        let mending = blocking::spawn(move || partition.mend(epoch, range, &chunks, &deletions));
        let Mended { base, next, durable, .. } = match joined(mending.await)? {
            Ok(mended) => mended,
            Err(error) => {
                if !matches!(error, MendError::Past) {
                    tracing::warn!(
                        partition = %ask.id, source = %ask.source, %error,
                        "what a replica gave for damage was not put in place"
                    );
                }
                return Err(Refusal::Later(error.to_string()));
            }
        };
        durable.await.map_err(|error| Refusal::Later(error.to_string()))?;
        Ok(((base, next), bytes))
    }
}

impl fmt::Debug for Repairer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repairer").field("state", &self.state).finish_non_exhaustive()
    }
}
