//! Bytes that are buffered for the application and must be given back when it has consumed them: to the broker as
//! credit, or to the consumer's own budget when it fetches.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use streambus_protocol::api::subscribe::CreditRequest;
use tokio::sync::Notify;

use crate::connection::Connection;

/// The credit of one subscription.
pub(crate) struct Window {
    connection: Connection,
    subscription: u32,
    /// What the broker may still send; shared with the connection's reader, which counts it down.
    credit: Arc<AtomicI64>,
    /// Consumed and not given back yet.
    consumed: AtomicU64,
    /// Given back in portions of this, so that a credit message pays.
    portion: u64,
}

impl Window {
    pub(crate) fn new(connection: Connection, subscription: u32, credit: Arc<AtomicI64>, bytes: u64) -> Self {
        Self { connection, subscription, credit, consumed: AtomicU64::new(0), portion: (bytes / 4).max(1) }
    }

    fn give_back(&self, bytes: u64) {
        let consumed = self.consumed.fetch_add(bytes, Ordering::AcqRel).saturating_add(bytes);
        if consumed < self.portion {
            return;
        }
        let portion = self.consumed.swap(0, Ordering::AcqRel);
        if portion > 0 {
            // Before the message: what it allows must be allowed when it arrives.
            self.credit.fetch_add(i64::try_from(portion).unwrap_or(i64::MAX), Ordering::AcqRel);
            self.connection.notify(&CreditRequest { subscription: self.subscription, add_bytes: portion });
        }
    }
}

/// The budget of a consumer that fetches.
#[derive(Default)]
pub(crate) struct Budget {
    buffered: AtomicUsize,
    freed: Notify,
}

impl Budget {
    pub(crate) fn buffered(&self) -> usize {
        self.buffered.load(Ordering::Acquire)
    }

    /// Resolves when something was given back since the last time.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }
}

/// Borrowed bytes; dropping it gives them back.
pub(crate) enum Loan {
    /// Of a subscription's credit.
    Credit { window: Arc<Window>, bytes: usize },
    /// Of the consumer's budget.
    Budget { budget: Arc<Budget>, bytes: usize },
}

impl Loan {
    pub(crate) fn of_budget(budget: &Arc<Budget>, bytes: usize) -> Self {
        budget.buffered.fetch_add(bytes, Ordering::AcqRel);
        Self::Budget { budget: Arc::clone(budget), bytes }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        match self {
            Self::Credit { window, bytes } => window.give_back(u64::try_from(*bytes).unwrap_or(u64::MAX)),
            Self::Budget { budget, bytes } => {
                budget.buffered.fetch_sub(*bytes, Ordering::AcqRel);
                budget.freed.notify_one();
            }
        }
    }
}
