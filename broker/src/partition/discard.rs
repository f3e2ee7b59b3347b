//! Removing a log that is in quarantine because an operator says so: how it is asked for, and why it is refused.
//!
//! Whoever asks brings metadata that a quorum confirmed after the question; the one task that follows the metadata decides
//! ([`crate::partition::reconcile::Reconciler::discard`]), so that no role is taken up meanwhile.

use std::sync::Arc;

use streambus_consensus::image::ClusterImage;
use streambus_protocol::ids::PartitionId;
use streambus_storage::error::StoreError;
use tokio::sync::{mpsc, oneshot};

use crate::partition::fate::{Doubt, HeldLog};
use crate::partition::quarantine::{Quarantine, Stray};

/// Questions that wait; whoever asks another one waits with it.
const WAITING_MAX: usize = 16;

/// What an operator wants removed, as it was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discard {
    /// Whose log it is.
    pub id: PartitionId,
    /// Its offsets.
    pub records: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// Why nothing was removed.
#[derive(Debug, thiserror::Error)]
pub enum DiscardError {
    /// No such log is in quarantine here.
    #[error("the log {id} is not in quarantine")]
    NotInQuarantine {
        /// Whose log was named.
        id: PartitionId,
    },
    /// The metadata assigns it to this broker.
    #[error("the metadata assigns the log {id} to this broker by now: it is opened and served")]
    Wanted {
        /// Whose log it is.
        id: PartitionId,
    },
    /// Later metadata may say more.
    #[error("the log {id} goes by itself when nothing needs it any more; until then it stays: {doubt}")]
    Passing {
        /// Whose log it is.
        id: PartitionId,
        /// Why it is here.
        doubt: Doubt,
    },
    /// It is not what was shown.
    #[error("the log {} has {} records in {} bytes, which is not what was listed", now.id, now.records, now.bytes)]
    Changed {
        /// What it holds.
        now: HeldLog,
    },
    /// The store did not take the deletion.
    #[error("deleting the log {id}: {source}")]
    Store {
        /// Whose log it is.
        id: PartitionId,
        /// The store's answer.
        source: StoreError,
    },
    /// The broker stops. Whether the log is gone shows at the next start.
    #[error("the broker stops")]
    Interrupted,
}

/// A question on its way to the task that answers it.
#[derive(Debug)]
pub struct Ask {
    pub(crate) discard: Discard,
    /// Metadata that a quorum confirmed after the question.
    pub(crate) confirmed: Arc<ClusterImage>,
    pub(crate) answer: oneshot::Sender<Result<HeldLog, DiscardError>>,
}

/// Where operators look at the quarantine and have logs removed.
#[derive(Clone, Debug)]
pub struct StrayDesk {
    quarantine: Arc<Quarantine>,
    asks: mpsc::Sender<Ask>,
}

/// A desk for `quarantine`, and what is asked there.
pub fn desk(quarantine: Arc<Quarantine>) -> (StrayDesk, mpsc::Receiver<Ask>) {
    let (asks, asked) = mpsc::channel(WAITING_MAX);
    (StrayDesk { quarantine, asks }, asked)
}

impl StrayDesk {
    /// What is in quarantine now, by topic and partition.
    pub fn strays(&self) -> Vec<Stray> {
        self.quarantine.watch().borrow().values().copied().collect()
    }

    /// Has one of them removed, by metadata that a quorum `confirmed` after this was asked for; returns what it held. The
    /// log may still go when the returned future is dropped.
    ///
    /// # Errors
    /// Every [`DiscardError`]; nothing was removed, except perhaps after the last two.
    pub async fn discard(&self, discard: Discard, confirmed: Arc<ClusterImage>) -> Result<HeldLog, DiscardError> {
        let (answer, answered) = oneshot::channel();
        let ask = Ask { discard, confirmed, answer };
        self.asks.send(ask).await.map_err(|_| DiscardError::Interrupted)?;
        answered.await.unwrap_or(Err(DiscardError::Interrupted))
    }
}
