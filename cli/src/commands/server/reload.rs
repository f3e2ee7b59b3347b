//! Reading the configuration of a running broker again.

use streambus_broker::config::live::Change;
use streambus_broker::server::RunningServer;
use streambus_broker::telemetry::TelemetryGuard;

use super::{Sources, load};

/// Where the configuration came from, to go there again, and the log whose level it sets.
#[derive(Debug)]
pub struct Reloader {
    /// Files, and settings given by key.
    pub sources: Sources,
    /// The flags of the process; they do not change.
    pub flags: Vec<(String, String)>,
    /// The process's log.
    pub telemetry: TelemetryGuard,
}

impl Reloader {
    /// Takes over what can change while the broker runs, and logs what came of it. A mistake changes nothing.
    pub(super) fn reload(&self, server: &RunningServer) {
        let effective = match load(&self.sources, self.flags.clone()) {
            Ok(effective) => effective,
            Err(failure) => {
                tracing::error!(
                    place = failure.place.as_deref(),
                    "the configuration was read again and refused, so nothing changes: {}",
                    failure.what
                );
                return;
            }
        };
        for warning in effective.warnings() {
            tracing::warn!("configuration: {warning}");
        }
        let config = effective.into_config();
        // Before the changes are logged, so that a level that was raised to see them shows them.
        if let Err(error) = self.telemetry.set_level(&config.log.level) {
            tracing::error!(%error, "the log keeps its level");
        }
        let reloaded = server.reload(config);
        for Change { key, from, to } in &reloaded.taken {
            tracing::info!(key, from, to, "setting changed");
        }
        for Change { key, from, to } in &reloaded.waiting {
            tracing::warn!(key, running = from, configured = to, "setting changes at the next start only");
        }
        let (changed, waiting) = (reloaded.taken.len(), reloaded.waiting.len());
        tracing::info!(changed, waiting, "the configuration was read again");
    }
}
