//! One broker's machine: the disks that outlive its process, and the process as turmoil starts it.

mod witness;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use streambus_broker::config::BrokerConfig;
use streambus_broker::config::address::HostPort;
use streambus_broker::random::Random;
use streambus_broker::server::{BrokerEnv, Server, StoreSource};
use streambus_consensus::database::DatabaseSource;
use streambus_consensus::image::ClusterImage;
use streambus_consensus::inspect::held::{HeldLog, held_log};
use streambus_protocol::batch::batches;
use streambus_protocol::ids::{BrokerId, PartitionId};
use streambus_storage::clock::Clock;
use streambus_storage::config::StoreConfig;
use streambus_storage::error::OpenError;
use streambus_storage::partition_log::{PartitionLog, Read, ReadLimit};
use streambus_storage::store::{Drive, RecoveryReport, Store, StoreEnv};
use streambus_tests::dump::{LogDump, StoredBatch};
use streambus_tests::event::What;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::disks::Disks;
use crate::network::{HostNetwork, Wires};
use crate::plant::Plant;
use crate::trace::{HostClock, Trace};
use witness::Seen;
pub(crate) use witness::{Compaction, MetadataLog};

/// Where clients and brokers connect.
pub(crate) const CLIENT_PORT: u16 = 9092;
const CLUSTER_PORT: u16 = 9094;
/// How often an idle store is looked at, and after how many looks it counts as idle.
const GLANCE: Duration = Duration::from_millis(2);
const IDLE_GLANCES: u32 = 25;
/// How long a broker that stops waits for others to take over, and for its clients.
const GRACE: Duration = Duration::from_secs(5);
/// A planned power cut comes in one of so many changes.
pub(crate) const PLANNED_MAX: u64 = 20;

/// Everything of a broker that a crash leaves.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) id: u32,
    pub(crate) trace: Trace,
    pub(crate) network: HostNetwork,
    /// Brokers 1 to this one found the cluster; any other joins it.
    founders: u32,
    /// Exchanged when they are emptied.
    disks: Arc<Mutex<Disks>>,
    /// Draws for this machine alone, so that what one does changes nothing for another.
    random: Arc<Mutex<StdRng>>,
    /// The longest that one commit takes, in milliseconds.
    pub(crate) commit_ms_max: Arc<AtomicU64>,
    pub(crate) skew_ms: Arc<AtomicI64>,
    /// What the broker knows of the cluster, while it runs.
    pub(crate) image: Arc<Mutex<Option<Arc<ClusterImage>>>>,
    /// Counts starts.
    lives: Arc<AtomicU64>,
    plant: Plant,
    /// Asks this life's process to stop.
    stop: Arc<Mutex<CancellationToken>>,
    has_stopped: Arc<AtomicBool>,
    metadata_log: MetadataLog,
}

/// What the machines of a run have in common.
#[derive(Clone)]
pub(crate) struct Setup {
    /// Brokers 1 to this one found the cluster; any other joins it.
    pub(crate) founders: u32,
    pub(crate) seed: u64,
    pub(crate) wires: Wires,
    pub(crate) trace: Trace,
    pub(crate) plant: Plant,
    pub(crate) metadata_log: MetadataLog,
}

impl Machine {
    pub(crate) fn new(id: u32, setup: &Setup) -> Self {
        let Setup { founders, seed, wires, trace, plant, metadata_log } = setup.clone();
        let seed = seed.wrapping_mul(1_000_003).wrapping_add(u64::from(id));
        let random = Arc::new(Mutex::new(StdRng::seed_from_u64(seed)));
        let commit_ms_max = Arc::new(AtomicU64::new(4));
        let disks = Disks::empty(seed, plant, &random, &commit_ms_max);
        let network = HostNetwork { me: host(id), wires, silent: Arc::new(AtomicBool::new(false)) };
        Self {
            id,
            trace,
            network,
            founders,
            disks: Arc::new(Mutex::new(disks)),
            random,
            commit_ms_max,
            skew_ms: Arc::new(AtomicI64::new(0)),
            image: Arc::default(),
            lives: Arc::default(),
            plant,
            stop: Arc::default(),
            has_stopped: Arc::default(),
            metadata_log,
        }
    }

    pub(crate) fn disks(&self) -> Disks {
        self.disks.lock().clone()
    }

    /// The process is gone.
    pub(crate) fn lose_process(&self) {
        self.network.silent.store(true, Ordering::Relaxed);
        *self.image.lock() = None;
        self.disks().lose_process();
    }

    /// Power is gone.
    pub(crate) fn lose_power(&self) {
        self.network.silent.store(true, Ordering::Relaxed);
        *self.image.lock() = None;
        if let Some(damage) = self.disks().lose_power() {
            self.trace.line(&host(self.id), &format!("a snapshot of the metadata was not durable: {damage}"));
            self.metadata_log.done.lock().torn += 1;
        }
    }

    /// Gives a machine without a process disks with nothing on them. What it was in the metadata's Raft group it must never
    /// be again, which the checker judges.
    pub(crate) fn empty_disks(&self) {
        let mut disks = self.disks.lock();
        if self.plant == Plant::UnnoticedLossOfRecords {
            *disks = disks.without_records();
            return;
        }
        let seed = self.random.lock().next_u64();
        *disks = Disks::empty(seed, self.plant, &self.random, &self.commit_ms_max);
        // Real files: the identity and the snapshots of the metadata.
        std::fs::remove_dir_all(host(self.id)).expect("the data directory is there");
        self.trace.event(&host(self.id), What::Wiped { broker: self.id });
    }

    /// Power is back, the process may start.
    pub(crate) fn restart(&self) {
        self.disks().restart();
        *self.stop.lock() = CancellationToken::new();
        self.has_stopped.store(false, Ordering::Relaxed);
        self.network.silent.store(false, Ordering::Relaxed);
    }

    /// Asks the process to hand over and to end, as SIGTERM does.
    pub(crate) fn ask_to_stop(&self) {
        self.stop.lock().cancel();
    }

    /// True once the process has ended by itself, asked or not, and is about to exit.
    pub(crate) fn has_stopped(&self) -> bool {
        self.has_stopped.load(Ordering::Relaxed)
    }

    fn clock(&self) -> Arc<HostClock> {
        Arc::new(HostClock { trace: self.trace.clone(), skew_ms: Arc::clone(&self.skew_ms) })
    }

    fn config(&self) -> BrokerConfig {
        let everywhere = |port| HostPort { host: "0.0.0.0".to_owned(), port };
        let mut config = BrokerConfig::default();
        config.broker.id = BrokerId::new(self.id);
        config.client.listen = everywhere(CLIENT_PORT);
        config.client.advertise = Some(HostPort { host: host(self.id), port: CLIENT_PORT });
        config.cluster.listen = everywhere(CLUSTER_PORT);
        config.cluster.advertise = Some(HostPort { host: host(self.id), port: CLUSTER_PORT });
        let peers = (1..=self.founders).map(|id| format!("{id}@{}:{CLUSTER_PORT}", host(id)));
        config.cluster.peers = peers.collect::<Vec<_>>().join(",").parse().expect("a list of peers");
        config.cluster.metadata_snapshot_changes = self.metadata_log.snapshot_changes;
        config.cluster.metadata_kept_changes = self.metadata_log.kept_changes;
        config.http.listen = everywhere(8080);
        // Relative: a run's directory has another name each time.
        config.storage.data_dir = host(self.id).into();
        config.storage.disk_reserve_bytes = 0;
        config.storage.disk_reserve_percent = 0;
        config.storage.retention_interval = Duration::from_secs(5);
        config
    }

    /// A store on this machine's disks that the caller drives.
    fn open(&self, clock: Arc<dyn Clock>) -> Result<(Store, RecoveryReport), OpenError> {
        let (random, disks) = (Arc::clone(&self.random), self.disks());
        let forged = (self.plant == Plant::UnnoticedLossOfRecords).then_some(u128::from(self.id));
        // So small that segments fill, extents end and reads leave the tail cache within one run.
        let config = StoreConfig {
            segment_bytes: 512 << 10,
            group_bytes: 32 << 10,
            queue_bytes_max: 128 << 10,
            batch_bytes_max: 64 << 10,
            tail_cache_bytes: 32 << 10,
            extent_bytes_max: 16 << 10,
            ..StoreConfig::tiny()
        };
        let env = StoreEnv {
            disk: Arc::new(disks.records),
            index: disks.index,
            clock,
            random: Box::new(move || {
                let mut random = random.lock();
                forged.unwrap_or_else(|| u128::from(random.next_u64()) << 64 | u128::from(random.next_u64()))
            }),
            drive: Drive::Stepped,
        };
        Store::open(env, config)
    }

    /// Runs the broker until the machine or its process ends.
    pub(crate) async fn run(self) -> turmoil::Result {
        let life = self.lives.fetch_add(1, Ordering::Relaxed) + 1;
        let me = host(self.id);
        let (stop, disks) = (self.stop.lock().clone(), self.disks());
        disks.begin_life();
        self.trace.line(&me, &format!("starts for the {life}. time"));
        let machine = self.clone();
        let source = StoreSource::new(move |_: &Path, _, clock| {
            let opened = machine.open(clock)?;
            drop(tokio::runtime::Handle::current().spawn(machine.clone().drive(opened.0.clone())));
            Ok(opened)
        });
        let seed = self.random.lock().next_u64();
        let env = BrokerEnv {
            clock: self.clock(),
            random: Arc::new(Random::seeded(seed)),
            network: Arc::new(self.network.clone()),
            store: source,
            metadata: DatabaseSource::Memory(disks.metadata.clone()),
        };
        let started = tokio::select! {
            biased;
            started = Server::start(self.config(), env) => started,
            () = stop.cancelled() => return self.exit("gave up starting").await,
        };
        let server = match started {
            Ok(server) => server,
            Err(error) => {
                let failure = format!("does not start: {error}");
                if disks.is_powered() && disks.excuse_failure() {
                    return self.exit(&failure).await;
                }
                // The disk may have died under it, which the driver notices.
                self.trace.line(&me, &failure);
                return match disks.is_powered() {
                    true => Err(format!("broker {} {failure}", self.id).into()),
                    false => std::future::pending().await,
                };
            }
        };
        self.trace.event(&me, What::Started { broker: self.id });
        let metadata = server.metadata().expect("it runs");
        let (mut images, mut seen) = (metadata.watch(), Seen::default());
        loop {
            let image = Arc::clone(&images.borrow_and_update());
            self.observe(&image, &metadata.status(), &mut seen);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = images.changed() => {
                    if changed.is_err() {
                        self.trace.line(&me, "stopped by itself");
                        return std::future::pending().await;
                    }
                }
            }
        }
        drop(images);
        if self.plant == Plant::StopWithoutHandOver {
            drop(server);
            return self.exit("stopped in order, it says").await;
        }
        let stopped = server.drain_and_stop(GRACE).await;
        self.exit(&format!("stopped: {stopped:?}")).await
    }

    /// Nothing is left to do: the driver takes the process away.
    async fn exit(&self, how: &str) -> turmoil::Result {
        self.trace.line(&host(self.id), how);
        self.has_stopped.store(true, Ordering::Relaxed);
        std::future::pending().await
    }

    /// Does the disk's work, taking its time.
    async fn drive(self, store: Store) {
        let (mut idle, disks) = (0, self.disks());
        loop {
            let longest = self.commit_ms_max.load(Ordering::Relaxed);
            let takes = self.random.lock().random_range(1..=longest.max(1));
            sleep(Duration::from_millis(takes)).await;
            if store.step() {
                idle = 0;
                if !disks.is_powered() {
                    // The process died inside this commit: nothing that follows leaves the machine.
                    self.network.silent.store(true, Ordering::Relaxed);
                }
                continue;
            }
            idle += 1;
            if idle == IDLE_GLANCES {
                store.step_idle();
            }
            sleep(GLANCE).await;
        }
    }

    /// What is on this machine's disk of the metadata, after its process was killed.
    pub(crate) fn held_metadata(&self) -> Result<HeldLog, String> {
        let source = DatabaseSource::Memory(self.disks().metadata);
        held_log(&source, Path::new(&host(self.id))).map_err(|error| error.to_string())
    }

    /// Every log on this machine's disk, after its process was killed and recovery has run.
    pub(crate) fn dump(&self) -> Result<Vec<(PartitionId, LogDump)>, String> {
        let (store, report) = self.open(self.clock()).map_err(|error| error.to_string())?;
        self.trace.line(&host(self.id), &format!("recovered at last: {report:?}"));
        let logs = store.log_ids().into_iter().filter_map(|id| Some((id, store.log(id)?)));
        logs.map(|(id, log)| read_log(&log).map(|dump| (id, dump)).map_err(|error| format!("{id}: {error}"))).collect()
    }
}

fn read_log(log: &PartitionLog) -> Result<LogDump, String> {
    let (mut cursor, end) = (log.log_start(), log.log_end());
    let mut found = Vec::new();
    while cursor < end {
        let limit = ReadLimit { bytes_max: 64 << 10, below: end };
        let (chunks, next) = match log.read(cursor, limit).map_err(|error| error.to_string())? {
            Read::Ready(chunks, next) => (chunks, next),
            Read::Disk(read) => read.run().map_err(|error| error.to_string())?,
        };
        for chunk in chunks {
            for batch in batches(chunk) {
                let batch = batch.map_err(|error| error.to_string())?;
                let (base, end, epoch) = (batch.base_offset(), batch.next_offset(), batch.leader_epoch());
                let bytes = batch.into_bytes();
                found.push(StoredBatch {
                    base: base.get(),
                    end: end.get(),
                    epoch: u64::from(epoch.get()),
                    bytes: bytes.len() as u64,
                    checksum: crc32c::crc32c(&bytes),
                });
            }
        }
        if next <= cursor {
            return Err(format!("a read at {cursor} makes no progress"));
        }
        cursor = next;
    }
    Ok(LogDump::of(found))
}

/// The name of broker `id`'s host.
pub(crate) fn host(id: u32) -> String {
    format!("broker-{id}")
}
