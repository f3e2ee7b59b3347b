//! Every partition this broker holds, by id.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::RwLock;
use streambus_protocol::ids::{BrokerId, PartitionId, TopicId};
use tokio::sync::watch;

use crate::partition::Partition;
use crate::replication::due_set::DueSet;

/// The partitions held here. Changed by one task only, the one that follows the metadata; read by every request.
#[derive(Debug)]
pub struct Registry {
    partitions: RwLock<HashMap<PartitionId, Arc<Partition>>>,
    changes: watch::Sender<u64>,
    stepped_down: watch::Sender<u64>,
    /// Where tasks that act on roles learn which have changed.
    role_watchers: RwLock<Vec<Weak<DueSet>>>,
    /// Until when each leader that is followed counts as heard, by the monotonic clock.
    heard_until: RwLock<HashMap<BrokerId, Duration>>,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self {
            partitions: RwLock::default(),
            changes: watch::Sender::new(0),
            stepped_down: watch::Sender::new(0),
            role_watchers: RwLock::default(),
            heard_until: RwLock::default(),
        }
    }

    /// The partition of this id, if it is held here.
    pub fn get(&self, id: PartitionId) -> Option<Arc<Partition>> {
        self.partitions.read().get(&id).cloned()
    }

    /// Every partition, in no order.
    pub fn all(&self) -> Vec<Arc<Partition>> {
        self.partitions.read().values().cloned().collect()
    }

    /// The partitions of one topic, in no order.
    pub fn of_topic(&self, topic: TopicId) -> Vec<Arc<Partition>> {
        self.partitions.read().values().filter(|partition| partition.id().topic == topic).cloned().collect()
    }

    /// Partitions held.
    pub fn len(&self) -> usize {
        self.partitions.read().len()
    }

    /// True when none is held.
    pub fn is_empty(&self) -> bool {
        self.partitions.read().is_empty()
    }

    /// Adds a partition that is ready to serve.
    pub fn insert(&self, partition: Arc<Partition>) {
        self.partitions.write().insert(partition.id(), partition);
    }

    /// Takes a partition out. Whoever still holds it may finish a read.
    pub fn remove(&self, id: PartitionId) -> Option<Arc<Partition>> {
        self.partitions.write().remove(&id)
    }

    /// Tells whoever waits on a partition to look again: one was added or removed, or a role changed.
    pub fn announce_change(&self) {
        self.changes.send_modify(|version| *version = version.wrapping_add(1));
    }

    /// Notes that every leadership that had ended by entry `index` of the metadata has ended here.
    pub(crate) fn note_stepped_down(&self, index: u64) {
        self.stepped_down.send_if_modified(|known| std::mem::replace(known, index.max(*known)) < index);
    }

    /// The entry of the metadata up to which every leadership that ended has ended here.
    pub(crate) fn watch_stepped_down(&self) -> watch::Receiver<u64> {
        self.stepped_down.subscribe()
    }

    /// Tells the tasks that act on roles that this one was added, removed or given another role.
    pub fn announce_role(&self, id: PartitionId) {
        for watcher in self.role_watchers.read().iter().filter_map(Weak::upgrade) {
            watcher.add(id);
        }
    }

    /// `leader` answered a fetch of this broker, and counts as heard until then.
    pub fn note_heard(&self, leader: BrokerId, until: Duration) {
        self.heard_until.write().insert(leader, until);
    }

    /// True when `leader` answered a fetch of this broker a moment ago.
    pub fn is_heard(&self, leader: BrokerId, now: Duration) -> bool {
        self.heard_until.read().get(&leader).is_some_and(|until| now < *until)
    }

    /// Collects every partition whose role changes from now on, and all that are held now.
    pub fn watch_roles(&self) -> Arc<DueSet> {
        let watcher = Arc::new(DueSet::new());
        let mut watchers = self.role_watchers.write();
        watchers.retain(|known| known.strong_count() > 0);
        watchers.push(Arc::downgrade(&watcher));
        drop(watchers);
        watcher.extend(self.partitions.read().keys().copied());
        watcher
    }

    /// Changes with every [`Registry::announce_change`].
    pub fn watch_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}
