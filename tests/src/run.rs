//! One proof: a cluster under load, faults by the test, then everything is healed, read back, stopped, compared on disk,
//! and judged.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use streambus_client::{Client, OffsetQuery, Start, Topic, TopicPartition};
use streambus_protocol::api::cluster::ClusterDescribeResponse;
use streambus_protocol::api::topics::{DescribeTopicResponse, PartitionDescription};
use streambus_protocol::ids::{BrokerId, PartitionIndex, TopicName};
use streambus_protocol::offset::Offset;
use tokio::runtime::Runtime;

use crate::checker::{ReadBack, Violation, check_replicas, check_run, staleness_us};
use crate::clock::Stopwatch;
use crate::cluster::{Cluster, Options, PATIENCE};
use crate::dump::{LogDump, dump};
use crate::event::{Event, What};
use crate::history::{History, Outcome, Value};
use crate::load::{Load, LoadOptions, client_config};
use crate::measure::longest_silence_us;
use crate::patience::{wait_for, wait_for_async};
use crate::process::binary;
use crate::{ledger, setting};

/// How long acknowledged records may take to show up in a full read, after everything is healed.
const READ_BACK_LIMIT: Duration = Duration::from_secs(20);
/// Violations that a failure prints; the rest is in the history.
const SHOWN_MAX: usize = 20;

/// A cluster under load.
#[derive(Debug)]
pub struct Run {
    /// The cluster, to be hurt.
    pub cluster: Cluster,
    name: String,
    load: Load,
    load_options: LoadOptions,
    min_isr: u8,
    bus: Client,
    runtime: Runtime,
}

/// What a run showed.
#[derive(Debug)]
pub struct Report {
    /// Everything that was recorded.
    pub events: Vec<Event>,
    /// Every attempt and its outcome.
    pub history: History,
    /// Refused records: the client gave up on them.
    pub refused: usize,
    /// The longest time without an acknowledgement in any partition, microseconds.
    pub longest_silence_us: u64,
}

impl Run {
    /// Starts a cluster and load on it. The topic has a replica on up to three brokers and needs two of three in sync.
    pub fn start(name: &str, cluster: &Options, load: &LoadOptions) -> Self {
        Self::start_on(name, Cluster::start(cluster), load)
    }

    /// [`Run::start`] on a cluster that is ready.
    pub fn start_on(name: &str, cluster: Cluster, load: &LoadOptions) -> Self {
        let brokers = u16::try_from(cluster.ids().len()).expect("few brokers");
        let replicas = brokers.min(3);
        let min_isr = if replicas > 2 { 2 } else { 1 };
        let runtime = Runtime::new().expect("a runtime");
        let bus = runtime.block_on(async {
            let bus = Client::connect_with(client_config(&cluster.client_addresses(), load)).await;
            let bus = bus.expect("a ready cluster takes connections");
            let topic = Topic::partitions(load.partitions).replicas(replicas);
            let topic = topic.config("min.insync.replicas", min_isr.to_string());
            bus.admin()
                .create_topic(&load.topic, topic)
                .timeout(PATIENCE)
                .await
                .expect("a ready cluster takes a topic");
            bus
        });
        let all = cluster.ids().into_iter().chain(cluster.spares());
        let observed: BTreeMap<u32, String> = all.map(|id| (id, cluster.client_address(id).to_string())).collect();
        eprintln!("{name}: {brokers} broker(s), {} partition(s), {replicas} replica(s)", load.partitions);
        let started = Load::start(runtime.handle(), &cluster.client_addresses(), &observed, load, cluster.recorder());
        let run =
            Self { cluster, name: name.to_owned(), load: started, load_options: load.clone(), min_isr, bus, runtime };
        run.wait_acks(u64::from(load.partitions) * 50);
        run
    }

    /// Waits for so many more acknowledgements.
    pub fn wait_acks(&self, more: u64) {
        let mut acked = self.cluster.recorder().acked();
        let target = *acked.borrow() + more;
        let reached = self
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, acked.wait_for(|count| *count >= target)).await.is_ok() });
        if !reached {
            self.print_log_ends();
            panic!("the load stands still: no {more} acknowledgements within {PATIENCE:?}");
        }
    }

    /// Waits until a record that was sent after `since_us` is acknowledged in every partition.
    pub fn wait_recovery(&self, since_us: u64) -> BTreeMap<u32, u64> {
        let partitions = self.load_options.partitions as usize;
        let recorder = self.cluster.recorder();
        let times = self.runtime.block_on(wait_for_async(PATIENCE, || async {
            let times = crate::measure::recovery_us(&recorder.events_since(since_us), since_us);
            (times.len() == partitions).then_some(times)
        }));
        times.unwrap_or_else(|| {
            self.print_log_ends();
            panic!("not every partition takes records again within {PATIENCE:?}")
        })
    }

    /// Lets the load run for `time`, whatever becomes of it.
    pub fn let_run(&self, time: Duration) {
        let forever = std::future::pending::<()>();
        let elapsed = self.runtime.block_on(async { tokio::time::timeout(time, forever).await });
        assert!(elapsed.is_err(), "nothing else ends it");
    }

    /// The leader of each partition, asked of any broker that answers; waits until each has one other than `not`.
    pub fn leaders_without(&self, not: Option<u32>) -> BTreeMap<u32, u32> {
        let leaders = self.runtime.block_on(wait_for_async(PATIENCE, || async {
            let partitions = described(&self.bus, &self.load_options.topic).await?;
            let leader = |p: &PartitionDescription| Some((p.layout.index.get(), p.layout.leader?.get()));
            let leaders: Option<BTreeMap<u32, u32>> = partitions.iter().map(leader).collect();
            leaders.filter(|leaders| leaders.values().all(|leader| Some(*leader) != not))
        }));
        leaders.unwrap_or_else(|| {
            self.print_log_ends();
            panic!("no leader of every partition within {PATIENCE:?}")
        })
    }

    /// Waits until the leader of one partition is as wanted.
    pub fn leader_where(&self, partition: u32, is_so: impl Fn(u32) -> bool) -> u32 {
        let leader = wait_for(PATIENCE, || {
            let leader = self.leaders()[&partition];
            is_so(leader).then_some(leader)
        });
        leader.unwrap_or_else(|| {
            self.print_log_ends();
            panic!("partition {partition} has not the wanted leader within {PATIENCE:?}")
        })
    }

    /// The leader of each partition.
    pub fn leaders(&self) -> BTreeMap<u32, u32> {
        self.leaders_without(None)
    }

    /// The broker that decides about metadata.
    pub fn controller(&self) -> u32 {
        let controller = self.runtime.block_on(wait_for_async(PATIENCE, || async {
            let answer = self.bus.admin().describe_cluster().timeout(Duration::from_secs(2)).await.ok()?;
            answer.controller.map(|broker| broker.get())
        }));
        controller.unwrap_or_else(|| {
            self.print_log_ends();
            panic!("no controller within {PATIENCE:?}")
        })
    }

    /// What a broker that answers says of the cluster, once `is_so`; `what` is what the test waits for.
    pub fn wait_cluster(
        &self,
        what: &str,
        is_so: impl Fn(&ClusterDescribeResponse) -> bool,
    ) -> ClusterDescribeResponse {
        let last = std::cell::RefCell::new(None);
        let found = self.runtime.block_on(wait_for_async(PATIENCE, || async {
            let admin = self.bus.admin();
            let answer = admin.describe_cluster().timeout(Duration::from_secs(2)).await.ok();
            last.replace(answer.clone());
            answer.filter(&is_so)
        }));
        found.unwrap_or_else(|| {
            self.print_log_ends();
            panic!("{what}: not within {PATIENCE:?}; the cluster says {:?}", last.borrow())
        })
    }

    /// Waits until exactly these brokers vote.
    pub fn wait_voters(&self, wanted: &[u32]) {
        let voters = |cluster: &ClusterDescribeResponse| {
            let voters = cluster.brokers.iter().filter(|broker| broker.is_voter);
            let mut voters: Vec<u32> = voters.map(|broker| broker.endpoint.id.get()).collect();
            voters.sort_unstable();
            voters
        };
        self.wait_cluster(&format!("brokers {wanted:?} vote"), |cluster| voters(cluster) == wanted);
    }

    /// Waits until every broker says that every replica of every partition is in sync. One that was cut off says so from
    /// what it knew before, the others know better.
    pub fn wait_in_sync(&self) {
        let addresses: Vec<String> = self.cluster.client_addresses();
        let healed = self.runtime.block_on(wait_for_async(PATIENCE, || async {
            for address in &addresses {
                let config = client_config(std::slice::from_ref(address), &self.load_options);
                let bus = Client::connect_with(config).await.ok()?;
                let partitions = described(&bus, &self.load_options.topic).await;
                bus.close().await;
                if !partitions?.iter().all(|p| p.layout.isr.len() == p.layout.replicas.len()) {
                    return None;
                }
            }
            Some(())
        }));
        if healed.is_none() {
            let state = self.runtime.block_on(described(&self.bus, &self.load_options.topic));
            self.print_log_ends();
            panic!("not every replica is in sync within {PATIENCE:?}: {state:?}");
        }
    }

    /// Runs a client call of the test on the run's runtime.
    pub fn ask<T>(&self, call: impl AsyncFnOnce(&Client) -> T) -> T {
        self.runtime.block_on(call(&self.bus))
    }

    /// Ends the run: the network is made whole, stopped brokers are started, everything outstanding is awaited, every
    /// replica gets in sync, everything is read back, every broker is stopped and its disk compared. Fails the test on
    /// any broken promise.
    pub fn finish(mut self) -> Report {
        self.cluster.heal();
        for id in self.cluster.ids() {
            if self.cluster.pid(id).is_none() {
                self.cluster.start_broker(id);
            }
        }
        for id in self.cluster.ids() {
            self.cluster.wait_ready(id);
        }
        let (runtime, load) = (&self.runtime, &mut self.load);
        runtime.block_on(load.stop_producing());
        self.wait_in_sync();
        let read = self.read_back();
        let (watermarks, topic) = (self.watermarks(), self.topic());
        let (runtime, load) = (&self.runtime, &mut self.load);
        runtime.block_on(load.stop_watching());
        let mut violations = check_run(&self.cluster.recorder().events(), &read, self.min_isr);
        violations.extend(self.compare_disks(&topic, &watermarks));
        self.conclude(&read, &violations)
    }

    /// Reads everything until every acknowledged record was seen, or patience ends: what is missing then is lost.
    fn read_back(&self) -> Vec<ReadBack> {
        let history = History::of(&self.cluster.recorder().events());
        let acked: Vec<(PartitionIndex, Offset)> = history
            .outcomes()
            .filter_map(|(_, outcome)| match outcome {
                Outcome::Acked { partition, offset } => Some((partition, offset)),
                Outcome::Unknown | Outcome::Refused => None,
            })
            .collect();
        let clock = Stopwatch::start();
        loop {
            let read = self.runtime.block_on(self.read_once());
            let seen: HashSet<_> = read.iter().map(|record| (record.partition, record.offset)).collect();
            if acked.iter().all(|place| seen.contains(place)) || clock.elapsed() > READ_BACK_LIMIT {
                return read;
            }
        }
    }

    async fn read_once(&self) -> Vec<ReadBack> {
        let topic = self.load_options.topic.as_str();
        let consumer = self.bus.consumer([topic]).from(Start::Earliest).until_end().start().timeout(PATIENCE).await;
        let mut consumer = consumer.expect("a healed cluster can be read");
        let mut read = Vec::new();
        while let Some(record) = consumer.next().await.expect("a healed cluster can be read to the end") {
            read.push(ReadBack {
                partition: PartitionIndex::new(record.partition),
                offset: Offset::new(record.offset).expect("in range"),
                value: record.value.as_deref().and_then(Value::from_bytes),
            });
        }
        read
    }

    fn watermarks(&self) -> BTreeMap<u32, u64> {
        let topic = TopicName::new(&self.load_options.topic).expect("a valid name");
        let wanted = (0..self.load_options.partitions).map(|partition| {
            let at = TopicPartition { topic: topic.clone(), partition };
            (at, OffsetQuery::Latest)
        });
        let found = self.runtime.block_on(async { self.bus.admin().list_offsets(wanted).timeout(PATIENCE).await });
        let found = found.expect("a healed cluster says its watermarks");
        found.into_iter().map(|(at, found)| (at.partition, found.offset.get())).collect()
    }

    fn topic(&self) -> DescribeTopicResponse {
        let described = self
            .runtime
            .block_on(async { self.bus.admin().describe_topic(&self.load_options.topic).timeout(PATIENCE).await });
        described.expect("a healed cluster describes a topic")
    }

    /// Stops every broker, verifies each disk and compares the replicas of each partition up to its watermark.
    fn compare_disks(&mut self, topic: &DescribeTopicResponse, watermarks: &BTreeMap<u32, u64>) -> Vec<Violation> {
        let mut dumps = BTreeMap::new();
        for id in self.cluster.ids() {
            let status = self.cluster.terminate(id);
            assert!(status.success(), "the drain of broker {id} ends with {status}:\n{}", self.cluster.log_end(id));
            verify_offline(self.cluster.data(id));
            dumps.insert(id, dump(self.cluster.data(id)));
        }
        let mut violations = Vec::new();
        for partition in &topic.partitions {
            let layout = &partition.layout;
            let name = format!("{}/{}", topic.id, layout.index.get());
            let of = |id: &BrokerId| {
                let log = dumps.get(&id.get()).and_then(|logs| logs.get(&name)).cloned();
                (id.get(), log.unwrap_or_default())
            };
            let replicas: BTreeMap<u32, LogDump> = layout.replicas.iter().map(of).collect();
            let watermark = watermarks.get(&layout.index.get()).copied().unwrap_or(0);
            violations.extend(check_replicas(&name, watermark, &replicas));
        }
        violations
    }

    fn conclude(self, read: &[ReadBack], violations: &[Violation]) -> Report {
        let events = self.cluster.recorder().events();
        let history = History::of(&events);
        let refused = history.outcomes().filter(|(_, outcome)| *outcome == Outcome::Refused).count();
        let faults = events.iter().filter(|event| matches!(event.what, What::Fault { .. })).count();
        let longest_silence_us = longest_silence_us(&events);
        let verdict = format!(
            "{}: seed {}, {} steps, {} acknowledged, {} unknown, {refused} refused, {} read back, longest silence {} ms, \
             watermark answers behind by {} ms at most, {} violations",
            self.name,
            setting::seed(),
            faults,
            history.acked(),
            history.unknown(),
            read.len(),
            longest_silence_us / 1_000,
            staleness_us(&events) / 1_000,
            violations.len()
        );
        eprintln!("{verdict}");
        ledger::append(&self.name, &history, faults, violations.len());
        let shown = &violations[..violations.len().min(SHOWN_MAX)];
        assert!(violations.is_empty(), "{verdict}\n{}", Lines(shown));
        Report { events, history, refused, longest_silence_us }
    }

    fn print_log_ends(&self) {
        for id in self.cluster.ids() {
            eprintln!("--- broker {id} logged at last:\n{}", self.cluster.log_end(id));
        }
    }
}

async fn described(bus: &Client, topic: &str) -> Option<Vec<PartitionDescription>> {
    let answer = bus.admin().describe_topic(topic).timeout(Duration::from_secs(2)).await;
    answer.ok().map(|topic| topic.partitions)
}

struct Lines<'a>(&'a [Violation]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|violation| writeln!(f, "{violation}"))
    }
}

/// `streambus log verify` of a stopped broker's data directory; fails the test on damage.
pub fn verify_offline(data: &Path) {
    let output = Command::new(binary()).args(["log", "verify"]).arg(data).output().expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "log verify found damage: {text}{}", String::from_utf8_lossy(&output.stderr));
}
