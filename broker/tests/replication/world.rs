//! Brokers with one partition each, a network between them and a controller that says what it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use streambus_broker::cluster::replica_service::ReplicaService;
use streambus_broker::partition::append::Appended;
use streambus_broker::partition::registry::Registry;
use streambus_broker::partition::role::{Leadership, MoveLimit, Role};
use streambus_broker::partition::{Owner, Partition};
use streambus_broker::replication::engine::Engine;
use streambus_broker::replication::in_sync::{ChangeAnswer, IsrChange, PartitionVersion};
use streambus_broker::replication::isr_proposer::IsrAuthority;
use streambus_broker::replication::leader_state::Registered;
use streambus_broker::replication::peer_link::{LinkError, PeerLink};
use streambus_broker::replication::registration::Registration;
use streambus_broker::replication::repairer::RepairBoard;
use streambus_broker::replication::replica_service::LeaderService;
use streambus_broker::replication::settings::ReplicationSettings;
use streambus_broker::service::reader::ReadBudget;
use streambus_protocol::api::fetch::Batches;
use streambus_protocol::api::produce::Acks;
use streambus_protocol::api::repair::{ReplicaRepairRequest, ReplicaRepairResponse};
use streambus_protocol::api::replica::{ReplicaFetchRequest, ReplicaFetchResponse, ReplicaProgressRequest};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::batch::{BatchBuilder, BatchOptions, ProducerStamp, RecordBatch, UnverifiedBatch};
use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch};
use streambus_protocol::ids::{BrokerId, PartitionId, PartitionIndex, TopicId, TopicName};
use streambus_protocol::offset::Offset;
use streambus_protocol::record::Record;
use streambus_protocol::timestamp::Timestamp;
use streambus_protocol::topic_config::{Durability, TopicConfig};
use streambus_storage::clock::{Clock, SystemClock};
use streambus_storage::config::StoreConfig;
use streambus_storage::disk::Disk;
use streambus_storage::disk::memory::MemoryDisk;
use streambus_storage::index::memory::MemoryIndex;
use streambus_storage::partition_log::{LogOptions, Read, ReadLimit};
use streambus_storage::store::{Drive, Store, StoreEnv};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Far longer than anything here takes: a test that reaches it hangs for a reason.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const ID: PartitionId =
    PartitionId { topic: TopicId::from_bytes([1; 16]), partition: PartitionIndex::new(0) };

/// The partition's state, as the controller has it.
#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    pub(crate) leader: Option<u32>,
    pub(crate) leader_epoch: u32,
    pub(crate) partition_epoch: u32,
    pub(crate) isr: Vec<u32>,
    pub(crate) replicas: Vec<u32>,
    pub(crate) min_isr: u16,
    pub(crate) recovering: bool,
    pub(crate) unclean_epoch: Option<u32>,
    /// What a move that adds broker 3 may send in a second, if it has a limit of its own.
    pub(crate) move_limit: Option<u64>,
    /// Epoch of each registered broker.
    pub(crate) lives: BTreeMap<u32, u64>,
    /// Brokers that the controller takes for dead.
    pub(crate) fenced: BTreeSet<u32>,
}

/// What the nodes share: the controller and the wires.
pub(crate) struct Shared {
    pub(crate) metadata: Mutex<Metadata>,
    nodes: Mutex<BTreeMap<u32, Reachable>>,
    /// Brokers nobody reaches.
    pub(crate) cut: Mutex<BTreeSet<u32>>,
    /// Ends when the set of cut brokers changes.
    epoch_of_cuts: Mutex<CancellationToken>,
    /// The broker that gets no answer to its fetches before it is released.
    pub(crate) held: watch::Sender<Option<u32>>,
    pub(crate) fetches: AtomicU64,
    /// Nobody answers a question for lost batches.
    pub(crate) keeps_repairs: AtomicBool,
    pub(crate) diverging: AtomicU64,
    clock: Arc<dyn Clock>,
}

/// What others reach of a node.
type Reachable = (Arc<Registry>, LeaderService);

pub(crate) struct Node {
    pub(crate) disk: MemoryDisk,
    index: Arc<MemoryIndex>,
    pub(crate) store: Store,
    pub(crate) registry: Arc<Registry>,
    pub(crate) repairs: RepairBoard,
    stop: CancellationToken,
    tasks: TaskTracker,
}

pub(crate) struct World {
    pub(crate) shared: Arc<Shared>,
    pub(crate) nodes: BTreeMap<u32, Node>,
    settings: ReplicationSettings,
    store: StoreConfig,
}

/// One node's way to the others.
struct Link {
    from: u32,
    shared: Arc<Shared>,
}

impl PeerLink for Link {
    fn fetch(
        &self,
        leader: BrokerId,
        request: ReplicaFetchRequest,
        _ttl: Duration,
    ) -> BoxFuture<'static, Result<ReplicaFetchResponse, LinkError>> {
        let (from, shared) = (self.from, Arc::clone(&self.shared));
        shared.fetches.fetch_add(1, Ordering::Relaxed);
        async move {
            let broken = || LinkError::Unreachable("the test cut the wire".to_owned());
            let cuts = shared.epoch_of_cuts.lock().clone();
            if shared.is_cut(from, leader.get()) {
                // As a connection that is refused at once; the fetcher's own pause follows.
                return Err(broken());
            }
            let service = shared.nodes.lock().get(&leader.get()).map(|(_, service)| service.clone());
            let service = service.ok_or_else(broken)?;
            let answer = tokio::select! {
                biased;
                () = cuts.cancelled() => {
                    service.disconnected(BrokerId::new(from));
                    return Err(broken());
                }
                answer = service.fetch(BrokerId::new(from), request, CancellationToken::new()) => answer,
            };
            let mut held = shared.held.subscribe();
            drop(held.wait_for(|held| *held != Some(from)).await);
            if let Ok(answer) = &answer {
                let cuts = answer.partitions.iter().filter(|outcome| outcome.diverging.is_some()).count();
                shared.diverging.fetch_add(cuts as u64, Ordering::Relaxed);
            }
            let mut answer = answer.map_err(LinkError::Refused)?;
            for fetched in answer.partitions.iter_mut().filter_map(|outcome| outcome.result.as_mut().ok()) {
                fetched.batches = carried(&fetched.batches);
            }
            Ok(answer)
        }
        .boxed()
    }

    fn repair(
        &self,
        source: BrokerId,
        request: ReplicaRepairRequest,
        _ttl: Duration,
    ) -> BoxFuture<'static, Result<ReplicaRepairResponse, LinkError>> {
        let (from, shared) = (self.from, Arc::clone(&self.shared));
        async move {
            let broken = || LinkError::Unreachable("the test cut the wire".to_owned());
            if shared.is_cut(from, source.get()) || shared.keeps_repairs.load(Ordering::SeqCst) {
                return Err(broken());
            }
            let service = shared.nodes.lock().get(&source.get()).map(|(_, service)| service.clone());
            let answer = service.ok_or_else(broken)?.repair(BrokerId::new(from), request, CancellationToken::new());
            let answer = answer.await.map_err(LinkError::Refused)?;
            Ok(ReplicaRepairResponse { batches: carried(&answer.batches) })
        }
        .boxed()
    }

    fn progress(&self, leader: BrokerId, progress: ReplicaProgressRequest) -> bool {
        if self.shared.is_cut(self.from, leader.get()) {
            return false;
        }
        let service = self.shared.nodes.lock().get(&leader.get()).map(|(_, service)| service.clone());
        if let Some(service) = service {
            service.progress(BrokerId::new(self.from), progress);
        }
        true
    }
}

/// As a wire does: what arrives is another's memory, and the sender's is free again.
fn carried(batches: &Batches) -> Batches {
    Batches::from_bytes(Bytes::from(batches.chunks().concat()))
}

impl IsrAuthority for Shared {
    fn propose(
        &self,
        _epoch: BrokerEpoch,
        changes: Vec<(PartitionId, IsrChange)>,
    ) -> BoxFuture<'_, Result<Vec<ChangeAnswer>, ChangeAnswer>> {
        let decide = |(_, change): &(PartitionId, IsrChange)| {
            let mut metadata = self.metadata.lock();
            if change.leader_epoch.get() != metadata.leader_epoch
                || change.partition_epoch.get() != metadata.partition_epoch
            {
                return ChangeAnswer::Superseded;
            }
            if change.isr.iter().any(|m| metadata.lives.get(&m.broker.get()) != Some(&m.epoch.get())) {
                return ChangeAnswer::NotApplied;
            }
            metadata.isr = change.isr.iter().map(|member| member.broker.get()).collect();
            metadata.partition_epoch += 1;
            metadata.recovering = change.recovering;
            ChangeAnswer::Applied(metadata.version())
        };
        let answers = changes.iter().map(decide).collect();
        self.tell_everybody();
        std::future::ready(Ok(answers)).boxed()
    }
}

impl Metadata {
    fn version(&self) -> PartitionVersion {
        PartitionVersion {
            leader_epoch: LeaderEpoch::new(self.leader_epoch),
            partition_epoch: PartitionEpoch::new(self.partition_epoch),
            isr: self.isr.iter().copied().map(BrokerId::new).collect(),
            recovering: self.recovering,
        }
    }

    fn role(&self, node: u32) -> Role {
        let ids = |ids: &[u32]| ids.iter().copied().map(BrokerId::new).collect();
        let life = |(id, epoch): (&u32, &u64)| {
            let may_join = !self.fenced.contains(id);
            (BrokerId::new(*id), Registered { epoch: BrokerEpoch::new(*epoch), may_join })
        };
        Role {
            leadership: match self.leader {
                Some(leader) if leader == node => Leadership::Here,
                Some(leader) => Leadership::There(BrokerId::new(leader)),
                None => Leadership::Nobody,
            },
            leader_epoch: LeaderEpoch::new(self.leader_epoch),
            partition_epoch: PartitionEpoch::new(self.partition_epoch),
            replicas: ids(&self.replicas),
            in_sync: ids(&self.isr),
            eligible: Vec::new(),
            recovering: self.recovering,
            unclean_epoch: self.unclean_epoch.map(LeaderEpoch::new),
            move_limit: self
                .move_limit
                .map(|bytes_per_second| MoveLimit { adding: vec![BrokerId::new(3)], bytes_per_second }),
            registered: self.lives.iter().map(life).collect(),
            settings: settings(self.min_isr),
        }
    }
}

fn settings(min_isr: u16) -> TopicConfig {
    TopicConfig { min_insync_replicas: min_isr, ..TopicConfig::parse(&BTreeMap::new()).expect("the defaults") }
}

impl Shared {
    fn is_cut(&self, from: u32, to: u32) -> bool {
        let cut = self.cut.lock();
        cut.contains(&from) || cut.contains(&to)
    }

    /// Gives every node its role. No new leadership begins here.
    fn tell_everybody(&self) {
        let metadata = self.metadata.lock().clone();
        for (id, (registry, _)) in &*self.nodes.lock() {
            if self.cut.lock().contains(id) {
                continue;
            }
            if let Some(partition) = registry.get(ID) {
                partition.set_role(metadata.role(*id), self.clock.monotonic());
                registry.announce_role(ID);
            }
        }
    }
}

impl World {
    /// Brokers 1 to 3; 1 leads, all are in sync, two must be.
    pub(crate) async fn new(lag_limit: Duration) -> Self {
        Self::with_drives(lag_limit, &[Drive::Threads; 3]).await
    }

    pub(crate) async fn with_drives(lag_limit: Duration, drives: &[Drive]) -> Self {
        let settings = ReplicationSettings { lag_limit, ..ReplicationSettings::default() };
        Self::with_settings(settings, StoreConfig::tiny(), Arc::new(SystemClock::new()), drives).await
    }

    /// Brokers with these settings, but for short pauses between attempts, whose time is `clock`'s.
    pub(crate) async fn with_settings(
        settings: ReplicationSettings,
        store: StoreConfig,
        clock: Arc<dyn Clock>,
        drives: &[Drive],
    ) -> Self {
        let metadata = Metadata {
            leader: None,
            leader_epoch: 0,
            partition_epoch: 0,
            isr: vec![1, 2, 3],
            replicas: vec![1, 2, 3],
            min_isr: 2,
            recovering: false,
            unclean_epoch: None,
            move_limit: None,
            lives: [(1, 11), (2, 12), (3, 13)].into(),
            fenced: BTreeSet::new(),
        };
        let shared = Arc::new(Shared {
            metadata: Mutex::new(metadata),
            nodes: Mutex::default(),
            cut: Mutex::default(),
            epoch_of_cuts: Mutex::default(),
            held: watch::Sender::new(None),
            fetches: AtomicU64::new(0),
            keeps_repairs: AtomicBool::new(false),
            diverging: AtomicU64::new(0),
            clock,
        });
        let (retry_max, repair_interval) = (Duration::from_millis(20), Duration::from_millis(5));
        let settings = ReplicationSettings { retry_max, repair_interval, ..settings };
        let mut world = Self { shared, nodes: BTreeMap::new(), settings, store };
        for (id, drive) in (1..).zip(drives) {
            world.start(id, MemoryDisk::new(), Arc::new(MemoryIndex::new()), *drive);
        }
        world.elect(1).await;
        world
    }

    fn start(&mut self, id: u32, disk: MemoryDisk, index: Arc<MemoryIndex>, drive: Drive) {
        let clock = Arc::clone(&self.shared.clock);
        let env = StoreEnv {
            disk: Arc::new(disk.clone()),
            index: Arc::clone(&index) as _,
            clock: Arc::clone(&clock),
            random: Box::new(move || u128::from(id)),
            drive,
        };
        let (store, _) = Store::open(env, self.store.clone()).expect("the store opens");
        let log = store.create_log(ID, LogOptions::from(&settings(2))).expect("a log");
        let registry = Arc::new(Registry::new());
        let owner = Owner { broker: BrokerId::new(id), lag_limit: self.settings.lag_limit };
        let role = Role { leadership: Leadership::Nobody, ..self.shared.metadata.lock().role(id) };
        let name = TopicName::new("t").expect("a name");
        registry.insert(Arc::new(Partition::new(ID, name, log, owner, role, clock.monotonic())));

        let registration = Registration::new(BrokerId::new(id));
        registration.set(BrokerEpoch::new(*self.shared.metadata.lock().lives.get(&id).expect("registered")));
        // More than all logs: without a wire in between, what was read stays charged while a follower's cache has it.
        let budget = ReadBudget::new(64 << 20);
        let engine = Engine::new(Arc::clone(&registry), registration, clock, self.settings, budget);
        self.shared.nodes.lock().insert(id, (Arc::clone(&registry), engine.service()));
        let link = Arc::new(Link { from: id, shared: Arc::clone(&self.shared) });
        let authority = Arc::clone(&self.shared) as Arc<dyn IsrAuthority>;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        engine.start(link, authority, &tasks, &stop);
        tasks.close();
        let repairs = engine.repairs();
        self.nodes.insert(id, Node { disk, index, store, registry, repairs, stop, tasks });
    }

    /// Ends a broker; its disk stays.
    pub(crate) async fn stop(&mut self, id: u32) -> (MemoryDisk, Arc<MemoryIndex>) {
        let node = self.nodes.remove(&id).expect("it runs");
        self.shared.nodes.lock().remove(&id);
        self.shared.metadata.lock().fenced.insert(id);
        self.shared.tell_everybody();
        node.stop.cancel();
        node.tasks.wait().await;
        self.break_connections();
        let Node { disk, index, store, .. } = node;
        tokio::task::spawn_blocking(move || store.close()).await.expect("no panic").expect("it closes");
        (disk, index)
    }

    /// Starts a broker again in a new life, on the disk that is given or on an empty one.
    pub(crate) fn restart(&mut self, id: u32, disk: Option<(MemoryDisk, Arc<MemoryIndex>)>) {
        let (disk, index) = disk.unwrap_or_else(|| (MemoryDisk::new(), Arc::new(MemoryIndex::new())));
        {
            let mut metadata = self.shared.metadata.lock();
            *metadata.lives.get_mut(&id).expect("it was registered") += 100;
            metadata.fenced.remove(&id);
        }
        self.start(id, disk, index, Drive::Threads);
        self.shared.tell_everybody();
    }

    fn break_connections(&self) {
        std::mem::take(&mut *self.shared.epoch_of_cuts.lock()).cancel();
    }

    /// Cuts a broker off from the others and from the controller.
    pub(crate) fn cut(&self, id: u32) {
        self.shared.cut.lock().insert(id);
        self.break_connections();
    }

    /// Ends every cut; everybody hears what the controller says.
    pub(crate) fn heal(&self) {
        self.shared.cut.lock().clear();
        self.break_connections();
        self.shared.tell_everybody();
    }

    /// Makes `leader` the leader in the next epoch.
    pub(crate) async fn elect(&self, leader: u32) {
        let epoch = {
            let mut metadata = self.shared.metadata.lock();
            metadata.leader = Some(leader);
            metadata.leader_epoch += 1;
            metadata.partition_epoch += 1;
            LeaderEpoch::new(metadata.leader_epoch)
        };
        let partition = self.partition(leader);
        partition.pause_following();
        let durable = partition.log().start_epoch(epoch).expect("the log takes the epoch");
        self.settle(durable).await.expect("the epoch is durable");
        self.shared.tell_everybody();
    }

    /// Changes the in-sync set as the controller would.
    pub(crate) fn set_isr(&self, isr: &[u32]) {
        let mut metadata = self.shared.metadata.lock();
        metadata.isr = isr.to_vec();
        metadata.partition_epoch += 1;
        drop(metadata);
        self.shared.tell_everybody();
    }

    /// Moves the partition to broker 3 under this limit.
    pub(crate) fn set_move_limit(&self, bytes_per_second: Option<u64>) {
        let mut metadata = self.shared.metadata.lock();
        metadata.move_limit = bytes_per_second;
        metadata.partition_epoch += 1;
        drop(metadata);
        self.shared.tell_everybody();
    }

    /// Bytes that `leader` has sent to replicas that were behind.
    pub(crate) fn caught_up_bytes(&self, leader: u32) -> u64 {
        self.shared.nodes.lock().get(&leader).expect("it runs").1.catch_up().sent_bytes
    }

    pub(crate) fn partition(&self, id: u32) -> Arc<Partition> {
        self.nodes.get(&id).expect("it runs").registry.get(ID).expect("the partition")
    }

    pub(crate) fn append(&self, leader: u32, value: &str, acks: Acks) -> Result<Appended, ErrorBody> {
        self.partition(leader).append(batch(value, None), LeaderEpoch::UNKNOWN, acks)
    }

    /// Appends with acks=all and waits for the acknowledgement.
    pub(crate) async fn commit(&self, leader: u32, value: &str) {
        let appended = self.append(leader, value, Acks::All).expect("it is appended");
        self.settle(appended.committed()).await.expect("it is committed");
    }

    /// What `id` answers when `from` fetches.
    pub(crate) async fn ask_fetch(
        &self,
        id: u32,
        from: u32,
        request: ReplicaFetchRequest,
    ) -> Result<ReplicaFetchResponse, ErrorBody> {
        let service = self.shared.nodes.lock().get(&id).map(|(_, service)| service.clone()).expect("it runs");
        service.fetch(BrokerId::new(from), request, CancellationToken::new()).await
    }

    /// What `id` answers when `from` asks for lost batches.
    pub(crate) async fn ask_repair(
        &self,
        id: u32,
        from: u32,
        request: ReplicaRepairRequest,
    ) -> Result<ReplicaRepairResponse, ErrorBody> {
        let service = self.shared.nodes.lock().get(&id).map(|(_, service)| service.clone()).expect("it runs");
        service.repair(BrokerId::new(from), request, CancellationToken::new()).await
    }

    /// Flips a bit in every batch of broker `id` with one of `offsets` as its first, wherever copies of it lie.
    pub(crate) fn decay(&self, id: u32, offsets: Range<u64>) {
        decay(&self.nodes.get(&id).expect("it runs").disk, offsets);
    }

    /// Waits for `future`.
    pub(crate) async fn settle<F: Future>(&self, future: F) -> F::Output {
        tokio::time::timeout(PATIENCE, future).await.expect("it takes far less")
    }

    /// Lets a broker's log obey another setting; nobody else hears of it.
    pub(crate) fn set_durability(&self, id: u32, durability: Durability) {
        let options = LogOptions::from(&TopicConfig { durability, ..settings(2) });
        self.nodes.get(&id).expect("it runs").store.set_options(ID, options).expect("the log is there");
    }

    /// Does the disk work of a store that waits for it.
    pub(crate) fn step(&self, id: u32) {
        if let Some(node) = self.nodes.get(&id) {
            while node.store.step() {}
        }
    }

    /// Waits until `is_so`.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let waiting = async {
            while !is_so() {
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{what}, but it did not happen");
    }

    /// Waits until every log ends where the leader's does, on every disk, and everybody knows that it is committed.
    pub(crate) async fn converge(&self) {
        let leader = self.shared.metadata.lock().leader.expect("somebody leads");
        let end = || self.partition(leader).log().log_end();
        self.until("the logs and watermarks should become equal", || {
            self.nodes.keys().all(|id| {
                let partition = self.partition(*id);
                partition.log().durable_end() == end() && partition.high_watermark() == end()
            })
        })
        .await;
    }

    /// Every byte of a broker's log.
    pub(crate) fn bytes(&self, id: u32) -> Vec<u8> {
        let partition = self.partition(id);
        let log = partition.log();
        let (mut at, end) = (log.log_start(), log.log_end());
        let mut bytes = Vec::new();
        while at < end {
            let (chunks, next): (Vec<Bytes>, Offset) =
                match log.read(at, ReadLimit { bytes_max: 1 << 16, below: end }).expect("it reads") {
                    Read::Ready(chunks, next) => (chunks, next),
                    Read::Disk(read) => read.run().expect("it reads"),
                };
            assert!(next > at, "a read below the end makes progress");
            chunks.iter().for_each(|chunk| bytes.extend_from_slice(chunk));
            at = next;
        }
        bytes
    }

    /// The in-sync set, as the controller has it.
    pub(crate) fn isr(&self) -> Vec<u32> {
        let mut isr = self.shared.metadata.lock().isr.clone();
        isr.sort_unstable();
        isr
    }
}

/// Flips a bit in every batch on `disk` with one of `offsets` as its first, wherever copies of it lie.
pub(crate) fn decay(disk: &MemoryDisk, offsets: Range<u64>) {
    let mut flipped = 0;
    for name in disk.list("journal-").expect("list") {
        let bytes = disk.read_file(&name).expect("read");
        for at in (4096..bytes.len() - 200).step_by(8).filter(|at| &bytes[*at..at + 4] == b"SBEN") {
            let base = u64::from_le_bytes(*bytes[at + 24..].first_chunk().expect("eight bytes"));
            if offsets.contains(&base) && matches!(bytes[at + 60], 1 | 8) {
                disk.flip_bit(&name, at as u64 + 150, 1).expect("flipped");
                flipped += 1;
            }
        }
    }
    assert!(flipped >= offsets.end - offsets.start, "only {flipped} batches of {offsets:?} are on the disk");
}

/// A batch of one record.
pub(crate) fn batch(value: &str, producer: Option<ProducerStamp>) -> RecordBatch {
    let mut builder = BatchBuilder::new(BatchOptions { producer, ..BatchOptions::default() });
    let value = Bytes::copy_from_slice(value.as_bytes());
    builder.push(&Record::new(value, Timestamp::from_millis(1))).expect("room");
    UnverifiedBatch::new(builder.build().expect("a batch")).verify(1 << 20).expect("a sound batch")
}
