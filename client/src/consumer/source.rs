//! Where a consumer's batches come from: one task that keeps every partition either subscribed at (or fetched from) its
//! leader, or waiting for the time to try again.
//!
//! The task always knows the next offset of each partition, which moves only when a batch has been handed on. Whatever is
//! lost is asked for again from there: no gap, no duplicate.

mod lineage;
mod news;
mod trouble;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use streambus_protocol::api::decode_body;
use streambus_protocol::api::fetch::{FetchOutcome, Fetched};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::api::subscribe::PushedBatches;
use streambus_protocol::batch::{PlacedBatch, batches};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::ids::{BrokerId, PartitionId, PartitionIndex, TopicId, TopicName};
use streambus_protocol::offset::Offset;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::connection::in_flight::Push;
use crate::consumer::feed::{Fed, Feed, FeedError, Opened, Wanted};
use crate::consumer::loan::{Budget, Loan};
use crate::consumer::source::lineage::{Finding, Lineage};
use crate::consumer::start::OutOfRange;
use crate::engine::Engine;
use crate::error::{Error, TopicPartition};

/// How often the task looks whether leaders moved and brokers fell silent.
const LOOK: Duration = Duration::from_millis(500);

/// After a near replica failed, its leader is read from for this long.
const NEAR_PAUSE: Duration = Duration::from_secs(30);

/// What the application asks of the task. As few as its calls.
pub(crate) enum Command {
    /// Read on from `offset`; what comes is marked with `generation`.
    Read { slot: usize, offset: Offset, generation: u64 },
    /// Read no more.
    Stop { slot: usize, generation: u64 },
}

/// What the task hands to the application. Bounded by the credit, or the budget, that every item borrows from.
pub(crate) enum Delivered {
    /// Batches, in order.
    Batches { slot: usize, generation: u64, batches: Vec<PlacedBatch>, ends: Ends, loan: Loan },
    /// News of the log's ends without a batch.
    Ends { slot: usize, generation: u64, ends: Ends },
    /// Reading goes on there: the offset asked for is not in the log.
    Moved { slot: usize, generation: u64, to: Offset, ends: Ends },
    /// One more partition is read, under the next number.
    Added { at: TopicPartition, from: Offset },
    /// Reading has stopped here until the application seeks.
    Failed { slot: usize, generation: u64, error: Error },
}

/// The ends of a partition's log, as last heard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) log_start: Offset,
    pub(crate) high_watermark: Offset,
}

/// How batches are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The broker pushes, within a credit.
    Subscribe,
    /// The consumer asks, within its budget: for reads that end.
    Fetch,
}

/// One partition.
struct Slot {
    at: TopicPartition,
    /// Known from the first time it was looked up.
    topic: Option<TopicId>,
    next: Offset,
    generation: u64,
    state: SlotState,
    failures: u32,
    corrupt: u32,
    /// How often in a row its offset was beyond the end.
    beyond: u32,
    /// The epoch of the leader that was last asked.
    led: LeaderEpoch,
    lineage: Lineage,
    place: Nearness,
    /// The largest watermark heard: one replica may know less than another.
    committed: Offset,
}

/// Which replica a partition is read from, for a client that knows its rack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nearness {
    /// The leader, which may name a nearer one.
    Ask,
    /// The replica that the leader of this epoch named.
    Near(BrokerId, LeaderEpoch),
    /// The leader and nobody else until then: a nearer one failed, or there was none.
    LeaderUntil(Instant),
}

impl Slot {
    /// Whom to read from, and whether it is told the rack: the replica that was named, or the leader.
    fn source(&mut self, leader: BrokerId, epoch: LeaderEpoch, has_rack: bool, now: Instant) -> (BrokerId, bool) {
        match self.place {
            _ if !has_rack => (leader, false),
            Nearness::Near(near, named) if named == epoch => (near, true),
            Nearness::LeaderUntil(until) if now < until => (leader, false),
            // Another leadership: its leader knows who is near now.
            Nearness::Near(..) | Nearness::LeaderUntil(_) | Nearness::Ask => {
                self.place = Nearness::Ask;
                (leader, true)
            }
        }
    }

    /// Goes on at the leader when a nearer replica failed. Returns whether that was so.
    fn leave_near(&mut self, now: Instant) -> bool {
        let was_near = matches!(self.place, Nearness::Near(..));
        if was_near {
            self.place = Nearness::LeaderUntil(now + NEAR_PAUSE);
            self.state = SlotState::Waiting(now);
        }
        was_near
    }

    fn new(at: TopicPartition, next: Offset, now: Instant) -> Self {
        let state = SlotState::Waiting(now);
        let (led, lineage) = (LeaderEpoch::ZERO, Lineage::default());
        let (place, committed) = (Nearness::Ask, Offset::ZERO);
        let (failures, corrupt, beyond) = (0, 0, 0);
        Self { at, topic: None, next, generation: 0, state, failures, corrupt, beyond, led, lineage, place, committed }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    /// Not read: the application stopped it, or must seek first.
    Stopped,
    /// To be opened, not before this.
    Waiting(Instant),
    /// Part of the feed with this tag.
    Fed(u64),
}

enum Done {
    Opened { tag: u64, outcome: Result<Opened, FeedError> },
    Fetched { tag: u64, outcome: Result<Vec<FetchOutcome>, FeedError> },
    OutOfRange { slot: usize, generation: u64, outcome: Result<Ends, Error> },
    Added { at: TopicPartition, outcome: Result<Offset, Error> },
    Refreshed(Result<(), Error>),
    Closed,
}

/// The task.
pub(crate) struct Source {
    engine: Arc<Engine>,
    mode: Mode,
    credit_bytes: usize,
    wait: Duration,
    slots: Vec<Slot>,
    feeds: HashMap<u64, Feed>,
    next_tag: u64,
    commands: mpsc::UnboundedReceiver<Command>,
    output: mpsc::UnboundedSender<Delivered>,
    pushes: (mpsc::UnboundedSender<Push>, mpsc::UnboundedReceiver<Push>),
    budget: Arc<Budget>,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    refreshing: bool,
    /// The topics whose partitions are all read, with how many of them are known.
    followed: BTreeMap<TopicName, u32>,
    out_of_range: OutOfRange,
}

/// What a consumer reads and how.
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    pub(crate) credit_bytes: usize,
    pub(crate) start: Vec<(TopicPartition, Offset)>,
    /// Partitions that are added to its topics are read too.
    pub(crate) grows: bool,
    pub(crate) out_of_range: OutOfRange,
}

impl Source {
    pub(crate) fn new(
        engine: Arc<Engine>,
        plan: Plan,
        commands: mpsc::UnboundedReceiver<Command>,
        output: mpsc::UnboundedSender<Delivered>,
    ) -> Self {
        let Plan { mode, credit_bytes, start, grows, out_of_range } = plan;
        let now = Instant::now();
        let mut followed = BTreeMap::new();
        for (at, _) in start.iter().filter(|_| grows) {
            *followed.entry(at.topic.clone()).or_insert(0) += 1;
        }
        // Half of the time a request may take: an answer is there before the request is given up.
        let wait = (engine.config.request_timeout / 2).min(Duration::from_secs(5));
        Self {
            engine,
            mode,
            credit_bytes,
            wait,
            slots: start.into_iter().map(|(at, next)| Slot::new(at, next, now)).collect(),
            feeds: HashMap::new(),
            next_tag: 1,
            commands,
            output,
            pushes: mpsc::unbounded_channel(),
            budget: Arc::default(),
            jobs: FuturesUnordered::new(),
            refreshing: false,
            followed,
            out_of_range,
        }
    }

    /// Runs until the consumer has gone.
    pub(crate) async fn run(mut self) {
        let budget = Arc::clone(&self.budget);
        let max_age = self.engine.config.metadata_max_age;
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut aging = tokio::time::interval_at(Instant::now() + max_age, max_age);
        loop {
            self.open_waiting(Instant::now());
            let wake = self.next_wake();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => break,
                },
                Some(push) = self.pushes.1.recv() => self.pushed(push),
                Some(done) = self.jobs.next() => self.finish(done),
                () = budget.freed() => {}
                () = sleep_until(wake) => {}
                now = look.tick() => self.look(now),
                _ = aging.tick(), if !self.followed.is_empty() => self.refresh(),
            }
        }
        // Unsubscribes politely, as far as the brokers answer.
        let tags: Vec<u64> = self.feeds.keys().copied().collect();
        tags.into_iter().for_each(|tag| self.close(tag));
        while self.jobs.next().await.is_some() {}
    }

    fn next_wake(&self) -> Option<Instant> {
        let blocked = self.mode == Mode::Fetch && self.budget.buffered() >= self.credit_bytes;
        let waiting = self.slots.iter().filter_map(|slot| match slot.state {
            SlotState::Waiting(at) => Some(at),
            SlotState::Stopped | SlotState::Fed(_) => None,
        });
        if blocked { None } else { waiting.min() }
    }

    fn obey(&mut self, command: Command) {
        let (place, generation, offset) = match command {
            Command::Read { slot, offset, generation } => (slot, generation, Some(offset)),
            Command::Stop { slot, generation } => (slot, generation, None),
        };
        let fed = match self.slots.get(place).map(|slot| slot.state) {
            Some(SlotState::Fed(tag)) => Some(tag),
            _ => None,
        };
        // A feed that fetches is left to end by itself: the new generation makes its answer void.
        if let Some(tag) = fed.filter(|_| self.mode == Mode::Subscribe) {
            self.close(tag);
        }
        if let Some(slot) = self.slots.get_mut(place) {
            slot.generation = generation;
            (slot.failures, slot.corrupt, slot.beyond) = (0, 0, 0);
            slot.lineage = Lineage::default();
            match offset {
                Some(offset) => {
                    slot.next = offset;
                    slot.state = SlotState::Waiting(Instant::now());
                }
                None => slot.state = SlotState::Stopped,
            }
        }
    }

    /// Opens a feed per leader for every partition whose time has come.
    fn open_waiting(&mut self, now: Instant) {
        if self.mode == Mode::Fetch && self.budget.buffered() >= self.credit_bytes {
            return;
        }
        let view = self.engine.metadata.view();
        let has_rack = self.engine.config.rack.is_some();
        let mut by_source: HashMap<(BrokerId, bool), Vec<Wanted>> = HashMap::new();
        let mut failed = Vec::new();
        for (place, slot) in self.slots.iter_mut().enumerate() {
            if !matches!(slot.state, SlotState::Waiting(at) if at <= now) {
                continue;
            }
            let found = match view.topic(&slot.at.topic) {
                Some(Ok(topic)) if slot.topic.is_some_and(|known| known != topic.id) => {
                    // Created anew under the same name: other records, other offsets.
                    Err(Error::UnknownTopic { topic: slot.at.topic.to_string() })
                }
                Some(Ok(topic)) => topic.partition(slot.at.partition).map(|partition| (topic.id, partition)),
                Some(Err(error)) => Err(error),
                None => Err(crate::engine::leaderless(&slot.at)),
            };
            match found {
                Ok((topic, partition)) => match partition.leader {
                    Some(leader) => {
                        slot.topic = Some(topic);
                        slot.led = partition.leader_epoch;
                        let from = slot.source(leader, partition.leader_epoch, has_rack, now);
                        by_source.entry(from).or_default().push(Wanted {
                            slot: place,
                            id: PartitionId { topic, partition: PartitionIndex::new(slot.at.partition) },
                            offset: slot.lineage.ask_from(slot.next, partition.leader_epoch),
                            leader_epoch: partition.leader_epoch,
                            generation: slot.generation,
                        });
                    }
                    None => failed.push((place, crate::engine::leaderless(&slot.at))),
                },
                Err(error) => failed.push((place, error)),
            }
        }
        for (place, error) in failed {
            self.slot_failed(place, error);
        }
        for ((broker, names_rack), wanted) in by_source {
            self.open(broker, names_rack, wanted);
        }
    }

    fn open(&mut self, leader: BrokerId, names_rack: bool, wanted: Vec<Wanted>) {
        let tag = self.next_tag;
        self.next_tag += 1;
        for want in &wanted {
            if let Some(slot) = self.slots.get_mut(want.slot) {
                slot.state = SlotState::Fed(tag);
            }
        }
        let share = self.credit_bytes.saturating_mul(wanted.len()) / self.slots.len().max(1);
        let engine = Arc::clone(&self.engine);
        let rack = engine.config.rack.clone().filter(|_| names_rack);
        match self.mode {
            Mode::Subscribe => {
                let opening = Feed::subscribe(engine, leader, tag, &wanted, share, rack, self.pushes.0.clone());
                self.jobs.push(Box::pin(async move { Done::Opened { tag, outcome: opening.await } }));
            }
            Mode::Fetch => {
                let fetching = Feed::fetch(engine, leader, &wanted, share, rack, self.wait);
                self.jobs.push(Box::pin(async move { Done::Fetched { tag, outcome: fetching.await } }));
            }
        }
        self.feeds.insert(tag, Feed::opening(wanted));
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Opened { tag, outcome: Ok(opened) } => {
                let Some(feed) = self.feeds.get_mut(&tag) else {
                    // Closed while it was being opened.
                    self.jobs.push(Box::pin(async move {
                        opened.close().await;
                        Done::Closed
                    }));
                    return;
                };
                let outcomes = feed.opened(opened);
                let held = feed.take_held();
                for (place, outcome) in outcomes {
                    match outcome {
                        Ok(ends) => {
                            self.served_by_leader(place);
                            self.ends(place, ends);
                        }
                        Err(body) => self.refused(tag, place, body),
                    }
                }
                for frame in held {
                    self.pushed(Push { tag, content: Ok(frame) });
                }
            }
            Done::Opened { tag, outcome: Err(error) } => self.feed_failed(tag, &error),
            Done::Fetched { tag, outcome: Ok(outcomes) } => {
                let Some(feed) = self.feeds.remove(&tag) else { return };
                for outcome in outcomes {
                    let id = PartitionId { topic: outcome.topic, partition: outcome.partition };
                    if let Some(place) = feed.slot_of(id).filter(|place| feed.is_current(*place, &self.generations())) {
                        self.fed(tag, place, outcome.result, Loan::of_budget);
                    }
                }
                self.release_slots(tag, Instant::now());
            }
            Done::Fetched { tag, outcome: Err(error) } => self.feed_failed(tag, &error),
            Done::OutOfRange { slot, generation, outcome } => self.out_of_range(slot, generation, outcome),
            Done::Refreshed(outcome) => {
                self.refreshing = false;
                match outcome {
                    Ok(()) => self.follow(),
                    Err(error) => tracing::debug!(%error, "no metadata for consuming"),
                }
            }
            Done::Added { at, outcome } => self.added(at, outcome),
            Done::Closed => {}
        }
    }

    /// A leader that was told the rack streams itself: nobody is near. It is asked again when the picture of the cluster is
    /// as old as it may get, because it never interrupts a stream to send its reader elsewhere.
    fn served_by_leader(&mut self, place: usize) {
        if self.engine.config.rack.is_none() {
            return;
        }
        let again = Instant::now() + self.engine.config.metadata_max_age.max(NEAR_PAUSE);
        if let Some(slot) = self.slots.get_mut(place).filter(|slot| slot.place == Nearness::Ask) {
            slot.place = Nearness::LeaderUntil(again);
        }
    }

    fn generations(&self) -> Vec<u64> {
        self.slots.iter().map(|slot| slot.generation).collect()
    }

    fn pushed(&mut self, push: Push) {
        let Push { tag, content } = push;
        let frame = match content {
            Ok(frame) => frame,
            Err(error) => {
                let address = self.feeds.get(&tag).map(Feed::address).unwrap_or_default();
                return self.feed_failed(tag, &FeedError::Call(error.into_error(&address, false)));
            }
        };
        let Some(feed) = self.feeds.get_mut(&tag) else { return };
        let Some(window) = feed.window() else { return feed.hold(frame) };
        let pushed = match decode_body::<PushedBatches>(frame) {
            Ok(pushed) => pushed,
            Err(error) => {
                feed.breach(format!("a push does not decode: {error}"));
                return;
            }
        };
        for outcome in pushed.partitions {
            let id = PartitionId { topic: outcome.topic, partition: outcome.partition };
            let Some(place) = self.feeds.get(&tag).and_then(|feed| feed.slot_of(id)) else { continue };
            let window = Arc::clone(&window);
            self.fed(tag, place, outcome.result, move |_, bytes| Loan::Credit { window, bytes });
        }
    }

    /// What came for one partition.
    fn fed(
        &mut self,
        tag: u64,
        place: usize,
        result: Result<Fetched, ErrorBody>,
        lend: impl FnOnce(&Arc<Budget>, usize) -> Loan,
    ) {
        let fetched = match result {
            Ok(fetched) => fetched,
            Err(body) => return self.refused(tag, place, body),
        };
        let ends = Ends { log_start: fetched.log_start, high_watermark: self.committed(place, fetched.high_watermark) };
        let bytes = fetched.batches.into_bytes();
        let loan = lend(&self.budget, bytes.len());
        let Some(slot) = self.slots.get_mut(place) else { return };
        let mut taken = Vec::new();
        let (mut corrupt, mut diverged) = (None, None);
        for batch in batches(bytes) {
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => {
                    corrupt = Some(error.to_string());
                    break;
                }
            };
            match slot.lineage.take(&batch, slot.next, slot.led) {
                // The first batch may begin before the offset asked for, even end before it after a reconnect.
                Finding::Known => {}
                Finding::Next => {
                    slot.next = batch.next_offset();
                    taken.push(batch);
                }
                // Only the leader's log decides.
                Finding::Replaced if matches!(slot.place, Nearness::Near(..)) => {
                    corrupt = Some(format!("a batch of epoch {} is none of what was read", batch.leader_epoch()));
                    break;
                }
                Finding::Replaced => {
                    diverged = Some(Error::LogReplaced { at: slot.at.clone(), offset: slot.next.get() });
                    break;
                }
            }
        }
        let generation = slot.generation;
        let item = if taken.is_empty() {
            Delivered::Ends { slot: place, generation, ends }
        } else {
            (slot.failures, slot.corrupt, slot.beyond) = (0, 0, 0);
            Delivered::Batches { slot: place, generation, batches: taken, ends, loan }
        };
        // A consumer that has gone is noticed by its commands.
        let _ = self.output.send(item);
        if let Some(reason) = corrupt {
            self.corrupt(tag, place, reason);
        }
        if let Some(error) = diverged {
            if self.mode == Mode::Subscribe {
                self.close(tag);
            }
            self.stop(place, error);
        }
    }

    /// The watermark to tell the application: a replica that is nearer than its leader may know a smaller one.
    fn committed(&mut self, place: usize, heard: Offset) -> Offset {
        let Some(slot) = self.slots.get_mut(place) else { return heard };
        slot.committed = if matches!(slot.place, Nearness::Near(..)) { slot.committed.max(heard) } else { heard };
        slot.committed
    }

    fn ends(&mut self, place: usize, ends: Ends) {
        let ends = Ends { high_watermark: self.committed(place, ends.high_watermark), ..ends };
        if let Some(slot) = self.slots.get(place) {
            let _ = self.output.send(Delivered::Ends { slot: place, generation: slot.generation, ends });
        }
    }

    /// Ends a feed on this side; its partitions wait to be opened anew, from where they are.
    fn close(&mut self, tag: u64) {
        if let Some(Fed::Subscribed(opened)) = self.feeds.remove(&tag).map(Feed::into_state) {
            self.jobs.push(Box::pin(async move {
                opened.close().await;
                Done::Closed
            }));
        }
        self.release_slots(tag, Instant::now());
    }

    fn release_slots(&mut self, tag: u64, until: Instant) {
        for slot in self.slots.iter_mut().filter(|slot| slot.state == SlotState::Fed(tag)) {
            slot.state = SlotState::Waiting(until);
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
