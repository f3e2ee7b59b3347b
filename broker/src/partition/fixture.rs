//! A partition over a store in memory that a test drives by hand: nothing is durable before it says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use streambus_consensus::command::{Assignment, ClusterEndpoint, Command, Incarnation, IsrMember, IsrProposal};
use streambus_consensus::explore::State;
use streambus_consensus::image::ClusterImage;
use streambus_consensus::outcome::Outcome;
use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::batch::{BatchBuilder, BatchOptions, ProducerStamp, RecordBatch, UnverifiedBatch};
use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch};
use streambus_protocol::ids::{BrokerId, ClusterId, DirectoryId, PartitionId, PartitionIndex, TopicId, TopicName};
use streambus_protocol::record::Record;
use streambus_protocol::timestamp::Timestamp;
use streambus_protocol::topic_config::{Durability, TopicConfig};
use streambus_storage::clock::ManualClock;
use streambus_storage::config::StoreConfig;
use streambus_storage::disk::memory::MemoryDisk;
use streambus_storage::index::memory::MemoryIndex;
use streambus_storage::partition_log::LogOptions;
use streambus_storage::store::{Drive, Store, StoreEnv};

use crate::partition::role::{Leadership, Role};
use crate::partition::{Owner, Partition};

/// A store that does nothing by itself.
pub(crate) fn store(config: StoreConfig) -> Store {
    let env = StoreEnv {
        disk: Arc::new(MemoryDisk::new()),
        index: Arc::new(MemoryIndex::new()),
        clock: Arc::new(ManualClock::new(Timestamp::from_millis(1))),
        random: Box::new(|| 7),
        drive: Drive::Stepped,
    };
    Store::open(env, config).expect("a store").0
}

/// The default settings with this durability.
pub(crate) fn settings(durability: Durability) -> TopicConfig {
    TopicConfig { durability, ..TopicConfig::parse(&BTreeMap::new()).expect("the defaults") }
}

/// Partition `index` of a topic, which this broker leads alone.
pub(crate) fn partition(store: &Store, index: u32, durability: Durability) -> Arc<Partition> {
    let id = PartitionId { topic: TopicId::from_bytes([1; 16]), partition: PartitionIndex::new(index) };
    let settings = settings(durability);
    let log = store.create_log(id, LogOptions::from(&settings)).expect("a log");
    let role = Role {
        leadership: Leadership::Here,
        leader_epoch: LeaderEpoch::new(1),
        partition_epoch: PartitionEpoch::ZERO,
        replicas: vec![BrokerId::new(1)],
        in_sync: vec![BrokerId::new(1)],
        eligible: Vec::new(),
        recovering: false,
        unclean_epoch: None,
        move_limit: None,
        registered: BTreeMap::new(),
        settings,
    };
    while store.step() {}
    let owner = Owner { broker: BrokerId::new(1), lag_limit: Duration::from_secs(10) };
    Arc::new(Partition::new(id, TopicName::new("t").expect("a name"), log, owner, role, Duration::ZERO))
}

/// A batch of one record.
pub(crate) fn batch(value: &[u8], producer: Option<ProducerStamp>) -> RecordBatch {
    let mut builder = BatchBuilder::new(BatchOptions { producer, ..BatchOptions::default() });
    builder.push(&Record::new(Bytes::copy_from_slice(value), Timestamp::from_millis(1))).expect("room");
    UnverifiedBatch::new(builder.build().expect("a batch")).verify(1 << 20).expect("a sound batch")
}

/// The cluster's metadata, one command after the other.
#[derive(Default)]
pub(crate) struct Metadata {
    state: State,
    index: u64,
}

impl Metadata {
    /// That of a cluster without brokers.
    pub(crate) fn founded() -> Self {
        let mut metadata = Self::default();
        metadata.apply(&Command::FoundCluster { cluster_id: ClusterId::from_bytes([1; 16]) });
        metadata
    }

    /// Applies a command that is accepted.
    pub(crate) fn apply(&mut self, command: &Command) -> Outcome {
        self.index += 1;
        self.state.apply(self.index, command).expect("accepted")
    }

    /// Puts a broker into service.
    pub(crate) fn start(&mut self, broker: BrokerId) -> BrokerEpoch {
        let life = u8::try_from(broker.get()).expect("small");
        self.begin_life(broker, Incarnation::from_bytes([life; 16]))
    }

    /// Ends a broker's life without a word, and puts its next one into service, on the same disk.
    pub(crate) fn restart(&mut self, broker: BrokerId, former: BrokerEpoch) -> BrokerEpoch {
        self.apply(&Command::FenceBroker { broker, epoch: former });
        self.begin_life(broker, Incarnation::from_bytes(u128::from(former.get()).to_be_bytes()))
    }

    fn begin_life(&mut self, broker: BrokerId, incarnation: Incarnation) -> BrokerEpoch {
        let life = u8::try_from(broker.get()).expect("small");
        let registered = self.apply(&Command::RegisterBroker {
            incarnation,
            endpoint: BrokerEndpoint { id: broker, host: "h".to_owned(), port: 1, rack: None },
            cluster: ClusterEndpoint { host: "h".to_owned(), port: 2 },
            directory: DirectoryId::from_bytes([life; 16]),
            intact: true,
            version: "0".to_owned(),
        });
        let Outcome::BrokerRegistered { epoch } = registered else { panic!("{registered:?}") };
        self.apply(&Command::UnfenceBroker { broker, epoch });
        epoch
    }

    /// Creates topic number `n` with these replicas of its only partition, two of which have to be in sync.
    pub(crate) fn create_topic(&mut self, n: u8, name: &str, replicas: &[BrokerId]) -> PartitionId {
        let id = TopicId::from_bytes([n; 16]);
        self.apply(&Command::CreateTopic {
            name: TopicName::new(name).expect("a name"),
            id,
            partitions: vec![Assignment { replicas: replicas.to_vec() }],
            config: BTreeMap::from([("min.insync.replicas".to_owned(), "2".to_owned())]),
            at: Timestamp::from_millis(1),
        });
        PartitionId { topic: id, partition: PartitionIndex::new(0) }
    }

    /// The leader of `id` says that these replicas are in sync.
    pub(crate) fn set_in_sync(&mut self, id: PartitionId, members: &[BrokerId]) {
        let image = self.image();
        let state = image.partition(id).expect("a partition");
        let leader = state.leader.expect("a leader");
        let epoch_of = |broker: &BrokerId| image.brokers.get(broker).expect("registered").epoch;
        let outcome = self.apply(&Command::AlterPartitions {
            broker: leader,
            broker_epoch: epoch_of(&leader),
            proposals: vec![IsrProposal {
                id,
                leader_epoch: state.leader_epoch,
                partition_epoch: state.partition_epoch,
                isr: members.iter().map(|broker| IsrMember { broker: *broker, epoch: epoch_of(broker) }).collect(),
                recovering: false,
            }],
        });
        let Outcome::PartitionsAltered { results } = outcome else { panic!("{outcome:?}") };
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }

    /// The last entry.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// What brokers see now.
    pub(crate) fn image(&self) -> Arc<ClusterImage> {
        Arc::new(self.state.image().clone())
    }
}
