//! What a node's disk holds of Raft's log and of the state, in a form in which disks of one cluster can be compared: entries
//! of one index and one id are the same on all of them, and so is the state that all entries up to one index make.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::cluster_state::ClusterState;
use crate::config::{DATABASE_DIRECTORY, METADATA_DIRECTORY};
use crate::database::{Database, DatabaseSource};
use crate::log_store::LogReader;
use crate::snapshot;
use crate::state_machine::{stored_position, stored_state};
use crate::types::SnapshotMeta;

/// What one disk holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldLog {
    /// Index of the last applied entry; zero before the first. Everything up to here was committed.
    pub applied: u64,
    /// Checksum of the state there.
    pub state: u32,
    /// The entries that are still in the log, by index, applied or not.
    pub entries: BTreeMap<u64, HeldEntry>,
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldEntry {
    /// The term of the controller that made it.
    pub term: u64,
    /// That controller's Raft node.
    pub node: u64,
    /// Checksum of the entry as it is stored.
    pub checksum: u32,
}

/// Reads what the data directory `data_dir` holds, whose metadata database is where `source` says. No node runs on it.
///
/// # Errors
///
/// What does not check, or cannot be read.
pub fn held_log(source: &DatabaseSource, data_dir: &Path) -> io::Result<HeldLog> {
    let path = data_dir.join(METADATA_DIRECTORY).join(DATABASE_DIRECTORY);
    let opened = match source {
        DatabaseSource::Directory => Database::open_read_only(&path),
        DatabaseSource::Memory(_) => Database::open_in(source, &path),
    };
    let database = Arc::new(opened.map_err(io::Error::other)?);
    let (applied, _) = stored_position(&database)?;
    let state = stored_state(&database, applied.as_ref())?;
    let stored = LogReader::new(database).stored()?;
    let entry = |(id, checksum): (crate::types::LogId, u32)| {
        let leader = id.leader_id;
        (id.index, HeldEntry { term: leader.term, node: leader.node_id.get(), checksum })
    };
    Ok(HeldLog {
        applied: applied.map_or(0, |id| id.index),
        state: checksum_of(&state),
        entries: stored.into_iter().map(entry).collect(),
    })
}

/// The checksum that a snapshot of the state ends with. One over all its bytes, that one included, is the same for every state.
fn checksum_of(state: &ClusterState) -> u32 {
    let bytes = snapshot::encode(&SnapshotMeta::default(), state);
    bytes.last_chunk().copied().map_or(0, u32::from_le_bytes)
}
