//! Cut, one-way, flapping, slow and reset links between the brokers. Clients reach every broker all the time, so a leader
//! that is cut off is asked for acknowledgements and reads that it must not give.

use std::time::Duration;

use streambus_tests::cluster::{Network, Options, PATIENCE, Weather};
use streambus_tests::load::LoadOptions;
use streambus_tests::measure::Times;
use streambus_tests::patience::wait_for;
use streambus_tests::run::Run;
use streambus_tests::setting;

fn start(name: &str, network: Network) -> Run {
    let name = format!("{name} ({network:?})");
    Run::start(&name, &Options { network, ..Options::default() }, &LoadOptions::default())
}

/// Cuts links so that the leader of partition 0 loses its followers, waits until every partition takes records from
/// leaders elsewhere, and heals.
fn cut_off_the_leader(name: &str, cut: impl Fn(&Run, u32) -> u64) {
    let run = start(name, Network::that_can_be_cut());
    let mut times = Times::default();
    for _ in 0..setting::cycles(2) {
        let id = run.leaders()[&0];
        let at_us = cut(&run, id);
        for micros in run.wait_recovery(at_us).into_values() {
            times.add(micros);
        }
        run.cluster.heal();
        run.wait_acks(500);
        run.wait_in_sync();
    }
    run.finish();
    eprintln!("{name}: first acknowledgement in each partition after the cut: {times}");
}

#[test]
fn a_leader_cut_off_both_ways_acknowledges_nothing_that_is_lost() {
    cut_off_the_leader("a leader cut off both ways", |run, id| run.cluster.isolate(id));
}

#[test]
fn a_leader_that_hears_nobody_acknowledges_nothing_that_is_lost() {
    cut_off_the_leader("a leader that hears nobody", |run, id| run.cluster.deafen(id));
}

#[test]
fn a_leader_that_nobody_hears_acknowledges_nothing_that_is_lost() {
    cut_off_the_leader("a leader that nobody hears", |run, id| run.cluster.mute(id));
}

#[test]
fn a_cut_between_two_brokers_that_both_reach_the_third_stops_nobody_for_long() {
    let run = start("two brokers that do not reach each other", Network::that_can_be_cut());
    let leader = run.leaders()[&0];
    let other = run.cluster.ids().into_iter().find(|id| *id != leader).expect("three brokers");
    run.cluster.cut(leader, other);
    let at_us = run.cluster.cut(other, leader);
    run.wait_recovery(at_us);
    run.let_run(Duration::from_secs(5));
    run.finish();
}

#[test]
fn flapping_reset_and_slow_links_lose_nothing() {
    let run = start("flapping, reset and slow links", Network::Proxied);
    let id = run.leaders()[&0];
    for _ in 0..setting::cycles(3) {
        run.cluster.isolate(id);
        run.let_run(Duration::from_secs(1));
        run.cluster.heal();
        run.let_run(Duration::from_secs(1));
        run.cluster.reset(id);
    }
    let slow = Weather { delay: Duration::from_millis(20), ..Weather::default() };
    let healed_us = run.cluster.weather_around(id, slow);
    run.wait_recovery(healed_us);
    run.let_run(Duration::from_secs(3));
    run.finish();
}

/// Catches: a voter that campaigns for as long as it is cut off, and whose high term makes the others elect anew when it is
/// back.
#[test]
fn a_voter_that_is_cut_off_leaves_the_term_as_it_was() {
    let run = start("a voter cut off from the others", Network::that_can_be_cut());
    for _ in 0..setting::cycles(1) {
        let controller = run.controller();
        let id = run.cluster.ids().into_iter().find(|id| *id != controller).expect("three brokers");
        let term = || wait_for(PATIENCE, || run.cluster.metric(id, "streambus_metadata_term")).expect("it answers");
        let cut_us = run.cluster.isolate(id);
        // What it was told until now; nobody tells it anything any more.
        let before = term();
        run.wait_recovery(cut_us);
        run.let_run(Duration::from_secs(6));
        assert!((term() - before).abs() < 0.5, "it was in term {before} and is in term {}", term());
        let healed_us = run.cluster.heal();
        run.wait_recovery(healed_us);
        run.wait_in_sync();
    }
    run.finish();
}
