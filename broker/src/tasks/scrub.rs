//! Reads stored bytes again at low priority and checks them: damage is found before somebody needs the record.

use std::time::Duration;

use streambus_consensus::blocking;
use streambus_storage::store::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::pace;
use crate::config::live::LiveSettings;

/// Checks at the rate of `live` until `stop`; zero switches it off.
pub(crate) async fn run(store: Store, mut live: watch::Receiver<LiveSettings>, stop: CancellationToken) {
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // A new rate need not wait for what the old one asked for.
            Ok(()) = live.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
        let rate = live.borrow_and_update().scrub_rate;
        pause = pace::pause(0, rate);
        if rate == 0 {
            continue;
        }
        let store = store.clone();
        match blocking::spawn(move || store.scrub_step(pace::share(rate))).await {
            Ok(Ok(outcome)) => {
                tracing::trace!(?outcome, "scrubbed");
                // What is small is seen once a second, not once a step.
                if !outcome.pass_finished {
                    pause = pace::pause(outcome.bytes, rate);
                }
            }
            Ok(Err(error)) => tracing::error!(%error, "stored bytes could not be checked"),
            Err(error) => {
                tracing::error!(%error, "the scrub stopped: it panicked");
                return;
            }
        }
    }
}
