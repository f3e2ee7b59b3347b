//! A broker that was away for longer than the metadata's log reaches back: it gets all of it as a snapshot, is killed while it
//! takes it, and cannot write it.

use std::collections::BTreeSet;
use std::ffi::OsString;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use streambus_client::{Client, Topic};
use streambus_tests::clock::Stopwatch;
use streambus_tests::cluster::{Disks, Options, PATIENCE};
use streambus_tests::load::LoadOptions;
use streambus_tests::patience::wait_for;
use streambus_tests::run::{Run, create_topic};
use streambus_tests::setting;
use streambus_tests::shim::{Call, EIO, Rule};

/// So little that a few topics are more than what stays.
const LITTLE: [&str; 2] = ["cluster.metadata_snapshot_changes=10", "cluster.metadata_kept_changes=0"];
/// How often the broker is killed on its way back.
const KILLS: u32 = 3;

/// One of a broker's numbers about its metadata.
fn metadata(run: &Run, id: u32, what: &str) -> Option<f64> {
    run.cluster.metric(id, &format!("streambus_metadata_{what}"))
}

/// Creates and deletes topics until no broker that runs has the log's beginning up to `index` any more. One of two topics
/// stays. Returns the names of those.
fn churn_past(run: &Run, index: f64, names: &mut u32) -> Vec<String> {
    let running: Vec<u32> = run.cluster.ids().into_iter().filter(|id| run.cluster.pid(*id).is_some()).collect();
    let mut kept = Vec::new();
    let gone = wait_for(PATIENCE, || {
        *names += 1;
        let (stays, goes) = (format!("stays-{names}"), format!("goes-{names}"));
        run.ask(async |bus| {
            for name in [&stays, &goes] {
                create_topic(bus, name, &Topic::partitions(1).replicas(2)).await;
            }
            bus.admin().delete_topic(&goes).timeout(PATIENCE).await.expect("it is deleted");
        });
        kept.push(stays);
        let is_past = |id: &u32| metadata(run, *id, "purged_index").is_some_and(|purged| purged > index);
        running.iter().all(is_past).then_some(())
    });
    assert!(gone.is_some(), "the log of the metadata keeps change {index}");
    kept
}

/// The snapshots in a broker's data directory, those under way too.
fn snapshots(run: &Run, id: u32) -> BTreeSet<OsString> {
    let found = std::fs::read_dir(run.cluster.data(id).join("metadata").join("snapshots"));
    found.map(|entries| entries.flatten().map(|entry| entry.file_name()).collect()).unwrap_or_default()
}

/// Starts a broker and kills it as soon as a snapshot that it did not have shows up on its disk; returns what it is called
/// there.
fn kill_while_it_takes_a_snapshot(run: &mut Run, id: u32) -> OsString {
    let mut before = snapshots(run, id);
    run.cluster.start_broker(id);
    let clock = Stopwatch::start();
    loop {
        // It is there for some milliseconds: nobody waits between two looks.
        let now = snapshots(run, id);
        if let Some(name) = now.difference(&before).next() {
            run.cluster.kill_nine(id);
            return name.clone();
        }
        // A start removes what another one left half, and may call its own the same.
        before.retain(|name| now.contains(name));
        assert!(!run.cluster.has_ended(id), "broker {id} ends by itself:\n{}", run.cluster.log_end(id));
        assert!(clock.elapsed() < PATIENCE, "broker {id} takes no snapshot:\n{}", run.cluster.log_end(id));
        std::thread::yield_now();
    }
}

/// Fails the test unless the broker, in this life, was given a snapshot.
fn assert_took_a_snapshot(run: &Run, id: u32) {
    let installed = metadata(run, id, "snapshots_installed_total");
    assert!(installed.is_some_and(|installed| installed >= 1.0), "broker {id} has found a log: {installed:?}");
}

/// Catches: a broker that comes back behind the beginning of the log and never catches up; one that half a snapshot, or a
/// whole one whose state was not put in place, keeps from starting or leaves with a mixture of two states; and topics that
/// were created or deleted meanwhile and that it does not hear of.
#[test]
fn a_broker_comes_back_by_snapshot_and_is_killed_while_it_takes_it() {
    let name = "back by a snapshot of the metadata";
    let mut random = StdRng::seed_from_u64(setting::seed());
    let settings = LITTLE.map(str::to_owned).to_vec();
    let mut run = Run::start(name, &Options { settings, ..Options::default() }, &LoadOptions::default());
    let mut names = 0;
    for _ in 0..setting::cycles(1) {
        let ids = run.cluster.ids();
        let id = ids[random.random_range(0..ids.len())];
        let reached = metadata(&run, id, "applied_index").expect("it runs");
        let at_us = run.cluster.kill_nine(id);
        run.wait_recovery(at_us);
        let mut kept = churn_past(&run, reached, &mut names);
        for _ in 0..KILLS {
            let killed_at = kill_while_it_takes_a_snapshot(&mut run, id);
            eprintln!("  killed with {} on its disk", killed_at.display());
            // What it may have taken now must not be enough for the next start.
            let running = ids.iter().find(|other| **other != id).expect("three brokers");
            let reached = metadata(&run, *running, "applied_index").expect("it runs");
            kept.extend(churn_past(&run, reached, &mut names));
        }
        run.cluster.start_broker(id);
        run.cluster.wait_ready(id);
        assert_took_a_snapshot(&run, id);
        let address = run.cluster.client_address(id).to_string();
        let known: BTreeSet<String> = run.ask(async |_| {
            let bus = Client::connect(&address).await.expect("it takes clients");
            let topics = bus.admin().list_topics().timeout(PATIENCE).await.expect("it knows its topics");
            bus.close().await;
            topics.into_iter().map(|topic| topic.name.to_string()).collect()
        });
        let missing: Vec<&String> = kept.iter().filter(|name| !known.contains(*name)).collect();
        assert!(missing.is_empty(), "broker {id} does not know {missing:?}");
        assert!(known.iter().all(|name| !name.starts_with("goes-")), "deleted: {known:?}");
        run.wait_in_sync();
        run.wait_acks(200);
    }
    run.finish();
}

/// Catches: a broker that goes on with metadata that is not on its disk, one that a write which failed once keeps from ever
/// taking a snapshot, and one that half a snapshot keeps from starting again.
#[test]
fn a_snapshot_that_cannot_be_written_is_taken_another_time() {
    let name = "a snapshot of the metadata that cannot be written";
    let settings = LITTLE.map(str::to_owned).to_vec();
    let options = Options { settings, disks: Disks::default().shimmed(), ..Options::default() };
    let mut run = Run::start(name, &options, &LoadOptions::default());
    let torn = Rule { torn: 40, error: EIO, ..Rule::once(Call::Write, "/snapshots/") };
    // What cannot be received is sent again; what was received and is not on the disk ends the process.
    let faults = [(torn, false), (Rule::once(Call::Sync, "/snapshots/"), true)];
    let mut names = 0;
    for (fault, must_end) in faults {
        let ids = run.cluster.ids();
        let id = ids[setting::seed() as usize % ids.len()];
        let reached = metadata(&run, id, "applied_index").expect("it runs");
        let at_us = run.cluster.kill_nine(id);
        run.wait_recovery(at_us);
        churn_past(&run, reached, &mut names);
        run.cluster.fail_calls(id, 0, &fault);
        run.cluster.start_broker(id);
        let is_over = wait_for(PATIENCE, || (run.cluster.has_ended(id) || run.cluster.is_ready(id)).then_some(()));
        assert!(is_over.is_some() && run.cluster.failed_calls(id, 0) > 0, "{}", run.cluster.log_end(id));
        let has_ended = run.cluster.has_ended(id);
        assert!(has_ended || !must_end, "it goes on:\n{}", run.cluster.log_end(id));
        if has_ended {
            assert!(!run.cluster.wait_exit(id).success(), "it says that all is well");
            run.cluster.start_broker(id);
            run.cluster.wait_ready(id);
        }
        assert_took_a_snapshot(&run, id);
        run.cluster.spare_calls(id);
        run.wait_in_sync();
        run.wait_acks(200);
    }
    run.finish();
}
