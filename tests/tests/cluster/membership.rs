//! Brokers and voters that come and go under load: by the commands that an operator types, and while others fail.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use streambus_client::{Record, Start, Topic};
use streambus_protocol::api::cluster::ClusterDescribeResponse;
use streambus_tests::cluster::{Cluster, Network, Options, PATIENCE};
use streambus_tests::load::LoadOptions;
use streambus_tests::patience::wait_for;
use streambus_tests::run::Run;
use streambus_tests::setting;
use tokio::runtime::Runtime;

/// A cluster of three under load, and a fourth broker that may join.
fn start(name: &str, network: Network) -> Run {
    Run::start(name, &Options { spares: 1, network, ..Options::default() }, &LoadOptions::default())
}

fn replicas_of(cluster: &ClusterDescribeResponse, id: u32) -> Option<u32> {
    cluster.brokers.iter().find(|broker| broker.endpoint.id.get() == id).map(|broker| broker.replicas)
}

/// A seeded random order of the cluster's brokers.
fn shuffled(run: &Run, random: &mut StdRng) -> Vec<u32> {
    let mut ids = run.cluster.ids();
    ids.shuffle(random);
    ids
}

/// Takes `leaving` out of the cluster with the one command, stops its process when the command says so, and checks that
/// nothing is left of it.
fn decommission(run: &mut Run, leaving: u32) {
    let id = leaving.to_string();
    let mut command = run.cluster.begin(&["cluster", "decommission", &id, "--yes", "--wait", "60s"]);
    run.wait_cluster(&format!("broker {leaving} holds nothing"), |cluster| replicas_of(cluster, leaving) == Some(0));
    assert!(command.runs(), "it waits until the process is stopped, and says so");
    if run.cluster.pid(leaving).is_some() {
        assert!(run.cluster.terminate(leaving).success(), "an empty broker stops like any other");
    }
    let said = command.wait(PATIENCE);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("stop its process now"), "it says what to do: {said:?}");
    assert!(said.out.contains("no part of the cluster"), "{said:?}");
    run.cluster.retire(leaving);
    let gone =
        run.wait_cluster(&format!("broker {leaving} is gone"), |cluster| replicas_of(cluster, leaving).is_none());
    assert!(gone.brokers.iter().all(|broker| !broker.draining), "{gone:?}");
}

#[test]
fn a_fourth_broker_takes_the_place_of_one_that_is_decommissioned() {
    let mut random = StdRng::seed_from_u64(setting::seed());
    let mut run = start("a fourth broker joins, another leaves for good", Network::Direct);
    let leaving = shuffled(&run, &mut random)[0];
    let joined = run.cluster.spares()[0];
    run.cluster.join(joined);
    run.cluster.wait_ready(joined);
    run.wait_voters(&[1, 2, 3]);

    let all_but = |id: u32| [1, 2, 3, 4].into_iter().filter(|other| *other != id).collect::<Vec<u32>>();
    let replicas = all_but(leaving).iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let moved = ["topic", "reassign", "proof", "--partition", "0", "--replicas", &replicas, "--wait", "60s"];
    let said = run.cluster.command_well(PATIENCE, &moved);
    assert!(said.out.contains(&format!("proof/0 is on brokers {replicas}")), "{said:?}");

    let id = leaving.to_string();
    let said = run.cluster.command_well(PATIENCE, &["cluster", "drain", &id]);
    assert!(said.out.contains("is empty"), "{said:?}");
    run.cluster.command_well(PATIENCE, &["cluster", "undrain", &id]);
    run.wait_acks(200);
    decommission(&mut run, leaving);
    run.wait_voters(&all_but(leaving));

    // A disk that was removed says what it is and ends; it is no broker any more.
    run.cluster.start_broker(leaving);
    assert!(!run.cluster.wait_exit(leaving).success(), "a removed disk does not serve");
    let log = run.cluster.log_end(leaving);
    assert!(log.contains("was removed from the cluster"), "it says why:\n{log}");

    // The new voter counts: one of the three may die.
    let victim = all_but(leaving).into_iter().find(|id| *id != joined).expect("two are old");
    let at_us = run.cluster.kill_nine(victim);
    run.wait_recovery(at_us);
    run.cluster.start_broker(victim);
    run.cluster.wait_ready(victim);
    run.finish();
}

#[test]
fn a_broker_that_is_removed_while_it_stands_still_disturbs_nobody_when_it_goes_on() {
    let mut run = start("a removed broker goes on", Network::Direct);
    let joined = run.cluster.spares()[0];
    run.cluster.join(joined);
    run.cluster.wait_ready(joined);
    // The controller itself in every other run.
    let controller = run.controller();
    let leaving = if setting::seed() % 2 == 1 { controller } else { controller % 3 + 1 };
    let id = leaving.to_string();
    run.cluster.command_well(PATIENCE, &["cluster", "drain", &id]);
    let paused_us = run.cluster.pause(leaving);
    run.wait_recovery(paused_us);
    run.cluster.command_well(PATIENCE, &["cluster", "decommission", &id, "--yes", "--wait", "60s"]);
    let wanted: Vec<u32> = [1, 2, 3, 4].into_iter().filter(|id| *id != leaving).collect();
    run.wait_voters(&wanted);
    // Asked of one that stays: the removed one knows only what was.
    let witness = run.cluster.client_address(joined).to_string();
    let ask = ["--brokers", &witness, "cluster", "info", "--output", "json"];
    let state = |run: &Run| {
        let said = run.cluster.command_well(PATIENCE, &ask);
        let info: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
        let ids: Vec<u64> = info["brokers"].as_array().expect("a list").iter().flat_map(|b| b["id"].as_u64()).collect();
        (info["metadata_term"].as_u64().expect("a number"), ids)
    };
    let before = state(&run);
    assert_eq!(before.1, wanted.iter().map(|id| u64::from(*id)).collect::<Vec<_>>());
    let resumed_us = run.cluster.resume(leaving);
    run.let_run(Duration::from_secs(6));
    run.wait_recovery(resumed_us);
    assert_eq!(state(&run), before, "votes of a removed node are not heard, and it does not come back by itself");
    if run.cluster.pid(leaving).is_some() {
        run.cluster.kill_nine(leaving);
    }
    run.cluster.retire(leaving);
    run.finish();
}

/// The schedule of a loss that another system had (nats-server issue 7545): a broker is taken out of the cluster while one
/// is cut off and the others are killed.
#[test]
fn a_broker_is_drained_while_another_is_cut_off_and_the_rest_dies() {
    let mut random = StdRng::seed_from_u64(setting::seed());
    let mut run = start("drained, cut off and killed at once", Network::that_can_be_cut());
    let joined = run.cluster.spares()[0];
    run.cluster.join(joined);
    run.cluster.wait_ready(joined);
    for cycle in 0..setting::cycles(1) {
        let ids = shuffled(&run, &mut random);
        let (leaving, cut, killed) = (ids[0], ids[1], &ids[1..]);
        let id = leaving.to_string();
        let mut drain = run.cluster.begin(&["cluster", "drain", &id, "--wait", "60s"]);
        run.let_run(Duration::from_millis(random.random_range(0..1_000)));
        run.cluster.isolate(cut);
        run.let_run(Duration::from_millis(random.random_range(0..3_000)));
        for id in killed {
            run.cluster.kill_nine(*id);
        }
        run.let_run(Duration::from_millis(random.random_range(0..1_000)));
        for id in killed {
            run.cluster.start_broker(*id);
        }
        run.let_run(Duration::from_millis(random.random_range(0..2_000)));
        let healed_us = run.cluster.heal();
        for id in killed {
            run.cluster.wait_ready(*id);
        }
        run.wait_recovery(healed_us);
        if drain.runs() && wait_for(PATIENCE, || (!drain.runs()).then_some(())).is_none() {
            panic!("the drain neither ends nor says that it cannot");
        }
        run.cluster.recorder().fault(format!("the drain said {:?}", drain.wait(PATIENCE)));
        run.cluster.command_well(PATIENCE, &["cluster", "drain", &id, "--wait", "60s"]);
        if cycle + 1 == setting::cycles(1) {
            decommission(&mut run, leaving);
        } else {
            run.cluster.command_well(PATIENCE, &["cluster", "undrain", &id]);
        }
    }
    run.finish();
}

#[test]
fn a_voter_is_replaced_while_another_one_dies() {
    let mut random = StdRng::seed_from_u64(setting::seed());
    let name = "a voter's disk is emptied, another voter dies while it joins";
    let mut run = Run::start(name, &Options::default(), &LoadOptions::default());
    for _ in 0..setting::cycles(1) {
        let ids = shuffled(&run, &mut random);
        let (wiped, killed) = (ids[0], ids[1]);
        let at_us = run.cluster.kill_nine(wiped);
        run.wait_recovery(at_us);
        run.cluster.wipe(wiped);
        run.cluster.start_broker(wiped);
        run.let_run(Duration::from_millis(random.random_range(0..3_000)));
        run.cluster.kill_nine(killed);
        run.let_run(Duration::from_millis(random.random_range(0..1_000)));
        let back_us = run.cluster.recorder().fault(format!("broker {killed} is started again"));
        run.cluster.start_broker(killed);
        run.cluster.wait_ready(wiped);
        run.cluster.wait_ready(killed);
        run.wait_recovery(back_us);
        run.wait_in_sync();
        run.wait_voters(&[1, 2, 3]);
    }
    run.finish();
}

#[test]
fn a_voter_is_replaced_while_another_one_is_cut_off() {
    let mut random = StdRng::seed_from_u64(setting::seed());
    let mut run = start("a voter's disk is emptied while another voter is cut off", Network::that_can_be_cut());
    let joined = run.cluster.spares()[0];
    run.cluster.join(joined);
    run.cluster.wait_ready(joined);
    let ids = shuffled(&run, &mut random);
    let voters: Vec<u32> = ids.into_iter().filter(|id| *id != joined).collect();
    let (wiped, cut) = (voters[0], voters[1]);
    let at_us = run.cluster.kill_nine(wiped);
    run.wait_recovery(at_us);
    run.cluster.wipe(wiped);
    run.cluster.isolate(cut);
    run.cluster.start_broker(wiped);
    // One voter of three is left: nothing is decided now, and nothing may be invented.
    run.let_run(Duration::from_millis(random.random_range(500..4_000)));
    let healed_us = run.cluster.heal();
    run.cluster.wait_ready(wiped);
    run.wait_recovery(healed_us);
    run.wait_in_sync();
    run.wait_voters(&[1, 2, 3]);
    let victim = *[cut, joined].choose(&mut random).expect("two");
    let at_us = run.cluster.kill_nine(victim);
    run.wait_recovery(at_us);
    run.finish();
}

/// The records of a topic, in order.
pub(crate) async fn values(bus: &streambus_client::Client, topic: &str) -> Vec<String> {
    let consumer = bus.consumer([topic]).from(Start::Earliest).until_end().start().timeout(PATIENCE).await;
    let mut consumer = consumer.expect("the topic is there");
    let mut found = Vec::new();
    while let Some(record) = consumer.next().await.expect("it can be read") {
        found.push(String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned());
    }
    found
}

#[test]
fn a_cluster_of_one_grows_into_three() {
    let mut cluster = Cluster::prepare(&Options::default());
    cluster.start_alone(1);
    cluster.wait_ready(1);
    let wanted: Vec<String> = (0..200).map(|number| format!("before {number}")).collect();
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let bus = streambus_client::Client::connect(&cluster.client_address(1).to_string()).await.expect("it is ready");
        bus.admin().create_topic("before", Topic::partitions(1)).await.expect("a topic of one replica");
        let producer = bus.producer();
        for value in &wanted {
            producer.send(Record::new("before", value.clone()).partition(0)).await.expect("it takes records");
        }
        bus.close().await;
    });
    assert!(cluster.terminate(1).success());
    for id in cluster.ids() {
        cluster.start_broker(id);
    }
    for id in cluster.ids() {
        cluster.wait_ready(id);
    }
    let mut run = Run::start_on("a cluster of one, grown", cluster, &LoadOptions::default());
    run.wait_voters(&[1, 2, 3]);
    assert_eq!(run.ask(async |bus| values(bus, "before").await), wanted, "what it held alone");
    let moved = ["topic", "reassign", "before", "--partition", "0", "--replicas", "2,3,1", "--wait", "60s"];
    run.cluster.command_well(PATIENCE, &moved);
    let at_us = run.cluster.kill_nine(1);
    run.wait_recovery(at_us);
    assert_eq!(run.ask(async |bus| values(bus, "before").await), wanted, "held by the others now");
    run.finish();
}
