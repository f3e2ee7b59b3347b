//! The metadata database: three families of keys behind one write-ahead log.
//!
//! One WAL orders votes, entries, truncations, purges and applied state, which is what Raft needs: after a crash the
//! database is a prefix of what was written, over all families. Nothing written here is durable before
//! `Database::sync` returns; the flusher calls it, and who is about to make a snapshot durable. The first sync that fails ends
//! all writing.
//!
//! A broker keeps it in RocksDB (`rocks`). A simulation, in which no thread may run, gives it a [`MemoryDatabase`].

mod memory;
mod rocks;
mod sync_latch;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use streambus_rocksfiles::FileDamage;
use tokio::sync::watch;

pub use self::memory::MemoryDatabase;
pub(crate) use self::memory::MemoryHandle;
use self::rocks::RocksDatabase;
use self::sync_latch::SyncLatch;

/// Called by the flusher's thread before each sync of the log. A test stalls a disk with it.
pub type BeforeSync = Arc<dyn Fn() + Send + Sync>;

/// Where a node's metadata is kept.
#[derive(Clone, Debug, Default)]
pub enum DatabaseSource {
    /// In its directory, by RocksDB.
    #[default]
    Directory,
    /// In memory, which outlives the node: what a simulated crash takes from it is the simulation's decision.
    Memory(MemoryDatabase),
}

impl DatabaseSource {
    /// Who is told what becomes of the snapshots beside the database: nobody, unless it is a simulation's.
    pub(crate) fn snapshot_files(&self) -> Option<Arc<dyn crate::snapshot::FileSteps>> {
        match self {
            Self::Directory => None,
            Self::Memory(database) => database.snapshot_files(),
        }
    }
}

/// A column family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// Vote, commit and purge positions, identity of the directory.
    Meta,
    /// Raft's log: big-endian index to sealed entry.
    Log,
    /// Applied state: rows, and what they are as of.
    State,
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
    /// One of its files is damaged, maybe where RocksDB would not notice.
    #[error(
        "the metadata database is damaged: {} from byte {} on ({}); what it held there may have been promised, so it must \
         not be used or emptied in place: restore the disk, or remove this node from the cluster and join it again with an \
         empty directory",
        .0.file.display(),
        .0.position,
        .0.what
    )]
    DamagedFile(FileDamage),
    /// Its files cannot be read.
    #[error("the metadata database {path} cannot be read: {source}; check the disk and the directory's permissions")]
    Unreadable {
        /// Where it is.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is no room for another byte.
    #[error(
        "the disk of the metadata database {path} is full: {source}; make room on it and start this broker again: what it has \
         confirmed is there"
    )]
    Full {
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
    engine: Engine,
    latch: SyncLatch,
    // Behind `engine`, so that it is dropped after the files are closed.
    open: watch::Sender<()>,
}

/// What keeps the bytes.
enum Engine {
    Rocks(RocksDatabase),
    Memory(MemoryHandle),
}

impl Database {
    /// Opens or creates the database in the directory `path`.
    #[cfg(test)]
    pub(crate) fn open(path: &Path) -> Result<Self, DatabaseError> {
        Self::open_in(&DatabaseSource::Directory, path)
    }

    /// Opens or creates the database that `source` keeps; `path` is where it is if it is in a directory.
    pub(crate) fn open_in(source: &DatabaseSource, path: &Path) -> Result<Self, DatabaseError> {
        let engine = match source {
            DatabaseSource::Directory => Engine::Rocks(RocksDatabase::open(path)?),
            DatabaseSource::Memory(database) => Engine::Memory(database.open()),
        };
        Ok(Self::around(engine))
    }

    /// Opens the existing database in the directory `path` to read it: nothing is written there, and another process may
    /// have it open. Its logs must have been proven.
    pub(crate) fn open_read_only(path: &Path) -> Result<Self, DatabaseError> {
        let engine = Engine::Rocks(RocksDatabase::open_read_only(path)?);
        Ok(Self::around(engine))
    }

    fn around(engine: Engine) -> Self {
        Self { engine, latch: SyncLatch::default(), open: watch::Sender::new(()) }
    }

    /// Writes what is in memory to tables.
    #[cfg(test)]
    pub(crate) fn flush_to_tables(&self) {
        if let Engine::Rocks(rocks) = &self.engine {
            rocks.flush_to_tables();
        }
    }

    /// The names of the tables in its directory.
    pub(crate) fn tables(&self) -> io::Result<Vec<String>> {
        match &self.engine {
            Engine::Rocks(rocks) => rocks.tables(),
            Engine::Memory(_) => Ok(Vec::new()),
        }
    }

    /// A receiver whose sender is gone once the database is closed and may be opened again.
    pub(crate) fn watch_closed(&self) -> watch::Receiver<()> {
        self.open.subscribe()
    }

    /// The database in memory, if it is one: its syncs take time without blocking anybody.
    pub(crate) fn memory(&self) -> Option<&MemoryHandle> {
        match &self.engine {
            Engine::Rocks(_) => None,
            Engine::Memory(memory) => Some(memory),
        }
    }

    pub(crate) fn get(&self, family: Family, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match &self.engine {
            Engine::Rocks(rocks) => rocks.get(family, key),
            Engine::Memory(memory) => memory.get(family, key),
        }
    }

    /// Starts a batch: all of it is visible and recovered together, or none.
    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch { database: self, changes: Vec::new() }
    }

    /// Makes everything written so far durable. A failure is final: this and every later sync and write of this open database
    /// fail, whoever calls them, with what the first one failed for. The flusher and a snapshot that is about to become
    /// durable both sync; they take turns, so that neither confirms bytes that the other's failed sync has lost. Blocking.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.latch.sync(|| match &self.engine {
            Engine::Rocks(rocks) => rocks.sync(),
            Engine::Memory(memory) => memory.sync(memory.written()),
        })
    }

    /// As [`Database::sync`], at the end of a sync that began when `covered` batches had been written: what came later may
    /// stay behind.
    pub(crate) fn sync_first(&self, covered: u64) -> io::Result<()> {
        self.latch.sync(|| match &self.engine {
            Engine::Rocks(rocks) => rocks.sync(),
            Engine::Memory(memory) => memory.sync(covered),
        })
    }

    /// Key-value pairs of `family` with `from <= key`, in key order.
    pub(crate) fn scan(&self, family: Family, from: &[u8]) -> io::Result<Pairs<'_>> {
        match &self.engine {
            Engine::Rocks(rocks) => rocks.scan(family, from),
            Engine::Memory(memory) => memory.scan(family, from),
        }
    }

    /// The pair with the greatest key of `family`.
    pub(crate) fn last(&self, family: Family) -> io::Result<Option<Pair>> {
        match &self.engine {
            Engine::Rocks(rocks) => rocks.last(family),
            Engine::Memory(memory) => memory.last(family),
        }
    }
}

/// A key and its value.
pub(crate) type Pair = (Box<[u8]>, Box<[u8]>);
/// Pairs as they were when the scan began.
pub(crate) type Pairs<'a> = Box<dyn Iterator<Item = io::Result<Pair>> + 'a>;

/// One change of a batch.
#[derive(Clone, Debug)]
enum Change {
    Put {
        family: Family,
        key: Vec<u8>,
        value: Vec<u8>,
    },
    Delete {
        family: Family,
        key: Vec<u8>,
    },
    /// Deletes `from <= key < until`.
    DeleteRange {
        family: Family,
        from: Vec<u8>,
        until: Vec<u8>,
    },
}

/// Changes that take effect together, in their order.
pub(crate) struct Batch<'a> {
    database: &'a Database,
    changes: Vec<Change>,
}

impl Batch<'_> {
    pub(crate) fn put(&mut self, family: Family, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.changes.push(Change::Put { family, key: key.to_vec(), value: value.to_vec() });
        Ok(())
    }

    pub(crate) fn delete(&mut self, family: Family, key: &[u8]) -> io::Result<()> {
        self.changes.push(Change::Delete { family, key: key.to_vec() });
        Ok(())
    }

    /// Deletes `from <= key < until`.
    pub(crate) fn delete_range(&mut self, family: Family, from: &[u8], until: &[u8]) -> io::Result<()> {
        self.changes.push(Change::DeleteRange { family, from: from.to_vec(), until: until.to_vec() });
        Ok(())
    }

    /// Writes the batch: visible on return, durable after the next sync. Refused once a sync has failed.
    pub(crate) fn write(self) -> io::Result<()> {
        self.database.latch.check()?;
        match &self.database.engine {
            Engine::Rocks(rocks) => rocks.write(&self.changes),
            Engine::Memory(memory) => memory.write(self.changes),
        }
    }
}

#[cfg(test)]
mod conformance;
