//! What this broker sends to replicas that commits do not wait for: restarted, emptied, or new ones. All of them share
//! one limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use streambus_storage::clock::Clock;

use crate::metrics::snapshot::CatchUpSnapshot;
use crate::partition::registry::Registry;
use crate::partition::role::Leadership;
use crate::replication::throttle::Throttle;

/// The limit and what was counted under it.
#[derive(Debug)]
pub(crate) struct CatchUp {
    clock: Arc<dyn Clock>,
    throttle: Mutex<Throttle>,
    sent_bytes: AtomicU64,
}

impl CatchUp {
    /// At most `limit` bytes in a second; zero for no limit.
    pub(crate) fn new(limit: u64, clock: Arc<dyn Clock>) -> Self {
        let throttle = Mutex::new(Throttle::new(limit, clock.monotonic()));
        Self { clock, throttle, sent_bytes: AtomicU64::new(0) }
    }

    /// There are `bytes` more to be sent.
    pub(crate) fn on_growth(&self, bytes: u64) {
        self.throttle.lock().on_growth(bytes, self.clock.monotonic());
    }

    /// Bytes that may be sent now, or how long to wait.
    pub(crate) fn available(&self) -> Result<u64, Duration> {
        self.throttle.lock().available(self.clock.monotonic())
    }

    /// `bytes` are being sent.
    pub(crate) fn take(&self, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.throttle.lock().take(bytes, self.clock.monotonic());
    }

    /// How it stands with the partitions of `registry`.
    pub(crate) fn snapshot(&self, registry: &Registry) -> CatchUpSnapshot {
        let now = self.clock.monotonic();
        let mut snapshot = CatchUpSnapshot {
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            limit_bytes_per_second: self.throttle.lock().rate(now).unwrap_or(0),
            ..CatchUpSnapshot::default()
        };
        for partition in registry.all().iter().filter(|p| p.role().leadership == Leadership::Here) {
            let end = partition.log().log_end();
            for standing in partition.standings(now).iter().filter(|standing| !standing.in_sync) {
                let behind = partition.bytes_between(standing.log_end, end);
                snapshot.replicas += 1;
                snapshot.behind_bytes = snapshot.behind_bytes.saturating_add(behind);
            }
        }
        snapshot
    }
}
