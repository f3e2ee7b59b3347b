//! Looking at the metadata in a data directory from outside (adapter: it reads files). Nothing is ever written, and neither
//! write permission nor a lock is needed.
//!
//! [`verify_dir`] proves what a start of the broker relies on: the identity; every record of the database's logs and
//! manifests, and every block of its tables; vote, positions, every entry of Raft's log and every row of the state, each
//! with its own checksum; the snapshots. It does not look at what only RocksDB's people read: its options, its name for
//! the database, its text log.

pub mod held;

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use streambus_rocksfiles::{FileDamage, Unreadable, damaged_logs, damaged_tables, has_database};

use crate::config::{DATABASE_DIRECTORY, METADATA_DIRECTORY, SNAPSHOT_DIRECTORY};
use crate::database::{Database, DatabaseError, Family};
use crate::identity::{Identity, IdentityError, MARK, Phase, unseal_mark};
use crate::log_store::LogReader;
use crate::snapshot;
use crate::state_machine::{stored_position, stored_state};

const RESTORE_IDENTITY: &str = "restore this one file from a backup, or remove this node from the cluster and join it again \
                                with an empty directory";
const RESTORE_DATABASE: &str = "what it held may have been promised, so it must not be used or emptied in place: restore the \
                                disk, or remove this node from the cluster and join it again with an empty directory";
const REMOVE_SNAPSHOT: &str = "it is a copy, the database beside it holds the same state: move the file away";

/// What a verification of the metadata found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MetadataReport {
    /// True when nothing is damaged.
    pub ok: bool,
    /// The cluster it is of, as text; empty before this directory belongs to one, or when that cannot be read.
    pub cluster: String,
    /// Tables of the database that prove.
    pub tables: u64,
    /// Entries of Raft's log that prove.
    pub entries: u64,
    /// Rows of the state that prove: brokers, topics, partitions.
    pub rows: u64,
    /// Snapshots that prove.
    pub snapshots: u64,
    /// Damaged things.
    pub damaged: Vec<MetadataDamage>,
}

/// One damaged thing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MetadataDamage {
    /// The file or folder, relative to the data directory.
    pub file: String,
    /// First byte of what does not check, where one is known.
    pub position: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: &'static str,
}

/// Verifies the metadata of the data directory `data_dir`, without changing anything; none when it has no metadata.
pub fn verify_dir(data_dir: &Path) -> Option<MetadataReport> {
    let directory = data_dir.join(METADATA_DIRECTORY);
    if !directory.is_dir() {
        return None;
    }
    let mut inspection = Inspection { data_dir, report: MetadataReport::default() };
    let found = inspection.identity(&directory);
    inspection.database(&directory.join(DATABASE_DIRECTORY), &found);
    inspection.snapshots(&directory.join(SNAPSHOT_DIRECTORY));
    let mut report = inspection.report;
    report.ok = report.damaged.is_empty();
    Some(report)
}

/// What the identity's file says.
enum Found {
    Identity(Identity, Phase),
    /// There is no file.
    Nothing,
    /// It is damaged.
    Unknown,
}

struct Inspection<'a> {
    data_dir: &'a Path,
    report: MetadataReport,
}

impl Inspection<'_> {
    fn add(&mut self, file: &Path, position: Option<u64>, what: impl Display, remedy: &'static str) {
        let file = file.strip_prefix(self.data_dir).unwrap_or(file).display().to_string();
        self.report.damaged.push(MetadataDamage { file, position, what: what.to_string(), remedy });
    }

    fn identity(&mut self, directory: &Path) -> Found {
        let error = match Identity::read(directory) {
            Ok(Some((identity, phase))) => {
                self.report.cluster = identity.cluster_id.to_string();
                return Found::Identity(identity, phase);
            }
            Ok(None) => return Found::Nothing,
            Err(error) => error,
        };
        let what = match &error {
            IdentityError::Damaged { source, .. } => format!("the identity is damaged: {source}"),
            IdentityError::Io { source, .. } => format!("the identity cannot be read: {source}"),
            refused => refused.to_string(),
        };
        self.add(&Identity::file(directory), None, what, RESTORE_IDENTITY);
        Found::Unknown
    }

    fn database(&mut self, path: &Path, found: &Found) {
        // RocksDB is not let near damaged logs: it may read them for ever.
        match damaged_logs(path) {
            Ok(damaged) if damaged.is_empty() => {}
            Ok(damaged) => return self.files(damaged),
            Err(unreadable) => return self.unreadable(unreadable),
        }
        if !has_database(path) {
            if matches!(found, Found::Identity(_, Phase::Formatted)) {
                self.add(path, None, "the database is missing, or the file CURRENT in it", RESTORE_DATABASE);
            }
            return;
        }
        let mut suspects = match damaged_tables(path) {
            Ok(suspects) => suspects,
            Err(unreadable) => return self.unreadable(unreadable),
        };
        let database = match Database::open_read_only(path) {
            Ok(database) => database,
            Err(_) if !suspects.is_empty() => return self.files(suspects),
            // Before it is formatted, a crash may have left half a database, which is made anew.
            Err(DatabaseError::Failed { .. }) if !matches!(found, Found::Identity(_, Phase::Formatted)) => return,
            Err(error) => return self.add(path, None, reason(error), RESTORE_DATABASE),
        };
        let tables = match database.tables() {
            Ok(tables) => tables,
            Err(error) => return self.add(path, None, error, RESTORE_DATABASE),
        };
        // What a crash has left is no table of the database.
        suspects.retain(|damage| damage.is_of(&tables));
        if suspects.is_empty() {
            self.report.tables = tables.len() as u64;
            self.content(path, &Arc::new(database), found);
        } else {
            // They are named by file and byte; what the content would say is less.
            self.files(suspects);
        }
    }

    /// Adds what is wrong with files of the database.
    fn files(&mut self, damaged: Vec<FileDamage>) {
        for damage in damaged {
            self.add(&damage.file, Some(damage.position), damage.what, RESTORE_DATABASE);
        }
    }

    fn unreadable(&mut self, error: Unreadable) {
        self.add(&error.path, None, format!("it cannot be read: {}", error.source), RESTORE_DATABASE);
    }

    fn content(&mut self, path: &Path, database: &Arc<Database>, found: &Found) {
        self.mark(path, database, found);
        match LogReader::new(Arc::clone(database)).verify() {
            Ok(entries) => self.report.entries = entries,
            Err(error) => self.add(path, None, error, RESTORE_DATABASE),
        }
        let state = stored_position(database).and_then(|(applied, _)| stored_state(database, applied.as_ref()));
        match state {
            Ok(state) => self.report.rows = state.row_keys().count() as u64,
            Err(error) => self.add(path, None, error, RESTORE_DATABASE),
        }
    }

    /// The identity's file and the database must be of one directory.
    fn mark(&mut self, path: &Path, database: &Database, found: &Found) {
        let mark = match database.get(Family::Meta, MARK) {
            Ok(sealed) => sealed.map(|sealed| unseal_mark(&sealed)).transpose(),
            Err(error) => return self.add(path, None, error, RESTORE_DATABASE),
        };
        match (mark, found) {
            (Err(error), _) => self.add(path, None, format!("its mark is damaged: {error}"), RESTORE_DATABASE),
            (Ok(mark), Found::Identity(identity, Phase::Formatted)) if mark != Some(identity.directory_id) => {
                let mark = mark.map_or("of no directory".to_owned(), |mark| format!("of directory {mark}"));
                let what = format!("the database is {mark}, the identity beside it of {}", identity.directory_id);
                self.add(path, None, what, RESTORE_DATABASE);
            }
            (Ok(Some(mark)), Found::Nothing | Found::Identity(_, Phase::Joining)) => {
                let file = Identity::file(path.parent().unwrap_or(path));
                self.add(&file, None, format!("the identity of directory {mark} is missing"), RESTORE_IDENTITY);
            }
            (Ok(_), _) => {}
        }
    }

    fn snapshots(&mut self, path: &Path) {
        let files = match snapshot::files(path) {
            Ok(files) => files,
            Err(error) => return self.add(path, None, format!("it cannot be read: {error}"), REMOVE_SNAPSHOT),
        };
        for file in files {
            match snapshot::verify_file(&file) {
                Ok(()) => self.report.snapshots += 1,
                Err(error) => self.add(&file, None, error, REMOVE_SNAPSHOT),
            }
        }
    }
}

/// Why a database does not open, without what to do about it.
fn reason(error: DatabaseError) -> String {
    match error {
        DatabaseError::InUse { source, .. }
        | DatabaseError::Damaged { source, .. }
        | DatabaseError::Full { source, .. }
        | DatabaseError::Failed { source, .. } => source.into_string(),
        DatabaseError::Unreadable { source, .. } => source.to_string(),
        DatabaseError::DamagedFile(damage) => damage.what.to_owned(),
    }
}

#[cfg(test)]
mod tests;
