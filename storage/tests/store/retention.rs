//! Space comes back: retention, recycling, and what must not be given up.

use std::time::Duration;

use streambus_protocol::timestamp::Timestamp;
use streambus_protocol::topic_config::{Durability, Retention};
use streambus_storage::partition_log::{LogOptions, PartitionLog};
use streambus_storage::producer_state::SequenceVerdict;

use crate::world::{Spec, World, append, create, fill, offset, partition, read_all, settle, stamp};

fn keep(time_ms: Option<u64>, bytes: Option<u64>) -> LogOptions {
    LogOptions { retention: Retention { time_ms, bytes }, durability: Durability::Sync, ..LogOptions::default() }
}

// Catches a log that grows for ever, and segments that are never reused.
#[test]
fn a_bounded_log_lives_in_bounded_space() {
    let world = World::new(11);
    let store = world.open();
    let log = store.create_log(partition(0), keep(None, Some(200_000))).expect("created");
    let mut most = 0;
    for round in 0..40 {
        fill(&store, &log, 40, 900);
        store.apply_retention(Timestamp::from_millis(0));
        settle(&store);
        store.apply_retention(Timestamp::from_millis(0));
        settle(&store);
        if round > 10 {
            most = most.max(store.status().used_bytes);
        }
    }
    assert!(log.size_bytes() >= 200_000, "the allowance stays filled: {}", log.size_bytes());
    assert!(log.size_bytes() < 220_000, "{}", log.size_bytes());
    assert!(store.metrics().segments_recycled.get() > 5);
    assert!(most < 12 * 128 * 1024, "{most} bytes for 200,000 bytes of records");
    assert_eq!(
        read_all(&log).expect("readable").len() as u64,
        log.log_start().distance_to(log.log_end()).expect("order")
    );
    // The same after a crash: sizes and starts are durable facts.
    let (size, start) = (log.size_bytes(), log.log_start());
    let (store, _) = world.crash_and_open(store);
    let log = store.log(partition(0)).expect("the log");
    assert_eq!((log.size_bytes(), log.log_start()), (size, start));
}

// Catches a segment that is recycled while another log still needs it.
#[test]
fn a_segment_lives_as_long_as_its_longest_lived_extent() {
    let world = World::new(12);
    let store = world.open();
    let (short, long) = (store.create_log(partition(0), keep(Some(1_000), None)).expect("created"), create(&store, 1));
    for i in 0..400_u64 {
        append(&short, &Spec { record_bytes: 900, salt: i, ..Spec::default() });
        if i % 20 == 0 {
            append(&long, &Spec { record_bytes: 50, salt: i, time_ms: 50_000, ..Spec::default() });
        }
        settle(&store);
    }
    let kept = read_all(&long).expect("readable");
    for _ in 0..3 {
        store.apply_retention(Timestamp::from_millis(50_000));
        settle(&store);
    }
    assert_eq!(short.log_start(), short.log_end(), "everything short-lived expired");
    assert_eq!(store.metrics().segments_recycled.get(), 0, "every segment holds something long-lived");
    assert_eq!(read_all(&long).expect("readable"), kept);
    long.trim(long.log_end()).expect("trimmed");
    settle(&store);
    store.apply_retention(Timestamp::from_millis(50_000));
    assert!(store.metrics().segments_recycled.get() > 1);
}

#[test]
fn what_is_protected_or_not_durable_stays() {
    let world = World::new(13);
    let store = world.open();
    let log = store.create_log(partition(0), keep(Some(1), None)).expect("created");
    fill(&store, &log, 60, 900);
    log.set_protect(Some(offset(20)));
    store.apply_retention(Timestamp::from_millis(99_999));
    assert!(log.log_start() <= offset(20) && log.log_start() > offset(0), "{}", log.log_start());
    log.set_protect(None);
    append(&log, &Spec::default());
    store.apply_retention(Timestamp::from_millis(99_999));
    assert_eq!((log.log_start(), log.log_end()), (offset(60), offset(61)), "the batch in flight stays");
}

// Catches an expiry by the client's clock: a batch stamped 1970 would lose its producer at once.
#[test]
fn silent_producers_are_forgotten_by_this_brokers_clock() {
    let world = World::new(14);
    let store = world.open();
    let log = create(&store, 0);
    append(&log, &Spec { time_ms: 0, producer: Some(stamp(1, 0, 0)), ..Spec::default() });
    let day_ms = 24 * 60 * 60 * 1_000;
    assert_eq!(store.apply_retention(Timestamp::from_millis(1_000_000 + day_ms)).producers_expired, 0);
    assert_eq!(store.apply_retention(Timestamp::from_millis(1_000_001 + day_ms)).producers_expired, 1);
}

// Catches an idle producer that is forgotten with its records (KAFKA-7190): by retention, by a start after it that replays
// neither its records nor their trim, or by a second one. Its retry would be stored twice.
#[test]
fn an_idle_producer_outlives_its_records_and_restarts_until_its_time_is_over() {
    let world = World::new(16);
    let store = world.open();
    let log = store.create_log(partition(0), keep(Some(1_000), None)).expect("created");
    for sequence in 0..7 {
        append(&log, &Spec { producer: Some(stamp(9, 1, sequence)), ..Spec::default() });
        settle(&store);
    }
    // Others write on; what the idle one wrote expires, and its segments serve again.
    let idle_end = log.log_end();
    for _ in 0..6 {
        fill(&store, &log, 60, 900);
        store.apply_retention(Timestamp::from_millis(500_000));
        settle(&store);
    }
    assert!(log.log_start() > idle_end, "its records are gone");
    assert!(store.metrics().segments_recycled.get() > 2, "from the journal too");
    let check = |log: &PartitionLog, life: &str| {
        for sequence in 2..7_i32 {
            let duplicate = SequenceVerdict::Duplicate { base: offset(u64::from(sequence.unsigned_abs())) };
            assert_eq!(log.check_sequence(stamp(9, 1, sequence), 1), duplicate, "{life}");
        }
        assert_eq!(log.check_sequence(stamp(9, 1, 7), 1), SequenceVerdict::Accept, "{life}");
        assert!(matches!(log.check_sequence(stamp(9, 1, 8), 1), SequenceVerdict::OutOfOrder { .. }), "{life}");
        assert!(matches!(log.check_sequence(stamp(9, 0, 7), 1), SequenceVerdict::Fenced { .. }), "{life}");
    };
    check(&log, "the first life");
    drop(log);
    let (store, report) = world.crash_and_open(store);
    assert_eq!(report.journal.damaged, []);
    check(&store.log(partition(0)).expect("the log"), "after a power cut");
    // Its silence counts from when it was heard, not from the start.
    let hour = Duration::from_secs(60 * 60);
    world.clock.advance(hour);
    store.close().expect("closed");
    drop(store);
    let store = world.open();
    let log = store.log(partition(0)).expect("the log");
    check(&log, "after a second start");
    let heard_ms = 1_000_000;
    let expiry_ms = i64::try_from(world.config.producer_expiry.as_millis()).expect("small");
    assert_eq!(store.apply_retention(Timestamp::from_millis(heard_ms + expiry_ms)).producers_expired, 0);
    check(&log, "to the last moment");
    assert_eq!(store.apply_retention(Timestamp::from_millis(heard_ms + expiry_ms + 1)).producers_expired, 1);
    assert_eq!(log.check_sequence(stamp(9, 0, 100), 1), SequenceVerdict::Accept, "nothing is known of it");
}

// Catches retention that works on a log nobody answers for: after a start nothing protects its records, whatever the cluster
// has or has not committed. Forgetting its producers would let duplicates in once it serves again.
#[test]
fn a_log_that_is_held_stays_as_it_is_until_somebody_opens_it() {
    let world = World::new(15);
    let store = world.open();
    let log = store.create_log(partition(0), keep(Some(1), Some(1))).expect("created");
    append(&log, &Spec { producer: Some(stamp(1, 0, 0)), ..Spec::default() });
    fill(&store, &log, 60, 900);
    let (store, _) = world.crash_and_open(store);
    let log = store.log(partition(0)).expect("the log");
    log.hold();
    let year = Timestamp::from_millis(365 * 24 * 60 * 60 * 1_000);
    let outcome = store.apply_retention(year);
    assert_eq!((outcome.logs_trimmed, outcome.producers_expired, log.log_start()), (0, 0, offset(0)));
    let log = store.create_log(partition(0), keep(Some(1), Some(1))).expect("opened");
    let outcome = store.apply_retention(year);
    assert_eq!((outcome.logs_trimmed, outcome.producers_expired), (1, 1), "its owner is back");
    assert_eq!(log.log_start(), log.log_end());
}

// Catches a repeated trim that is said to be on the disk while the first one still waits for it: a crash brings the records
// back.
#[test]
fn what_is_trimmed_twice_is_promised_by_the_disk_twice() {
    let world = World::new(17);
    let store = world.open();
    let log = store.create_log(partition(0), LogOptions::default()).expect("created");
    for _ in 0..8 {
        append(&log, &Spec::default());
    }
    settle(&store);
    let before = offset(5);
    let trimmed = || log.trim(before).expect("trimmed");
    let ((_, mut first), (start, mut again)) = (trimmed(), trimmed());
    assert_eq!((start, log.synced_start()), (before, offset(0)));
    assert!(first.now().is_none() && again.now().is_none(), "neither is on the disk");
    settle(&store);
    assert_eq!((first.now(), again.now(), log.synced_start()), (Some(Ok(())), Some(Ok(())), before));
    let entries = store.metrics().commit_entries.get();
    assert_eq!(trimmed().1.now(), Some(Ok(())), "it is there");
    settle(&store);
    assert_eq!(store.metrics().commit_entries.get(), entries, "and nothing more is written");
}
