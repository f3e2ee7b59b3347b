//! The operator of a run: takes a broker out of the cluster for good, as `streambus cluster decommission` does.

use std::time::Duration;

use streambus_client::ErrorCode;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::load::LoadHost;

/// How often the operator asks.
const PAUSE: Duration = Duration::from_millis(500);
/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(5);

impl LoadHost {
    /// Waits for the name of a broker, drains it until it holds nothing, says so, and then has it forgotten, which takes that
    /// its process is gone.
    pub(crate) async fn operate(self, mut orders: watch::Receiver<Option<u32>>) -> turmoil::Result {
        let leaving = *orders.wait_for(Option::is_some).await?;
        let Some(leaving) = leaving else { return Err("an order without a broker".into()) };
        let bus = self.connect().await;
        let mut pause = interval(PAUSE);
        pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pause.tick().await;
            match bus.admin().drain_broker(leaving, true).timeout(LIMIT).await {
                Ok(left) if left.replicas_left == 0 => break,
                Ok(left) => self.trace.line(&self.network.me, &format!("broker {leaving} is being drained: {left:?}")),
                Err(error) => self.trace.line(&self.network.me, &format!("cannot drain broker {leaving}: {error}")),
            }
        }
        self.progress.lock().is_drained = true;
        loop {
            pause.tick().await;
            match bus.admin().remove_broker(leaving).timeout(LIMIT).await {
                Ok(()) => break,
                // An attempt whose outcome was unknown did it.
                Err(error) if error.code() == Some(ErrorCode::UnknownBroker) => break,
                Err(error) => self.trace.line(&self.network.me, &format!("cannot remove broker {leaving}: {error}")),
            }
        }
        self.progress.lock().is_removed = true;
        std::future::pending().await
    }
}
