//! Reads from the replica that is near the reader.

use std::collections::BTreeMap;

use crate::founders::{Founders, client, create, layout, rack, until};
use crate::harness::{PATIENCE, TestClient, at, batch, fetch_request, produce_request, values};
use streambus_protocol::api::fetch::{FetchRequest, FetchResponse};
use streambus_protocol::api::produce::Acks;
use streambus_protocol::api::subscribe::{PushedBatches, SubscribePartition, SubscribeRequest, SubscribeResponse};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, PartitionIndex, TopicId};

/// A fetch of a topic's first partition, by a reader in `rack`.
fn read_from(topic: TopicId, offset: u64, rack: Option<String>) -> FetchRequest {
    FetchRequest { rack, ..fetch_request(topic, 0, offset, 2_000) }
}

// KIP-392. Catches a leader that sends nobody to the near replica, a follower that answers who did not ask for it, shows
// what is not committed or calls out of range what only its leader has, and streams that outlive their leadership.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_is_served_by_the_replica_in_its_rack() {
    let founders = Founders::new(3);
    let mut servers = founders.start_all().await;
    let mut by = BTreeMap::new();
    for (id, server) in &servers {
        by.insert(*id, client(server).await);
    }
    let first = by.get_mut(&1).expect("connected");
    let topic = create(first, "near", 3).await.id;
    let layout = until(async || layout(first, "near").await, Option::is_some).await.expect("a layout");
    let leader = layout[0].leader.expect("a leader").get();
    let follower = leader % 3 + 1;
    let there = || Some(rack(follower));
    let written = ["a", "b", "c"];
    for value in written {
        let request = produce_request(topic, 0, Acks::All, batch(&[value], None));
        let to_leader = async || by.get_mut(&leader).expect("connected").call(&request).await.expect("an answer");
        until(to_leader, |answer| answer.partitions[0].result.is_ok()).await;
    }
    let at_leader = by.get_mut(&leader).expect("connected");
    let sent_on = |answer: &FetchResponse| {
        let hint = answer.partitions[0].result.as_ref().err().filter(|error| error.code == ErrorCode::NearerReplica);
        hint.and_then(|error| error.leader).is_some_and(|hint| hint.leader == BrokerId::new(follower))
    };
    // All three are in sync once the leader has heard them.
    until(async || at_leader.fetch(&read_from(topic, 0, there())).await, sent_on).await;
    for rack in [None, Some(rack(leader)), Some("elsewhere".to_owned())] {
        assert_eq!(values(&at_leader.fetch(&read_from(topic, 0, rack)).await.partitions[0]), written);
    }
    let at_follower = by.get_mut(&follower).expect("connected");
    let all = |answer: &FetchResponse| answer.partitions[0].result.is_ok() && values(&answer.partitions[0]) == written;
    until(async || at_follower.fetch(&read_from(topic, 0, there())).await, all).await;
    let refused = async |client: &mut TestClient, offset, rack| {
        let answer = client.fetch(&read_from(topic, offset, rack)).await;
        answer.partitions.into_iter().next().expect("one").result.expect_err("refused").code
    };
    assert_eq!(refused(at_follower, 0, None).await, ErrorCode::NotLeader, "nobody asked for a follower");
    assert_eq!(refused(at_follower, 99, there()).await, ErrorCode::OffsetNotAvailable, "its leader may have it");

    let partitions = vec![SubscribePartition {
        topic,
        partition: PartitionIndex::new(0),
        offset: at(3),
        leader_epoch: layout[0].leader_epoch,
    }];
    let request = SubscribeRequest { subscription: 1, credit_bytes: 1 << 20, partitions, rack: there() };
    let stream = at_follower.send(&request).await;
    let opened: SubscribeResponse = at_follower.response(stream).await.expect("an answer");
    assert!(opened.partitions[0].2.is_ok(), "{opened:?}");
    let request = produce_request(topic, 0, Acks::All, batch(&["d"], None));
    by.get_mut(&leader).expect("connected").call(&request).await.expect("an answer");
    let at_follower = by.get_mut(&follower).expect("connected");
    let push: PushedBatches = at_follower.push(stream).await;
    assert_eq!(values(&push.partitions[0]), ["d"]);
    servers.remove(&leader).expect("started").drain_and_stop(PATIENCE).await.expect("an orderly stop");
    let push: PushedBatches = at_follower.push(stream).await;
    assert!(push.partitions[0].result.is_err(), "the leadership ended: {push:?}");
}
