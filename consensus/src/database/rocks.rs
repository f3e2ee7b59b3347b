//! The database in RocksDB: a column family for each of ours, one WAL, small buffers.

use std::io;
use std::path::{Path, PathBuf};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBRecoveryMode, Options, WriteBatch,
};

use super::{Change, DatabaseError, Family, Pair, Pairs, record_log};

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
        record_log::check_directory(path)?;
        let path = path.to_path_buf();
        let cache = Cache::new_lru_cache(MIB);
        let failed = |source: rocksdb::Error| {
            let path = path.clone();
            match source.kind() {
                _ if source.as_ref().contains(FULL) => DatabaseError::Full { path, source },
                rocksdb::ErrorKind::Corruption => DatabaseError::Damaged { path, source },
                // It makes a database that is missing as a whole: what it misses, another of its files names.
                _ if source.as_ref().contains(MISSING) => DatabaseError::Damaged { path, source },
                _ if source.to_string().contains("lock") => DatabaseError::InUse { path, source },
                _ => DatabaseError::Failed { path, source },
            }
        };
        let options = database_options().map_err(failed)?;
        let families = Family::ALL.map(|f| ColumnFamilyDescriptor::new(f.name(), family_options(f, &cache)));
        let db = DB::open_cf_descriptors(&options, &path, families).map_err(failed)?;
        Ok(Self { db, path })
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

fn database_options() -> Result<Options, rocksdb::Error> {
    // Replaying a WAL of a few hundred KiB is quicker than writing a table at every start; only the text form has it.
    let mut options = Options::default().get_options_from_string("avoid_flush_during_recovery=true")?;
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // A torn last record is normal. Anything else that does not check is damage, and a shorter log is no answer to
    // damage: an entry or a vote that was promised would be gone without anybody noticing. What RocksDB cannot tell apart
    // `record_log` does.
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
