//! Mistakes about damaged disks.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use streambus_planted::Defect;
use streambus_tests::checker::Violation;
use streambus_tests::cluster::Network;
use streambus_tests::damage::flip_a_bit;
use streambus_tests::load::LoadOptions;

use crate::{Scenario, is_found};

/// All three die, a bit of one disk flips well below its end, and that broker comes back before another, so that it may
/// be the last that is thought to hold everything. It must not lead with what is left. The operator then empties the
/// damaged disk.
pub(crate) fn corruption_as_end() -> Scenario {
    Scenario {
        defect: Defect::CorruptionAsEnd,
        network: Network::Direct,
        load: LoadOptions::default(),
        hurt: |run, seed| {
            let mut random = StdRng::seed_from_u64(seed);
            let ids = run.cluster.ids();
            let damaged = ids[random.random_range(0..ids.len())];
            run.wait_acks(1_000);
            run.cluster.kill_all();
            let what = flip_a_bit(run.cluster.data(damaged), random.random_range(0.3..0.7));
            run.cluster.recorder().fault(format!("a bit of broker {damaged} flips in {what}"));
            let last = ids.into_iter().rfind(|id| *id != damaged).expect("three brokers");
            for id in run.cluster.ids().into_iter().filter(|id| *id != last) {
                run.cluster.start_broker(id);
            }
            // Long enough for the two to register and be given leaderships, if they may have any.
            run.let_run(Duration::from_secs(3));
            let started_us = run.cluster.recorder().fault(format!("broker {last} starts last"));
            run.cluster.start_broker(last);
            run.wait_recovery(started_us);
            run.cluster.kill_nine(damaged);
            run.cluster.wipe(damaged);
        },
        is_it: |violation| matches!(violation, Violation::Lost { .. }),
    }
}

#[test]
fn damage_taken_for_the_end_is_found() {
    is_found(Defect::CorruptionAsEnd);
}
