//! Starting: each part once the ones it needs are there.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use streambus_consensus::blocking;
use streambus_consensus::config::{ConsensusConfig, Tuning};
use streambus_consensus::node::{ConsensusEnv, MetadataNode};
use streambus_consensus::round_trip::RoundTrip;
use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_storage::store::Store;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::join::{Joined, Place};
use super::peers::Peers;
use super::{BrokerEnv, RunningServer, StartError, net_limits, scrape};
use crate::cluster::contact::Contact;
use crate::config::BrokerConfig;
use crate::config::address::HostPort;
use crate::config::live::LiveConfig;
use crate::error::Addresses;
use crate::http::{self, HttpState};
use crate::lifecycle::{Component, Lifecycle, State};
use crate::metrics::BrokerMetrics;
use crate::native::{NativeDoor, SOFTWARE_VERSION};
use crate::net::admission::Admission;
use crate::net::connection::ConnectionContext;
use crate::net::listener;
use crate::net::network::{Listener, Network};
use crate::partition::discard::StrayDesk;
use crate::partition::registry::Registry;
use crate::service::Services;
use crate::service::assignment::AssignmentService;
use crate::service::cluster::ClusterService;
use crate::service::directory::Directory;
use crate::service::fetch::FetchService;
use crate::service::leader_states::LeaderStates;
use crate::service::offsets::OffsetService;
use crate::service::produce::ProduceService;
use crate::service::producer_ids::ProducerIdService;
use crate::service::reader::ReadBudget;
use crate::service::strays::StrayService;
use crate::service::subscribe::SubscribeService;
use crate::service::topics::{TopicDefaults, TopicService};
use crate::tasks::{compaction, record_watermarks, retention, scrub, watch_metadata, watch_storage};

/// Record bytes of one answer, one batch apart: with the largest batch on top it still fits the largest frame.
const FETCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes that reads from disk may hold, for all connections.
const READ_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The tokens that end the parts, each before the one below it.
#[derive(Clone, Debug, Default)]
pub(super) struct Tokens {
    /// Clients: no new connection, no new request; what is in flight is answered.
    pub(super) draining: CancellationToken,
    /// Clients that are still there after the grace period.
    pub(super) abort: CancellationToken,
    /// Background tasks and HTTP.
    pub(super) stop: CancellationToken,
}

pub(super) async fn start(config: BrokerConfig, env: BrokerEnv) -> Result<RunningServer, StartError> {
    let lifecycle = Lifecycle::new();
    let metrics = Arc::new(BrokerMetrics::new());
    metrics.attach_lifecycle(lifecycle.clone());
    let tokens = Tokens::default();
    let background = TaskTracker::new();

    let (client_listener, client) = bind(&*env.network, &config.client.listen).await?;
    let (http_listener, http_address) = bind(&*env.network, &config.http.listen).await?;
    let cluster = match config.cluster.peers.is_empty() {
        true => None,
        false => Some(bind(&*env.network, &config.cluster.listen).await?),
    };
    let addresses = Addresses { client, cluster: cluster.as_ref().map(|(_, address)| *address), http: http_address };

    let http_state = Arc::new(HttpState::new(
        config.http.clone(),
        lifecycle.clone(),
        Arc::clone(&metrics),
        Arc::clone(&env.clock),
        env.random.next_u64(),
    ));
    background.spawn(http::serve(http_listener, Arc::clone(&http_state), tokens.stop.clone()));

    let peers =
        cluster.map(|(listener, address)| Peers::open(&config, Arc::clone(&env.network), listener, address, &metrics));
    let parts = Parts { config, env, lifecycle, metrics, tokens, background, addresses, http_state, peers };
    match parts.recover(client_listener).await {
        Ok(running) => Ok(running),
        Err((error, parts)) => {
            let _first = parts.lifecycle.set(State::Failed(error.to_string()));
            parts.tokens.stop.cancel();
            parts.background.close();
            parts.background.wait().await;
            if let Some(peers) = parts.peers {
                peers.close().await;
            }
            Err(error)
        }
    }
}

async fn bind(network: &dyn Network, address: &HostPort) -> Result<(Listener, SocketAddr), StartError> {
    let listen = |source: io::Error| StartError::Listen { address: address.to_string(), source };
    let listener = network.bind(&address.host, address.port).await.map_err(listen)?;
    let bound = listener.local_addr().map_err(StartError::LocalAddress)?;
    Ok((listener, bound))
}

/// What is there before recovery.
pub(super) struct Parts {
    pub(super) config: BrokerConfig,
    pub(super) env: BrokerEnv,
    pub(super) lifecycle: Lifecycle,
    pub(super) metrics: Arc<BrokerMetrics>,
    pub(super) tokens: Tokens,
    pub(super) background: TaskTracker,
    addresses: Addresses,
    http_state: Arc<HttpState>,
    /// None for a broker on its own.
    pub(super) peers: Option<Peers>,
}

impl Parts {
    async fn recover(self, client_listener: Listener) -> Result<RunningServer, (StartError, Self)> {
        let _first = self.lifecycle.set(State::Recovering);
        let (store, is_intact) = match self.open_store().await {
            Ok(opened) => opened,
            Err(error) => return Err((error, self)),
        };
        let metadata = match self.start_metadata().await {
            Ok(metadata) => metadata,
            Err(error) => {
                close_quietly(store).await;
                return Err((error, self));
            }
        };
        let registry = Arc::new(Registry::new());
        match self.join(&store, is_intact, &metadata, &registry).await {
            Ok(joined) => Ok(self.serve(client_listener, store, metadata, registry, joined)),
            Err(error) => {
                self.tokens.stop.cancel();
                self.background.close();
                self.background.wait().await;
                metadata.shutdown().await;
                drop(metadata);
                close_quietly(store).await;
                Err((error, self))
            }
        }
    }

    /// The store, and whether recovery found everything that was ever counted as durable.
    async fn open_store(&self) -> Result<(Store, bool), StartError> {
        let directory = self.config.storage.data_dir.clone();
        let store_config = self.config.storage.store_config();
        let (source, clock) = (self.env.store.clone(), Arc::clone(&self.env.clock));
        let opening = blocking::spawn(move || {
            std::fs::create_dir_all(&directory)
                .map_err(|source| StartError::DataDirectory { path: directory.display().to_string(), source })?;
            Ok::<_, StartError>(source.open(&directory, store_config, clock)?)
        });
        let started = self.env.clock.monotonic();
        let (store, report) = opening.await.map_err(|_| StartError::Interrupted("the store was opened"))??;
        let took = self.env.clock.monotonic().saturating_sub(started);
        let journal = &report.journal;
        tracing::info!(
            logs = report.logs,
            replayed_entries = journal.entries,
            replayed_bytes = journal.bytes,
            torn_tail_bytes = journal.torn_tail_bytes,
            damaged_ranges = journal.damaged.len(),
            index_rebuilt = report.index_rebuilt,
            took_ms = took.as_millis(),
            "the store is open"
        );
        let is_intact = report.is_damage_attributed() && store.status().damaged.is_empty();
        Ok((store, is_intact))
    }

    async fn start_metadata(&self) -> Result<MetadataNode, StartError> {
        let advertised = self.config.client.advertised(self.addresses.client.port());
        let rack = Some(self.config.broker.rack.clone()).filter(|rack| !rack.is_empty());
        let endpoint = BrokerEndpoint { id: self.config.broker.id, host: advertised.host, port: advertised.port, rack };
        let mut consensus = ConsensusConfig::alone(self.config.storage.data_dir.clone(), endpoint);
        consensus.version = SOFTWARE_VERSION.to_owned();
        let cluster = &self.config.cluster;
        consensus.tuning = Tuning::within(RoundTrip::of_up_to(cluster.round_trip_max));
        consensus.tuning.session = cluster.session_timeout;
        consensus.tuning.snapshot_entries = u64::from(cluster.metadata_snapshot_changes);
        consensus.tuning.kept_entries = u64::from(cluster.metadata_kept_changes);
        let random = Arc::clone(&self.env.random);
        let draw = move || random.next_id();
        let metadata = match &self.peers {
            None => {
                let alone = ConsensusEnv::alone(self.config.broker.id, draw);
                let env = ConsensusEnv { database: self.env.metadata.clone(), ..alone };
                MetadataNode::start(consensus, env).await?
            }
            Some(peers) => {
                consensus.bootstrap = peers.bootstrap();
                let env = ConsensusEnv {
                    random: Box::new(draw),
                    transport: peers.transport(),
                    door: peers.metadata.clone(),
                    database: self.env.metadata.clone(),
                    before_sync: None,
                };
                let metadata = tokio::select! {
                    biased;
                    started = MetadataNode::start(consensus, env) => started?,
                    never = peers.report_progress(&self.lifecycle) => match never {},
                };
                self.lifecycle.clear(Component::Cluster);
                let identity = metadata.identity();
                peers.local.joined(identity.cluster_id, identity.raft_id.get());
                let (node, stop) = (metadata.clone(), self.tokens.stop.clone());
                self.background.spawn(async move {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => {}
                        () = node.control_loop() => {}
                    }
                });
                metadata
            }
        };
        Ok(metadata)
    }

    fn serve(
        self,
        client_listener: Listener,
        store: Store,
        metadata: MetadataNode,
        registry: Arc<Registry>,
        Joined { place, strays }: Joined,
    ) -> RunningServer {
        let Self { config, env, lifecycle, metrics, tokens, background, addresses, http_state, peers } = self;
        let contact = place.as_ref().map_or_else(Contact::alone, Place::contact);
        let disks = place.as_ref().map(Place::disks).unwrap_or_default();
        let clock = Arc::clone(&env.clock);
        let directory = Directory::new(config.broker.id, metadata.clone(), registry, contact, disks, clock);
        let leaders = peers.as_ref().map(|peers| LeaderStates::new(config.broker.id, peers.pool.clone()));
        let services = services(&config, leaders, &env, (&directory, strays), &store, &lifecycle, &metrics);
        let limits = net_limits(&config);
        let admission = Admission::new(limits);
        scrape::attach(&metrics, &admission, &store, &directory);

        let clients = TaskTracker::new();
        let context = Arc::new(ConnectionContext {
            admission: Arc::clone(&admission),
            door: Arc::new(NativeDoor::new(Arc::clone(&services), Arc::clone(&metrics), limits)),
            draining: tokens.draining.clone(),
        });
        let stop = || tokens.stop.clone();
        let live = LiveConfig::new(config);
        background.spawn(watch_metadata::run(metadata.clone(), lifecycle.clone(), stop()));
        background.spawn(watch_storage::run(store.clone(), lifecycle.clone(), stop()));
        background.spawn(retention::run(store.clone(), Arc::clone(&env.clock), live.watch(), stop()));
        background.spawn(scrub::run(store.clone(), live.watch(), stop()));
        background.spawn(compaction::run(store.clone(), Arc::clone(&env.clock), live.watch(), stop()));
        background.spawn(record_watermarks::run(store.clone(), stop()));

        http_state.attach_services(services);
        clients.spawn(listener::accept_loop(client_listener, context, clients.clone(), tokens.abort.clone()));
        let _not_if_stopped = lifecycle.set(State::Ready);
        tracing::info!(client = %addresses.client, cluster = ?addresses.cluster, http = %addresses.http, "ready");
        RunningServer::new(super::running::Running {
            addresses,
            live,
            lifecycle,
            metrics,
            admission,
            store,
            metadata,
            tokens,
            clients,
            background,
            peers,
            place,
        })
    }
}

fn services(
    config: &BrokerConfig,
    leaders: Option<LeaderStates>,
    env: &BrokerEnv,
    (directory, strays): (&Directory, StrayDesk),
    store: &Store,
    lifecycle: &Lifecycle,
    metrics: &Arc<BrokerMetrics>,
) -> Arc<Services> {
    let defaults = TopicDefaults::of_cluster(config.cluster.peers.len());
    let budget = ReadBudget::new(READ_BYTES_MAX);
    let random = Arc::clone(&env.random);
    let clock = Arc::clone(&env.clock);
    Arc::new(Services {
        topics: TopicService::new(directory.clone(), Arc::clone(&clock), random, defaults, leaders.clone()),
        produce: ProduceService::new(directory.clone(), clock, Arc::clone(metrics)),
        producer_ids: ProducerIdService::new(directory.clone()),
        fetch: FetchService::new(directory.clone(), budget.clone(), FETCH_BYTES_MAX, Arc::clone(metrics)),
        subscribe: SubscribeService::new(directory.clone(), budget, Arc::clone(metrics)),
        offsets: OffsetService::new(directory.clone()),
        assignment: AssignmentService::new(directory.clone(), leaders),
        cluster: ClusterService::new(directory.clone(), store.clone(), lifecycle.clone()),
        strays: StrayService::new(directory.clone(), strays),
    })
}

async fn close_quietly(store: Store) {
    let closed = blocking::spawn(move || store.close()).await;
    if !matches!(closed, Ok(Ok(()))) {
        tracing::warn!(?closed, "the store was not closed cleanly after a failed start");
    }
}
