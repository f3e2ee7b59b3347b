//! Loss of power, kills and decay: what was reported is found again, nothing is invented, nothing wrong is served.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::model::*;
use super::*;

/// One life after the other on one disk, each ended by a random cut or kill at a random change.
fn lives(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let config = JournalConfig {
        segment_bytes: 128 * 1024,
        group_bytes: 4096 * random.random_range(1..=2),
        queue_bytes_max: 8 * 1024,
        payload_bytes_max: 9000,
        ..small_config()
    };
    let faulty = FaultyDisk::new(Arc::new(disk()), seed);
    // Number -> payload of everything that must be found; and of what may be, because it was in flight.
    let mut reported: BTreeMap<Lsn, Bytes> = BTreeMap::new();
    let mut in_flight: BTreeMap<Lsn, Bytes> = BTreeMap::new();
    let mut recycled_below = SegmentId::new(1);
    for life in 0..random.random_range(2..5) {
        let (bench, found, report) = match Bench::try_open(Arc::new(faulty.clone()), &config) {
            Ok(opened) => opened,
            Err(_) if !faulty.is_running() => {
                faulty.restart();
                continue;
            }
            Err(error) => panic!("seed {seed} life {life}: {error}"),
        };
        assert_eq!(report.damaged, Vec::new(), "seed {seed} life {life}: a power cut is no damage");
        let found: BTreeMap<Lsn, Bytes> = found.into_iter().map(|entry| (entry.entry.lsn, entry.payload)).collect();
        for (lsn, payload) in &reported {
            assert_eq!(found.get(lsn), Some(payload), "seed {seed} life {life}: {lsn} was reported");
        }
        let mut extra: Vec<Lsn> = Vec::new();
        for (lsn, payload) in &found {
            if !reported.contains_key(lsn) {
                assert_eq!(in_flight.get(lsn), Some(payload), "seed {seed} life {life}: {lsn} is invented");
                extra.push(*lsn);
            }
        }
        let first_in_flight = in_flight.keys().next().copied();
        assert!(extra.first().is_none_or(|lsn| Some(*lsn) == first_in_flight), "seed {seed}: not a prefix");
        assert!(extra.windows(2).all(|pair| pair[0].next() == pair[1]), "seed {seed}: a hole in what was in flight");
        reported = found;
        in_flight.clear();

        let mut bench = bench;
        let changes = faulty.counters().mutations + random.random_range(1..60);
        let fault = if random.random_bool(0.5) { Fault::PowerCutAtMutation } else { Fault::KillAtMutation };
        faulty.plan(fault(changes));
        for _ in 0..300 {
            match random.random_range(0..10) {
                0..=5 => {
                    let _ = bench.try_append(random.random_range(0..4), random.random_range(27..9000));
                }
                6..=7 => {
                    bench.committer.step();
                }
                8 => {
                    bench.committer.zero_ahead();
                }
                _ => {
                    bench.committer.mark();
                }
            }
            let segments = bench.journal.segments();
            if segments.len() > 3 && random.random_bool(0.2) && bench.journal.recycle(segments[0].id).is_ok() {
                recycled_below = segments[0].id.next();
                let gone = bench.journal.segments()[0].base_lsn.expect("was written by this test");
                reported.retain(|lsn, _| *lsn >= gone);
            }
            if !faulty.is_running() {
                break;
            }
        }
        if faulty.is_running() {
            faulty.cut_power().expect("loses power");
        }
        let told = bench.observer.entries();
        for entry in &told {
            if entry.location.segment >= recycled_below {
                reported.insert(entry.lsn, bench.payload_of(entry.lsn));
            }
        }
        let last = told.last().map(|entry| entry.lsn);
        in_flight = bench.payloads.iter().filter(|(lsn, _)| Some(*lsn) > last).cloned().collect();
        drop(bench);
        faulty.restart();
        // A recycle that was cut may or may not have happened: then its entries may or may not be there.
        let present: Vec<SegmentId> = faulty
            .list(segment::SEGMENT_PREFIX)
            .expect("lists")
            .iter()
            .filter_map(|name| segment::segment_of_file_name(name))
            .collect();
        if present.first().is_some_and(|first| *first != recycled_below) {
            return;
        }
    }
}

/// Catches, among others: a torn commit replayed in part, acknowledged blocks rewritten, stale bytes of a recycled
/// file or of a torn commit resurrected, a segment that is lost because its name was not synced, a tail that was only
/// in the page cache.
#[test]
fn what_was_reported_survives_every_cut_and_kill() {
    let cases = std::env::var("JOURNAL_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(3000);
    for seed in 0..cases {
        lives(seed);
    }
}

/// Catches a recycled file whose old name comes back with new content. Every change around a reuse is cut.
#[test]
fn a_cut_around_recycling_is_no_damage() {
    for seed in 0..8 {
        for cut in 1..24 {
            let faulty = FaultyDisk::new(Arc::new(disk()), seed);
            let config = small_config();
            let mut bench = Bench::open(Arc::new(faulty.clone()), config.clone());
            while bench.journal.segments().len() < 3 {
                bench.append(1, 7000);
                bench.step_until_idle();
            }
            // Before the journal makes a spare file of its own, so that the recycled one is used next; and nothing syncs
            // the directory in between. Then up to where the roll is near.
            bench.journal.recycle(SegmentId::new(1)).expect("recycles");
            while bench.observer.entries().last().is_none_or(|last| last.location.position < 200_000) {
                bench.append(1, 7000);
                bench.step_until_idle();
            }
            faulty.plan(Fault::PowerCutAtMutation(faulty.counters().mutations + cut));
            for _ in 0..40 {
                let _ = bench.try_append(1, 7000);
                bench.committer.step();
                bench.committer.step();
            }
            let told = bench.observer.entries();
            drop(bench);
            faulty.restart();
            let (found, report) = recovered(&faulty, &config);
            assert_eq!(report.damaged, Vec::new(), "seed {seed} cut {cut}");
            let found: Vec<Lsn> = found.iter().map(|entry| entry.entry.lsn).collect();
            let kept = told.iter().filter(|entry| entry.location.segment >= SegmentId::new(2));
            assert!(kept.map(|entry| entry.lsn).all(|lsn| found.contains(&lsn)), "seed {seed} cut {cut}");
        }
    }
}

/// Catches a start that leaves the recovered tail without proof, so that decay in it looks like a torn write.
#[test]
fn a_start_proves_the_recovered_tail() {
    let memory = disk();
    let mut bench = Bench::open(Arc::new(memory.clone()), small_config());
    bench.append(1, 500);
    bench.step_until_idle();
    let last = bench.observer.entries()[0].location;
    drop(bench);
    let name = segment::segment_file_name(last.segment);
    let unproven = memory.snapshot();
    unproven.flip_bit(&name, u64::from(last.position) + 100, 0).expect("flips");
    let (found, report) = recovered(&unproven, &small_config());
    assert_eq!((found.len(), report.damaged.len()), (0, 0), "nothing tells it from a torn write");
    assert_eq!(report.torn_tail_bytes, 4096);
    assert_eq!(recovered(&memory, &small_config()).0.len(), 1);
    memory.flip_bit(&name, u64::from(last.position) + 100, 0).expect("flips");
    let (found, report) = recovered(&memory, &small_config());
    assert_eq!((found.len(), report.damaged.len()), (0, 1));
}

/// A small journal with a roll in it, closed in an orderly way; what it reported.
fn small_journal() -> (MemoryDisk, JournalConfig, Vec<CommittedEntry>, BTreeMap<Lsn, Bytes>) {
    let config = JournalConfig {
        segment_bytes: 80 * 1024,
        group_bytes: 4096,
        queue_bytes_max: 4096,
        payload_bytes_max: 4000,
        ..small_config()
    };
    let memory = disk();
    let mut bench = Bench::open(Arc::new(memory.clone()), config.clone());
    for round in 0..44 {
        bench.append(round % 3, 200);
        if round % 2 == 0 {
            bench.append(round % 3, 3500);
        }
        bench.append_entry(entry(9, round, b"a payload of the store")).expect("appends");
        bench.step_until_idle();
    }
    bench.finish();
    let payloads = bench.payloads.iter().cloned().collect();
    (memory, config, bench.observer.entries(), payloads)
}

fn check_flip(
    memory: &MemoryDisk,
    config: &JournalConfig,
    told: &[CommittedEntry],
    payloads: &BTreeMap<Lsn, Bytes>,
    what: &str,
) {
    let (found, report) = recovered(memory, config);
    let mut lost: Vec<Lsn> = told.iter().map(|entry| entry.lsn).collect();
    for entry in &found {
        assert_eq!(payloads.get(&entry.entry.lsn), Some(&entry.payload), "{what}: a wrong entry");
        let told = told.iter().find(|told| told.lsn == entry.entry.lsn).expect("was reported");
        assert_eq!(entry.entry, *told, "{what}: a wrong entry");
        lost.retain(|lsn| *lsn != entry.entry.lsn);
    }
    for lsn in lost {
        let named = |range: &DamagedRange| range.base_lsn <= lsn && range.next_lsn.is_none_or(|next| lsn < next);
        assert!(report.damaged.iter().any(named), "{what}: {lsn} vanished without a word: {report:?}");
    }
}

/// Catches any byte of a synced segment that no check covers. Every byte, one bit each, and every bit of the first
/// blocks.
#[test]
fn no_flipped_bit_goes_unnoticed() {
    let (memory, config, told, payloads) = small_journal();
    let names = memory.list(segment::SEGMENT_PREFIX).expect("lists");
    assert!(names.len() > 1, "the journal rolled");
    let mut noticed = 0;
    for name in &names {
        let content = memory.read_file(name).expect("reads");
        let used = content.iter().rposition(|byte| *byte != 0).expect("has a header") + 1;
        for position in 0..used {
            let bits: &[u8] =
                if position < 3 * 4096 && position % 4096 < 512 { &[0, 1, 2, 3, 4, 5, 6, 7] } else { &[3] };
            for bit in bits {
                // Copy-on-test: the recovery writes its marker.
                let copy = memory.snapshot();
                copy.flip_bit(name, position as u64, *bit).expect("flips");
                let what = format!("{name} byte {position} bit {bit}");
                check_flip(&copy, &config, &told, &payloads, &what);
                noticed += 1;
            }
        }
    }
    assert!(noticed > 50_000, "{noticed}");
}

/// Catches a damaged entry that takes its neighbours with it, or whose identity is not told.
#[test]
fn a_damaged_payload_costs_one_entry_and_is_named() {
    let (memory, config, told, payloads) = small_journal();
    let victim = told[4];
    let name = segment::segment_file_name(victim.location.segment);
    memory.flip_bit(&name, u64::from(victim.location.position) + 70, 0).expect("flips");
    let (found, report) = recovered(&memory.snapshot(), &config);
    assert_eq!(found.len() + 1, told.len());
    let [range] = report.damaged.as_slice() else { panic!("{report:?}") };
    assert_eq!(
        (range.position, range.length),
        (u64::from(victim.location.position), u64::from(victim.location.length))
    );
    assert_eq!(range.entry.map(|entry| (entry.log, entry.base)), Some((victim.log, victim.base)));
    check_flip(&memory, &config, &told, &payloads, "payload");
}

/// Catches a lost file that goes unnoticed, wherever it was.
#[test]
fn a_missing_segment_is_damage() {
    let (memory, config, told, payloads) = small_journal();
    let names = memory.list(segment::SEGMENT_PREFIX).expect("lists");
    assert!(names.len() >= 3);
    memory.remove(&names[1]).expect("removes");
    check_flip(&memory.snapshot(), &config, &told, &payloads, "a segment in the middle");
    let (memory, config, told, _) = small_journal();
    memory.remove(names.last().expect("exists")).expect("removes");
    let end = told.last().expect("exists").lsn.next();
    let from = RecoverFrom { segment: Some(SegmentId::new(1)), lsn: end, durable_below: end };
    let report = recovered_from(memory, &config, from);
    assert_eq!(report.damaged.len(), 1, "the caller's own number shows that the end is gone: {report:?}");
    assert_eq!(report.damaged[0].next_lsn, Some(from.lsn));
    assert!(report.next_lsn >= from.lsn, "lost numbers are not given out again");
}

fn recovered_from(memory: MemoryDisk, config: &JournalConfig, from: RecoverFrom) -> RecoveryReport {
    let latch = Arc::new(crate::latch::Latch::new(Arc::new(crate::clock::ManualClock::default())));
    let opened = Journal::open(Arc::new(memory), config.clone(), from, latch, &mut |_| ReplayDecision::Continue);
    opened.expect("opens").1
}

/// Catches decay in the last commit taken for a torn write although the caller knows that it was synced.
#[test]
fn a_commit_that_the_caller_knows_to_be_durable_is_never_torn() {
    let memory = disk();
    let mut bench = Bench::open(Arc::new(memory.clone()), small_config());
    bench.append(1, 500);
    bench.step_until_idle();
    bench.append(1, 600);
    bench.step_until_idle();
    let last = bench.observer.entries()[1];
    drop(bench);
    let name = segment::segment_file_name(last.location.segment);
    let commit = u64::from(last.location.position) - 64;
    for (what, position) in [("header", commit + 20), ("payload", commit + 200)] {
        let copy = memory.snapshot();
        copy.flip_bit(&name, position, 0).expect("flips");
        let unknown = recovered_from(copy.snapshot(), &small_config(), RecoverFrom::default());
        assert_eq!(unknown.damaged, [], "{what}: nothing else tells it from a torn write");
        let from = RecoverFrom { durable_below: last.lsn.next(), ..RecoverFrom::default() };
        let known = recovered_from(copy.clone(), &small_config(), from);
        assert_eq!((known.damaged.len(), known.torn_tail_bytes), (1, 0), "{what}: {known:?}");
        assert!(known.next_lsn > last.lsn, "{what}: its number is not given out again");
        let again = recovered_from(copy, &small_config(), RecoverFrom::default());
        assert_eq!(again.damaged.len(), 1, "{what}: every later start says the same");
    }
}

/// Catches new entries with the numbers of old ones: of a tail that could not be read once and can be read again.
#[test]
fn a_tail_that_becomes_readable_again_collides_with_nothing() {
    let memory = disk();
    let mut bench = Bench::open(Arc::new(memory.clone()), small_config());
    for _ in 0..3 {
        bench.append(1, 500);
    }
    bench.step_until_idle();
    let commit = bench.observer.entries()[0].location;
    drop(bench);
    let faulty = FaultyDisk::new(Arc::new(memory.clone()), 5);
    let name = segment::segment_file_name(commit.segment);
    let start = u64::from(commit.position) - 64;
    faulty.plan(Fault::Unreadable { name, bytes: start..start + 4096 });
    let mut bench = Bench::open(Arc::new(faulty), small_config());
    bench.append(1, 700);
    bench.finish();
    drop(bench);
    let (entries, _) = recovered(&memory, &small_config());
    let lsns: Vec<Lsn> = entries.iter().map(|entry| entry.entry.lsn).collect();
    assert!(lsns.windows(2).all(|pair| pair[0] < pair[1]), "{lsns:?}");
    assert!(lsns.len() >= 2, "the old commit is back and the new one is there: {lsns:?}");
}

/// Catches a panic, or an invented entry, on content nobody wrote.
#[test]
fn arbitrary_content_never_panics_and_invents_nothing() {
    let (memory, config, told, payloads) = small_journal();
    let names = memory.list(segment::SEGMENT_PREFIX).expect("lists");
    for seed in 0..2000 {
        let mut random = StdRng::seed_from_u64(seed);
        let copy = memory.snapshot();
        for _ in 0..random.random_range(1..4) {
            let name = &names[random.random_range(0..names.len())];
            let mut content = copy.read_file(name).expect("reads");
            let from = random.random_range(0..content.len());
            let to = random.random_range(from..=content.len());
            match random.random_range(0..4) {
                0 => content.truncate(from),
                1 => content[from..to].fill(0),
                2 => random.fill(&mut content[from..to]),
                _ => {
                    let target = random.random_range(0..=content.len() - (to - from)) & !4095;
                    content.copy_within(from..to, target);
                }
            }
            copy.set_content(name, content);
        }
        let Ok((_, found, _, _)) = open(Arc::new(copy), &config) else { continue };
        for entry in found {
            assert_eq!(payloads.get(&entry.entry.lsn), Some(&entry.payload), "seed {seed}");
            assert!(told.contains(&entry.entry), "seed {seed}: {:?}", entry.entry);
        }
    }
}
