//! B1 to B3 as the controller applies them to what it hears.

use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::ids::{ClusterId, DirectoryId};

use super::*;
use crate::command::{ClusterEndpoint, Incarnation};
use crate::explore::State;
use crate::outcome::Outcome;

const SESSION: Duration = Duration::from_secs(3);

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

struct Cluster {
    state: State,
    index: u64,
}

impl Cluster {
    fn new() -> Self {
        let mut cluster = Self { state: State::new(), index: 0 };
        cluster.apply(&Command::FoundCluster { cluster_id: ClusterId::from_bytes([1; 16]) });
        cluster
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        self.index += 1;
        self.state.apply(self.index, command).unwrap()
    }

    fn register(&mut self, id: u32, life: u8) -> BrokerEpoch {
        let registered = self.apply(&Command::RegisterBroker {
            incarnation: Incarnation::from_bytes([life; 16]),
            endpoint: BrokerEndpoint { id: BrokerId::new(id), host: "h".to_owned(), port: 1, rack: None },
            cluster: ClusterEndpoint { host: "h".to_owned(), port: 2 },
            directory: DirectoryId::from_bytes([1; 16]),
            intact: true,
            version: "0".to_owned(),
        });
        let Outcome::BrokerRegistered { epoch } = registered else { panic!("{registered:?}") };
        epoch
    }

    fn image(&self) -> &ClusterImage {
        self.state.image()
    }
}

fn beat(id: u32, epoch: BrokerEpoch, applied: u64, wants: Wants) -> Heartbeat {
    let broker = BrokerId::new(id);
    let unanswered = Duration::ZERO;
    Heartbeat {
        broker,
        epoch,
        applied,
        wants,
        unanswered,
        disk_used_bytes: 10,
        disk_free_bytes: 20,
        problem: None,
        wants_disks: false,
    }
}

fn fence(id: u32, epoch: BrokerEpoch) -> Command {
    Command::FenceBroker { broker: BrokerId::new(id), epoch }
}

fn unfence(id: u32, epoch: BrokerEpoch) -> Command {
    Command::UnfenceBroker { broker: BrokerId::new(id), epoch }
}

/// B1. Catches: unfencing a broker that has not applied its own registration yet, and proposing it all the time.
#[test]
fn broker_is_unfenced_once_it_has_applied_its_registration() {
    let mut cluster = Cluster::new();
    let epoch = cluster.register(1, 1);
    let mut liveness = Liveness::new(at(0), cluster.image(), SESSION, None);
    let behind = liveness.heartbeat(&beat(1, epoch, epoch.get() - 1, Wants::Serve), at(1), cluster.image());
    assert_eq!((behind.fenced, behind.unfence), (true, None));
    let here = beat(1, epoch, epoch.get(), Wants::Serve);
    assert_eq!(liveness.heartbeat(&here, at(2), cluster.image()).unfence, Some(unfence(1, epoch)));
    assert_eq!(liveness.heartbeat(&here, at(3), cluster.image()).unfence, None, "it is on its way");
    assert_eq!(liveness.heartbeat(&here, at(502), cluster.image()).unfence, Some(unfence(1, epoch)));
    cluster.apply(&unfence(1, epoch));
    let served = liveness.heartbeat(&here, at(2000), cluster.image());
    assert_eq!((served.fenced, served.unfence, served.unknown_registration), (false, None, false));
    assert_eq!(liveness.disks(), [BrokerDisk { broker: BrokerId::new(1), used_bytes: 10, free_bytes: 20 }]);
}

/// Catches: a broker that is silent and never fenced, fenced before its session is over, or fenced in a later life.
#[test]
fn silent_broker_is_fenced_when_its_session_is_over() {
    let mut cluster = Cluster::new();
    let epoch = cluster.register(1, 1);
    cluster.apply(&unfence(1, epoch));
    let mut liveness = Liveness::new(at(0), cluster.image(), SESSION, None);
    liveness.heartbeat(&beat(1, epoch, 9, Wants::Serve), at(500), cluster.image());
    let mut fenced_at = None;
    for now in (500..5000).step_by(50) {
        let commands = liveness.tick(at(now), cluster.image());
        if !commands.is_empty() {
            assert_eq!(commands, [fence(1, epoch)]);
            fenced_at = Some(now);
            break;
        }
    }
    assert_eq!(fenced_at, Some(3500));
    assert_eq!(liveness.tick(at(3550), cluster.image()), [], "it is on its way");
    let next = cluster.register(1, 2);
    cluster.apply(&unfence(1, next));
    assert_eq!(liveness.tick(at(3600), cluster.image()), [], "a new life has a new session");
}

/// Catches: a broker that is heard and hears nobody, and goes on leading for as long as that lasts; one that is put into
/// service although it hears nobody; one that is fenced because a single answer was lost.
#[test]
fn broker_that_hears_no_answer_is_fenced_a_session_after_the_last_one() {
    let mut cluster = Cluster::new();
    let epoch = cluster.register(1, 1);
    cluster.apply(&unfence(1, epoch));
    let mut liveness = Liveness::new(at(0), cluster.image(), SESSION, None);
    let deaf_since = |since, now| Heartbeat { unanswered: at(now - since), ..beat(1, epoch, 9, Wants::Serve) };
    // One answer is lost between 500 and 2000, all of them from 2500 on.
    for now in [500, 1500, 2000] {
        liveness.heartbeat(&deaf_since(500.min(now), now), at(now), cluster.image());
        assert_eq!(liveness.tick(at(now), cluster.image()), []);
    }
    let mut fenced_at = None;
    for now in (2500..8000).step_by(50) {
        liveness.heartbeat(&deaf_since(2500, now), at(now), cluster.image());
        if fenced_at.is_none() && !liveness.tick(at(now), cluster.image()).is_empty() {
            fenced_at = Some(now);
        }
    }
    assert_eq!(fenced_at, Some(2500 + 3000));
    cluster.apply(&fence(1, epoch));
    let deaf = liveness.heartbeat(&deaf_since(2500, 8000), at(8000), cluster.image());
    assert_eq!(deaf.unfence, None);
    let hears = liveness.heartbeat(&deaf_since(7900, 8050), at(8050), cluster.image());
    assert_eq!(hears.unfence, Some(unfence(1, epoch)));
}

/// A new controller, and one that was paused. Catches: fencing brokers that it could not have heard.
#[test]
fn controller_that_could_not_listen_fences_nobody() {
    let mut cluster = Cluster::new();
    let epoch = cluster.register(1, 1);
    cluster.apply(&unfence(1, epoch));
    let mut liveness = Liveness::new(at(100_000), cluster.image(), SESSION, None);
    assert_eq!(liveness.tick(at(100_050), cluster.image()), []);
    // Nothing for ten sessions: this process did not run.
    assert_eq!(liveness.tick(at(130_000), cluster.image()), []);
    let quiet: Vec<u64> = (130_050..133_000).step_by(50).collect();
    for now in quiet {
        assert_eq!(liveness.tick(at(now), cluster.image()), [], "at {now}");
    }
    assert_eq!(liveness.tick(at(133_000), cluster.image()), [fence(1, epoch)]);
}

/// Catches: a whole session more for a former controller that has been silent for most of one, the same for a broker of
/// which nothing is known, and a former controller that is fenced before the new one could hear it.
#[test]
fn former_controller_is_fenced_a_session_after_it_was_heard_last() {
    let fenced_at = |silence, heard: &[u64]| {
        let mut cluster = Cluster::new();
        let former = cluster.register(1, 1);
        let other = cluster.register(2, 1);
        cluster.apply(&unfence(1, former));
        cluster.apply(&unfence(2, other));
        let before = Former { broker: BrokerId::new(1), silence };
        let mut liveness = Liveness::new(at(10_000), cluster.image(), SESSION, Some(before));
        let mut fenced = [None; 2];
        for now in (10_050..=14_000).step_by(50) {
            if heard.contains(&now) {
                liveness.heartbeat(&beat(1, former, 9, Wants::Serve), at(now), cluster.image());
            }
            for command in liveness.tick(at(now), cluster.image()) {
                let which = if command == fence(1, former) { 0 } else { 1 };
                fenced[which].get_or_insert(now);
            }
        }
        fenced
    };
    assert_eq!(fenced_at(at(1200), &[]), [Some(11_800), Some(13_000)]);
    assert_eq!(fenced_at(Duration::ZERO, &[]), [Some(13_000), Some(13_000)]);
    assert_eq!(fenced_at(at(60_000), &[]), [Some(11_000), Some(13_000)], "a third of a session to be heard");
    assert_eq!(fenced_at(at(60_000), &[10_950]), [Some(13_950), Some(13_000)], "heard in time");
}

/// The fast path. Catches: waiting for the session of a process that is known to be dead, or fencing its next life.
#[test]
fn dead_process_is_fenced_at_once() {
    let mut cluster = Cluster::new();
    let epoch = cluster.register(1, 1);
    cluster.apply(&unfence(1, epoch));
    let mut liveness = Liveness::new(at(0), cluster.image(), SESSION, None);
    liveness.heartbeat(&beat(1, epoch, 9, Wants::Serve), at(10), cluster.image());
    liveness.gone(BrokerId::new(1), BrokerEpoch::new(epoch.get() + 1));
    assert_eq!(liveness.tick(at(50), cluster.image()), [], "another life is gone, not this one");
    liveness.gone(BrokerId::new(1), epoch);
    liveness.heartbeat(&beat(1, epoch, 9, Wants::Serve), at(60), cluster.image());
    assert_eq!(liveness.tick(at(70), cluster.image()), [], "it was heard again");
    liveness.gone(BrokerId::new(1), epoch);
    assert_eq!(liveness.tick(at(100), cluster.image()), [fence(1, epoch)]);
}

/// B3. Catches: a broker that stops before everybody knows who leads instead, or that never may.
#[test]
fn broker_stops_when_every_live_broker_knows() {
    let mut cluster = Cluster::new();
    let one = cluster.register(1, 1);
    let two = cluster.register(2, 1);
    let three = cluster.register(3, 1);
    cluster.apply(&unfence(1, one));
    cluster.apply(&unfence(2, two));
    let mut liveness = Liveness::new(at(0), cluster.image(), SESSION, None);
    let stop = |applied| beat(1, one, applied, Wants::ShutDown);
    let asked = liveness.heartbeat(&stop(5), at(1), cluster.image()).shutdown;
    let begin = Command::BeginShutdown { broker: BrokerId::new(1), epoch: one };
    assert_eq!(asked, ShutdownVerdict::Begin(begin.clone()));
    assert_eq!(liveness.heartbeat(&stop(5), at(2), cluster.image()).shutdown, ShutdownVerdict::Wait);
    cluster.apply(&begin);
    let begun = cluster.image().applied;
    assert_eq!(liveness.heartbeat(&stop(begun), at(3), cluster.image()).shutdown, ShutdownVerdict::Wait);
    liveness.heartbeat(&beat(2, two, begun - 1, Wants::Serve), at(4), cluster.image());
    assert_eq!(liveness.heartbeat(&stop(begun), at(5), cluster.image()).shutdown, ShutdownVerdict::Wait);
    let verdict = liveness.heartbeat(&beat(2, two, begun, Wants::Serve), at(6), cluster.image());
    assert_eq!(verdict.shutdown, ShutdownVerdict::NotWanted);
    // Broker 3 is fenced: nobody waits for it, and nothing is unfenced while it stops.
    let last = liveness.heartbeat(&stop(begun), at(7), cluster.image());
    assert_eq!((last.shutdown, last.unfence), (ShutdownVerdict::MayStop, None));
    let fenced = liveness.heartbeat(&beat(3, three, begun, Wants::ShutDown), at(8), cluster.image());
    assert_eq!(fenced.shutdown, ShutdownVerdict::MayStop);
}

/// Catches: telling a broker to register again because this controller is behind, or not telling it at all.
#[test]
fn unknown_registration_is_told_apart_from_one_not_seen_yet() {
    let mut cluster = Cluster::new();
    let old = cluster.register(1, 1);
    let current = cluster.register(1, 2);
    let mut liveness = Liveness::new(at(0), cluster.image(), SESSION, None);
    let stale = liveness.heartbeat(&beat(1, old, 9, Wants::Serve), at(1), cluster.image());
    assert!(stale.unknown_registration && stale.fenced);
    let ahead = beat(1, BrokerEpoch::new(current.get() + 5), 9, Wants::Serve);
    assert!(!liveness.heartbeat(&ahead, at(2), cluster.image()).unknown_registration);
    let never = liveness.heartbeat(&beat(7, BrokerEpoch::new(1), 9, Wants::ShutDown), at(3), cluster.image());
    assert_eq!((never.unknown_registration, never.shutdown), (true, ShutdownVerdict::MayStop));
}
