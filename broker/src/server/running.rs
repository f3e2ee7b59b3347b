//! A broker that serves, and its orderly end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use streambus_consensus::blocking;
use streambus_consensus::node::MetadataNode;
use streambus_storage::store::Store;
use tokio_util::task::TaskTracker;

use super::StopError;
use super::join::Place;
use super::peers::Peers;
use super::start::Tokens;
use crate::clock::Deadline;
use crate::config::BrokerConfig;
use crate::config::live::{LiveConfig, Reloaded};
use crate::error::Addresses;
use crate::lifecycle::{Lifecycle, State};
use crate::metrics::BrokerMetrics;
use crate::net::admission::Admission;

/// A running broker. Dropping it without [`RunningServer::drain_and_stop`] ends its tasks as a crash would.
#[derive(Debug)]
#[must_use = "a dropped server stops as if it had crashed"]
pub struct RunningServer {
    running: Option<Running>,
    lifecycle: Lifecycle,
    addresses: Addresses,
}

/// Everything that must be stopped, in the order of starting.
pub(super) struct Running {
    pub(super) addresses: Addresses,
    pub(super) live: LiveConfig,
    pub(super) lifecycle: Lifecycle,
    pub(super) metrics: Arc<BrokerMetrics>,
    pub(super) admission: Arc<Admission>,
    pub(super) store: Store,
    pub(super) metadata: MetadataNode,
    pub(super) tokens: Tokens,
    pub(super) clients: TaskTracker,
    pub(super) background: TaskTracker,
    /// None for a broker on its own.
    pub(super) peers: Option<Peers>,
    pub(super) place: Option<Place>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl RunningServer {
    pub(super) fn new(running: Running) -> Self {
        Self { lifecycle: running.lifecycle.clone(), addresses: running.addresses, running: Some(running) }
    }

    /// Where clients connect.
    pub fn client_address(&self) -> SocketAddr {
        self.addresses.client
    }

    /// Where other brokers connect; none for a broker on its own.
    pub fn cluster_address(&self) -> Option<SocketAddr> {
        self.addresses.cluster
    }

    /// Where probes, metrics and the REST API are.
    pub fn http_address(&self) -> SocketAddr {
        self.addresses.http
    }

    /// The broker's state and problems.
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// The broker's metrics.
    pub fn metrics(&self) -> Option<&Arc<BrokerMetrics>> {
        self.running.as_ref().map(|running| &running.metrics)
    }

    /// The broker's part in the cluster's metadata, while it runs.
    pub fn metadata(&self) -> Option<&MetadataNode> {
        self.running.as_ref().map(|running| &running.metadata)
    }

    /// Client connections open now.
    pub fn connections(&self) -> usize {
        self.running.as_ref().map_or(0, |running| running.admission.connections())
    }

    /// Bytes of client requests that are not answered yet.
    pub fn request_bytes_in_flight(&self) -> usize {
        self.running.as_ref().map_or(0, |running| running.admission.request_bytes_in_flight())
    }

    /// Takes over those settings of `config` that change in a running broker, and tells which they are and which wait for the
    /// next start. The level of the log is not among what it acts on: that belongs to the process
    /// ([`crate::telemetry::TelemetryGuard`]).
    pub fn reload(&self, config: BrokerConfig) -> Reloaded {
        self.running.as_ref().map(|running| running.live.reload(config)).unwrap_or_default()
    }

    /// Waits until the broker is ready, or cannot become so any more.
    ///
    /// # Errors
    /// The state that cannot lead to Ready.
    pub async fn ready(&self) -> Result<(), State> {
        self.lifecycle.ready().await
    }

    /// Waits until the broker has stopped or failed, and says which. A failed broker still has to be stopped.
    pub async fn stopped(&self) -> State {
        let mut states = self.lifecycle.watch();
        let ended = states.wait_for(|state| !state.is_running()).await.map(|state| state.clone());
        // The sender lives as long as `self`.
        ended.unwrap_or_else(|_| self.lifecycle.get())
    }

    /// Hands over to other brokers, stops accepting, answers what is in flight for at most `grace`, cuts what is left,
    /// and closes everything.
    ///
    /// # Errors
    /// The first thing that was not orderly. The broker is stopped whatever is returned.
    pub async fn drain_and_stop(mut self, grace: Duration) -> Result<(), StopError> {
        match self.running.take() {
            Some(running) => running.stop(grace).await,
            None => Ok(()),
        }
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.tokens.draining.cancel();
            running.tokens.abort.cancel();
            running.tokens.stop.cancel();
        }
    }
}

impl Running {
    async fn stop(self, grace: Duration) -> Result<(), StopError> {
        let Self {
            addresses: _,
            live: _obeyed_to_the_end,
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
        } = self;
        let _not_if_failed = lifecycle.set(State::Draining);
        if let Some(place) = place {
            place.leave(&metadata, grace).await;
        }
        tokens.draining.cancel();
        clients.close();
        let mut first_problem = None;
        if Deadline::after(grace).limit(clients.wait()).await.is_none() {
            let connections = admission.connections();
            tracing::warn!(connections, "cutting off clients that are still there after the grace period");
            first_problem = Some(StopError::CutOff { connections });
            tokens.abort.cancel();
            clients.wait().await;
        }
        tokens.stop.cancel();
        background.close();
        background.wait().await;
        metadata.shutdown().await;
        // Nobody waits for what it wrote last, so that nobody else would say that it was not written.
        if let Some(reason) = metadata.failure() {
            first_problem = first_problem.or(Some(StopError::Metadata(reason)));
        }
        if let Some(peers) = peers {
            peers.close().await;
        }
        // What the scrapes ask holds the store and the metadata: both must be gone before their files can be reopened.
        drop((metadata, metrics, admission));
        let closed = blocking::spawn(move || store.close()).await;
        match closed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => first_problem = first_problem.or(Some(StopError::Store(error))),
            Err(_) => first_problem = first_problem.or(Some(StopError::Interrupted("the store was closed"))),
        }
        let _not_if_failed = lifecycle.set(State::Stopped);
        tracing::info!("stopped");
        first_problem.map_or(Ok(()), Err)
    }
}
