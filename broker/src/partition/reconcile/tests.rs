//! Following the metadata over a disk that stands still.

use std::collections::BTreeMap;
use std::time::Duration;

use streambus_consensus::command::{Assignment, Command};
use streambus_protocol::ids::TopicId;
use streambus_protocol::timestamp::Timestamp;
use streambus_storage::clock::ManualClock;
use streambus_storage::config::StoreConfig;
use tokio_util::task::TaskTracker;

use super::*;
use crate::partition::fixture::{self, Metadata};

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
    let mut reconciler = Reconciler::new(owner, store.clone(), Arc::clone(&registry), clock);
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
