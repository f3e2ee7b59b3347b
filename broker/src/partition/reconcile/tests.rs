//! Following the metadata over a disk that stands still, and over one that holds more than the metadata wants.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use streambus_consensus::command::{Assignment, Command};
use streambus_protocol::api::produce::Acks;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, TopicId};
use streambus_protocol::timestamp::Timestamp;
use streambus_storage::clock::ManualClock;
use streambus_storage::config::StoreConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::lifecycle::Lifecycle;
use crate::partition::discard;
use crate::partition::fixture::{self, Metadata};
use crate::tasks::follow_metadata;

mod strays;

const ONE: BrokerId = BrokerId::new(1);
const TWO: BrokerId = BrokerId::new(2);

// Catches leaderships that last for as long as the disk hangs under another one, and a broker that says that it has given
// them up before it has.
#[tokio::test]
async fn leaderships_end_although_the_disk_stands_still() {
    let mut metadata = Metadata::founded();
    let epoch = metadata.start(ONE);
    metadata.start(TWO);
    let at = Timestamp::from_millis(1);
    let topic = |n: u8, leader, follower| Command::CreateTopic {
        name: TopicName::new(&format!("t{n}")).expect("a name"),
        id: TopicId::from_bytes([n; 16]),
        partitions: vec![Assignment { replicas: vec![leader, follower] }],
        config: BTreeMap::new(),
        at,
    };
    metadata.apply(&topic(1, ONE, TWO));
    let clock = Arc::new(ManualClock::new(at));
    let registry = Arc::new(Registry::new());
    let store = fixture::store(StoreConfig::default());
    let owner = Owner { broker: ONE, lag_limit: Duration::from_secs(10) };
    let mut reconciler = Reconciler::new(owner, epoch, store.clone(), Arc::clone(&registry), clock);
    let mut stepped_down = registry.watch_stepped_down();
    let first = metadata.image();
    let reaching = TaskTracker::new().spawn(async move { reconciler.reach(first).await.map(|()| reconciler) });
    while !reaching.is_finished() {
        store.step();
        tokio::task::yield_now().await;
    }
    let mut reconciler = reaching.await.expect("no panic").expect("reached");
    let led = PartitionId { topic: TopicId::from_bytes([1; 16]), partition: PartitionIndex::new(0) };
    let leadership = || registry.get(led).expect("held here").role().leadership;
    assert_eq!(leadership(), Leadership::Here);

    metadata.apply(&Command::FenceBroker { broker: ONE, epoch });
    metadata.apply(&Command::UnfenceBroker { broker: ONE, epoch });
    metadata.apply(&topic(2, ONE, TWO));
    let (second, index) = (metadata.image(), metadata.index());
    // The second topic's first epoch has to reach the disk, and nobody moves it there.
    let reaching = TaskTracker::new().spawn(async move { reconciler.reach(second).await });
    stepped_down.wait_for(|known| *known >= index).await.expect("the registry is there");
    assert_eq!(leadership(), Leadership::There(TWO));
    assert!(!reaching.is_finished(), "the disk stands still");
    reaching.abort();
}

// Catches a disk that hangs while one leadership is taken up and holds back all news, so that after a session nothing is
// served any more; and a leadership that begins, once the disk moves again, although it has ended meanwhile.
#[tokio::test]
async fn newer_metadata_is_acted_on_while_a_leadership_waits_for_the_disk() {
    let mut metadata = Metadata::founded();
    let epoch = metadata.start(ONE);
    metadata.start(TWO);
    let at = Timestamp::from_millis(1);
    let topic = |n: u8| Command::CreateTopic {
        name: TopicName::new(&format!("t{n}")).expect("a name"),
        id: TopicId::from_bytes([n; 16]),
        partitions: vec![Assignment { replicas: vec![ONE, TWO] }],
        config: BTreeMap::new(),
        at,
    };
    metadata.apply(&topic(1));
    let clock = Arc::new(ManualClock::new(at));
    let registry = Arc::new(Registry::new());
    let store = fixture::store(StoreConfig::default());
    let owner = Owner { broker: ONE, lag_limit: Duration::from_secs(10) };
    let reconciler = Reconciler::new(owner, epoch, store.clone(), Arc::clone(&registry), clock);
    let mut stepped_down = registry.watch_stepped_down();
    let (say, images) = tokio::sync::watch::channel(Arc::new(ClusterImage::empty()));
    let stop = CancellationToken::new();
    let (_desk, asked) = discard::desk(reconciler.quarantine());
    let never = std::future::pending;
    let following = follow_metadata::run(reconciler, images, never, asked, Lifecycle::new(), stop.clone());
    let following = TaskTracker::new().spawn(following);
    let id = |n: u8| PartitionId { topic: TopicId::from_bytes([n; 16]), partition: PartitionIndex::new(0) };
    let leadership = |n: u8| registry.get(id(n)).map(|partition| partition.role().leadership);
    // Does the disk's work until `is_so`, and checks at each step that the second topic is never led here.
    let work = async |until: &dyn Fn() -> bool| {
        let steps = async {
            while !until() {
                store.step();
                assert_ne!(leadership(2), Some(Leadership::Here), "that leadership has ended before it began");
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), steps).await.expect("it does not come to that");
    };
    say.send_replace(metadata.image());
    work(&|| leadership(1) == Some(Leadership::Here)).await;

    metadata.apply(&topic(2));
    let waiting = metadata.index();
    say.send_replace(metadata.image());
    stepped_down.wait_for(|known| *known >= waiting).await.expect("the registry is there");
    // Its first epoch has to reach the disk, and nobody moves it there. Meanwhile both are given to another broker.
    metadata.apply(&Command::FenceBroker { broker: ONE, epoch });
    let newer = metadata.index();
    say.send_replace(metadata.image());
    let known = stepped_down.wait_for(|known| *known >= newer);
    tokio::time::timeout(Duration::from_secs(30), known).await.expect("the disk holds it back").expect("a registry");
    assert_eq!(leadership(1), Some(Leadership::There(TWO)));
    assert_eq!(leadership(2), None, "the disk stands still");
    work(&|| leadership(2) == Some(Leadership::There(TWO))).await;
    stop.cancel();
    following.await.expect("it ends");
}

/// Follows the metadata to `image`, while the disk does its work.
async fn reach(mut reconciler: Reconciler, image: Arc<ClusterImage>, store: &Store) -> Reconciler {
    let reaching = TaskTracker::new().spawn(async move { reconciler.reach(image).await.map(|()| reconciler) });
    while !reaching.is_finished() {
        store.step();
        tokio::task::yield_now().await;
    }
    reaching.await.expect("no panic").expect("reached")
}

// Catches a partition that moved off this broker and is held on to: whoever waits for a commit here is not told who leads,
// and what a former leader sends late is still copied into a log that nobody looks after.
#[tokio::test]
async fn a_partition_that_moved_away_is_given_up() {
    let mut metadata = Metadata::founded();
    let epoch = metadata.start(ONE);
    metadata.start(TWO);
    let at = Timestamp::from_millis(1);
    let id = |n: u8| PartitionId { topic: TopicId::from_bytes([n; 16]), partition: PartitionIndex::new(0) };
    for (n, replicas) in [(1, vec![ONE, TWO]), (2, vec![TWO, ONE])] {
        metadata.apply(&Command::CreateTopic {
            name: TopicName::new(&format!("t{n}")).expect("a name"),
            id: TopicId::from_bytes([n; 16]),
            partitions: vec![Assignment { replicas }],
            config: BTreeMap::new(),
            at,
        });
    }
    let registry = Arc::new(Registry::new());
    let store = fixture::store(StoreConfig::default());
    let owner = Owner { broker: ONE, lag_limit: Duration::from_secs(10) };
    let clock = Arc::new(ManualClock::new(at));
    let reconciler = Reconciler::new(owner, epoch, store.clone(), Arc::clone(&registry), clock);
    let reconciler = reach(reconciler, metadata.image(), &store).await;
    let held = |n: u8| registry.get(id(n)).expect("held here");
    let (led, followed) = (held(1), held(2));
    let produced = led.append(fixture::batch(b"v", None), LeaderEpoch::UNKNOWN, Acks::All).expect("it leads");
    assert!(followed.follower_position(TWO, 1_000).is_some(), "it follows");

    for n in [1, 2] {
        metadata.apply(&Command::Reassign { id: id(n), replicas: vec![TWO], throttle: None });
    }
    reach(reconciler, metadata.image(), &store).await;
    assert!(registry.is_empty(), "neither is held here any more");
    let refused = produced.committed().now_or_never().expect("at once").expect_err("it is not committed");
    assert_eq!((refused.code, refused.leader.map(|hint| hint.leader)), (ErrorCode::LeadershipLost, Some(TWO)));
    assert!(followed.follower_position(TWO, 1_000).is_none(), "it copies on");
}
