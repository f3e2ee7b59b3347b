//! A broker is stopped in order while its disk refuses what it writes last. Nobody waits for those writes, and the process
//! ends anyway: it must not pass for a stop in order. Then the power is cut, where brokers can have disks of their own, so
//! that what was refused is gone, and the broker must find that out by itself.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use streambus_tests::cluster::{Disks, Options, PATIENCE};
use streambus_tests::load::LoadOptions;
use streambus_tests::patience::wait_for;
use streambus_tests::run::Run;
use streambus_tests::setting;
use streambus_tests::shim::{Call, Rule};

/// What a broker logs when it has given up all that it led: after it only its own files are left to close.
const HANDED_OVER: &str = "others lead what this broker led";
/// How often a stop may be over before the fault was armed.
const TRIES: u32 = 20;

/// When the syncs begin to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// While the broker still leads and serves.
    BeforeTheStop,
    /// When it has handed over: what fails is what a closing store writes.
    AtTheEnd,
}

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Journal,
    Metadata,
}

impl Part {
    fn path(self) -> &'static str {
        match self {
            Self::Journal => "/journal-",
            Self::Metadata => "/metadata/db/",
        }
    }

    /// What the broker logs of it.
    fn says(self) -> &'static str {
        match self {
            Self::Journal => "durability was lost",
            Self::Metadata => "the metadata node",
        }
    }
}

/// Stops a broker, and has every sync of `part` fail from `moment` on. False when it had stopped before.
fn stop(run: &mut Run, id: u32, part: Part, moment: Moment) -> bool {
    let rule = Rule { count: u32::MAX, ..Rule::once(Call::Sync, part.path()) };
    let before = run.cluster.log(id).len();
    if moment == Moment::BeforeTheStop {
        run.cluster.fail_calls(id, 0, &rule);
    }
    let stopped_us = run.cluster.ask_to_stop(id);
    if moment == Moment::AtTheEnd {
        let has_left = wait_for(PATIENCE, || {
            let log = run.cluster.log(id);
            log.get(before..).unwrap_or_default().contains(HANDED_OVER).then_some(())
        });
        assert!(has_left.is_some(), "broker {id} does not hand over:\n{}", run.cluster.log_end(id));
        run.cluster.fail_calls(id, 0, &rule);
    }
    let status = run.cluster.wait_exit(id);
    let is_hit = run.cluster.failed_calls(id, 0) > 0;
    run.cluster.spare_calls(id);
    let log = run.cluster.log(id);
    let said = log.get(before..).unwrap_or_default();
    if is_hit {
        assert!(!status.success(), "a stop that lost writes ended with {status}:\n{said}");
        assert!(said.contains(part.says()), "it says what happened:\n{said}");
        // The metadata's node may fail a moment before the signal comes.
        let ends = ["stopping failed", "the broker stopped by itself"];
        assert!(ends.iter().any(|end| said.contains(end)), "it says that the stop was none in order:\n{said}");
    } else {
        assert!(status.success(), "nothing failed, and it ended with {status}:\n{said}");
    }
    run.wait_recovery(stopped_us);
    is_hit
}

/// Stops leaders under load, each time with failing syncs, and has them come back after a power cut.
fn play(name: &str, part: Part, moments: [Moment; 2]) {
    let disks = Disks::default().shimmed_page_cache().loops_if_possible(1 << 30);
    let options = Options { disks, ..Options::default() }.with_small_segments().with_small_reserve();
    let mut random = StdRng::seed_from_u64(setting::seed());
    let mut run = Run::start(name, &options, &LoadOptions::default());
    for cycle in 0..setting::cycles(2) {
        let [even, odd] = moments;
        let moment = if (setting::seed() + cycle).is_multiple_of(2) { even } else { odd };
        let mut hit = None;
        for _ in 0..TRIES {
            run.wait_acks(random.random_range(100..1_000));
            let id = run.leaders()[&0];
            if stop(&mut run, id, part, moment) {
                hit = Some(id);
                break;
            }
            run.cluster.start_broker(id);
            run.cluster.wait_ready(id);
            run.wait_in_sync();
        }
        let id = hit.unwrap_or_else(|| panic!("{moment:?}: no sync was refused in {TRIES} stops"));
        run.cluster.cut_power_or_kill(id);
        run.cluster.start_broker(id);
        run.cluster.wait_ready(id);
        run.wait_in_sync();
    }
    let report = run.finish();
    assert_eq!(report.refused, 0, "a client gave up although two brokers were always well");
}

/// Catches: a stop that reports success although its last writes are lost, a marker of a proper end behind them by which the
/// next start believes more than is there, and a broker that leads again before it has what it lost.
#[test]
fn a_stop_during_which_the_journal_fails_is_no_stop_in_order() {
    play("SIGTERM while the last sync of the journal fails", Part::Journal, [Moment::BeforeTheStop, Moment::AtTheEnd]);
}

/// Catches the same of the metadata, which is written by the stop itself: it moves leaders.
#[test]
fn a_stop_during_which_the_metadata_fails_is_no_stop_in_order() {
    play("SIGTERM while the last sync of the metadata fails", Part::Metadata, [Moment::BeforeTheStop; 2]);
}
