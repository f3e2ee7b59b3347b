//! The composition root: the only place that creates the parts of a broker, wires them and starts their tasks.
//!
//! Start, in this order; stop in the opposite one:
//!
//! 1. listeners are bound (not yet served): the ports are known and taken
//! 2. HTTP serves probes and metrics; with peers, the cluster listener serves hellos
//! 3. the store opens and recovers
//! 4. the metadata node starts and catches up: with peers, when most of them are there
//! 5. the broker registers; partitions are reconciled with the metadata and follow it
//! 6. with peers, heartbeats tell the controller, which lets the broker into service
//! 7. background tasks run: retention, scrub, compaction, health of the store
//! 8. the client listener accepts, the broker is ready
//!
//! A broker with peers first hands over what it leads, while it still serves clients; then the opposite order begins.
//!
//! Every task runs on one of two trackers and ends by one of three tokens; nothing is spawned elsewhere.

mod join;
mod peers;
mod running;
mod scrape;
mod start;
mod store_source;

pub use crate::error::{StartError, StopError};
pub use running::RunningServer;
pub use store_source::StoreSource;

use std::sync::Arc;

use streambus_consensus::database::DatabaseSource;
use streambus_storage::clock::{Clock, SystemClock};

use crate::config::BrokerConfig;
use crate::net::limits::NetLimits;
use crate::net::network::{Network, TcpNetwork};
use crate::random::Random;

/// What a broker is given besides its configuration: everything that would make a run differ from its repetition.
#[derive(Clone, Debug)]
pub struct BrokerEnv {
    /// Record times, retention, durations for metrics.
    pub clock: Arc<dyn Clock>,
    /// Identities and placement.
    pub random: Arc<Random>,
    /// Where it listens and what it connects through.
    pub network: Arc<dyn Network>,
    /// Where the records are kept.
    pub store: StoreSource,
    /// Where the cluster metadata is kept.
    pub metadata: DatabaseSource,
}

impl BrokerEnv {
    /// The machine's clock, randomness, network and disk.
    pub fn system() -> Self {
        Self {
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(Random::from_os()),
            network: Arc::new(TcpNetwork),
            store: StoreSource::directory(),
            metadata: DatabaseSource::Directory,
        }
    }
}

/// Starts brokers. Several may run in one process, each with its own ports and data directory.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Starts a broker and returns when it serves. Port 0 takes any free port. Dropping the future half way leaves
    /// what a crash would leave: the next start recovers.
    ///
    /// # Errors
    /// See [`StartError`]; everything that was started is stopped again.
    pub async fn start(config: BrokerConfig, env: BrokerEnv) -> Result<RunningServer, StartError> {
        start::start(config, env).await
    }
}

/// The listener's limits, as configured.
fn net_limits(config: &BrokerConfig) -> NetLimits {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let limits = &config.limits;
    NetLimits {
        connections_max: count(limits.connections),
        connections_per_ip_max: count(limits.connections_per_ip),
        handshake_timeout: limits.handshake_timeout,
        idle_timeout: limits.idle_timeout,
        progress_grace: limits.slow_client_grace,
        progress_bytes_per_second: limits.slow_client_rate,
        connection_request_bytes_max: size(limits.connection_inflight_bytes),
        request_bytes_max: size(limits.inflight_bytes),
        ..NetLimits::default()
    }
}
