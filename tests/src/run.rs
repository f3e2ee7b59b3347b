//! One proof: a cluster under load, faults by the test, then everything is healed, read back, stopped, compared on disk,
//! and judged.

mod judging;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use streambus_client::{Client, Error, ErrorCode, LeaderChoice, Topic, TopicPartition};
use streambus_protocol::api::cluster::ClusterDescribeResponse;
use streambus_protocol::api::topics::PartitionDescription;
use streambus_protocol::ids::{BrokerId, TopicName};
use tokio::runtime::Runtime;

pub use judging::{Judged, Report};

use crate::clock::Stopwatch;
use crate::cluster::{Cluster, Options, PATIENCE};
use crate::event::What;
use crate::load::{Load, LoadOptions, burst, client_config};
use crate::patience::{wait_for, wait_for_async};

/// The number of the first burst's producer: far above those of the load.
const FIRST_BURST: u32 = 1_000;

/// A cluster under load.
#[derive(Debug)]
pub struct Run {
    /// The cluster, to be hurt.
    pub cluster: Cluster,
    name: String,
    load: Load,
    load_options: LoadOptions,
    /// The load's topic, and those that the test wants to be looked after like it.
    topics: Vec<String>,
    bursts: u32,
    min_isr: u8,
    bus: Client,
    runtime: Runtime,
}

impl Run {
    /// Starts a cluster and load on it. Unless the load says otherwise, the topic has a replica on up to three brokers, and
    /// needs two of three in sync.
    pub fn start(name: &str, cluster: &Options, load: &LoadOptions) -> Self {
        Self::start_on(name, Cluster::start(cluster), load)
    }

    /// [`Run::start`] on a cluster that is ready.
    pub fn start_on(name: &str, cluster: Cluster, load: &LoadOptions) -> Self {
        let brokers = u16::try_from(cluster.ids().len()).expect("few brokers");
        let replicas = load.replicas.unwrap_or(brokers.min(3));
        let min_isr = load.min_isr.unwrap_or(if replicas > 2 { 2 } else { 1 });
        let runtime = Runtime::new().expect("a runtime");
        let bus = runtime.block_on(async {
            let bus = Client::connect_with(client_config(&cluster.client_addresses(), load)).await;
            let bus = bus.expect("a ready cluster takes connections");
            let topic = Topic::partitions(load.partitions).replicas(replicas);
            let topic = topic.config("min.insync.replicas", min_isr.to_string());
            create_topic(&bus, &load.topic, &topic).await;
            bus
        });
        let all = cluster.ids().into_iter().chain(cluster.spares());
        let observed: BTreeMap<u32, String> = all.map(|id| (id, cluster.client_address(id).to_string())).collect();
        eprintln!("{name}: {brokers} broker(s), {} partition(s), {replicas} replica(s)", load.partitions);
        let started = Load::start(runtime.handle(), &cluster.client_addresses(), &observed, load, cluster.recorder());
        let run = Self {
            cluster,
            name: name.to_owned(),
            load: started,
            load_options: load.clone(),
            topics: vec![load.topic.clone()],
            bursts: 0,
            min_isr,
            bus,
            runtime,
        };
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

    /// From now on `topic` is waited for like the load's: until it is in sync, and at the end until its replicas are
    /// equal. What it holds is not the checker's.
    pub fn look_after(&mut self, topic: &str) {
        self.topics.push(topic.to_owned());
    }

    /// Writes so many records more to one partition at once, which the checker counts among the load's.
    pub fn burst(&mut self, partition: u32, records: u64) {
        let topic = TopicName::new(&self.load_options.topic).expect("a valid name");
        let number = FIRST_BURST + self.bursts;
        self.bursts += 1;
        let what = format!("{records} records go to partition {partition} at once");
        let recorder = self.cluster.recorder();
        recorder.fault(what);
        self.runtime.block_on(burst(&self.bus, TopicPartition { topic, partition }, number, records, recorder));
    }

    /// One more consumer of the load's topic, from the first record on, that stands in `rack`.
    pub fn add_reader(&mut self, rack: Option<String>) {
        let place = rack.clone().unwrap_or_else(|| "no rack".to_owned());
        let number = self.load.add_reader(self.runtime.handle(), rack);
        self.cluster.recorder().fault(format!("reader {number} begins, in {place}"));
    }

    /// Waits until every consumer has got, of every partition, a record that was sent after `since_us`.
    pub fn wait_readers(&self, since_us: u64) {
        let (readers, partitions) = (self.load.readers(), self.load_options.partitions);
        let wanted = u64::from(readers) * u64::from(partitions);
        let last = std::cell::RefCell::new(BTreeSet::new());
        let reached = self.runtime.block_on(wait_for_async(PATIENCE, || async {
            let seen = crate::measure::read_since(&self.cluster.recorder().events_since(since_us));
            let is_enough = seen.len() as u64 >= wanted;
            last.replace(seen);
            is_enough.then_some(())
        }));
        if reached.is_none() {
            self.print_log_ends();
            let (last, all) = (last.borrow(), (0..readers).flat_map(|r| (0..partitions).map(move |p| (r, p))));
            let missing: Vec<(u32, u32)> = all.filter(|place| !last.contains(place)).collect();
            panic!("consumers stand still for {PATIENCE:?}; (consumer, partition): {missing:?}");
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

    /// Makes a broker the leader of one partition, and waits until it is: it is asked for again while it is refused, as a
    /// replica out of sync is, or taken back, as the controller does for the preferred one.
    pub fn lead(&self, partition: u32, to: u32) {
        self.cluster.recorder().fault(format!("broker {to} shall lead partition {partition}"));
        let mut refused = None;
        let led = wait_for(PATIENCE, || {
            if self.leaders()[&partition] == to {
                return Some(());
            }
            let moved = self.ask(async |bus| {
                let to = LeaderChoice::Broker(BrokerId::new(to));
                bus.admin().elect_leader(&self.load_options.topic, partition, to).timeout(PATIENCE).await
            });
            refused = moved.err();
            None
        });
        if led.is_none() {
            self.print_log_ends();
            panic!("broker {to} does not lead partition {partition} within {PATIENCE:?}: {refused:?}");
        }
    }

    /// Has an operator elect a leader of one partition of the load's topic that may lack records. From here on what was
    /// acknowledged in that partition before may be lost, and nothing else. Returns the leader, and its epoch.
    pub fn elect_uncleanly(&self, partition: u32) -> (u32, u32) {
        let (topic, number) = (self.load_options.topic.as_str(), partition.to_string());
        self.cluster.recorder().record(What::GivenUp { partition });
        let elect = ["topic", "transfer-leader", topic, "--partition", &number, "--unclean", "--yes"];
        let said = self.cluster.command_well(PATIENCE, &[&elect[..], &["--output", "json"]].concat());
        let elected: serde_json::Value = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"));
        let field = |name: &str| elected[name].as_u64().and_then(|value| u32::try_from(value).ok());
        assert_eq!(elected["unclean"].as_bool(), Some(true), "it says what it costs: {said:?}");
        field("leader").zip(field("leader_epoch")).unwrap_or_else(|| panic!("no leader and epoch in {said:?}"))
    }

    /// Waits until every replica is in sync and one partition of the load's topic has a leader: who that is, and who has the
    /// partition.
    pub fn whole_partition(&self, partition: u32) -> (u32, Vec<u32>) {
        self.wait_in_sync();
        let now = self.wait_partition(partition, "a leader", |now| now.layout.leader.is_some());
        let leader = now.layout.leader.map(BrokerId::get).expect("waited for");
        (leader, now.layout.replicas.iter().map(|replica| replica.get()).collect())
    }

    /// Has one partition of the load's topic move to `replicas`, which are sent no more than `limit`, a size as in
    /// settings, in a second.
    pub fn reassign(&self, partition: u32, replicas: &[u32], limit: &str) {
        let (topic, number) = (self.load_options.topic.as_str(), partition.to_string());
        let list = replicas.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let arguments = ["topic", "reassign", topic, "--partition", &number, "--replicas", &list, "--throttle", limit];
        self.cluster.command_well(PATIENCE, &arguments);
    }

    /// One partition of the load's topic as a broker that answers describes it, once `is_so`; `what` is what the test
    /// waits for.
    pub fn wait_partition(
        &self,
        partition: u32,
        what: &str,
        is_so: impl Fn(&PartitionDescription) -> bool,
    ) -> PartitionDescription {
        let last = std::cell::RefCell::new(None);
        let found = self.runtime.block_on(wait_for_async(PATIENCE, || async {
            let partitions = described(&self.bus, &self.load_options.topic).await?;
            let now = partitions.into_iter().find(|now| now.layout.index.get() == partition);
            last.replace(now.clone());
            now.filter(&is_so)
        }));
        found.unwrap_or_else(|| {
            self.print_log_ends();
            panic!("{what}: not within {PATIENCE:?}; partition {partition} is {:?}", last.borrow())
        })
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
        if let Err(what) = self.try_in_sync(PATIENCE) {
            self.print_log_ends();
            panic!("{what}");
        }
    }

    fn try_in_sync(&self, patience: Duration) -> Result<(), String> {
        let addresses: Vec<String> = self.cluster.client_addresses();
        let healed = self.runtime.block_on(wait_for_async(patience, || async {
            for address in &addresses {
                let config = client_config(std::slice::from_ref(address), &self.load_options);
                let bus = Client::connect_with(config).await.ok()?;
                let partitions = self.all_described(&bus).await;
                bus.close().await;
                if !partitions?.iter().all(|p| p.layout.isr.len() == p.layout.replicas.len()) {
                    return None;
                }
            }
            Some(())
        }));
        healed.ok_or_else(|| {
            let state = self.runtime.block_on(self.all_described(&self.bus));
            format!("not every replica is in sync within {patience:?}: {state:?}")
        })
    }

    /// The partitions of all topics that are looked after.
    async fn all_described(&self, bus: &Client) -> Option<Vec<PartitionDescription>> {
        let mut all = Vec::new();
        for topic in &self.topics {
            all.extend(described(bus, topic).await?);
        }
        Some(all)
    }

    /// Runs a client call of the test on the run's runtime.
    pub fn ask<T>(&self, call: impl AsyncFnOnce(&Client) -> T) -> T {
        self.runtime.block_on(call(&self.bus))
    }

    fn print_log_ends(&self) {
        for id in self.cluster.ids() {
            eprintln!("--- broker {id} logged at last:\n{}", self.cluster.log_end(id));
        }
    }
}

/// Creates a topic. A busy machine may starve a broker after it was ready, until it counts as dead and there are too few
/// for the replicas: that passes, so it is asked again until patience ends. Any other refusal fails the test.
pub async fn create_topic(bus: &Client, name: &str, topic: &Topic) {
    let too_few = |error: &Error| error.code() == Some(ErrorCode::InvalidReplicationFactor);
    let clock = Stopwatch::start();
    let created = wait_for_async(PATIENCE, || async {
        let created = bus.admin().create_topic(name, topic.clone()).timeout(PATIENCE).await;
        let is_over = clock.elapsed() >= PATIENCE;
        Some(created).filter(|created| is_over || !created.as_ref().is_err_and(too_few))
    });
    created.await.expect("patience ended").unwrap_or_else(|error| panic!("no topic '{name}': {error}"));
}

async fn described(bus: &Client, topic: &str) -> Option<Vec<PartitionDescription>> {
    let answer = bus.admin().describe_topic(topic).timeout(Duration::from_secs(2)).await;
    answer.ok().map(|topic| topic.partitions)
}
