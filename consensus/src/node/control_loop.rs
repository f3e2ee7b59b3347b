//! What a node does by itself: as the controller it looks after brokers and members, as a follower it takes over.
//!
//! Decisions come from the pure modules below [`crate::controller`]; this loop gives them the time and the state,
//! proposes what they ask for, and carries out membership changes one at a time. A controller that is out of date
//! can do no harm with any of it: commands name the lives they mean and are checked when they are applied.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use openraft::async_runtime::watch::WatchReceiver;
use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::BrokerId;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::office::Office;
use super::takeover::is_gone;
use super::{Inner, MetadataNode};
use crate::command::Command;
use crate::controller::liveness::{Former, Liveness};
use crate::controller::{drain, preferred};
use crate::error::ProposeError;
use crate::image::ClusterImage;

/// Between two looks at who is alive.
const TICK: Duration = Duration::from_millis(50);
/// Between two looks at what could be balanced better. Nobody waits for it.
const BALANCE_EVERY: Duration = Duration::from_secs(10);
/// Between two batches of a drain.
const DRAIN_EVERY: Duration = Duration::from_millis(500);
/// How long the controller waits for a command of its own.
pub(super) const PROPOSE_PATIENCE: Duration = Duration::from_secs(5);
/// Until a decision that was not even appended, or a change of the membership that was refused, is made anew.
pub(super) const REFUSED_PAUSE: Duration = Duration::from_millis(100);
/// Leaderships moved to their preferred brokers at once.
const ELECTIONS_MAX: usize = 100;
/// Reassignments that a drain begins at once.
const DRAIN_BATCH: usize = 10;

/// A piece of work that has ended.
enum Done {
    Probed { broker: BrokerId, epoch: BrokerEpoch, is_gone: bool },
    Proposed(Command),
    MembershipChanged,
    TookOver(BrokerId),
    AskedWhetherRemoved,
    Beaten,
}

type Work<'a> = FuturesUnordered<BoxFuture<'a, Done>>;

/// What is under way, so that nothing is begun twice.
#[derive(Default)]
struct UnderWay {
    commands: Vec<Command>,
    probes: BTreeSet<BrokerId>,
    takeovers: BTreeSet<BrokerId>,
    membership: bool,
    /// Asks whether this node was removed.
    question: bool,
    /// Asks for a heartbeat.
    beat: bool,
}

impl MetadataNode {
    /// Looks after the cluster while this node is the controller, and over the controller while it is not. The broker
    /// runs it from its start to its end; it returns when the node has stopped.
    pub async fn control_loop(&self) {
        self.inner.control_loop().await;
    }
}

impl Inner {
    async fn control_loop(&self) {
        let mut metrics = self.raft.server_metrics();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = interval(self.config.tuning.heartbeat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut work = Work::new();
        let mut under_way = UnderWay::default();
        let mut ask_at = None;
        loop {
            let leads = {
                let metrics = metrics.borrow_watched();
                metrics.state.is_leader().then_some(metrics.vote.leader_id.term)
            };
            self.settle_office(leads, &work, &mut under_way);
            tokio::select! {
                biased;
                Some(done) = work.next(), if !work.is_empty() => self.finish(done, &mut under_way),
                changed = metrics.changed() => if changed.is_err() {
                    *self.office.lock() = None;
                    return;
                },
                () = self.hint.notified() => self.follow_hints(&work, &mut under_way),
                _ = beats.tick(), if leads.is_some() => self.beat(&work, &mut under_way),
                _ = ticks.tick() => self.look_for_a_controller(&mut ask_at, &work, &mut under_way),
            }
            if leads.is_some() {
                self.look_after(&work, &mut under_way);
            }
        }
    }

    /// Has heartbeats sent to those whose last one was answered.
    fn beat<'a>(&'a self, work: &Work<'a>, under_way: &mut UnderWay) {
        if std::mem::replace(&mut under_way.beat, true) {
            return;
        }
        work.push(Box::pin(async move {
            // It fails only when Raft has stopped, which ends this loop.
            if let Err(error) = self.raft.trigger().heartbeat().await {
                tracing::debug!(%error, "no heartbeat");
            }
            Done::Beaten
        }));
    }

    /// Takes or leaves office as Raft says.
    fn settle_office<'a>(&'a self, leads: Option<u64>, work: &Work<'a>, under_way: &mut UnderWay) {
        let mut office = self.office.lock();
        if office.as_ref().map(|office| office.term) == leads {
            return;
        }
        let now = Instant::now();
        let image = self.images.borrow().clone();
        *office = leads.map(|term| {
            tracing::info!(term, "this broker is the controller");
            let session = self.config.tuning.session;
            let former = self.former_controller();
            tracing::debug!(?former, "the controller before");
            let liveness = Liveness::new(self.now(), &image, session, former);
            Office { liveness, term, next_balance: now + BALANCE_EVERY, next_drain: now }
        });
        let took_office = office.is_some();
        drop(office);
        if took_office {
            // The former controller may have died together with what others wait for: its machine knows.
            for broker in image.brokers.keys() {
                self.probe(*broker, &image, work, under_way);
            }
        }
    }

    /// Whom this node followed until it was elected.
    fn former_controller(&self) -> Option<Former> {
        let (id, silence) = self.peers.heard.take(Instant::now())?;
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let broker = metrics.membership_config.membership().get_node(&id)?.broker;
        Some(Former { broker, silence })
    }

    fn follow_hints<'a>(&'a self, work: &Work<'a>, under_way: &mut UnderWay) {
        let hinted = std::mem::take(&mut *self.disconnected.lock());
        let image = self.images.borrow().clone();
        for broker in hinted {
            if self.office.lock().is_some() {
                self.probe(broker, &image, work, under_way);
            } else if let Some(reign) = self.reign_of(broker)
                && under_way.takeovers.insert(broker)
            {
                work.push(Box::pin(async move {
                    self.take_over(reign).await;
                    Done::TookOver(broker)
                }));
            }
        }
    }

    fn probe<'a>(&'a self, broker: BrokerId, image: &ClusterImage, work: &Work<'a>, under_way: &mut UnderWay) {
        let Some(registered) = image.brokers.get(&broker).filter(|b| broker != self.config.broker_id && !b.fenced)
        else {
            return;
        };
        if !under_way.probes.insert(broker) {
            return;
        }
        let (host, port, epoch) = (registered.cluster.host.clone(), registered.cluster.port, registered.epoch);
        work.push(Box::pin(async move {
            let ttl = self.config.tuning.round_trip.probe();
            let is_gone = is_gone(self.transport.as_ref(), &host, port, ttl).await;
            Done::Probed { broker, epoch, is_gone }
        }));
    }

    /// One look at everything a controller looks after.
    fn look_after<'a>(&'a self, work: &Work<'a>, under_way: &mut UnderWay) {
        let image: Arc<ClusterImage> = self.images.borrow().clone();
        let now = Instant::now();
        let is_followed = self.is_followed();
        let mut commands = Vec::new();
        if let Some(office) = self.office.lock().as_mut() {
            commands.append(&mut self.requested.lock());
            commands.extend(office.overdue(self.now(), &image, is_followed));
            if now >= office.next_drain {
                office.next_drain = now + DRAIN_EVERY;
                let draining = image.brokers.iter().filter(|(_, broker)| broker.draining);
                commands.extend(draining.flat_map(|(broker, _)| drain::plan(&image, *broker, DRAIN_BATCH)));
            }
            if now >= office.next_balance {
                office.next_balance = now + BALANCE_EVERY;
                let elections = preferred::imbalance(&image, ELECTIONS_MAX);
                if !elections.is_empty() {
                    commands.push(Command::ElectLeaders { elections });
                }
            }
        }
        for command in commands {
            if under_way.commands.contains(&command) {
                continue;
            }
            under_way.commands.push(command.clone());
            work.push(Box::pin(async move {
                self.carry_out(command.clone()).await;
                Done::Proposed(command)
            }));
        }
        if !under_way.membership
            && let Some(change) = self.next_membership_change(&image)
        {
            under_way.membership = true;
            work.push(Box::pin(async move {
                self.change_membership(change).await;
                Done::MembershipChanged
            }));
        }
    }

    /// Asks the others once this node has had no controller for longer than an election takes, and once a session from
    /// then on.
    fn look_for_a_controller<'a>(&'a self, ask_at: &mut Option<Instant>, work: &Work<'a>, under_way: &mut UnderWay) {
        if self.is_in_touch() {
            *ask_at = None;
            self.silent.lock().clear();
            return;
        }
        let now = Instant::now();
        let at = *ask_at.get_or_insert(now + self.config.tuning.election_max);
        if now < at || under_way.question {
            return;
        }
        *ask_at = Some(now + self.config.tuning.session);
        under_way.question = true;
        work.push(Box::pin(async move {
            self.end_if_removed().await;
            Done::AskedWhetherRemoved
        }));
    }

    fn finish(&self, done: Done, under_way: &mut UnderWay) {
        match done {
            Done::Probed { broker, epoch, is_gone } => {
                under_way.probes.remove(&broker);
                if is_gone && let Some(office) = self.office.lock().as_mut() {
                    office.liveness.gone(broker, epoch);
                }
            }
            Done::Proposed(command) => under_way.commands.retain(|other| *other != command),
            Done::MembershipChanged => under_way.membership = false,
            Done::AskedWhetherRemoved => under_way.question = false,
            Done::Beaten => under_way.beat = false,
            Done::TookOver(broker) => drop(under_way.takeovers.remove(&broker)),
        }
    }

    /// Proposes a decision of the controller's. The next look decides again, on the state as it is then.
    pub(super) async fn carry_out(&self, command: Command) {
        let name = command.name();
        match self.propose_as_controller(command, PROPOSE_PATIENCE).await {
            Ok(outcome) => tracing::info!(command = name, ?outcome, "the controller decided"),
            Err(ProposeError::Refused(reason)) => tracing::info!(command = name, %reason, "the state has moved on"),
            Err(error) => {
                tracing::info!(command = name, %error, "not decided now");
                // A controller that hands its office over is refused at once, and would ask again without end until it is
                // taken.
                sleep(REFUSED_PAUSE).await;
            }
        }
    }
}
