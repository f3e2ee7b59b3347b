//! Brokers that stand still and come back believing that nothing happened.

use std::time::Duration;

use streambus_tests::cluster::Options;
use streambus_tests::load::LoadOptions;
use streambus_tests::measure::Times;
use streambus_tests::run::Run;
use streambus_tests::setting;

#[test]
fn a_leader_that_stands_still_past_its_session_comes_back_as_a_follower() {
    let name = "SIGSTOP of a leader past its session";
    let run = Run::start(name, &Options::default(), &LoadOptions::default());
    let mut times = Times::default();
    for _ in 0..setting::cycles(2) {
        let id = run.leaders()[&0];
        let at_us = run.cluster.pause(id);
        for micros in run.wait_recovery(at_us).into_values() {
            times.add(micros);
        }
        run.leaders_without(Some(id));
        run.cluster.resume(id);
        run.wait_acks(500);
        run.wait_in_sync();
    }
    run.finish();
    eprintln!("{name}: first acknowledgement in each partition after the pause began: {times}");
}

#[test]
fn a_short_pause_of_any_broker_changes_nothing_but_time() {
    let run = Run::start("SIGSTOP of each broker for half a second", &Options::default(), &LoadOptions::default());
    for id in run.cluster.ids() {
        run.cluster.pause(id);
        run.let_run(Duration::from_millis(500));
        let resumed_us = run.cluster.resume(id);
        run.wait_recovery(resumed_us);
    }
    let report = run.finish();
    assert_eq!(report.refused, 0, "a client gave up within its patience");
}
