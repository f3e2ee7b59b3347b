//! The HTTP listener: probes, metrics and the REST API, on hyper.
//!
//! Handlers translate: the rules of the product are in `service/*`. Probes and metrics answer from the first moment,
//! also while the broker recovers; the API answers 503 until the services are attached. Every limit is checked before
//! memory is taken: connections, the head of a request, its body, and the bytes of all bodies and pages together.

pub mod problem;

mod api;
mod body;
mod budget;
mod exchange;
mod probe;
mod query;
mod route;
mod server;
mod stall;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use streambus_storage::clock::Clock;

use crate::config::HttpConfig;
use crate::lifecycle::Lifecycle;
use crate::metrics::BrokerMetrics;
use crate::service::Services;
use budget::Budget;

pub use server::serve;

/// What every request may look at.
#[derive(Debug)]
pub struct HttpState {
    config: HttpConfig,
    lifecycle: Lifecycle,
    metrics: Arc<BrokerMetrics>,
    clock: Arc<dyn Clock>,
    budget: Budget,
    /// Makes request ids of one process unlike those of another.
    id_seed: u64,
    requests: AtomicU64,
    services: OnceLock<Arc<Services>>,
}

impl HttpState {
    /// The state of a broker that has no services yet. `id_seed` is any random number.
    pub fn new(
        config: HttpConfig,
        lifecycle: Lifecycle,
        metrics: Arc<BrokerMetrics>,
        clock: Arc<dyn Clock>,
        id_seed: u64,
    ) -> Self {
        let budget = Budget::new(config.inflight_bytes);
        let (requests, services) = (AtomicU64::new(0), OnceLock::new());
        Self { config, lifecycle, metrics, clock, budget, id_seed, requests, services }
    }

    /// From now on the API answers. A second call changes nothing.
    pub fn attach_services(&self, services: Arc<Services>) {
        let _first_wins = self.services.set(services);
    }
}

#[cfg(test)]
mod tests;
