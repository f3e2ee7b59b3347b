//! The adapter that keeps a second process out of a data directory: an advisory lock on the file `LOCK`.

use std::fs::{File, OpenOptions};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::error::OpenError;

/// Name of the lock file. Its content means nothing.
pub const LOCK_FILE: &str = "LOCK";

/// The lock; the operating system releases it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock of the directory `path`, without waiting.
    pub(crate) fn acquire(path: &Path) -> Result<Self, OpenError> {
        let name = path.join(LOCK_FILE);
        let shown = || name.display().to_string();
        let failed = |operation, source| OpenError::Io { operation, file: shown(), source };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&name)
            .map_err(|source| failed("opening", source))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked { path: shown() }),
            Err(errno) => Err(failed("locking", errno.into())),
        }
    }
}
