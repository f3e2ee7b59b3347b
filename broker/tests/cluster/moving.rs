//! Moving work: leaderships and replicas from any broker, and the logs that deletion and moves leave behind.

use std::collections::BTreeMap;

use crate::founders::{Founders, client, create, describe, ids, layout, until};
use crate::harness::{PATIENCE, TestClient, batch, fetch_request, name, produce_request, values};
use streambus_broker::server::RunningServer;
use streambus_protocol::api::cluster::{
    DrainBrokerRequest, ElectLeaderRequest, LeaderChoice, ReassignRequest, RemoveBrokerRequest,
};
use streambus_protocol::api::fetch::FetchResponse;
use streambus_protocol::api::produce::Acks;
use streambus_protocol::api::topics::{CreateTopicRequest, DeleteTopicRequest};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, PartitionIndex, TopicId};

// Catches admin calls that only the controller answers, and answers without their reason.
#[tokio::test(flavor = "multi_thread")]
async fn work_is_moved_from_any_broker_and_refusals_say_why() {
    let founders = Founders::new(3);
    let servers = founders.start_all().await;
    let mut by = Vec::new();
    for server in servers.values() {
        by.push(client(server).await);
    }
    let topic = create(&mut by[0], "orders", 2).await.id;
    let partition = PartitionIndex::new(0);
    let before = layout(&mut by[0], "orders").await.expect("a layout")[0].clone();
    let (old, new) = (before.leader.expect("a leader"), before.replicas[1]);
    let mut leader = client(&servers[&old.get()]).await;
    let request = produce_request(topic, 0, Acks::All, batch(&["x".repeat(20_000).as_str()], None));
    let written = async || leader.call(&request).await.expect("an answer");
    until(written, |answer| answer.partitions[0].result.is_ok()).await;
    for client in &mut by {
        until(async || layout(client, "orders").await, Option::is_some).await;
        let elect = |choice| ElectLeaderRequest { topic: name("orders"), partition, choice };
        let moved = client.call(&elect(LeaderChoice::Broker(new))).await.expect("elected");
        assert_eq!(moved.leader, new);
        assert!(moved.leader_epoch > before.leader_epoch);
        let back = client.call(&elect(LeaderChoice::Preferred)).await.expect("elected");
        assert_eq!(back.leader, old);

        let outsider = BrokerId::new((1..=3).find(|id| !before.replicas.contains(&BrokerId::new(*id))).expect("one"));
        let refused = client.call(&elect(LeaderChoice::Broker(outsider))).await.expect_err("no replica");
        assert_eq!(refused.code, ErrorCode::InvalidAssignment, "{refused}");
        let reassign = |replicas| ReassignRequest { topic: name("orders"), partition, replicas, throttle: None };
        for wrong in [vec![], ids(&[1, 1]), ids(&[1, 9])] {
            let refused = client.call(&reassign(Some(wrong))).await.expect_err("no assignment");
            assert_eq!(refused.code, ErrorCode::InvalidAssignment, "{refused}");
        }
        let limited = ReassignRequest { throttle: Some(1), ..reassign(None) };
        assert_eq!(client.call(&limited).await.expect_err("no move").code, ErrorCode::InvalidRequest);
        // Nobody is drained: it says what there would be to do, also of what others lead.
        let held = DrainBrokerRequest { broker: new, draining: false };
        let measured = async || client.call(&held).await.expect("progress");
        let progress = until(measured, |progress| progress.unmeasured == 0).await;
        assert!(progress.bytes_left >= 20_000, "{progress:?}");
        let refused = client.call(&reassign(None)).await.expect_err("nothing moves");
        assert_eq!(refused.code, ErrorCode::NoReassignment, "{refused}");
        let unknown = DrainBrokerRequest { broker: BrokerId::new(9), draining: true };
        assert_eq!(client.call(&unknown).await.expect_err("unknown").code, ErrorCode::UnknownBroker);
        let alive = RemoveBrokerRequest { broker: BrokerId::new(3) };
        assert_eq!(client.call(&alive).await.expect_err("alive").code, ErrorCode::BrokerNotEmpty);
        let drain = |draining| DrainBrokerRequest { broker: BrokerId::new(2), draining };
        let progress = client.call(&drain(true)).await.expect("draining");
        assert!(progress.replicas_left > 0);
        assert!(describe(client).await.brokers.iter().any(|broker| broker.draining));
        client.call(&drain(false)).await.expect("serving again");
    }
}

/// A gauge of a broker.
fn gauge(server: &RunningServer, name: &str) -> Option<u64> {
    let text = server.metrics().expect("it runs").render().expect("renders");
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Logs on the disk of `server`, and how many of them are in quarantine.
fn logs_of(server: &RunningServer) -> (Option<u64>, Option<u64>) {
    (gauge(server, "streambus_storage_logs "), gauge(server, "streambus_storage_stray_logs "))
}

/// Writes `value` to the first partition of a topic, whoever leads it, until it is taken.
async fn write(by: &mut BTreeMap<u32, TestClient>, topic: TopicId, value: &str) {
    let request = produce_request(topic, 0, Acks::All, batch(&[value], None));
    let written = async || {
        let mut is_taken = false;
        for client in by.values_mut() {
            let answer = client.call(&request).await.expect("an answer");
            is_taken |= answer.partitions[0].result.is_ok();
            if is_taken {
                break;
            }
        }
        is_taken
    };
    until(written, |is_taken| *is_taken).await;
}

/// A new leader shows records once its followers have told it that they are committed.
fn has_records(answer: &FetchResponse) -> bool {
    answer.partitions[0].result.is_ok() && !values(&answer.partitions[0]).is_empty()
}

// Trap 21. Catches a log that stays for ever because its broker was down when the topic was deleted, and a broker that leads
// a topic of the same name with the old one's records.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_deleted_and_created_anew_while_a_broker_is_down_begins_empty_there() {
    let founders = Founders::new(3);
    let mut servers = founders.start_all().await;
    let mut by = BTreeMap::new();
    for (id, server) in &servers {
        by.insert(*id, client(server).await);
    }
    let old = create(by.get_mut(&1).expect("connected"), "again", 3).await.id;
    let other = create(by.get_mut(&1).expect("connected"), "other", 3).await.id;
    until(async || logs_of(&servers[&3]), |logs| *logs == (Some(6), Some(0))).await;
    write(&mut by, old, "old").await;
    write(&mut by, other, "kept").await;
    by.remove(&3).expect("connected");
    servers.remove(&3).expect("started").drain_and_stop(PATIENCE).await.expect("an orderly stop");
    let first = by.get_mut(&1).expect("connected");
    first.call(&DeleteTopicRequest { name: name("again") }).await.expect("deleted");
    let created = until(
        async || {
            let request = CreateTopicRequest {
                name: name("again"),
                partitions: 1,
                replication_factor: 2,
                config: BTreeMap::new(),
                validate_only: false,
            };
            first.call(&request).await
        },
        Result::is_ok,
    );
    let new = created.await.expect("created anew").id;
    write(&mut by, new, "new").await;

    servers.insert(3, founders.start(3).await);
    // Three partitions of the other topic; the new one is on the others, which were there when it was created.
    until(async || logs_of(&servers[&3]), |logs| *logs == (Some(3), Some(0))).await;
    let first = by.get_mut(&1).expect("connected");
    let replicas = Some(ids(&[3, 1, 2]));
    let reassign =
        ReassignRequest { topic: name("again"), partition: PartitionIndex::new(0), replicas, throttle: None };
    first.call(&reassign).await.expect("it moves");
    let lead = ElectLeaderRequest {
        topic: name("again"),
        partition: PartitionIndex::new(0),
        choice: LeaderChoice::Broker(BrokerId::new(3)),
    };
    until(async || first.call(&lead).await, Result::is_ok).await.expect("it is in sync");
    let mut third = client(&servers[&3]).await;
    let read = async || third.fetch(&fetch_request(new, 0, 0, 100)).await;
    let answer = until(read, has_records).await;
    assert_eq!(values(&answer.partitions[0]), ["new"]);
    let of_old = third.fetch(&fetch_request(old, 0, 0, 0)).await;
    let refused = of_old.partitions.into_iter().next().expect("one").result.expect_err("it is gone");
    assert_eq!(refused.code, ErrorCode::UnknownTopicId);
    assert_eq!(logs_of(&servers[&3]), (Some(4), Some(0)));
}

// Catches disks that fill with what was moved off them.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_moved_leaves_no_log_behind() {
    let founders = Founders::new(3);
    let servers = founders.start_all().await;
    let mut by = BTreeMap::new();
    for (id, server) in &servers {
        by.insert(*id, client(server).await);
    }
    let topic = create(by.get_mut(&1).expect("connected"), "moved", 2).await.id;
    write(&mut by, topic, "kept").await;
    let first = by.get_mut(&1).expect("connected");
    let before = layout(first, "moved").await.expect("a layout")[0].replicas.clone();
    let joins = (1..=3).find(|id| !before.contains(&BrokerId::new(*id))).expect("one of three");
    let (leaves, stays) = (before[0].get(), before[1].get());
    let counts = async || [leaves, stays, joins].map(|id| logs_of(&servers[&id]).0);
    until(counts, |logs| *logs == [Some(2); 3]).await;
    let replicas = Some(ids(&[stays, joins]));
    let partition = PartitionIndex::new(0);
    let reassign = ReassignRequest { topic: name("moved"), partition, replicas, throttle: None };
    first.call(&reassign).await.expect("it moves");
    until(counts, |logs| *logs == [Some(1), Some(2), Some(3)]).await;
    assert_eq!(logs_of(&servers[&leaves]).1, Some(0), "nothing is in doubt");
    let lead =
        ElectLeaderRequest { topic: name("moved"), partition, choice: LeaderChoice::Broker(BrokerId::new(joins)) };
    until(async || first.call(&lead).await, Result::is_ok).await.expect("it is in sync");
    let newcomer = by.get_mut(&joins).expect("connected");
    let read = async || newcomer.fetch(&fetch_request(topic, 0, 0, 100)).await;
    let answer = until(read, has_records).await;
    assert_eq!(values(&answer.partitions[0]), ["kept"]);
}
