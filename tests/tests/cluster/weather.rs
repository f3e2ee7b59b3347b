//! Links that are lossy, late, narrow, or come and go: the network between the brokers as it is on a bad day.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use streambus_tests::cluster::{Network, Options, Weather};
use streambus_tests::load::LoadOptions;
use streambus_tests::run::Run;
use streambus_tests::setting;

const MS: Duration = Duration::from_millis(1);

fn start(name: &str, network: Network) -> Run {
    let name = format!("{name} ({network:?})");
    Run::start(&name, &Options { network, ..Options::default() }, &LoadOptions::default())
}

#[test]
fn lost_doubled_and_overtaken_packets_lose_no_record() {
    let name = "lost, doubled and overtaken packets";
    let Some(network) = Network::of_packets(name) else { return };
    let mut random = StdRng::seed_from_u64(setting::seed());
    let run = start(name, network);
    for _ in 0..setting::cycles(1) {
        let lost = *[10, 50, 100].choose(&mut random).expect("three");
        let weather = Weather { lost, doubled: 50, overtaken: 50, jitter: 5 * MS, ..Weather::default() };
        let begun_us = run.cluster.weather_everywhere(weather);
        for id in run.cluster.ids() {
            run.cluster.weather_for_clients(id, weather);
        }
        run.wait_recovery(begun_us);
        run.wait_acks(500);
        // A third of everything on one broker's links: it may drop out, the others go on.
        let id = *run.cluster.ids().choose(&mut random).expect("three brokers");
        let begun_us = run.cluster.weather_around(id, Weather { lost: 300, ..weather });
        run.wait_recovery(begun_us);
        run.let_run(Duration::from_secs(5));
        let healed_us = run.cluster.heal();
        run.wait_recovery(healed_us);
        run.wait_in_sync();
    }
    run.finish();
}

#[test]
fn a_leader_that_packets_no_longer_reach_is_succeeded() {
    let name = "a leader that packets no longer reach";
    let Some(network) = Network::of_packets(name) else { return };
    let run = start(name, network);
    for _ in 0..setting::cycles(1) {
        let id = run.leaders()[&0];
        let cut_us = run.cluster.isolate(id);
        run.wait_recovery(cut_us);
        let healed_us = run.cluster.heal();
        run.wait_recovery(healed_us);
        run.wait_in_sync();
    }
    run.finish();
}

#[test]
fn late_links_and_a_narrow_one_delay_and_lose_nothing() {
    let mut random = StdRng::seed_from_u64(setting::seed());
    let network = Network::of_packets("late and narrow links, packet by packet").unwrap_or(Network::Proxied);
    let run = start("late and narrow links", network);
    for _ in 0..setting::cycles(1) {
        let late = random.random_range(10..80);
        let begun_us =
            run.cluster.weather_everywhere(Weather { delay: late * MS, jitter: late * MS, ..Weather::default() });
        run.wait_recovery(begun_us);
        run.wait_acks(500);
        // One broker behind a narrow link: whether it stays in sync or not, records are taken.
        let id = *run.cluster.ids().choose(&mut random).expect("three brokers");
        let narrow = Weather { bytes_per_second: Some(20_000), delay: 20 * MS, ..Weather::default() };
        let begun_us = run.cluster.weather_around(id, narrow);
        run.wait_recovery(begun_us);
        run.let_run(Duration::from_secs(5));
        run.cluster.heal();
        run.wait_in_sync();
    }
    let report = run.finish();
    assert_eq!(report.refused, 0, "a client gave up within its patience");
}

/// Links of random pairs and directions go down for a moment and come back, some of them reset; nothing is ever cut for as
/// long as a session.
#[test]
fn links_that_flap_every_few_hundred_milliseconds_lose_nothing() {
    let mut random = StdRng::seed_from_u64(setting::seed());
    let network = Network::that_can_be_cut();
    let run = start("flapping links", network);
    let before = run.wait_cluster("a controller", |cluster| cluster.controller.is_some()).metadata_term;
    for _ in 0..setting::cycles(2) {
        for _ in 0..12 {
            let ids = run.cluster.ids();
            let pair: Vec<u32> = ids.choose_multiple(&mut random, 2).copied().collect();
            run.cluster.cut(pair[0], pair[1]);
            if random.random() {
                run.cluster.cut(pair[1], pair[0]);
            }
            run.let_run(random.random_range(50..400) * MS);
            run.cluster.heal();
            if network == Network::Proxied && random.random_range(0..4) == 0 {
                run.cluster.reset(pair[0]);
            }
            run.let_run(random.random_range(20..300) * MS);
        }
        let healed_us = run.cluster.heal();
        run.wait_recovery(healed_us);
        run.wait_in_sync();
    }
    let term = run.wait_cluster("a controller", |cluster| cluster.controller.is_some()).metadata_term;
    eprintln!("flapping links: the controller's term rose by {}", term - before);
    run.finish();
}
