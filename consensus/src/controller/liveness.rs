//! Who is alive, as the controller hears it. Soft state: it is not replicated, and a new controller starts anew.
//!
//! A broker has a session that each heartbeat prolongs, to a session after the broker itself last heard an answer: one
//! that is heard and hears nobody must not lead either. Nor must one whose disk stands still, which says so in the
//! same way. A session that ends, or a broker that is known to be gone, is fenced; a fenced broker that follows the
//! metadata, hears the controller and wants to serve is unfenced. Times are counted from any one moment, by a
//! monotonic clock.
//!
//! Two rules against wrong fencing: a new controller gives everybody a whole session first, and so does one that was
//! paused itself, since it could not have heard anybody. The former controller is the exception: the new one has listened
//! to it all along, so that its session began when it was heard last. It still has a moment to be heard by the new one.

use std::collections::BTreeMap;
use std::time::Duration;

use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::BrokerId;

use crate::command::Command;
use crate::image::{BrokerImage, ClusterImage};

/// The shortest time between two proposals of the same change: the first one is usually on its way.
const PROPOSE_AGAIN: Duration = Duration::from_millis(500);
/// A controller that has not looked for this part of a session was paused.
const PAUSED_PART: u32 = 3;
/// The part of a session that a former controller has to be heard by the new one, however long it was silent before.
const GRACE_PART: u32 = 3;

/// What a broker says of itself, several times per session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The broker.
    pub broker: BrokerId,
    /// Its registration.
    pub epoch: BrokerEpoch,
    /// Index of the last metadata entry that it acted on.
    pub applied: u64,
    /// What it asks for.
    pub wants: Wants,
    /// How long ago it heard the last answer to a heartbeat, or began to ask; or, if that is longer, for how long its disk has
    /// stood still beyond what it bears.
    pub unanswered: Duration,
    /// Bytes of its data.
    pub disk_used_bytes: u64,
    /// Bytes that are free for more.
    pub disk_free_bytes: u64,
    /// What is wrong with it, for people.
    pub problem: Option<String>,
    /// True when it wants to hear of every broker's disk.
    pub wants_disks: bool,
}

/// A broker's disk, as it said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerDisk {
    /// The broker.
    pub broker: BrokerId,
    /// Bytes of its data.
    pub used_bytes: u64,
    /// Bytes that are free for more.
    pub free_bytes: u64,
}

/// What a broker asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// To lead and follow.
    Serve,
    /// To stop once nobody needs it.
    ShutDown,
}

/// The controller before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Former {
    /// Its broker.
    pub broker: BrokerId,
    /// How long ago anything was heard from it, when this controller took office.
    pub silence: Duration,
}

/// What a heartbeat is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatVerdict {
    /// True while the broker may lead nothing.
    pub fenced: bool,
    /// To be proposed: the broker is fit to serve.
    pub unfence: Option<Command>,
    /// Where its wish to stop stands.
    pub shutdown: ShutdownVerdict,
    /// True when no registration of that epoch exists: the broker must register again, or was removed.
    pub unknown_registration: bool,
}

/// Where a broker's wish to stop stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShutdownVerdict {
    /// It wants to serve.
    NotWanted,
    /// To be proposed: its leaders move now.
    Begin(Command),
    /// Its leaders have moved, or are about to; not every broker has heard of it.
    Wait,
    /// Nobody will ask it for anything that another can answer: it may stop.
    MayStop,
}

/// The sessions of all brokers.
#[derive(Debug)]
pub struct Liveness {
    session: Duration,
    looked_at: Duration,
    brokers: BTreeMap<BrokerId, Session>,
}

/// What this controller proposed about a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Fence,
    Unfence,
    BeginShutdown,
}

#[derive(Debug)]
struct Session {
    epoch: BrokerEpoch,
    ends: Duration,
    gone: bool,
    applied: u64,
    proposed: Option<(Change, Duration)>,
    /// The index by which it had begun to stop, as far as this controller saw.
    stopping_since: Option<u64>,
    disk_bytes: Option<(u64, u64)>,
    problem: Option<String>,
}

impl Session {
    fn new(epoch: BrokerEpoch, ends: Duration) -> Self {
        Self {
            epoch,
            ends,
            gone: false,
            applied: 0,
            proposed: None,
            stopping_since: None,
            disk_bytes: None,
            problem: None,
        }
    }

    /// True when the same change was not proposed a moment ago.
    fn may_propose(&mut self, change: Change, now: Duration) -> bool {
        let recent = |(last, at): (Change, Duration)| last == change && now.saturating_sub(at) < PROPOSE_AGAIN;
        if self.proposed.is_some_and(recent) {
            return false;
        }
        self.proposed = Some((change, now));
        true
    }
}

impl Liveness {
    /// A controller that starts at `now`, after `former` if there was another: every other broker has a whole session, of
    /// length `session`, to be heard.
    pub fn new(now: Duration, image: &ClusterImage, session: Duration, former: Option<Former>) -> Self {
        let ends = |broker: BrokerId| {
            let silence = former.filter(|former| former.broker == broker).map_or(Duration::ZERO, |f| f.silence);
            now.saturating_add(session.saturating_sub(silence).max(session / GRACE_PART))
        };
        let session_of = |(id, broker): (&BrokerId, &BrokerImage)| (*id, Session::new(broker.epoch, ends(*id)));
        Self { session, looked_at: now, brokers: image.brokers.iter().map(session_of).collect() }
    }

    /// A broker was heard. Prolongs its session, and says what it may do.
    pub fn heartbeat(&mut self, beat: &Heartbeat, now: Duration, image: &ClusterImage) -> HeartbeatVerdict {
        let registered = image.brokers.get(&beat.broker).filter(|broker| broker.epoch == beat.epoch);
        let Some(broker) = registered else {
            // An epoch above what is applied here belongs to a registration that this controller will see yet.
            let unknown_registration = beat.epoch.get() <= image.applied;
            let shutdown = match beat.wants {
                Wants::Serve => ShutdownVerdict::NotWanted,
                Wants::ShutDown if unknown_registration => ShutdownVerdict::MayStop,
                Wants::ShutDown => ShutdownVerdict::Wait,
            };
            return HeartbeatVerdict { fenced: true, unfence: None, shutdown, unknown_registration };
        };
        let whole = self.session;
        let session = self.session_of(beat.broker, beat.epoch, now.saturating_add(whole));
        session.ends = session.ends.max(now.saturating_add(whole.saturating_sub(beat.unanswered)));
        session.gone = false;
        session.applied = session.applied.max(beat.applied);
        session.disk_bytes = Some((beat.disk_used_bytes, beat.disk_free_bytes));
        session.problem.clone_from(&beat.problem);
        if broker.in_controlled_shutdown {
            session.stopping_since.get_or_insert(image.applied);
        }
        let follows = beat.applied >= beat.epoch.get() && beat.unanswered < whole;
        let fit = broker.fenced && !broker.in_controlled_shutdown && beat.wants == Wants::Serve && follows;
        let unfence = (fit && session.may_propose(Change::Unfence, now))
            .then_some(Command::UnfenceBroker { broker: beat.broker, epoch: beat.epoch });
        let shutdown = match beat.wants {
            Wants::Serve => ShutdownVerdict::NotWanted,
            Wants::ShutDown => self.shutdown(beat, broker, now, image),
        };
        HeartbeatVerdict { fenced: broker.fenced, unfence, shutdown, unknown_registration: false }
    }

    /// B3: a broker may stop once every live one knows who leads instead.
    fn shutdown(
        &mut self,
        beat: &Heartbeat,
        broker: &BrokerImage,
        now: Duration,
        image: &ClusterImage,
    ) -> ShutdownVerdict {
        if broker.fenced {
            return ShutdownVerdict::MayStop;
        }
        let session = self.session_of(beat.broker, beat.epoch, now);
        if !broker.in_controlled_shutdown {
            return if session.may_propose(Change::BeginShutdown, now) {
                ShutdownVerdict::Begin(Command::BeginShutdown { broker: beat.broker, epoch: beat.epoch })
            } else {
                ShutdownVerdict::Wait
            };
        }
        let since = session.stopping_since.unwrap_or(image.applied);
        let knows =
            |id: &BrokerId| self.brokers.get(id).is_some_and(|session| session.gone || session.applied >= since);
        let live = image.brokers.iter().filter(|(_, broker)| !broker.fenced);
        if live.map(|(id, _)| id).all(knows) { ShutdownVerdict::MayStop } else { ShutdownVerdict::Wait }
    }

    /// The process of that life is known to have ended: its connection broke and its address refuses. Fenced at the
    /// next tick, unless it is heard again before.
    pub fn gone(&mut self, broker: BrokerId, epoch: BrokerEpoch) {
        if let Some(session) = self.brokers.get_mut(&broker).filter(|session| session.epoch == epoch) {
            session.gone = true;
        }
    }

    /// Fences whose session is over. To be called several times per session.
    pub fn tick(&mut self, now: Duration, image: &ClusterImage) -> Vec<Command> {
        let was_paused = now.saturating_sub(self.looked_at) > self.session / PAUSED_PART;
        self.looked_at = now;
        let ends = now.saturating_add(self.session);
        self.brokers.retain(|id, _| image.brokers.contains_key(id));
        let mut commands = Vec::new();
        for (id, broker) in &image.brokers {
            let session = self.session_of(*id, broker.epoch, ends);
            if was_paused {
                session.ends = session.ends.max(ends);
            }
            let is_over = session.gone || now >= session.ends;
            if is_over && !broker.fenced && session.may_propose(Change::Fence, now) {
                commands.push(Command::FenceBroker { broker: *id, epoch: broker.epoch });
            }
        }
        commands
    }

    /// The disks of all brokers that this controller has heard.
    pub fn disks(&self) -> Vec<BrokerDisk> {
        let disk = |(broker, session): (&BrokerId, &Session)| {
            let (used_bytes, free_bytes) = session.disk_bytes?;
            Some(BrokerDisk { broker: *broker, used_bytes, free_bytes })
        };
        self.brokers.iter().filter_map(disk).collect()
    }

    /// What is wrong with a broker, as last heard.
    pub fn problem(&self, broker: BrokerId) -> Option<&str> {
        self.brokers.get(&broker)?.problem.as_deref()
    }

    /// When the session of `broker` ends if it is not heard.
    #[cfg(test)]
    pub(crate) fn ends(&self, broker: BrokerId) -> Duration {
        self.brokers[&broker].ends
    }

    /// The session of that life; a new life has one that ends at `ends`.
    fn session_of(&mut self, broker: BrokerId, epoch: BrokerEpoch, ends: Duration) -> &mut Session {
        let session = self.brokers.entry(broker).or_insert_with(|| Session::new(epoch, ends));
        if session.epoch != epoch {
            *session = Session::new(epoch, ends);
        }
        session
    }
}

#[cfg(test)]
mod tests;
