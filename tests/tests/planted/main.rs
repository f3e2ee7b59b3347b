//! The checker is tested too: three real brokers of `streambus-planted`, each with the same known mistake in it, must be
//! found out by the judge within a few seeds, on a schedule that the healthy program survives. `STREAMBUS_PLANTED_SEEDS`
//! says how many seeds; `make planted` builds the program. `STREAMBUS_EVIDENCE` names a folder that gets the smallest part
//! of each history that still shows the mistake.

mod binary;
mod crash;
mod damage;
mod failover;
mod lying_disk;
mod metadata;

use std::path::Path;

use streambus_planted::Defect;
use streambus_tests::checker::Violation;
use streambus_tests::cluster::{Network, Options};
use streambus_tests::evidence::Evidence;
use streambus_tests::load::LoadOptions;
use streambus_tests::process::Program;
use streambus_tests::run::{Judged, Report, Run};
use streambus_tests::setting;

/// A schedule of faults that brings one mistake to light.
struct Scenario {
    defect: Defect,
    network: Network,
    load: LoadOptions,
    /// What is done to the cluster. With a planted defect it may find the cluster in any state: it must not wait for what
    /// only a healthy one does.
    hurt: fn(&mut Run, u64),
    /// Whether this is what the mistake leads to.
    is_it: fn(&Violation) -> bool,
}

/// Every defect has a scenario: the match must name it.
fn scenario(defect: Defect) -> Scenario {
    match defect {
        Defect::AckBeforeSync => crash::ack_before_sync(),
        Defect::TruncateToWatermark => failover::truncate_to_watermark(),
        Defect::ForgottenVote => metadata::forgotten_vote(),
        Defect::DedupeLostOnFailover => failover::dedupe_lost(),
        Defect::CorruptionAsEnd => damage::corruption_as_end(),
        Defect::WatermarkBelowMinIsr => crash::watermark_below_min_isr(),
        Defect::StaleEpochCommit => failover::stale_epoch_commit(),
    }
}

fn judge(scenario: &Scenario, program: Program, seed: u64) -> Judged {
    let name = match program {
        Program::Planted(Some(defect)) => format!("planted {}", defect.name()),
        Program::Planted(None) | Program::Shipped => format!("the schedule of {}", scenario.defect.name()),
    };
    let options = Options { network: scenario.network, program, ..Options::default() };
    let mut run = Run::start(&name, &options, &scenario.load);
    (scenario.hurt)(&mut run, seed);
    let patience = match program {
        Program::Shipped | Program::Planted(None) => streambus_tests::cluster::PATIENCE,
        // What a mistake has broken does not heal: no use in waiting long.
        Program::Planted(Some(_)) => std::time::Duration::from_secs(20),
    };
    run.judge(patience)
}

/// The mistake is found within a few seeds, and not found where it is not.
fn is_found(defect: Defect) {
    let scenario = scenario(defect);
    let seeds = setting::number("STREAMBUS_PLANTED_SEEDS", 40);
    let first = setting::seed();
    let caught = (first..first + seeds).find_map(|seed| {
        let judged = judge(&scenario, Program::Planted(Some(defect)), seed);
        let found = judged.violations.iter().find(|violation| (scenario.is_it)(violation)).cloned();
        if found.is_none() {
            eprintln!("seed {seed} did not show {}; it showed\n{}", defect.name(), judged.shown());
        }
        if found.is_some()
            && let Some(folder) = std::env::var_os("STREAMBUS_EVIDENCE")
        {
            let Report { events, read, .. } = judged.report;
            let min_isr = scenario.load.min_isr.unwrap_or(2);
            let evidence = Evidence { events, read }.reduced(min_isr, scenario.is_it);
            let file = Path::new(&folder).join(format!("{}.jsonl", defect.name()));
            std::fs::write(file, evidence.to_text()).expect("the evidence can be written");
        }
        found.map(|violation| (seed, violation))
    });
    let Some((seed, violation)) = caught else { panic!("{} was not found within {seeds} seeds", defect.name()) };
    eprintln!("{}: found with seed {seed}, after {} seed(s): {violation}", defect.name(), seed - first + 1);
    judge(&scenario, Program::Shipped, seed).expect_clean();
}
