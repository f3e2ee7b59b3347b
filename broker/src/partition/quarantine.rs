//! Logs on this disk that the metadata neither wants nor proves to be superfluous: kept as they are, served to nobody, and
//! told to whoever watches.

use std::collections::BTreeMap;

use streambus_protocol::ids::PartitionId;
use tokio::sync::watch;

use crate::partition::fate::{Doubt, HeldLog};

/// A log in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stray {
    /// What it holds.
    pub log: HeldLog,
    /// Why it is here.
    pub doubt: Doubt,
}

/// The logs in quarantine. Changed by the one task that follows the metadata.
#[derive(Debug, Default)]
pub struct Quarantine {
    strays: watch::Sender<BTreeMap<PartitionId, Stray>>,
}

impl Quarantine {
    /// Follows what is in it.
    pub fn watch(&self) -> watch::Receiver<BTreeMap<PartitionId, Stray>> {
        self.strays.subscribe()
    }

    /// True while the log of `id` is in it.
    pub(super) fn holds(&self, id: PartitionId) -> bool {
        self.strays.borrow().contains_key(&id)
    }

    /// The logs about which later metadata may say more.
    pub(super) fn passing(&self) -> Vec<PartitionId> {
        self.strays.borrow().iter().filter(|(_, stray)| stray.doubt.is_passing()).map(|(id, _)| *id).collect()
    }

    /// The logs for which `is_so`.
    pub(super) fn which(&self, is_so: impl Fn(PartitionId) -> bool) -> Vec<PartitionId> {
        self.strays.borrow().keys().copied().filter(|id| is_so(*id)).collect()
    }

    /// Takes these logs in, and lets those go that this broker holds now or that are deleted. Tells whoever watches if that
    /// is news.
    pub(super) fn change(&self, taken_in: Vec<Stray>, released: &[PartitionId]) {
        self.strays.send_if_modified(|strays| {
            let mut has_changed = false;
            for id in released {
                has_changed |= strays.remove(id).is_some();
            }
            for stray in taken_in {
                has_changed |= strays.insert(stray.log.id, stray) != Some(stray);
            }
            has_changed
        });
    }
}
