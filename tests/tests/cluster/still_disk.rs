//! Disks that stand still: no call fails, and none returns. The broker on such a disk is well otherwise and says so, and yet
//! others must lead what it led; once the disk moves, it takes part again without anybody's help.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use streambus_tests::cluster::{Disks, Options, PATIENCE};
use streambus_tests::load::LoadOptions;
use streambus_tests::measure::Times;
use streambus_tests::patience::wait_for;
use streambus_tests::run::Run;
use streambus_tests::setting;
use streambus_tests::shim::{Call, Rule};

/// Within this every partition takes records again: four seconds that a disk is borne with, a session of two, an election.
const HANDED_OFF: Duration = Duration::from_secs(10);
/// A stall that nobody shall notice but by the time it takes.
const BORNE: Duration = Duration::from_secs(2);

fn start(name: &str) -> Run {
    let options = Options { disks: Disks::default().shimmed(), ..Options::default() };
    Run::start(name, &options, &LoadOptions::default())
}

/// Every write to the journal of broker `id` waits from now on. Returns since when, on the recorder's clock.
fn hold(run: &Run, id: u32) -> u64 {
    let at_us = run.cluster.fail_calls(id, 0, &Rule::held(Call::Write, "/journal-"));
    let is_held = wait_for(PATIENCE, || (run.cluster.failed_calls(id, 0) > 0).then_some(()));
    assert!(is_held.is_some(), "broker {id} writes nothing");
    at_us
}

/// Holds the disk of the broker that `victim` names, in each cycle, until records are taken everywhere again.
fn stand_still(name: &str, victim: impl Fn(&Run) -> u32) {
    let mut random = StdRng::seed_from_u64(setting::seed());
    let run = start(name);
    let mut times = Times::default();
    for _ in 0..setting::cycles(1) {
        run.wait_in_sync();
        run.wait_acks(random.random_range(100..1_000));
        let id = victim(&run);
        let at_us = hold(&run, id);
        for micros in run.wait_recovery(at_us).into_values() {
            times.add(micros);
        }
        let slowest = Duration::from_micros(times.max_us().unwrap_or_default());
        assert!(slowest < HANDED_OFF, "records were taken again after {slowest:?}");
        run.leaders_without(Some(id));
        let health = run.cluster.page(id, "/health").expect("it answers");
        assert!(health.contains("the disk stands still"), "it says why it takes no part: {health}");
        assert!(run.cluster.pid(id).is_some(), "nothing has failed, so that nothing ends");
        // It stays away for as long as it lasts.
        run.wait_acks(1_000);
        assert!(run.leaders().values().all(|leader| *leader != id), "it leads again");
        let moves_us = run.cluster.spare_calls(id);
        run.wait_in_sync();
        run.wait_recovery(moves_us);
        let health = run.cluster.page(id, "/health").expect("it answers");
        assert!(!health.contains("the disk stands still"), "it says that it is over: {health}");
    }
    let report = run.finish();
    assert_eq!(report.refused, 0, "a client gave up within its patience");
    eprintln!("{name}: first acknowledgement in each partition after the disk stood still: {times}");
}

// Catches a leader that keeps its partitions, and acknowledges nothing, for as long as its disk hangs.
#[test]
fn a_leader_whose_disk_stands_still_is_succeeded() {
    stand_still("the disk of a leader stands still", |run| run.leaders()[&0]);
}

// Catches a controller that cannot take its own leaderships from itself.
#[test]
fn a_controller_whose_disk_stands_still_is_succeeded_where_it_leads() {
    stand_still("the disk of the controller stands still", |run| {
        let id = run.controller();
        run.lead(0, id);
        id
    });
}

// Catches a hand-over that a stall of a moment brings about, and leaders that are taken from everybody when all disks stall.
#[test]
fn disks_that_stall_for_a_moment_change_nothing_but_time() {
    let run = start("all disks stall for a moment");
    for _ in 0..setting::cycles(1) {
        run.wait_in_sync();
        let before = run.cluster.ids().into_iter().map(|id| hold(&run, id)).min().expect("three brokers");
        run.let_run(BORNE);
        for id in run.cluster.ids() {
            let health = run.cluster.page(id, "/health").expect("it answers");
            assert!(!health.contains("the disk stands still"), "broker {id} gives up early: {health}");
        }
        for id in run.cluster.ids() {
            run.cluster.spare_calls(id);
        }
        run.wait_recovery(before);
        run.wait_in_sync();
    }
    let report = run.finish();
    assert_eq!(report.refused, 0, "a client gave up within its patience");
}
