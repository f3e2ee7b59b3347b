//! Receipts over a store whose disk is asked by hand: nothing is durable before the test says so.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use streambus_protocol::api::replica::ReplicaFetchPartition;
use streambus_protocol::batch::ProducerStamp;
use streambus_protocol::epoch::{BrokerEpoch, PartitionEpoch};
use streambus_protocol::ids::{BrokerId, PartitionId, ProducerEpoch, ProducerId, Sequence};
use streambus_storage::config::StoreConfig;
use streambus_storage::partition_log::LogOptions;
use streambus_storage::store::Store;

use super::*;
use crate::partition::fixture;
use crate::partition::lead::FollowerNews;
use crate::partition::role::{Leadership, Role};
use crate::replication::leader_state::Registered;

fn partition(durability: Durability) -> (Store, Arc<Partition>) {
    let store = fixture::store(StoreConfig::tiny());
    let partition = fixture::partition(&store, 0, durability);
    (store, partition)
}

fn append(partition: &Arc<Partition>, sequence: i32) -> Appended {
    let producer = Some(ProducerStamp {
        id: ProducerId::new(1),
        epoch: ProducerEpoch::new(0),
        base_sequence: Sequence::new(sequence),
    });
    let batch = fixture::batch(b"v", producer);
    partition.append(batch, LeaderEpoch::UNKNOWN, Acks::All).expect("appended")
}

fn options(durability: Durability) -> LogOptions {
    LogOptions::from(&fixture::settings(durability))
}

// Catches a receipt made of the topic's setting: the log had given another promise in the moment of its change.
#[test]
fn a_change_to_async_is_not_acknowledged_as_durable() {
    let (store, partition) = partition(Durability::Sync);
    // The log obeys the new setting before the partition's part in it is replaced.
    store.set_options(partition.id(), options(Durability::Async)).expect("set");
    let appended = append(&partition, 0);
    let receipt = appended.committed().now_or_never().expect("async waits for nothing").expect("acknowledged");
    assert_eq!(receipt, Receipt { replicas: 1, durable: 0 });
}

// Catches a new leader that answers a repeat with its own disk alone although it knows that the record was committed, and
// one that counts a replica that is not in sync.
#[test]
fn a_repeat_of_what_was_committed_before_counts_the_replicas_in_sync() {
    let (store, partition) = partition(Durability::Sync);
    let original = append(&partition, 0);
    while store.step() {}
    let id = BrokerId::new;
    let role = Role {
        leader_epoch: LeaderEpoch::new(2),
        replicas: vec![id(1), id(2), id(3)],
        in_sync: vec![id(1), id(3)],
        ..Role::clone(&partition.role())
    };
    partition.log().start_epoch(role.leader_epoch).expect("a new leadership");
    while store.step() {}
    // Its followers have not said a word in this leadership.
    partition.set_role(role.clone(), Duration::ZERO);
    let again = append(&partition, 0);
    assert_eq!((again.base, again.placing), (original.base, Placing::Repeated));
    let receipt = again.committed().now_or_never().expect("committed before").expect("acknowledged");
    assert_eq!(receipt, Receipt { replicas: 2, durable: 2 });
    let new = append(&partition, 1).committed().now_or_never();
    assert!(new.is_none(), "what is new waits for the followers: {new:?}");
}

// Catches a repeat that rides on a watermark which has stopped meaning the disk.
#[test]
fn a_repeat_is_durable_only_once_the_original_is() {
    let (store, partition) = partition(Durability::Sync);
    let original = append(&partition, 0);
    let mut waiting = Box::pin(append(&partition, 0).committed());
    assert!(waiting.as_mut().now_or_never().is_none(), "the original is not on disk");
    store.set_options(partition.id(), options(Durability::Async)).expect("set");
    let receipt = waiting.now_or_never().expect("committed by the new setting").expect("acknowledged");
    assert_eq!(receipt, Receipt { replicas: 1, durable: 0 });

    store.set_options(partition.id(), options(Durability::Sync)).expect("set");
    let again = append(&partition, 0);
    assert_eq!((again.base, again.placing), (original.base, Placing::Repeated));
    let mut again = Box::pin(again.committed());
    assert!(again.as_mut().now_or_never().is_none());
    while store.step() {}
    let receipt = again.now_or_never().expect("on disk").expect("acknowledged");
    assert_eq!(receipt, Receipt { replicas: 1, durable: 1 });
    let first = original.committed().now_or_never().expect("on disk").expect("acknowledged");
    assert_eq!(first.durable, 1);
}

// Catches a client of an earlier leadership that has to ask who leads although it is told no.
#[test]
fn a_request_of_an_earlier_leadership_hears_the_present_one() {
    let (_store, partition) = partition(Durability::Sync);
    let role = Role { leader_epoch: LeaderEpoch::new(4), ..Role::clone(&partition.role()) };
    partition.set_role(role, Duration::ZERO);
    let here =
        streambus_protocol::api::session::LeaderHint { leader: BrokerId::new(1), leader_epoch: LeaderEpoch::new(4) };
    let late = partition.append(fixture::batch(b"v", None), LeaderEpoch::new(3), Acks::All).expect_err("fenced");
    assert_eq!((late.code, late.leader), (ErrorCode::FencedLeaderEpoch, Some(here)));
    let read = partition.lead(LeaderEpoch::new(3)).expect_err("fenced");
    assert_eq!((read.code, read.leader), (ErrorCode::FencedLeaderEpoch, Some(here)));
    let ahead = partition.lead(LeaderEpoch::new(5)).expect_err("unknown");
    assert_eq!((ahead.code, ahead.leader), (ErrorCode::UnknownLeaderEpoch, None));
}

// Catches a producer that waits out its whole deadline because the partition moved off its leader, or was deleted.
#[test]
fn who_gives_a_partition_up_tells_those_who_wait_for_a_commit() {
    let (_store, partition) = partition(Durability::Sync);
    let brokers = vec![BrokerId::new(1), BrokerId::new(2)];
    let shared = Role { replicas: brokers.clone(), in_sync: brokers, ..Role::clone(&partition.role()) };
    partition.set_role(shared, Duration::ZERO);
    let mut waiting = Box::pin(append(&partition, 0).committed());
    assert!(waiting.as_mut().now_or_never().is_none(), "broker 2 has not copied it");
    partition.resign(Leadership::There(BrokerId::new(2)), LeaderEpoch::new(2));
    let refused = waiting.now_or_never().expect("at once").expect_err("it is not committed");
    assert_eq!(refused.code, ErrorCode::LeadershipLost);
    assert_eq!(refused.leader.map(|hint| hint.leader), Some(BrokerId::new(2)), "who leads now");
    let late = partition.append(fixture::batch(b"v", None), LeaderEpoch::UNKNOWN, Acks::All);
    assert_eq!(late.expect_err("nothing is appended after that").code, ErrorCode::NotLeader);
}

/// A follower that wants to hear nothing.
struct Deaf;

impl FollowerNews for Deaf {
    fn has_records(&self, _id: PartitionId) {}
    fn has_watermark(&self, _id: PartitionId) {}
}

// Catches a replica that joins without a record which the only replica had taken before: its own disk acknowledges it, and
// when that broker fails, the other one is elected without it.
#[test]
fn whoever_joins_the_only_replica_has_what_that_one_had_taken() {
    let (store, partition) = partition(Durability::Sync);
    let taken = append(&partition, 0);
    let (me, two, now) = (BrokerId::new(1), BrokerId::new(2), Duration::ZERO);
    let life = |epoch| Registered { epoch: BrokerEpoch::new(epoch), may_join: true };
    let role = Role {
        partition_epoch: PartitionEpoch::new(1),
        replicas: vec![me, two],
        registered: BTreeMap::from([(me, life(1)), (two, life(2))]),
        ..Role::clone(&partition.role())
    };
    partition.set_role(role, now);
    let news: Arc<dyn FollowerNews> = Arc::new(Deaf);
    let wants_to_join = |end: Offset, last_fetched_epoch| {
        let position = ReplicaFetchPartition {
            topic: partition.id().topic,
            partition: partition.id().partition,
            leader_epoch: partition.role().leader_epoch,
            fetch_offset: end,
            durable_end: end,
            accepted_end: end,
            last_fetched_epoch,
            log_start: Offset::ZERO,
            known_high_watermark: Offset::ZERO,
            bytes_max: 1 << 20,
        };
        let look = partition.on_follower_fetch((two, BrokerEpoch::new(2)), &position, &news, now);
        look.expect("a follower").wants_change
    };
    assert!(!wants_to_join(Offset::ZERO, LeaderEpoch::UNKNOWN), "it has nothing");
    assert_eq!(partition.next_isr_change(now), None);
    let next = taken.next;
    while store.step() {}
    let receipt = taken.committed().now_or_never().expect("its disk has it").expect("acknowledged");
    assert_eq!(receipt, Receipt { replicas: 1, durable: 1 });
    assert!(wants_to_join(next, partition.role().leader_epoch), "it has all of it");
    let change = partition.next_isr_change(now).expect("it joins");
    assert_eq!(change.isr.iter().map(|member| member.broker).collect::<Vec<_>>(), [me, two]);
}
