//! Reads stored bytes again at low priority and checks them: damage is found before somebody needs the record.

use std::time::Duration;

use streambus_consensus::blocking;
use streambus_storage::store::Store;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::config::live::LiveSettings;

const STEP: Duration = Duration::from_secs(1);

/// Checks at the rate of `live` until `stop`; zero switches it off.
pub(crate) async fn run(store: Store, live: watch::Receiver<LiveSettings>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let bytes_per_second = live.borrow().scrub_rate;
        if bytes_per_second == 0 {
            continue;
        }
        let store = store.clone();
        match blocking::spawn(move || store.scrub_step(bytes_per_second)).await {
            Ok(Ok(outcome)) => tracing::trace!(?outcome, "scrubbed"),
            Ok(Err(error)) => tracing::error!(%error, "stored bytes could not be checked"),
            Err(error) => {
                tracing::error!(%error, "the scrub stopped: it panicked");
                return;
            }
        }
    }
}
