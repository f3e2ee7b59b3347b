//! The topics and brokers a producer deals with, and its identity.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use streambus_protocol::api::produce::InitProducerRequest;
use streambus_protocol::api::session::LeaderHint;
use streambus_protocol::ids::{BrokerId, ProducerEpoch, TopicName};

use crate::engine::Effect;
use crate::error::Error;
use crate::metadata::{ClusterView, TopicView};
use crate::op::Scope;
use crate::producer::partition::{Home, Partition};
use crate::producer::partition_state::Identity;
use crate::producer::shared::Shared;
use crate::producer::sink::Sink;
use crate::producer::topic::Topic;

/// Everything a producer has.
pub(crate) struct Registry {
    pub(crate) shared: Arc<Shared>,
    topics: ArcSwap<HashMap<Arc<str>, Arc<Topic>>>,
    /// Held while the map of topics is replaced.
    adding: Mutex<()>,
    sinks: Mutex<HashMap<BrokerId, Arc<Sink>>>,
    /// The newest identity.
    identity: Mutex<Option<Identity>>,
    /// The identity when a topic was last forgotten, and with it the sequences used under that identity: a topic that is
    /// added needs a newer one, or a broker could take its first batches for old ones.
    spent: Mutex<Option<Identity>>,
    /// Held while an identity is fetched, so that those who come meanwhile wait for that one. Never taken by the
    /// producer's task itself: the fetch may be one of its own jobs, which stand still while it waits.
    identifying: tokio::sync::Mutex<()>,
    closed: AtomicBool,
}

impl Registry {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            topics: ArcSwap::from_pointee(HashMap::new()),
            adding: Mutex::new(()),
            sinks: Mutex::new(HashMap::new()),
            identity: Mutex::new(None),
            spent: Mutex::new(None),
            identifying: tokio::sync::Mutex::new(()),
            closed: AtomicBool::new(false),
        }
    }

    /// The topic, if it is known already.
    pub(crate) fn known(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.load().get(name).cloned()
    }

    /// The topic, found out if need be. Retries until the scope's time is over; cancel-safe.
    pub(crate) async fn topic(&self, scope: &Scope, name: &Arc<str>) -> Result<Arc<Topic>, Error> {
        if let Some(topic) = self.known(name) {
            return Ok(topic);
        }
        let topic_name = TopicName::new(name).map_err(|error| Error::Invalid { what: error.to_string() })?;
        let engine = &self.shared.engine;
        let view = engine.retry(scope, Effect::Read, || engine.metadata.topic(&topic_name)).await?;
        let spent = *self.spent.lock();
        let identity = if self.shared.config.stamps() { Some(self.newer_than(scope, spent).await?) } else { None };
        Ok(self.add(name, &view, identity))
    }

    /// An identity newer than `old`; any will do when that is none.
    pub(crate) async fn newer_than(&self, scope: &Scope, old: Option<Identity>) -> Result<Identity, Error> {
        let _turn = self.identifying.lock().await;
        let present = *self.identity.lock();
        if let Some(present) = present
            && old.is_none_or(|old| old.id != present.id || old.epoch < present.epoch)
        {
            return Ok(present);
        }
        // The last epoch of an id cannot be followed by another.
        let renew = old.filter(|old| old.epoch != ProducerEpoch::new(i16::MAX)).map(|old| (old.id, old.epoch));
        let engine = &self.shared.engine;
        // To ask twice only wastes an epoch or an id, so it counts as a read.
        let request = InitProducerRequest { producer: renew };
        let answer = match engine.call(scope, Effect::Read, &request).await {
            Err(error) if renew.is_some() && !error.is_retriable() => {
                // Fenced or forgotten: start as somebody new.
                engine.call(scope, Effect::Read, &InitProducerRequest { producer: None }).await?
            }
            other => other?,
        };
        let fresh = Identity { id: answer.id, epoch: answer.epoch };
        *self.identity.lock() = Some(fresh);
        Ok(fresh)
    }

    fn add(&self, name: &Arc<str>, view: &TopicView, identity: Option<Identity>) -> Arc<Topic> {
        let _adding = self.adding.lock();
        if let Some(topic) = self.known(name) {
            return topic;
        }
        let topic = Topic::new(view, &self.shared, identity, &|broker| self.sink(broker));
        let mut topics = HashMap::clone(&self.topics.load());
        topics.insert(Arc::clone(name), Arc::clone(&topic));
        self.topics.store(Arc::new(topics));
        topic
    }

    fn sink(&self, broker: BrokerId) -> Arc<Sink> {
        let mut sinks = self.sinks.lock();
        Arc::clone(sinks.entry(broker).or_insert_with(|| Sink::new(broker, Arc::clone(&self.shared))))
    }

    /// Follows a newer picture of the cluster. Returns whether somebody still waits for a leader.
    pub(crate) fn apply(&self, view: &ClusterView) -> bool {
        let identity = *self.identity.lock();
        for (name, topic) in &**self.topics.load() {
            let Ok(topic_name) = TopicName::new(name) else { continue };
            match view.topic(&topic_name) {
                Some(Ok(seen)) => topic.update(&seen, identity, &|broker| self.sink(broker)),
                Some(Err(error @ Error::UnknownTopic { .. })) => self.remove(name, topic, &error),
                // Not described now: what is known stays.
                Some(Err(_)) | None => {}
            }
        }
        self.partitions().iter().any(|partition| !partition.is_idle() && !partition.has_leader())
    }

    /// Moves a partition to the leader that another broker named. Returns false when nobody knows where that is.
    pub(crate) fn follow(&self, partition: &Arc<Partition>, hint: LeaderHint) -> bool {
        let (metadata, id) = (&self.shared.engine.metadata, partition.home().topic);
        if !metadata.learn(&partition.at.topic, id, partition.at.partition, hint) {
            return false;
        }
        if let Some(Ok(topic)) = metadata.view().topic(&partition.at.topic)
            && let Ok(seen) = topic.partition(partition.at.partition)
        {
            let sink = seen.leader.map(|leader| self.sink(leader));
            partition.move_to(Home { topic: topic.id, leader_epoch: seen.leader_epoch, sink });
        }
        true
    }

    /// The topic was deleted.
    fn remove(&self, name: &Arc<str>, topic: &Topic, error: &Error) {
        let _adding = self.adding.lock();
        *self.spent.lock() = *self.identity.lock();
        let mut topics = HashMap::clone(&self.topics.load());
        topics.remove(name);
        self.topics.store(Arc::new(topics));
        topic.partitions().iter().for_each(|partition| partition.abort(error));
    }

    /// The topics it produces to.
    pub(crate) fn topic_names(&self) -> Vec<TopicName> {
        self.topics.load().keys().filter_map(|name| TopicName::new(name).ok()).collect()
    }

    /// Every partition of every topic.
    pub(crate) fn partitions(&self) -> Vec<Arc<Partition>> {
        self.topics.load().values().flat_map(|topic| topic.partitions()).collect()
    }

    /// Takes no record any more.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.shared.close_budget();
    }

    /// True once it takes no record any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Gives up whatever has no outcome, and breaks the ring of references between partitions and sinks.
    pub(crate) fn shut(&self) {
        self.close();
        for partition in self.partitions() {
            partition.abort(&Error::Closed);
        }
        for (_, sink) in self.sinks.lock().drain() {
            sink.clear();
        }
        self.topics.store(Arc::new(HashMap::new()));
    }
}
