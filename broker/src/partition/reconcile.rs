//! Making what is here equal to what the metadata says: opening logs, taking roles, deleting what nobody needs here.
//!
//! Two steps. [`Reconciler::reach`] takes roles up and gives them up; a log that it finds without one is held: not served
//! and not touched. [`Reconciler::sweep`] then deletes those that the metadata, confirmed by a quorum, proves to be superfluous
//! and puts the others in quarantine ([`crate::partition::fate`] decides): metadata that looks empty must never delete data.
//! What is in quarantine goes by an operator's word as well ([`Reconciler::discard`]).

mod discarding;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use streambus_consensus::blocking;
use streambus_consensus::delta::ClusterDelta;
use streambus_consensus::image::{ClusterImage, PartitionImage, TopicImage};
use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::{PartitionId, PartitionIndex, TopicName};
use streambus_storage::clock::Clock;
use streambus_storage::error::{DurabilityLost, StoreError};
use streambus_storage::partition_log::{Durable, LogOptions, PartitionLog};
use streambus_storage::store::Store;

use crate::partition::fate::{Fate, Gone, HeldLog, Life, fate};
use crate::partition::quarantine::{Quarantine, Stray};
use crate::partition::registry::Registry;
use crate::partition::role::{Leadership, Role};
use crate::partition::step_down::StepDown;
use crate::partition::{Owner, Partition};

/// Follows the metadata. Owned by one task; every step is idempotent, so that a failed one is repeated as a whole.
#[derive(Debug)]
pub struct Reconciler {
    owner: Owner,
    /// This process, as the metadata must know it before anything is deleted.
    life: Life,
    store: Store,
    registry: Arc<Registry>,
    clock: Arc<dyn Clock>,
    step_down: Arc<StepDown>,
    /// What has been reached.
    reached: Arc<ClusterImage>,
    /// Logs without a role, about which nothing is decided yet.
    unjudged: BTreeSet<PartitionId>,
    quarantine: Arc<Quarantine>,
}

/// Why the metadata's state was not reached. What was done stays done; try again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// A log could not be created or changed.
    #[error("partition {partition} of '{topic}': {source}")]
    Log {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionIndex,
        /// The store's answer.
        source: StoreError,
    },
    /// A log that nobody needs here could not be deleted.
    #[error("deleting the log {log}: {source}")]
    Delete {
        /// Whose it was.
        log: PartitionId,
        /// The store's answer.
        source: StoreError,
    },
    /// A new leadership is not on disk, so it must not serve.
    #[error("a new leadership is not on disk: {0}")]
    Epoch(#[from] DurabilityLost),
    /// The blocking part panicked, or the runtime is going down.
    #[error("opening partitions was interrupted")]
    Interrupted,
}

/// A partition as the metadata wants it here.
#[derive(Clone, Debug)]
struct Desired {
    id: PartitionId,
    topic: TopicName,
    role: Role,
}

/// What became of logs that were to be deleted: those that are gone, and why the next one is not.
type Deleted = (Vec<PartitionId>, Result<(), ReconcileError>);

/// A log whose leadership is on its way to the disk.
struct Opened {
    desired: Desired,
    log: PartitionLog,
    epoch_durable: Option<Durable>,
}

impl Reconciler {
    /// A reconciler that has reached nothing yet, of the process that registered with `epoch`.
    pub fn new(owner: Owner, epoch: BrokerEpoch, store: Store, registry: Arc<Registry>, clock: Arc<dyn Clock>) -> Self {
        let step_down = Arc::new(StepDown::new(owner.broker, Arc::clone(&registry), Arc::clone(&clock)));
        let life = Life { broker: owner.broker, epoch };
        let reached = Arc::new(ClusterImage::empty());
        let quarantine = Arc::new(Quarantine::default());
        Self { owner, life, store, registry, clock, step_down, reached, unjudged: BTreeSet::new(), quarantine }
    }

    /// Ends leaderships by newer metadata while [`Reconciler::reach`] waits for the disk.
    pub fn step_down(&self) -> Arc<StepDown> {
        Arc::clone(&self.step_down)
    }

    /// The logs that stay although this broker is not known to hold them.
    pub fn quarantine(&self) -> Arc<Quarantine> {
        Arc::clone(&self.quarantine)
    }

    /// Makes what is here equal to `image`. After an error, call it again with the newest image: the comparison starts
    /// from what was reached last, so nothing is missed. What newer metadata, given to [`Reconciler::step_down`], has ended
    /// in between is left for the next call.
    pub async fn reach(&mut self, image: Arc<ClusterImage>) -> Result<(), ReconcileError> {
        let delta = ClusterDelta::between(&self.reached, &image);
        let desired = self.desired(&delta, &image);
        self.step_down.look(&image);
        self.close_deleted(&delta, &image);
        self.give_up(&delta, &desired);
        let changed = !desired.is_empty();
        for desired in &desired {
            if let Some(partition) = self.registry.get(desired.id)
                && desired.role.leadership == Leadership::Here
            {
                partition.pause_following();
            }
        }
        let opened = self.open(desired).await?;
        for Opened { desired, log, epoch_durable } in opened {
            if let Some(durable) = epoch_durable {
                durable.await?;
            }
            let (id, now) = (desired.id, self.clock.monotonic());
            if !self.step_down.still_stands(id, &desired.role) {
                continue;
            }
            match self.registry.get(id) {
                Some(partition) => partition.set_role(desired.role, now),
                None => {
                    let partition = Partition::new(id, desired.topic, log, self.owner, desired.role, now);
                    self.registry.insert(Arc::new(partition));
                }
            }
            self.registry.announce_role(id);
        }
        self.unjudged.extend(self.quarantine.passing());
        self.reached = image;
        if changed {
            self.registry.announce_change();
        }
        Ok(())
    }

    /// True while there are logs without a role, about which [`Reconciler::sweep`] may have something to decide.
    pub fn is_undecided(&self) -> bool {
        !self.unjudged.is_empty()
    }

    /// Decides about the logs without a role, and deletes those that nobody needs here. `confirmed` is not older than what was
    /// reached, and a quorum has said that nothing newer was acknowledged when this was called for. After an error, call it
    /// again: what could not be deleted is left for the next call.
    pub async fn sweep(&mut self, confirmed: &ClusterImage) -> Result<(), ReconcileError> {
        debug_assert!(confirmed.applied >= self.reached.applied, "what is confirmed is not older");
        let mut settled = self.quarantine.which(|id| self.registry.get(id).is_some());
        self.unjudged.retain(|id| self.registry.get(*id).is_none());
        let (mut strays, mut doomed) = (Vec::new(), Vec::new());
        for id in std::mem::take(&mut self.unjudged) {
            let Some(log) = self.store.log(id) else {
                settled.push(id);
                continue;
            };
            let held = HeldLog::of(&log);
            match fate(&held, confirmed, self.life) {
                // It is opened once that metadata is reached.
                Fate::Keep => {
                    settled.push(id);
                    self.unjudged.insert(id);
                }
                Fate::Delete(gone) => doomed.push((id, gone)),
                Fate::Quarantine(doubt) => strays.push(Stray { log: held, doubt }),
            }
        }
        self.quarantine.change(strays, &settled);
        self.unjudged.extend(doomed.iter().map(|(id, _)| *id));
        let (deleted, outcome) = self.delete(doomed).await?;
        for id in &deleted {
            self.unjudged.remove(id);
        }
        self.quarantine.change(Vec::new(), &deleted);
        outcome
    }

    async fn delete(&self, doomed: Vec<(PartitionId, Gone)>) -> Result<Deleted, ReconcileError> {
        if doomed.is_empty() {
            return Ok((Vec::new(), Ok(())));
        }
        let store = self.store.clone();
        let deleting = blocking::spawn(move || {
            let mut deleted = Vec::with_capacity(doomed.len());
            for (log, gone) in doomed {
                match store.delete_log(log) {
                    Ok(()) | Err(StoreError::UnknownLog) => {
                        tracing::info!(partition = %log, reason = %gone, "deleted a log that nobody needs here");
                        deleted.push(log);
                    }
                    Err(source) => return (deleted, Err(ReconcileError::Delete { log, source })),
                }
            }
            (deleted, Ok(()))
        });
        deleting.await.map_err(|_| ReconcileError::Interrupted)
    }

    /// Has `id` decided about by the next [`Reconciler::sweep`]; until then, and for as long as it is in doubt, its log stays
    /// as it is.
    fn hold(&mut self, id: PartitionId) {
        if let Some(log) = self.store.log(id) {
            log.hold();
            self.unjudged.insert(id);
        }
    }

    /// Gives up what is on other brokers only. Waiters learn at once. Before anything is opened: that may need the space.
    fn give_up(&mut self, delta: &ClusterDelta, desired: &[Desired]) {
        let mut has_given_up = false;
        for change in &delta.partitions {
            let holds = |state: &PartitionImage| state.replicas.contains(&self.owner.broker);
            if holds(&change.after) {
                continue;
            }
            let partition = self.registry.remove(change.id);
            if let Some(partition) = &partition {
                let after = &change.after;
                let leadership = after.leader.map_or(Leadership::Nobody, Leadership::There);
                partition.resign(leadership, after.leader_epoch);
                self.registry.announce_role(change.id);
                tracing::info!(partition = %change.id, "this broker no longer holds a partition");
                has_given_up = true;
            }
            if partition.is_some() || change.before.as_deref().is_some_and(holds) {
                self.hold(change.id);
            }
        }
        if self.reached.applied == 0 {
            // Of an earlier life, whose metadata may have wanted what this one's does not.
            let wanted: HashSet<PartitionId> = desired.iter().map(|desired| desired.id).collect();
            for id in self.store.log_ids() {
                if !wanted.contains(&id) && self.registry.get(id).is_none() {
                    self.hold(id);
                }
            }
        }
        if has_given_up {
            self.registry.announce_change();
        }
    }

    /// Gives up what was deleted. Waiters learn at once.
    fn close_deleted(&mut self, delta: &ClusterDelta, image: &ClusterImage) {
        let mut has_closed = false;
        for topic in &delta.deleted {
            // Its absence proves nothing: only the record of its deletion does.
            if !image.is_deleted(topic.id) {
                tracing::error!(
                    topic = %topic.name, id = %topic.id,
                    "a topic is gone from the metadata without a record of its deletion: its logs are kept and not served"
                );
            }
            for (id, state) in indexed(topic) {
                if state.replicas.contains(&self.owner.broker) {
                    if let Some(partition) = self.registry.remove(id) {
                        partition.resign(Leadership::Nobody, state.leader_epoch);
                    }
                    self.registry.announce_role(id);
                    has_closed = true;
                }
                // Also a log in quarantine, whose topic is gone by now.
                self.hold(id);
            }
        }
        if has_closed {
            self.registry.announce_change();
        }
    }

    fn desired(&self, delta: &ClusterDelta, image: &ClusterImage) -> Vec<Desired> {
        let mut desired = Vec::new();
        for topic in delta.created.iter().chain(&delta.reconfigured) {
            desired.extend(indexed(topic).filter_map(|(id, state)| self.desire(image, topic, id, state)));
        }
        for change in &delta.partitions {
            if let Some(topic) = image.topic_by_id(change.id.topic) {
                desired.extend(self.desire(image, topic, change.id, &change.after));
            }
        }
        // A leader judges its followers by their registrations: those of a broker that came or went are news to it.
        if !delta.brokers.is_empty() {
            let named: HashSet<PartitionId> = desired.iter().map(|desired| desired.id).collect();
            for partition in self.registry.all() {
                let id = partition.id();
                let role = partition.role();
                let concerns = role.leadership == Leadership::Here && role.is_replicated() && !named.contains(&id);
                if concerns
                    && let Some(topic) = image.topic_by_id(id.topic)
                    && let Some(state) = topic.partition(id.partition)
                {
                    desired.extend(self.desire(image, topic, id, state));
                }
            }
        }
        desired
    }

    fn desire(
        &self,
        image: &ClusterImage,
        topic: &TopicImage,
        id: PartitionId,
        state: &PartitionImage,
    ) -> Option<Desired> {
        state.replicas.contains(&self.owner.broker).then(|| Desired {
            id,
            topic: topic.name.clone(),
            role: Role::of(self.owner.broker, image, topic, state),
        })
    }

    async fn open(&self, desired: Vec<Desired>) -> Result<Vec<Opened>, ReconcileError> {
        if desired.is_empty() {
            return Ok(Vec::new());
        }
        let store = self.store.clone();
        let opening = blocking::spawn(move || {
            desired.into_iter().map(|desired| open_one(&store, desired)).collect::<Result<Vec<_>, _>>()
        });
        opening.await.map_err(|_| ReconcileError::Interrupted)?
    }
}

fn open_one(store: &Store, desired: Desired) -> Result<Opened, ReconcileError> {
    let options = LogOptions::from(&desired.role.settings);
    let error = |source| ReconcileError::Log { topic: desired.topic.clone(), partition: desired.id.partition, source };
    let log = store.create_log(desired.id, options).map_err(error)?;
    if log.options() != options {
        store.set_options(desired.id, options).map_err(error)?;
    }
    // A new leader's epoch is on disk before it serves, also when no record follows (rule E2, KAFKA-7415). Once: a change
    // of the in-sync set is no new leadership.
    let epoch = desired.role.leader_epoch;
    let is_new = log.latest_epoch().is_none_or(|latest| latest.epoch != epoch);
    let begins = desired.role.leadership == Leadership::Here && is_new;
    let epoch_durable = if begins { Some(log.start_epoch(epoch).map_err(error)?) } else { None };
    Ok(Opened { desired, log, epoch_durable })
}

fn indexed(topic: &TopicImage) -> impl Iterator<Item = (PartitionId, &PartitionImage)> {
    (0..)
        .zip(&topic.partitions)
        .map(|(index, state)| (PartitionId { topic: topic.id, partition: PartitionIndex::new(index) }, state.as_ref()))
}

#[cfg(test)]
mod tests;
