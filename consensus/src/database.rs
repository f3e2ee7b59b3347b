//! The metadata database: one RocksDB with three column families and one write-ahead log.
//!
//! One WAL orders votes, entries, truncations, purges and applied state, which is what Raft needs: after a crash the
//! database is a prefix of what was written, over all families. Nothing written here is durable before
//! `Database::sync` returns; only the flusher calls it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBRecoveryMode, Options, WriteBatch,
};
use tokio::sync::watch;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Called by the flusher's thread before each sync of the log. A test stalls a disk with it.
pub type BeforeSync = Arc<dyn Fn() + Send + Sync>;

/// A column family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Vote, commit and purge positions, identity of the directory.
    Meta,
    /// Raft's log: big-endian index to sealed entry.
    Log,
    /// Applied state: rows, and what they are as of.
    State,
}

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

/// The database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Another process has it open.
    #[error("the metadata database {path} is in use by another process: stop that one first")]
    InUse {
        /// Where it is.
        path: PathBuf,
        /// What RocksDB says.
        source: rocksdb::Error,
    },
    /// Its files are damaged.
    #[error(
        "the metadata database {path} is damaged ({source}); it must not be used or emptied in place: \
         restore the disk, or remove this node from the cluster and join it again with an empty directory"
    )]
    Damaged {
        /// Where it is.
        path: PathBuf,
        /// What RocksDB says.
        source: rocksdb::Error,
    },
    /// Any other failure of the file system.
    #[error("the metadata database {path} cannot be opened: {source}")]
    Failed {
        /// Where it is.
        path: PathBuf,
        /// What RocksDB says.
        source: rocksdb::Error,
    },
}

/// An open metadata database.
pub(crate) struct Database {
    db: DB,
    // Behind `db`, so that it is dropped after the files are closed.
    open: watch::Sender<()>,
}

impl Database {
    /// Opens or creates the database in `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, DatabaseError> {
        let path = path.to_path_buf();
        let cache = Cache::new_lru_cache(MIB);
        let failed = |source: rocksdb::Error| {
            let path = path.clone();
            match source.kind() {
                rocksdb::ErrorKind::Corruption => DatabaseError::Damaged { path, source },
                _ if source.to_string().contains("lock") => DatabaseError::InUse { path, source },
                _ => DatabaseError::Failed { path, source },
            }
        };
        let options = database_options().map_err(failed)?;
        let families = Family::ALL.map(|f| ColumnFamilyDescriptor::new(f.name(), family_options(f, &cache)));
        let db = DB::open_cf_descriptors(&options, &path, families).map_err(failed)?;
        Ok(Self { db, open: watch::Sender::new(()) })
    }

    /// A receiver whose sender is gone once the database is closed and may be opened again.
    pub(crate) fn watch_closed(&self) -> watch::Receiver<()> {
        self.open.subscribe()
    }

    pub(crate) fn get(&self, family: Family, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.db.get_cf(self.family(family)?, key).map_err(io::Error::other)
    }

    /// Starts a batch: all of it is visible and recovered together, or none.
    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch { database: self, batch: WriteBatch::default() }
    }

    /// Makes everything written so far durable. A failure is final: the caller must never try again.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.db.flush_wal(true).map_err(io::Error::other)
    }

    /// Key-value pairs of `family` with `from <= key`, in key order.
    pub(crate) fn scan(&self, family: Family, from: &[u8]) -> io::Result<impl Iterator<Item = io::Result<Pair>>> {
        let mode = rocksdb::IteratorMode::From(from, rocksdb::Direction::Forward);
        let pairs = self.db.iterator_cf(self.family(family)?, mode);
        Ok(pairs.map(|pair| pair.map_err(io::Error::other)))
    }

    /// The pair with the greatest key of `family`.
    pub(crate) fn last(&self, family: Family) -> io::Result<Option<Pair>> {
        let mut pairs = self.db.iterator_cf(self.family(family)?, rocksdb::IteratorMode::End);
        pairs.next().transpose().map_err(io::Error::other)
    }

    fn family(&self, family: Family) -> io::Result<&ColumnFamily> {
        let missing = || io::Error::other(format!("column family '{}' is missing", family.name()));
        self.db.cf_handle(family.name()).ok_or_else(missing)
    }
}

/// A key and its value.
pub(crate) type Pair = (Box<[u8]>, Box<[u8]>);

/// Changes that take effect together.
pub(crate) struct Batch<'a> {
    database: &'a Database,
    batch: WriteBatch,
}

impl Batch<'_> {
    pub(crate) fn put(&mut self, family: Family, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.batch.put_cf(self.database.family(family)?, key, value);
        Ok(())
    }

    pub(crate) fn delete(&mut self, family: Family, key: &[u8]) -> io::Result<()> {
        self.batch.delete_cf(self.database.family(family)?, key);
        Ok(())
    }

    /// Deletes `from <= key < until`.
    pub(crate) fn delete_range(&mut self, family: Family, from: &[u8], until: &[u8]) -> io::Result<()> {
        self.batch.delete_range_cf(self.database.family(family)?, from, until);
        Ok(())
    }

    /// Writes the batch: visible on return, durable after the next sync.
    pub(crate) fn write(self) -> io::Result<()> {
        self.database.db.write(self.batch).map_err(io::Error::other)
    }
}

fn database_options() -> Result<Options, rocksdb::Error> {
    // Replaying a WAL of a few hundred KiB is quicker than writing a table at every start; only the text form has it.
    let mut options = Options::default().get_options_from_string("avoid_flush_during_recovery=true")?;
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // A torn last record is normal. Anything else that does not check is damage, and a shorter log is no answer to
    // damage: an entry or a vote that was promised would be gone without anybody noticing.
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
