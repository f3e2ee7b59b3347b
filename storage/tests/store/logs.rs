//! One log through its life: durability, time lookups, epochs, producers, deletion and re-creation.

use streambus_protocol::ids::{PartitionId, PartitionIndex, TopicId};
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;
use streambus_protocol::topic_config::Durability;
use streambus_storage::epoch_cache::EpochEnd;
use streambus_storage::error::{AppendError, DurabilityLost, ReadError, StoreError};
use streambus_storage::partition_log::{LogOptions, ReadLimit};
use streambus_storage::producer_state::SequenceVerdict;

use crate::world::{Spec, World, append, batch, create, epoch, fill, offset, partition, read, read_all, settle, stamp};

const ALL: ReadLimit = ReadLimit { bytes_max: 1 << 20, below: Offset::MAX };

// Catches a promise that is kept before the commit, and a watch that runs ahead of it.
#[test]
fn durable_means_committed_and_async_does_not_wait() {
    let world = World::new(1);
    let store = world.open();
    let log = create(&store, 0);
    let watch = log.watch_durable_end();
    let mut appended = append(&log, &Spec { records: 2, ..Spec::default() });
    assert_eq!((appended.durable.now(), log.durable_end(), log.log_end()), (None, offset(0), offset(2)));
    assert_eq!(read(&log, offset(0), ALL).expect("readable before it is durable").1, offset(2));
    settle(&store);
    assert_eq!((appended.durable.now(), log.durable_end(), *watch.borrow()), (Some(Ok(())), offset(2), offset(2)));

    let options = LogOptions { durability: Durability::Async, ..LogOptions::default() };
    let log = store.create_log(partition(1), options).expect("created");
    let mut appended = append(&log, &Spec::default());
    assert_eq!((appended.durable.now(), log.durable_end()), (Some(Ok(())), offset(1)));
    assert_eq!(log.synced_end(), offset(0), "the truth is told too");
}

#[test]
fn a_batch_must_continue_the_log_in_offset_and_epoch() {
    let world = World::new(2);
    let store = world.open();
    let log = create(&store, 0);
    append(&log, &Spec { epoch: 3, ..Spec::default() });
    let gap = log.append(batch(offset(5), &Spec { epoch: 3, ..Spec::default() }));
    assert!(matches!(gap, Err(AppendError::OutOfOrder { expected, .. }) if expected == offset(1)));
    let stale = log.append(batch(offset(1), &Spec { epoch: 2, ..Spec::default() }));
    assert!(matches!(stale, Err(AppendError::StaleEpoch { .. })));
    let large = log.append(batch(offset(1), &Spec { epoch: 3, record_bytes: 5_000, ..Spec::default() }));
    assert!(matches!(large, Err(AppendError::TooLarge { .. })));
    assert_eq!(log.log_end(), offset(1), "a refused batch leaves no trace");
    assert!(matches!(read(&log, offset(2), ALL), Err(ReadError::OutOfRange { .. })));
}

// Catches a lookup that trusts an extent's newest time to be its last record's, or misses batches not yet durable.
#[test]
fn the_first_record_at_a_time_is_found_in_index_memory_and_cache() {
    let world = World::new(3);
    let store = world.open();
    let log = create(&store, 0);
    for i in 0..200 {
        append(&log, &Spec { records: 4, record_bytes: 500, time_ms: i * 100, ..Spec::default() });
        if i < 199 {
            settle(&store);
        }
    }
    assert!(store.status().segments > 2, "several segments, so that the index is asked too");
    for (time, expected) in [(-5, 0), (0, 0), (1, 1), (3, 3), (4, 4), (100, 4), (12_302, 494), (19_900, 796)] {
        let found = log.offset_for_time(Timestamp::from_millis(time), Offset::MAX).expect("readable");
        assert_eq!(found.map(|(found, _)| found.get()), Some(expected), "time {time}");
    }
    assert_eq!(log.offset_for_time(Timestamp::from_millis(99_999), Offset::MAX).expect("readable"), None);
    assert_eq!(log.offset_for_time(Timestamp::from_millis(12_302), offset(494)).expect("readable"), None, "bounded");
}

// Catches a leadership that is forgotten when no record followed it (KAFKA-7415), across a crash.
#[test]
fn epochs_survive_a_crash_and_answer_where_they_ended() {
    let world = World::new(4);
    let store = world.open();
    let log = create(&store, 0);
    append(&log, &Spec { records: 5, epoch: 1, ..Spec::default() });
    log.start_epoch(epoch(4)).expect("a new leadership");
    settle(&store);
    let (store, _) = world.crash_and_open(store);
    let log = store.log(partition(0)).expect("the log");
    assert_eq!(log.end_offset_for(epoch(4)), EpochEnd::Ended { epoch: epoch(4), end: offset(5) });
    assert_eq!(log.end_offset_for(epoch(2)), EpochEnd::Ended { epoch: epoch(1), end: offset(5) });
    assert!(matches!(log.start_epoch(epoch(3)), Err(StoreError::Append(AppendError::StaleEpoch { .. }))));
}

// Catches producer state that lives in memory only, or in the checkpoint only, or dies with trimmed records.
#[test]
fn a_retry_after_a_crash_is_a_duplicate() {
    let world = World::new(5);
    let store = world.open();
    let log = create(&store, 0);
    let produce = |sequence: i32| {
        append(&log, &Spec { records: 2, record_bytes: 900, producer: Some(stamp(9, 1, sequence)), ..Spec::default() })
    };
    for i in 0..100 {
        produce(i * 2);
        settle(&store);
    }
    assert!(store.metrics().checkpoints.get() > 0, "some of it is in a checkpoint");
    log.trim(log.log_end()).expect("trimmed");
    settle(&store);
    let (store, _) = world.crash_and_open(store);
    let log = store.log(partition(0)).expect("the log");
    assert_eq!(log.check_sequence(stamp(9, 1, 198), 2), SequenceVerdict::Duplicate { base: offset(198) });
    assert_eq!(log.check_sequence(stamp(9, 1, 190), 2), SequenceVerdict::Duplicate { base: offset(190) });
    assert_eq!(log.check_sequence(stamp(9, 1, 200), 2), SequenceVerdict::Accept);
    assert!(matches!(log.check_sequence(stamp(9, 1, 202), 2), SequenceVerdict::OutOfOrder { .. }));
    assert!(matches!(log.check_sequence(stamp(9, 0, 200), 2), SequenceVerdict::Fenced { .. }));
}

// Catches data found by name: a topic created anew must never show its predecessor's records.
#[test]
fn a_deleted_log_is_gone_and_its_successor_is_empty() {
    let world = World::new(6);
    let store = world.open();
    let log = create(&store, 0);
    fill(&store, &log, 150, 900);
    let waiting = append(&log, &Spec::default());
    store.delete_log(partition(0)).expect("deleted");
    assert!(matches!(log.append(batch(offset(151), &Spec::default())), Err(AppendError::Deleted)));
    assert!(matches!(read(&log, offset(0), ALL), Err(ReadError::Deleted)));
    assert!(matches!(store.delete_log(partition(0)), Err(StoreError::UnknownLog)));
    assert_eq!(store.log_ids(), []);
    let other = PartitionId { topic: TopicId::from_bytes([8; 16]), partition: PartitionIndex::new(0) };
    let again = [create(&store, 0), store.create_log(other, LogOptions::default()).expect("created")];
    for log in &again {
        assert_eq!((log.log_start(), log.log_end()), (offset(0), offset(0)));
        append(log, &Spec { salt: 77, ..Spec::default() });
    }
    settle(&store);
    let mut durable = waiting.durable;
    assert_eq!(durable.now(), Some(Ok(())), "it was committed before the deletion");
    let (store, _) = world.crash_and_open(store);
    assert_eq!(store.log_ids(), [partition(0), other]);
    for id in store.log_ids() {
        let log = store.log(id).expect("the log");
        let found = read_all(&log).expect("readable");
        assert_eq!(found, [batch(offset(0), &Spec { salt: 77, ..Spec::default() }).into_bytes()]);
    }
}

// Catches a sync failure that is retried or forgotten, and a store that stops serving what it has.
#[test]
fn the_first_failed_write_latches_and_reads_go_on() {
    let world = World::new(7);
    let store = world.open();
    let log = create(&store, 0);
    fill(&store, &log, 40, 900);
    let before = read_all(&log).expect("readable");
    world.disk.plan(streambus_storage::disk::faulty::Fault::FailWrite(world.disk.counters().writes + 1));
    let mut lost = append(&log, &Spec::default());
    settle(&store);
    assert!(matches!(lost.durable.now(), Some(Err(DurabilityLost::Latched(_)))));
    assert_eq!(log.durable_end(), offset(40), "nothing is durable that was not synced");
    let refused = log.append(batch(log.log_end(), &Spec::default()));
    assert!(matches!(refused, Err(AppendError::ReadOnly(_))));
    assert!(store.create_log(partition(5), LogOptions::default()).is_err());
    let reason = store.status().read_only.expect("the status says so");
    assert!(reason.contains("write") && reason.contains("read-only"), "{reason}");
    let (found, _) = read(&log, offset(0), ReadLimit { bytes_max: 1 << 20, below: log.durable_end() }).expect("served");
    assert_eq!(found, before);
}

// Catches a restart elsewhere that keeps epochs, producers or batches from before it.
#[test]
fn a_log_can_go_on_far_behind_its_end() {
    let world = World::new(8);
    let store = world.open();
    let log = create(&store, 0);
    append(&log, &Spec { epoch: 2, producer: Some(stamp(1, 0, 0)), ..Spec::default() });
    log.restart_at(offset(1_000)).expect("restarted");
    assert_eq!((log.log_start(), log.log_end()), (offset(1_000), offset(1_000)));
    append(&log, &Spec { epoch: 1, ..Spec::default() });
    settle(&store);
    let (store, _) = world.crash_and_open(store);
    let log = store.log(partition(0)).expect("the log");
    assert_eq!((log.log_start(), log.log_end(), log.damaged().len()), (offset(1_000), offset(1_001), 0));
    assert_eq!(log.latest_epoch().map(|latest| latest.epoch), Some(epoch(1)));
    assert_eq!(read_all(&log).expect("readable").len(), 1);
    assert!(matches!(log.restart_at(offset(1_001)), Err(StoreError::OutOfRange { .. })));
}

// KAFKA-20961. Catches a replica that keeps a leadership nobody else saw, and is told to cut for ever.
#[test]
fn a_cut_at_the_end_takes_away_a_leadership_that_wrote_nothing() {
    let world = World::new(11);
    let store = world.open();
    let log = create(&store, 0);
    append(&log, &Spec { epoch: 4, records: 3, ..Spec::default() });
    log.start_epoch(epoch(5)).expect("begun");
    settle(&store);
    assert_eq!(log.latest_epoch().map(|latest| latest.epoch), Some(epoch(5)));
    assert_eq!(log.truncate(offset(3)).expect("cut").0, offset(3));
    settle(&store);
    assert_eq!(log.latest_epoch().map(|latest| latest.epoch), Some(epoch(4)));
    append(&log, &Spec { epoch: 4, ..Spec::default() });
    settle(&store);
    let before = read_all(&log).expect("readable");
    let (store, _) = world.crash_and_open(store);
    let log = store.log(partition(0)).expect("there");
    assert_eq!((log.log_end(), log.latest_epoch().map(|latest| latest.epoch)), (offset(4), Some(epoch(4))));
    assert_eq!(read_all(&log).expect("readable"), before);
}

// Catches a replica that can never begin at a leader's log start which lies within a batch.
#[test]
fn an_empty_log_takes_the_batch_that_holds_its_place() {
    let world = World::new(12);
    let store = world.open();
    let log = create(&store, 0);
    append(&log, &Spec::default());
    settle(&store);
    log.restart_at(offset(7)).expect("restarted");
    settle(&store);
    log.append(batch(offset(5), &Spec { records: 4, epoch: 2, ..Spec::default() })).expect("the batch of 5 to 9");
    log.append(batch(offset(9), &Spec { epoch: 2, ..Spec::default() })).expect("the next");
    settle(&store);
    assert_eq!((log.log_start(), log.durable_end(), log.log_end()), (offset(5), offset(10), offset(10)));
    log.trim(offset(7)).expect("trimmed");
    settle(&store);
    let before = read_all(&log).expect("readable");
    let (store, _) = world.crash_and_open(store);
    let log = store.log(partition(0)).expect("there");
    assert_eq!((log.log_start(), log.log_end()), (offset(7), offset(10)));
    assert_eq!(read_all(&log).expect("readable"), before);
    assert_eq!(log.damaged(), []);
}
