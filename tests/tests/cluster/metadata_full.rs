//! Disks of the metadata that take not another byte. A broker that cannot write what it is told ends and says which disk and
//! what to do; it does the same when it is started again too early; the others go on. Nothing that was acknowledged is
//! gone, and with room again everybody is back.

use std::time::Duration;

use streambus_client::{Client, Topic};
use streambus_tests::cluster::{Disks, Options, PATIENCE};
use streambus_tests::load::{LoadOptions, client_config};
use streambus_tests::loop_disk;
use streambus_tests::patience::wait_for;
use streambus_tests::run::Run;
use streambus_tests::setting;

/// Several times what the metadata of a test needs.
const DISK_BYTES: u64 = 32 << 20;
/// How long a change of the metadata is tried: whoever was asked may be ending.
const CHANGE_LIMIT: Duration = Duration::from_secs(3);

/// A cluster whose metadata lies on disks of their own; none when this machine has no such disks.
fn start(name: &str) -> Option<Run> {
    let options = Options { disks: Disks::default().metadata_apart(DISK_BYTES), ..Options::default() };
    loop_disk::available(name).then(|| Run::start(name, &options, &LoadOptions::default()))
}

/// Topics that were asked for, each a change of the metadata.
#[derive(Default)]
struct Changes {
    tried: u32,
    /// The names of those that were acknowledged.
    made: Vec<String>,
}

/// Asks for one topic after the other until it `is_enough`, which is told whether the last one was acknowledged.
fn change_until(run: &mut Run, changes: &mut Changes, mut is_enough: impl FnMut(&mut Run, bool) -> bool) {
    let enough = wait_for(PATIENCE, || {
        changes.tried += 1;
        let name = format!("made-{}", changes.tried);
        let wanted = Topic::partitions(1).replicas(2);
        let created = run.ask(async |bus| bus.admin().create_topic(&name, wanted).timeout(CHANGE_LIMIT).await);
        match &created {
            Ok(_) => changes.made.push(name),
            Err(error) => {
                run.cluster.recorder().fault(format!("{name} is not acknowledged: {error}"));
            }
        }
        is_enough(run, created.is_ok()).then_some(())
    });
    assert!(enough.is_some(), "{} topics asked for in {PATIENCE:?}, {} made", changes.tried, changes.made.len());
}

/// Waits until a broker has ended, as a failure, and checks what it said in the life that began at `from` in its log.
fn check_that_it_ends(run: &mut Run, id: u32, from: usize) {
    let status = run.cluster.wait_exit(id);
    assert!(!status.success(), "it ended with {status}");
    let log = run.cluster.log(id);
    let said = log.get(from..).unwrap_or_default();
    let disk = run.cluster.data(id).join("metadata").display().to_string();
    for words in [disk.as_str(), "is full", "make room"] {
        assert!(said.contains(words), "broker {id} does not say '{words}':\n{}", run.cluster.log_end(id));
    }
}

/// Starts a broker whose disk has no room: it must end at once.
fn start_too_early(run: &mut Run, id: u32) {
    // An orderly end may have given up a few bytes.
    run.cluster.fill_metadata_disk(id);
    let from = run.cluster.log(id).len();
    run.cluster.start_broker(id);
    check_that_it_ends(run, id, from);
}

/// Every topic that was acknowledged is known to each broker, asked by itself.
fn check_that_nothing_is_gone(run: &Run, made: &[String]) {
    for id in run.cluster.ids() {
        let address = run.cluster.client_address(id).to_string();
        let missing = run.ask(async |_| {
            let bus = Client::connect_with(client_config(&[address], &LoadOptions::default())).await;
            let bus = bus.expect("a ready broker takes connections");
            let mut missing = Vec::new();
            for name in made {
                if let Err(error) = bus.admin().describe_topic(name).timeout(PATIENCE).await {
                    missing.push((name.clone(), error.to_string()));
                }
            }
            bus.close().await;
            missing
        });
        assert!(missing.is_empty(), "acknowledged and not known to broker {id}: {missing:?}");
    }
}

fn fill_one(name: &str, is_controller: bool) {
    let Some(mut run) = start(name) else { return };
    let mut changes = Changes::default();
    for _ in 0..setting::cycles(1) {
        let controller = run.controller();
        let other = run.cluster.ids().into_iter().find(|id| *id != controller).expect("three brokers");
        let id = if is_controller { controller } else { other };
        let from = run.cluster.log(id).len();
        let full_us = run.cluster.fill_metadata_disk(id);
        change_until(&mut run, &mut changes, |run, _| run.cluster.has_ended(id));
        check_that_it_ends(&mut run, id, from);
        run.wait_recovery(full_us);
        // The others decide without it.
        change_until(&mut run, &mut changes, |_, is_made| is_made);
        start_too_early(&mut run, id);
        run.cluster.empty_metadata_disk(id);
        run.cluster.start_broker(id);
        run.cluster.wait_ready(id);
        run.wait_in_sync();
        check_that_nothing_is_gone(&run, &changes.made);
    }
    run.finish();
}

/// Catches: a controller that stays in office and acknowledges changes that it cannot write down.
#[test]
fn a_controller_whose_metadata_disk_is_full_ends_and_comes_back() {
    fill_one("the metadata disk of the controller is full", true);
}

/// Catches: a broker that goes on without following the metadata, or whose log has a hole when there is room again.
#[test]
fn a_follower_whose_metadata_disk_is_full_ends_and_comes_back() {
    fill_one("the metadata disk of a follower is full", false);
}

/// Catches: a change that counts as decided on disks that did not take it, and damage that all of them share.
#[test]
fn full_metadata_disks_of_all_brokers_lose_nothing() {
    let Some(mut run) = start("the metadata disks of all brokers are full") else { return };
    let mut changes = Changes::default();
    for _ in 0..setting::cycles(1) {
        let ids = run.cluster.ids();
        for id in &ids {
            run.cluster.fill_metadata_disk(*id);
        }
        change_until(&mut run, &mut changes, |_, is_made| !is_made);
        // Who has nothing to write does not notice.
        run.cluster.kill_all();
        start_too_early(&mut run, ids[0]);
        let mut healed_us = 0;
        for id in &ids {
            healed_us = run.cluster.empty_metadata_disk(*id);
            run.cluster.start_broker(*id);
        }
        for id in &ids {
            run.cluster.wait_ready(*id);
        }
        run.wait_recovery(healed_us);
        run.wait_in_sync();
        check_that_nothing_is_gone(&run, &changes.made);
    }
    run.finish();
}
