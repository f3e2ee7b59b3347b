//! Starting a node: identity, database, Raft, election, recovery, founding; each step refuses rather than guesses.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use streambus_protocol::ids::{ClusterId, DirectoryId};
use tokio::time::{Instant, timeout_at};

use super::{ConsensusEnv, Inner, MetadataNode};
use crate::command::{Command, Incarnation};
use crate::config::{Bootstrap, ConsensusConfig};
use crate::database::{Database, Family};
use crate::encoding::{Seal, seal, unseal};
use crate::error::{NotApplied, ProposeError, StartError};
use crate::identity::{Identity, IdentityError, Phase};
use crate::log_store::LogStore;
use crate::network::Network;
use crate::peer_service::PeerService;
use crate::snapshot::SnapshotStore;
use crate::state_machine::StateMachine;
use crate::types::{Raft, RaftId, RaftNode};

const DIRECTORY: &[u8] = b"directory";

impl MetadataNode {
    /// Starts the node on its directory, formatting an empty one first. Idempotent: a start that was interrupted
    /// anywhere is completed by the next one. A node that is its cluster's only voter has recovered all it ever
    /// acknowledged when this returns; one with peers has when [`MetadataNode::recovered`] returns.
    pub async fn start(config: ConsensusConfig, mut env: ConsensusEnv) -> Result<Self, StartError> {
        let raft_config = Arc::new(config.tuning.raft_config()?);
        let directory = config.directory();
        let incarnation = Incarnation::from_bytes((env.random)());
        let (database, log, identity) = open_directory(&config, &directory, &mut env).await?;
        let snapshots = Arc::new(SnapshotStore::open(&directory.join("snapshots")).map_err(StartError::Storage)?);
        let closed = database.watch_closed();
        let state = StateMachine::open(database, Arc::clone(&snapshots)).map_err(StartError::Storage)?;
        let images = state.watch();
        let network = Network { transport: env.transport, cluster: identity.cluster_id, me: identity.raft_id };
        let raft = Raft::new(identity.raft_id, raft_config, network, log, state)
            .await
            .map_err(|e| StartError::Stopped(e.to_string()))?;
        let peers = PeerService { raft: raft.clone(), identity, snapshots };
        let door = env.door;
        let node = Self { inner: Arc::new(Inner { raft, identity, config, incarnation, images, peers, door, closed }) };
        node.inner.door.attach(&node.inner);
        node.initialize().await?;
        if node.is_only_voter().await? {
            node.elect_alone().await?;
            node.recovered(node.inner.config.tuning.recovery).await?;
        }
        Ok(node)
    }

    /// Waits until this node's state is at least as new as any it has shown before, and the cluster has its
    /// identity. To be awaited before the image is served.
    pub async fn recovered(&self, patience: Duration) -> Result<(), StartError> {
        let deadline = Instant::now() + patience;
        if self.inner.raft.wait_for_recovery(Some(patience)).await.is_err() {
            return Err(StartError::NotRecovered(patience));
        }
        self.found(deadline, patience).await
    }

    /// Gives a new cluster its identity, or waits until a peer has.
    async fn found(&self, deadline: Instant, patience: Duration) -> Result<(), StartError> {
        let directory = self.inner.identity.cluster_id;
        let mut images = self.inner.images.clone();
        loop {
            let replicated = images.borrow_and_update().cluster_id;
            if replicated == directory {
                return Ok(());
            }
            if !replicated.is_zero() {
                return Err(StartError::OtherCluster { directory, replicated });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.propose_within(Command::FoundCluster { cluster_id: directory }, left).await {
                Ok(_) => {}
                Err(ProposeError::NotApplied(NotApplied::OtherController { .. })) => {
                    // The controller founds it; its entry reaches this node as an image.
                    let told = timeout_at(deadline, images.changed()).await;
                    told.map_err(|_| StartError::NotRecovered(patience))?
                        .map_err(|e| StartError::Stopped(e.to_string()))?;
                }
                Err(e) => return Err(StartError::Founding(e)),
            }
        }
    }

    async fn initialize(&self) -> Result<(), StartError> {
        let initialized = self.inner.raft.is_initialized().await.map_err(|e| StartError::Stopped(e.to_string()))?;
        if initialized {
            return Ok(());
        }
        match self.inner.raft.initialize(self.founders()).await {
            Ok(()) => Ok(()),
            // A peer that was quicker has brought its log here in between.
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotInMembers(e))) => Err(StartError::NotAFounder(e.node_id)),
            Err(RaftError::Fatal(e)) => Err(StartError::Stopped(e.to_string())),
        }
    }

    fn founders(&self) -> BTreeMap<RaftId, RaftNode> {
        let config = &self.inner.config;
        match &config.bootstrap {
            Bootstrap::Founders { voters, .. } => voters.clone(),
            Bootstrap::Peers { .. } => BTreeMap::new(),
            Bootstrap::Alone => {
                let host = config.advertised.host.clone();
                let node = RaftNode { broker: config.broker_id, host, port: config.advertised.port };
                BTreeMap::from([(self.inner.identity.raft_id, node)])
            }
        }
    }

    async fn is_only_voter(&self) -> Result<bool, StartError> {
        let me = self.inner.identity.raft_id;
        let only_me = move |voters: Vec<RaftId>| voters == [me];
        let state = self.inner.raft.with_raft_state(move |state| {
            only_me(state.membership_state.effective().membership().voter_ids().collect())
        });
        state.await.map_err(|e| StartError::Stopped(e.to_string()))
    }

    /// The only voter need not wait for a leader that cannot be there.
    async fn elect_alone(&self) -> Result<(), StartError> {
        self.inner.raft.trigger().elect(false).await.map_err(|e| StartError::Stopped(e.to_string()))?;
        let me = self.inner.identity.raft_id;
        let mut metrics = self.inner.raft.metrics();
        let deadline = Instant::now() + self.inner.config.tuning.recovery;
        while metrics.borrow_watched().current_leader != Some(me) {
            let changed = timeout_at(deadline, metrics.changed()).await;
            changed
                .map_err(|_| StartError::NotRecovered(self.inner.config.tuning.recovery))?
                .map_err(|e| StartError::Stopped(e.to_string()))?;
        }
        Ok(())
    }
}

/// Opens the database and settles who this directory is, before Raft may promise anything.
///
/// | identity file | database         | meaning                       |
/// |---------------|------------------|-------------------------------|
/// | none          | empty            | new: format                   |
/// | `Formatting`  | empty or marked  | interrupted: format again     |
/// | `Formatted`   | marked the same  | ours                          |
/// | `Formatted`   | anything else    | log lost or exchanged: refuse |
/// | none          | marked           | file lost: refuse             |
async fn open_directory(
    config: &ConsensusConfig,
    directory: &Path,
    env: &mut ConsensusEnv,
) -> Result<(Arc<Database>, LogStore, Identity), StartError> {
    fs::create_dir_all(directory).map_err(StartError::Storage)?;
    let stored = Identity::read(directory)?;
    let database = Arc::new(Database::open(&directory.join("db"))?);
    let log = LogStore::open(Arc::clone(&database)).map_err(StartError::Storage)?;
    let mark = read_mark(&database, directory)?;
    let file = Identity::file(directory);
    let (cluster, raft) = match &config.bootstrap {
        Bootstrap::Alone => (config.expected_cluster, None),
        Bootstrap::Peers { .. } => return Err(StartError::Stopped("founding with peers is not in this build".into())),
        Bootstrap::Founders { cluster_id, raft_id, .. } => (Some(*cluster_id), Some(*raft_id)),
    };
    let identity = match (stored, mark) {
        (Some((identity, Phase::Formatted)), Some(mark)) if mark == identity.directory_id => {
            identity.check(directory, config.broker_id, cluster, raft)?;
            return Ok((database, log, identity));
        }
        (Some((identity, Phase::Formatted)), mark) => {
            let found = mark.map_or("empty".to_owned(), |mark| mark.to_string());
            return Err(IdentityError::DatabaseExchanged { file, expected: identity.directory_id, found }.into());
        }
        (None, Some(found)) => return Err(IdentityError::FileMissing { file, found }.into()),
        (Some((identity, Phase::Formatting)), _) => {
            identity.check(directory, config.broker_id, cluster, raft)?;
            identity
        }
        (None, None) => Identity {
            cluster_id: cluster.unwrap_or_else(|| ClusterId::from_bytes((env.random)())),
            broker_id: config.broker_id,
            raft_id: raft.unwrap_or(RaftId::FOUNDER),
            directory_id: DirectoryId::from_bytes((env.random)()),
        },
    };
    let pristine = log.is_pristine().map_err(StartError::Storage)?;
    assert!(pristine, "a directory that was never formatted has promised nothing");
    identity.write(directory, Phase::Formatting)?;
    write_mark(&database, &log, identity.directory_id).await.map_err(StartError::Storage)?;
    identity.write(directory, Phase::Formatted)?;
    tracing::info!(cluster = %identity.cluster_id, raft = %identity.raft_id, directory = %directory.display(), "formatted");
    Ok((database, log, identity))
}

/// The directory id inside the database.
fn read_mark(database: &Database, directory: &Path) -> Result<Option<DirectoryId>, StartError> {
    let Some(sealed) = database.get(Family::Meta, DIRECTORY).map_err(StartError::Storage)? else {
        return Ok(None);
    };
    let damaged = |source| IdentityError::Damaged { file: directory.join("db"), source };
    let payload = unseal(Seal::Directory, DIRECTORY, &sealed).map_err(damaged)?;
    let mut input = crate::encoding::Decoder::new(payload);
    Ok(Some(DirectoryId::from_bytes(input.array().map_err(damaged)?)))
}

async fn write_mark(database: &Database, log: &LogStore, id: DirectoryId) -> std::io::Result<()> {
    let mut batch = database.batch();
    batch.put(Family::Meta, DIRECTORY, &seal(Seal::Directory, DIRECTORY, id.as_bytes()))?;
    batch.write()?;
    log.sync().await
}
