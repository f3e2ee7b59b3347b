//! What this broker sends to replicas that commits do not wait for: restarted, emptied, or new ones. All of them share
//! one limit, but for those that are added by a move with a limit of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use streambus_protocol::ids::{BrokerId, PartitionId};
use streambus_storage::clock::Clock;

use crate::metrics::snapshot::CatchUpSnapshot;
use crate::partition::Partition;
use crate::partition::registry::Registry;
use crate::partition::role::Leadership;
use crate::replication::fetch_session::HeldBy;
use crate::replication::throttle::Throttle;

/// Moves whose limits are remembered before those that are over are looked for and forgotten.
const MOVES_MIN: usize = 64;

/// The limits and what was counted under them.
#[derive(Debug)]
pub(crate) struct CatchUp {
    clock: Arc<dyn Clock>,
    throttle: Mutex<Throttle>,
    /// Of moves with limits of their own: the limit, and what was counted under it.
    moves: Mutex<HashMap<PartitionId, (u64, Throttle)>>,
    sent_bytes: AtomicU64,
}

/// The limit that a replica which is behind is sent a partition under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// That of all.
    All,
    /// That of the partition's move, in bytes per second; zero for none.
    Move(PartitionId, u64),
}

impl Limit {
    /// The limit under which `follower` is sent `partition`.
    pub(crate) fn of(partition: &Partition, follower: BrokerId) -> Self {
        match partition.role().move_limit_for(follower) {
            Some(bytes_per_second) => Self::Move(partition.id(), bytes_per_second),
            None => Self::All,
        }
    }

    /// Where a partition under it waits.
    pub(crate) fn held_by(self) -> HeldBy {
        match self {
            Self::All => HeldBy::All,
            Self::Move(..) => HeldBy::Move,
        }
    }
}

impl CatchUp {
    /// At most `limit` bytes in a second; zero for no limit.
    pub(crate) fn new(limit: u64, clock: Arc<dyn Clock>) -> Self {
        let throttle = Mutex::new(Throttle::new(limit, clock.monotonic()));
        Self { clock, throttle, moves: Mutex::default(), sent_bytes: AtomicU64::new(0) }
    }

    /// There are `bytes` more to be sent under `limit`.
    pub(crate) fn on_growth(&self, limit: Limit, bytes: u64) {
        self.under(limit, |throttle, now| throttle.on_growth(bytes, now));
    }

    /// Bytes that may be sent under `limit` now, or how long to wait.
    pub(crate) fn available(&self, limit: Limit) -> Result<u64, Duration> {
        self.under(limit, |throttle, now| throttle.available(now))
    }

    /// `bytes` are being sent under `limit`.
    pub(crate) fn take(&self, limit: Limit, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.under(limit, |throttle, now| throttle.take(bytes, now));
    }

    /// Forgets the limits of moves that are over, or led elsewhere, once there are many.
    pub(crate) fn forget_moves(&self, registry: &Registry) {
        let mut moves = self.moves.lock();
        if moves.len() < MOVES_MIN {
            return;
        }
        let is_here = |id: &PartitionId| {
            let role = registry.get(*id).map(|partition| partition.role());
            role.is_some_and(|role| role.leadership == Leadership::Here && role.move_limit.is_some())
        };
        moves.retain(|id, _| is_here(id));
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

    fn under<T>(&self, limit: Limit, act: impl FnOnce(&mut Throttle, Duration) -> T) -> T {
        let now = self.clock.monotonic();
        match limit {
            Limit::All => act(&mut self.throttle.lock(), now),
            Limit::Move(id, bytes_per_second) => {
                let mut moves = self.moves.lock();
                let new = || (bytes_per_second, Throttle::new(bytes_per_second, now));
                let known = moves.entry(id).or_insert_with(new);
                if known.0 != bytes_per_second {
                    *known = new();
                }
                act(&mut known.1, now)
            }
        }
    }
}
