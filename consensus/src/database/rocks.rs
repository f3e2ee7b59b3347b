//! The database in RocksDB: a column family for each of ours, one WAL, small buffers.
//!
//! Its files are proven before anything of them is believed. RocksDB takes some damage for the end of a log, and goes over a
//! damaged list of deleted ranges with a line in its own log: what was deleted would be back.

use std::io;
use std::path::{Path, PathBuf};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBRecoveryMode, Options, WriteBatch,
};

use streambus_rocksfiles::{Unreadable, damaged_logs, damaged_tables};

use super::{Change, DatabaseError, Family, Pair, Pairs};

/// What the system says of a file that is not there.
const MISSING: &str = "No such file or directory";
/// What the system says when there is no room; RocksDB's kinds of errors do not tell.
const FULL: &str = "No space left on device";
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

impl Family {
    const ALL: [Self; 3] = [Self::Meta, Self::Log, Self::State];

    const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Log => "log",
            Self::State => "sm",
        }
    }

    /// Bytes of a write buffer. Small: the metadata is small and the whole broker has 100 MB.
    const fn write_buffer_bytes(self) -> usize {
        match self {
            Self::Meta => 256 * KIB,
            Self::Log => 2 * MIB,
            Self::State => MIB,
        }
    }
}

/// An open database in a directory.
pub(super) struct RocksDatabase {
    db: DB,
    path: PathBuf,
}

impl RocksDatabase {
    pub(super) fn open(path: &Path) -> Result<Self, DatabaseError> {
        if let Some(damage) = damaged_logs(path).map_err(unreadable)?.into_iter().next() {
            return Err(DatabaseError::DamagedFile(damage));
        }
        let suspects = damaged_tables(path).map_err(unreadable)?;
        if let Some(first) = suspects.first() {
            // Which of them the database has, only RocksDB can say. A crash leaves others, and it removes them.
            let database = match Self::open_with(path, Compactions::Never) {
                Ok(database) => database,
                Err(passing @ (DatabaseError::InUse { .. } | DatabaseError::Full { .. })) => return Err(passing),
                Err(_) => return Err(DatabaseError::DamagedFile(first.clone())),
            };
            let tables =
                database.tables().map_err(|source| DatabaseError::Unreadable { path: path.to_owned(), source })?;
            if let Some(damage) = suspects.into_iter().find(|damage| damage.is_of(&tables)) {
                return Err(DatabaseError::DamagedFile(damage));
            }
        }
        Self::open_with(path, Compactions::AtOnce)
    }

    fn open_with(path: &Path, compactions: Compactions) -> Result<Self, DatabaseError> {
        let failed = |source| failed(path, source);
        let mut options = database_options().map_err(failed)?;
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let db = DB::open_cf_descriptors(&options, path, descriptors(compactions)).map_err(failed)?;
        Ok(Self { db, path: path.to_owned() })
    }

    /// Why something was not written. RocksDB goes on by itself when there is room again; whoever relies on this database does
    /// not, since a vote or an entry may be missing by then.
    fn not_written(&self, source: rocksdb::Error) -> io::Error {
        if source.as_ref().contains(FULL) {
            let full = DatabaseError::Full { path: self.path.clone(), source };
            return io::Error::new(io::ErrorKind::StorageFull, full);
        }
        io::Error::other(source)
    }

    /// Opens what is there without a lock and without writing anything.
    pub(super) fn open_read_only(path: &Path) -> Result<Self, DatabaseError> {
        let failed = |source| failed(path, source);
        let options = database_options().map_err(failed)?;
        let families = descriptors(Compactions::Never);
        let db = DB::open_cf_descriptors_read_only(&options, path, families, false).map_err(failed)?;
        Ok(Self { db, path: path.to_owned() })
    }

    /// The names of its tables, within its directory.
    pub(super) fn tables(&self) -> io::Result<Vec<String>> {
        let files = self.db.live_files().map_err(io::Error::other)?;
        Ok(files.into_iter().map(|file| file.name).collect())
    }

    /// Writes what is in memory to tables.
    #[cfg(test)]
    pub(super) fn flush_to_tables(&self) {
        for family in Family::ALL {
            self.db.flush_cf(self.family(family).unwrap()).unwrap();
        }
    }

    pub(super) fn get(&self, family: Family, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.db.get_cf(self.family(family)?, key).map_err(io::Error::other)
    }

    pub(super) fn write(&self, changes: &[Change]) -> io::Result<()> {
        let mut batch = WriteBatch::default();
        for change in changes {
            match change {
                Change::Put { family, key, value } => batch.put_cf(self.family(*family)?, key, value),
                Change::Delete { family, key } => batch.delete_cf(self.family(*family)?, key),
                Change::DeleteRange { family, from, until } => {
                    batch.delete_range_cf(self.family(*family)?, from, until);
                }
            }
        }
        self.db.write(batch).map_err(|source| self.not_written(source))
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.db.flush_wal(true).map_err(|source| self.not_written(source))
    }

    pub(super) fn scan(&self, family: Family, from: &[u8]) -> io::Result<Pairs<'_>> {
        let mode = rocksdb::IteratorMode::From(from, rocksdb::Direction::Forward);
        let pairs = self.db.iterator_cf(self.family(family)?, mode);
        Ok(Box::new(pairs.map(|pair| pair.map_err(io::Error::other))))
    }

    pub(super) fn last(&self, family: Family) -> io::Result<Option<Pair>> {
        let mut pairs = self.db.iterator_cf(self.family(family)?, rocksdb::IteratorMode::End);
        pairs.next().transpose().map_err(io::Error::other)
    }

    fn family(&self, family: Family) -> io::Result<&ColumnFamily> {
        let missing = || io::Error::other(format!("column family '{}' is missing", family.name()));
        self.db.cf_handle(family.name()).ok_or_else(missing)
    }
}

/// Whether tables may be merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compactions {
    AtOnce,
    /// What a compaction reads of a damaged table it would write as if it were sound.
    Never,
}

fn failed(path: &Path, source: rocksdb::Error) -> DatabaseError {
    let path = path.to_path_buf();
    match source.kind() {
        _ if source.as_ref().contains(FULL) => DatabaseError::Full { path, source },
        rocksdb::ErrorKind::Corruption => DatabaseError::Damaged { path, source },
        // It makes a database that is missing as a whole: what it misses, another of its files names.
        _ if source.as_ref().contains(MISSING) => DatabaseError::Damaged { path, source },
        _ if source.to_string().contains("lock") => DatabaseError::InUse { path, source },
        _ => DatabaseError::Failed { path, source },
    }
}

fn unreadable(error: Unreadable) -> DatabaseError {
    DatabaseError::Unreadable { path: error.path, source: error.source }
}

fn descriptors(compactions: Compactions) -> [ColumnFamilyDescriptor; 3] {
    let cache = Cache::new_lru_cache(MIB);
    Family::ALL.map(|family| {
        let mut options = family_options(family, &cache);
        options.set_disable_auto_compactions(compactions == Compactions::Never);
        ColumnFamilyDescriptor::new(family.name(), options)
    })
}

fn database_options() -> Result<Options, rocksdb::Error> {
    // Replaying a WAL of a few hundred KiB is quicker than writing a table at every start; only the text form has it.
    let mut options = Options::default().get_options_from_string("avoid_flush_during_recovery=true")?;
    // A torn last record is normal. Anything else that does not check is damage, and a shorter log is no answer to
    // damage: an entry or a vote that was promised would be gone without anybody noticing. What RocksDB cannot tell apart
    // `damaged_logs` does.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_max_total_wal_size(4 * MIB as u64);
    options.set_db_write_buffer_size(4 * MIB);
    options.set_max_background_jobs(2);
    options.set_max_open_files(64);
    // The default of 16 starts as many threads at every open, for a handful of files.
    options.set_max_file_opening_threads(1);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(256 * KIB);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_skip_stats_update_on_db_open(true);
    Ok(options)
}

fn family_options(family: Family, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_format_version(5);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(family.write_buffer_bytes());
    options.set_arena_block_size(64 * KIB);
    options.set_max_write_buffer_number(2);
    options.set_target_file_size_base(2 * MIB as u64);
    options
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    /// The files of `folder` whose names satisfy `wanted`, in their order.
    fn files(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let named = |path: &PathBuf| wanted(path.file_name().unwrap().to_str().unwrap());
        let mut found: Vec<PathBuf> = entries.filter(named).collect();
        found.sort();
        found
    }

    fn put(database: &RocksDatabase, at: u32) {
        let change = Change::Put { family: Family::Log, key: at.to_be_bytes().to_vec(), value: vec![7; 120] };
        database.write(&[change]).unwrap();
    }

    /// A database whose log holds 300 records, and its log.
    fn logged(folder: &Path) -> PathBuf {
        let database = RocksDatabase::open(folder).unwrap();
        (0..300).for_each(|at| put(&database, at));
        database.sync().unwrap();
        drop(database);
        files(folder, |name| name.ends_with(".log")).pop().expect("a log")
    }

    fn refusal(folder: &Path) -> String {
        RocksDatabase::open(folder).err().expect("it is damaged").to_string()
    }

    /// Catches: a start on a log whose end is gone, which forgets votes, and one that never comes to an end.
    #[test]
    fn a_database_with_a_damaged_log_is_refused_and_the_file_named() {
        // A length that leads past the end; a kind of files that are used again, at a record behind the first.
        for (byte, bit) in [(5, 0x20), (6, 0x04)] {
            let folder = tempfile::tempdir().unwrap();
            let log = logged(folder.path());
            let bytes = fs::read(&log).unwrap();
            // All in the first block.
            let mut at = 0;
            for _ in 0..100 {
                at += 7 + usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
            }
            let mut flipped = bytes.clone();
            flipped[at + byte] ^= bit;
            fs::write(&log, &flipped).unwrap();
            let error = refusal(folder.path());
            assert!(error.contains(&log.display().to_string()) && error.contains("restore"), "{error}");
            assert!(error.contains(&format!("from byte {at} ")), "{error}");
            fs::write(&log, &bytes).unwrap();
            RocksDatabase::open(folder.path()).unwrap();
        }
    }

    /// Catches: a flipped bit that names another file, told as a failure without a remedy.
    #[test]
    fn a_database_whose_manifest_is_missing_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        logged(folder.path());
        fs::write(folder.path().join("CURRENT"), "MANIFEST-900000\n").unwrap();
        let error = refusal(folder.path());
        assert!(error.contains("damaged") && error.contains("restore"), "{error}");
    }

    /// Catches: a start on a damaged table, above all on one whose list of deleted ranges is damaged, which RocksDB
    /// passes over: what was deleted would be back. And a start that takes what a crash has left for a table, or after
    /// which none is ever merged.
    #[test]
    fn a_database_with_a_damaged_table_is_refused_and_the_file_named() {
        let folder = tempfile::tempdir().unwrap();
        logged(folder.path());
        let database = RocksDatabase::open(folder.path()).unwrap();
        database.flush_to_tables();
        let delete = |from: u32, until: u32| Change::DeleteRange {
            family: Family::Log,
            from: from.to_be_bytes().to_vec(),
            until: until.to_be_bytes().to_vec(),
        };
        database.write(&[delete(100, 300)]).unwrap();
        database.flush_to_tables();
        assert_eq!(database.last(Family::Log).unwrap().unwrap().0, 99_u32.to_be_bytes().into());
        drop(database);
        let tables = files(folder.path(), |name| name.ends_with(".sst"));
        assert_eq!(tables.len(), 2, "entries, and a deleted range");
        for table in &tables {
            let bytes = fs::read(table).unwrap();
            // From end to end, the last bytes of the footer included.
            for byte in (0..bytes.len()).rev().step_by(bytes.len() / 24) {
                let mut flipped = bytes.clone();
                flipped[byte] ^= 1;
                fs::write(table, &flipped).unwrap();
                let error = refusal(folder.path());
                let name = table.file_name().unwrap().to_str().unwrap();
                assert!(error.contains(name) && error.contains("restore"), "byte {byte}: {error}");
            }
            fs::write(table, &bytes).unwrap();
        }
        let database = RocksDatabase::open(folder.path()).unwrap();
        assert_eq!(database.last(Family::Log).unwrap().unwrap().0, 99_u32.to_be_bytes().into());
        drop(database);

        let left_over = folder.path().join("000001.sst");
        fs::write(&left_over, b"torn").unwrap();
        let database = RocksDatabase::open(folder.path()).unwrap();
        assert_eq!(database.last(Family::Log).unwrap().unwrap().0, 99_u32.to_be_bytes().into());
        let options = files(folder.path(), |name| name.starts_with("OPTIONS-")).pop().expect("what it runs with");
        let options = fs::read_to_string(options).unwrap();
        assert!(options.contains("disable_auto_compactions=false"), "{options}");
        assert!(!options.contains("disable_auto_compactions=true"), "{options}");
    }
}
