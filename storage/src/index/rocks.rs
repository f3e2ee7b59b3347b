//! The ordered store on RocksDB, tuned small: keys of 17 bytes, a block cache and a write buffer of a few MiB, no
//! write-ahead log, no compression, one flush and one compaction at a time.
//!
//! RocksDB checks a checksum on every block it reads from disk, so a flipped bit is an error here and never a value. In its
//! logs it would take one for their end, or read it for ever: they are proven before it opens them.

use std::ops::ControlFlow;
use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, DB, Direction, ErrorKind, FlushOptions, IteratorMode, LogLevel, Options, ReadOptions,
    WriteBatch, WriteOptions,
};

use crate::error::IndexError;
use crate::index::{Change, IndexStore, KeyValue, Visit};

/// Files RocksDB may keep open: with 4 MiB tables, more than 10 GiB of batches need.
const OPEN_FILES_MAX: i32 = 64;

/// What the system says of a file that is not there.
const MISSING: &str = "No such file or directory";

/// An [`IndexStore`] in a directory of its own.
#[derive(Debug)]
pub struct RocksIndex {
    db: DB,
}

/// How large RocksDB may get in memory.
#[derive(Clone, Copy, Debug)]
pub struct RocksSizes {
    /// Bytes of the shared block cache, which also holds table indexes and filters.
    pub cache_bytes: usize,
    /// Bytes of one write buffer; at most two exist.
    pub write_buffer_bytes: usize,
}

impl RocksIndex {
    /// Opens or creates the store in `path`.
    pub fn open(path: &Path, sizes: RocksSizes) -> Result<Self, IndexError> {
        refuse_damaged_logs(path)?;
        let db = DB::open(&options(sizes), path).map_err(|problem| match problem.kind() {
            // It makes what is missing as a whole: what it misses, another of its files names.
            ErrorKind::IOError if problem.as_ref().contains(MISSING) => IndexError::Damaged(problem.into_string()),
            _ => error(problem),
        })?;
        Ok(Self { db })
    }

    /// Opens an existing store without writing a byte.
    pub fn open_read_only(path: &Path, sizes: RocksSizes) -> Result<Self, IndexError> {
        refuse_damaged_logs(path)?;
        let mut options = options(sizes);
        options.create_if_missing(false);
        let db = DB::open_for_read_only(&options, path, false).map_err(error)?;
        Ok(Self { db })
    }

    /// The names of the tables that hold its content, within its directory.
    pub fn tables(&self) -> Result<Vec<String>, IndexError> {
        let files = self.db.live_files().map_err(error)?;
        Ok(files.into_iter().map(|file| file.name).collect())
    }

    /// Removes the store in `path` with all its files.
    pub fn destroy(path: &Path) -> Result<(), IndexError> {
        match std::fs::remove_dir_all(path) {
            Ok(()) => Ok(()),
            Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(problem) => Err(IndexError::Store(format!("cannot remove '{}': {problem}", path.display()))),
        }
    }
}

/// Refuses a store whose logs are damaged, naming file and byte; one that does not exist is fine.
fn refuse_damaged_logs(path: &Path) -> Result<(), IndexError> {
    let damaged = streambus_rocksfiles::damaged_logs(path).map_err(|error| IndexError::Store(error.to_string()))?;
    match damaged.first() {
        Some(damage) => Err(IndexError::Damaged(format!(
            "'{}' from byte {} on: {}",
            damage.file.display(),
            damage.position,
            damage.what
        ))),
        None => Ok(()),
    }
}

fn options(sizes: RocksSizes) -> Options {
    let cache = Cache::new_lru_cache(sizes.cache_bytes);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_format_version(6);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_paranoid_checks(true);
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(sizes.write_buffer_bytes);
    options.set_max_write_buffer_number(2);
    options.set_target_file_size_base(4 << 20);
    options.set_max_background_jobs(2);
    options.set_max_subcompactions(1);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_file_opening_threads(1);
    options.set_compression_type(rocksdb::DBCompressionType::None);
    options.set_use_fsync(false);
    // RocksDB's own log file would be written even by a read-only open; what matters goes to ours.
    options.set_info_logger(rocksdb::InfoLogger::new_callback_logger(LogLevel::Warn, |level, text| match level {
        LogLevel::Error | LogLevel::Fatal => {
            tracing::warn!(target: "streambus_storage::rocksdb", "{}", text.trim_end())
        }
        _ => tracing::debug!(target: "streambus_storage::rocksdb", "{}", text.trim_end()),
    }));
    options
}

fn error(problem: rocksdb::Error) -> IndexError {
    match problem.kind() {
        ErrorKind::Corruption => IndexError::Damaged(problem.into_string()),
        _ => IndexError::Store(problem.into_string()),
    }
}

impl IndexStore for RocksIndex {
    fn write(&self, changes: &[Change]) -> Result<(), IndexError> {
        let mut batch = WriteBatch::default();
        for (position, change) in changes.iter().enumerate() {
            match change {
                Change::Put { key, value } => batch.put(key, value),
                // Point deletes: range tombstones would slow every later seek, and these ranges are short.
                Change::DeleteRange { from, to } => {
                    self.scan(from, to, &mut |key, _| {
                        batch.delete(key);
                        ControlFlow::Continue(())
                    })?;
                    for earlier in changes.iter().take(position) {
                        if let Change::Put { key, .. } = earlier
                            && (from..to).contains(&key)
                        {
                            batch.delete(key);
                        }
                    }
                }
            }
        }
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        self.db.write_opt(batch, &unlogged).map_err(error)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.db.get(key).map_err(error)
    }

    fn floor(&self, key: &[u8], lowest: &[u8]) -> Result<Option<KeyValue>, IndexError> {
        let mut read = ReadOptions::default();
        read.set_iterate_lower_bound(lowest.to_vec());
        let mut iterator = self.db.iterator_opt(IteratorMode::From(key, Direction::Reverse), read);
        match iterator.next() {
            Some(Ok((key, value))) => Ok(Some((key.into_vec(), value.into_vec()))),
            Some(Err(problem)) => Err(error(problem)),
            None => Ok(None),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), IndexError> {
        if from >= to {
            return Ok(());
        }
        let mut read = ReadOptions::default();
        read.set_iterate_upper_bound(to.to_vec());
        for item in self.db.iterator_opt(IteratorMode::From(from, Direction::Forward), read) {
            let (key, value) = item.map_err(error)?;
            if visit(&key, &value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), IndexError> {
        let mut wait = FlushOptions::default();
        wait.set_wait(true);
        self.db.flush_opt(&wait).map_err(error)
    }

    fn verify(&self) -> Result<(), IndexError> {
        // Reading every block verifies its checksum; the cache would hide blocks that went bad since.
        let mut read = ReadOptions::default();
        read.set_verify_checksums(true);
        read.fill_cache(false);
        for item in self.db.iterator_opt(IteratorMode::Start, read) {
            item.map_err(error)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::conformance;

    const SIZES: RocksSizes = RocksSizes { cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20 };

    #[test]
    fn conforms() {
        let dir = tempfile::tempdir().expect("temporary directory");
        conformance::check(&RocksIndex::open(dir.path(), SIZES).expect("open"));
    }

    // Catches an inspection that changes what it looks at: a log file, a lock, a rotated option file.
    #[test]
    fn a_read_only_open_changes_no_file() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let index = RocksIndex::open(dir.path(), SIZES).expect("open");
        index.write(&[Change::Put { key: b"k".to_vec(), value: b"v".to_vec() }]).expect("write");
        index.flush().expect("flush");
        drop(index);
        let listing = || {
            let mut names: Vec<_> = std::fs::read_dir(dir.path())
                .expect("list")
                .map(|entry| {
                    let entry = entry.expect("entry");
                    let metadata = entry.metadata().expect("metadata");
                    (entry.file_name(), metadata.len(), metadata.modified().expect("time"))
                })
                .collect();
            names.sort();
            names
        };
        let before = listing();
        let index = RocksIndex::open_read_only(dir.path(), SIZES).expect("open");
        assert_eq!(index.get(b"k").expect("get").as_deref(), Some(&b"v"[..]));
        drop(index);
        assert_eq!(listing(), before);
    }

    // Catches a broker that reads the same bytes for ever instead of rebuilding its index: the kind of a record, which RocksDB
    // takes for that of a file it used before. No bit of a manifest is taken for anything but damage.
    #[test]
    fn a_flipped_bit_of_the_manifest_is_damage_and_nothing_is_opened() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let index = RocksIndex::open(dir.path(), SIZES).expect("open");
        index.write(&[Change::Put { key: b"k".to_vec(), value: b"v".to_vec() }]).expect("write");
        index.flush().expect("flush");
        assert_eq!(index.tables().expect("listed").len(), 1);
        drop(index);
        let mut files = std::fs::read_dir(dir.path()).expect("list").map(|entry| entry.expect("entry").path());
        let manifest = files.find(|path| path.display().to_string().contains("MANIFEST-")).expect("a manifest");
        let bytes = std::fs::read(&manifest).expect("read");
        // Where the first record's kind is, and where its length, its checksum and its payload are.
        let firsts = [6, 5, 0, 7].into_iter().map(|byte| byte * 8 + 3);
        for bit in firsts.chain((0..bytes.len() * 8).step_by(17)) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&manifest, flipped).expect("write");
            for refused in [RocksIndex::open(dir.path(), SIZES), RocksIndex::open_read_only(dir.path(), SIZES)] {
                let refused = refused.expect_err("a flipped bit");
                assert!(matches!(refused, IndexError::Damaged(_)), "bit {bit}: {refused}");
                assert!(refused.to_string().contains("MANIFEST-"), "bit {bit}: {refused}");
            }
        }
        std::fs::write(&manifest, bytes).expect("write");
        assert!(RocksIndex::open(dir.path(), SIZES).expect("as it was").get(b"k").expect("get").is_some());
    }

    // Catches a broker that does not start, instead of rebuilding its index, because a flipped bit names another file.
    #[test]
    fn a_file_that_names_a_missing_one_is_damage() {
        let dir = tempfile::tempdir().expect("temporary directory");
        drop(RocksIndex::open(dir.path(), SIZES).expect("open"));
        std::fs::write(dir.path().join("CURRENT"), "MANIFEST-900000\n").expect("write");
        let refused = RocksIndex::open(dir.path(), SIZES).expect_err("what it names is missing");
        assert!(matches!(refused, IndexError::Damaged(_)), "{refused}");
    }
}
