//! Keeps the last record of each key where a topic asks for it, and copies live batches out of segments of which little
//! lives, so that their space comes back. Each at a bounded rate.

use std::sync::Arc;
use std::time::Duration;

use streambus_consensus::blocking;
use streambus_storage::clock::Clock;
use streambus_storage::store::Store;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::config::live::LiveSettings;

const STEP: Duration = Duration::from_secs(1);

/// Reads, for each of both, at the rate of `live` until `stop`; zero switches it off.
pub(crate) async fn run(
    store: Store,
    clock: Arc<dyn Clock>,
    live: watch::Receiver<LiveSettings>,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let bytes_per_second = live.borrow().compaction_rate;
        if bytes_per_second == 0 {
            continue;
        }
        let (store, now) = (store.clone(), clock.now());
        match blocking::spawn(move || {
            let cleaned = store.clean_step(now, bytes_per_second);
            (cleaned, store.compact_step(now, bytes_per_second))
        })
        .await
        {
            Ok((cleaned, compacted)) => tracing::trace!(?cleaned, ?compacted, "compacted"),
            Err(error) => {
                tracing::error!(%error, "compaction stopped: it panicked");
                return;
            }
        }
    }
}
