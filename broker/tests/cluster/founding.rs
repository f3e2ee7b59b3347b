//! Founding a cluster, growing into one, and one view of its topics at every broker.

use crate::founders::{Founders, client, create, describe, ids, layout, until};
use crate::harness::{PATIENCE, config, name, within};
use streambus_broker::server::{BrokerEnv, Server};
use streambus_protocol::api::cluster::ClusterDescribeResponse;
use streambus_protocol::api::topics::{
    DescribeTopicRequest, DescribeTopicResponse, ListTopicsRequest, ListTopicsResponse,
};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::BrokerId;

// Catches founders that each found a cluster of their own, a topic that only its creator's broker knows, and a default
// that would lose records with one disk.
#[tokio::test(flavor = "multi_thread")]
async fn three_brokers_found_one_cluster_and_all_of_them_know_its_topics() {
    let founders = Founders::new(3);
    let servers = founders.start_all().await;
    let mut clusters = Vec::new();
    for (id, server) in &servers {
        let mut client = client(server).await;
        let created = create(&mut client, &format!("of-{id}"), 0).await;
        assert_eq!((created.partitions, created.replication_factor), (3, 3));
        clusters.push(describe(&mut client).await.cluster_id);
    }
    clusters.dedup();
    assert_eq!(clusters.len(), 1, "{clusters:?}");
    for server in servers.values() {
        let mut client = client(server).await;
        for id in servers.keys() {
            let topic = format!("of-{id}");
            let partitions = until(async || layout(&mut client, &topic).await, Option::is_some).await;
            for partition in partitions.expect("a layout") {
                let mut replicas = partition.replicas.clone();
                replicas.sort_unstable();
                assert_eq!(replicas, ids(&[1, 2, 3]));
                assert!(partition.leader.is_some());
            }
        }
        let described: DescribeTopicResponse =
            client.call(&DescribeTopicRequest { name: name("of-1") }).await.expect("described");
        let in_sync = described.config.iter().find(|entry| entry.key == "min.insync.replicas").expect("a setting");
        assert_eq!(in_sync.value, "2");
        // Each broker's disk is known to all once it has told the controller.
        let knows_disks = |state: &ClusterDescribeResponse| state.brokers.iter().all(|b| b.disk_free_bytes > 0);
        let state = until(async || describe(&mut client).await, knows_disks).await;
        assert!(state.controller.is_some());
        assert_eq!(state.brokers.len(), 3);
        for broker in &state.brokers {
            assert!(!broker.fenced && broker.is_voter, "{broker:?}");
            let address = founders.cluster_address(broker.endpoint.id.get());
            assert_eq!((&broker.cluster_host, broker.cluster_port), (&address.host, address.port));
        }
    }
}

// Catches a broker that denies a topic because it has not heard of it yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_one_broker_made_exists_at_every_other_at_once() {
    let founders = Founders::new(3);
    let servers = founders.start_all().await;
    let mut clients = Vec::new();
    for server in servers.values() {
        clients.push(client(server).await);
    }
    for round in 0..30 {
        let topic = format!("round-{round}");
        create(&mut clients[round % 3], &topic, 3).await;
        assert!(layout(&mut clients[(round + 1) % 3], &topic).await.is_some(), "{topic} is denied");
        let described = clients[(round + 2) % 3].call(&DescribeTopicRequest { name: name(&topic) }).await;
        assert!(described.is_ok(), "{topic}: {described:?}");
    }
    let denied = clients[0].call(&DescribeTopicRequest { name: name("round-3o") }).await.expect_err("there is none");
    assert_eq!(denied.code, ErrorCode::UnknownTopic, "{denied:?}");
    assert!(denied.message.contains("round-3"), "it suggests what is near: {denied:?}");
}

// Catches a list or an overview that does not ask the controller whether it has everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_one_broker_made_is_listed_by_every_other_at_once() {
    const ROUNDS: usize = 20;
    let founders = Founders::new(3);
    let servers = founders.start_all().await;
    let mut clients = Vec::new();
    for server in servers.values() {
        clients.push(client(server).await);
    }
    let mut missed = Vec::new();
    for round in 0..ROUNDS {
        let topic = format!("round-{round}");
        create(&mut clients[round % 3], &topic, 3).await;
        let listed: ListTopicsResponse = clients[(round + 1) % 3].call(&ListTopicsRequest {}).await.expect("a list");
        let overview = describe(&mut clients[(round + 2) % 3]).await;
        let counted = usize::try_from(overview.topics).expect("few");
        if listed.topics.iter().all(|other| other.name != name(&topic)) || counted <= round {
            missed.push(topic);
        }
    }
    // Neither waits for long: a machine that stands still may cost one.
    assert!(missed.len() <= 1, "{missed:?} were not listed");
}

// Catches a cluster of one that cannot grow, that loses what it has when it does, and a lone voter that does not hear its
// own broker.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_grows_into_three_when_empty_peers_start_with_it() {
    let founders = Founders::new(3);
    let mut config = config(founders.disks[&1].path());
    config.broker.id = BrokerId::new(1);
    let lone = within(Server::start(config, BrokerEnv::system())).await.expect("alone");
    let mut client_of_one = client(&lone).await;
    create(&mut client_of_one, "orders", 1).await;
    let before = describe(&mut client_of_one).await.cluster_id;
    lone.drain_and_stop(PATIENCE).await.expect("an orderly stop");
    let servers = founders.start_all().await;
    for server in servers.values() {
        let mut client = client(server).await;
        let all_vote = |state: &ClusterDescribeResponse| {
            state.brokers.len() == 3 && state.brokers.iter().all(|broker| broker.is_voter && !broker.fenced)
        };
        let state = until(async || describe(&mut client).await, all_vote).await;
        assert_eq!(state.cluster_id, before);
        let kept = layout(&mut client, "orders").await.expect("it is still there");
        assert!(kept.iter().all(|partition| partition.leader == Some(BrokerId::new(1))), "{kept:?}");
    }
}
