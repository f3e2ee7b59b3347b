//! Whole brokers in one simulation: their listeners, protocol, replication, partitions, store and openraft run unchanged
//! on simulated time, network and disks, with real clients, and one seed decides everything.
//!
//! A run is a process of its own, because a process holds what outlives a run: counters, keys, registries. It writes its
//! trace; the tests here start it, and compare and judge. Every runtime is turmoil's, `start_paused`: waiting costs no time
//! and decides nothing by luck.
//!
//! `STREAMBUS_SEED` is the first seed, `STREAMBUS_SIM_SEEDS` how many follow, `STREAMBUS_SIM_SECONDS` how long faults last
//! in each. What is cut and what is not covered: docs/adr/0009-simulating-whole-brokers.md.

mod child;
mod disks;
mod entropy;
mod fault;
mod forgetful;
mod load;
mod machine;
mod network;
mod operator;
mod plant;
mod snapshot_files;
mod trace;
mod world;

use std::time::Duration;

use streambus_tests::setting::{number, seed};

use crate::child::{Finished, run};
use crate::machine::Compaction;
use crate::plant::Plant;

/// How long faults last in a run, in simulated seconds.
fn seconds() -> u64 {
    number("STREAMBUS_SIM_SECONDS", 12)
}

/// The run itself, when a test here has started this process for it; else one run of the first seed.
#[test]
fn one_run() {
    if let Some(order) = child::order() {
        child::obey(&order);
        return;
    }
    let finished = run(seed(), seconds(), Plant::None);
    eprintln!("{}", finished.summary);
    finished.assert_sound();
}

#[test]
fn the_same_seed_twice_is_the_same_trace() {
    for seed in seed()..seed() + number("STREAMBUS_SIM_TWICE", 2) {
        let (one, other) = (run(seed, seconds(), Plant::None), run(seed, seconds(), Plant::None));
        assert!(one.trace.lines().count() > 1_000, "a trace of {} lines shows nothing", one.trace.lines().count());
        if let Some(difference) = one.difference(&other) {
            panic!("seed {seed} differs from its repetition at {difference}");
        }
    }
}

/// Catches a comparison that would pass whatever the runs do, and a seed that is not what decides.
#[test]
fn another_seed_and_foreign_randomness_differ() {
    let one = run(seed(), 1, Plant::None);
    assert!(one.difference(&run(seed() + 1, 1, Plant::None)).is_some(), "another seed is another run");
    let loose = [run(seed(), 1, Plant::Undetermined), run(seed(), 1, Plant::Undetermined)];
    assert!(loose[0].difference(&loose[1]).is_some(), "randomness of the system's shows in the trace");
}

#[test]
fn nothing_acknowledged_is_lost_whatever_happens() {
    let count = number("STREAMBUS_SIM_SEEDS", 20);
    let results = child::run_all((seed()..seed() + count).collect(), seconds(), Plant::None);
    let simulated: Duration = results.iter().map(|finished| finished.simulated).sum();
    for finished in &results {
        eprintln!("{}", finished.summary);
    }
    let cpu: Duration = results.iter().map(|finished| finished.cpu).sum();
    let factor = simulated.as_secs_f64() / cpu.as_secs_f64().max(0.001);
    eprintln!(
        "{:.0} simulated seconds in {:.1} of the processor: {factor:.1} times",
        simulated.as_secs_f64(),
        cpu.as_secs_f64()
    );
    results.iter().for_each(Finished::assert_sound);
    assert_metadata_was_compacted(&results);
}

/// Catches: runs in which every broker finds all of the metadata's log at its controller. They would show nothing about
/// snapshots, and nobody would notice.
fn assert_metadata_was_compacted(results: &[Finished]) {
    /// Among so many seeds one has a broker that must be given a snapshot.
    const SEEDS_ENOUGH: usize = 10;
    let all = |count: fn(&Compaction) -> u64| results.iter().map(|finished| count(&finished.compaction)).sum::<u64>();
    let (built, installed, purged) = (all(|c| c.built), all(|c| c.installed), all(|c| c.purged));
    let torn = all(|c| c.torn);
    eprintln!(
        "metadata: {built} snapshots written, {installed} given to others, logs shortened {purged} times, {torn} snapshots torn"
    );
    let is_enough = results.len() >= SEEDS_ENOUGH;
    assert!(!is_enough || (built > 0 && purged > 0), "no broker let go of the beginning of the metadata's log");
    assert!(!is_enough || installed > 0, "no broker was given a snapshot of the metadata");
    assert!(!is_enough || torn > 0, "no power cut came while a snapshot of the metadata was written");
}

fn is_caught(plant: Plant) {
    const SEEDS_MAX: u64 = 20;
    for seed in 1..=SEEDS_MAX {
        let finished = run(seed, seconds(), plant);
        if let Some(problem) = finished.problems.first() {
            eprintln!("{plant:?} was caught by seed {seed}: {problem}");
            return;
        }
    }
    panic!("{plant:?} was not caught by {SEEDS_MAX} seeds");
}

#[test]
fn records_acknowledged_before_their_sync_are_caught() {
    is_caught(Plant::AckBeforeSync);
}

#[test]
fn forgotten_votes_are_caught() {
    is_caught(Plant::ForgottenVotes);
}

#[test]
fn snapshots_that_are_never_synced_are_caught() {
    is_caught(Plant::UnsyncedSnapshots);
}

#[test]
fn stops_without_a_hand_over_are_caught() {
    is_caught(Plant::StopWithoutHandOver);
}

#[test]
fn an_emptied_disk_that_nobody_notices_is_caught() {
    is_caught(Plant::UnnoticedLossOfRecords);
}

/// A full disk refuses by the same ways as a failing one: who did not look at one answer would not look at the other.
#[test]
fn write_errors_that_nobody_notices_are_caught() {
    is_caught(Plant::UnnoticedWriteErrors);
}
