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
use tokio_util::sync::CancellationToken;

use crate::partition::Partition;
use crate::partition::registry::Registry;
use crate::partition::role::Leadership;

/// A partition whose disk is watched. The partition is compared, so that one that was closed and opened anew under the
/// same id is another.
struct Watched {
    partition: Arc<Partition>,
    ends: watch::Receiver<Offset>,
}

/// Runs until `stop`.
pub async fn run(registry: Arc<Registry>, clock: Arc<dyn Clock>, stop: CancellationToken) {
    let roles = registry.watch_roles();
    let mut watched: HashMap<PartitionId, Arc<Partition>> = HashMap::new();
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
                    if !watched.get(&id).is_some_and(|known| Arc::ptr_eq(known, &partition)) {
                        watched.insert(id, Arc::clone(&partition));
                        let ends = partition.log().watch_durable_end();
                        // What moved before the watch began.
                        partition.on_own_progress(clock.monotonic());
                        moves.push(next_move(Watched { partition, ends }));
                    }
                }
            }
            Some(moved) = moves.next() => {
                if let Some(moved) = moved
                    && watched.get(&moved.partition.id()).is_some_and(|known| Arc::ptr_eq(known, &moved.partition))
                {
                    moved.partition.on_own_progress(clock.monotonic());
                    moves.push(next_move(moved));
                }
            }
        }
    }
}

/// Completes when the durable end has moved; with nothing when the log is gone.
fn next_move(mut watched: Watched) -> BoxFuture<'static, Option<Watched>> {
    Box::pin(async move { watched.ends.changed().await.ok().map(|()| watched) })
}
