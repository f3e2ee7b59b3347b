//! A metadata directory as a start finds it, and how it is formatted (adapter: it owns files).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use streambus_protocol::ids::{BrokerId, ClusterId, DirectoryId};

use crate::config::{DATABASE_DIRECTORY, SNAPSHOT_DIRECTORY};
use crate::database::{BeforeSync, Database, DatabaseSource, Family};
use crate::error::StartError;
use crate::identity::{Identity, IdentityError, MARK, Phase, seal_mark, unseal_mark};
use crate::log_store::LogStore;
use crate::snapshot::SnapshotStore;
use crate::state_machine::stored_position;
use crate::types::RaftId;

/// An open metadata directory.
pub(super) struct Disk {
    pub(super) path: PathBuf,
    pub(super) database: Arc<Database>,
    pub(super) log: LogStore,
    pub(super) snapshots: Arc<SnapshotStore>,
}

/// What a metadata directory holds, after it was found to be in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Nothing.
    Empty,
    /// A request for a Raft id that may have been answered.
    Joining(Identity),
    /// A formatting that was interrupted; it goes on under the same identity.
    Formatting(Identity),
    /// A node of a cluster.
    Formatted(Identity),
}

impl Disk {
    /// Opens the database and says who this directory is, before Raft may promise anything.
    ///
    /// | identity file             | database         | meaning                       |
    /// |---------------------------|------------------|-------------------------------|
    /// | none                      | empty            | new                           |
    /// | `Joining`                 | empty            | join, again as this directory |
    /// | `Formatting`              | empty or marked  | interrupted: format again     |
    /// | `Formatted`               | marked the same  | ours                          |
    /// | `Formatted`               | anything else    | log lost or exchanged: refuse |
    /// | none or `Joining`         | marked           | file lost: refuse             |
    pub(super) fn open(
        path: &Path,
        source: &DatabaseSource,
        before_sync: Option<BeforeSync>,
    ) -> Result<(Self, Content), StartError> {
        fs::create_dir_all(path).map_err(StartError::Storage)?;
        // Everything below is synced where it is written; a power cut must not take away the directory itself.
        if let Some(parent) = path.parent() {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(StartError::Storage)?;
        }
        let stored = Identity::read(path)?;
        let database = Arc::new(Database::open_in(source, &path.join(DATABASE_DIRECTORY))?);
        let log = LogStore::open(Arc::clone(&database), before_sync).map_err(StartError::Storage)?;
        let snapshots = SnapshotStore::open(&path.join(SNAPSHOT_DIRECTORY)).map_err(StartError::Storage)?;
        let snapshots = snapshots.told_to(source.snapshot_files());
        let disk = Self { path: path.to_path_buf(), database, log, snapshots: Arc::new(snapshots) };
        let mark = disk.mark()?;
        let file = Identity::file(path);
        let content = match (stored, mark) {
            (Some((identity, Phase::Formatted)), Some(mark)) if mark == identity.directory_id => {
                Content::Formatted(identity)
            }
            (Some((identity, Phase::Formatted)), mark) => {
                let found = mark.map_or("empty".to_owned(), |mark| mark.to_string());
                return Err(IdentityError::DatabaseExchanged { file, expected: identity.directory_id, found }.into());
            }
            (None | Some((_, Phase::Joining)), Some(found)) => {
                return Err(IdentityError::FileMissing { file, found }.into());
            }
            (Some((identity, Phase::Formatting)), _) => Content::Formatting(identity),
            (Some((identity, Phase::Joining)), None) => Content::Joining(identity),
            (None, None) => Content::Empty,
        };
        Ok((disk, content))
    }

    /// Index of the last entry that this disk has: in its log, or in a snapshot that a crash left ahead of the log. A
    /// snapshot that was taken is durable before that is said, the log that it replaces some time later.
    pub(super) fn last_index(&self) -> u64 {
        self.log.last_index().max(self.snapshots.last_index())
    }

    /// Every node of the Raft group, as the newest log entry here that names them says; empty before the first.
    pub(super) fn members(&self) -> Result<Vec<RaftId>, StartError> {
        let (applied, stored) = stored_position(&self.database).map_err(StartError::Storage)?;
        let behind = applied.map_or(0, |id| id.index + 1);
        let newer = self.log.last_membership(behind).map_err(StartError::Storage)?;
        let membership = newer.as_ref().unwrap_or_else(|| stored.membership());
        Ok(membership.nodes().map(|(id, _)| *id).collect())
    }

    /// Remembers, durably, as which directory this empty disk asks `cluster` for a Raft id.
    pub(super) fn begin_joining(
        &self,
        cluster: ClusterId,
        broker: BrokerId,
        directory: DirectoryId,
    ) -> Result<Identity, StartError> {
        let identity =
            Identity { cluster_id: cluster, broker_id: broker, raft_id: RaftId::NONE_YET, directory_id: directory };
        identity.write(&self.path, Phase::Joining)?;
        Ok(identity)
    }

    /// Makes this directory the disk of `identity`, durably.
    pub(super) async fn format(&self, identity: Identity) -> Result<(), StartError> {
        let pristine = self.log.is_pristine().map_err(StartError::Storage)?;
        assert!(pristine, "a directory that was never formatted has promised nothing");
        assert_ne!(identity.raft_id, RaftId::NONE_YET, "a node is formatted once it has its id");
        identity.write(&self.path, Phase::Formatting)?;
        self.write_mark(identity.directory_id).await.map_err(StartError::Storage)?;
        identity.write(&self.path, Phase::Formatted)?;
        tracing::info!(
            cluster = %identity.cluster_id, raft = %identity.raft_id, directory = %self.path.display(), "formatted"
        );
        Ok(())
    }

    /// The directory id inside the database.
    fn mark(&self) -> Result<Option<DirectoryId>, StartError> {
        let Some(sealed) = self.database.get(Family::Meta, MARK).map_err(StartError::Storage)? else {
            return Ok(None);
        };
        let damaged = |source| IdentityError::Damaged { file: self.path.join(DATABASE_DIRECTORY), source };
        Ok(Some(unseal_mark(&sealed).map_err(damaged)?))
    }

    async fn write_mark(&self, id: DirectoryId) -> io::Result<()> {
        let mut batch = self.database.batch();
        batch.put(Family::Meta, MARK, &seal_mark(id))?;
        batch.write()?;
        self.log.sync().await
    }
}
