//! Moves log starts forward: by age, by size.

use std::sync::Arc;
use std::time::Duration;

use streambus_consensus::blocking;
use streambus_storage::clock::Clock;
use streambus_storage::store::Store;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Applies retention every `interval` until `stop`.
pub(crate) async fn run(store: Store, clock: Arc<dyn Clock>, interval: Duration, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let (store, now) = (store.clone(), clock.now());
        match blocking::spawn(move || store.apply_retention(now)).await {
            Ok(outcome) => tracing::debug!(?outcome, "applied retention"),
            Err(error) => {
                tracing::error!(%error, "retention stopped: it panicked");
                return;
            }
        }
    }
}
