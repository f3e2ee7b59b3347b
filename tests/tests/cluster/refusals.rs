//! What a cluster must refuse, with its reason, while it goes on serving.

use std::time::Duration;

use streambus_client::{ErrorCode, Topic};
use streambus_protocol::api::peer::{PeerHandshakeRequest, PeerLane};
use streambus_protocol::api::replica::ReplicaFetchRequest;
use streambus_protocol::api::session::HandshakeRequest;
use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::{BrokerId, ClusterId};
use streambus_tests::clock::Stopwatch;
use streambus_tests::cluster::{Cluster, Options, PATIENCE};
use streambus_tests::event::What;
use streambus_tests::load::LoadOptions;
use streambus_tests::raw_caller::RawCaller;
use streambus_tests::run::Run;

// Catches a refusal that names neither what was wanted nor what there is, and a command line that leaves it at that.
#[test]
fn more_replicas_than_brokers_are_refused() {
    let run = Run::start("more replicas than brokers", &Options::default(), &LoadOptions::default());
    let reason = "replication factor 4 needs as many live brokers, there are 3";
    let refused = run.ask(async |bus| bus.admin().create_topic("four", Topic::partitions(1).replicas(4)).await);
    let error = refused.expect_err("three brokers cannot hold four replicas");
    assert_eq!(error.code(), Some(ErrorCode::InvalidReplicationFactor), "{error}");
    assert!(error.to_string().contains(reason), "{error}");
    let said = run.cluster.command(PATIENCE, &["topic", "create", "four", "--partitions", "1", "--replicas", "4"]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.err.contains(reason) && said.err.contains("cluster brokers"), "why, and what to do next: {said:?}");
    let unknown = run.cluster.command(PATIENCE, &["topic", "describe", "four"]);
    assert_eq!(unknown.code, 3, "nothing was created: {unknown:?}");
    run.finish();
}

/// A run creates its topic also when a broker is not there yet: what is refused for want of brokers is asked again.
#[test]
fn a_topic_that_wants_a_broker_that_still_starts_waits_for_it() {
    let mut cluster = Cluster::prepare(&Options::default());
    cluster.start_broker(1);
    cluster.start_broker(2);
    cluster.wait_ready(1);
    cluster.wait_ready(2);
    cluster.start_broker(3);
    Run::start_on("a broker that still starts", cluster, &LoadOptions::default()).finish();
}

// Catches a second process that serves, that waits for ever, or that ends without saying whose the number is.
#[test]
fn a_second_process_with_the_same_broker_id_never_serves() {
    let run = Run::start("two processes with one broker id", &Options::default(), &LoadOptions::default());
    let data = run.cluster.folder().join("impostor");
    let mut impostor = run.cluster.start_impostor(2, &data);
    // Longer than a session: it must not take over when time passes either.
    run.let_run(Duration::from_secs(5));
    assert!(!impostor.is_ready(), "two processes serve as broker 2");
    assert!(run.cluster.is_ready(2), "the first process goes on; its log ends\n{}", run.cluster.log_end(2));
    let ended = impostor.wait_exit(PATIENCE);
    let log = impostor.log();
    assert!(ended.is_some_and(|status| !status.success()), "it gives up:\n{log}");
    let first = run.cluster.cluster_address(2);
    let reason = format!("broker id 2 is taken: the broker at {first} ");
    assert!(log.contains(&reason), "it says whose the number is:\n{log}");
    assert!(run.cluster.is_ready(2), "the first process goes on; its log ends\n{}", run.cluster.log_end(2));
    run.wait_acks(500);
    run.finish();
}

// Catches a disk of another cluster that is taken in or changed, and a refusal that does not say which cluster is which.
#[test]
fn a_disk_of_another_cluster_is_refused_and_left_alone() {
    // Two founded clusters, one after the other; the disk of one is put under a broker of the other.
    let mut other = Cluster::start(&Options { brokers: 1, ..Options::default() });
    let info = other.command_well(PATIENCE, &["cluster", "info", "--output", "json"]);
    let info: serde_json::Value = serde_json::from_str(&info.out).expect("JSON");
    let foreign_id = info["cluster_id"].as_str().expect("text").to_owned();
    assert!(other.terminate(1).success());
    let foreign = tempfile::tempdir().expect("a folder");
    let foreign_data = foreign.path().join("data");
    std::fs::rename(other.data(1), &foreign_data).expect("one file system");
    drop(other);

    let mut run = Run::start("a disk of another cluster", &Options::default(), &LoadOptions::default());
    let at_us = run.cluster.kill_nine(1);
    run.wait_recovery(at_us);
    let before = std::fs::read(foreign_data.join("identity")).ok();
    let mut impostor = run.cluster.start_impostor(1, &foreign_data);
    let ended = impostor.wait_exit(Duration::from_secs(10));
    assert!(ended.is_some_and(|status| !status.success()), "it must end with a failure:\n{}", impostor.log());
    let log = impostor.log();
    let own_id = run.ask(async |bus| bus.cluster_id()).expect("a connected client knows the cluster").to_string();
    let reason = format!("this directory belongs to cluster {foreign_id}, the configured peers to cluster {own_id}");
    assert!(log.contains(&reason), "it says why:\n{log}");
    assert_eq!(std::fs::read(foreign_data.join("identity")).ok(), before, "the foreign disk is left alone");
    run.finish();
}

#[test]
fn without_a_quorum_nothing_is_acknowledged_and_everybody_says_why() {
    let load = LoadOptions { delivery_timeout: Duration::from_secs(4), ..LoadOptions::default() };
    let mut run = Run::start("no quorum", &Options::default(), &load);
    let (one, two) = (run.cluster.ids()[0], run.cluster.ids()[1]);
    run.cluster.kill_nine(one);
    let alone_us = run.cluster.kill_nine(two);
    run.let_run(Duration::from_secs(6));
    let created = run
        .ask(async |bus| bus.admin().create_topic("late", Topic::partitions(1)).timeout(Duration::from_secs(3)).await);
    let refused = created.expect_err("one broker of three decides nothing");
    let said = refused.to_string();
    assert!(said.contains("controller") || said.contains("quorum"), "it says why: {said}");
    // What it knows it says at once, and says that nobody decides.
    let clock = Stopwatch::start();
    let three = run.cluster.client_address(3).to_string();
    let health = ["--brokers", &three, "--timeout", "5s", "cluster", "health"];
    let health = run.cluster.command(Duration::from_secs(10), &health);
    assert!(clock.elapsed() < Duration::from_secs(3), "it takes {:?}", clock.elapsed());
    assert_eq!(health.code, 7, "{health:?}");
    assert!(health.out.contains("no controller"), "{health:?}");
    let topics = run.cluster.command(Duration::from_secs(10), &["--brokers", &three, "topic", "describe", "proof"]);
    assert_eq!(topics.code, 0, "what it knows it still says: {topics:?}");
    let refused: Vec<String> = run
        .cluster
        .recorder()
        .events_since(alone_us)
        .into_iter()
        .filter_map(|event| match event.what {
            What::Refused { why, .. } | What::Unknown { why, .. } => Some(why),
            _ => None,
        })
        .collect();
    assert!(!refused.is_empty(), "producers hear of it within their patience");
    run.cluster.recorder().fault(format!("producers were told: {}", refused[refused.len() - 1]));
    let health = run.cluster.page(3, "/health").expect("it answers");
    assert!(health.contains("quorum") || health.contains("controller"), "the last broker says why: {health}");
    let acked_alone = run
        .cluster
        .recorder()
        .events()
        .iter()
        .filter(|event| event.at_us > alone_us + 1_000_000)
        .filter(|event| matches!(event.what, What::Acked { .. }))
        .count();
    assert_eq!(acked_alone, 0, "acknowledgements without a quorum");
    let healed_us = run.cluster.recorder().fault("both come back");
    run.cluster.start_broker(one);
    run.cluster.start_broker(two);
    run.wait_recovery(healed_us);
    run.finish();
}

#[test]
fn what_only_brokers_may_ask_is_refused_on_the_client_listener_and_the_other_way_round() {
    let run = Run::start("requests on the wrong listener", &Options::default(), &LoadOptions::default());
    let cluster_id = run.ask(async |bus| bus.cluster_id()).expect("a connected client knows the cluster");
    let hello = HandshakeRequest {
        client_id: "stranger".to_owned(),
        software_name: "by hand".to_owned(),
        software_version: "0".to_owned(),
        cluster_id: Some(cluster_id),
    };
    let fetch = ReplicaFetchRequest {
        broker: BrokerId::new(2),
        broker_epoch: BrokerEpoch::new(1),
        session: 0,
        sequence: 0,
        wait_ms: 0,
        bytes_max: 1024,
        changed: Vec::new(),
        forgotten: Vec::new(),
    };
    let mut client = RawCaller::connect(run.cluster.client_address(1)).expect("a connection");
    client.call(&hello).expect("an answer").expect("clients are welcome");
    let refused = client.call(&fetch).expect("an answer").expect_err("a client is no replica");
    assert_eq!(refused.code, ErrorCode::ClusterListenerOnly, "{refused:?}");

    // As a broker of another cluster, and as a client, on the listener of the brokers.
    let stranger = PeerHandshakeRequest {
        cluster_id: Some(ClusterId::from_bytes([7; 16])),
        broker_id: BrokerId::new(2),
        expected: Some(BrokerId::new(1)),
        lane: PeerLane::Replication,
        raft_id: None,
        broker_epoch: None,
        software_version: "0".to_owned(),
    };
    let mut peer = RawCaller::connect(run.cluster.cluster_address(1)).expect("a connection");
    let refused = peer.call(&stranger).expect("an answer").expect_err("it belongs to another cluster");
    assert_eq!(refused.code, ErrorCode::WrongCluster, "{refused:?}");
    let wrong = PeerHandshakeRequest { cluster_id: Some(cluster_id), expected: Some(BrokerId::new(3)), ..stranger };
    let mut peer = RawCaller::connect(run.cluster.cluster_address(1)).expect("a connection");
    let refused = peer.call(&wrong).expect("an answer").expect_err("it means another broker");
    assert_eq!(refused.code, ErrorCode::WrongBroker, "{refused:?}");
    let mut peer = RawCaller::connect(run.cluster.cluster_address(1)).expect("a connection");
    let refused = peer.call(&hello).expect("an answer").expect_err("no client on the brokers' listener");
    assert_eq!(refused.code, ErrorCode::ClientListenerOnly, "{refused:?}");
    run.finish();
}
