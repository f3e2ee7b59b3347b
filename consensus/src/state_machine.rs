//! openraft's state machine over [`ClusterState`]: applies committed entries, stores the changed rows together with
//! the position they are as of, then publishes the image, then answers.
//!
//! The stored state may lag the log after a crash, never lead it: rows are in the same WAL behind the entries they
//! come from. A snapshot is frozen when its builder is created, which is serialized with apply; building it later
//! cannot mix two states. Before a snapshot becomes durable, everything written so far does: a crash must not leave it
//! beside a log of before, whose last entries were taken back since and contradict it.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use crate::blocking;
use crate::cluster_state::{ClusterState, RowKey, Touched};
use crate::database::{Batch, Database, Family};
use crate::encoding::{DecodeError, Decoder, Encoder, Seal, seal, unseal};
use crate::image::ClusterImage;
use crate::outcome::Reply;
use crate::outcome_board::OutcomeBoard;
use crate::raft_codec;
use crate::rows::StateBuilder;
use crate::snapshot::{SnapshotFile, SnapshotStore};
use crate::types::{LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};

/// Key of the applied position. It sorts before every row.
const APPLIED: &[u8] = &[0];
const FIRST_ROW: &[u8] = &[1];
const BEHIND_LAST_ROW: &[u8] = &[0xff];

/// Applies committed entries.
pub struct StateMachine {
    database: Arc<Database>,
    snapshots: Arc<SnapshotStore>,
    state: ClusterState,
    applied: Option<LogId>,
    membership: StoredMembership,
    published: watch::Sender<Arc<ClusterImage>>,
    outcomes: OutcomeBoard,
}

impl StateMachine {
    /// Loads the stored state; refuses one with a damaged or missing row.
    pub(crate) fn open(
        database: Arc<Database>,
        snapshots: Arc<SnapshotStore>,
        outcomes: OutcomeBoard,
    ) -> io::Result<Self> {
        let (applied, membership) = stored_position(&database)?;
        let state = stored_state(&database, applied.as_ref())?;
        let published = watch::Sender::new(Arc::new(state.image().clone()));
        Ok(Self { database, snapshots, state, applied, membership, published, outcomes })
    }

    /// The images this state machine publishes, from the stored one on.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<ClusterImage>> {
        self.published.subscribe()
    }

    fn publish(&self) {
        let image = Arc::new(self.state.image().clone());
        assert!(image.applied >= self.published.borrow().applied, "the published image never goes back");
        self.published.send_replace(image);
    }

    fn put_applied(&self, batch: &mut Batch<'_>) -> io::Result<()> {
        let mut out = Encoder::new();
        raft_codec::write_opt_log_id(&mut out, self.applied.as_ref());
        raft_codec::write_stored_membership(&mut out, &self.membership);
        batch.put(Family::State, APPLIED, &seal(Seal::Applied, APPLIED, &out.finish()))
    }

    fn put_row(&self, batch: &mut Batch<'_>, key: RowKey) -> io::Result<()> {
        let place = key.encode();
        match self.state.row(key) {
            Some(row) => batch.put(Family::State, &place, &seal(Seal::Row, &place, &row)),
            None => batch.delete(Family::State, &place),
        }
    }

    fn frozen(&self) -> SnapshotBuilder {
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        let (database, snapshots) = (Arc::clone(&self.database), Arc::clone(&self.snapshots));
        SnapshotBuilder { database, snapshots, meta, state: self.state.clone() }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut touched = Touched::new();
        let mut answers = Vec::new();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            assert!(Some(entry.log_id) > self.applied, "{} applied after {:?}", entry.log_id, self.applied);
            let index = entry.log_id.index;
            let reply = match entry.payload {
                EntryPayload::Blank => Reply::Nothing,
                EntryPayload::Normal(command) => Reply::Command(self.state.apply(index, &command, &mut touched)),
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Reply::Nothing
                }
            };
            self.state.advance(index);
            self.applied = Some(entry.log_id);
            self.outcomes.post(index, &reply);
            if let Some(responder) = responder {
                answers.push((responder, reply));
            }
        }
        let mut batch = self.database.batch();
        for key in touched {
            self.put_row(&mut batch, key)?;
        }
        self.put_applied(&mut batch)?;
        batch.write()?;
        self.publish();
        for (responder, reply) in answers {
            responder.send(reply);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.frozen()
    }

    /// Crash-safe in this order: what was written to the log becomes durable; the snapshot does, under its name; one batch
    /// replaces all rows and the position. A crash in between leaves the old rows with a newer snapshot, which is installed
    /// at the next start.
    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        let store = Arc::clone(&self.snapshots);
        let announced = meta.clone();
        let database = Arc::clone(&self.database);
        let state = blocking(move || {
            database.sync()?;
            store.adopt(&announced, &snapshot)
        })
        .await?;
        assert!(meta.last_log_id >= self.applied, "a snapshot never moves the state back");
        self.state = state;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        let mut batch = self.database.batch();
        batch.delete_range(Family::State, FIRST_ROW, BEHIND_LAST_ROW)?;
        for key in self.state.row_keys() {
            self.put_row(&mut batch, key)?;
        }
        self.put_applied(&mut batch)?;
        batch.write()?;
        tracing::info!(index = self.state.image().applied, "the metadata is now that of a snapshot");
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.snapshots.current())
    }
}

/// The state frozen at one log position, to be written as a snapshot while apply goes on.
pub struct SnapshotBuilder {
    database: Arc<Database>,
    snapshots: Arc<SnapshotStore>,
    meta: SnapshotMeta,
    state: ClusterState,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let store = Arc::clone(&self.snapshots);
        let (database, meta, state) = (Arc::clone(&self.database), self.meta.clone(), self.state.clone());
        blocking(move || {
            database.sync()?;
            store.save(&meta, &state)
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    blocking::spawn(work).await.map_err(io::Error::other)?
}

/// What is applied in this database, and the Raft group's nodes as of there.
pub(crate) fn stored_position(database: &Database) -> io::Result<(Option<LogId>, StoredMembership)> {
    match database.get(Family::State, APPLIED)? {
        Some(sealed) => read_applied(&sealed).map_err(damaged),
        None => Ok((None, StoredMembership::default())),
    }
}

/// The state in this database, where `applied` is applied; refuses one with a damaged or missing row.
pub(crate) fn stored_state(database: &Database, applied: Option<&LogId>) -> io::Result<ClusterState> {
    let mut builder = StateBuilder::default();
    for pair in database.scan(Family::State, FIRST_ROW)? {
        let (key, sealed) = pair?;
        let value = unseal(Seal::Row, &key, &sealed).map_err(damaged)?;
        builder.add(&key, value).map_err(damaged)?;
    }
    builder.finish(applied.map_or(0, |id| id.index)).map_err(damaged)
}

fn damaged(e: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the stored cluster metadata is damaged: {e}"))
}

fn read_applied(sealed: &[u8]) -> Result<(Option<LogId>, StoredMembership), DecodeError> {
    let mut input = Decoder::new(unseal(Seal::Applied, APPLIED, sealed)?);
    let applied = raft_codec::read_opt_log_id(&mut input)?;
    let membership = raft_codec::read_stored_membership(&mut input)?;
    input.finish()?;
    Ok((applied, membership))
}

#[cfg(test)]
mod tests;
