//! The adapter that opens a directory of the real file system: checks that it may be used, locks it, opens RocksDB.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use super::inner::INDEX_DAMAGED_FILE;
use super::lock::{DirectoryLock, LOCK_FILE};
use super::{Drive, RecoveryReport, Store, StoreEnv, open};
use crate::clock::Clock;
use crate::config::StoreConfig;
use crate::disk::real::RealDisk;
use crate::error::{IndexError, OpenError};
use crate::identity::{IDENTITY_FILE, IdentityError};
use crate::index::memory::MemoryIndex;
use crate::index::rocks::{RocksIndex, RocksSizes};

/// The directory of the index within a data directory.
pub const INDEX_DIRECTORY: &str = "index";

/// Other folders of a data directory that belong to the broker and not to storage.
const NEIGHBOURS: [&str; 2] = ["metadata", "lost+found"];

pub(super) fn open(
    path: &Path,
    config: StoreConfig,
    clock: Arc<dyn Clock>,
) -> Result<(Store, RecoveryReport), OpenError> {
    let shown = path.display().to_string();
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => return Err(IdentityError::NotADirectory { path: shown }.into()),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fs::create_dir_all(path).map_err(|error| refused(&shown, "created", error))?;
        }
        Err(error) => return Err(refused(&shown, "opened", error)),
    }
    refuse_foreign(path, &shown)?;
    let lock = DirectoryLock::acquire(path).map_err(|error| match error {
        OpenError::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            refused(&shown, "written to", source)
        }
        other => other,
    })?;
    let disk = RealDisk::open(path).map_err(|error| refused(&shown, "opened", error))?;
    let index = open_index(path, &config)?;
    let mut env = StoreEnv { disk: Arc::new(disk), index, clock, random: Box::new(random_u128), drive: Drive::Threads };
    let mut lock = Some(lock);
    let (inner, report) = match open::open(&mut env, config.clone(), &mut lock) {
        Err(OpenError::Index(IndexError::Damaged(_))) => {
            // RocksDB lets go of its files when the last handle goes; then they can be removed.
            env.index = Arc::new(MemoryIndex::new());
            env.index = open_index(path, &config)?;
            open::open(&mut env, config, &mut lock)?
        }
        opened => opened?,
    };
    Ok((Store { inner }, report))
}

/// Opens RocksDB; what cannot be opened is removed, because the journal has everything that was in it.
fn open_index(path: &Path, config: &StoreConfig) -> Result<Arc<RocksIndex>, OpenError> {
    let directory = path.join(INDEX_DIRECTORY);
    let sizes =
        RocksSizes { cache_bytes: config.index_cache_bytes, write_buffer_bytes: config.index_write_buffer_bytes };
    if path.join(INDEX_DAMAGED_FILE).exists() {
        RocksIndex::destroy(&directory)?;
    }
    match RocksIndex::open(&directory, sizes) {
        Ok(index) => Ok(Arc::new(index)),
        Err(IndexError::Damaged(problem)) => {
            tracing::error!(problem, "the index is damaged; it is rebuilt from the journal");
            RocksIndex::destroy(&directory)?;
            Ok(Arc::new(RocksIndex::open(&directory, sizes)?))
        }
        Err(error) => Err(error.into()),
    }
}

/// Refuses a directory that holds anything and no identity.
fn refuse_foreign(path: &Path, shown: &str) -> Result<(), OpenError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| refused(shown, "listed", error))? {
        let entry = entry.map_err(|error| refused(shown, "listed", error))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    if names.iter().any(|name| name == IDENTITY_FILE) {
        return Ok(());
    }
    // A crash while formatting leaves the lock, temporary files of the identity, or an index without content.
    let ours = |name: &String| {
        name == LOCK_FILE
            || NEIGHBOURS.contains(&name.as_str())
            || name.starts_with(IDENTITY_FILE)
            || name.starts_with(&format!(".{IDENTITY_FILE}"))
            || name == INDEX_DIRECTORY
    };
    match names.into_iter().find(|name| !ours(name)) {
        Some(found) => Err(IdentityError::Foreign { found }.into()),
        None => Ok(()),
    }
}

fn refused(path: &str, operation: &'static str, error: io::Error) -> OpenError {
    if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) {
        return IdentityError::NoPermission { path: path.to_owned(), operation }.into();
    }
    OpenError::Io { operation, file: path.to_owned(), source: error }
}

/// 128 bits of the operating system's randomness: a directory's identity must never come twice.
fn random_u128() -> u128 {
    use rand::TryRngCore;
    let mut bytes = [0; 16];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).expect("the operating system provides randomness");
    u128::from_le_bytes(bytes)
}
