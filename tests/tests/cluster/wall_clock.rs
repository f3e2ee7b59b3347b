//! Wall clocks that jump by hours, forwards and backwards, on one broker or on all. They may move timestamps and what hangs
//! on them by definition (retention, forgetting silent producers); never who leads, what is acknowledged or its order.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use streambus_client::{Record, Start, Topic};
use streambus_tests::cluster::{Disks, Options, PATIENCE};
use streambus_tests::load::LoadOptions;
use streambus_tests::measure::Times;
use streambus_tests::run::Run;
use streambus_tests::setting;

const HOUR: Duration = Duration::from_secs(3_600);

/// Retention looks every second; what it may delete after the default seven days no jump of this test reaches.
fn options() -> Options {
    let settings = vec!["storage.retention_interval=1s".to_owned()];
    Options { disks: Disks::default().shimmed(), settings, ..Options::default() }
}

/// Less than a day either way: silent producers are remembered for one.
fn jump(random: &mut StdRng) -> (Duration, bool) {
    (HOUR * random.random_range(1..20), random.random())
}

#[test]
fn clocks_that_jump_by_hours_lose_nothing_and_move_no_leader() {
    let name = "wall clocks jump by hours";
    let mut random = StdRng::seed_from_u64(setting::seed());
    let run = Run::start(name, &options(), &LoadOptions::default());
    let leaders = run.leaders();
    for _ in 0..setting::cycles(2) {
        for id in run.cluster.ids() {
            let (by, is_ahead) = jump(&mut random);
            let at_us = run.cluster.shift_wall_clock(id, by, is_ahead);
            run.wait_recovery(at_us);
            run.wait_acks(random.random_range(100..500));
        }
    }
    assert_eq!(run.leaders(), leaders, "a leader moved because of a wall clock");
    check_that_brokers_saw_it(&run);
    let report = run.finish();
    assert_eq!((report.refused, report.history.unknown()), (0, 0), "a wall clock is no error of a client");
}

/// The time that the leader of a new topic stamps on a record is hours ahead when every broker's clock is.
fn check_that_brokers_saw_it(run: &Run) {
    for id in run.cluster.ids() {
        run.cluster.shift_wall_clock(id, HOUR * 10, true);
    }
    let stamp = |kind: &str| {
        run.ask(async |bus| {
            let topic = Topic::partitions(1).replicas(3).config("message.timestamp.type", kind);
            bus.admin().create_topic(kind, topic).timeout(PATIENCE).await.expect("a topic");
            bus.producer().send(Record::new(kind, "x")).await.expect("acknowledged");
            let consumer = bus.consumer([kind]).from(Start::Earliest).until_end().start().timeout(PATIENCE).await;
            consumer.expect("a consumer").next().await.expect("readable").expect("one record").timestamp.as_millis()
        })
    };
    // The client's clock did not jump.
    let (client, broker) = (stamp("CreateTime"), stamp("LogAppendTime"));
    let hours_ahead = Duration::from_millis(u64::try_from(broker - client).expect("ahead")).as_secs_f64() / 3_600.0;
    assert!((9.9..10.1).contains(&hours_ahead), "the brokers' clocks are {hours_ahead} h ahead of the client's");
}

#[test]
fn clocks_that_jump_while_brokers_die_lose_nothing() {
    let name = "wall clocks jump while brokers die";
    let mut random = StdRng::seed_from_u64(setting::seed());
    let mut run = Run::start(name, &options(), &LoadOptions::default());
    let mut times = Times::default();
    for _ in 0..setting::cycles(2) {
        let victim = run.leaders()[&0];
        for id in run.cluster.ids() {
            let (by, is_ahead) = jump(&mut random);
            run.cluster.shift_wall_clock(id, by, is_ahead);
        }
        let at_us = run.cluster.kill_nine(victim);
        // Back and forth while the others elect.
        for _ in 0..20 {
            let id = run.cluster.ids()[random.random_range(0..3)];
            let (by, is_ahead) = jump(&mut random);
            run.cluster.shift_wall_clock(id, by, is_ahead);
            run.let_run(Duration::from_millis(20));
        }
        for micros in run.wait_recovery(at_us).into_values() {
            times.add(micros);
        }
        run.cluster.start_broker(victim);
        run.cluster.wait_ready(victim);
        run.wait_in_sync();
    }
    run.finish();
    eprintln!("{name}: first acknowledgement after kill -9: {times}");
}
