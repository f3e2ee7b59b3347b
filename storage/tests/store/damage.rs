//! Flipped bits in every kind of file: found or harmless, never served, never an end of log.

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;
use streambus_storage::disk::Disk;
use streambus_storage::disk::faulty::Fault;
use streambus_storage::error::{OpenError, ReadError};
use streambus_storage::identity::{IDENTITY_FILE, IdentityError};
use streambus_storage::partition_log::{PartitionLog, ReadLimit};
use streambus_storage::store::Store;

use crate::world::{Spec, World, append, batch, create, fill, offset, partition, read, read_all, settle};

/// Two logs with some sealed segments, and what is in them.
fn filled(world: &World) -> (Store, Vec<Vec<Bytes>>) {
    let store = world.open();
    let logs = [create(&store, 0), create(&store, 1)];
    for _ in 0..60 {
        for log in &logs {
            fill(&store, log, 2, 900);
        }
    }
    store.step_idle();
    let content = logs.iter().map(|log| read_all(log).expect("readable")).collect();
    (store, content)
}

/// Reads everything that is served, stepping over damage; checks it against what was written.
fn served(log: &PartitionLog, written: &[Bytes]) -> usize {
    let (mut cursor, mut count) = (log.log_start(), 0);
    let limit = ReadLimit { bytes_max: 4_000, below: Offset::MAX };
    while cursor < log.log_end() {
        match read(log, cursor, limit) {
            Ok((batches, next)) => {
                assert!(next > cursor);
                let first = usize::try_from(cursor.get()).expect("small");
                assert_eq!(batches, written[first..first + batches.len()], "only what was written is served");
                count += batches.len();
                cursor = next;
            }
            Err(ReadError::Damaged { base, next }) => {
                assert_eq!(base, cursor);
                cursor = next;
            }
            Err(error) => panic!("{error}"),
        }
    }
    count
}

// Catches damage read as end of log, a damaged batch that is served, a good neighbour that is not, and damage that a
// restart forgets.
#[test]
fn a_flipped_bit_in_a_segment_costs_what_it_hits() {
    for seed in 0..60 {
        let world = World::new(seed);
        let mut random = SmallRng::seed_from_u64(seed);
        let (store, content) = filled(&world);
        let segments = world.memory.list("journal-").expect("list");
        let name = &segments[random.random_range(0..segments.len())];
        let position = random.random_range(0..100_000);
        world.memory.flip_bit(name, position, random.random_range(0..8)).expect("flipped");

        // While running, with nothing in the cache to hide behind.
        store.scrub_step(u64::MAX).expect("the scrub runs");
        let mut missing = 0;
        for (p, written) in content.iter().enumerate() {
            let log = store.log(partition(u32::try_from(p).expect("small"))).expect("the log");
            assert_eq!(log.log_end().get() as usize, written.len());
            missing += written.len() - served(&log, written);
        }
        assert!(missing <= 12, "seed {seed}: one bit costs at most one commit, not {missing} batches");
        let known = store.status().damaged.len();
        assert!(known > 0 || missing == 0, "seed {seed}: what is not served is reported");

        // After a restart, and after one that lost the index.
        for wipe in [false, true] {
            if wipe {
                world.index.wipe();
            }
            world.disk.restart();
            let (store, report) = world.try_open().expect("opens");
            assert_eq!(report.index_rebuilt, wipe);
            for (p, written) in content.iter().enumerate() {
                let log = store.log(partition(u32::try_from(p).expect("small"))).expect("the log");
                assert!(log.log_end().get() as usize <= written.len());
                let lost = written.len() - log.log_end().get() as usize;
                assert!(lost <= 12, "seed {seed}: {lost} batches at the end");
                assert!(lost == 0 || !store.status().damaged.is_empty(), "seed {seed}: an end that moved is reported");
                assert!(served(&log, written) + 12 >= written.len());
            }
        }
    }
}

#[test]
fn a_flipped_bit_in_the_identity_refuses_to_start() {
    let world = World::new(1);
    drop(filled(&world));
    let bytes = world.memory.read_file(IDENTITY_FILE).expect("identity");
    for position in 0..bytes.len() as u64 {
        world.memory.flip_bit(IDENTITY_FILE, position, 2).expect("flipped");
        let refused = world.try_open().expect_err("damaged");
        assert!(matches!(refused, OpenError::Identity(_)), "{refused}");
        world.memory.flip_bit(IDENTITY_FILE, position, 2).expect("flipped back");
    }
    world.memory.set_content(IDENTITY_FILE, b"hello".to_vec());
    assert!(world.try_open().expect_err("garbage").to_string().contains("identity"));
}

// Catches a store whose state hangs on one file.
#[test]
fn a_flipped_bit_in_the_newest_checkpoint_costs_a_longer_replay() {
    for seed in 0..20 {
        let world = World::new(seed);
        let (store, content) = filled(&world);
        drop(store);
        let newest = world.memory.list("checkpoint-").expect("list").pop().expect("there are checkpoints");
        let bytes = world.memory.read_file(&newest).expect("read").len() as u64;
        world.memory.flip_bit(&newest, seed * 7 % bytes, 3).expect("flipped");
        let (store, _) = world.try_open().expect("opens");
        for (p, written) in content.iter().enumerate() {
            let log = store.log(partition(u32::try_from(p).expect("small"))).expect("the log");
            assert_eq!(&read_all(&log).expect("readable"), written);
        }
        settle(&store);
        assert!(world.memory.exists(&format!("damaged-{newest}")).expect("listed"), "the evidence is kept");
    }
}

#[test]
fn without_any_checkpoint_a_whole_journal_is_enough_and_a_recycled_one_is_not() {
    let world = World::new(3);
    let (store, content) = filled(&world);
    let damage_all = || {
        for name in world.memory.list("checkpoint-").expect("list") {
            world.memory.set_content(&name, b"garbage".to_vec());
        }
    };
    drop(store);
    damage_all();
    let store = world.open();
    let log = store.log(partition(0)).expect("the log");
    assert_eq!(read_all(&log).expect("readable"), content[0]);
    settle(&store);

    for p in 0..2 {
        let log = store.log(partition(p)).expect("the log");
        fill(&store, &log, 200, 900);
        log.trim(log.log_end()).expect("trimmed");
    }
    settle(&store);
    let outcome = store.apply_retention(streambus_protocol::timestamp::Timestamp::from_millis(0));
    assert!(outcome.segments_recycled > 0);
    drop(store);
    damage_all();
    let refused = world.try_open().expect_err("the state of the logs is nowhere");
    assert!(matches!(refused, OpenError::Checkpoint { .. }), "{refused}");
}

#[test]
fn a_directory_without_identity_is_not_taken_over() {
    let world = World::new(4);
    drop(filled(&world));
    world.memory.remove(IDENTITY_FILE).expect("removed");
    let refused = world.try_open().expect_err("foreign");
    assert!(matches!(refused, OpenError::Identity(IdentityError::Foreign { .. })), "{refused}");
}

// Catches a truncation that cuts good batches because a damaged one hides the boundary.
#[test]
fn a_damaged_log_can_be_truncated_and_trimmed() {
    let world = World::new(5);
    let (store, content) = filled(&world);
    let name = world.memory.list("journal-").expect("list").remove(0);
    // Somewhere in the middle of the segment is a batch and not padding.
    let damaged = (50_000..).step_by(1_000).find_map(|position| {
        world.memory.flip_bit(&name, position, 1).expect("flipped");
        store.scrub_step(u64::MAX).expect("the scrub runs");
        store.status().damaged.into_iter().next()
    });
    let damaged = damaged.expect("found");
    let log = store.log(damaged.partition.expect("attributed")).expect("the log");
    log.truncate(damaged.next).expect("truncated behind the damage");
    assert_eq!(log.log_end(), damaged.next);
    log.trim(damaged.next).expect("trimmed behind the damage");
    assert_eq!(log.damaged(), [], "damage goes with its offsets");
    log.truncate(damaged.next).expect("nothing to do");
    let other = store.log(partition(if damaged.partition == Some(partition(0)) { 1 } else { 0 })).expect("the log");
    assert_eq!(other.log_end(), offset(content[0].len() as u64), "the neighbour is untouched");
}

/// Where the last entry of `kind`, by its stored number, starts in the last segment.
fn last_entry(world: &World, kind: u8) -> (String, u64) {
    let name = world.memory.list("journal-").expect("list").pop().expect("segments");
    let bytes = world.memory.read_file(&name).expect("read");
    let mut places = (4096..bytes.len() - 64).step_by(8).rev();
    let at = places.find(|at| &bytes[*at..at + 4] == b"SBEN" && bytes[at + 60] == kind);
    (name, at.expect("there is such an entry") as u64)
}

// Catches extents that overlap after recovery: a batch that was truncated away would be served again.
#[test]
fn a_damaged_truncation_below_a_checkpoint_brings_nothing_back() {
    for successors in [0, 3] {
        let world = World::new(6);
        let store = world.open();
        let log = create(&store, 0);
        fill(&store, &log, 10, 300);
        log.truncate(offset(4)).expect("truncated");
        for salt in 100..100 + successors {
            append(&log, &Spec { salt, ..Spec::default() });
        }
        settle(&store);
        let content = read_all(&log).expect("readable");
        drop((log, store));
        // A start without an index writes a checkpoint that covers all of the only segment.
        world.index.wipe();
        world.disk.restart();
        let store = world.open();
        settle(&store);
        assert_eq!(store.metrics().checkpoints.get(), 1);
        drop(store);
        world.index.crash();
        world.disk.restart();
        let (name, position) = last_entry(&world, 2);
        world.memory.flip_bit(&name, position + 30, 3).expect("flipped");
        let (store, report) = world.try_open().expect("opens");
        assert_eq!(report.journal.damaged.len(), 1);
        let log = store.log(partition(0)).expect("the log");
        assert_eq!(log.log_end(), offset(4 + successors));
        append(&log, &Spec { salt: 200, ..Spec::default() });
        settle(&store);
        let mut served = read_all(&log).expect("readable");
        served.pop();
        assert_eq!(served, content, "{successors} successors");
    }
}

// Catches a last commit that is dropped as torn although the checkpoint restores an end behind it: its offsets would be
// given out again.
#[test]
fn decay_in_the_last_commit_below_a_checkpoint_is_damage() {
    let world = World::new(7);
    let store = world.open();
    let log = create(&store, 0);
    let mut count = 0;
    while store.metrics().checkpoints.get() == 0 {
        fill(&store, &log, 1, 900);
        count += 1;
    }
    drop((log, store));
    let (name, position) = last_entry(&world, 1);
    world.memory.flip_bit(&name, position + 200, 1).expect("flipped");
    world.disk.restart();
    let (store, report) = world.try_open().expect("opens");
    assert_eq!((report.journal.torn_tail_bytes, report.journal.damaged.len()), (0, 1));
    let log = store.log(partition(0)).expect("the log");
    assert_eq!(log.log_end(), offset(count));
    let lost = read(&log, offset(count - 1), ReadLimit { bytes_max: 4_000, below: Offset::MAX });
    assert!(matches!(lost, Err(ReadError::Damaged { .. })), "{lost:?}");
}

// Catches a directory opened as if it were new although its state was lost with the checkpoints, and one read error that
// costs a whole start.
#[test]
fn checkpoints_that_are_gone_or_unreadable_are_not_taken_for_none() {
    let world = World::new(8);
    let (store, content) = filled(&world);
    drop(store);
    let newest = world.memory.list("checkpoint-").expect("list").pop().expect("there are checkpoints");
    world.disk.plan(Fault::Unreadable { name: newest.clone(), bytes: 0..1 });
    let store = world.open();
    assert_eq!(read_all(&store.log(partition(0)).expect("the log")).expect("readable"), content[0]);
    assert!(world.memory.exists(&format!("damaged-{newest}")).expect("listed"), "it is moved aside");
    for p in 0..2 {
        let log = store.log(partition(p)).expect("the log");
        fill(&store, &log, 200, 900);
        log.trim(log.log_end()).expect("trimmed");
    }
    settle(&store);
    assert!(store.apply_retention(Timestamp::from_millis(0)).segments_recycled > 0);
    drop(store);
    for name in world.memory.list("checkpoint-").expect("list") {
        world.memory.remove(&name).expect("removed");
    }
    let refused = world.try_open().expect_err("the state of the logs is nowhere");
    assert!(matches!(refused, OpenError::Checkpoint { .. }), "{refused}");
}

// Catches one bad sector that costs the whole extent around it, an error that is never remembered, and a device in
// trouble that is taken for damage.
#[test]
fn an_unreadable_block_costs_the_batch_in_it_and_a_silent_device_none() {
    let world = World::new(9);
    let (store, content) = filled(&world);
    let name = world.memory.list("journal-").expect("list").remove(0);
    let len = world.memory.read_file(&name).expect("read").len() as u64;
    world.disk.plan(Fault::Unreadable { name: name.clone(), bytes: 40_960..45_056 });
    let log = store.log(partition(0)).expect("the log");
    let lost: usize =
        (0..2).map(|p| content[p].len() - served(&store.log(partition(p as u32)).expect("the log"), &content[p])).sum();
    assert_eq!(lost, 1, "each batch has a block of its own here");
    assert_eq!(store.status().damaged.len(), 1);
    store.scrub_step(u64::MAX).expect("the scrub runs");
    assert_eq!(store.status().damaged.len(), 1, "and the scrub finds no more");

    world.disk.plan(Fault::Unreadable { name, bytes: 0..len });
    let error = read(&log, offset(0), ReadLimit { bytes_max: 4_000, below: Offset::MAX }).expect_err("unreadable");
    assert!(matches!(error, ReadError::Journal(_)), "{error}");
    assert_eq!(store.status().damaged.len(), 1, "nothing is known about what a silent device holds");
}

// Catches a scrub that stops at a lost file for ever.
#[test]
fn the_scrub_goes_on_behind_a_lost_segment() {
    let world = World::new(10);
    let (store, content) = filled(&world);
    let names = world.memory.list("journal-").expect("list");
    world.memory.remove(&names[0]).expect("removed");
    let outcome = store.scrub_step(u64::MAX).expect("the scrub runs");
    assert!(outcome.pass_finished && outcome.damaged.len() == 1);
    assert!(outcome.entries > 10, "the other segments were read");
    assert!(store.status().damaged.len() >= 2, "both logs had something there");
    for (p, written) in content.iter().enumerate() {
        assert!(served(&store.log(partition(p as u32)).expect("the log"), written) < written.len());
    }
}

// Catches damage of nobody in particular that a checkpoint and a restart forget.
#[test]
fn damage_without_a_log_stays_known_until_its_segment_goes() {
    let world = World::new(11);
    let store = world.open();
    let log = create(&store, 0);
    fill(&store, &log, 5, 900);
    store.step_idle();
    drop((log, store));
    let (name, position) = last_entry(&world, 1);
    world.memory.flip_bit(&name, position + 30, 3).expect("flipped");
    for round in 0..3 {
        world.disk.restart();
        let (store, report) = world.try_open().expect("opens");
        let anywhere = store.status().damaged.iter().filter(|extent| extent.partition.is_none()).count();
        assert_eq!(anywhere, 1, "round {round}");
        if round == 2 {
            assert_eq!(report.journal.damaged, [], "recovery itself does not see it any more");
        }
        let log = store.log(partition(0)).expect("the log");
        fill(&store, &log, 100, 900);
        store.step_idle();
        if round == 2 {
            log.trim(log.log_end()).expect("trimmed");
            settle(&store);
            store.apply_retention(Timestamp::from_millis(0));
            assert!(store.metrics().segments_recycled.get() > 0);
            assert_eq!(store.status().damaged, [], "it went with its segment");
        }
    }
}

// Catches a new log under the number of one whose creation is damaged: a rebuild would give it that one's records.
#[test]
fn the_number_of_an_orphan_stays_taken() {
    let world = World::new(12);
    let store = world.open();
    let log = create(&store, 0);
    append(&log, &Spec::default());
    let orphan = create(&store, 1);
    append(&orphan, &Spec::default());
    settle(&store);
    store.step_idle();
    let taken = orphan.id();
    drop((log, orphan, store));
    let (name, position) = last_entry(&world, 5);
    world.memory.flip_bit(&name, position + 30, 3).expect("flipped");
    let mine = Spec { salt: 77, ..Spec::default() };
    for again in [false, true] {
        world.disk.restart();
        world.index.wipe();
        for name in world.memory.list("checkpoint-").expect("list") {
            world.memory.remove(&name).expect("removed");
        }
        let (store, report) = world.try_open().expect("opens");
        assert_eq!(report.orphans, 1);
        let log = create(&store, 7);
        assert!(log.id() > taken, "{}", log.id());
        if !again {
            append(&log, &mine);
        }
        settle(&store);
        store.step_idle();
        assert_eq!(read_all(&log).expect("readable"), [batch(offset(0), &mine).into_bytes()]);
    }
}

// Catches a log whose end falls back in silence: a trim behind its damaged last batch says nothing about the end.
#[test]
fn a_trim_behind_a_damaged_last_batch_does_not_hide_it() {
    let world = World::new(13);
    let store = world.open();
    let log = create(&store, 0);
    fill(&store, &log, 10, 300);
    log.trim(offset(3)).expect("trimmed");
    settle(&store);
    store.step_idle();
    drop((log, store));
    let (name, position) = last_entry(&world, 1);
    world.memory.flip_bit(&name, position + 150, 1).expect("flipped");
    world.disk.restart();
    let (store, _) = world.try_open().expect("opens");
    let log = store.log(partition(0)).expect("the log");
    assert_eq!((log.log_start(), log.log_end()), (offset(3), offset(10)));
    assert_eq!(log.damaged().iter().map(|range| range.base).collect::<Vec<_>>(), [offset(9)]);
}
