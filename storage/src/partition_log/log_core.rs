//! One log as the store holds it: its names, its two locks, and the watch its readers wait on.
//!
//! Lock order: `order`, then (one at a time) the tail cache or `state`. The commit thread takes only `state`, which is
//! never held across a call of the journal; so a journal that makes appenders wait cannot wait for them.

use parking_lot::Mutex;
use streambus_protocol::ids::PartitionId;
use streambus_protocol::offset::Offset;
use tokio::sync::watch;

use crate::journal::LogId;
use crate::partition_log::state::LogState;

/// One log.
#[derive(Debug)]
pub(crate) struct LogCore {
    pub(crate) id: LogId,
    pub(crate) partition: PartitionId,
    /// Held from the check of a change to its acceptance: fixes the order of one log's entries.
    pub(crate) order: Mutex<()>,
    pub(crate) state: Mutex<LogState>,
    acked: watch::Sender<Offset>,
}

impl LogCore {
    pub(crate) fn new(id: LogId, partition: PartitionId, state: LogState) -> Self {
        let acked = watch::Sender::new(state.acked_end());
        Self { id, partition, order: Mutex::new(()), state: Mutex::new(state), acked }
    }

    /// Tells watchers where the acknowledgeable end is; costs nothing when it has not moved.
    pub(crate) fn publish(&self, state: &LogState) {
        let end = state.acked_end();
        self.acked.send_if_modified(|known| std::mem::replace(known, end) != end);
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Offset> {
        self.acked.subscribe()
    }

    /// Bytes this log keeps in memory, estimated: the record itself, its watch, its table slots and its heap.
    pub(crate) fn resident_bytes(&self) -> usize {
        // The watch's shared part: a value, a lock, reference counts and eight notification lists.
        const WATCH_BYTES: usize = 512;
        const TABLE_BYTES: usize = 2 * 64;
        size_of::<Self>() + WATCH_BYTES + TABLE_BYTES + self.state.lock().heap_bytes()
    }
}
