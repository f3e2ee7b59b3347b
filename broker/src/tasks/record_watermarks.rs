//! Writes down what is committed, so that a later start of this broker knows a lower bound of it.

use std::time::Duration;

use streambus_consensus::blocking;
use streambus_storage::store::Store;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// A start knows at least what was committed so long before the end. A partition that moved costs one small entry.
const INTERVAL: Duration = Duration::from_secs(5);

/// Records from time to time until `stop`; closing the store records the rest.
pub(crate) async fn run(store: Store, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let store = store.clone();
        match blocking::spawn(move || store.record_committed()).await {
            Ok(Ok(recorded)) => tracing::trace!(recorded, "recorded what is committed"),
            // Health says why the store takes nothing; what is known on disk only gets older.
            Ok(Err(error)) => tracing::debug!(%error, "what is committed could not be recorded"),
            Err(error) => {
                tracing::error!(%error, "recording what is committed stopped: it panicked");
                return;
            }
        }
    }
}
