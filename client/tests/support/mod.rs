//! A cluster in memory that speaks the real protocol over pipes: logs, leaders, producer memory as KIP-98 wants it, and
//! faults on demand. Time is tokio's paused clock; nothing here sleeps for real.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test file uses its own part; nothing is published")]

mod answers;
mod log;
mod push;
mod session;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use streambus_client::connector::{Connector, Transport};
use streambus_client::environment::{Environment, Seeded, SystemClock};
use streambus_client::{Client, Config};
use streambus_protocol::api::ApiKey;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{TopicId, TopicName};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::log::Log;

/// What happens to the next request of an API.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection breaks before the request has any effect.
    LoseRequest,
    /// The request is carried out, and the connection breaks before the answer.
    LoseAnswer,
    /// Refused without effect.
    Refuse(ErrorCode),
    /// Never answered; the connection stays.
    Silence,
    /// Answered later than what follows.
    Delay(Duration),
    /// These bytes come instead of an answer.
    Bytes(Vec<u8>),
    /// Answered under a correlation id that nobody used.
    WrongCorrelation,
    /// The last record byte of the answer, or of every push of this subscription, is flipped.
    FlipPayload,
}

/// How a broker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broker {
    Up,
    /// Refuses connections.
    Down,
    /// Connections to it neither open nor break; it reads and says nothing.
    Hung,
}

/// What a broker knows of leaders, with the epochs of their leaderships.
#[derive(Clone)]
struct Picture {
    controller: Option<u32>,
    topics: BTreeMap<TopicName, (TopicId, Vec<Leadership>)>,
}

/// A leader, if there is one, and the epoch.
type Leadership = (Option<u32>, u32);

struct State {
    brokers: BTreeMap<u32, Broker>,
    topics: BTreeMap<TopicName, (TopicId, Vec<Log>)>,
    /// Brokers that have not heard what happened since.
    lagging: HashMap<u32, Picture>,
    /// From the append to the commit, and the acknowledgement.
    commit_delay: Duration,
    /// A broker that does not lead says who does.
    hints: bool,
    faults: Vec<(ApiKey, Fault)>,
    requests: Vec<(ApiKey, u32)>,
    connects: u32,
    connections: Vec<(u32, CancellationToken)>,
    next_producer: i64,
    next_topic: u8,
    pushed_bytes: u64,
    near: Option<Near>,
    /// Batches read, by broker.
    served: BTreeMap<u32, usize>,
}

/// A follower that answers readers in its rack, as far as it knows.
#[derive(Clone)]
struct Near {
    rack: String,
    broker: u32,
    knows: u64,
}

/// The cluster. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    state: Arc<Mutex<State>>,
    appended: Arc<Notify>,
    tasks: TaskTracker,
}

impl Cluster {
    pub fn new(brokers: u32) -> Self {
        let state = State {
            brokers: (1..=brokers).map(|id| (id, Broker::Up)).collect(),
            topics: BTreeMap::new(),
            lagging: HashMap::new(),
            commit_delay: Duration::ZERO,
            hints: true,
            faults: Vec::new(),
            requests: Vec::new(),
            connects: 0,
            connections: Vec::new(),
            next_producer: 1,
            next_topic: 1,
            pushed_bytes: 0,
            near: None,
            served: BTreeMap::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), appended: Arc::new(Notify::new()), tasks: TaskTracker::new() }
    }

    /// A client with settings that let tests run in little (paused) time.
    pub async fn client(&self) -> Client {
        self.client_with(Config::new(["broker-1:9092"])).await
    }

    pub async fn client_with(&self, config: Config) -> Client {
        Client::connect_in(config, self.environment()).await.expect("connected")
    }

    pub fn environment(&self) -> Environment {
        Environment {
            connector: Arc::new(self.clone()),
            clock: Arc::new(SystemClock),
            random: Arc::new(Seeded::new(7)),
        }
    }

    pub fn create(&self, name: &str, partitions: u32) {
        let mut state = self.state.lock();
        let brokers: Vec<u32> = state.brokers.keys().copied().collect();
        let id = TopicId::from_bytes([state.next_topic; 16]);
        state.next_topic += 1;
        let log = |p: u32| Log::led_by(brokers[p as usize % brokers.len()]);
        let logs = (0..partitions).map(log).collect();
        state.topics.insert(TopicName::new(name).expect("valid"), (id, logs));
    }

    pub fn delete(&self, name: &str) {
        self.state.lock().topics.remove(&TopicName::new(name).expect("valid"));
    }

    /// Takes a topic out of sight; what it returns puts it back as it was.
    pub fn hide(&self, name: &str) -> impl FnOnce() {
        let (name, state) = (TopicName::new(name).expect("valid"), Arc::clone(&self.state));
        let hidden = state.lock().topics.remove(&name).expect("a topic");
        move || drop(state.lock().topics.insert(name, hidden))
    }

    pub fn fault(&self, api: ApiKey, fault: Fault) {
        self.state.lock().faults.push((api, fault));
    }

    pub fn heal(&self) {
        self.state.lock().faults.clear();
    }

    /// Gives a topic more partitions.
    pub fn grow(&self, name: &str, partitions: usize) {
        let mut state = self.state.lock();
        let brokers: Vec<u32> = state.brokers.keys().copied().collect();
        let (_, logs) = state.topics.get_mut(&TopicName::new(name).expect("valid")).expect("a topic");
        for p in logs.len()..partitions {
            logs.push(Log::led_by(brokers[p % brokers.len()]));
        }
    }

    /// Another leader, which has everything.
    pub fn lead(&self, topic: &str, partition: usize, leader: u32) {
        self.elect(topic, partition, Some(leader), 0);
    }

    /// Another leader, or none, which lacks the last `lost` batches as far as nobody was told of them.
    pub fn elect(&self, topic: &str, partition: usize, leader: Option<u32>, lost: usize) {
        self.with_log(topic, partition, |log| log.lead(leader, lost));
        self.appended.notify_waiters();
    }

    /// From now on a batch is committed, and acknowledged, so long after it was appended.
    pub fn commit_after(&self, delay: Duration) {
        self.state.lock().commit_delay = delay;
    }

    /// From now on `broker` answers readers in `rack` that its leaders send, and knows what lies below `knows`.
    pub fn stand(&self, broker: u32, rack: &str, knows: u64) {
        self.state.lock().near = Some(Near { rack: rack.to_owned(), broker, knows });
        self.appended.notify_waiters();
    }

    fn is_near(&self, broker: u32) -> bool {
        self.state.lock().near.as_ref().is_some_and(|near| near.broker == broker)
    }

    /// Batches that were read from `broker`.
    pub fn served(&self, broker: u32) -> usize {
        self.state.lock().served.get(&broker).copied().unwrap_or(0)
    }

    /// Whether brokers that do not lead say who does.
    pub fn hint(&self, hints: bool) {
        self.state.lock().hints = hints;
    }

    /// An unclean election: the new leader lacks the last batches, acknowledged or not.
    pub fn elect_uncleanly(&self, topic: &str, partition: usize, leader: u32, lost: usize) {
        self.with_log(topic, partition, |log| {
            log.uncommit();
            log.lead(Some(leader), lost);
        });
        self.appended.notify_waiters();
    }

    pub fn leader(&self, topic: &str, partition: usize) -> Option<u32> {
        self.with_log(topic, partition, |log| log.leader)
    }

    /// Puts `count` batches of an older epoch in place of all from `from` on.
    pub fn compact(&self, topic: &str, partition: usize, keeps: impl Fn(u64) -> bool) {
        self.with_log(topic, partition, |log| log.compact(keeps));
    }

    pub fn replace(&self, topic: &str, partition: usize, from: u64, epoch: u32, count: usize) {
        self.with_log(topic, partition, |log| log.replace(from, epoch, count));
        self.cut_all();
    }

    fn cut_all(&self) {
        let brokers: Vec<u32> = self.state.lock().brokers.keys().copied().collect();
        brokers.into_iter().for_each(|broker| self.cut(broker));
    }

    /// A broker hears no news about leaders and topics any more, until [`Cluster::catch_up`].
    pub fn lag(&self, broker: u32) {
        let mut state = self.state.lock();
        let picture = state.picture();
        state.lagging.insert(broker, picture);
    }

    pub fn catch_up(&self, broker: u32) {
        self.state.lock().lagging.remove(&broker);
    }

    /// Drops the first batches of a log, as retention does.
    pub fn trim(&self, topic: &str, partition: usize, before: u64) {
        self.with_log(topic, partition, |log| {
            log.batches.retain(|batch| batch.next_offset().get() > before);
            log.log_start = before;
        });
    }

    /// Makes a log unreadable from an offset on, which is the first of a batch.
    pub fn damage(&self, topic: &str, partition: usize, from: u64) {
        self.with_log(topic, partition, |log| log.damaged_from = Some(from));
    }

    pub fn stop(&self, broker: u32) {
        self.state.lock().brokers.insert(broker, Broker::Down);
        self.cut(broker);
    }

    pub fn start(&self, broker: u32) {
        self.state.lock().brokers.insert(broker, Broker::Up);
        self.appended.notify_waiters();
    }

    /// A broker that is cut off without a word, until [`Cluster::start`].
    pub fn hang(&self, broker: u32) {
        self.state.lock().brokers.insert(broker, Broker::Hung);
    }

    /// Breaks every connection to a broker.
    pub fn cut(&self, broker: u32) {
        let mut state = self.state.lock();
        state.connections.retain(|(id, token)| {
            if *id == broker {
                token.cancel();
            }
            *id != broker
        });
    }

    pub fn values(&self, topic: &str, partition: usize) -> Vec<String> {
        self.with_log(topic, partition, |log| {
            log.batches
                .iter()
                .flat_map(|batch| batch.records(1 << 24).expect("plain"))
                .map(|stored| {
                    let value = stored.expect("intact").record.value.expect("a value");
                    String::from_utf8(value.to_vec()).expect("text")
                })
                .collect()
        })
    }

    pub fn batch_count(&self, topic: &str, partition: usize) -> usize {
        self.with_log(topic, partition, |log| log.batches.len())
    }

    pub fn count(&self, api: ApiKey) -> usize {
        self.state.lock().requests.iter().filter(|(seen, _)| *seen == api).count()
    }

    pub fn timeouts(&self, api: ApiKey) -> Vec<u32> {
        self.state.lock().requests.iter().filter(|(seen, _)| *seen == api).map(|(_, ms)| *ms).collect()
    }

    pub fn connects(&self) -> u32 {
        self.state.lock().connects
    }

    pub fn pushed_bytes(&self) -> u64 {
        self.state.lock().pushed_bytes
    }

    fn with_log<T>(&self, topic: &str, partition: usize, f: impl FnOnce(&mut Log) -> T) -> T {
        let mut state = self.state.lock();
        let (_, logs) = state.topics.get_mut(&TopicName::new(topic).expect("valid")).expect("a topic");
        f(&mut logs[partition])
    }
}

impl Connector for Cluster {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Transport>> {
        let cluster = self.clone();
        let broker: u32 = address
            .strip_prefix("broker-")
            .and_then(|rest| rest.split(':').next())
            .and_then(|number| number.parse().ok())
            .unwrap_or(0);
        Box::pin(async move {
            cluster.state.lock().connects += 1;
            let state = cluster.state.lock().brokers.get(&broker).copied();
            match state {
                Some(Broker::Up) => {}
                Some(Broker::Hung) => std::future::pending().await,
                Some(Broker::Down) | None => return Err(io::ErrorKind::ConnectionRefused.into()),
            }
            let (near, far) = tokio::io::duplex(256 * 1024);
            let (reader, writer) = tokio::io::split(far);
            let tasks = cluster.tasks.clone();
            tasks.spawn(session::serve(cluster, broker, reader, writer));
            let (reader, writer) = tokio::io::split(near);
            Ok(Transport { reader: Box::new(reader), writer: Box::new(writer) })
        })
    }
}
