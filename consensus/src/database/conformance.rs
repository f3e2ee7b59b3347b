//! What both databases must do alike, and what only the one in memory can be asked: what a crash takes.

use std::time::Duration;

use super::*;

fn put(database: &Database, family: Family, key: &[u8], value: &[u8]) {
    let mut batch = database.batch();
    batch.put(family, key, value).unwrap();
    batch.write().unwrap();
}

fn keys(database: &Database, family: Family, from: &[u8]) -> Vec<Vec<u8>> {
    database.scan(family, from).unwrap().map(|pair| pair.unwrap().0.into_vec()).collect()
}

fn memory() -> MemoryDatabase {
    MemoryDatabase::new(|| Duration::ZERO)
}

/// Catches: families that leak into one another, a range that includes its end, a batch out of its order, a scan that
/// sees what was written after it began.
fn check(database: &Database) {
    put(database, Family::Log, b"b", b"2");
    let mut batch = database.batch();
    for key in [b"a", b"c", b"d"] {
        batch.put(Family::Log, key, b"1").unwrap();
    }
    batch.put(Family::Meta, b"z", b"meta").unwrap();
    batch.put(Family::State, b"a", b"state").unwrap();
    batch.write().unwrap();
    assert_eq!(keys(database, Family::Log, b""), [b"a", b"b", b"c", b"d"]);
    assert_eq!(keys(database, Family::Log, b"bb"), [b"c", b"d"]);
    assert_eq!(database.last(Family::Log).unwrap().unwrap().0.as_ref(), b"d");
    assert_eq!(database.last(Family::Meta).unwrap().unwrap().1.as_ref(), b"meta");
    assert_eq!(database.get(Family::Log, b"z").unwrap(), None);

    let before = database.scan(Family::Log, b"").unwrap();
    let mut batch = database.batch();
    batch.put(Family::Log, b"bx", b"gone").unwrap();
    batch.delete_range(Family::Log, b"b", b"c").unwrap();
    batch.put(Family::Log, b"b", b"3").unwrap();
    batch.delete(Family::Log, b"d").unwrap();
    assert_eq!(database.get(Family::Log, b"b").unwrap().unwrap(), b"2", "nothing is visible before the write");
    batch.write().unwrap();
    assert_eq!(before.count(), 4, "a scan sees one state");
    assert_eq!(keys(database, Family::Log, b""), [b"a", b"b", b"c"]);
    assert_eq!(database.get(Family::Log, b"b").unwrap().unwrap(), b"3");
    assert_eq!(keys(database, Family::State, b""), [b"a"]);
    let mut batch = database.batch();
    batch.delete_range(Family::Log, b"x", b"a").unwrap();
    assert!(batch.write().is_err(), "a range that ends before it begins is a mistake");
    database.sync().unwrap();
}

#[test]
fn rocksdb_conforms() {
    let directory = tempfile::tempdir().unwrap();
    check(&Database::open(directory.path()).unwrap());
}

#[test]
fn memory_conforms() {
    check(&Database::open_in(&DatabaseSource::Memory(memory()), Path::new("nowhere")).unwrap());
}

/// Catches: a twin that is more durable than the real thing, which would hide a forgotten sync from every simulation,
/// or less, which would accuse a right one.
#[test]
fn a_crash_takes_an_end_of_what_was_not_synced() {
    let kept = memory();
    let open = || Database::open_in(&DatabaseSource::Memory(kept.clone()), Path::new("nowhere")).unwrap();
    let database = open();
    put(&database, Family::Meta, b"synced", b"1");
    let covered = database.memory().unwrap().written();
    put(&database, Family::Meta, b"after", b"1");
    put(&database, Family::Log, b"later", b"1");
    database.sync_first(covered).unwrap();
    assert_eq!(kept.unsynced(), 2, "a sync covers what was written before it began");
    kept.crash(1);
    assert!(database.get(Family::Meta, b"synced").is_err(), "a life that ended reads no more");
    let mut batch = database.batch();
    batch.put(Family::Meta, b"ghost", b"1").unwrap();
    assert!(batch.write().is_err(), "nor does it write");
    let database = open();
    assert!(database.get(Family::Meta, b"synced").unwrap().is_some());
    assert!(database.get(Family::Meta, b"after").unwrap().is_some());
    assert!(database.get(Family::Log, b"later").unwrap().is_none());
    kept.lie_about_syncs();
    put(&database, Family::Meta, b"promised", b"1");
    database.sync().unwrap();
    kept.crash(0);
    assert!(open().get(Family::Meta, b"promised").unwrap().is_none());
}

/// Catches: a sync or a write that is believed after one that failed, on either database; and a failed sync that takes
/// reading with it.
#[test]
fn a_failed_sync_ends_all_writing_and_no_reading() {
    let directory = tempfile::tempdir().unwrap();
    let databases = [
        Database::open(directory.path()).unwrap(),
        Database::open_in(&DatabaseSource::Memory(memory()), Path::new("nowhere")).unwrap(),
    ];
    for database in databases {
        put(&database, Family::Meta, b"before", b"1");
        database.latch.sync(|| Err(io::Error::other("no more of this disk"))).unwrap_err();
        let mut batch = database.batch();
        batch.put(Family::Meta, b"after", b"1").unwrap();
        for refused in [database.sync(), batch.write(), database.sync_first(0), database.batch().write()] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("no more writes") && error.contains("no more of this disk"), "{error}");
        }
        assert_eq!(keys(&database, Family::Meta, b""), [b"before"]);
    }
}

/// Catches: a twin whose failed sync is forgotten by the next one, or one that stays failed for the life after it.
#[test]
fn what_a_failed_sync_covered_is_lost_and_the_next_life_syncs() {
    let kept = memory();
    let open = || Database::open_in(&DatabaseSource::Memory(kept.clone()), Path::new("nowhere")).unwrap();
    let database = open();
    kept.fail_next_sync();
    put(&database, Family::Meta, b"lost", b"1");
    assert!(database.sync().is_err());
    assert!(database.sync().is_err(), "the disk would say yes");
    kept.crash(0);
    let database = open();
    assert!(database.get(Family::Meta, b"lost").unwrap().is_none());
    put(&database, Family::Meta, b"kept", b"1");
    database.sync().unwrap();
    kept.crash(0);
    assert!(open().get(Family::Meta, b"kept").unwrap().is_some());
}
