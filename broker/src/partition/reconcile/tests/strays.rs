//! Logs on the disk that the metadata does not want here, over more than one life of a broker.

use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};

use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::offset::Offset;
use streambus_protocol::topic_config::Retention;
use streambus_storage::partition_log::Agreed;
use tokio::sync::watch;

use super::*;
use crate::partition::discard::{Discard, DiscardError, StrayDesk};
use crate::partition::fate::Doubt;

const THREE: BrokerId = BrokerId::new(3);
const BROKERS: [BrokerId; 3] = [ONE, TWO, THREE];

/// One life of a broker over its disk.
struct Process {
    store: Store,
    registry: Arc<Registry>,
    reconciler: Reconciler,
}

impl Process {
    fn start(broker: BrokerId, epoch: BrokerEpoch, store: &Store) -> Self {
        for id in store.log_ids() {
            // What an earlier process has said of it is not stored.
            let log = store.log(id).expect("a log");
            log.set_protect(None);
            log.set_agreed(Agreed::Unknown);
        }
        let registry = Arc::new(Registry::new());
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1)));
        let owner = Owner { broker, lag_limit: Duration::from_secs(10) };
        let reconciler = Reconciler::new(owner, epoch, store.clone(), Arc::clone(&registry), clock);
        Self { store: store.clone(), registry, reconciler }
    }

    /// Follows `image` as the task does, while the disk works.
    async fn follow(&mut self, image: Arc<ClusterImage>) {
        let store = self.store.clone();
        let mut following = pin!(async {
            self.reconciler.reach(Arc::clone(&image)).await?;
            self.reconciler.sweep(&image).await
        });
        let followed = async {
            loop {
                tokio::select! {
                    biased;
                    followed = &mut following => return followed,
                    () = tokio::task::yield_now() => { store.step(); }
                }
            }
        };
        let followed = tokio::time::timeout(Duration::from_secs(30), followed).await.expect("it hangs");
        followed.expect("the disk takes it");
    }

    fn has_log(&self, id: PartitionId) -> bool {
        self.store.log(id).is_some()
    }

    fn serves(&self, id: PartitionId) -> bool {
        self.registry.get(id).is_some()
    }

    /// Appends a record under the newest epoch of the log, as whoever leads would.
    fn write(&self, id: PartitionId, value: &[u8]) {
        let log = self.store.log(id).expect("a log");
        let epoch = log.latest_epoch().map_or(LeaderEpoch::ZERO, |latest| latest.epoch);
        let placed = fixture::batch(value, None).place(log.log_end(), epoch);
        let _durable = log.append(placed).expect("appended");
        while self.store.step() {}
    }

    fn doubts(&self) -> Vec<Doubt> {
        self.reconciler.quarantine().watch().borrow().values().map(|stray| stray.doubt).collect()
    }
}

/// A broker that has a record of a partition, and the cluster that wants it there.
struct Holding {
    metadata: Metadata,
    epoch: BrokerEpoch,
    store: Store,
    id: PartitionId,
    process: Process,
}

impl Holding {
    /// Brokers ONE and TWO are its replicas; this is ONE.
    async fn start() -> Self {
        let mut metadata = Metadata::founded();
        let epoch = metadata.start(ONE);
        metadata.start(TWO);
        let id = metadata.create_topic(1, "t", &[ONE, TWO]);
        let store = fixture::store(StoreConfig::default());
        let mut process = Process::start(ONE, epoch, &store);
        process.follow(metadata.image()).await;
        process.write(id, b"record");
        Self { metadata, epoch, store, id, process }
    }
}

// Trap 21. Catches a log that outlives its topic because its broker was down when that was deleted, and old records in a
// topic that was created anew under the same name.
#[tokio::test]
async fn a_topic_deleted_while_a_broker_was_down_is_gone_and_its_namesake_begins_empty() {
    let mut metadata = Metadata::founded();
    let epoch = metadata.start(ONE);
    metadata.start(TWO);
    let old = metadata.create_topic(1, "t", &[ONE, TWO]);
    let other = metadata.create_topic(3, "other", &[ONE, TWO]);
    let store = fixture::store(StoreConfig::default());
    let mut before = Process::start(ONE, epoch, &store);
    before.follow(metadata.image()).await;
    before.write(old, b"old");
    before.write(other, b"kept");
    drop(before);

    metadata.apply(&Command::DeleteTopic { id: old.topic });
    let new = metadata.create_topic(2, "t", &[ONE, TWO]);
    let epoch = metadata.restart(ONE, epoch);
    let mut after = Process::start(ONE, epoch, &store);
    after.follow(metadata.image()).await;
    assert!(!after.has_log(old) && !after.serves(old), "the metadata remembers the deletion");
    let log = |id| store.log(id).expect("held here");
    assert_eq!(log(new).log_start(), log(new).log_end(), "nothing of its namesake");
    assert_ne!(log(other).log_start(), log(other).log_end(), "another topic keeps its records");
    assert_eq!(after.doubts(), []);
    assert_eq!(store.log_ids(), [new, other]);
}

// Catches metadata that is empty, or was set back, and deletes records, by itself or through retention; a quarantine that
// nobody hears of; and one that does not end when the metadata is back.
#[tokio::test]
async fn empty_and_older_metadata_deletes_nothing_and_retention_neither() {
    let Holding { mut metadata, epoch, store, id, process: before } = Holding::start().await;
    for _ in 0..2 {
        before.write(id, b"precious");
    }
    drop(before);
    let log = store.log(id).expect("a log");
    let retention = Retention { time_ms: Some(1), bytes: Some(1) };
    store.set_options(id, LogOptions { retention, ..log.options() }).expect("set");
    let is_whole = || {
        store.apply_retention(Timestamp::from_millis(365 * 24 * 60 * 60 * 1_000));
        log.log_start() == Offset::ZERO && store.log(id).is_some()
    };

    let mut empty = Process::start(ONE, epoch, &store);
    empty.follow(Arc::new(ClusterImage::empty())).await;
    assert_eq!(empty.doubts(), [Doubt::Unconfirmed]);
    assert!(is_whole(), "nothing is known");

    // The same cluster, of which everything since its founding is forgotten.
    let mut set_back = Metadata::founded();
    let again = set_back.start(ONE);
    set_back.start(TWO);
    let mut older = Process::start(ONE, again, &store);
    older.follow(set_back.image()).await;
    assert_eq!(older.doubts(), [Doubt::UnknownTopic]);
    assert!(is_whole(), "a topic that is not known was not deleted for that");
    set_back.create_topic(9, "t", &[ONE, TWO]);
    older.follow(set_back.image()).await;
    assert_eq!(older.doubts(), [Doubt::UnknownTopic], "nor does its name find it");
    assert!(is_whole());

    let epoch = metadata.restart(ONE, epoch);
    let mut back = Process::start(ONE, epoch, &store);
    back.follow(metadata.image()).await;
    assert!(back.serves(id), "the metadata is back");
    assert_eq!(back.doubts(), [Doubt::UnknownTopic], "what the other history created is not known to this one");
    assert!(is_whole(), "nothing of it is known to be committed");
}

// Catches disks that fill with what was moved away, and a copy that goes while the move may still be called off; in the life
// that sees the move, and in the next one of a broker that was down meanwhile.
#[tokio::test]
async fn a_moved_partitions_old_log_goes_after_the_move_and_not_before() {
    for is_down in [false, true] {
        let Holding { mut metadata, epoch, store, id, mut process } = Holding::start().await;
        let third = metadata.start(THREE);
        metadata.apply(&Command::Reassign { id, replicas: vec![TWO, THREE], throttle: None });
        process.follow(metadata.image()).await;
        assert!(process.has_log(id) && process.serves(id), "it moves");
        metadata.set_in_sync(id, &BROKERS);
        // The move is complete, and one of the two that have to be in sync fails.
        metadata.apply(&Command::FenceBroker { broker: THREE, epoch: third });
        if is_down {
            process = Process::start(ONE, metadata.restart(ONE, epoch), &store);
        }
        process.follow(metadata.image()).await;
        assert!(process.has_log(id) && !process.serves(id), "too few have it");
        assert_eq!(process.doubts(), [Doubt::TooFewCopies]);
        metadata.apply(&Command::UnfenceBroker { broker: THREE, epoch: third });
        metadata.set_in_sync(id, &[TWO, THREE]);
        process.follow(metadata.image()).await;
        assert!(!process.has_log(id), "two have it");
        assert_eq!(process.doubts(), []);
        // Moved back, it begins anew.
        metadata.apply(&Command::Reassign { id, replicas: vec![TWO, ONE], throttle: None });
        process.follow(metadata.image()).await;
        let log = store.log(id).expect("held again");
        assert_eq!(log.log_start(), log.log_end());
    }
}

// Catches a disk that stays full: what moved away is kept until something else has been opened, for which there is no room.
#[tokio::test]
async fn what_moved_away_is_given_up_although_nothing_can_be_opened() {
    let Holding { mut metadata, store, id, mut process, .. } = Holding::start().await;
    metadata.start(THREE);
    metadata.apply(&Command::Reassign { id, replicas: vec![TWO, THREE], throttle: None });
    metadata.set_in_sync(id, &BROKERS);
    metadata.create_topic(2, "new", &[ONE, TWO]);
    store.close().expect("closed");
    process.reconciler.reach(metadata.image()).await.expect_err("the store takes no new log");
    assert!(!process.serves(id), "it is on the others");
    assert!(process.reconciler.is_undecided(), "its log is looked at all the same");
}

// Catches a log in quarantine that stays although its topic is deleted while its broker runs, and one that stays in
// quarantine although its partition comes back.
#[tokio::test]
async fn a_quarantine_ends_with_the_topic_or_with_the_partitions_return() {
    for is_deleted in [true, false] {
        let mut metadata = Metadata::founded();
        let epoch = metadata.start(ONE);
        metadata.start(TWO);
        metadata.start(THREE);
        let id = metadata.create_topic(1, "t", &[TWO, THREE]);
        let store = fixture::store(StoreConfig::default());
        store.create_log(id, LogOptions::default()).expect("a log");
        let mut process = Process::start(ONE, epoch, &store);
        // Of a leadership that the metadata does not know to be over.
        process.write(id, b"record");
        process.follow(metadata.image()).await;
        assert_eq!(process.doubts(), [Doubt::NewerThanMetadata { known: LeaderEpoch::ZERO }]);
        assert!(process.has_log(id) && !process.serves(id));
        if is_deleted {
            metadata.apply(&Command::DeleteTopic { id: id.topic });
        } else {
            metadata.apply(&Command::Reassign { id, replicas: BROKERS.to_vec(), throttle: None });
        }
        process.follow(metadata.image()).await;
        assert_eq!(process.doubts(), []);
        assert_eq!((process.has_log(id), process.serves(id)), (!is_deleted, !is_deleted));
    }
}

/// The task that follows the metadata, with a quorum that answers when the test wants it to.
struct Following {
    store: Store,
    registry: Arc<Registry>,
    desk: StrayDesk,
    images: watch::Sender<Arc<ClusterImage>>,
    quorum: watch::Sender<Option<Arc<ClusterImage>>>,
    asked: Arc<AtomicU32>,
    answered: Arc<AtomicU32>,
}

impl Following {
    fn start(process: Process, image: Arc<ClusterImage>, stop: &CancellationToken) -> Self {
        let Process { store, registry, reconciler } = process;
        let (images, watched) = watch::channel(image);
        let (quorum, confirmed) = watch::channel(None);
        let counts: [Arc<AtomicU32>; 2] = Default::default();
        let [asked, answered] = counts.clone();
        let confirm = move || {
            counts[0].fetch_add(1, Ordering::SeqCst);
            let (mut confirmed, answered) = (confirmed.clone(), Arc::clone(&counts[1]));
            async move {
                let image = confirmed.wait_for(Option::is_some).await.ok().and_then(|image| image.clone());
                answered.fetch_add(1, Ordering::SeqCst);
                image
            }
        };
        let (desk, asks) = discard::desk(reconciler.quarantine());
        let following = follow_metadata::run(reconciler, watched, confirm, asks, Lifecycle::new(), stop.clone());
        TaskTracker::new().spawn(following);
        Self { store, registry, desk, images, quorum, asked, answered }
    }

    /// Does the disk's work until `is_so`.
    async fn work(&self, is_so: impl Fn() -> bool) {
        let working = async {
            while !is_so() {
                self.store.step();
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), working).await.expect("it does not come to that");
    }
}

// Catches records that are deleted by what one broker believes, while the quorum may know better.
#[tokio::test]
async fn nothing_is_deleted_before_a_quorum_has_confirmed_the_metadata() {
    let Holding { mut metadata, epoch, store, id, process: before } = Holding::start().await;
    drop(before);
    metadata.apply(&Command::DeleteTopic { id: id.topic });
    let epoch = metadata.restart(ONE, epoch);
    let stop = CancellationToken::new();
    let following = Following::start(Process::start(ONE, epoch, &store), metadata.image(), &stop);
    following.work(|| following.asked.load(Ordering::SeqCst) > 0).await;
    assert!(store.log(id).is_some(), "nobody has confirmed that it may go");
    following.quorum.send_replace(Some(metadata.image()));
    following.work(|| store.log(id).is_none()).await;
    stop.cancel();
}

// Catches a log that is deleted by metadata which was reached, although newer metadata, by which it is decided, wants it.
#[tokio::test]
async fn a_log_that_is_wanted_again_by_then_stays() {
    let Holding { mut metadata, store, id, process, .. } = Holding::start().await;
    metadata.start(THREE);
    metadata.apply(&Command::Reassign { id, replicas: vec![TWO, THREE], throttle: None });
    metadata.set_in_sync(id, &BROKERS);
    let stop = CancellationToken::new();
    let following = Following::start(process, metadata.image(), &stop);
    following.work(|| following.asked.load(Ordering::SeqCst) > 0).await;
    assert!(following.registry.get(id).is_none(), "it moved away");
    metadata.apply(&Command::Reassign { id, replicas: vec![TWO, THREE, ONE], throttle: None });
    following.quorum.send_replace(Some(metadata.image()));
    following.work(|| following.answered.load(Ordering::SeqCst) > 0).await;
    following.images.send_replace(metadata.image());
    following.work(|| following.registry.get(id).is_some()).await;
    let log = store.log(id).expect("a log");
    assert_ne!(log.log_start(), log.log_end(), "it catches up from what it has");
    stop.cancel();
}

/// What an operator says who was shown `log`.
fn as_shown(log: &PartitionLog) -> Discard {
    let HeldLog { id, records, bytes, .. } = HeldLog::of(log);
    Discard { id, records, bytes }
}

/// A broker with a log of a leadership that the metadata does not know, on a partition that is on others; and the disk.
async fn with_a_stray() -> (Metadata, Store, PartitionId, Process) {
    let mut metadata = Metadata::founded();
    let epoch = metadata.start(ONE);
    metadata.start(TWO);
    metadata.start(THREE);
    let id = metadata.create_topic(1, "t", &[TWO, THREE]);
    let store = fixture::store(StoreConfig::default());
    store.create_log(id, LogOptions::default()).expect("a log");
    let mut process = Process::start(ONE, epoch, &store);
    process.write(id, b"record");
    process.follow(metadata.image()).await;
    assert_eq!(process.doubts(), [Doubt::NewerThanMetadata { known: LeaderEpoch::ZERO }]);
    (metadata, store, id, process)
}

// Catches a stray that nothing removes, one that is still reported when it has gone, one that was not what the operator saw,
// and a log beside it that goes with it.
#[tokio::test]
async fn an_operators_word_removes_one_log_in_quarantine_as_it_was_shown() {
    let (mut metadata, store, id, mut process) = with_a_stray().await;
    let served = metadata.create_topic(2, "served", &[ONE, TWO]);
    process.follow(metadata.image()).await;
    let image = metadata.image();
    let shown = as_shown(&store.log(id).expect("a log"));
    let other = Discard { records: shown.records + 1, ..shown };
    let refused = process.reconciler.discard(other, &image).await.expect_err("another log was shown");
    assert!(matches!(refused, DiscardError::Changed { now } if now.id == id), "{refused}");
    let at_work = as_shown(&store.log(served).expect("a log"));
    let refused = process.reconciler.discard(at_work, &image).await.expect_err("it is served");
    assert!(matches!(refused, DiscardError::NotInQuarantine { .. }), "{refused}");
    assert_eq!(store.log_ids(), [id, served], "nothing has gone");

    let removed = process.reconciler.discard(shown, &image).await.expect("removed");
    assert_eq!((removed.records, removed.bytes), (shown.records, shown.bytes));
    assert_eq!((store.log_ids(), process.doubts()), (vec![served], Vec::new()));
    let again = process.reconciler.discard(shown, &image).await.expect_err("it has gone");
    assert!(matches!(again, DiscardError::NotInQuarantine { .. }), "{again}");
}

// Catches an operator's word that outweighs the metadata: records that the cluster counts on, removed because they were in
// quarantine when the operator looked.
#[tokio::test]
async fn an_operators_word_does_not_remove_what_the_metadata_assigns_to_this_broker() {
    let (mut metadata, store, id, mut process) = with_a_stray().await;
    let shown = as_shown(&store.log(id).expect("a log"));
    let before = metadata.image();
    metadata.apply(&Command::Reassign { id, replicas: BROKERS.to_vec(), throttle: None });
    // Known to the quorum, and not reached here yet.
    let refused = process.reconciler.discard(shown, &metadata.image()).await.expect_err("wanted");
    assert!(matches!(refused, DiscardError::Wanted { .. }), "{refused}");
    process.follow(metadata.image()).await;
    assert!(process.serves(id));
    // Asked before it was assigned, answered after that was reached.
    let refused = process.reconciler.discard(shown, &before).await.expect_err("served");
    assert!(matches!(refused, DiscardError::NotInQuarantine { .. }), "{refused}");
    let log = store.log(id).expect("a log");
    assert_ne!(log.log_start(), log.log_end(), "it has its record");
}

// Catches an operator who removes the best copy there is, because too few others are in sync or because the metadata is old.
#[tokio::test]
async fn an_operators_word_does_not_remove_what_goes_by_itself() {
    let Holding { mut metadata, epoch, store, id, mut process } = Holding::start().await;
    let shown = as_shown(&store.log(id).expect("a log"));
    let third = metadata.start(THREE);
    metadata.apply(&Command::Reassign { id, replicas: vec![TWO, THREE], throttle: None });
    metadata.set_in_sync(id, &BROKERS);
    metadata.apply(&Command::FenceBroker { broker: THREE, epoch: third });
    process.follow(metadata.image()).await;
    assert_eq!(process.doubts(), [Doubt::TooFewCopies]);
    let refused = process.reconciler.discard(shown, &metadata.image()).await.expect_err("too few have it");
    assert!(matches!(refused, DiscardError::Passing { doubt: Doubt::TooFewCopies, .. }), "{refused}");
    let empty = Arc::new(ClusterImage::empty());
    let mut emptied = Process::start(ONE, epoch, &store);
    emptied.follow(Arc::clone(&empty)).await;
    let refused = emptied.reconciler.discard(shown, &empty).await.expect_err("nothing is known");
    assert!(matches!(refused, DiscardError::Passing { doubt: Doubt::Unconfirmed, .. }), "{refused}");
    assert!(emptied.has_log(id));
}

// Catches a word that the task never hears, one that waits for news of the metadata, and an answer that nobody gets.
#[tokio::test]
async fn an_operators_word_is_heard_while_nothing_else_happens() {
    let (metadata, store, id, process) = with_a_stray().await;
    let shown = as_shown(&store.log(id).expect("a log"));
    let stop = CancellationToken::new();
    let following = Following::start(process, metadata.image(), &stop);
    assert_eq!(following.desk.strays().iter().map(|stray| stray.log.id).collect::<Vec<_>>(), [id]);
    let desk = following.desk.clone();
    let asking = TaskTracker::new().spawn(async move { desk.discard(shown, metadata.image()).await });
    following.work(|| asking.is_finished()).await;
    assert_eq!(asking.await.expect("answered").expect("removed").id, id);
    assert!(store.log(id).is_none() && following.desk.strays().is_empty());
    stop.cancel();
}
