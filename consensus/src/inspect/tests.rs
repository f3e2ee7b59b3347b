//! What a verification says of a node's directory, whole and with one thing wrong.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use streambus_protocol::ids::BrokerId;
use tempfile::TempDir;

use super::held::held_log;
use super::*;
use crate::cluster_state::ClusterState;
use crate::command::Command;
use crate::config::ConsensusConfig;
use crate::database::DatabaseSource;
use crate::node::{ConsensusEnv, MetadataNode};
use crate::snapshot::SnapshotStore;
use crate::types::SnapshotMeta;

async fn start(data: &Path) -> MetadataNode {
    let endpoint = streambus_protocol::api::metadata::BrokerEndpoint {
        id: BrokerId::new(1),
        host: "127.0.0.1".to_owned(),
        port: 9092,
        rack: None,
    };
    let mut drawn = 0_u8;
    let random = move || {
        drawn += 1;
        [drawn; 16]
    };
    let env = ConsensusEnv::alone(BrokerId::new(1), random);
    MetadataNode::start(ConsensusConfig::alone(data.to_path_buf(), endpoint), env).await.unwrap()
}

/// The data directory of a node that ran twice: with tables, one of them with a deleted range, logs, and a snapshot.
async fn stopped() -> TempDir {
    let data = tempfile::tempdir().unwrap();
    let metadata = data.path().join(METADATA_DIRECTORY);
    let node = start(data.path()).await;
    node.register().await.unwrap();
    node.shutdown().await;
    drop(node);
    let database = Database::open(&metadata.join(DATABASE_DIRECTORY)).unwrap();
    let mut batch = database.batch();
    let far = |index: u64| index.to_be_bytes();
    batch.delete_range(Family::Log, &far(5_000), &far(6_000)).unwrap();
    batch.write().unwrap();
    database.flush_to_tables();
    drop(database);
    let node = start(data.path()).await;
    node.register().await.unwrap();
    node.shutdown().await;
    drop(node);
    let snapshots = SnapshotStore::open(&metadata.join(SNAPSHOT_DIRECTORY)).unwrap();
    snapshots.save(&SnapshotMeta::default(), &ClusterState::default()).unwrap();
    data
}

/// Every file and folder below, with its length and when it was changed.
fn listing(path: &Path) -> Vec<(PathBuf, u64, SystemTime)> {
    let metadata = fs::metadata(path).unwrap();
    let mut found = vec![(path.to_owned(), metadata.len(), metadata.modified().unwrap())];
    if metadata.is_dir() {
        let mut entries: Vec<PathBuf> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        found.extend(entries.iter().flat_map(|entry| listing(entry)));
    }
    found
}

/// Catches: a verification that cries over a sound directory, that looks at nothing, or that writes.
#[tokio::test]
async fn a_sound_directory_is_proven_and_not_touched() {
    let data = stopped().await;
    let before = listing(data.path());
    let report = verify_dir(data.path()).unwrap();
    assert_eq!(report.damaged, []);
    assert!(report.ok && !report.cluster.is_empty(), "{report:?}");
    assert!(report.tables >= 3 && report.entries >= 3 && report.rows >= 2 && report.snapshots == 1, "{report:?}");
    assert_eq!(listing(data.path()), before);
    assert_eq!(verify_dir(&data.path().join("nowhere")), None);
}

/// Catches: a flipped bit in any file that a start relies on, and a report that names another file or no remedy.
#[tokio::test]
async fn a_flipped_bit_of_any_file_is_found_and_the_file_named() {
    let data = stopped().await;
    let unread = ["OPTIONS-", "LOCK", "LOG", "IDENTITY"];
    let files = listing(data.path()).into_iter().filter(|(path, bytes, _)| {
        let name = path.file_name().unwrap().to_str().unwrap();
        path.is_file() && *bytes > 0 && !unread.iter().any(|prefix| name.starts_with(prefix))
    });
    let mut kinds = Vec::new();
    for (file, bytes, _) in files {
        let whole = fs::read(&file).unwrap();
        let name = file.strip_prefix(data.path()).unwrap().display().to_string();
        for part in 0..12 {
            let byte = usize::try_from(bytes).unwrap() * part / 12;
            let mut flipped = whole.clone();
            flipped[byte] ^= 1 << (part % 8);
            fs::write(&file, flipped).unwrap();
            let report = verify_dir(data.path()).unwrap();
            assert!(!report.ok, "byte {byte} of {name}");
            let found = report.damaged.iter().find(|damage| damage.file == name);
            let found = found.unwrap_or_else(|| panic!("byte {byte} of {name}: {:?}", report.damaged));
            assert!(found.position.is_none_or(|position| position <= byte as u64), "byte {byte}: {found:?}");
            assert!(found.remedy.contains("restore") || found.remedy.contains("move"), "{found:?}");
        }
        fs::write(&file, whole).unwrap();
        kinds.push(name);
    }
    for kind in ["identity", ".log", "MANIFEST-", "CURRENT", ".sst", ".snapshot"] {
        assert!(kinds.iter().any(|name| name.contains(kind)), "no {kind} among {kinds:?}");
    }
    assert_eq!(verify_dir(data.path()).unwrap().damaged, []);
}

/// Catches: a database that is gone or another one's, and an identity that is gone, called well.
#[tokio::test]
async fn what_is_missing_or_exchanged_is_damage() {
    let data = stopped().await;
    let metadata = data.path().join(METADATA_DIRECTORY);
    let files = |report: MetadataReport| report.damaged.into_iter().map(|damage| damage.file).collect::<Vec<_>>();

    let identity = fs::read(metadata.join("identity")).unwrap();
    fs::remove_file(metadata.join("identity")).unwrap();
    assert_eq!(files(verify_dir(data.path()).unwrap()), ["metadata/identity"]);
    fs::write(metadata.join("identity"), identity).unwrap();

    let table = listing(&metadata).into_iter().find(|(path, ..)| path.extension().is_some_and(|kind| kind == "sst"));
    let (table, ..) = table.unwrap();
    let bytes = fs::read(&table).unwrap();
    fs::remove_file(&table).unwrap();
    let report = verify_dir(data.path()).unwrap();
    assert!(report.damaged.iter().any(|damage| damage.file.starts_with("metadata/db")), "{:?}", report.damaged);
    fs::write(&table, bytes).unwrap();

    fs::rename(metadata.join("db"), metadata.join("kept")).unwrap();
    assert_eq!(files(verify_dir(data.path()).unwrap()), ["metadata/db"]);
    drop(Database::open(&metadata.join("db")).unwrap());
    assert_eq!(files(verify_dir(data.path()).unwrap()), ["metadata/db"], "an empty one is another one");
}

/// Catches: a verification that calls the directory of a running broker damaged, or is kept out of it.
#[tokio::test]
async fn a_directory_in_use_can_be_verified() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path()).await;
    node.register().await.unwrap();
    let report = verify_dir(data.path()).unwrap();
    assert_eq!(report.damaged, []);
    assert!(report.entries > 0);
    node.shutdown().await;
}

/// Catches: a comparison of disks that sees nothing of an entry or of the state, so that any two disks are equal.
#[tokio::test]
async fn what_is_held_can_be_told_apart_from_anything_else() {
    let data = stopped().await;
    let before = listing(data.path());
    let held = held_log(&DatabaseSource::Directory, data.path()).unwrap();
    assert_eq!(listing(data.path()), before);
    assert_eq!(held_log(&DatabaseSource::Directory, data.path()).unwrap(), held);
    let indexes: Vec<u64> = held.entries.keys().copied().collect();
    assert_eq!(indexes, (0..=held.applied).collect::<Vec<_>>(), "every entry there is, and all are applied");
    let checksums: std::collections::BTreeSet<u32> = held.entries.values().map(|entry| entry.checksum).collect();
    assert_eq!(checksums.len(), held.entries.len(), "{held:?}");

    let node = start(data.path()).await;
    let broker_epoch = node.register().await.unwrap();
    // A change of nothing but what only apply knows.
    node.propose(Command::AllocateProducerIds { broker: BrokerId::new(1), broker_epoch, count: 1 }).await.unwrap();
    node.shutdown().await;
    drop(node);
    let later = held_log(&DatabaseSource::Directory, data.path()).unwrap();
    assert!(later.applied > held.applied && later.state != held.state, "{later:?}");
    assert!(held.entries.iter().all(|(index, entry)| later.entries.get(index) == Some(entry)));
}
