//! For tests within the crate: a store in memory that they step, whose parts they can call out of turn.

use std::sync::Arc;

use bytes::Bytes;
use streambus_protocol::batch::{BatchBuilder, BatchOptions, UnverifiedBatch};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::ids::{PartitionId, PartitionIndex, TopicId};
use streambus_protocol::offset::Offset;
use streambus_protocol::record::Record;
use streambus_protocol::timestamp::Timestamp;

use super::{Drive, Store, StoreEnv};
use crate::clock::ManualClock;
use crate::config::StoreConfig;
use crate::disk::memory::MemoryDisk;
use crate::index::memory::MemoryIndex;
use crate::journal::Step;
use crate::partition_log::{LogOptions, PartitionLog, Read, ReadLimit};

pub(super) struct World {
    pub(super) disk: MemoryDisk,
    pub(super) index: Arc<MemoryIndex>,
}

impl World {
    pub(super) fn new() -> Self {
        Self { disk: MemoryDisk::new(), index: Arc::new(MemoryIndex::new()) }
    }

    /// Opens with a cache for `cache_bytes`.
    pub(super) fn open(&self, cache_bytes: usize) -> Store {
        let env = StoreEnv {
            disk: Arc::new(self.disk.clone()),
            index: self.index.clone(),
            clock: Arc::new(ManualClock::new(Timestamp::from_millis(5))),
            random: Box::new(|| 77),
            drive: Drive::Stepped,
        };
        // Many entries in one commit, and many commits in an extent and in a segment.
        let config = StoreConfig {
            segment_bytes: 8 << 20,
            group_bytes: 1 << 20,
            queue_bytes_max: 1 << 20,
            extent_bytes_max: 64 << 10,
            tail_cache_bytes: cache_bytes,
            ..StoreConfig::tiny()
        };
        Store::open(env, config).expect("opens").0
    }

    /// Ends the process without warning: what no commit has written is lost, and of the index what was not flushed.
    pub(super) fn crash(&self, store: Store) -> Store {
        drop(store);
        self.index.crash();
        self.open(0)
    }
}

pub(super) fn partition(index: u32) -> PartitionId {
    PartitionId { topic: TopicId::from_bytes([1; 16]), partition: PartitionIndex::new(index) }
}

pub(super) fn create(store: &Store, index: u32) -> PartitionLog {
    store.create_log(partition(index), LogOptions::default()).expect("created")
}

pub(super) fn at(value: u64) -> Offset {
    Offset::new(value).expect("small")
}

pub(super) fn step(store: &Store) {
    while store.step() {}
}

/// Appends a batch of one record.
pub(super) fn append(log: &PartitionLog) {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let value = log.log_end().get().to_le_bytes().repeat(110);
    builder.push(&Record::new(value, Timestamp::from_millis(1))).expect("fits");
    let batch = UnverifiedBatch::new(builder.build().expect("not empty")).verify(1 << 20).expect("just built");
    log.append(batch.place(log.log_end(), LeaderEpoch::ZERO)).expect("accepted");
}

/// Appends `count` batches, each with a commit of its own.
pub(super) fn fill(store: &Store, log: &PartitionLog, count: u64) {
    for _ in 0..count {
        append(log);
        step(store);
    }
}

/// Commits what waits, without the maintenance that may be due.
pub(super) fn commit(store: &Store) {
    let committer = &store.inner().committer;
    while committer.lock().as_mut().is_some_and(|committer| committer.0.step() != Step::Idle) {}
}

pub(super) fn read_all(log: &PartitionLog) -> Vec<Bytes> {
    let mut all = Vec::new();
    let mut cursor = log.log_start();
    while cursor < log.log_end() {
        let limit = ReadLimit { bytes_max: 3_000, below: log.log_end() };
        let (batches, next) = match log.read(cursor, limit).expect("in range") {
            Read::Ready(batches, next) => (batches, next),
            Read::Disk(read) => read.run().expect("readable"),
        };
        all.extend(batches);
        cursor = next;
    }
    all
}
