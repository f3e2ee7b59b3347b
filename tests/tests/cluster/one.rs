//! The same proof on a cluster of one: what holds without replication too.

use std::time::Duration;

use streambus_tests::cluster::{Network, Options};
use streambus_tests::load::LoadOptions;
use streambus_tests::measure::Times;
use streambus_tests::run::Run;
use streambus_tests::setting;

#[test]
fn a_single_broker_killed_under_load_loses_nothing_and_its_watermarks_never_go_back() {
    let name = "kill -9 of a single broker";
    let mut run = Run::start(name, &Options { brokers: 1, ..Options::default() }, &LoadOptions::default());
    let mut times = Times::default();
    for _ in 0..setting::cycles(2) {
        run.wait_acks(500);
        let at_us = run.cluster.kill_nine(1);
        run.cluster.start_broker(1);
        for micros in run.wait_recovery(at_us).into_values() {
            times.add(micros);
        }
        run.cluster.wait_ready(1);
    }
    let report = run.finish();
    assert_eq!(report.refused, 0, "a client gave up within its patience");
    eprintln!("{name}: first acknowledgement after kill -9 and start: {times}");
}

#[test]
fn clients_that_are_cut_off_from_a_broker_for_a_while_carry_on() {
    let name = "clients cut off from a broker";
    let network = Network::that_can_be_cut();
    if network != Network::Namespaces {
        eprintln!("{name}: NOT RUN, it needs STREAMBUS_NETWORK=namespaces and root");
        return;
    }
    let run = Run::start(name, &Options { brokers: 1, network, ..Options::default() }, &LoadOptions::default());
    let mut times = Times::default();
    for _ in 0..setting::cycles(2) {
        run.cluster.hide_from_clients(1);
        run.let_run(Duration::from_secs(3));
        let healed_us = run.cluster.heal();
        for micros in run.wait_recovery(healed_us).into_values() {
            times.add(micros);
        }
        run.wait_acks(200);
    }
    let report = run.finish();
    assert_eq!(report.refused, 0, "a client gave up within its patience");
    eprintln!("{name}: first acknowledgement after the network was whole: {times}");
}
