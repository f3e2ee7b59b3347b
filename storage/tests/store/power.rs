//! Power cuts, by the hundred: each during a chosen change of the disk.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use streambus_storage::disk::faulty::Fault;

use crate::model::Pair;

/// Power cuts per run of the suite; a soak sets `STREAMBUS_POWER_CUTS` higher, and other seeds by `STREAMBUS_FIRST_SEED`.
const POWER_CUTS: u64 = 3_000;
/// A seed that once found something: a truncation that was kept whole around a copy of what an earlier one had ended.
const FOUND: u64 = 9_000_962;

// Catches an acknowledgement before the sync, a checkpoint written before what it includes, an index trusted beyond its
// last flush, a recycled segment that recovery still needs.
#[test]
fn no_acknowledged_batch_is_lost_in_any_power_cut() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let wanted = number("STREAMBUS_POWER_CUTS").unwrap_or(POWER_CUTS);
    let (mut cuts, mut seed) = (0, number("STREAMBUS_FIRST_SEED").unwrap_or(0));
    let (mut copied_bytes, mut records_removed) = (0, 0);
    run(FOUND);
    while cuts < wanted {
        seed += 1;
        let pair = run(seed);
        cuts += pair.crashes;
        copied_bytes += pair.copied_bytes;
        records_removed += pair.records_removed;
    }
    eprintln!("{cuts} power cuts, {copied_bytes} bytes copied, {records_removed} records removed");
    assert!(copied_bytes > 0 && records_removed > 0, "compaction was never under way");
}

/// A life with several cuts.
fn run(seed: u64) -> Pair {
    let mut random = SmallRng::seed_from_u64(seed ^ 0x5eed);
    let mut pair = Pair::new(seed);
    for _ in 0..6 {
        let at = pair.world.disk.counters().mutations + random.random_range(1..60);
        pair.world.disk.plan(if random.random_bool(0.8) {
            Fault::PowerCutAtMutation(at)
        } else {
            Fault::KillAtMutation(at)
        });
        for _ in 0..400 {
            pair.operate();
            if !pair.world.disk.is_running() {
                break;
            }
        }
        pair.crash();
    }
    assert!(pair.crashes > 0, "seed {seed}");
    pair
}
