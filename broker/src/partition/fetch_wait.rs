//! Waiting for records: wakes when a partition's high watermark passes an offset.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use streambus_protocol::offset::Offset;

use crate::partition::Partition;

/// Completes once the record at `offset` is committed. Safe to drop at any time.
pub async fn committed_above(partition: Arc<Partition>, offset: Offset) {
    let mut moves = partition.watch_high_watermark();
    loop {
        // Seen first, looked at second: a move in between wakes us again, none is missed.
        drop(moves.borrow_and_update());
        if partition.high_watermark() > offset {
            return;
        }
        if moves.changed().await.is_err() {
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
