//! A disk that hangs or fails under a running broker: what a client is told, what health says, what still works.

use std::io;
use std::sync::{Arc, Mutex};

use crate::harness::{TestBroker, at, batch, code, config, name, produce_request, within};
use streambus_broker::server::{BrokerEnv, Server, StoreSource};
use streambus_protocol::api::produce::{Acks, ProduceResponse};
use streambus_protocol::api::session::HealthRequest;
use streambus_protocol::api::topics::DescribeTopicRequest;
use streambus_protocol::error_code::{Applied, ErrorCode};
use streambus_protocol::offset::Offset;
use streambus_storage::aligned::Blocks;
use streambus_storage::disk::memory::MemoryDisk;
use streambus_storage::disk::{Disk, DiskFile, OpenHow, WriteMode};
use streambus_storage::index::memory::MemoryIndex;
use streambus_storage::store::{Drive, Store, StoreEnv};

/// What durable writes do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// They hang until the gate changes.
    Closed,
    /// They fail, as a broken device does.
    Failing,
}

/// A disk in memory whose durable writes pass a gate.
#[derive(Clone, Debug)]
struct GatedDisk {
    inner: MemoryDisk,
    gate: Arc<(Mutex<Gate>, std::sync::Condvar)>,
}

impl GatedDisk {
    fn new() -> Self {
        Self { inner: MemoryDisk::new(), gate: Arc::new((Mutex::new(Gate::Open), std::sync::Condvar::new())) }
    }

    fn set(&self, gate: Gate) {
        *self.gate.0.lock().expect("the gate") = gate;
        self.gate.1.notify_all();
    }

    fn pass(&self) -> io::Result<()> {
        let state = self.gate.0.lock().expect("the gate");
        let state = self.gate.1.wait_while(state, |gate| *gate == Gate::Closed).expect("the gate");
        match *state {
            Gate::Failing => Err(io::Error::from_raw_os_error(5)),
            Gate::Open | Gate::Closed => Ok(()),
        }
    }
}

impl Disk for GatedDisk {
    fn open(&self, name: &str, how: OpenHow) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(GatedFile { inner: self.inner.open(name, how)?, disk: self.clone() }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.inner.exists(name)
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<String>> {
        self.inner.list(prefix)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.inner.sync_dir()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.inner.free_bytes()
    }

    fn read_file(&self, name: &str) -> io::Result<Vec<u8>> {
        self.inner.read_file(name)
    }

    fn write_file_atomically(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_file_atomically(name, bytes)
    }

    fn write_mode(&self) -> WriteMode {
        self.inner.write_mode()
    }
}

#[derive(Debug)]
struct GatedFile {
    inner: Arc<dyn DiskFile>,
    disk: GatedDisk,
}

impl DiskFile for GatedFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(position, buffer)
    }

    fn write_at_durably(&self, position: u64, blocks: Blocks<'_>) -> io::Result<()> {
        self.disk.pass()?;
        self.inner.write_at_durably(position, blocks)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.inner.allocate(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.pass()?;
        self.inner.sync()
    }

    fn write_mode(&self) -> WriteMode {
        self.inner.write_mode()
    }
}

async fn broker_on(disk: &GatedDisk) -> TestBroker {
    let directory = tempfile::tempdir().expect("a directory");
    let (disk, index) = (disk.clone(), Arc::new(MemoryIndex::new()));
    let store = StoreSource::new(move |_, config, clock| {
        let env = StoreEnv {
            disk: Arc::new(disk.clone()),
            index: index.clone(),
            clock,
            random: Box::new(|| 7),
            drive: Drive::Threads,
        };
        Store::open(env, config)
    });
    let mut config = config(directory.path());
    config.storage.segment_bytes = 64 << 20;
    let server = Server::start(config, BrokerEnv { store, ..BrokerEnv::system() }).await.expect("a broker");
    TestBroker { server, directory }
}

/// Waits until the log of `topic` has taken everything below `end`, on disk or not.
async fn until_appended(broker: &TestBroker, topic: &str, end: Offset) {
    let mut client = broker.client().await;
    within(async {
        while client.call(&DescribeTopicRequest { name: name(topic) }).await.expect("a topic").partitions[0].log_end
            < end
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

// Catches a failed sync that is told as a definite failure, that is forgotten, or that takes reading with it.
#[tokio::test]
async fn the_first_failed_sync_makes_the_broker_read_only_and_says_so() {
    let disk = GatedDisk::new();
    let broker = broker_on(&disk).await;
    let mut client = broker.client().await;
    let topic = client.create_topic("t", 1).await;
    client.produce(topic, 0, &["safe"]).await.expect("written");

    disk.set(Gate::Closed);
    let pending = client.send(&produce_request(topic, 0, Acks::All, batch(&["doubtful"], None))).await;
    until_appended(&broker, "t", at(2)).await;
    disk.set(Gate::Failing);
    let response: ProduceResponse = client.response(pending).await.expect("an answer");
    let refused = code(response.partitions.into_iter().next().expect("one outcome").result);
    assert_eq!((refused, refused.applied()), (ErrorCode::StorageFailed, Applied::Unknown));

    // The device works again: what was lost stays lost for this process.
    disk.set(Gate::Open);
    let later = code(client.produce(topic, 0, &["later"]).await);
    assert_eq!((later, later.applied()), (ErrorCode::StorageReadOnly, Applied::No));
    assert_eq!(client.values(topic, 0, 0).await, ["safe"]);
    within(async {
        while client.call(&HealthRequest {}).await.expect("health").ready {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let health = client.call(&HealthRequest {}).await.expect("health");
    assert!(health.problems.iter().any(|p| p.contains("storage") && p.contains("read-only")), "{:?}", health.problems);
    // Closing the store repeats what is wrong with it.
    broker.stop().await.expect_err("durability was lost");
}

// Catches a produce that is told to have failed while it may yet be on disk.
#[tokio::test]
async fn a_deadline_that_passes_during_a_sync_leaves_the_outcome_unknown() {
    let disk = GatedDisk::new();
    let broker = broker_on(&disk).await;
    let mut client = broker.client().await;
    let topic = client.create_topic("t", 1).await;
    disk.set(Gate::Closed);
    let request = produce_request(topic, 0, Acks::All, batch(&["late"], None));
    let pending = client.send_with_timeout(&request, 50).await;
    let response: ProduceResponse = client.response(pending).await.expect("an answer");
    let late = code(response.partitions.into_iter().next().expect("one outcome").result);
    assert_eq!((late, late.applied()), (ErrorCode::Timeout, Applied::Unknown));
    assert!(client.values(topic, 0, 0).await.is_empty(), "nothing that is not on disk is served");

    disk.set(Gate::Open);
    let mut request = crate::harness::fetch_request(topic, 0, 0, 10_000);
    request.bytes_min = 1;
    let response = client.fetch(&request).await;
    assert_eq!(crate::harness::values(&response.partitions[0]), ["late"], "it was committed after all");
    broker.stop().await.expect("an orderly stop");
}
