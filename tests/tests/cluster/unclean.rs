//! A partition whose complete replicas are all gone: nobody leads it until an operator says that its loss is meant, and then
//! only that loss is made. The checker lets go what was acknowledged in that partition before, as a tail, and judges the rest.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use streambus_protocol::api::topics::PartitionDescription;
use streambus_protocol::ids::BrokerId;
use streambus_tests::cluster::{Options, PATIENCE};
use streambus_tests::event::What;
use streambus_tests::history::Outcome;
use streambus_tests::load::LoadOptions;
use streambus_tests::patience::wait_for;
use streambus_tests::run::{Report, Run};
use streambus_tests::setting;

/// The partition that is given up; no other is.
const LOST: u32 = 0;
/// How long nobody may lead it while nobody says so.
const UNLED: Duration = Duration::from_secs(2);
/// What a leader logs that may lack records.
const GIVES_UP: &str = "leads by an unclean election";
/// What a replica logs when it gives up what its leader lacks.
const CUT: &str = "the log was cut where it leaves the leader's";

fn numbers(brokers: &[BrokerId]) -> Vec<u32> {
    brokers.iter().map(|broker| broker.get()).collect()
}

fn list(brokers: &[u32]) -> String {
    brokers.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn leader_of(partition: &PartitionDescription) -> Option<u32> {
    partition.layout.leader.map(BrokerId::get)
}

/// Moves partition `partition` to `replicas`, and waits until it is there.
fn put(run: &Run, partition: u32, replicas: &[u32]) {
    let number = partition.to_string();
    let moved = ["topic", "reassign", "proof", "--partition", &number, "--replicas", &list(replicas), "--wait", "60s"];
    run.cluster.command_well(PATIENCE, &moved);
    run.wait_partition(partition, "it is where it was put", |now| {
        numbers(&now.layout.replicas) == replicas && now.layout.isr.len() == replicas.len() && now.adding.is_empty()
    });
}

/// The replicas of every partition.
fn places(run: &Run, partitions: u32) -> BTreeMap<u32, Vec<u32>> {
    let of = |partition| {
        let found = run.wait_partition(partition, "it is described", |_| true);
        (partition, numbers(&found.layout.replicas))
    };
    (0..partitions).map(of).collect()
}

/// Waits until everybody knows that the lost partition has no leader, although `alive` has a replica of it and serves; and
/// checks that this stays so, and what an operator is told who does not say that he means it. Returns the last epoch.
fn refuses_to_lead(run: &Run, alive: u32) -> u32 {
    run.wait_cluster(&format!("broker {alive} serves"), |cluster| {
        cluster.brokers.iter().any(|broker| broker.endpoint.id.get() == alive && !broker.fenced)
    });
    let unled = run.wait_partition(LOST, "nobody leads it", |now| now.layout.leader.is_none());
    assert!(!numbers(&unled.layout.isr).contains(&alive), "the live replica is not in sync: {unled:?}");
    let since_us = run.cluster.recorder().now_us();

    let move_it = ["topic", "transfer-leader", "proof", "--partition", "0"];
    for more in [&[][..], &["--to", &alive.to_string()]] {
        let refused = run.cluster.command(PATIENCE, &[&move_it[..], more].concat());
        assert_ne!(refused.code, 0, "{refused:?}");
        let why = ["is not in sync", "is not alive"];
        assert!(why.iter().any(|why| refused.err.contains(why)), "it says why: {refused:?}");
        assert!(refused.err.contains("ELR") && refused.err.contains("--unclean"), "it says what to do: {refused:?}");
    }
    let refused = run.cluster.command(PATIENCE, &[&move_it[..], &["--unclean"]].concat());
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.err.contains("acknowledged records") && refused.err.contains("--yes"), "{refused:?}");

    run.let_run(UNLED);
    let led = |what: &What| match what {
        What::Leadership { partition: LOST, leader: Some(leader), leader_epoch, .. } => {
            Some((*leader, *leader_epoch)).filter(|(_, epoch)| *epoch >= unled.layout.leader_epoch.get())
        }
        _ => None,
    };
    let somebody = run.cluster.recorder().events_since(since_us).iter().find_map(|event| led(&event.what));
    assert_eq!(somebody, None, "somebody leads although no operator has said so");
    unled.layout.leader_epoch.get()
}

/// Has the lost partition led by `alive`, which lacks records.
fn give_up(run: &Run, alive: u32) {
    let told =
        || run.cluster.log(alive).lines().filter(|line| line.contains("WARN") && line.contains(GIVES_UP)).count();
    let told_before = told();
    let before = refuses_to_lead(run, alive);
    let (leader, epoch) = run.elect_uncleanly(LOST);
    assert_eq!(leader, alive, "the only replica that is alive");
    assert!(epoch > before, "epoch {epoch} after {before}");
    run.wait_partition(LOST, "it is led", |now| leader_of(now) == Some(alive));
    let is_told = wait_for(PATIENCE, || (told() > told_before).then_some(()));
    assert!(is_told.is_some(), "the loss is logged:\n{}", run.cluster.log_end(alive));
    let counted = || run.cluster.metric(alive, "streambus_partitions_elected_uncleanly");
    let is_counted = wait_for(PATIENCE, || counted().filter(|partitions| *partitions > 0.0));
    assert_eq!(is_counted, Some(1.0), "one partition, and no other");
}

/// Records that were acknowledged and are gone, all of which the operator gave up.
fn lost_records(report: &Report) -> usize {
    let there: BTreeMap<_, _> = report.read.iter().map(|at| ((at.partition, at.offset), at.value)).collect();
    let is_lost = |(value, outcome)| match outcome {
        Outcome::GivenUp { partition, offset } => there.get(&(partition, offset)) != Some(&Some(value)),
        Outcome::Acked { .. } | Outcome::Unknown | Outcome::Refused => false,
    };
    report.history.outcomes().filter(|attempt| is_lost(*attempt)).count()
}

/// Catches: a leader that lacks records without an operator's word, a follower that keeps what its leader lacks or stops for
/// ever because of it, logs that part several times and are joined at the wrong place, a producer that never goes on, and a
/// consumer that goes from one lineage into the other without a word.
#[test]
fn two_replicas_that_lead_in_turn_without_each_other_become_one_log_again() {
    let mut random = StdRng::seed_from_u64(setting::seed());
    let load = LoadOptions {
        replicas: Some(2),
        min_isr: Some(1),
        delivery_timeout: Duration::from_secs(120),
        ..LoadOptions::default()
    };
    let name = "unclean elections: two replicas lead in turn without each other";
    let mut run = Run::start(name, &Options::default(), &load);
    run.wait_in_sync();
    let places = places(&run, load.partitions);
    let pair = places[&LOST].clone();
    let third = run.cluster.ids().into_iter().find(|id| !pair.contains(id)).expect("three brokers");
    // Everything else has a replica on the broker that stays.
    for (partition, replicas) in places.iter().filter(|(at, replicas)| **at != LOST && !replicas.contains(&third)) {
        put(&run, *partition, &[third, replicas[0]]);
    }
    let (mut leads, mut rests) = if random.random() { (pair[0], pair[1]) } else { (pair[1], pair[0]) };
    run.cluster.kill_nine(rests);
    run.wait_partition(LOST, "one is left", |now| leader_of(now) == Some(leads) && numbers(&now.layout.isr) == [leads]);
    // The first to lead comes back at last, to a log that it has left three times.
    for _ in 0..3 {
        let since_us = run.cluster.recorder().fault("what only one replica has begins");
        run.wait_recovery(since_us);
        run.wait_acks(random.random_range(200..1_500));
        run.wait_readers(since_us);
        // Both are down for a moment, and so is the metadata's quorum.
        run.cluster.kill_nine(leads);
        run.cluster.start_broker(rests);
        run.cluster.wait_ready(rests);
        (leads, rests) = (rests, leads);
        give_up(&run, leads);
    }
    let since_us = run.cluster.recorder().fault("the last lineage begins");
    run.wait_recovery(since_us);
    run.wait_readers(since_us);
    let log_before = run.cluster.log(rests).len();
    run.cluster.start_broker(rests);
    run.cluster.wait_ready(rests);
    run.wait_in_sync();
    let log = run.cluster.log(rests);
    let topic =
        run.ask(async |bus| bus.admin().describe_topic("proof").timeout(PATIENCE).await).expect("it is there").id;
    let name = format!("{topic}/{LOST} ");
    let lines = log.get(log_before..).unwrap_or_default().lines();
    let cuts = lines.filter(|line| line.contains(CUT) && line.contains(&name)).count();
    assert!(cuts >= 2, "{cuts} cuts, where one cannot be enough:\n{}", run.cluster.log_end(rests));
    let report = run.finish();
    assert!(lost_records(&report) > 0, "nothing was lost: the run shows nothing");
    assert_eq!(report.refused, 0, "a client gave up although somebody was always about to lead");
}

/// Catches: an eligible replica that is passed over or forgotten, a lone unclean leader that acknowledges what the topic wants
/// on two disks, and a former leader that brings back what was given up.
#[test]
fn two_of_three_replicas_burn_and_the_one_that_lagged_goes_on() {
    let seed = setting::seed();
    let load = LoadOptions { delivery_timeout: Duration::from_secs(120), ..LoadOptions::default() };
    let name = "an unclean election after the loss of two replicas of three";
    let mut run = Run::start(name, &Options { spares: 1, ..Options::default() }, &load);
    let learner = run.cluster.spares()[0];
    run.cluster.join(learner);
    run.cluster.wait_ready(learner);
    run.wait_voters(&[1, 2, 3]);
    // Two voters are always alive, one of which has no replica of the partition.
    let voter = |at: u64| u32::try_from(1 + (seed + at) % 3).expect("small");
    let (burns, lags, bystander) = (voter(0), voter(1), voter(2));
    put(&run, LOST, &[burns, learner, lags]);
    for (partition, replicas) in places(&run, load.partitions) {
        if partition != LOST && !replicas.contains(&bystander) {
            put(&run, partition, &[bystander, burns, lags]);
        }
    }
    run.wait_in_sync();
    let killed_us = run.cluster.kill_nine(lags);
    run.wait_recovery(killed_us);
    run.wait_partition(LOST, "two are in sync", |now| {
        let isr = numbers(&now.layout.isr);
        isr.len() == 2 && !isr.contains(&lags)
    });
    let since_us = run.cluster.recorder().fault("what one replica lacks begins");
    run.wait_recovery(since_us);
    run.wait_acks(500);
    run.wait_readers(since_us);
    run.cluster.kill_nine(burns);
    run.cluster.kill_nine(learner);
    run.cluster.start_broker(lags);
    run.cluster.wait_ready(lags);
    give_up(&run, lags);

    // One replica is too few: nothing is acknowledged before a second one has given up what the leader lacks.
    let alone_us = run.cluster.recorder().now_us();
    run.let_run(UNLED);
    let alone = run.cluster.recorder().events_since(alone_us);
    let acked = alone.iter().find(|event| matches!(event.what, What::Acked { partition: LOST, .. }));
    assert!(acked.is_none(), "{acked:?} with one replica in sync of two that are wanted");
    let returns_us = run.cluster.recorder().now_us();
    for id in [burns, learner] {
        run.cluster.start_broker(id);
    }
    for id in [burns, learner] {
        run.cluster.wait_ready(id);
    }
    run.wait_recovery(returns_us);
    run.wait_in_sync();
    for id in [burns, learner] {
        assert!(run.cluster.log(id).contains(CUT), "it gives up what its leader lacks:\n{}", run.cluster.log_end(id));
    }
    run.wait_readers(returns_us);
    let report = run.finish();
    assert!(lost_records(&report) > 0, "nothing was lost: the run shows nothing");
    assert_eq!(report.refused, 0, "a client gave up although somebody was always about to lead");
}
