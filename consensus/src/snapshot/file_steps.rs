//! The steps by which the files of snapshots come and go, told one by one to whoever simulates the disk below them: only so
//! can the power go between two of them.

use std::fmt;
use std::io;
use std::path::Path;

use super::SnapshotFile;

/// What was done to the directory of snapshots.
#[derive(Clone, Copy, Debug)]
pub enum FileStep<'a> {
    /// A new file was written. Neither its bytes nor its name need survive a power cut.
    Written(&'a Path),
    /// Its bytes were made durable.
    Synced(&'a Path),
    /// It has another name, under which another file may have been. After a power cut it may have the former one.
    Renamed {
        /// The former name.
        from: &'a Path,
        /// The name that it has.
        to: &'a Path,
    },
    /// All names in the directory were made durable.
    NamesSynced,
    /// The name of a file is gone. After a power cut it may be there again, with these bytes.
    Removed(&'a Path, &'a SnapshotFile),
}

/// What a simulated disk does when a step is done.
pub trait FileSteps: fmt::Debug + Send + Sync {
    /// Takes note of `step`.
    ///
    /// # Errors
    /// The power has gone: nothing more may be done.
    fn done(&self, step: FileStep<'_>) -> io::Result<()>;
}
