//! Mistakes that lose what was acknowledged when processes die.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use streambus_planted::Defect;
use streambus_tests::checker::Violation;
use streambus_tests::cluster::Network;
use streambus_tests::load::LoadOptions;

use crate::{Scenario, is_found};

/// All three die at once: what was acknowledged and is on no disk is gone.
pub(crate) fn ack_before_sync() -> Scenario {
    Scenario {
        defect: Defect::AckBeforeSync,
        network: Network::Direct,
        load: LoadOptions::default(),
        hurt: |run, seed| {
            let mut random = StdRng::seed_from_u64(seed);
            run.let_run(Duration::from_millis(random.random_range(300..900)));
            run.cluster.kill_all();
            let started_us = run.cluster.recorder().fault("all three are started again");
            for id in run.cluster.ids() {
                run.cluster.start_broker(id);
            }
            run.wait_recovery(started_us);
        },
        is_it: |violation| matches!(violation, Violation::Lost { .. }),
    }
}

/// One replica of three dies while the topic demands all three.
pub(crate) fn watermark_below_min_isr() -> Scenario {
    Scenario {
        defect: Defect::WatermarkBelowMinIsr,
        network: Network::Direct,
        load: LoadOptions { min_isr: Some(3), ..LoadOptions::default() },
        hurt: |run, seed| {
            let ids = run.cluster.ids();
            let victim = ids[StdRng::seed_from_u64(seed).random_range(0..ids.len())];
            run.cluster.kill_nine(victim);
            // Longer than a session: the in-sync sets shrink, and a healthy leader takes nothing.
            run.let_run(Duration::from_secs(4));
            let started_us = run.cluster.recorder().fault(format!("broker {victim} is started again"));
            run.cluster.start_broker(victim);
            run.wait_recovery(started_us);
        },
        is_it: |violation| matches!(violation, Violation::TooFewReplicas { .. }),
    }
}

#[test]
fn an_acknowledgement_before_the_sync_is_found() {
    is_found(Defect::AckBeforeSync);
}

#[test]
fn a_commit_below_min_isr_is_found() {
    is_found(Defect::WatermarkBelowMinIsr);
}
