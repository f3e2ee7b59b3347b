//! Keeps the last record of each key where a topic asks for it, and copies live batches out of segments of which little
//! lives, so that their space comes back. Each at a bounded rate.

use std::sync::Arc;
use std::time::Duration;

use streambus_consensus::blocking;
use streambus_storage::clock::Clock;
use streambus_storage::store::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::pace;
use crate::config::live::LiveSettings;

/// Reads, for each of both, at the rate of `live` until `stop`; zero switches it off.
pub(crate) async fn run(
    store: Store,
    clock: Arc<dyn Clock>,
    mut live: watch::Receiver<LiveSettings>,
    stop: CancellationToken,
) {
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // A new rate need not wait for what the old one asked for.
            Ok(()) = live.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
        let rate = live.borrow_and_update().compaction_rate;
        pause = pace::pause(0, rate);
        if rate == 0 {
            continue;
        }
        let (store, now) = (store.clone(), clock.now());
        match blocking::spawn(move || {
            let cleaned = store.clean_step(now, pace::share(rate));
            (cleaned, store.compact_step(now, pace::share(rate)))
        })
        .await
        {
            Ok((cleaned, compacted)) => {
                tracing::trace!(?cleaned, ?compacted, "compacted");
                pause = pace::pause(cleaned.read_bytes.max(compacted.copied_bytes), rate);
            }
            Err(error) => {
                tracing::error!(%error, "compaction stopped: it panicked");
                return;
            }
        }
    }
}
