//! The log store against openraft's conformance suite, lost tails and damage.

use std::fs;
use std::path::Path;

use openraft::EntryPayload;
use openraft::testing::log::{StoreBuilder, Suite};
use streambus_protocol::ids::TopicId;

use super::*;
use crate::command::Command;
use crate::snapshot::SnapshotStore;
use crate::state_machine::StateMachine;
use crate::types::{LeaderId, RaftId};

struct Stores;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for Stores {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine), openraft::StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(&directory.path().join("db")).unwrap());
        let snapshots = Arc::new(SnapshotStore::open(&directory.path().join("snapshots")).unwrap());
        let state = StateMachine::open(Arc::clone(&database), snapshots, crate::outcome_board::OutcomeBoard::default())
            .unwrap();
        Ok((directory, LogStore::open(database, None).unwrap(), state))
    }
}

/// Catches: any breach of openraft's storage contract, on the log and on the state machine.
#[tokio::test]
async fn openraft_conformance_suite_passes() {
    Suite::<TypeConfig, LogStore, StateMachine, Stores, tempfile::TempDir>::test_all(Stores).await.unwrap();
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: RaftId::new(1) }, index }
}

fn entry(index: u64) -> Entry {
    let id = TopicId::from_bytes([u8::try_from(index % 256).unwrap(); 16]);
    Entry { log_id: log_id(1, index), payload: EntryPayload::Normal(Command::DeleteTopic { id }) }
}

fn big_entry(index: u64) -> Entry {
    let config = (0..60).map(|i| (format!("key-{i:03}"), "v".repeat(1000))).collect();
    let command = Command::AlterTopicConfig { id: TopicId::from_bytes([1; 16]), config, expected_version: 1 };
    Entry { log_id: log_id(1, index), payload: EntryPayload::Normal(command) }
}

async fn append(log: &mut LogStore, entries: impl IntoIterator<Item = Entry, IntoIter: Send> + Send) {
    let (done, waiting) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(done)).await.unwrap();
    waiting.await.unwrap().unwrap();
}

fn open(path: &Path) -> io::Result<LogStore> {
    LogStore::open(Arc::new(Database::open(path).map_err(io::Error::other)?), None)
}

fn indexes(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|e| e.log_id.index).collect()
}

/// Catches: an empty answer for entries that are there, or one request that reads the whole log into memory.
#[tokio::test]
async fn limited_read_is_capped_by_bytes_and_never_empty() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path()).unwrap();
    append(&mut log, (0..40).map(big_entry)).await;
    let mut reader = log.get_log_reader().await;
    let some = reader.limited_get_log_entries(3, 40).await.unwrap();
    assert_eq!(some.first().unwrap().log_id.index, 3);
    assert!((2..20).contains(&some.len()), "{} entries of 60 KiB", some.len());
    let one = reader.entries(39, 40, 1, Gaps::Refused).unwrap();
    assert_eq!(indexes(&one), [39], "an entry above the limit is still returned");
    let streamed: Vec<_> = reader.entries_stream(0..40).await.map(Result::unwrap).collect().await;
    assert_eq!(indexes(&streamed), (0..40).collect::<Vec<_>>());
    let missing = reader.limited_get_log_entries(40, 41).await.unwrap_err();
    assert!(missing.to_string().contains("entry 40 is missing"), "{missing}");
}

/// Catches: a hole that truncate, purge and append leave between them, or positions that are wrong after reopening.
#[tokio::test]
async fn positions_survive_truncate_purge_and_reopen() {
    let directory = tempfile::tempdir().unwrap();
    {
        let mut log = open(directory.path()).unwrap();
        append(&mut log, (0..10).map(entry)).await;
        log.truncate_after(Some(log_id(1, 6))).await.unwrap();
        append(&mut log, (7..9).map(entry)).await;
        log.purge(log_id(1, 3)).await.unwrap();
        log.save_committed(Some(log_id(1, 5))).await.unwrap();
        log.sync().await.unwrap();
    }
    let mut log = open(directory.path()).unwrap();
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 3)));
    assert_eq!(state.last_log_id, Some(log_id(1, 8)));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(1, 5)));
    let mut reader = log.get_log_reader().await;
    assert_eq!(indexes(&reader.try_get_log_entries(..).await.unwrap()), [4, 5, 6, 7, 8]);
    log.purge(log_id(1, 20)).await.unwrap();
    append(&mut log, [entry(21)]).await;
    assert_eq!(indexes(&reader.try_get_log_entries(..).await.unwrap()), [21]);
}

/// Catches: an append that leaves a hole, which Raft would never notice.
#[tokio::test]
#[should_panic(expected = "would leave a hole")]
async fn append_behind_a_gap_panics() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path()).unwrap();
    append(&mut log, [entry(0)]).await;
    append(&mut log, [entry(2)]).await;
}

/// Catches: an acknowledgement although the sync failed, or a second try at it.
#[tokio::test]
async fn failed_sync_fails_votes_and_appends_for_good() {
    let directory = tempfile::tempdir().unwrap();
    let database = Arc::new(Database::open(directory.path()).unwrap());
    let flusher = Flusher::start(|| Err(io::Error::other("no space for the sync"))).unwrap();
    let mut log = LogStore::with_flusher(database, flusher).unwrap();
    assert!(log.save_vote(&Vote::new(1, RaftId::new(1))).await.is_err());
    let (done, waiting) = TypeConfig::oneshot();
    log.append([entry(0)], IOFlushed::signal(done)).await.unwrap();
    assert!(waiting.await.unwrap().is_err());
}

/// What a directory held when a write was acknowledged: the WAL may be cut anywhere behind it, never before.
struct Acknowledged {
    wal_bytes: u64,
    last: Option<u64>,
    term: u64,
}

fn wal(path: &Path) -> std::path::PathBuf {
    let logs = fs::read_dir(path).unwrap().map(|e| e.unwrap().path());
    logs.filter(|p| p.extension().is_some_and(|e| e == "log")).max().unwrap()
}

fn copy_with_wal_of(from: &Path, to: &Path, wal_bytes: u64) {
    fs::create_dir_all(to).unwrap();
    let wal = wal(from);
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path == wal {
            let bytes = fs::read(&path).unwrap();
            fs::write(target, &bytes[..usize::try_from(wal_bytes).unwrap()]).unwrap();
        } else if path.file_name().unwrap() != "LOCK" {
            fs::copy(&path, target).unwrap();
        }
    }
}

/// Catches: a power cut that leaves a hole in the log, brings an older vote back, or loses what was acknowledged.
/// Every cut position of the write-ahead log behind each acknowledged write is tried, in steps.
#[tokio::test]
async fn power_cut_anywhere_keeps_a_prefix_with_all_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    let path = directory.path().join("live");
    let mut log = open(&path).unwrap();
    let size = || fs::metadata(wal(&path)).unwrap().len();
    for round in 0..6u64 {
        log.save_vote(&Vote::new(round + 1, RaftId::new(1))).await.unwrap();
        acknowledged.push(Acknowledged { wal_bytes: size(), last: log.last, term: round + 1 });
        append(&mut log, (round * 4..round * 4 + 5).map(entry)).await;
        acknowledged.push(Acknowledged { wal_bytes: size(), last: log.last, term: round + 1 });
        // The next leader's entries replace the last one.
        log.truncate_after(Some(log_id(1, round * 4 + 3))).await.unwrap();
    }
    let end = size();
    let mut cuts: Vec<u64> = acknowledged.iter().map(|a| a.wal_bytes).collect();
    cuts.extend((acknowledged[0].wal_bytes..=end).step_by(53));
    for (n, cut) in cuts.into_iter().enumerate() {
        let copy = directory.path().join(format!("cut-{n}"));
        copy_with_wal_of(&path, &copy, cut);
        let mut reopened = open(&copy).unwrap();
        let floor = acknowledged.iter().rev().find(|a| a.wal_bytes <= cut).unwrap();
        let vote = reopened.reader.vote().unwrap().unwrap();
        assert!(
            vote.leader_id.term >= floor.term,
            "cut at {cut}: vote of term {} after {}",
            vote.leader_id.term,
            floor.term
        );
        let mut reader = reopened.get_log_reader().await;
        let found = indexes(&reader.try_get_log_entries(..).await.unwrap());
        assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>(), "cut at {cut}: a hole");
        // A truncation behind the acknowledged write may be in the prefix too; it takes one entry.
        assert!(
            found.len() as u64 >= floor.last.unwrap_or(0),
            "cut at {cut}: {} entries, {:?} acknowledged",
            found.len(),
            floor.last
        );
        drop(reopened);
        fs::remove_dir_all(copy).unwrap();
    }
}

/// Catches: a flipped bit in the write-ahead log that shortens the log silently, or is read as an entry.
#[tokio::test]
async fn flipped_bit_in_the_wal_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("live");
    {
        let mut log = open(&path).unwrap();
        for index in 0..20 {
            append(&mut log, [entry(index)]).await;
        }
    }
    let wal = wal(&path);
    let good = fs::read(&wal).unwrap();
    // Not in the last records: behind a bit flipped there, a torn tail cannot be told from damage.
    for byte in (good.len() / 4..good.len() / 2).step_by(37) {
        let mut bad = good.clone();
        bad[byte] ^= 0x10;
        fs::write(&wal, bad).unwrap();
        let refused = open(&path).err().map(|e| e.to_string());
        let text = refused.unwrap_or_else(|| panic!("the flip at byte {byte} was accepted"));
        assert!(text.contains("damaged"), "{text}");
        // A refused open may have left files of its own; what is tested is the flip alone.
        fs::write(&wal, &good).unwrap();
    }
    assert_eq!(open(&path).unwrap().last, Some(19));
}

/// Catches: a damaged stored value that is skipped or read as absent.
#[tokio::test]
async fn damaged_values_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let database = Arc::new(Database::open(directory.path()).unwrap());
    let mut log = LogStore::open(Arc::clone(&database), None).unwrap();
    log.save_vote(&Vote::new(3, RaftId::new(1))).await.unwrap();
    append(&mut log, (0..3).map(entry)).await;
    let spoil = |family, key: &[u8]| {
        let mut value = database.get(family, key).unwrap().unwrap();
        *value.last_mut().unwrap() ^= 1;
        let mut batch = database.batch();
        batch.put(family, key, &value).unwrap();
        batch.write().unwrap();
    };
    spoil(Family::Log, &1u64.to_be_bytes());
    let mut reader = log.get_log_reader().await;
    let error = reader.try_get_log_entries(0..3).await.unwrap_err().to_string();
    assert!(error.contains("damaged") && error.contains("checksum"), "{error}");
    spoil(Family::Meta, VOTE);
    let error = reader.read_vote().await.unwrap_err().to_string();
    assert!(error.contains("the vote"), "{error}");
    drop(log);
    assert!(LogStore::open(database, None).is_err(), "a damaged vote must not start");
}
