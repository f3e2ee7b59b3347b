//! The real thing: a directory of the file system, RocksDB and two threads.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use streambus_protocol::batch::PlacedBatch;
use streambus_protocol::ids::{BrokerId, ClusterId};
use streambus_protocol::offset::Offset;
use streambus_storage::clock::SystemClock;
use streambus_storage::config::StoreConfig;
use streambus_storage::error::{AppendError, OpenError, ReadError, StoreError};
use streambus_storage::identity::IdentityError;
use streambus_storage::inspect::{dump_dir, verify_dir};
use streambus_storage::partition_log::{PartitionLog, ReadLimit};
use streambus_storage::store::{RecoveryReport, Store};
use tempfile::TempDir;

use crate::world::{Spec, batch, create, partition, read_all};

fn config() -> StoreConfig {
    StoreConfig { index_write_buffer_bytes: 1 << 20, index_cache_bytes: 1 << 20, ..StoreConfig::tiny() }
}

fn open(path: &Path) -> Result<(Store, RecoveryReport), OpenError> {
    Store::open_dir(path, config(), Arc::new(SystemClock::new()))
}

/// A copy of every file as it is.
fn copy(path: &Path) -> TempDir {
    let target = tempfile::tempdir().expect("temporary directory");
    for folder in ["", "index"] {
        fs::create_dir_all(target.path().join(folder)).expect("created");
        for entry in fs::read_dir(path.join(folder)).expect("list") {
            let entry = entry.expect("entry");
            if entry.metadata().expect("metadata").is_file() {
                fs::copy(entry.path(), target.path().join(folder).join(entry.file_name())).expect("copied");
            }
        }
    }
    target
}

/// Waits for a promise on this thread.
fn wait(durable: streambus_storage::partition_log::Durable) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(durable).expect("durable");
}

fn fill(store: &Store, batches: usize) -> Vec<Bytes> {
    let log = create(store, 0);
    for i in 0..batches {
        let batch = batch(log.log_end(), &Spec { record_bytes: 900, salt: i as u64, ..Spec::default() });
        wait(log.append(batch).expect("appended").durable);
    }
    read_all(&log).expect("readable")
}

/// A closed directory with several segments.
fn filled() -> (TempDir, Vec<Bytes>) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, _) = open(dir.path()).expect("opens");
    let content = fill(&store, 400);
    store.close().expect("closes");
    (dir, content)
}

fn content(store: &Store) -> Vec<Bytes> {
    read_all(&store.log(partition(0)).expect("the log")).expect("readable")
}

#[test]
fn a_directory_survives_closing_and_not_closing() {
    let (dir, content) = filled();
    let (store, report) = open(dir.path()).expect("opens");
    assert!(!report.index_rebuilt, "the index is used again");
    assert_eq!(report.journal.damaged, []);
    assert!(report.journal.segments <= 2, "{} segments were read", report.journal.segments);
    assert_eq!(self::content(&store), content);
    let more = fill(&store, 120);
    assert_eq!(more.len(), content.len() + 120);
    // What the files hold now is what a killed process leaves.
    let killed = copy(dir.path());
    let (survivor, report) = open(killed.path()).expect("opens");
    assert_eq!((report.index_rebuilt, report.journal.damaged), (false, Vec::new()));
    assert_eq!(self::content(&survivor), more);
    let report = verify_dir(dir.path()).expect("a running directory can be inspected");
    assert!(report.ok, "{:?}", report.damaged);
    assert!(report.extents > 0 && report.batches >= 520 && report.logs == 1);
}

// Catches a first start that says it has rebuilt an index, as after a loss, although there was never anything in it; and a
// loss that is not told because the journal is short.
#[test]
fn an_index_is_rebuilt_only_where_there_was_something_to_put_into_it() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, report) = open(dir.path()).expect("opens");
    assert!(!report.index_rebuilt, "a new directory");
    fill(&store, 1);
    store.close().expect("closes");
    drop(store);
    fs::remove_dir_all(dir.path().join("index")).expect("removed");
    let (store, report) = open(dir.path()).expect("opens");
    assert!(report.index_rebuilt, "one batch is something");
    assert_eq!(content(&store).len(), 1);
}

#[test]
fn a_second_process_is_kept_out() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, _) = open(dir.path()).expect("opens");
    let refused = open(dir.path()).expect_err("in use");
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    assert!(refused.to_string().contains("another process"));
    store.close().expect("closes");
    drop(store);
    open(dir.path()).expect("free again");
}

#[test]
fn foreign_directories_are_refused_by_name() {
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::write(dir.path().join("holiday.jpg"), b"x").expect("write");
    let refused = open(dir.path()).expect_err("foreign").to_string();
    assert!(refused.contains("holiday.jpg") && refused.contains("choose another directory"), "{refused}");
    let file = dir.path().join("holiday.jpg");
    let refused = open(&file).expect_err("a file");
    assert!(matches!(refused, OpenError::Identity(IdentityError::NotADirectory { .. })), "{refused}");

    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, _) = open(dir.path()).expect("opens");
    let (mine, cluster) = (BrokerId::new(3), ClusterId::from_bytes([1; 16]));
    store.claim(mine, cluster).expect("claimed");
    store.close().expect("closes");
    drop(store);
    let (store, _) = open(dir.path()).expect("opens");
    store.claim(mine, cluster).expect("its own");
    let refused = store.claim(BrokerId::new(4), cluster).expect_err("another broker's");
    assert!(matches!(refused, StoreError::Identity(IdentityError::WrongOwner { .. })), "{refused}");

    let identity = dir.path().join("identity");
    drop(store);
    let written = fs::read_to_string(&identity).expect("read");
    let (checked, _) = written.split_once("crc32c = ").expect("a checksum");
    let newer = checked.replace("format = 1", "format = 2");
    let newer = format!("{newer}crc32c = {:08x}\n", crc32c::crc32c(newer.as_bytes()));
    fs::write(&identity, newer).expect("write");
    let refused = open(dir.path()).expect_err("newer");
    assert!(matches!(refused, OpenError::Identity(IdentityError::NewerFormat { found: 2 })), "{refused}");
}

// Catches an index that is trusted although it is gone, older than the checkpoint, or damaged: every read would be wrong
// or refused for ever.
#[test]
fn a_lost_or_damaged_index_is_rebuilt_or_harmless() {
    let (dir, content) = filled();
    let index = dir.path().join("index");
    fs::remove_dir_all(&index).expect("removed");
    {
        let (store, report) = open(dir.path()).expect("opens");
        assert!(report.index_rebuilt);
        assert_eq!(self::content(&store), content);
        store.close().expect("closes");
    }
    let mut random = SmallRng::seed_from_u64(5);
    let names: Vec<_> = fs::read_dir(&index)
        .expect("list")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| fs::metadata(path).expect("metadata").len() > 0)
        .collect();
    assert!(names.iter().any(|name| name.extension().is_some_and(|ext| ext == "sst")), "{names:?}");
    for name in &names {
        let original = fs::read(name).expect("read");
        for _ in 0..4 {
            let mut flipped = original.clone();
            let at = random.random_range(0..flipped.len());
            flipped[at] ^= 1 << random.random_range(0..8);
            fs::write(name, &flipped).expect("write");
            // Either it opens and serves nothing wrong, or it says what is wrong; then a restart heals it.
            let mut served = false;
            for _ in 0..3 {
                let (store, _) = open(dir.path()).expect("a damaged index never stops a broker");
                let read = read_all(&store.log(partition(0)).expect("the log"));
                store.close().expect("closes");
                if let Ok(read) = read {
                    assert_eq!(read, content, "{}", name.display());
                    served = true;
                    break;
                }
            }
            assert!(served, "{} at byte {at} never healed", name.display());
            if !name.exists() || fs::read(name).expect("read") != flipped {
                break;
            }
            fs::write(name, &original).expect("write back");
        }
    }
}

// Catches a broker that does not start for a bit of the index's manifest: RocksDB reads a record of another kind for ever,
// and drops what follows one that is too long. Whichever record it is, the index is rebuilt.
#[test]
fn a_manifest_of_the_index_with_a_flipped_bit_is_rebuilt() {
    let (dir, content) = filled();
    let index = dir.path().join("index");
    for byte in [6, 5, 1, 9] {
        let manifests = fs::read_dir(&index).expect("list").map(|entry| entry.expect("entry").path());
        let manifest = manifests.filter(|path| path.display().to_string().contains("MANIFEST-")).max().expect("one");
        let mut bytes = fs::read(&manifest).expect("read");
        bytes[byte] ^= 4;
        fs::write(&manifest, bytes).expect("write");
        let report = verify_dir(dir.path()).expect("inspected");
        let name = manifest.strip_prefix(dir.path()).expect("within").display().to_string();
        let found = report.damaged.iter().find(|damage| damage.file == name).expect("the manifest is named");
        assert_eq!(found.position, Some(0), "{found:?}");
        let (store, report) = open(dir.path()).expect("a damaged index never stops a broker");
        assert!(report.index_rebuilt, "byte {byte}");
        assert_eq!(self::content(&store), content);
        store.close().expect("closes");
    }
}

/// Every file and folder below `path` with its length and when it was last changed. A file that is made and removed again
/// changes its folder.
fn listing(path: &Path) -> Vec<(std::path::PathBuf, u64, std::time::SystemTime)> {
    let metadata = fs::metadata(path).expect("metadata");
    let mut found = vec![(path.to_owned(), metadata.len(), metadata.modified().expect("a time"))];
    if metadata.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path).expect("list").map(|entry| entry.expect("entry").path()).collect();
        entries.sort();
        found.extend(entries.iter().flat_map(|entry| listing(entry)));
    }
    found
}

/// Takes away write permission of `path` and what is below, or gives it back.
fn set_writable(path: &Path, writable: bool) {
    use std::os::unix::fs::PermissionsExt as _;
    let is_dir = path.is_dir();
    let mode = match (is_dir, writable) {
        (true, true) => 0o755,
        (true, false) => 0o555,
        (false, true) => 0o644,
        (false, false) => 0o444,
    };
    if writable {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
    }
    if is_dir {
        for entry in fs::read_dir(path).expect("list") {
            set_writable(&entry.expect("entry").path(), writable);
        }
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
}

// Catches an inspection that needs to write, if only for a moment: it would fail on a read-only mount, on a full disk and for
// a user who may only read. Whoever may do everything sees it by the times of the folders.
#[test]
fn inspection_needs_no_permission_to_write_and_touches_nothing() {
    let (dir, _) = filled();
    set_writable(dir.path(), false);
    let before = listing(dir.path());
    let report = verify_dir(dir.path()).expect("inspected");
    let mut dump = Vec::new();
    let dumped = dump_dir(dir.path(), &mut dump);
    let after = listing(dir.path());
    set_writable(dir.path(), true);
    assert!(report.ok, "{:?}", report.damaged);
    dumped.expect("dumped");
    assert_eq!(after, before);
}

// Catches an inspection that is blind to a kind of file, or that writes.
#[test]
fn inspection_finds_damage_in_every_kind_of_file_and_changes_nothing() {
    let (dir, _) = filled();
    let clean = verify_dir(dir.path()).expect("inspected");
    assert!(clean.ok, "{:?}", clean.damaged);
    assert_eq!(clean.batches, 400);
    let mut dump = Vec::new();
    dump_dir(dir.path(), &mut dump).expect("dumped");
    let dump = String::from_utf8(dump).expect("text");
    assert_eq!(dump.lines().filter(|line| line.contains(" batch offsets=")).count(), 400);
    assert!(dump.contains("created partition="));

    let files = |prefix: &str, folder: &str| {
        let mut found: Vec<_> = fs::read_dir(dir.path().join(folder))
            .expect("list")
            .map(|entry| entry.expect("entry").path())
            .filter(|path| path.file_name().expect("name").to_string_lossy().contains(prefix))
            .collect();
        found.sort();
        found.remove(0)
    };
    let first = dump.lines().find(|line| line.contains(" batch offsets=0..1 ")).expect("the first batch");
    let field = |name: &str| {
        let value = first.split_whitespace().find_map(|field| field.strip_prefix(name)).expect("a field");
        value.parse::<usize>().expect("a number")
    };
    let segment = format!("journal-{:016x}.seg", field("segment="));
    for (file, at) in [
        (files(&segment, ""), field("position=") + 200),
        (files(&segment, ""), 4_100),
        (files("checkpoint-", ""), 60),
        (files("identity", ""), 40),
        (files(".sst", "index"), 20),
        (files("MANIFEST", "index"), 30),
    ] {
        let original = fs::read(&file).expect("read");
        let mut flipped = original.clone();
        flipped[at] ^= 4;
        fs::write(&file, &flipped).expect("write");
        let report = verify_dir(dir.path()).expect("inspected");
        let name = file.strip_prefix(dir.path()).expect("within").to_string_lossy().into_owned();
        let folder = name.split('/').next().expect("a name").to_owned();
        assert!(!report.ok, "{name} is damaged");
        let named = |damage: &streambus_storage::inspect::Damage| damage.file == name || damage.file == folder;
        assert!(report.damaged.iter().any(named), "{name}: {:?}", report.damaged);
        if folder == "index" {
            let exact = |damage: &streambus_storage::inspect::Damage| {
                damage.file == name && damage.position.is_some_and(|position| position <= at as u64)
            };
            assert!(report.damaged.iter().any(exact), "{name}: {:?}", report.damaged);
        }
        assert_eq!(fs::read(&file).expect("read"), flipped, "an inspection repairs nothing");
        fs::write(&file, original).expect("write back");
    }
    assert!(verify_dir(&dir.path().join("nowhere")).is_err());
}

// Catches a deadlock between appenders, the commit thread and maintenance, a commit that overtakes its acceptance, and a
// read that meets a recycled segment.
#[test]
fn threads_append_read_trim_and_recycle_at_once() {
    const BATCHES: u64 = 1_500;
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, _) = open(dir.path()).expect("opens");
    let logs: Vec<_> = (0..3).map(|p| create(&store, p)).collect();
    std::thread::scope(|scope| {
        for (p, log) in logs.iter().enumerate() {
            scope.spawn(move || append_all(log, p as u64, BATCHES));
            scope.spawn(move || follow(log, p as u64, BATCHES));
        }
        let (store, logs) = (&store, &logs);
        scope.spawn(move || {
            while logs.iter().any(|log| log.durable_end().get() < BATCHES) {
                for log in logs {
                    let end = log.durable_end().get();
                    match log.trim(Offset::new(end.saturating_sub(200)).expect("small")) {
                        Ok(_) | Err(StoreError::Append(AppendError::Busy { .. })) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                store.apply_retention(streambus_protocol::timestamp::Timestamp::from_millis(0));
                store.scrub_step(1 << 20).expect("scrubbed");
            }
        });
    });
    let status = store.status();
    assert_eq!((status.damaged, status.read_only), (Vec::new(), None));
    assert!(store.metrics().segments_recycled.get() > 0);
    store.close().expect("closes");
    drop((store, logs));
    let (store, report) = open(dir.path()).expect("opens");
    assert_eq!(report.journal.damaged, []);
    for id in store.log_ids() {
        let log = store.log(id).expect("the log");
        let count = log.log_start().distance_to(log.log_end()).expect("in order");
        assert_eq!((log.log_end().get(), read_all(&log).expect("readable").len() as u64), (BATCHES, count));
    }
}

fn append_all(log: &PartitionLog, p: u64, batches: u64) {
    let mut last = None;
    for i in 0..batches {
        let spec = Spec { record_bytes: 300, salt: p << 32 | i, ..Spec::default() };
        loop {
            match log.append(batch(Offset::new(i).expect("small"), &spec)) {
                Ok(appended) => {
                    last = Some(appended.durable);
                    break;
                }
                // The disk is slower than this loop; let it catch up.
                Err(AppendError::Busy { .. }) => {
                    if let Some(durable) = last.take() {
                        wait(durable);
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    wait(last.expect("appended"));
}

/// Reads the log as it grows and checks that every batch is the one that was appended there.
fn follow(log: &PartitionLog, p: u64, batches: u64) {
    let mut cursor = Offset::ZERO;
    while cursor.get() < batches {
        match crate::world::read(log, cursor, ReadLimit { bytes_max: 20_000, below: log.durable_end() }) {
            Ok((found, next)) => {
                for (i, bytes) in (cursor.get()..).zip(found) {
                    let stored = PlacedBatch::verify_stored(bytes).expect("proven");
                    let record = stored.records(1 << 20).expect("decodes").next().expect("one").expect("decodes");
                    let value = record.record.value.expect("a value");
                    assert_eq!((record.offset.get(), &value[..8]), (i, &(p << 32 | i).to_le_bytes()[..]));
                }
                cursor = next;
            }
            // Trimmed away before it was read.
            Err(ReadError::OutOfRange { start, .. }) => {
                assert!(start > cursor);
                cursor = start;
            }
            Err(error) => panic!("{error}"),
        }
    }
}
