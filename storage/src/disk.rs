//! The disk as the store sees it: the files of one directory, and writes that are durable when they return.
//!
//! [`Disk`] and [`DiskFile`] are a specification; [`conformance`] checks it, and every implementation runs it: [`real`]
//! (the operating system), [`memory`] (a map, for tests and simulation) and [`faulty`] (wraps any other and breaks it
//! on a schedule).
//!
//! # What every implementation guarantees
//! 1. Names are plain file names within the directory: not empty, no separator, not `.` or `..`; else `InvalidInput`.
//! 2. [`DiskFile::write_at_durably`] returns `Ok` only when the bytes would survive a loss of power. When it fails,
//!    or power is lost during it, any subset of its 512-byte sectors may hold new bytes, and the others old ones. Bytes
//!    outside the written range never change.
//! 3. A file's bytes and length, once durable, are independent of its name. Creating, renaming and removing become
//!    durable at the next [`Disk::sync_dir`]; before it, a loss of power keeps any prefix of them in order.
//! 4. [`DiskFile::allocate`] reserves space durably: a later write inside it does not fail for lack of space. New bytes
//!    read as zeros; existing bytes stay. It never shrinks.
//! 5. Reads see every write that returned before they started. A read past the end is `UnexpectedEof`.
//! 6. An open file stays usable after it is renamed or removed.
//! 7. Nothing is retried inside: one failure of the device is one error to the caller.
//! 8. [`DiskFile::written_from`] passes over nothing but space that was reserved and never written. Such space holds no
//!    sector of the device: it reads as zeros, and no read of it fails.
//! 9. A directory may be opened for reading only, as [`real`] can: every operation that would change it fails with
//!    `PermissionDenied`, and opening it changes nothing either. [`conformance::check_read_only`] checks that.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use crate::aligned::Blocks;

pub mod conformance;
pub mod faulty;
pub mod memory;
pub mod real;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenHow {
    /// Create an empty file for reading and writing; `AlreadyExists` when the name is taken.
    CreateNew,
    /// Open for reading and writing; `NotFound` when there is none.
    Existing,
    /// Open for reading; `NotFound` when there is none. Writes fail with `PermissionDenied`.
    ReadOnly,
    /// As [`OpenHow::ReadOnly`], for reading much once and to learn what the device has: reads into block-aligned memory
    /// bypass the page cache; where they cannot, opening empties the cache of this file's written-back pages.
    Scan,
}

/// How a file makes its writes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Direct, synchronous writes: no page cache, one device flush.
    Direct,
    /// A write to the page cache, then a data sync: for file systems that refuse direct I/O.
    BufferedThenSync,
}

/// One directory's files. The module text is the specification.
pub trait Disk: Send + Sync + Debug + 'static {
    /// Opens or creates `name`.
    fn open(&self, name: &str, how: OpenHow) -> io::Result<Arc<dyn DiskFile>>;

    /// True when `name` exists.
    fn exists(&self, name: &str) -> io::Result<bool>;

    /// The names that start with `prefix`, sorted.
    fn list(&self, prefix: &str) -> io::Result<Vec<String>>;

    /// Renames `from` to `to`, replacing it. Durable after [`Disk::sync_dir`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes `name`; `NotFound` when there is none. Durable after [`Disk::sync_dir`].
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes every earlier create, rename and remove durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// Bytes that an unprivileged writer may still allocate.
    fn free_bytes(&self) -> io::Result<u64>;

    /// The whole content of a small file; `NotFound` when there is none.
    fn read_file(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Replaces a small file so that a crash leaves either the old or the new content. Durable on return.
    fn write_file_atomically(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// How files of this directory make writes durable.
    fn write_mode(&self) -> WriteMode;
}

/// One open file. The module text is the specification.
pub trait DiskFile: Send + Sync + Debug {
    /// Fills `buffer` from `position`, or fails with `UnexpectedEof` when the file ends before.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes whole blocks at a block-aligned `position` (else `InvalidInput`). On stable storage on return.
    fn write_at_durably(&self, position: u64, blocks: Blocks<'_>) -> io::Result<()>;

    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// The first position at or behind `position` that may have been written: the file's length when there is none, and
    /// `position` itself where the file system does not tell.
    fn written_from(&self, position: u64) -> io::Result<u64> {
        Ok(position)
    }

    /// True when the file has no byte.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Makes the file at least `bytes` long with space reserved, durably. `StorageFull` when there is none.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Puts on stable storage whatever any process has written to this file.
    fn sync(&self) -> io::Result<()>;

    /// How this file makes its writes durable.
    fn write_mode(&self) -> WriteMode;
}

/// Checks rule 1 of the specification.
pub(crate) fn check_name(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\', '\0']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("'{name}' is no plain file name")));
    }
    Ok(())
}

/// Checks that a write starts on a block.
pub(crate) fn check_position(position: u64) -> io::Result<()> {
    if position.is_multiple_of(crate::aligned::BLOCK_BYTES as u64) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("position {position} is not on a block")))
}
