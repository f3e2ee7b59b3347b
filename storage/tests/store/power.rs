//! Power cuts, by the hundred: each during a chosen change of the disk.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use streambus_protocol::topic_config::Durability;
use streambus_storage::config::StoreConfig;
use streambus_storage::disk::faulty::Fault;
use streambus_storage::error::AppendError;
use streambus_storage::partition_log::LogOptions;

use crate::model::Pair;
use crate::world::{Spec, World, batch, offset, partition, read_all, settle};

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

// Catches an async log whose acknowledged batches wait anywhere but for a commit, a queue that takes more than its limit, a
// commit that is written and not synced, and a cut that takes anything but the newest batches.
#[test]
fn an_async_log_loses_at_most_what_waits_for_a_commit() {
    let config = StoreConfig::tiny();
    let (group, queue) = (u64::from(config.group_bytes), u64::from(config.queue_bytes_max));
    assert!(config.batch_bytes_max < config.group_bytes, "no batch is a commit of its own here");
    let mut most = 0;
    for seed in 0..300 {
        let lost = lost_by_async(seed);
        // The commit that was being written and the queue behind it. No third group collects: one thread appends and steps.
        assert!(lost <= group + queue, "seed {seed} lost {lost} bytes of at most {group} + {queue}");
        most = most.max(lost);
    }
    assert!(most > queue, "the power never went while the queue was full: at most {most} bytes were lost");
}

/// A life of one async log, written to faster than its disk commits, up to a power cut. Returns the bytes of the acknowledged
/// batches that are gone.
fn lost_by_async(seed: u64) -> u64 {
    let mut random = SmallRng::seed_from_u64(seed ^ 0xa51c);
    let world = World::new(seed);
    let store = world.open();
    let options = LogOptions { durability: Durability::Async, ..LogOptions::default() };
    let log = store.create_log(partition(0), options).expect("created");
    settle(&store);
    world.disk.plan(Fault::PowerCutAtMutation(world.disk.counters().mutations + random.random_range(1..40)));
    let mut acknowledged = Vec::new();
    for salt in 0..5_000 {
        if !world.disk.is_running() {
            break;
        }
        let record_bytes = random.random_range(10..3_500);
        let next = batch(log.log_end(), &Spec { record_bytes, salt, ..Spec::default() });
        let bytes = next.as_bytes().clone();
        match log.append(next) {
            Ok(mut appended) => {
                assert_eq!(appended.durable.now(), Some(Ok(())), "an async log acknowledges at once");
                acknowledged.push(bytes);
            }
            // The disk does its part when it is asked to wait no longer, and now and then before.
            Err(AppendError::Busy { .. }) => drop(store.step()),
            Err(error) => panic!("seed {seed}: {error}"),
        }
        if random.random_bool(0.1) {
            store.step();
        }
    }
    assert!(!world.disk.is_running(), "seed {seed}: the power never went");
    drop((log, store));
    world.disk.restart();
    world.index.crash();
    let store = world.open();
    let log = store.log(partition(0)).expect("the log is there");
    let kept = read_all(&log).expect("what is left can be read");
    assert_eq!(log.log_start(), offset(0), "seed {seed}");
    assert_eq!(kept, acknowledged[..kept.len()], "seed {seed}: only the newest may be gone");
    acknowledged[kept.len()..].iter().map(|bytes| bytes.len() as u64).sum()
}
