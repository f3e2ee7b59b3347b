//! This broker's registration, known once the controller has it: fetches and proposals name it (KIP-903).

use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::BrokerId;
use tokio::sync::watch;

/// Who this broker is now. Clones share it.
#[derive(Clone, Debug)]
pub struct Registration {
    broker: BrokerId,
    epoch: watch::Sender<Option<BrokerEpoch>>,
}

impl Registration {
    /// Broker `broker`, not registered yet.
    pub fn new(broker: BrokerId) -> Self {
        Self { broker, epoch: watch::Sender::new(None) }
    }

    /// The broker.
    pub fn broker(&self) -> BrokerId {
        self.broker
    }

    /// Its registration, if it has one.
    pub fn epoch(&self) -> Option<BrokerEpoch> {
        *self.epoch.borrow()
    }

    /// The controller registered this broker under `epoch`.
    pub fn set(&self, epoch: BrokerEpoch) {
        self.epoch.send_replace(Some(epoch));
    }

    /// Waits until it is registered.
    pub async fn registered(&self) -> BrokerEpoch {
        let mut epochs = self.epoch.subscribe();
        loop {
            if let Some(epoch) = *epochs.borrow_and_update() {
                return epoch;
            }
            if epochs.changed().await.is_err() {
                // The sender is `self`.
                std::future::pending::<()>().await;
            }
        }
    }
}
