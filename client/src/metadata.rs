//! What the client knows about the cluster: brokers, topics, leaders. One picture, replaced as a whole; who asks for a
//! newer one while it is being fetched waits for that fetch instead of starting another.
//!
//! Any broker answers. One that does not, within [`STAGGER`], gets company; one that has just been asked is asked last, so
//! that a broker that is cut off from the others misleads nobody for long.

pub(crate) mod race;
mod view;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use streambus_protocol::api::metadata::MetadataRequest;
use streambus_protocol::api::session::LeaderHint;
use streambus_protocol::ids::{BrokerId, TopicId, TopicName};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::connection::call_error::CallError;
use crate::connection::pool::Pool;
use crate::environment::Random;
use crate::error::Error;
use crate::metadata::race::race;
pub(crate) use crate::metadata::view::{ClusterView, TopicView};

/// How long one broker is waited for before another is asked too.
const STAGGER: Duration = Duration::from_millis(250);
/// Who answered less than this ago is asked last: whoever asks again so soon was not helped by the answer.
const RECENT: Duration = Duration::from_secs(2);
/// How long the controller may take to confirm that a topic does not exist.
const CONFIRMATION: Duration = Duration::from_secs(1);

/// Somewhere a broker may answer.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// On this connection.
    Open(Connection),
    /// At this address.
    Address(String),
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
    /// Held while fetching; who answered last, and when.
    fetching: tokio::sync::Mutex<Option<(BrokerId, Instant)>>,
}

impl Metadata {
    pub(crate) fn new(pool: Arc<Pool>, random: Arc<dyn Random>, bootstrap: Vec<String>, max_age: Duration) -> Self {
        Self {
            pool,
            random,
            bootstrap,
            max_age,
            view: ArcSwap::from_pointee(ClusterView::empty()),
            wanted: Mutex::new(BTreeSet::new()),
            fetching: tokio::sync::Mutex::new(None),
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
        let mut last = self.fetching.lock().await;
        let present = self.view.load_full();
        if present.version > seen {
            return Ok(present);
        }
        let recent = last.filter(|(_, at)| at.elapsed() < RECENT).map(|(broker, _)| broker);
        let (broker, fetched) = self.fetch(&present, recent).await?;
        *last = Some((broker, Instant::now()));
        // A hint may have come meanwhile.
        self.view.rcu(|present| fetched.clone().not_older_than(present));
        self.forgive(&fetched, &present);
        Ok(self.view.load_full())
    }

    /// Takes the word of a broker that does not lead for who does, if that is news. Returns whether the picture has a
    /// leader of that epoch now, or a later one.
    pub(crate) fn learn(&self, name: &TopicName, id: TopicId, partition: u32, hint: LeaderHint) -> bool {
        let present = self.view.rcu(|present| match present.with_leader(name, id, partition, hint) {
            Some(newer) => Arc::new(newer),
            None => Arc::clone(present),
        });
        let view = self.view.load_full();
        self.forgive(&view, &present);
        let Some(Ok(topic)) = view.topic(name) else { return false };
        topic.id == id && topic.partition(partition).is_ok_and(|seen| seen.leader_epoch >= hint.leader_epoch)
    }

    /// Who leads by an epoch that was not known is alive: it need not be left alone any longer.
    fn forgive(&self, view: &ClusterView, before: &ClusterView) {
        for address in view.new_leaders(before).iter().filter_map(|leader| view.brokers.get(leader)) {
            self.pool.forgive(address);
        }
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

    /// A connection to any broker, the controller's if that opens soon; to `avoid` only if there is no other.
    pub(crate) async fn connect_any(&self, avoid: Option<BrokerId>) -> Result<Connection, Error> {
        let places = self.places(avoid, true);
        race(places, STAGGER, |place| self.open(place)).await.unwrap_or(Err(Error::Closed))
    }

    /// The connection to a place.
    pub(crate) async fn open(&self, place: Place) -> Result<Connection, Error> {
        match place {
            Place::Open(connection) => Ok(connection),
            Place::Address(address) => {
                self.pool.address(&address).await.map_err(|error| error.into_error(&address, false))
            }
        }
    }

    /// Where a broker may answer, best first: those that are connected before those that are not, those that are known
    /// to ail and `avoid` at the end; each group from a random place on, so that clients do not all lean on the first.
    /// With `controller`, the controller is the first of its group.
    pub(crate) fn places(&self, avoid: Option<BrokerId>, controller: bool) -> Vec<Place> {
        let view = self.view.load_full();
        let mut known: Vec<(BrokerId, String)> = view.brokers.iter().map(|(id, at)| (*id, at.clone())).collect();
        known.sort();
        self.rotate(&mut known);
        let mut configured = self.bootstrap.clone();
        self.rotate(&mut configured);
        let mut live = self.pool.live();

        let mut ranked: Vec<((bool, bool, bool, bool), Place)> = Vec::new();
        for (broker, address) in known {
            configured.retain(|configured| *configured != address);
            let last = avoid == Some(broker);
            let behind = !(controller && view.controller == Some(broker));
            match live.iter().position(|connection| connection.broker() == broker).map(|place| live.swap_remove(place))
            {
                Some(open) => ranked.push(((open.is_suspect(), last, behind, false), Place::Open(open))),
                None => {
                    let ails = self.pool.is_ailing(&address);
                    ranked.push(((ails, last, behind, true), Place::Address(address)));
                }
            }
        }
        for open in live {
            let last = avoid == Some(open.broker());
            configured.retain(|configured| *configured != open.address());
            ranked.push(((open.is_suspect(), last, true, false), Place::Open(open)));
        }
        // Behind what the cluster says of itself: an address in a configuration may be old.
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, place)| place).chain(configured.into_iter().map(Place::Address)).collect()
    }

    async fn fetch(&self, present: &ClusterView, avoid: Option<BrokerId>) -> Result<(BrokerId, ClusterView), Error> {
        let request = &MetadataRequest { topics: Some(self.wanted.lock().iter().cloned().collect()) };
        let version = present.version + 1;
        let asking = race(self.places(avoid, false), STAGGER, |place| async move {
            let connection = self.open(place).await?;
            Ok((connection.broker(), self.ask(&connection, request, version, None).await?))
        });
        let (broker, view) = asking.await.unwrap_or(Err(Error::Closed))?;
        let doubtful = view.doubtful(present);
        if doubtful.is_empty() || view.controller == Some(broker) {
            return Ok((broker, view));
        }
        let request = MetadataRequest { topics: Some(doubtful.clone()) };
        let confirmed = tokio::time::timeout(CONFIRMATION, self.confirm(&view, &request)).await;
        let view = match confirmed {
            Ok(Ok(said)) => view.overruled_by(said),
            Ok(Err(_)) | Err(_) => view.unconfirmed(doubtful, present),
        };
        Ok((broker, view))
    }

    /// What the controller says: it has applied whatever it has decided.
    async fn confirm(&self, view: &ClusterView, request: &MetadataRequest) -> Result<ClusterView, Error> {
        let nobody =
            || CallError::io(std::io::ErrorKind::NotFound, "no controller", false).into_error("cluster", false);
        let controller = view.controller.ok_or_else(nobody)?;
        let address = view.brokers.get(&controller).ok_or_else(nobody)?;
        let connection = self.pool.broker(controller, address).await.map_err(|e| e.into_error(address, false))?;
        self.ask(&connection, request, view.version, Some(Instant::now() + CONFIRMATION)).await
    }

    async fn ask(
        &self,
        connection: &Connection,
        request: &MetadataRequest,
        version: u64,
        deadline: Option<Instant>,
    ) -> Result<ClusterView, Error> {
        let address = connection.address();
        let response = connection.call(request, deadline).await.map_err(|error| error.into_error(address, false))?;
        ClusterView::from_response(version, Instant::now(), response).map_err(|reason| {
            connection.breach(reason.clone());
            CallError::Protocol(reason).into_error(address, false)
        })
    }

    fn rotate<T>(&self, places: &mut [T]) {
        let count = u64::try_from(places.len()).unwrap_or(u64::MAX);
        if count > 1 {
            let by = usize::try_from(self.random.next_u64() % count).unwrap_or(0);
            places.rotate_left(by);
        }
    }
}
