//! Logs that a broker has in quarantine: looked at, and removed one by one.

use streambus_protocol::api::Request;
use streambus_protocol::api::strays::{DiscardStrayRequest, ListStraysRequest, ListStraysResponse, StrayDescription};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::BrokerId;

use super::Admin;
use crate::engine::Effect;
use crate::error::Error;
use crate::op::{Op, Scope};

impl Admin {
    /// The logs that lie on `broker`'s disk and that it is not known to hold.
    ///
    /// # Errors
    ///
    /// [`Error::Broker`] with `UNKNOWN_BROKER`; a broker that does not answer is asked until the time is over.
    pub fn list_strays(&self, broker: u32) -> Op<'_, ListStraysResponse> {
        self.op("list_strays", move |scope| async move {
            let broker = BrokerId::new(broker);
            self.ask_broker(&scope, Effect::Read, broker, &ListStraysRequest { broker }).await
        })
    }

    /// Removes `stray` from `broker`'s disk for good, if it is still as it was listed. Nothing brings it back.
    ///
    /// # Errors
    ///
    /// [`Error::Broker`] with `UNKNOWN_BROKER`, with `INVALID_REQUEST` when it is not in quarantine, goes by itself or is not
    /// what was listed, and with `NO_CONTROLLER` when no majority confirms the broker's metadata.
    pub fn discard_stray(&self, broker: u32, stray: &StrayDescription) -> Op<'_, ()> {
        let StrayDescription { log, records, bytes, .. } = *stray;
        self.op("discard_stray", move |scope| async move {
            let broker = BrokerId::new(broker);
            let request = DiscardStrayRequest { broker, log, records, bytes };
            self.ask_broker(&scope, Effect::Change, broker, &request).await.map(|_| ())
        })
    }

    /// Sends `request` to that broker and to no other.
    async fn ask_broker<R: Request>(
        &self,
        scope: &Scope,
        effect: Effect,
        broker: BrokerId,
        request: &R,
    ) -> Result<R::Response, Error> {
        let engine = self.client.engine();
        let attempt = || async move {
            if !engine.metadata.view().brokers.contains_key(&broker) {
                let message = format!("broker {broker} is not in the cluster, or is not running");
                return Err(Error::Broker { code: ErrorCode::UnknownBroker, message, at: None });
            }
            let connection = engine.metadata.connect(broker).await?;
            let mutates = effect == Effect::Change;
            scope.sent(mutates);
            let outcome = connection.call(request, scope.deadline()).await;
            outcome.map_err(|error| error.into_error(connection.address(), mutates))
        };
        engine.retry(scope, effect, attempt).await
    }
}
