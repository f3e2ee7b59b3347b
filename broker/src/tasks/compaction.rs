//! Copies live batches out of segments of which little lives, at a bounded rate, so that their space comes back.

use std::sync::Arc;
use std::time::Duration;

use streambus_consensus::blocking;
use streambus_storage::clock::Clock;
use streambus_storage::store::Store;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

const STEP: Duration = Duration::from_secs(1);

/// Copies up to `bytes_per_second` until `stop`; zero switches it off.
pub(crate) async fn run(store: Store, clock: Arc<dyn Clock>, bytes_per_second: u64, stop: CancellationToken) {
    if bytes_per_second == 0 {
        return;
    }
    let mut ticks = tokio::time::interval(STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let (store, now) = (store.clone(), clock.now());
        match blocking::spawn(move || store.compact_step(now, bytes_per_second)).await {
            Ok(outcome) => tracing::trace!(?outcome, "compacted"),
            Err(error) => {
                tracing::error!(%error, "compaction stopped: it panicked");
                return;
            }
        }
    }
}
