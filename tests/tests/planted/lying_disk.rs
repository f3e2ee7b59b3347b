//! A machine with a mistake: syncs of the journal do nothing and say that they succeeded, then the power is cut. The
//! broker is as it is shipped. What proves that a power cut loses nothing must be able to see one that does.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use streambus_tests::checker::Violation;
use streambus_tests::cluster::{Disks, FirstToGo, Options};
use streambus_tests::load::LoadOptions;
use streambus_tests::loop_disk;
use streambus_tests::run::{Judged, Run};
use streambus_tests::setting;
use streambus_tests::shim::Rule;

const DISK_BYTES: u64 = 512 << 20;
/// What is lost does not come back: no use in waiting long for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// All three brokers lose their power, and get it back.
fn cut(name: &str, seed: u64, lies: bool) -> Judged {
    let mut random = StdRng::seed_from_u64(seed);
    let settings = ["storage.disk_reserve_bytes=16MiB", "storage.disk_reserve_percent=1%"].map(str::to_owned).to_vec();
    let disks = Disks::default().loops(DISK_BYTES).shimmed_page_cache();
    let mut run = Run::start(name, &Options { disks, settings, ..Options::default() }, &LoadOptions::default());
    let ids = run.cluster.ids();
    if lies {
        for id in &ids {
            run.cluster.fail_calls(*id, 0, &Rule::unsynced("/journal-"));
        }
    }
    run.wait_acks(random.random_range(300..1_500));
    run.cluster.cut_power(&ids, FirstToGo::Process);
    for id in ids {
        run.cluster.start_broker(id);
    }
    run.judge(PATIENCE)
}

#[test]
fn a_disk_that_lies_about_its_syncs_is_found() {
    let name = "journal syncs that do nothing, and a power cut";
    if !loop_disk::available(name) {
        return;
    }
    let (first, seeds) = (setting::seed(), setting::number("STREAMBUS_PLANTED_SEEDS", 10));
    for seed in first..first + seeds {
        let judged = cut(name, seed, true);
        let Some(lost) = judged.violations.iter().find(|violation| matches!(violation, Violation::Lost { .. })) else {
            eprintln!("seed {seed} did not show it; it showed\n{}", judged.shown());
            continue;
        };
        eprintln!("lying disks: found with seed {seed}, after {} seed(s): {lost}", seed - first + 1);
        drop(judged);
        cut("the same with syncs that are some", seed, false).expect_clean();
        return;
    }
    panic!("no power cut in {seeds} seeds lost anything although nothing was synced");
}
