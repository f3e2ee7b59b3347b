//! What RocksDB's files must look like before RocksDB is let near them: every checksum, read without opening the database.
//!
//! RocksDB takes some damage for the end of a file, reads some for ever, and passes some over with a line in its own log.
//! [`damaged_logs`] proves its write-ahead logs, its manifests and the file that names the manifest; [`damaged_tables`]
//! proves tables block by block. Both only read, and say file and byte.
//!
//! This crate must never know what is kept in a database, nor open one: it reads bytes.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

mod record_log;
mod table;

/// The file that names the manifest.
const CURRENT: &str = "CURRENT";
/// What the name of a manifest starts with.
const MANIFEST: &str = "MANIFEST-";
/// What the name of a write-ahead log ends with.
const LOG: &str = ".log";
/// What the name of a table ends with.
const TABLE: &str = ".sst";

/// Damage in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDamage {
    /// The file.
    pub file: PathBuf,
    /// The first byte of what does not check.
    pub position: u64,
    /// What is there, for people.
    pub what: &'static str,
}

impl FileDamage {
    /// True when the file is one of `tables`, as RocksDB names those that a database has.
    pub fn is_of(&self, tables: &[String]) -> bool {
        let name = self.file.file_name().and_then(|name| name.to_str());
        // RocksDB writes a slash before the name.
        name.is_some_and(|name| tables.iter().any(|table| table.trim_start_matches('/') == name))
    }
}

/// A file or folder that cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be read: {source}", path.display())]
pub struct Unreadable {
    /// The file or folder.
    pub path: PathBuf,
    /// What the system says.
    pub source: io::Error,
}

/// Where a file's bytes stop checking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flaw {
    position: usize,
    what: &'static str,
}

impl Flaw {
    fn of(self, file: &Path) -> FileDamage {
        FileDamage { file: file.to_owned(), position: self.position as u64, what: self.what }
    }
}

/// Damage in the write-ahead logs and manifests of the database in `directory`, and in which manifest is the current one, in
/// the order of the files' names. A database that does not exist is in order, and so is what a crash leaves.
///
/// # Errors
/// [`Unreadable`] when the system does not return a file's bytes.
pub fn damaged_logs(directory: &Path) -> Result<Vec<FileDamage>, Unreadable> {
    let mut damaged = Vec::new();
    for name in names(directory)? {
        let file = directory.join(&name);
        if name.ends_with(LOG) || name.starts_with(MANIFEST) {
            let flaw = read(&file)?.and_then(|bytes| record_log::check(&bytes).err());
            damaged.extend(flaw.map(|flaw| flaw.of(&file)));
        } else if name == CURRENT && read(&file)?.is_some_and(|bytes| !names_a_manifest(directory, &bytes)) {
            damaged.push(FileDamage { file, position: 0, what: "it names no manifest that is there" });
        }
    }
    Ok(damaged)
}

/// True when there is a database in `directory`: without this file RocksDB would make a new one.
pub fn has_database(directory: &Path) -> bool {
    directory.join(CURRENT).exists()
}

/// Damage in the tables in `directory`, in the order of their names. Which of them the database has, only RocksDB can say
/// ([`FileDamage::is_of`]): a crash leaves others, which may be torn, and RocksDB removes them.
///
/// # Errors
/// [`Unreadable`] when the system does not return a table's bytes.
pub fn damaged_tables(directory: &Path) -> Result<Vec<FileDamage>, Unreadable> {
    let mut damaged = Vec::new();
    for name in names(directory)?.iter().filter(|name| name.ends_with(TABLE)) {
        let file = directory.join(name);
        let flaw = read(&file)?.and_then(|bytes| table::check(&bytes).err());
        damaged.extend(flaw.map(|flaw| flaw.of(&file)));
    }
    Ok(damaged)
}

/// The names in `directory`, sorted; none when it does not exist. A name that is not text is not RocksDB's.
fn names(directory: &Path) -> Result<Vec<String>, Unreadable> {
    let unreadable = |source| Unreadable { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(unreadable)?.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

/// A file's bytes; none when it is gone since it was listed: a database in use replaces its files.
fn read(file: &Path) -> Result<Option<Vec<u8>>, Unreadable> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Unreadable { path: file.to_owned(), source }),
    }
}

fn names_a_manifest(directory: &Path, current: &[u8]) -> bool {
    let name = std::str::from_utf8(current).ok().and_then(|text| text.strip_suffix('\n'));
    name.is_some_and(|name| {
        let number = name.strip_prefix(MANIFEST);
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
            && directory.join(name).is_file()
    })
}

#[cfg(test)]
mod tests;
