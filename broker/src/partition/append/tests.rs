//! Receipts over a store whose disk is asked by hand: nothing is durable before the test says so.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::FutureExt;
use streambus_protocol::batch::{BatchBuilder, BatchOptions, ProducerStamp, UnverifiedBatch};
use streambus_protocol::epoch::PartitionEpoch;
use streambus_protocol::ids::{
    BrokerId, PartitionId, PartitionIndex, ProducerEpoch, ProducerId, Sequence, TopicId, TopicName,
};
use streambus_protocol::record::Record;
use streambus_protocol::timestamp::Timestamp;
use streambus_protocol::topic_config::TopicConfig;
use streambus_storage::clock::ManualClock;
use streambus_storage::config::StoreConfig;
use streambus_storage::disk::memory::MemoryDisk;
use streambus_storage::index::memory::MemoryIndex;
use streambus_storage::partition_log::LogOptions;
use streambus_storage::store::{Drive, Store, StoreEnv};

use super::*;
use crate::partition::role::Leadership;

fn settings(durability: Durability) -> TopicConfig {
    TopicConfig { durability, ..TopicConfig::parse(&BTreeMap::new()).expect("the defaults") }
}

/// A store in memory and a partition of it that this broker leads alone.
fn partition(durability: Durability) -> (Store, Arc<Partition>) {
    let env = StoreEnv {
        disk: Arc::new(MemoryDisk::new()),
        index: Arc::new(MemoryIndex::new()),
        clock: Arc::new(ManualClock::new(Timestamp::from_millis(1))),
        random: Box::new(|| 7),
        drive: Drive::Stepped,
    };
    let (store, _) = Store::open(env, StoreConfig::tiny()).expect("a store");
    let id = PartitionId { topic: TopicId::from_bytes([1; 16]), partition: PartitionIndex::new(0) };
    let settings = settings(durability);
    let log = store.create_log(id, LogOptions::from(&settings)).expect("a log");
    let role = Role {
        leadership: Leadership::Here,
        leader_epoch: LeaderEpoch::new(1),
        partition_epoch: PartitionEpoch::ZERO,
        replicas: vec![BrokerId::new(1)],
        in_sync: vec![BrokerId::new(1)],
        eligible: Vec::new(),
        settings,
    };
    while store.step() {}
    (store, Arc::new(Partition::new(id, TopicName::new("t").expect("a name"), log, role)))
}

fn append(partition: &Arc<Partition>, sequence: i32) -> Appended {
    let producer = Some(ProducerStamp {
        id: ProducerId::new(1),
        epoch: ProducerEpoch::new(0),
        base_sequence: Sequence::new(sequence),
    });
    let mut builder = BatchBuilder::new(BatchOptions { producer, ..BatchOptions::default() });
    builder.push(&Record::new(Bytes::from_static(b"v"), Timestamp::from_millis(1))).expect("room");
    let batch = UnverifiedBatch::new(builder.build().expect("a batch")).verify(1 << 20).expect("a sound batch");
    partition.append(batch, LeaderEpoch::UNKNOWN, Acks::All).expect("appended")
}

fn options(durability: Durability) -> LogOptions {
    LogOptions::from(&settings(durability))
}

// Catches a receipt made of the topic's setting: the log had given another promise in the moment of its change.
#[test]
fn a_change_to_async_is_not_acknowledged_as_durable() {
    let (store, partition) = partition(Durability::Sync);
    // The log obeys the new setting before the partition's part in it is replaced.
    store.set_options(partition.id(), options(Durability::Async)).expect("set");
    let appended = append(&partition, 0);
    let receipt = appended.committed().now_or_never().expect("async waits for nothing").expect("acknowledged");
    assert_eq!(receipt, Receipt { replicas: 1, durable: 0 });
}

// Catches a repeat that rides on a watermark which has stopped meaning the disk.
#[test]
fn a_repeat_is_durable_only_once_the_original_is() {
    let (store, partition) = partition(Durability::Sync);
    let original = append(&partition, 0);
    let mut waiting = Box::pin(append(&partition, 0).committed());
    assert!(waiting.as_mut().now_or_never().is_none(), "the original is not on disk");
    store.set_options(partition.id(), options(Durability::Async)).expect("set");
    let receipt = waiting.now_or_never().expect("committed by the new setting").expect("acknowledged");
    assert_eq!(receipt, Receipt { replicas: 1, durable: 0 });

    store.set_options(partition.id(), options(Durability::Sync)).expect("set");
    let again = append(&partition, 0);
    assert_eq!((again.base, again.placing), (original.base, Placing::Repeated));
    let mut again = Box::pin(again.committed());
    assert!(again.as_mut().now_or_never().is_none());
    while store.step() {}
    let receipt = again.now_or_never().expect("on disk").expect("acknowledged");
    assert_eq!(receipt, Receipt { replicas: 1, durable: 1 });
    let first = original.committed().now_or_never().expect("on disk").expect("acknowledged");
    assert_eq!(first.durable, 1);
}
