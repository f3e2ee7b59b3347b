//! Power cuts: every broker on a file system of its own, whose unsynced bytes are gone after a cut. Each cut proves that
//! it lost something (`loop_disk`).

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use std::time::Duration;
use streambus_tests::cluster::{Disks, FirstToGo, Options};
use streambus_tests::load::LoadOptions;
use streambus_tests::loop_disk;
use streambus_tests::measure::Times;
use streambus_tests::run::Run;
use streambus_tests::setting;

const MIB: u64 = 1 << 20;

/// Brokers on disks that are small but hold a run of so many cuts, with segments small enough to be sealed often.
fn options(brokers: u32, cuts: u64) -> Options {
    let disks = Disks::default().loops(512 * MIB + cuts * 64 * MIB);
    Options { brokers, disks, ..Options::default() }.with_small_segments().with_small_reserve()
}

fn first_to_go(random: &mut StdRng) -> FirstToGo {
    *[FirstToGo::Disk, FirstToGo::Process].choose(random).expect("one of two")
}

/// Cuts the power of `victims` of each cycle at a random moment under load, and starts them again; then judges.
fn cut_in_a_loop(name: &str, cycles: u64, victims: impl Fn(&Run, &mut StdRng) -> Vec<u32>) {
    if !loop_disk::available(name) {
        return;
    }
    let cycles = setting::cycles(cycles);
    let mut random = StdRng::seed_from_u64(setting::seed());
    let mut run = Run::start(name, &options(3, cycles), &LoadOptions::default());
    let mut times = Times::default();
    for _ in 0..cycles {
        run.wait_acks(random.random_range(100..1_500));
        let ids = victims(&run, &mut random);
        let first = first_to_go(&mut random);
        run.cluster.cut_power(&ids, first);
        let started_us = run.cluster.recorder().fault("power is back");
        for id in &ids {
            run.cluster.start_broker(*id);
        }
        for micros in run.wait_recovery(started_us).into_values() {
            times.add(micros);
        }
        for id in ids {
            run.cluster.wait_ready(id);
        }
        run.wait_in_sync();
    }
    run.finish();
    eprintln!("{name}: {cycles} cuts survived; first acknowledgement after power was back: {times}");
}

#[test]
fn cutting_the_power_of_the_leader_loses_nothing() {
    cut_in_a_loop("power cut of a leader", 2, |run, _| vec![*run.leaders().values().next().expect("a partition")]);
}

#[test]
fn cutting_the_power_of_two_of_three_loses_nothing() {
    cut_in_a_loop("power cut of two at once", 2, |run, random| {
        let spared = run.cluster.ids()[random.random_range(0..3)];
        run.cluster.ids().into_iter().filter(|id| *id != spared).collect()
    });
}

#[test]
fn cutting_the_power_of_all_three_loses_nothing() {
    cut_in_a_loop("power cut of all three at once", 4, |run, _| run.cluster.ids());
}

#[test]
fn cutting_the_power_again_while_brokers_recover_loses_nothing() {
    let name = "power cut of all three during recovery";
    if !loop_disk::available(name) {
        return;
    }
    let cycles = setting::cycles(2);
    let mut random = StdRng::seed_from_u64(setting::seed());
    let mut run = Run::start(name, &options(3, 4 * cycles), &LoadOptions::default());
    for _ in 0..cycles {
        run.wait_acks(random.random_range(100..1_500));
        let ids = run.cluster.ids();
        for _ in 0..3 {
            let first = first_to_go(&mut random);
            run.cluster.cut_power(&ids, first);
            for id in &ids {
                run.cluster.start_broker(*id);
            }
            // Any moment between the first system call of the processes and the end of their recovery.
            run.let_run(Duration::from_millis(random.random_range(0..400)));
        }
        let started_us = run.cluster.recorder().fault("power stays");
        run.wait_recovery(started_us);
        for id in ids {
            run.cluster.wait_ready(id);
        }
        run.wait_in_sync();
    }
    run.finish();
}

/// Issue 7567 of a widely used message broker, as a script: two of five stand still, a third loses its power, the two come
/// back while the other two stand still. What the third forgot must not make a quorum with the two that missed it.
#[test]
fn a_power_cut_between_pauses_of_both_halves_splits_nothing() {
    let name = "pauses of both halves around a power cut";
    if !loop_disk::available(name) {
        return;
    }
    let mut random = StdRng::seed_from_u64(setting::seed());
    let cycles = setting::cycles(1);
    let mut run = Run::start(name, &options(5, cycles), &LoadOptions::default());
    for _ in 0..cycles {
        let mut ids = run.cluster.ids();
        let turn = random.random_range(0..ids.len());
        ids.rotate_left(turn);
        let [n1, n2, n3, n4, n5] = ids[..] else { panic!("five brokers") };
        run.cluster.pause(n1);
        run.cluster.pause(n2);
        // Long enough that the rest acknowledges alone.
        run.let_run(Duration::from_millis(random.random_range(500..4_000)));
        let first = first_to_go(&mut random);
        run.cluster.cut_power(&[n3], first);
        run.cluster.start_broker(n3);
        run.cluster.pause(n4);
        run.cluster.pause(n5);
        run.cluster.resume(n1);
        run.cluster.resume(n2);
        // Longer than a session: the three that run may elect and acknowledge what they can.
        run.let_run(Duration::from_secs(4));
        run.cluster.resume(n4);
        let healed_us = run.cluster.resume(n5);
        run.wait_recovery(healed_us);
        run.cluster.wait_ready(n3);
        run.wait_in_sync();
    }
    run.finish();
}
