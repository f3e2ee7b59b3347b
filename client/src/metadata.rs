//! What the client knows about the cluster: brokers, topics, leaders. One picture, replaced as a whole; who asks for a
//! newer one while it is being fetched waits for that fetch instead of starting another.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use streambus_protocol::api::metadata::{MetadataRequest, MetadataResponse, TopicLayout};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::ids::{BrokerId, TopicId, TopicName};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::connection::call_error::CallError;
use crate::connection::pool::Pool;
use crate::environment::Random;
use crate::error::{Error, TopicPartition};

/// One picture of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct ClusterView {
    /// Grows with every picture.
    pub(crate) version: u64,
    /// When it was fetched; `None` for the empty picture of a new client.
    pub(crate) fetched: Option<Instant>,
    /// The broker that decides about metadata.
    pub(crate) controller: Option<BrokerId>,
    /// Where the brokers are.
    pub(crate) brokers: HashMap<BrokerId, String>,
    topics: HashMap<TopicName, Result<Arc<TopicView>, ErrorBody>>,
}

/// One topic in the picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicView {
    pub(crate) name: TopicName,
    pub(crate) id: TopicId,
    /// In the order of their numbers.
    pub(crate) partitions: Vec<PartitionView>,
}

/// One partition in the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartitionView {
    pub(crate) leader: Option<BrokerId>,
    pub(crate) leader_epoch: LeaderEpoch,
}

impl TopicView {
    /// Partition number `partition`, or [`Error::UnknownPartition`].
    pub(crate) fn partition(&self, partition: u32) -> Result<PartitionView, Error> {
        let index = usize::try_from(partition).unwrap_or(usize::MAX);
        let at = || TopicPartition { topic: self.name.clone(), partition };
        self.partitions.get(index).copied().ok_or_else(|| Error::UnknownPartition { at: at() })
    }

    fn from_layout(name: &TopicName, layout: &TopicLayout) -> Result<Self, String> {
        let mut partitions = Vec::with_capacity(layout.partitions.len());
        for (expected, partition) in (0u32..).zip(&layout.partitions) {
            if partition.index.get() != expected {
                return Err(format!("topic '{name}' lists partition {} in place {expected}", partition.index));
            }
            partitions.push(PartitionView { leader: partition.leader, leader_epoch: partition.leader_epoch });
        }
        Ok(Self { name: name.clone(), id: layout.id, partitions })
    }
}

impl ClusterView {
    /// The topic, if this picture has it.
    pub(crate) fn topic(&self, name: &TopicName) -> Option<Result<Arc<TopicView>, Error>> {
        self.topics.get(name).map(|outcome| match outcome {
            Ok(view) => Ok(Arc::clone(view)),
            Err(body) => Err(Error::from_topic_body(body.clone(), name.as_str())),
        })
    }

    fn from_response(version: u64, now: Instant, response: MetadataResponse) -> Result<Self, String> {
        let mut topics = HashMap::with_capacity(response.topics.len());
        for topic in response.topics {
            let view = match topic.outcome {
                Ok(layout) => Ok(Arc::new(TopicView::from_layout(&topic.name, &layout)?)),
                Err(body) => Err(body),
            };
            topics.insert(topic.name, view);
        }
        let address = |host: &str, port: u16| {
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
        };
        let brokers = response.brokers.iter().map(|b| (b.id, address(&b.host, b.port))).collect();
        Ok(Self { version, fetched: Some(now), controller: response.controller, brokers, topics })
    }
}

/// Keeps the picture.
pub(crate) struct Metadata {
    pool: Arc<Pool>,
    random: Arc<dyn Random>,
    bootstrap: Vec<String>,
    max_age: Duration,
    view: ArcSwap<ClusterView>,
    /// The topics somebody uses: every fetch asks for all of them, so that one fetch serves everybody who waits.
    wanted: Mutex<BTreeSet<TopicName>>,
    /// Held while fetching.
    fetching: tokio::sync::Mutex<()>,
}

impl Metadata {
    pub(crate) fn new(pool: Arc<Pool>, random: Arc<dyn Random>, bootstrap: Vec<String>, max_age: Duration) -> Self {
        let empty = ClusterView {
            version: 0,
            fetched: None,
            controller: None,
            brokers: HashMap::new(),
            topics: HashMap::new(),
        };
        Self {
            pool,
            random,
            bootstrap,
            max_age,
            view: ArcSwap::from_pointee(empty),
            wanted: Mutex::new(BTreeSet::new()),
            fetching: tokio::sync::Mutex::new(()),
        }
    }

    /// The picture as it is.
    pub(crate) fn view(&self) -> Arc<ClusterView> {
        self.view.load_full()
    }

    /// The topic, from the picture if it is young enough, else fetched.
    pub(crate) async fn topic(&self, name: &TopicName) -> Result<Arc<TopicView>, Error> {
        let view = self.view.load_full();
        let young = view.fetched.is_some_and(|at| at.elapsed() < self.max_age);
        // A topic that was missing may have been created since: that is asked anew every time.
        if let Some(Ok(topic)) = view.topic(name).filter(|_| young) {
            return Ok(topic);
        }
        self.topic_newer_than(name, view.version).await
    }

    /// The topic as of a picture newer than `seen`.
    pub(crate) async fn topic_newer_than(&self, name: &TopicName, seen: u64) -> Result<Arc<TopicView>, Error> {
        self.wanted.lock().insert(name.clone());
        let mut view = self.newer_than(seen).await?;
        if view.topic(name).is_none() {
            // That fetch had begun before this topic was wanted.
            view = self.newer_than(view.version).await?;
        }
        match view.topic(name) {
            Some(Err(error @ Error::UnknownTopic { .. })) => {
                self.wanted.lock().remove(name);
                Err(error)
            }
            Some(outcome) => outcome,
            None => Err(Error::UnknownTopic { topic: name.to_string() }),
        }
    }

    /// Asks for these topics too from now on.
    pub(crate) fn want(&self, names: impl Iterator<Item = TopicName>) {
        self.wanted.lock().extend(names);
    }

    /// A picture newer than `seen`: the present one if it is, else a fetched one. One try of every known address.
    pub(crate) async fn newer_than(&self, seen: u64) -> Result<Arc<ClusterView>, Error> {
        let _turn = self.fetching.lock().await;
        let present = self.view.load_full();
        if present.version > seen {
            return Ok(present);
        }
        let fetched = Arc::new(self.fetch(&present).await?);
        self.view.store(Arc::clone(&fetched));
        Ok(fetched)
    }

    /// A connection to `broker`, if the picture knows where it is.
    pub(crate) async fn connect(&self, broker: BrokerId) -> Result<Connection, Error> {
        let view = self.view.load_full();
        let Some(address) = view.brokers.get(&broker) else {
            let text = format!("broker {broker} is not in the cluster's metadata");
            let error = CallError::io(std::io::ErrorKind::NotFound, &text, false);
            return Err(error.into_error("cluster", false));
        };
        self.pool.broker(broker, address).await.map_err(|error| error.into_error(address, false))
    }

    /// A connection to any broker: the controller's if `controller`, else an open one, else whoever answers.
    pub(crate) async fn connect_any(&self, controller: bool) -> Result<Connection, Error> {
        let view = self.view.load_full();
        if controller
            && let Some(id) = view.controller
            && let Ok(connection) = self.connect(id).await
        {
            return Ok(connection);
        }
        if let Some(connection) = self.pool.any_live() {
            return Ok(connection);
        }
        let mut last = Error::Closed;
        for address in self.addresses(&view) {
            match self.pool.address(&address).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error.into_error(&address, false),
            }
        }
        Err(last)
    }

    async fn fetch(&self, present: &ClusterView) -> Result<ClusterView, Error> {
        let request = MetadataRequest { topics: Some(self.wanted.lock().iter().cloned().collect()) };
        let mut last = Error::Closed;
        if let Some(connection) = self.pool.any_live() {
            match self.ask(&connection, &request, present.version).await {
                Ok(view) => return Ok(view),
                Err(error) => last = error,
            }
        }
        for address in self.addresses(present) {
            let connection = match self.pool.address(&address).await {
                Ok(connection) => connection,
                Err(error) => {
                    last = error.into_error(&address, false);
                    continue;
                }
            };
            match self.ask(&connection, &request, present.version).await {
                Ok(view) => return Ok(view),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn ask(&self, connection: &Connection, request: &MetadataRequest, seen: u64) -> Result<ClusterView, Error> {
        let address = connection.address();
        let response = connection.call(request, None).await.map_err(|error| error.into_error(address, false))?;
        ClusterView::from_response(seen + 1, Instant::now(), response).map_err(|reason| {
            connection.breach(reason.clone());
            CallError::Protocol(reason).into_error(address, false)
        })
    }

    /// Every known address: the cluster's own first, then the configured ones; each group from a random place on, so
    /// that clients do not all lean on the first.
    fn addresses(&self, view: &ClusterView) -> Vec<String> {
        let mut known: Vec<String> = view.brokers.values().cloned().collect();
        known.sort();
        self.rotate(&mut known);
        let mut configured = self.bootstrap.clone();
        self.rotate(&mut configured);
        for address in configured {
            if !known.contains(&address) {
                known.push(address);
            }
        }
        known
    }

    fn rotate(&self, addresses: &mut [String]) {
        let count = u64::try_from(addresses.len()).unwrap_or(u64::MAX);
        if count > 1 {
            let by = usize::try_from(self.random.next_u64() % count).unwrap_or(0);
            addresses.rotate_left(by);
        }
    }
}
