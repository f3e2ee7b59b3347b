//! What keeps this broker's store from taking what it copies: said once when it begins and once when it is over, not for
//! each partition and each time.

use parking_lot::Mutex;
use streambus_storage::error::{AppendError, StoreError};

use crate::partition::follow::FollowError;

/// The trouble there is now. One for all that copies.
#[derive(Debug, Default)]
pub(crate) struct StoreTrouble {
    present: Mutex<Option<Trouble>>,
}

/// What is wrong with a store as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Durability was lost: only a restart, on a sound disk, helps.
    ReadOnly,
    /// The disk is full.
    Full,
    /// More is received than the disk takes. Copying waits for it.
    Busy,
    /// The store was closed: the broker stops.
    Closed,
}

impl Trouble {
    /// What `error` says about the store as a whole; nothing, when it is about one partition.
    pub(crate) fn of(error: &FollowError) -> Option<Self> {
        match error {
            FollowError::Append(error) | FollowError::Store(StoreError::Append(error)) => match error {
                AppendError::ReadOnly(_) => Some(Self::ReadOnly),
                AppendError::Full(_) => Some(Self::Full),
                AppendError::Busy { .. } => Some(Self::Busy),
                AppendError::Closed => Some(Self::Closed),
                AppendError::OutOfOrder { .. }
                | AppendError::StaleEpoch { .. }
                | AppendError::TooLarge { .. }
                | AppendError::Deleted => None,
            },
            FollowError::Batch(_) | FollowError::Store(_) => None,
        }
    }

    /// True for what ends by itself within moments and is part of a busy day.
    fn is_passing(self) -> bool {
        matches!(self, Self::Busy | Self::Closed)
    }
}

impl StoreTrouble {
    /// A copy was refused for `trouble`. True when that is worth a line in the log: it is another trouble than before.
    pub(crate) fn begins(&self, trouble: Trouble) -> bool {
        !trouble.is_passing() && self.present.lock().replace(trouble) != Some(trouble)
    }

    /// A copy was taken. True when a trouble is over by that.
    pub(crate) fn ends(&self) -> bool {
        self.present.lock().take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy() -> FollowError {
        FollowError::Append(AppendError::Busy { queued_bytes: 2, limit_bytes: 1 })
    }

    // Catches a line for each partition and second, and a change that nobody hears of.
    #[test]
    fn trouble_is_said_once_when_it_begins_changes_and_ends() {
        let full = FollowError::Store(StoreError::Append(AppendError::Full("1 byte left".into())));
        let full = Trouble::of(&full).expect("all partitions suffer from it");
        let trouble = StoreTrouble::default();
        assert!(!trouble.ends(), "there was none");
        assert!(trouble.begins(full));
        assert!(!trouble.begins(full) && !trouble.begins(full));
        assert!(trouble.begins(Trouble::ReadOnly), "it has become worse");
        assert!(!trouble.begins(Trouble::of(&busy()).expect("all wait")), "that passes by itself");
        assert!(trouble.ends());
        assert!(!trouble.ends());
        assert!(trouble.begins(Trouble::ReadOnly));
    }

    // Catches a partition's own trouble that is said once for all.
    #[test]
    fn what_is_wrong_with_one_partition_is_not_the_stores_trouble() {
        assert_eq!(Trouble::of(&FollowError::Append(AppendError::Deleted)), None);
        assert_eq!(Trouble::of(&FollowError::Store(StoreError::UnknownLog)), None);
    }
}
