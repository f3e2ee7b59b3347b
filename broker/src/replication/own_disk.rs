//! Moves the watermarks of partitions led here as this broker's own disk moves: it may be the last that a commit waits
//! for.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use streambus_protocol::ids::PartitionId;
use streambus_protocol::offset::Offset;
use streambus_storage::clock::Clock;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::partition::Partition;
use crate::partition::registry::Registry;
use crate::partition::role::Leadership;

/// A partition whose disk is watched. The partition is compared, so that one that was closed and opened anew under the
/// same id is another.
struct Watched {
    partition: Arc<Partition>,
    ends: watch::Receiver<Offset>,
    /// It is not led here any more, or is watched anew: the disk of a partition that is gone never moves again.
    over: CancellationToken,
}

/// Runs until `stop`.
pub async fn run(registry: Arc<Registry>, clock: Arc<dyn Clock>, stop: CancellationToken) {
    let roles = registry.watch_roles();
    let mut watched: HashMap<PartitionId, (Arc<Partition>, DropGuard)> = HashMap::new();
    let mut moves: FuturesUnordered<BoxFuture<'static, Option<Watched>>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = roles.added() => {
                for id in roles.take() {
                    let partition = registry.get(id).filter(|partition| {
                        let role = partition.role();
                        role.is_replicated() && role.leadership == Leadership::Here
                    });
                    let Some(partition) = partition else {
                        watched.remove(&id);
                        continue;
                    };
                    if !watched.get(&id).is_some_and(|(known, _)| Arc::ptr_eq(known, &partition)) {
                        let over = CancellationToken::new();
                        watched.insert(id, (Arc::clone(&partition), over.clone().drop_guard()));
                        let ends = partition.log().watch_durable_end();
                        // What moved before the watch began.
                        partition.on_own_progress(clock.monotonic());
                        moves.push(next_move(Watched { partition, ends, over }));
                    }
                }
            }
            Some(moved) = moves.next() => {
                if let Some(moved) = moved
                    && watched.get(&moved.partition.id()).is_some_and(|(known, _)| Arc::ptr_eq(known, &moved.partition))
                {
                    moved.partition.on_own_progress(clock.monotonic());
                    moves.push(next_move(moved));
                }
            }
        }
    }
}

/// Completes when the durable end has moved; with nothing when the watch is over.
fn next_move(mut watched: Watched) -> BoxFuture<'static, Option<Watched>> {
    Box::pin(async move {
        let moved = tokio::select! {
            biased;
            () = watched.over.cancelled() => return None,
            moved = watched.ends.changed() => moved,
        };
        moved.ok().map(|()| watched)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use streambus_protocol::epoch::LeaderEpoch;
    use streambus_protocol::ids::BrokerId;
    use streambus_protocol::timestamp::Timestamp;
    use streambus_protocol::topic_config::Durability;
    use streambus_storage::clock::ManualClock;
    use streambus_storage::config::StoreConfig;

    use super::*;
    use crate::partition::fixture;
    use crate::partition::role::Role;

    async fn until(what: &str, is_so: impl Fn() -> bool) {
        let waiting = async {
            while !is_so() {
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(30), waiting).await.is_ok(), "{what}");
    }

    // Catches a partition that stays in memory for ever once it was led here and is deleted, or led elsewhere and idle.
    #[tokio::test]
    async fn a_partition_that_is_gone_is_let_go() {
        let store = fixture::store(StoreConfig::default());
        let partition = fixture::partition(&store, 0, Durability::Sync);
        let ids = vec![BrokerId::new(1), BrokerId::new(2)];
        let leader_epoch = LeaderEpoch::new(2);
        let role = Role { replicas: ids.clone(), in_sync: ids, leader_epoch, ..Role::clone(&partition.role()) };
        partition.log().start_epoch(leader_epoch).expect("a new leadership");
        partition.set_role(role, Duration::ZERO);
        let (id, held) = (partition.id(), Arc::downgrade(&partition));
        let registry = Arc::new(Registry::new());
        registry.insert(partition);
        let (clock, stop) = (Arc::new(ManualClock::new(Timestamp::from_millis(1))), CancellationToken::new());
        let mut watching = tokio::task::JoinSet::new();
        watching.spawn(run(Arc::clone(&registry), clock, stop.clone()));
        until("it is watched", || held.strong_count() > 1).await;
        drop(registry.remove(id));
        registry.announce_role(id);
        until("it is let go", || held.strong_count() == 0).await;
        stop.cancel();
        watching.join_next().await.expect("one task").expect("it ends");
    }
}
