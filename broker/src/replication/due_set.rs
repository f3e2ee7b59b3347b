//! Partitions to look at soon: a set that one task empties and others fill, without waiting.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use streambus_protocol::ids::PartitionId;
use tokio::sync::Notify;

/// The set. As large as there are partitions, at most.
#[derive(Debug, Default)]
pub struct DueSet {
    due: Mutex<BTreeSet<PartitionId>>,
    notify: Notify,
}

impl DueSet {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a partition and wakes the task.
    pub fn add(&self, id: PartitionId) {
        if self.due.lock().insert(id) {
            self.notify.notify_one();
        }
    }

    /// Adds partitions and wakes the task.
    pub fn extend(&self, ids: impl IntoIterator<Item = PartitionId>) {
        let mut due = self.due.lock();
        due.extend(ids);
        if !due.is_empty() {
            self.notify.notify_one();
        }
    }

    /// Everything added since the last call.
    pub fn take(&self) -> BTreeSet<PartitionId> {
        std::mem::take(&mut *self.due.lock())
    }

    /// Waits until something was added. Safe to drop at any time; only one task may wait.
    pub async fn added(&self) {
        loop {
            // A permit left by an addition that was taken already only makes one turn more.
            if !self.due.lock().is_empty() {
                return;
            }
            self.notify.notified().await;
        }
    }
}
