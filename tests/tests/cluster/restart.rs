//! Planned restarts under load, and a broker that comes back with an empty disk.

use streambus_tests::cluster::Options;
use streambus_tests::load::LoadOptions;
use streambus_tests::measure::{Times, longest_silence_us};
use streambus_tests::run::Run;
use streambus_tests::setting;

#[test]
fn a_rolling_restart_under_load_is_no_error_of_any_client() {
    let name = "rolling restart with SIGTERM";
    // As a StatefulSet does it: numbered from zero, the highest number first, each ready before the next.
    let mut run = Run::start(name, &Options { first_id: 0, ..Options::default() }, &LoadOptions::default());
    let mut times = Times::default();
    for _ in 0..setting::cycles(1) {
        for id in run.cluster.ids().into_iter().rev() {
            let before = run.cluster.recorder().events().len();
            let status = run.cluster.terminate(id);
            assert!(status.success(), "the drain of broker {id} ends with {status}");
            run.wait_acks(200);
            run.cluster.start_broker(id);
            run.cluster.wait_ready(id);
            run.wait_in_sync();
            run.wait_acks(500);
            times.add(longest_silence_us(&run.cluster.recorder().events()[before..]));
        }
    }
    let report = run.finish();
    eprintln!("{name}: longest silence of a partition for each restart: {times}");
    assert_eq!((report.refused, report.history.unknown()), (0, 0), "a planned restart is no error of a client");
}

#[test]
fn an_emptied_disk_rejoins_by_itself() {
    let name = "an emptied disk";
    let mut run = Run::start(name, &Options::default(), &LoadOptions::default());
    for cycle in 0..setting::cycles(1) {
        let id = run.cluster.ids()[(setting::seed() + cycle) as usize % 3];
        let at_us = run.cluster.kill_nine(id);
        run.wait_recovery(at_us);
        run.cluster.wipe(id);
        run.cluster.start_broker(id);
        run.cluster.wait_ready(id);
        run.wait_in_sync();
        // What it copied must carry the cluster when another one dies.
        let other = run.cluster.ids().into_iter().find(|other| *other != id).expect("three brokers");
        let at_us = run.cluster.kill_nine(other);
        run.wait_recovery(at_us);
        run.cluster.start_broker(other);
        run.cluster.wait_ready(other);
        run.wait_in_sync();
    }
    run.finish();
}

// Catches a broker that knows of the controller only where that will be, and cannot start while it is not there yet; and one
// that has moved and is looked for where it was.
#[test]
fn a_broker_moves_to_another_address() {
    let mut run = Run::start("a broker moves to another address", &Options::default(), &LoadOptions::default());
    for _ in 0..setting::cycles(1) {
        run.wait_in_sync();
        // Whoever starts must reach this one before it takes part.
        let moving = run.controller();
        run.cluster.move_at_next_start(moving);
        let others = run.cluster.ids().into_iter().filter(|id| *id != moving);
        for id in others.chain([moving]).collect::<Vec<_>>() {
            assert!(run.cluster.terminate(id).success(), "a drain ends well");
            let back_us = run.cluster.recorder().fault(format!("broker {id} is started again"));
            run.cluster.start_broker(id);
            run.cluster.wait_ready(id);
            run.wait_recovery(back_us);
            run.wait_in_sync();
        }
    }
    let report = run.finish();
    assert_eq!(report.refused, 0, "a planned restart is no error of a client");
}
