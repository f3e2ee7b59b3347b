//! The producer's own task: opens connections for sinks, fetches pictures of the cluster, renews identities, rings the
//! alarms of lingering and retrying batches, and gives up what is past its time. It touches no record.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use streambus_protocol::ids::BrokerId;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::connection::Connection;
use crate::error::Error;
use crate::metadata::ClusterView;
use crate::op::Scope;
use crate::producer::partition::Partition;
use crate::producer::partition_state::Identity;
use crate::producer::registry::Registry;
use crate::producer::shared::Event;
use crate::producer::sink::Sink;

/// How often partitions are looked at.
const WATCH: Duration = Duration::from_millis(100);
/// How long a batch may go unanswered before the cluster is asked whether its leader still leads.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often the cluster is asked while a partition is stuck, at first and later.
const WATCH_PACE: Duration = Duration::from_millis(250);
const WATCH_PACE_LATER: Duration = Duration::from_secs(1);
/// What "at first" is: longer than it takes to notice that a leader is gone and to elect another.
const ELECTION: Duration = Duration::from_secs(10);

/// Something that was under way has ended.
enum Done {
    Connected(Arc<Sink>, Result<Connection, Error>),
    Refreshed(Result<Arc<ClusterView>, Error>),
    Renewed(Result<Identity, Error>),
}

/// The task's state.
pub(crate) struct Driver {
    registry: Arc<Registry>,
    events: mpsc::UnboundedReceiver<Event>,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    /// By time, then by a number that keeps two alarms of one instant apart.
    alarms: BTreeMap<(Instant, u64), Arc<Partition>>,
    next_alarm: u64,
    connect_failures: HashMap<BrokerId, u32>,
    refresh_failures: u32,
    /// When a picture of the cluster was last asked for.
    refreshed: Option<Instant>,
    /// Since when some partition is stuck.
    stuck_since: Option<Instant>,
    /// Partitions that wait for the identity being fetched; empty when none is.
    renewing: Vec<Arc<Partition>>,
    renew_failures: u32,
    closing: bool,
}

impl Driver {
    pub(crate) fn new(registry: Arc<Registry>, events: mpsc::UnboundedReceiver<Event>) -> Self {
        Self {
            registry,
            events,
            jobs: FuturesUnordered::new(),
            alarms: BTreeMap::new(),
            next_alarm: 0,
            connect_failures: HashMap::new(),
            refresh_failures: 0,
            refreshed: None,
            stuck_since: None,
            renewing: Vec::new(),
            renew_failures: 0,
            closing: false,
        }
    }

    /// Runs until the producer is closed and everything has an outcome.
    pub(crate) async fn run(mut self) {
        // However this ends, also when the task is dropped, nobody is left waiting.
        let _shut = ShutOnDrop(Arc::clone(&self.registry));
        let config = &self.registry.shared.engine.config;
        let patrol = (config.delivery_timeout / 8).clamp(Duration::from_millis(10), Duration::from_millis(500));
        let max_age = config.metadata_max_age;
        let mut patrol = tokio::time::interval(patrol);
        patrol.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = tokio::time::interval(WATCH);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut aging = tokio::time::interval_at(Instant::now() + max_age, max_age);
        loop {
            let next_alarm = self.alarms.first_key_value().map(|((at, _), _)| *at);
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => self.handle(event),
                    None => return,
                },
                Some(done) = self.jobs.next() => self.finish(done),
                () = sleep_until(next_alarm) => self.ring(Instant::now()),
                now = patrol.tick() => self.registry.partitions().iter().for_each(|p| p.expire(now)),
                now = watch.tick() => self.watch(now),
                _ = aging.tick() => self.registry.shared.want_metadata(),
            }
            if self.closing && self.registry.partitions().iter().all(|partition| partition.is_idle()) {
                return;
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Alarm { partition, at } => {
                self.next_alarm += 1;
                self.alarms.insert((at, self.next_alarm), partition);
            }
            Event::Renew { partition, old } => self.renew(partition, old),
            Event::Connect(sink) => self.connect(sink),
            Event::Follow { partition, hint } => {
                if !self.registry.follow(&partition, hint) {
                    self.registry.shared.want_metadata();
                }
            }
            Event::Refresh => self.refresh(),
            Event::Close => {
                self.closing = true;
                for partition in self.registry.partitions() {
                    partition.flush();
                }
            }
        }
    }

    /// Looks for leaders that moved without a word: while something waits for an answer, or to be sent again, the cluster
    /// is asked who leads.
    fn watch(&mut self, now: Instant) {
        let then = now.checked_sub(PATIENCE).unwrap_or(now);
        if !self.registry.partitions().iter().any(|partition| partition.is_stuck(then)) {
            self.stuck_since = None;
            return;
        }
        let since = *self.stuck_since.get_or_insert(now);
        let pace = if now.saturating_duration_since(since) < ELECTION { WATCH_PACE } else { WATCH_PACE_LATER };
        if self.refreshed.is_none_or(|at| now.saturating_duration_since(at) >= pace) {
            self.registry.shared.want_metadata();
        }
    }

    fn ring(&mut self, now: Instant) {
        while let Some(entry) = self.alarms.first_entry()
            && entry.key().0 <= now
        {
            entry.remove().progress();
        }
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Connected(sink, Ok(connection)) => {
                self.connect_failures.remove(&sink.broker);
                sink.connected(connection);
            }
            Done::Connected(sink, Err(error)) => {
                tracing::debug!(broker = %sink.broker, %error, "no connection for producing");
                // Perhaps the broker has moved, or something else leads by now.
                self.registry.shared.want_metadata();
                if sink.wants_connection() {
                    self.connect(sink);
                } else {
                    sink.not_connected();
                }
            }
            Done::Refreshed(Ok(view)) => {
                self.registry.shared.metadata_refreshed();
                let leaderless = self.registry.apply(&view);
                self.refresh_failures = if leaderless { self.refresh_failures.saturating_add(1) } else { 0 };
                if leaderless {
                    self.registry.shared.want_metadata();
                }
            }
            Done::Refreshed(Err(error)) => {
                tracing::debug!(%error, "no metadata for producing");
                self.refresh_failures = self.refresh_failures.saturating_add(1);
                self.registry.shared.metadata_refreshed();
                if self.registry.partitions().iter().any(|partition| !partition.is_idle()) {
                    self.registry.shared.want_metadata();
                }
            }
            Done::Renewed(Ok(identity)) => {
                self.renew_failures = 0;
                for partition in std::mem::take(&mut self.renewing) {
                    partition.adopt(identity);
                    // Has this identity already, under which it failed: it asks for a newer one.
                    partition.progress();
                }
            }
            Done::Renewed(Err(error)) => {
                tracing::debug!(%error, "no producer identity");
                self.renew_failures = self.renew_failures.saturating_add(1);
                for partition in std::mem::take(&mut self.renewing) {
                    partition.progress();
                }
            }
        }
    }

    fn connect(&mut self, sink: Arc<Sink>) {
        let failures = self.connect_failures.entry(sink.broker).or_insert(0);
        let pause = if *failures == 0 { Duration::ZERO } else { self.registry.shared.engine.quick_pause(*failures) };
        // Counted before, cleared by success.
        *failures = failures.saturating_add(1);
        let engine = Arc::clone(&self.registry.shared.engine);
        self.jobs.push(Box::pin(async move {
            tokio::time::sleep(pause).await;
            let outcome = engine.metadata.connect(sink.broker).await;
            Done::Connected(sink, outcome)
        }));
    }

    fn refresh(&mut self) {
        let engine = Arc::clone(&self.registry.shared.engine);
        let seen = engine.metadata.view().version;
        // Somebody else who found a topic missing may have had it struck off.
        engine.metadata.want(self.registry.topic_names().into_iter());
        let failures = self.refresh_failures;
        let pause = if failures == 0 { Duration::ZERO } else { engine.quick_pause(failures) };
        self.refreshed = Some(Instant::now());
        self.jobs.push(Box::pin(async move {
            tokio::time::sleep(pause).await;
            Done::Refreshed(engine.metadata.newer_than(seen).await)
        }));
    }

    fn renew(&mut self, partition: Arc<Partition>, old: Option<Identity>) {
        let under_way = !self.renewing.is_empty();
        if !self.renewing.iter().any(|waiting| Arc::ptr_eq(waiting, &partition)) {
            self.renewing.push(partition);
        }
        if under_way {
            return;
        }
        let registry = Arc::clone(&self.registry);
        let engine = &self.registry.shared.engine;
        let pause = if self.renew_failures == 0 { Duration::ZERO } else { engine.pause(self.renew_failures) };
        let timeout = engine.config.request_timeout;
        self.jobs.push(Box::pin(async move {
            tokio::time::sleep(pause).await;
            let scope = Scope::background("init_producer", timeout);
            Done::Renewed(registry.newer_than(&scope, old).await)
        }));
    }
}

struct ShutOnDrop(Arc<Registry>);

impl Drop for ShutOnDrop {
    fn drop(&mut self) {
        self.0.shut();
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
