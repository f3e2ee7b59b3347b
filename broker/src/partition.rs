//! The partitions this broker holds: who leads each, how records get in and how they get out.

pub mod append;
pub mod fetch_wait;
#[cfg(test)]
pub(crate) mod fixture;
pub mod read;
pub mod reconcile;
pub mod registry;
pub mod role;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use streambus_protocol::ids::{PartitionId, TopicName};
use streambus_protocol::offset::Offset;
use streambus_storage::partition_log::PartitionLog;
use tokio::sync::watch;

use crate::partition::role::Role;
use crate::replication::watermark::InSync;

/// One partition: its log and this broker's part in it.
pub struct Partition {
    id: PartitionId,
    topic: TopicName,
    log: PartitionLog,
    role: ArcSwap<Role>,
    /// Held from the leadership check to the append, and while the role changes: check and use cannot drift apart.
    append_lock: Mutex<()>,
}

impl Partition {
    /// A partition over `log`, with the part that the metadata gives this broker.
    pub fn new(id: PartitionId, topic: TopicName, log: PartitionLog, role: Role) -> Self {
        Self { id, topic, log, role: ArcSwap::from_pointee(role), append_lock: Mutex::new(()) }
    }

    /// Its identity.
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// Its topic's name.
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Its log.
    pub fn log(&self) -> &PartitionLog {
        &self.log
    }

    /// This broker's part in it now.
    pub fn role(&self) -> Arc<Role> {
        self.role.load_full()
    }

    /// Takes a new part. Appends that checked the old one have been placed when this returns.
    pub fn set_role(&self, role: Role) {
        let _no_append = self.append_lock.lock();
        self.role.store(Arc::new(role));
    }

    /// The end of what is committed: consumers see only what lies below it.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark_under(&self.role.load())
    }

    pub(crate) fn high_watermark_under(&self, role: &Role) -> Offset {
        let in_sync = InSync {
            leader_durable_end: self.log.durable_end(),
            follower_durable_ends: &[],
            replicas_min: role.commit_replicas_min(),
        };
        let high_watermark = in_sync.high_watermark(self.log.log_start());
        debug_assert!(high_watermark <= self.log.log_end().max(self.log.log_start()));
        high_watermark
    }

    /// Changes whenever the high watermark may have moved.
    pub fn watch_high_watermark(&self) -> watch::Receiver<Offset> {
        self.log.watch_durable_end()
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition").field("id", &self.id).field("topic", &self.topic).finish_non_exhaustive()
    }
}
