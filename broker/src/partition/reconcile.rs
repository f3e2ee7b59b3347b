//! Making what is here equal to what the metadata says: opening logs, taking roles, deleting what was deleted.
//!
//! A log is deleted only when the metadata has a record of its topic's deletion. A log that the metadata does not know is
//! kept, is not served, and is said: metadata that looks empty must never delete data.

use std::collections::HashSet;
use std::sync::Arc;

use streambus_consensus::blocking;
use streambus_consensus::delta::ClusterDelta;
use streambus_consensus::image::{ClusterImage, PartitionImage, TopicImage};
use streambus_protocol::ids::{PartitionId, PartitionIndex, TopicName};
use streambus_storage::clock::Clock;
use streambus_storage::error::{DurabilityLost, StoreError};
use streambus_storage::partition_log::{Durable, LogOptions, PartitionLog};
use streambus_storage::store::Store;

use crate::partition::registry::Registry;
use crate::partition::role::{Leadership, Role};
use crate::partition::step_down::StepDown;
use crate::partition::{Owner, Partition};

/// Follows the metadata. Owned by one task; every step is idempotent, so that a failed one is repeated as a whole.
#[derive(Debug)]
pub struct Reconciler {
    owner: Owner,
    store: Store,
    registry: Arc<Registry>,
    clock: Arc<dyn Clock>,
    step_down: Arc<StepDown>,
    /// What has been reached.
    reached: Arc<ClusterImage>,
}

/// Why the metadata's state was not reached. What was done stays done; try again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// A log could not be created, changed or deleted.
    #[error("partition {partition} of '{topic}': {source}")]
    Log {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionIndex,
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

/// A log whose leadership is on its way to the disk.
struct Opened {
    desired: Desired,
    log: PartitionLog,
    epoch_durable: Option<Durable>,
}

impl Reconciler {
    /// A reconciler that has reached nothing yet.
    pub fn new(owner: Owner, store: Store, registry: Arc<Registry>, clock: Arc<dyn Clock>) -> Self {
        let step_down = Arc::new(StepDown::new(owner.broker, Arc::clone(&registry), Arc::clone(&clock)));
        Self { owner, store, registry, clock, step_down, reached: Arc::new(ClusterImage::empty()) }
    }

    /// Ends leaderships by newer metadata while [`Reconciler::reach`] waits for the disk.
    pub fn step_down(&self) -> Arc<StepDown> {
        Arc::clone(&self.step_down)
    }

    /// Logs in the data directory that `image` does not place here: kept and not served.
    pub fn strays(&self, image: &ClusterImage) -> Vec<PartitionId> {
        let belongs = |id: &PartitionId| {
            let topic = image.topic_by_id(id.topic);
            topic.and_then(|t| t.partition(id.partition)).is_some_and(|p| p.replicas.contains(&self.owner.broker))
        };
        self.store.log_ids().into_iter().filter(|id| !belongs(id)).collect()
    }

    /// Makes what is here equal to `image`. After an error, call it again with the newest image: the comparison starts
    /// from what was reached last, so nothing is missed. What newer metadata, given to [`Reconciler::step_down`], has ended
    /// in between is left for the next call.
    pub async fn reach(&mut self, image: Arc<ClusterImage>) -> Result<(), ReconcileError> {
        let delta = ClusterDelta::between(&self.reached, &image);
        let desired = self.desired(&delta, &image);
        self.step_down.look(&image);
        let mut changed = self.close_deleted(&delta, &image).await?;
        changed |= !desired.is_empty();
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
        for change in &delta.partitions {
            if !change.after.replicas.contains(&self.owner.broker)
                && let Some(partition) = self.registry.remove(change.id)
            {
                let after = &change.after;
                let leadership = after.leader.map_or(Leadership::Nobody, Leadership::There);
                partition.resign(leadership, after.leader_epoch);
                self.registry.announce_role(change.id);
                tracing::info!(partition = %change.id, "this broker no longer holds a partition; its log is kept");
                changed = true;
            }
        }
        self.reached = image;
        if changed {
            self.registry.announce_change();
        }
        Ok(())
    }

    async fn close_deleted(&self, delta: &ClusterDelta, image: &ClusterImage) -> Result<bool, ReconcileError> {
        let mut doomed = Vec::new();
        let mut has_closed = false;
        for topic in &delta.deleted {
            // Its absence proves nothing: only the record of its deletion does.
            let is_deleted = image.is_deleted(topic.id);
            if !is_deleted {
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
                    if is_deleted {
                        doomed.push((id, topic.name.clone()));
                    }
                }
            }
        }
        if !has_closed {
            return Ok(false);
        }
        // Waiters learn at once; the disk may take its time.
        self.registry.announce_change();
        let store = self.store.clone();
        let deleting = blocking::spawn(move || {
            for (id, topic) in doomed {
                match store.delete_log(id) {
                    Ok(()) | Err(StoreError::UnknownLog) => {}
                    Err(source) => return Err(ReconcileError::Log { topic, partition: id.partition, source }),
                }
            }
            Ok(())
        });
        deleting.await.map_err(|_| ReconcileError::Interrupted)??;
        Ok(true)
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
