//! Waiting for records: wakes when a partition's high watermark passes an offset.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use streambus_protocol::offset::Offset;

use crate::partition::Partition;

/// Completes once the record at `offset` is committed. Safe to drop at any time.
pub async fn committed_above(partition: Arc<Partition>, offset: Offset) {
    // A partition alone is committed where its disk is; one that others hold, where its watermark is. Both are watched,
    // because a partition may become the other kind while somebody waits.
    let mut moves = partition.watch_standing();
    let mut own_disk = partition.log().watch_durable_end();
    loop {
        // Seen first, looked at second: a move in between wakes us again, none is missed.
        drop(moves.borrow_and_update());
        drop(own_disk.borrow_and_update());
        if partition.high_watermark() > offset {
            return;
        }
        let moved = tokio::select! {
            biased;
            moved = own_disk.changed() => moved,
            moved = moves.changed() => moved,
        };
        if moved.is_err() {
            // The log is gone. Whoever waits also watches the registry, or has a deadline.
            std::future::pending::<()>().await;
        }
    }
}

/// Waits on any of many partitions; each is named by its place in the caller's list.
#[derive(Debug, Default)]
pub struct WaitSet {
    waits: FuturesUnordered<BoxFuture<'static, usize>>,
}

impl WaitSet {
    /// Waits on nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Also waits for the record at `offset` of `partition`, the caller's number `place`.
    pub fn add(&mut self, place: usize, partition: Arc<Partition>, offset: Offset) {
        self.waits.push(Box::pin(async move {
            committed_above(partition, offset).await;
            place
        }));
    }

    /// The next place whose record is committed; it is no longer waited on. Never completes when nothing is.
    pub async fn next(&mut self) -> usize {
        match self.waits.next().await {
            Some(place) => place,
            None => std::future::pending().await,
        }
    }
}
