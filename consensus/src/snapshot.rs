//! Snapshots as files (adapter: it owns files).
//!
//! ```text
//! magic "SBMS" | version u16 | zero u16 | last log id | membership | row count u64 | rows | CRC-32C of all before
//! ```
//!
//! Equal states at equal log positions give equal bytes. A file is written under a temporary name, synced, renamed,
//! and its directory synced, so a file with its final name is whole. At most one is current; older ones are removed.

mod file_steps;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::cluster_state::ClusterState;
use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::limits::SNAPSHOT_BYTES_MAX;
use crate::raft_codec;
use crate::rows::StateBuilder;
use crate::types::{LogId, Snapshot, SnapshotMeta};

pub use self::file_steps::{FileStep, FileSteps};

const MAGIC: &[u8; 4] = b"SBMS";
const VERSION: u16 = 2;
const SUFFIX: &str = ".snapshot";
const PARTIAL_SUFFIX: &str = ".partial";

/// A snapshot that can be read at any time, also after its file was replaced by a newer one.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    file: Arc<File>,
    bytes: u64,
}

impl SnapshotFile {
    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// True for a file with nothing in it, which is no snapshot.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Up to `bytes_max` bytes from `position`; empty at the end. Blocking.
    pub fn read_chunk(&self, position: u64, bytes_max: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.bytes.saturating_sub(position)).unwrap_or(usize::MAX);
        let mut chunk = vec![0; left.min(bytes_max)];
        self.file.read_exact_at(&mut chunk, position)?;
        Ok(chunk)
    }

    fn read_all(&self) -> io::Result<Vec<u8>> {
        if self.bytes > SNAPSHOT_BYTES_MAX {
            return Err(io::Error::other(format!("a snapshot of {} bytes is above the limit", self.bytes)));
        }
        self.read_chunk(0, usize::MAX)
    }
}

/// A snapshot that is being received. Dropping it unfinished removes it.
#[derive(Debug)]
pub struct SnapshotSink {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl SnapshotSink {
    /// Adds the next chunk. Blocking.
    pub fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.bytes = self.bytes.saturating_add(chunk.len() as u64);
        if self.bytes > SNAPSHOT_BYTES_MAX {
            return Err(io::Error::other(format!("the snapshot is larger than {SNAPSHOT_BYTES_MAX} bytes")));
        }
        self.file.write_all(chunk)
    }

    /// All chunks are there. Blocking.
    pub fn finish(self) -> io::Result<SnapshotFile> {
        let file = Arc::new(File::open(&self.path)?);
        Ok(SnapshotFile { file, bytes: self.bytes })
    }
}

impl Drop for SnapshotSink {
    fn drop(&mut self) {
        // The received bytes stay readable through the handle; installing them writes them under their own name.
        if let Err(e) = fs::remove_file(&self.path) {
            tracing::warn!(
                path = %self.path.display(), error = %e,
                "cannot remove a received snapshot's temporary file"
            );
        }
    }
}

/// The directory of snapshots. One is current.
#[derive(Debug)]
pub(crate) struct SnapshotStore {
    directory: PathBuf,
    slot: Mutex<Slot>,
    /// Whoever simulates the disk.
    steps: Option<Arc<dyn FileSteps>>,
}

#[derive(Debug, Default)]
struct Slot {
    current: Option<(SnapshotMeta, SnapshotFile)>,
    partials: u64,
    made: SnapshotCounts,
}

/// Snapshots since a node was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotCounts {
    /// Those it wrote of its own state.
    pub built: u64,
    /// Those it took from a controller, because the log no longer held what it lacked.
    pub installed: u64,
    /// Those a peer sent that it refused.
    pub refused: u64,
}

impl SnapshotStore {
    /// Opens `directory`, removes leftovers of a crash, and verifies the newest snapshot. A damaged one is refused:
    /// it must never pass for an empty cluster.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let mut newest: Option<(PathBuf, SnapshotMeta, SnapshotFile)> = None;
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if name.ends_with(PARTIAL_SUFFIX) {
                fs::remove_file(&path)?;
            } else if name.ends_with(SUFFIX) {
                let file = open_file(&path)?;
                let (meta, _) = verify(&file.read_all()?).map_err(|e| damaged(&path, &e))?;
                let (old, kept) = match newest.take() {
                    Some(n) if n.1.last_log_id > meta.last_log_id => (Some(path), n),
                    other => (other.map(|n| n.0), (path, meta, file)),
                };
                newest = Some(kept);
                if let Some(old) = old {
                    fs::remove_file(old)?;
                }
            }
        }
        let current = newest.map(|(_, meta, file)| (meta, file));
        let slot = Mutex::new(Slot { current, ..Slot::default() });
        Ok(Self { directory: directory.to_path_buf(), slot, steps: None })
    }

    /// The same; `steps` is told each step of a snapshot that comes to be.
    pub(crate) fn told_to(self, steps: Option<Arc<dyn FileSteps>>) -> Self {
        Self { steps, ..self }
    }

    /// The current snapshot.
    pub(crate) fn current(&self) -> Option<Snapshot> {
        let slot = self.slot.lock();
        slot.current.as_ref().map(|(meta, file)| Snapshot { meta: meta.clone(), snapshot: file.clone() })
    }

    /// Index of the last entry in the current snapshot; zero before the first.
    pub(crate) fn last_index(&self) -> u64 {
        self.slot.lock().current.as_ref().and_then(|(meta, _)| meta.last_log_id.as_ref()).map_or(0, |last| last.index)
    }

    /// How many were made current, and how many were refused.
    pub(crate) fn made(&self) -> SnapshotCounts {
        self.slot.lock().made
    }

    /// Somewhere to write a snapshot that arrives from a peer. Blocking.
    pub(crate) fn receive(&self) -> io::Result<SnapshotSink> {
        let path = self.partial_path();
        Ok(SnapshotSink { file: File::create_new(&path)?, path, bytes: 0 })
    }

    /// Writes `state` as a snapshot and makes it current, unless a newer one is. Blocking.
    pub(crate) fn save(&self, meta: &SnapshotMeta, state: &ClusterState) -> io::Result<Snapshot> {
        let snapshot = self.save_bytes(meta, &encode(meta, state))?;
        self.slot.lock().made.built += 1;
        Ok(snapshot)
    }

    /// Proves that what a peer has sent is a snapshot, and the one it announced. Blocking.
    pub(crate) fn prove(&self, announced: &SnapshotMeta, received: &SnapshotFile) -> Result<(), SnapshotFileError> {
        let proven = received.read_all().map_err(SnapshotFileError::from).and_then(|bytes| {
            let (found, _) = verify(&bytes)?;
            if found == *announced {
                return Ok(());
            }
            let found = format!("{found} announced as {announced}");
            Err(DecodeError::Invalid { what: "metadata snapshot", found }.into())
        });
        self.slot.lock().made.refused += u64::from(proven.is_err());
        proven
    }

    /// Verifies a snapshot that was proven before, makes it durable and current, and returns its state. An error is this
    /// disk's. Blocking.
    pub(crate) fn adopt(&self, meta: &SnapshotMeta, received: &SnapshotFile) -> io::Result<ClusterState> {
        let bytes = received.read_all()?;
        let changed = |e: DecodeError| {
            let text = format!("the metadata snapshot of {meta} has changed on this disk since it was proven: {e}");
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let (found, state) = verify(&bytes).map_err(changed)?;
        if found != *meta {
            return Err(io::Error::other(format!("a snapshot of {found} was announced as {meta}")));
        }
        // Its own one, at a start after a crash between the two steps of installing it, came earlier.
        let is_own = self.slot.lock().current.as_ref().is_some_and(|(current, _)| current == meta);
        self.save_bytes(meta, &bytes)?;
        self.slot.lock().made.installed += u64::from(!is_own);
        Ok(state)
    }

    fn save_bytes(&self, meta: &SnapshotMeta, bytes: &[u8]) -> io::Result<Snapshot> {
        let partial = self.partial_path();
        let mut file = File::create_new(&partial)?;
        file.write_all(bytes)?;
        self.done(FileStep::Written(&partial))?;
        file.sync_all()?;
        self.done(FileStep::Synced(&partial))?;
        drop(file);
        let path = self.directory.join(file_name(meta.last_log_id.as_ref()));
        // Renaming and replacing the current one happen under one lock, so the current one is always on disk.
        let mut slot = self.slot.lock();
        fs::rename(&partial, &path)?;
        self.done(FileStep::Renamed { from: &partial, to: &path })?;
        File::open(&self.directory)?.sync_all()?;
        self.done(FileStep::NamesSynced)?;
        let file = open_file(&path)?;
        let snapshot = Snapshot { meta: meta.clone(), snapshot: file.clone() };
        let is_newest = slot.current.as_ref().is_none_or(|(former, _)| former.last_log_id <= meta.last_log_id);
        if is_newest {
            if let Some((former, former_file)) = slot.current.replace((meta.clone(), file))
                && former.last_log_id != meta.last_log_id
            {
                self.remove(&self.directory.join(file_name(former.last_log_id.as_ref())), &former_file)?;
            }
        } else {
            self.remove(&path, &file)?;
        }
        Ok(snapshot)
    }

    fn remove(&self, path: &Path, file: &SnapshotFile) -> io::Result<()> {
        fs::remove_file(path)?;
        self.done(FileStep::Removed(path, file))
    }

    fn done(&self, step: FileStep<'_>) -> io::Result<()> {
        self.steps.as_ref().map_or(Ok(()), |steps| steps.done(step))
    }

    fn partial_path(&self) -> PathBuf {
        let mut slot = self.slot.lock();
        slot.partials += 1;
        self.directory.join(format!("{}{PARTIAL_SUFFIX}", slot.partials))
    }
}

/// The whole snapshots in `directory`, in the order of their names; none when it does not exist.
pub(crate) fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(SUFFIX)) {
            found.push(path);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Reads a snapshot's file and proves it.
pub(crate) fn verify_file(path: &Path) -> Result<(), SnapshotFileError> {
    verify(&open_file(path)?.read_all()?)?;
    Ok(())
}

/// Why a snapshot's file is no good.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFileError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It does not check.
    #[error("it is damaged: {0}")]
    Damaged(#[from] DecodeError),
}

fn file_name(last: Option<&LogId>) -> String {
    match last {
        Some(id) => format!("{:016x}-{:016x}-{:016x}{SUFFIX}", id.index, id.leader_id.term, id.leader_id.node_id.get()),
        None => format!("empty{SUFFIX}"),
    }
}

fn open_file(path: &Path) -> io::Result<SnapshotFile> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    Ok(SnapshotFile { file: Arc::new(file), bytes })
}

fn damaged(path: &Path, error: &DecodeError) -> io::Error {
    let text = format!(
        "the metadata snapshot {} is damaged: {error}; it is a copy, the database beside it holds the same state: \
         move the file away and start again",
        path.display()
    );
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// A snapshot's bytes.
pub(crate) fn encode(meta: &SnapshotMeta, state: &ClusterState) -> Vec<u8> {
    let mut out = Encoder::new();
    out.raw(MAGIC);
    out.u16(VERSION);
    out.u16(0);
    raft_codec::write_opt_log_id(&mut out, meta.last_log_id.as_ref());
    raft_codec::write_stored_membership(&mut out, &meta.last_membership);
    out.u64(state.row_keys().count() as u64);
    for key in state.row_keys() {
        out.block(&key.encode());
        out.block(&state.row(key).unwrap_or_default());
    }
    let mut bytes = out.finish();
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Decodes a snapshot after its checksum has been verified.
pub(crate) fn verify(bytes: &[u8]) -> Result<(SnapshotMeta, ClusterState), DecodeError> {
    let body_bytes = bytes.len().checked_sub(4).ok_or(DecodeError::Truncated { needed: 4 })?;
    let mut whole = Decoder::new(bytes);
    let body = whole.raw(body_bytes)?;
    let found = whole.u32()?;
    let mut input = Decoder::new(body);
    let magic: [u8; 4] = input.array()?;
    if magic != *MAGIC {
        return Err(DecodeError::Invalid { what: "snapshot magic", found: format!("{magic:02x?}") });
    }
    let computed = crc32c::crc32c(body);
    if found != computed {
        return Err(DecodeError::Checksum { found, computed });
    }
    let version = input.u16()?;
    let reserved = input.u16()?;
    if version != VERSION || reserved != 0 {
        let found = format!("version {version}, this release reads {VERSION}");
        return Err(DecodeError::Invalid { what: "metadata snapshot", found });
    }
    let last_log_id = raft_codec::read_opt_log_id(&mut input)?;
    let last_membership = raft_codec::read_stored_membership(&mut input)?;
    let mut builder = StateBuilder::default();
    for _ in 0..input.u64()? {
        let key = input.block("row key", 64)?;
        let value = input.block("row", usize::MAX)?;
        builder.add(key, value)?;
    }
    input.finish()?;
    let state = builder.finish(last_log_id.as_ref().map_or(0, |id| id.index))?;
    Ok((SnapshotMeta { last_log_id, last_membership }, state))
}

/// Reads a whole small file, refusing one above `bytes_max`.
pub(crate) fn read_small_file(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
