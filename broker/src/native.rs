//! The native protocol's door: frames to service calls and back. No rule lives here.

mod assignment;
pub(crate) mod call;
mod cluster;
mod dispatch;
mod fetch;
mod offsets;
mod produce;
mod session;
mod strays;
mod subscribe;
mod topics;

use std::sync::Arc;

use crate::metrics::BrokerMetrics;
use crate::net::door::{Door, FrameHandler, Opened};
use crate::net::limits::NetLimits;
use crate::service::Services;

/// The release that handshakes and registrations name.
pub const SOFTWARE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What every native connection of a listener shares.
#[derive(Debug)]
pub struct NativeDoor {
    services: Arc<Services>,
    metrics: Arc<BrokerMetrics>,
    limits: NetLimits,
}

impl NativeDoor {
    /// A door to `services` for connections within `limits`.
    pub fn new(services: Arc<Services>, metrics: Arc<BrokerMetrics>, limits: NetLimits) -> Self {
        Self { services, metrics, limits }
    }

    pub(crate) fn services(&self) -> &Arc<Services> {
        &self.services
    }

    pub(crate) fn limits(&self) -> &NetLimits {
        &self.limits
    }
}

impl Door for NativeDoor {
    fn metrics(&self) -> &Arc<BrokerMetrics> {
        &self.metrics
    }

    fn is_for_clients(&self) -> bool {
        true
    }

    fn open(self: Arc<Self>, connection: Opened) -> Box<dyn FrameHandler> {
        Box::new(session::Session::new(self, connection))
    }
}
