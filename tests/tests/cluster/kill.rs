//! `kill -9` of the leader, a follower, the controller, and of all three at once.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use streambus_tests::cluster::Options;
use streambus_tests::load::LoadOptions;
use streambus_tests::measure::{Times, recovery_us};
use streambus_tests::run::Run;
use streambus_tests::setting;

/// Kills `victim` of each cycle at a random moment under load, waits until every partition takes records again, and
/// starts it again; then judges.
fn kill_in_a_loop(name: &str, cycles: u64, victim: impl Fn(&Run, &mut StdRng) -> u32) {
    let mut random = StdRng::seed_from_u64(setting::seed());
    let mut run = Run::start(name, &Options::default(), &LoadOptions::default());
    let mut kills = Vec::new();
    for _ in 0..setting::cycles(cycles) {
        run.wait_acks(random.random_range(100..1_000));
        let id = victim(&run, &mut random);
        let led: Vec<u32> = run.leaders().into_iter().filter(|(_, leader)| *leader == id).map(|(p, _)| p).collect();
        let at_us = run.cluster.kill_nine(id);
        kills.push((at_us, led));
        run.wait_recovery(at_us);
        run.cluster.start_broker(id);
        run.cluster.wait_ready(id);
        run.wait_in_sync();
    }
    let report = run.finish();
    let (mut led_by_it, mut others) = (Times::default(), Times::default());
    for (at_us, led) in kills {
        for (partition, micros) in recovery_us(&report.events, at_us) {
            let times = if led.contains(&partition) { &mut led_by_it } else { &mut others };
            times.add(micros);
        }
    }
    eprintln!("{name}: first acknowledgement after kill -9: partitions it led: {led_by_it}; others: {others}");
    assert_eq!(report.refused, 0, "a client gave up although two brokers of three were there");
}

#[test]
fn killing_the_leader_loses_nothing() {
    kill_in_a_loop("kill -9 of a leader", 3, |run, _| *run.leaders().values().next().expect("a partition"));
}

#[test]
fn killing_a_follower_loses_nothing() {
    kill_in_a_loop("kill -9 of a follower", 2, |run, random| {
        let leader = run.leaders()[&0];
        let followers: Vec<u32> = run.cluster.ids().into_iter().filter(|id| *id != leader).collect();
        followers[random.random_range(0..followers.len())]
    });
}

#[test]
fn killing_the_controller_loses_nothing() {
    kill_in_a_loop("kill -9 of the controller", 2, |run, _| run.controller());
}

#[test]
fn killing_all_three_at_once_loses_nothing() {
    let name = "kill -9 of all three";
    let mut random = StdRng::seed_from_u64(setting::seed());
    let mut run = Run::start(name, &Options::default(), &LoadOptions::default());
    let mut times = Times::default();
    for _ in 0..setting::cycles(3) {
        run.wait_acks(random.random_range(100..1_500));
        run.cluster.kill_all();
        let started_us = run.cluster.recorder().fault("all three are started again");
        for id in run.cluster.ids() {
            run.cluster.start_broker(id);
        }
        for micros in run.wait_recovery(started_us).into_values() {
            times.add(micros);
        }
        for id in run.cluster.ids() {
            run.cluster.wait_ready(id);
        }
        run.wait_in_sync();
    }
    run.finish();
    eprintln!("{name}: first acknowledgement after the start: {times}");
}

#[test]
fn a_second_broker_may_die_while_the_first_is_away() {
    let mut run = Run::start("kill -9 of two, one after the other", &Options::default(), &LoadOptions::default());
    let first = run.leaders()[&0];
    let at_us = run.cluster.kill_nine(first);
    run.wait_recovery(at_us);
    let second = run.leaders_without(Some(first))[&0];
    run.cluster.kill_nine(second);
    // One of three is no quorum: nothing may be acknowledged now. Longer than a session.
    run.let_run(Duration::from_secs(4));
    let alone_us = run.cluster.recorder().fault("the broker that died last comes back first");
    run.cluster.start_broker(second);
    run.wait_recovery(alone_us);
    run.cluster.start_broker(first);
    run.cluster.wait_ready(first);
    let report = run.finish();
    assert_eq!(report.refused, 0, "a client gave up within its patience");
}
