//! One write or one sync of one broker fails, and the next would succeed. Whoever believes the next one loses data: the
//! broker must take nothing more on that disk and give up what it leads, the others must carry on, and a restart on the
//! disk, well again, must heal. Before the restart the power is cut, where brokers can have disks of their own: what the
//! failed call did not bring to the disk is gone for certain.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use streambus_client::{Record, Topic};
use streambus_tests::cluster::{Disks, Options, PATIENCE};
use streambus_tests::load::LoadOptions;
use streambus_tests::measure::Times;
use streambus_tests::patience::wait_for;
use streambus_tests::run::Run;
use streambus_tests::setting;
use streambus_tests::shim::{Call, ENOSPC, Rule};

/// The broker whose disk fails.
#[derive(Clone, Copy)]
enum Victim {
    Leader,
    Follower,
    Controller,
    NoController,
}

impl Victim {
    fn find(self, run: &Run) -> u32 {
        let leader = run.leaders()[&0];
        let other = |than: u32| run.cluster.ids().into_iter().find(|id| *id != than).expect("three brokers");
        match self {
            Self::Leader => leader,
            Self::Follower => other(leader),
            Self::Controller => run.controller(),
            Self::NoController => other(run.controller()),
        }
    }
}

/// What becomes of the broker.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It stays, reads only, and says so.
    ReadOnly,
    /// Its process ends with a failure: it cannot even follow the metadata.
    Ends,
    /// It goes on: nothing that was promised depended on the call.
    GoesOn,
}

/// One scenario.
struct Fault {
    name: &'static str,
    disks: Disks,
    victim: Victim,
    rule: Rule,
    end: End,
}

impl Fault {
    fn of(name: &'static str, victim: Victim, rule: Rule, end: End) -> Self {
        Self { name, disks: Disks::default().shimmed(), victim, rule, end }
    }

    /// Arms the rule on a victim in each cycle under load, waits until it was hit and every partition takes records
    /// again, restarts the victim without the fault; then judges. `provoke` makes the broker do what the rule waits for.
    fn play(&self, provoke: impl Fn(&Run, u64)) {
        let disks = self.disks.loops_if_possible(1 << 30);
        let options = Options { disks, ..Options::default() }.with_small_segments().with_small_reserve();
        let mut random = StdRng::seed_from_u64(setting::seed());
        let mut run = Run::start(self.name, &options, &LoadOptions::default());
        let mut times = Times::default();
        for cycle in 0..setting::cycles(1) {
            run.wait_acks(random.random_range(100..1_000));
            let id = self.victim.find(&run);
            run.cluster.fail_calls(id, 0, &self.rule);
            provoke(&run, cycle);
            let hit = wait_for(PATIENCE, || (run.cluster.failed_calls(id, 0) > 0).then_some(()));
            assert!(hit.is_some(), "no call of broker {id} was hit");
            let hit_us = run.cluster.recorder().fault("the fault hit");
            for micros in run.wait_recovery(hit_us).into_values() {
                times.add(micros);
            }
            self.check_end(&mut run, id);
            run.cluster.spare_calls(id);
            run.cluster.start_broker(id);
            run.cluster.wait_ready(id);
            run.wait_in_sync();
        }
        run.finish();
        eprintln!("{}: first acknowledgement after the fault: {times}", self.name);
    }

    fn check_end(&self, run: &mut Run, id: u32) {
        match self.end {
            End::ReadOnly => {
                let is_out = wait_for(PATIENCE, || (!run.cluster.is_ready(id)).then_some(()));
                assert!(is_out.is_some(), "broker {id} stays ready:\n{}", run.cluster.log_end(id));
                let health = run.cluster.page(id, "/health").expect("it answers");
                assert!(health.contains("read-only"), "{health}");
                // It stays away from what it cannot hold, also when time passes.
                run.leaders_without(Some(id));
                run.wait_acks(1_000);
                assert!(run.leaders().values().all(|leader| *leader != id), "it leads again");
                run.cluster.cut_power_or_kill(id);
            }
            End::Ends => {
                let status = run.cluster.wait_exit(id);
                assert!(!status.success(), "it ended with {status}");
            }
            End::GoesOn => {
                run.wait_in_sync();
                assert!(run.cluster.is_ready(id), "{}", run.cluster.log_end(id));
                run.cluster.cut_power_or_kill(id);
            }
        }
    }
}

/// The load alone does it.
fn nothing(_: &Run, _: u64) {}

/// As [`nothing`]; brokers whose file system refuses direct I/O say so, for the operator who wonders why they are slow.
fn told_of_the_page_cache(run: &Run, _: u64) {
    for id in run.cluster.ids() {
        let log = run.cluster.log(id);
        assert!(log.contains("refuses direct I/O"), "broker {id} does not say how it writes:\n{log}");
    }
}

/// Writes enough to begin a new segment on every broker, which also brings the checkpoint and the index to the disk.
fn roll(run: &Run, cycle: u64) {
    run.ask(async |bus| {
        let topic = format!("filler-{cycle}");
        let wanted = Topic::partitions(1).replicas(3);
        bus.admin().create_topic(&topic, wanted).timeout(PATIENCE).await.expect("two brokers of three are well");
        let producer = bus.producer();
        for _ in 0..12 {
            let mut deliveries = Vec::new();
            for _ in 0..64 {
                let record = Record::new(topic.as_str(), vec![0x5a; 60_000]);
                deliveries.push(producer.enqueue(record).await.expect("two brokers of three are well"));
            }
            for delivery in deliveries {
                delivery.await.expect("two brokers of three are well");
            }
        }
    });
}

/// Changes the metadata, which every broker then stores.
fn change_metadata(run: &Run, cycle: u64) {
    run.ask(async |bus| {
        let topic = format!("change-{cycle}");
        let created = bus.admin().create_topic(&topic, Topic::partitions(1).replicas(1)).timeout(PATIENCE).await;
        // The broker that was asked may be the one whose disk failed; it cannot know then.
        assert!(created.as_ref().map_or_else(|error| error.is_outcome_unknown(), |_| true), "{created:?}");
    });
}

#[test]
fn a_journal_write_that_fails_once_on_a_leader_loses_nothing() {
    let rule = Rule::once(Call::Write, "/journal-");
    Fault::of("a write of a leader's journal fails once", Victim::Leader, rule, End::ReadOnly).play(nothing);
}

#[test]
fn a_journal_write_that_is_torn_once_on_a_follower_loses_nothing() {
    let rule = Rule { torn: 4096, ..Rule::once(Call::Write, "/journal-") };
    Fault::of("a write of a follower's journal is torn once", Victim::Follower, rule, End::ReadOnly).play(nothing);
}

#[test]
fn a_journal_sync_that_fails_once_loses_nothing() {
    let rule = Rule::once(Call::Sync, "/journal-");
    let fault = Fault::of("a sync of a leader's journal fails once", Victim::Leader, rule, End::ReadOnly);
    Fault { disks: Disks::default().shimmed_page_cache(), ..fault }.play(told_of_the_page_cache);
}

#[test]
fn a_metadata_sync_that_fails_once_ends_the_broker_and_loses_nothing() {
    let rule = Rule::once(Call::Sync, "/metadata/db/");
    Fault::of("a sync of a follower's metadata fails once", Victim::NoController, rule, End::Ends)
        .play(change_metadata);
}

#[test]
fn a_metadata_write_that_fails_once_ends_the_controller_and_loses_nothing() {
    let rule = Rule { error: ENOSPC, ..Rule::once(Call::Write, "/metadata/db/") };
    Fault::of("a write of the controller's metadata fails once", Victim::Controller, rule, End::Ends)
        .play(change_metadata);
}

#[test]
fn an_index_write_that_fails_once_loses_nothing() {
    let rule = Rule { calls: vec![Call::Write, Call::Sync], ..Rule::once(Call::Write, "/index/") };
    // The journal has all that is in the index: it is written once more, to another file.
    Fault::of("a write of a leader's index fails once", Victim::Leader, rule, End::GoesOn).play(roll);
}

#[test]
fn a_new_segment_that_cannot_be_synced_loses_nothing() {
    let rule = Rule::once(Call::Sync, "/spare-");
    // Nothing that was promised depends on it, but a disk that refuses once is not relied upon any more.
    Fault::of("a sync of a leader's next segment fails once", Victim::Leader, rule, End::ReadOnly).play(roll);
}
