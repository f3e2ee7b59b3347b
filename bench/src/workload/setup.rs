//! What every workload needs: its clients, the topic's conditions, where its partitions end now, what processes have used,
//! and the report that these make.

use std::collections::BTreeMap;

use streambus_client::{Client, Config};
use streambus_protocol::api::offsets::OffsetQuery;

use super::error::WorkloadError;
use crate::cpu::{self, Usage};
use crate::latency::Percentiles;
use crate::report::{Conditions, Report, Workload};
use crate::stopwatch::Stopwatch;
use crate::tally::Tally;

/// Options that all workloads share.
#[derive(Clone, Debug)]
pub struct Common {
    /// How to reach the cluster.
    pub config: Config,
    /// The topic; it must exist.
    pub topic: String,
    /// Clients, each with its own connection.
    pub clients: u16,
    /// The broker's process on this machine, to account its CPU time and memory.
    pub broker_pid: Option<u32>,
    /// Told how far the run is.
    pub tally: Tally,
}

impl Common {
    /// Clients of the run, at least one.
    pub fn client_count(&self) -> u16 {
        self.clients.max(1)
    }

    /// A connected client.
    pub async fn connect(&self) -> Result<Client, WorkloadError> {
        Client::connect_with(self.config.clone()).await.map_err(WorkloadError::during("connecting"))
    }

    /// The clients of the run, connected.
    pub async fn connect_all(&self) -> Result<Vec<Client>, WorkloadError> {
        let mut clients = Vec::new();
        for _ in 0..self.client_count() {
            clients.push(self.connect().await?);
        }
        Ok(clients)
    }
}

/// A topic as the run found it.
#[derive(Clone, Debug)]
pub struct TopicState {
    /// Its partitions.
    pub partitions: u32,
    /// Its replication factor.
    pub replication_factor: u32,
    /// Its `durability` setting: whether an ack waits for the disk.
    pub durability: String,
    /// True when compaction takes records away, so that not every offset holds one.
    pub is_compacted: bool,
    /// The next offset of each partition.
    pub ends: BTreeMap<u32, u64>,
}

impl TopicState {
    /// The conditions of a run that produces nothing.
    pub(crate) fn conditions(&self, common: &Common) -> Conditions {
        Conditions {
            topic: common.topic.clone(),
            partitions: self.partitions,
            replication_factor: self.replication_factor,
            durability: self.durability.clone(),
            acks: "-".to_owned(),
            record_bytes: 0,
            batch_bytes: 0,
            compression: "-".to_owned(),
            clients: usize::from(common.client_count()),
            in_flight: 0,
            rate: 0,
            passes: 0,
        }
    }
}

/// Looks at the topic.
pub async fn topic_state(client: &Client, topic: &str) -> Result<TopicState, WorkloadError> {
    let described =
        client.admin().describe_topic(topic).await.map_err(WorkloadError::during("describing the topic"))?;
    let setting = |key: &str| described.config.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
    let first = described.partitions.first();
    Ok(TopicState {
        partitions: u32::try_from(described.partitions.len()).unwrap_or(u32::MAX),
        replication_factor: first.map_or(0, |p| u32::try_from(p.layout.replicas.len()).unwrap_or(u32::MAX)),
        durability: setting("durability").unwrap_or("unknown").to_owned(),
        is_compacted: setting("cleanup.policy").is_some_and(|policy| policy.contains("compact")),
        ends: ends(client, topic).await?,
    })
}

/// The next offset of each partition.
pub async fn ends(client: &Client, topic: &str) -> Result<BTreeMap<u32, u64>, WorkloadError> {
    offsets(client, topic, OffsetQuery::Latest).await
}

/// The first offset of each partition.
pub async fn starts(client: &Client, topic: &str) -> Result<BTreeMap<u32, u64>, WorkloadError> {
    offsets(client, topic, OffsetQuery::Earliest).await
}

async fn offsets(client: &Client, topic: &str, query: OffsetQuery) -> Result<BTreeMap<u32, u64>, WorkloadError> {
    let admin = client.admin();
    let partitions = admin.partitions(topic).await.map_err(WorkloadError::during("finding partitions"))?;
    let wanted = partitions.into_iter().map(|at| (at, query));
    let found = admin.list_offsets(wanted).await.map_err(WorkloadError::during("finding offsets"))?;
    Ok(found.into_iter().map(|(at, found)| (at.partition, found.offset.get())).collect())
}

/// Time and CPU from a start on.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    /// Time.
    pub watch: Stopwatch,
    own: Option<Usage>,
    broker: Option<Usage>,
    broker_pid: Option<u32>,
}

/// What a meter read at the end.
#[derive(Clone, Copy, Debug)]
pub struct Metered {
    /// Wall-clock seconds.
    pub seconds: f64,
    /// CPU seconds of this process.
    pub client_cpu_seconds: Option<f64>,
    /// CPU seconds of the broker, when its process is known.
    pub broker_cpu_seconds: Option<f64>,
    /// The broker's resident memory now, when its process is known.
    pub broker_resident_bytes: Option<u64>,
    /// The most since the broker started, when its process is known.
    pub broker_peak_resident_bytes: Option<u64>,
}

impl Meter {
    /// Starts now.
    pub fn start(broker_pid: Option<u32>) -> Self {
        let broker = broker_pid.and_then(cpu::of_process);
        Self { own: cpu::of_self(), broker, broker_pid, watch: Stopwatch::start() }
    }

    /// Reads it.
    pub fn read(&self) -> Metered {
        let seconds = self.watch.elapsed().as_secs_f64();
        let broker_now = self.broker_pid.and_then(cpu::of_process);
        let used = |before: Option<Usage>, now: Option<Usage>| Some(now?.cpu_seconds - before?.cpu_seconds);
        Metered {
            seconds,
            client_cpu_seconds: used(self.own, cpu::of_self()),
            broker_cpu_seconds: used(self.broker, broker_now),
            broker_resident_bytes: broker_now.map(|usage| usage.resident_bytes),
            broker_peak_resident_bytes: broker_now.map(|usage| usage.peak_resident_bytes),
        }
    }
}

impl Metered {
    /// The report of a run that moved so much in this time: without failures, latencies or a verdict until they are added.
    pub(crate) fn report(&self, workload: Workload, conditions: Conditions, records: u64, bytes: u64) -> Report {
        Report {
            workload,
            conditions,
            records,
            bytes,
            errors: 0,
            first_error: None,
            seconds: self.seconds,
            records_per_second: records as f64 / self.seconds,
            mb_per_second: bytes as f64 / 1e6 / self.seconds,
            latency_of: "nothing",
            latency: Percentiles::default(),
            client_cpu_seconds: self.client_cpu_seconds,
            broker_cpu_seconds: self.broker_cpu_seconds,
            broker_resident_bytes: self.broker_resident_bytes,
            broker_peak_resident_bytes: self.broker_peak_resident_bytes,
            integrity: None,
            verify_seconds: None,
            limits: Vec::new(),
        }
    }
}
