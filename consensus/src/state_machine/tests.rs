//! The state machine: applying, building and installing snapshots, reopening.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::{RaftSnapshotBuilder, StorageHelper};
use streambus_protocol::ids::{ClusterId, ProducerId};

use super::*;
use crate::command::{ClusterEndpoint, Command, Incarnation};
use crate::database::{DatabaseSource, MemoryDatabase};
use crate::log_store::LogStore;
use crate::snapshot;
use crate::types::{Entry, LeaderId, RaftId};

fn open(path: &std::path::Path) -> StateMachine {
    let database = Arc::new(Database::open(&path.join("db")).unwrap());
    let snapshots = Arc::new(SnapshotStore::open(&path.join("snapshots")).unwrap());
    StateMachine::open(database, snapshots, OutcomeBoard::default()).unwrap()
}

fn entry(index: u64, command: Command) -> Entry {
    let leader_id = LeaderId { term: 1, node_id: RaftId::new(1) };
    Entry { log_id: LogId { leader_id, index }, payload: EntryPayload::Normal(command) }
}

async fn apply(machine: &mut StateMachine, entries: Vec<Entry>) {
    machine.apply(futures::stream::iter(entries.into_iter().map(|e| Ok((e, None))))).await.unwrap();
}

fn found() -> Command {
    Command::FoundCluster { cluster_id: ClusterId::from_bytes([3; 16]) }
}

fn register(life: u64) -> Command {
    let mut incarnation = [0; 16];
    incarnation[..8].copy_from_slice(&life.to_be_bytes());
    let endpoint = streambus_protocol::api::metadata::BrokerEndpoint {
        id: streambus_protocol::ids::BrokerId::new(u32::try_from(life % 50).unwrap()),
        host: "h".to_owned(),
        port: 1,
        rack: None,
    };
    Command::RegisterBroker {
        incarnation: Incarnation::from_bytes(incarnation),
        endpoint,
        cluster: ClusterEndpoint { host: "h".to_owned(), port: 2 },
        directory: streambus_protocol::ids::DirectoryId::from_bytes([1; 16]),
        intact: true,
        version: life.to_string(),
    }
}

fn bytes_of(machine: &StateMachine) -> Vec<u8> {
    let meta = SnapshotMeta { last_log_id: machine.applied, last_membership: machine.membership.clone() };
    snapshot::encode(&meta, &machine.state)
}

/// Catches: rows or the position that are lost by a restart, or written at different moments.
#[tokio::test]
async fn applied_state_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let before = {
        let mut machine = open(directory.path());
        apply(&mut machine, vec![entry(1, found()), entry(2, register(1))]).await;
        apply(&mut machine, vec![entry(3, register(2))]).await;
        bytes_of(&machine)
    };
    let machine = open(directory.path());
    assert_eq!(bytes_of(&machine), before);
    assert_eq!(machine.watch().borrow().applied, 3);
}

/// Catches: a snapshot that mixes the state it was frozen at with commands applied while it was written.
#[tokio::test]
async fn snapshot_equals_the_state_at_its_last_log_id() {
    let directory = tempfile::tempdir().unwrap();
    let mut machine = open(directory.path());
    apply(&mut machine, vec![entry(1, found())]).await;
    let mut index = 1;
    for _ in 0..20 {
        let mut builder = machine.get_snapshot_builder().await;
        let expected = bytes_of(&machine);
        let applying = async {
            for _ in 0..500 {
                index += 1;
                apply(&mut machine, vec![entry(index, register(index))]).await;
            }
        };
        // The file is written on another thread while this one applies.
        let (built, ()) = tokio::join!(builder.build_snapshot(), applying);
        let built = built.unwrap();
        assert!(built.meta.last_log_id < machine.applied);
        assert_eq!(built.snapshot.read_chunk(0, usize::MAX).unwrap(), expected);
    }
    assert_eq!(index, 10_001);
}

/// Catches: an installed snapshot that keeps old rows, or is gone after a restart; and a crash between the two steps
/// of installing, after which the snapshot must win at the next start.
#[tokio::test]
async fn installed_snapshot_replaces_everything_also_across_a_crash() {
    let leader_directory = tempfile::tempdir().unwrap();
    let mut leader = open(leader_directory.path());
    apply(&mut leader, vec![entry(1, found())]).await;
    apply(&mut leader, (2..40).map(|i| entry(i, register(i))).collect()).await;
    let sent = leader.get_snapshot_builder().await.build_snapshot().await.unwrap();

    let directory = tempfile::tempdir().unwrap();
    {
        let mut follower = open(directory.path());
        apply(&mut follower, vec![entry(1, found()), entry(2, register(49))]).await;
        follower.install_snapshot(&sent.meta, sent.snapshot.clone()).await.unwrap();
        assert_eq!(bytes_of(&follower), bytes_of(&leader));
    }
    assert_eq!(bytes_of(&open(directory.path())), bytes_of(&leader));

    let crashed = tempfile::tempdir().unwrap();
    {
        let mut follower = open(crashed.path());
        apply(&mut follower, vec![entry(1, found())]).await;
        // The crash: the snapshot is durable under its name, the rows were not replaced.
        follower.snapshots.adopt(&sent.meta, &sent.snapshot).unwrap();
    }
    let mut follower = open(crashed.path());
    let current = follower.get_current_snapshot().await.unwrap().unwrap();
    assert!(current.meta.last_log_id > follower.applied, "openraft installs it at start");
    follower.install_snapshot(&current.meta, current.snapshot).await.unwrap();
    assert_eq!(bytes_of(&follower), bytes_of(&leader));
}

/// Catches: a damaged row that is skipped, so that a topic or broker silently vanishes.
#[tokio::test]
async fn damaged_row_refuses_to_open() {
    let directory = tempfile::tempdir().unwrap();
    let mut machine = open(directory.path());
    apply(&mut machine, vec![entry(1, found()), entry(2, register(1))]).await;
    let key = RowKey::Broker(streambus_protocol::ids::BrokerId::new(1)).encode();
    let mut value = machine.database.get(Family::State, &key).unwrap().unwrap();
    value[10] ^= 4;
    let mut batch = machine.database.batch();
    batch.put(Family::State, &key, &value).unwrap();
    batch.write().unwrap();
    let reopened =
        StateMachine::open(Arc::clone(&machine.database), Arc::clone(&machine.snapshots), OutcomeBoard::default());
    let error = reopened.err().expect("a damaged row must be refused").to_string();
    assert!(error.contains("damaged"), "{error}");
}

/// Catches: an answer sent before the state it speaks of is published.
#[tokio::test]
async fn image_is_published_once_per_batch() {
    let directory = tempfile::tempdir().unwrap();
    let mut machine = open(directory.path());
    let mut images = machine.watch();
    apply(&mut machine, vec![entry(1, found()), entry(2, register(1)), entry(3, register(2))]).await;
    let image = Arc::clone(&images.borrow_and_update());
    assert_eq!((image.applied, image.brokers.len()), (3, 2));
    assert!(!images.has_changed().unwrap());
    assert_eq!(machine.state.producer_id_next, ProducerId::new(0).get());
}

/// An entry of the controller of `term`.
fn entry_of(term: u64, index: u64) -> Entry {
    let leader_id = LeaderId { term, node_id: RaftId::new(1) };
    let command = if index == 0 { found() } else { register(index) };
    Entry { log_id: LogId { leader_id, index }, payload: EntryPayload::Normal(command) }
}

/// The log and the state machine of one life on a disk that loses with the power what is not synced, but for snapshots.
fn open_both(memory: &MemoryDatabase, path: &std::path::Path) -> (LogStore, StateMachine) {
    let database = Arc::new(Database::open_in(&DatabaseSource::Memory(memory.clone()), path).unwrap());
    let snapshots = Arc::new(SnapshotStore::open(path).unwrap());
    let machine = StateMachine::open(Arc::clone(&database), snapshots, OutcomeBoard::default()).unwrap();
    (LogStore::open(database, None).unwrap(), machine)
}

/// Catches: a snapshot on a disk whose log is still that of before, after a power cut: entries that were taken back are
/// there again, later in the log than the snapshot and contradicting it, and Raft does not start on that.
#[tokio::test]
async fn a_power_cut_leaves_no_log_that_contradicts_a_snapshot() {
    // What was decided: entries of one controller, and of the next.
    let (first, second) = (|| (0..5).map(|index| entry_of(1, index)), || (5..8).map(|index| entry_of(2, index)));
    let leader_directory = tempfile::tempdir().unwrap();
    let mut leader = open(leader_directory.path());
    apply(&mut leader, first().chain(second()).collect()).await;
    let sent = leader.get_snapshot_builder().await.build_snapshot().await.unwrap();
    for is_received in [false, true] {
        let sync_ms = Arc::new(AtomicU64::new(0));
        let takes = Arc::clone(&sync_ms);
        let memory = MemoryDatabase::new(move || Duration::from_millis(takes.load(Ordering::Relaxed)));
        let directory = tempfile::tempdir().unwrap();
        {
            let (mut log, mut machine) = open_both(&memory, directory.path());
            // The first controller sent more than it could get decided.
            let (done, _unheard) = TypeConfig::oneshot();
            log.append((0..10).map(|index| entry_of(1, index)), IOFlushed::signal(done)).await.unwrap();
            apply(&mut machine, first().collect()).await;
            log.sync().await.unwrap();
            // From here on nothing gets onto the disk by itself.
            sync_ms.store(u64::from(u32::MAX), Ordering::Relaxed);
            log.truncate_after(first().next_back().map(|entry| entry.log_id)).await.unwrap();
            if is_received {
                machine.install_snapshot(&sent.meta, sent.snapshot.clone()).await.unwrap();
            } else {
                let (done, _unheard) = TypeConfig::oneshot();
                log.append(second(), IOFlushed::signal(done)).await.unwrap();
                apply(&mut machine, second().collect()).await;
                machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
            }
        }
        memory.crash(0);
        sync_ms.store(0, Ordering::Relaxed);
        let (mut log, mut machine) = open_both(&memory, directory.path());
        let helper = StorageHelper::<TypeConfig, _, _>::new(&mut log, &mut machine);
        let started = helper.with_id(RaftId::new(1)).get_initial_state().await.map(|_| ());
        assert!(started.is_ok(), "received: {is_received}: {started:?}");
        assert_eq!((log.last_index(), machine.watch().borrow().applied), (7, 7), "received: {is_received}");
    }
}

/// Catches: a snapshot, or a vote, that is said to be durable because its own sync succeeded, although the one before it
/// failed: the system has forgotten what that one was to write, and a second sync says nothing of it.
#[tokio::test]
async fn a_sync_that_failed_for_one_has_failed_for_all() {
    let vote = crate::types::Vote::new(1, RaftId::new(1));
    for log_is_first in [true, false] {
        let memory = MemoryDatabase::new(|| Duration::ZERO);
        let directory = tempfile::tempdir().unwrap();
        let (mut log, mut machine) = open_both(&memory, directory.path());
        apply(&mut machine, vec![entry(1, found()), entry(2, register(1))]).await;
        let mut builder = machine.get_snapshot_builder().await;
        memory.fail_next_sync();
        let (first, second) = if log_is_first {
            (log.save_vote(&vote).await.err(), builder.build_snapshot().await.err())
        } else {
            (builder.build_snapshot().await.err(), log.sync().await.err())
        };
        for error in [first, second] {
            let error = error.expect("it confirms what may be lost").to_string();
            assert!(error.contains("the disk has refused a sync"), "{error}");
        }
        assert!(log.save_vote(&vote).await.is_err(), "nothing is written any more");
        assert!(machine.get_current_snapshot().await.unwrap().is_none(), "and no snapshot is beside it");
    }
}
