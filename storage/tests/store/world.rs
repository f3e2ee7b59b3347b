//! A store on a simulated disk that a test steps, cuts and reopens.

use std::sync::Arc;

use bytes::Bytes;
use streambus_protocol::batch::{BatchBuilder, BatchOptions, PlacedBatch, ProducerStamp, UnverifiedBatch};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::ids::{PartitionId, PartitionIndex, ProducerEpoch, ProducerId, Sequence, TopicId};
use streambus_protocol::offset::Offset;
use streambus_protocol::record::Record;
use streambus_protocol::timestamp::Timestamp;
use streambus_storage::clock::ManualClock;
use streambus_storage::config::StoreConfig;
use streambus_storage::disk::Disk;
use streambus_storage::disk::faulty::FaultyDisk;
use streambus_storage::disk::memory::MemoryDisk;
use streambus_storage::error::{OpenError, ReadError};
use streambus_storage::index::IndexStore;
use streambus_storage::index::memory::MemoryIndex;
use streambus_storage::partition_log::{Appended, LogOptions, PartitionLog, Read, ReadLimit};
use streambus_storage::store::{Drive, RecoveryReport, Store, StoreEnv};

pub struct World {
    pub memory: MemoryDisk,
    pub disk: FaultyDisk,
    pub index: Arc<MemoryIndex>,
    pub clock: Arc<ManualClock>,
    pub config: StoreConfig,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let memory = MemoryDisk::new();
        Self {
            disk: FaultyDisk::new(Arc::new(memory.clone()), seed),
            memory,
            index: Arc::new(MemoryIndex::new()),
            clock: Arc::new(ManualClock::new(Timestamp::from_millis(1_000_000))),
            config: StoreConfig::tiny(),
        }
    }

    pub fn try_open(&self) -> Result<(Store, RecoveryReport), OpenError> {
        self.open_with(self.index.clone())
    }

    /// Opens with an index of the test's own.
    pub fn open_with(&self, index: Arc<dyn IndexStore>) -> Result<(Store, RecoveryReport), OpenError> {
        let env = StoreEnv {
            disk: Arc::new(self.disk.clone()),
            index,
            clock: self.clock.clone(),
            random: Box::new(|| 0x1234_5678_9abc_def0),
            drive: Drive::Stepped,
        };
        Store::open(env, self.config.clone())
    }

    pub fn open(&self) -> Store {
        self.try_open().expect("the store opens").0
    }

    /// Ends the process without warning and starts it again; nothing in memory survives.
    pub fn crash_and_open(&self, store: Store) -> (Store, RecoveryReport) {
        drop(store);
        self.disk.cut_power().expect("the simulated disk works");
        self.disk.restart();
        self.index.crash();
        self.try_open().expect("the store opens")
    }
}

/// Commits everything that waits.
pub fn settle(store: &Store) {
    while store.step() {}
}

pub fn partition(index: u32) -> PartitionId {
    PartitionId { topic: TopicId::from_bytes([7; 16]), partition: PartitionIndex::new(index) }
}

pub fn offset(value: u64) -> Offset {
    Offset::new(value).expect("a small offset")
}

pub fn epoch(value: u32) -> LeaderEpoch {
    LeaderEpoch::new(value)
}

pub fn stamp(id: i64, epoch: i16, base: i32) -> ProducerStamp {
    ProducerStamp { id: ProducerId::new(id), epoch: ProducerEpoch::new(epoch), base_sequence: Sequence::new(base) }
}

/// What a batch is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    pub records: usize,
    pub record_bytes: usize,
    pub epoch: u32,
    pub time_ms: i64,
    pub producer: Option<ProducerStamp>,
    /// Makes batches tell apart.
    pub salt: u64,
    /// The keys of the first records; the others have none.
    pub keys: Vec<u8>,
}

impl Default for Spec {
    fn default() -> Self {
        Self { records: 1, record_bytes: 100, epoch: 0, time_ms: 1_000, producer: None, salt: 0, keys: Vec::new() }
    }
}

pub fn batch(base: Offset, spec: &Spec) -> PlacedBatch {
    let mut builder = BatchBuilder::new(BatchOptions { producer: spec.producer, ..BatchOptions::default() });
    for i in 0..spec.records {
        let mut value = vec![u8::try_from(i % 251).expect("small"); spec.record_bytes];
        value.splice(..0, spec.salt.to_le_bytes());
        let time = Timestamp::from_millis(spec.time_ms + i64::try_from(i).expect("small"));
        let key = spec.keys.get(i).map(|key| Bytes::from(vec![*key]));
        builder.push(&Record { key, ..Record::new(value, time) }).expect("the record fits");
    }
    let bytes = builder.build().expect("the batch is not empty");
    let batch = UnverifiedBatch::new(bytes).verify(1 << 20).expect("the batch was just built");
    batch.place(base, epoch(spec.epoch))
}

pub fn append(log: &PartitionLog, spec: &Spec) -> Appended {
    log.append(batch(log.log_end(), spec)).expect("the log takes the batch")
}

/// Appends `count` batches of `record_bytes` and makes them durable.
pub fn fill(store: &Store, log: &PartitionLog, count: usize, record_bytes: usize) {
    for i in 0..count {
        append(log, &Spec { record_bytes, salt: i as u64, ..Spec::default() });
        settle(store);
    }
}

pub fn create(store: &Store, index: u32) -> PartitionLog {
    store.create_log(partition(index), LogOptions::default()).expect("the log is created")
}

/// One read, wherever the batches lie.
pub fn read(log: &PartitionLog, from: Offset, limit: ReadLimit) -> Result<(Vec<Bytes>, Offset), ReadError> {
    match log.read(from, limit)? {
        Read::Ready(batches, next) => Ok((batches, next)),
        Read::Disk(read) => read.run(),
    }
}

/// Every batch from the log start to its end.
pub fn read_all(log: &PartitionLog) -> Result<Vec<Bytes>, ReadError> {
    let mut all = Vec::new();
    let (mut cursor, end) = (log.log_start(), log.log_end());
    while cursor < end {
        let (batches, next) = read(log, cursor, ReadLimit { bytes_max: 3_000, below: end })?;
        assert!(next > cursor, "a read below the end makes progress");
        all.extend(batches);
        cursor = next;
    }
    Ok(all)
}

/// Flips a bit in the payload of the batch of `log` at `base`, wherever its copies lie.
pub fn decay(world: &World, log: &PartitionLog, base: u64) {
    for name in world.memory.list("journal-").expect("list") {
        let bytes = world.memory.read_file(&name).expect("read");
        for at in (4096..bytes.len() - 200).step_by(8).filter(|at| &bytes[*at..at + 4] == b"SBEN") {
            let word = |from: usize| u64::from_le_bytes(*bytes[at + from..].first_chunk().expect("eight bytes"));
            if (word(16), word(24)) == (log.id().get(), base) && matches!(bytes[at + 60], 1 | 8) {
                world.memory.flip_bit(&name, at as u64 + 150, 1).expect("flipped");
            }
        }
    }
}
