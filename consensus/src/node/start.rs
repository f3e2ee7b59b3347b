//! Starting a node: disk, identity, Raft, founding, recovery; each step refuses rather than guesses.

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use parking_lot::Mutex;
use streambus_protocol::ids::{ClusterId, DirectoryId};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::disk::{Content, Disk};
use super::settle::Neighbours;
use super::{ConsensusEnv, Inner, MetadataNode};
use crate::command::{Command, Incarnation};
use crate::config::ConsensusConfig;
use crate::error::{ProposeError, StartError, UnknownOutcome};
use crate::founding::StartPhase;
use crate::hello::Standing;
use crate::identity::Identity;
use crate::last_heard::LastHeard;
use crate::network::{AddressBook, Network};
use crate::outcome_board::OutcomeBoard;
use crate::peer_service::PeerService;
use crate::state_machine::StateMachine;
use crate::types::{Raft, RaftId, RaftNode};

impl MetadataNode {
    /// Starts the node on its directory. An empty one is formatted first: alone, with the peers that found the
    /// cluster too, or as a disk that joins the cluster there is. Idempotent, and safe to drop: a start that was
    /// interrupted anywhere is completed by the next one.
    ///
    /// On return this node's state is at least as new as any it has shown before, unless a power cut took entries that
    /// others had confirmed and this disk had not: it may then have shown what it learns again only a moment later. With
    /// peers that takes a quorum, and the start waits for one without a limit; [`PeerDoor::progress`] says for what.
    ///
    /// [`PeerDoor::progress`]: crate::peer_door::PeerDoor::progress
    pub async fn start(config: ConsensusConfig, mut env: ConsensusEnv) -> Result<Self, StartError> {
        let neighbours = Neighbours::of(&config, Arc::clone(&env.transport), env.door.clone())?;
        let incarnation = Incarnation::from_bytes((env.random)());
        let (disk, content) = Disk::open(&config.directory(), &env.database, env.before_sync.take())?;
        let identity = match &neighbours {
            Some(neighbours) => neighbours.settle(&disk, content, &mut env.random).await?,
            None => settle_alone(&config, &disk, content, &mut env).await?,
        };
        let door = env.door.clone();
        let node = Self { inner: Self::run(config, env, identity, incarnation, disk).await? };
        let begun = match neighbours {
            None => node.begin_alone().await,
            Some(neighbours) => node.begin_with(&neighbours).await,
        };
        if let Err(error) = begun {
            node.shutdown().await;
            return Err(error);
        }
        door.report(StartPhase::Running);
        Ok(node)
    }

    /// Runs Raft on the disk, and lets peers in.
    async fn run(
        config: ConsensusConfig,
        env: ConsensusEnv,
        identity: Identity,
        incarnation: Incarnation,
        disk: Disk,
    ) -> Result<Arc<Inner>, StartError> {
        let raft_config = Arc::new(config.tuning.raft_config()?);
        let Disk { database, log, snapshots, .. } = disk;
        let closed = database.watch_closed();
        let outcomes = OutcomeBoard::default();
        let state =
            StateMachine::open(database, Arc::clone(&snapshots), outcomes.clone()).map_err(StartError::Storage)?;
        let images = state.watch();
        let addresses = AddressBook::new(config.peer_addresses());
        let heard = Arc::new(LastHeard::default());
        let network = Network {
            transport: Arc::clone(&env.transport),
            cluster: identity.cluster_id,
            me: identity.raft_id,
            addresses: addresses.clone(),
            heard: Arc::clone(&heard),
        };
        let raft = Raft::new(identity.raft_id, raft_config, network, log, state)
            .await
            .map_err(|e| StartError::Stopped(e.to_string()))?;
        let peers = PeerService { raft: raft.clone(), identity, snapshots, images: images.clone(), heard };
        let inner = Arc::new(Inner {
            raft,
            identity,
            config,
            incarnation,
            images,
            peers,
            door: env.door,
            transport: env.transport,
            addresses,
            outcomes,
            office: Mutex::default(),
            requested: Mutex::default(),
            disconnected: Mutex::default(),
            silent: Mutex::default(),
            hint: Notify::new(),
            began: Instant::now(),
            closed,
            ended: watch::Sender::new(None),
        });
        inner.door.attach(&inner);
        Ok(inner)
    }

    /// A cluster of one: its only voter need not wait for a leader that cannot be there.
    async fn begin_alone(&self) -> Result<(), StartError> {
        let config = &self.inner.config;
        let (host, port) = (config.advertised.host.clone(), config.advertised.port);
        let node = RaftNode { broker: config.broker_id, host, port };
        self.initialize(BTreeMap::from([(self.inner.identity.raft_id, node)])).await?;
        self.inner.door.stand(Standing::Member(self.inner.identity.cluster_id));
        if !self.is_only_voter().await? {
            return Err(StartError::PeersMissing);
        }
        let patience = config.tuning.recovery;
        let elected = async {
            self.elect_alone().await?;
            self.recovered().await
        };
        timeout(patience, elected).await.map_err(|_| StartError::NotRecovered(patience))?
    }

    async fn begin_with(&self, neighbours: &Neighbours) -> Result<(), StartError> {
        let identity = self.inner.identity;
        let initialized = self.is_initialized().await?;
        let founds = neighbours.is_first_founder() && identity.raft_id < RaftId::JOINED_MIN;
        if !initialized && founds {
            neighbours.gather(&identity).await?;
            self.initialize(neighbours.voters()).await?;
        }
        if initialized && self.is_only_voter().await? {
            self.elect_alone().await?;
        }
        tokio::select! {
            biased;
            recovered = self.recovered() => recovered,
            problem = neighbours.watch_quorum(&identity) => Err(problem),
        }
    }

    /// Waits until this node's state is at least as new as any it has shown before, and the cluster has its identity.
    async fn recovered(&self) -> Result<(), StartError> {
        self.inner.raft.wait_for_recovery(None).await.map_err(|e| StartError::Stopped(e.to_string()))?;
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
            // The first founder's disk drew the id; any founder may bring it in, all with the same one.
            match self.propose(Command::FoundCluster { cluster_id: directory }).await {
                Err(ProposeError::Unknown(UnknownOutcome::Stopped(reason))) => return Err(StartError::Stopped(reason)),
                Ok(_) | Err(ProposeError::NotApplied(_) | ProposeError::Unknown(_)) => {}
                Err(e @ ProposeError::Refused(_)) => return Err(StartError::Founding(e)),
            }
        }
    }

    async fn is_initialized(&self) -> Result<bool, StartError> {
        self.inner.raft.is_initialized().await.map_err(|e| StartError::Stopped(e.to_string()))
    }

    async fn initialize(&self, founders: BTreeMap<RaftId, RaftNode>) -> Result<(), StartError> {
        if self.is_initialized().await? {
            return Ok(());
        }
        match self.inner.raft.initialize(founders).await {
            Ok(()) => Ok(()),
            // A peer that was quicker has brought its log here in between.
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotInMembers(e))) => Err(StartError::NotAFounder(e.node_id)),
            Err(RaftError::Fatal(e)) => Err(StartError::Stopped(e.to_string())),
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

    async fn elect_alone(&self) -> Result<(), StartError> {
        self.inner.raft.trigger().elect(false).await.map_err(|e| StartError::Stopped(e.to_string()))?;
        let me = self.inner.identity.raft_id;
        let mut metrics = self.inner.raft.metrics();
        while metrics.borrow_watched().current_leader != Some(me) {
            metrics.changed().await.map_err(|e| StartError::Stopped(e.to_string()))?;
        }
        Ok(())
    }
}

/// The identity of a disk whose broker has no peers.
async fn settle_alone(
    config: &ConsensusConfig,
    disk: &Disk,
    content: Content,
    env: &mut ConsensusEnv,
) -> Result<Identity, StartError> {
    let check = |identity: &Identity| identity.check(&disk.path, config.broker_id, config.expected_cluster, None);
    match content {
        Content::Formatted(identity) => {
            check(&identity)?;
            Ok(identity)
        }
        Content::Formatting(identity) => {
            check(&identity)?;
            disk.format(identity).await?;
            Ok(identity)
        }
        Content::Joining(_) => Err(StartError::PeersMissing),
        Content::Empty => {
            let drawn = || ClusterId::from_bytes((env.random)());
            let identity = Identity {
                cluster_id: config.expected_cluster.unwrap_or_else(drawn),
                broker_id: config.broker_id,
                raft_id: RaftId::FOUNDER,
                directory_id: DirectoryId::from_bytes((env.random)()),
            };
            disk.format(identity).await?;
            Ok(identity)
        }
    }
}
