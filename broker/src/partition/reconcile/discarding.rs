//! The only deletion that metadata does not prove to be right: an operator's word stands for the proof, and metadata that is
//! confirmed must not contradict it.

use streambus_consensus::blocking;
use streambus_consensus::image::ClusterImage;
use streambus_storage::error::StoreError;

use super::Reconciler;
use crate::partition::discard::{Ask, Discard, DiscardError};
use crate::partition::fate::{Fate, HeldLog, fate};

impl Reconciler {
    /// Answers `ask`. Nobody may wait for the answer any more; what was asked for is done all the same.
    pub async fn answer(&mut self, ask: Ask) {
        let Ask { discard, confirmed, answer } = ask;
        let outcome = self.discard(discard, &confirmed).await;
        if let Err(error) = &outcome {
            tracing::warn!(partition = %discard.id, %error, "an operator's word did not remove a log");
        }
        let _whoever_asked_may_have_gone = answer.send(outcome);
    }

    /// Removes a log in quarantine by an operator's word. A quorum has said, after the operator asked, that nothing newer than
    /// `confirmed` had been acknowledged; what was reached since is as good.
    ///
    /// The deletion is one entry of the journal: after a crash the log is gone, or in quarantine as before.
    ///
    /// # Errors
    /// Every [`DiscardError`] but the last; nothing is removed then.
    pub async fn discard(&mut self, discard: Discard, confirmed: &ClusterImage) -> Result<HeldLog, DiscardError> {
        let id = discard.id;
        let is_newest = confirmed.applied >= self.reached.applied;
        let newest = if is_newest { confirmed } else { self.reached.as_ref() };
        let is_stray = self.quarantine.holds(id) && self.registry.get(id).is_none();
        let Some(log) = self.store.log(id).filter(|_| is_stray) else {
            return Err(DiscardError::NotInQuarantine { id });
        };
        let now = HeldLog::of(&log);
        match fate(&now, newest, self.life) {
            Fate::Keep => return Err(DiscardError::Wanted { id }),
            Fate::Quarantine(doubt) if doubt.is_passing() => return Err(DiscardError::Passing { id, doubt }),
            Fate::Quarantine(_) | Fate::Delete(_) => {}
        }
        if (now.records, now.bytes) != (discard.records, discard.bytes) {
            return Err(DiscardError::Changed { now });
        }
        let store = self.store.clone();
        let deleting = blocking::spawn(move || store.delete_log(id));
        match deleting.await.map_err(|_| DiscardError::Interrupted)? {
            Ok(()) | Err(StoreError::UnknownLog) => {}
            Err(source) => return Err(DiscardError::Store { id, source }),
        }
        self.unjudged.remove(&id);
        self.quarantine.change(Vec::new(), &[id]);
        let HeldLog { records, bytes, .. } = now;
        tracing::warn!(partition = %id, records, bytes, "removed a log in quarantine by an operator's word");
        Ok(now)
    }
}
