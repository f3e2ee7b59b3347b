//! A broker that stops, dies, loses its metadata or is left alone: what the others, and it, say and do then.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::founders::{Founders, Orders, client, create, describe, ids, layout, until};
use crate::harness::{PATIENCE, TestClient, fetch_request, name, values, within};
use streambus_broker::lifecycle::State;
use streambus_consensus::database::MemoryDatabase;
use streambus_protocol::api::metadata::{MetadataRequest, MetadataResponse, PartitionLayout};
use streambus_protocol::api::offsets::{ListOffsetsRequest, OffsetQuery, OffsetsPartition};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::api::topics::{CreateTopicRequest, DescribeTopicRequest};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, PartitionIndex};
use tokio::time::Instant;

// Catches a planned stop that leaves its partitions without a leader, and a broker that does not come back as itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stops_hands_its_leaderships_over_first_and_comes_back() {
    let mut orders = Orders::begin().await;
    orders.led_by(3).await;
    let Orders { founders, mut servers, mut first, .. } = orders;
    let third = servers.remove(&3).expect("started");
    third.drain_and_stop(PATIENCE).await.expect("an orderly stop");
    let now = layout(&mut first, "orders").await.expect("a layout");
    for partition in &now {
        assert!(partition.leader.is_some_and(|leader| leader != BrokerId::new(3)), "{partition:?}");
    }
    servers.insert(3, founders.start(3).await);
    let state = describe(&mut first).await;
    let again = state.brokers.iter().find(|broker| broker.endpoint.id == BrokerId::new(3)).expect("known");
    assert!(!again.fenced && again.is_voter && again.leaders == 0, "{again:?}");
}

// Catches a leader that answers with an old end although others may have gone on without it, and one that refuses what
// nobody else holds, or goes on refusing when there is a controller again.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_controller_refuses_what_others_hold_too() {
    let founders = Founders::new(3);
    let mut servers = founders.start_all().await;
    let mut last = client(&servers[&1]).await;
    let (shared, own) = (create(&mut last, "shared", 3).await.id, create(&mut last, "own", 1).await.id);
    let only_here = |partition: &PartitionLayout| partition.replicas == ids(&[1]);
    let own_layout = until(async || layout(&mut last, "own").await, Option::is_some).await.expect("a layout");
    let own_index = own_layout.iter().find(|partition| only_here(partition)).expect("one for each broker").index;
    for id in [2, 3] {
        servers.remove(&id).expect("started").drain_and_stop(PATIENCE).await.expect("an orderly stop");
    }
    let latest = async |client: &mut TestClient, topic, partition| {
        let asked = vec![OffsetsPartition { topic, partition, query: OffsetQuery::Latest }];
        let answer = client.call(&ListOffsetsRequest { partitions: asked }).await.expect("an answer");
        answer.partitions.into_iter().next().expect("one").result
    };
    let first = PartitionIndex::new(0);
    let is_refused = |answer: &Result<_, ErrorBody>| {
        answer.as_ref().is_err_and(|error| error.code == ErrorCode::NotLeader && error.leader.is_none())
    };
    let refused = until(async || latest(&mut last, shared, first).await, is_refused).await.expect_err("refused");
    assert!(refused.message.contains("cluster.session_timeout"), "{}", refused.message);
    let of_own = latest(&mut last, own, own_index).await;
    assert!(of_own.is_ok(), "{of_own:?}: nobody else can have it");
    // Nor does it call the others ready, of which it has not heard since, or name a controller.
    let old = until(async || describe(&mut last).await, |cluster| cluster.silent == ids(&[2, 3])).await;
    assert!(old.without_quorum_ms.is_some_and(|time| time >= 2_000), "{old:?}");
    assert_eq!(old.controller, None);
    let states: Vec<&str> = old.brokers.iter().map(|broker| broker.state.as_str()).collect();
    assert_eq!(states, ["ready", "silent", "silent"]);
    // What it knows it says; what it does not know may exist all the same.
    assert!(layout(&mut last, "shared").await.is_some());
    let unsure = last.call(&DescribeTopicRequest { name: name("never-made") }).await.expect_err("nobody knows");
    assert_eq!(unsure.code, ErrorCode::NoController, "{unsure:?}");
    assert!(unsure.message.contains("never-made"), "{unsure:?}");
    let asked = MetadataRequest { topics: Some(vec![name("shared"), name("never-made")]) };
    let answer: MetadataResponse = last.call(&asked).await.expect("metadata");
    let outcomes: Vec<Option<ErrorCode>> =
        answer.topics.iter().map(|topic| topic.outcome.as_ref().err().map(|error| error.code)).collect();
    assert_eq!(outcomes, [None, Some(ErrorCode::NoController)]);
    servers.insert(2, founders.start(2).await);
    until(async || latest(&mut last, shared, first).await, |answer| !is_refused(answer)).await.ok();
    let now = until(async || describe(&mut last).await, |cluster| cluster.without_quorum_ms.is_none()).await;
    assert!(now.controller.is_some() && now.silent.is_empty(), "{now:?}");
}

// Catches a broker whose metadata has failed and that waits, before it ends, for an answer that it cannot get.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_metadata_ends_at_once() {
    let mut founders = Founders::new(3);
    let database = MemoryDatabase::new(|| Duration::ZERO);
    founders.metadata.insert(3, database.clone());
    let mut servers = founders.start_all().await;
    let mut first = client(&servers[&1]).await;
    database.crash(usize::MAX);
    // Something to put into the database that is gone. If this broker is the controller, nobody knows what became of it.
    let news = CreateTopicRequest {
        name: name("news"),
        partitions: 1,
        replication_factor: 1,
        config: BTreeMap::new(),
        validate_only: false,
    };
    first.call(&news).await.ok();
    let failed = servers.remove(&3).expect("started");
    let state = within(failed.stopped()).await;
    assert!(matches!(&state, State::Failed(reason) if reason.contains("metadata")), "{state:?}");
    let began = Instant::now();
    // It cannot be orderly; that it is over is what counts.
    failed.drain_and_stop(PATIENCE).await.ok();
    assert!(began.elapsed() < Duration::from_secs(9), "it took {:?}", began.elapsed());
}

// Catches an acknowledgement that counts fewer disks than it says, and a record that is gone with the broker that
// acknowledged it.
#[tokio::test(flavor = "multi_thread")]
async fn what_three_brokers_acknowledged_is_there_when_one_of_them_dies() {
    let mut orders = Orders::begin().await;
    let partition = orders.led_by(2).await;
    // The directories stay until the end.
    let Orders { founders: _founders, mut servers, mut first, topic } = orders;
    let mut leader = client(&servers[&2]).await;
    let produced = until(
        async || leader.produce(topic, partition.get(), &["a", "b"]).await,
        // Until it has taken up its part and its followers have fetched for the first time.
        |produced| produced.is_ok(),
    );
    let receipt = produced.await.expect("acknowledged").receipt;
    assert!(receipt.durable >= 2 && receipt.replicas >= receipt.durable, "{receipt:?}");
    // Dropped, it ends as a crash would.
    drop(servers.remove(&2));
    let moved = until(
        async || layout(&mut first, "orders").await,
        |layout| {
            layout.iter().flatten().all(|partition| partition.leader.is_some_and(|leader| leader != BrokerId::new(2)))
        },
    );
    let now = moved.await.expect("a layout");
    let heir = now[usize::try_from(partition.get()).expect("small")].leader.expect("a leader");
    let mut heir = client(&servers[&heir.get()]).await;
    let read = until(
        async || {
            let response = heir.fetch(&fetch_request(topic, partition.get(), 0, 100)).await;
            response.partitions.first().filter(|outcome| outcome.result.is_ok()).map(values)
        },
        |values| values.as_ref().is_some_and(|values| values.len() >= 2),
    );
    assert_eq!(read.await.expect("records"), ["a", "b"]);
}
