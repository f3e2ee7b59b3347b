//! Moves log starts forward: by age, by size.

use std::sync::Arc;

use streambus_consensus::blocking;
use streambus_storage::clock::Clock;
use streambus_storage::store::Store;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::live::LiveSettings;

/// Applies retention at once and then at the interval of `live`, counted from the last run, until `stop`.
pub(crate) async fn run(
    store: Store,
    clock: Arc<dyn Clock>,
    mut live: watch::Receiver<LiveSettings>,
    stop: CancellationToken,
) {
    loop {
        let (applied, now, retained) = (Instant::now(), clock.now(), store.clone());
        match blocking::spawn(move || retained.apply_retention(now)).await {
            Ok(outcome) => tracing::debug!(?outcome, "applied retention"),
            Err(error) => {
                tracing::error!(%error, "retention stopped: it panicked");
                return;
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = due(&mut live, applied) => {}
        }
    }
}

/// Waits until the next run is due, by the interval as it is then.
async fn due(live: &mut watch::Receiver<LiveSettings>, applied: Instant) {
    loop {
        let next = applied + live.borrow_and_update().retention_interval;
        tokio::select! {
            () = tokio::time::sleep_until(next) => return,
            Ok(()) = live.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use futures::FutureExt as _;

    use super::*;
    use crate::config::BrokerConfig;
    use crate::config::live::LiveConfig;

    /// Catches an interval that is read once: after a day was configured by mistake, nothing but a restart would end the day.
    #[tokio::test]
    async fn a_shorter_interval_ends_the_wait_of_a_longer_one() {
        let mut config = BrokerConfig::default();
        config.storage.retention_interval = Duration::from_secs(24 * 60 * 60);
        let live = LiveConfig::new(config.clone());
        let mut watched = live.watch();
        let mut waiting = pin!(due(&mut watched, Instant::now()));
        assert!(waiting.as_mut().now_or_never().is_none(), "a day is not over");
        config.storage.retention_interval = Duration::from_millis(1);
        live.reload(config);
        let ended = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        ended.expect("it waits for the day to end");
    }
}
