//! Three brokers in this process over loopback, each on a disk and in a rack of its own, and what the tests ask them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::{TestClient, config, name, within};
use futures::future::join_all;
use streambus_broker::config::address::HostPort;
use streambus_broker::error::StartError;
use streambus_broker::server::{BrokerEnv, RunningServer, Server};
use streambus_consensus::database::{DatabaseSource, MemoryDatabase};
use streambus_protocol::api::cluster::{ClusterDescribeRequest, ClusterDescribeResponse};
use streambus_protocol::api::metadata::{MetadataRequest, MetadataResponse, PartitionLayout};
use streambus_protocol::api::topics::{CreateTopicRequest, CreateTopicResponse};
use streambus_protocol::ids::{BrokerId, PartitionIndex, TopicId};
use tempfile::TempDir;

static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// Founders on addresses that no other test has: founders must know one another's before they listen.
pub(crate) struct Founders {
    network: [u8; 2],
    pub(crate) disks: BTreeMap<u32, TempDir>,
    /// Metadata that is kept in memory instead, by broker.
    pub(crate) metadata: BTreeMap<u32, MemoryDatabase>,
}

impl Founders {
    pub(crate) fn new(count: u32) -> Self {
        let running = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let mixed = std::process::id().wrapping_mul(0x9E37_79B1) ^ running.wrapping_mul(0x85EB_CA6B);
        let [first, second, ..] = mixed.to_be_bytes();
        let disks = (1..=count).map(|id| (id, tempfile::tempdir().expect("a directory"))).collect();
        Self { network: [first | 1, second], disks, metadata: BTreeMap::new() }
    }

    pub(crate) fn cluster_address(&self, id: u32) -> HostPort {
        let host = Ipv4Addr::new(127, self.network[0], self.network[1], u8::try_from(id).expect("few brokers"));
        HostPort { host: host.to_string(), port: 9094 }
    }

    /// Starts `id` on its disk, which may be another broker's.
    pub(crate) async fn start_on(&self, id: u32, disk: u32) -> Result<RunningServer, StartError> {
        let mut config = config(self.disks[&disk].path());
        config.broker.id = BrokerId::new(id);
        config.broker.rack = rack(id);
        config.cluster.listen = self.cluster_address(id);
        // Little stays in memory: what is read later comes from the disk.
        config.storage.tail_cache_bytes = 64 << 10;
        let founders: Vec<u32> = self.disks.keys().copied().collect();
        let peers: Vec<String> = founders.iter().map(|id| format!("{id}@{}", self.cluster_address(*id))).collect();
        config.cluster.peers = peers.join(",").parse().expect("peers");
        let metadata = self.metadata.get(&id).cloned().map_or(DatabaseSource::Directory, DatabaseSource::Memory);
        Server::start(config, BrokerEnv { metadata, ..BrokerEnv::system() }).await
    }

    pub(crate) async fn start(&self, id: u32) -> RunningServer {
        within(self.start_on(id, id)).await.unwrap_or_else(|error| panic!("broker {id}: {error}"))
    }

    pub(crate) async fn start_all(&self) -> BTreeMap<u32, RunningServer> {
        let ids: Vec<u32> = self.disks.keys().copied().collect();
        let started = join_all(ids.iter().map(|id| self.start(*id))).await;
        ids.into_iter().zip(started).collect()
    }
}

/// Where a broker stands: each in a rack of its own.
pub(crate) fn rack(id: u32) -> String {
    format!("rack-{id}")
}

pub(crate) async fn client(server: &RunningServer) -> TestClient {
    TestClient::connect(server.client_address()).await
}

pub(crate) async fn create(client: &mut TestClient, topic: &str, replication_factor: u16) -> CreateTopicResponse {
    let request = CreateTopicRequest {
        name: name(topic),
        partitions: 3,
        replication_factor,
        config: BTreeMap::new(),
        validate_only: false,
    };
    client.call(&request).await.expect("created")
}

pub(crate) async fn layout(client: &mut TestClient, topic: &str) -> Option<Vec<PartitionLayout>> {
    let metadata: MetadataResponse =
        client.call(&MetadataRequest { topics: Some(vec![name(topic)]) }).await.expect("metadata");
    metadata.topics.into_iter().next().and_then(|topic| topic.outcome.ok()).map(|layout| layout.partitions)
}

pub(crate) async fn describe(client: &mut TestClient) -> ClusterDescribeResponse {
    client.call(&ClusterDescribeRequest {}).await.expect("a description")
}

/// Asks again until `accepts`; the metadata reaches every broker, and nobody says when it reached this one.
pub(crate) async fn until<T>(mut ask: impl AsyncFnMut() -> T, accepts: impl Fn(&T) -> bool) -> T {
    within(async {
        loop {
            let answer = ask().await;
            if accepts(&answer) {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// Three brokers that run, a client of the first one, and the topic `orders`, which all of them hold.
pub(crate) struct Orders {
    pub(crate) founders: Founders,
    pub(crate) servers: BTreeMap<u32, RunningServer>,
    pub(crate) first: TestClient,
    pub(crate) topic: TopicId,
}

impl Orders {
    pub(crate) async fn begin() -> Self {
        let founders = Founders::new(3);
        let servers = founders.start_all().await;
        let mut first = client(&servers[&1]).await;
        let topic = create(&mut first, "orders", 3).await.id;
        Self { founders, servers, first, topic }
    }

    /// Waits until `broker` leads a partition, and says which.
    pub(crate) async fn led_by(&mut self, broker: u32) -> PartitionIndex {
        let leads = |partition: &PartitionLayout| partition.leader == Some(BrokerId::new(broker));
        let led = until(async || layout(&mut self.first, "orders").await, |layout| layout.iter().flatten().any(leads));
        led.await.into_iter().flatten().find(leads).expect("waited for").index
    }
}

pub(crate) fn ids(brokers: &[u32]) -> Vec<BrokerId> {
    brokers.iter().copied().map(BrokerId::new).collect()
}
