//! The operator of a run: changes a setting of the topic again and again, and takes a broker out of the cluster for good, as
//! `streambus cluster decommission` does.

use std::time::Duration;

use futures::future::join;
use streambus_client::{Client, ErrorCode};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::load::{LoadHost, Phase, TOPIC};

/// How often the operator asks.
const PAUSE: Duration = Duration::from_millis(500);
/// How often a setting is changed.
const CHANGE_EVERY: Duration = Duration::from_millis(150);
/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(5);

impl LoadHost {
    /// Changes the setting for as long as there is load, and takes the broker out that it is told.
    pub(crate) async fn operate(self, orders: watch::Receiver<Option<u32>>) -> turmoil::Result {
        let bus = self.connect().await;
        let ((), replaced) = join(self.keep_changing(&bus), self.replace(&bus, orders)).await;
        replaced?;
        std::future::pending().await
    }

    /// Changes what makes no difference to this topic, so that the metadata does not stand still.
    async fn keep_changing(&self, bus: &Client) {
        self.created().await;
        let mut pause = interval(CHANGE_EVERY);
        pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut value = 86_400_000_u64;
        while !self.has_phase(Phase::Drain) {
            pause.tick().await;
            value += 1;
            let setting = [("delete.retention.ms".to_owned(), value.to_string())];
            if let Err(error) = bus.admin().alter_topic(TOPIC, setting, []).timeout(LIMIT).await {
                self.trace.line(&self.network.me, &format!("cannot change a setting: {error}"));
            }
        }
    }

    /// Waits for the name of a broker, drains it until it holds nothing, says so, and then has it forgotten, which takes that
    /// its process is gone.
    async fn replace(&self, bus: &Client, mut orders: watch::Receiver<Option<u32>>) -> turmoil::Result {
        let leaving = *orders.wait_for(Option::is_some).await?;
        let Some(leaving) = leaving else { return Err("an order without a broker".into()) };
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
        Ok(())
    }
}
