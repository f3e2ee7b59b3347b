//! How far one log is compacted, by key. Pure.
//!
//! ```text
//!   log start ......... sound ............ end ............... log end
//!   | every older record of  | as far as it could | never cleaned |
//!   | a key is gone          | be read            |               |
//! ```
//! Below `sound` a tombstone may go once its time has come: nothing that it deletes is left in this log. Between the two
//! something was left alone (damaged, not to be read), so that a tombstone there stays.
//!
//! Both are kept in the index. They go back when the log is cut, and when a stretch is repaired: what another replica had
//! there need not have been compacted. The index must know that before a checkpoint does.

use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;

use crate::index::Cleaned;

/// What a log remembers of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CleanState {
    /// `None` until the index was asked.
    known: Option<Cleaned>,
    /// What the index says is true below this offset only; it does not know yet.
    changed_from: Offset,
    /// Grows each time it goes back: a cleaning under way has to begin anew.
    pub(crate) lowerings: u32,
    /// When the first tombstone met there may go, as far as this process knows.
    pub(crate) horizon: Option<Timestamp>,
}

impl Default for CleanState {
    fn default() -> Self {
        Self { known: None, changed_from: Offset::MAX, lowerings: 0, horizon: None }
    }
}

impl CleanState {
    /// What is known without asking the index.
    pub(crate) fn known(&self) -> Option<Cleaned> {
        self.known
    }

    /// The index said `stored`.
    pub(crate) fn learn(&mut self, stored: Cleaned) -> Cleaned {
        *self.known.get_or_insert(stored.lowered(self.changed_from))
    }

    /// A cleaning has ended, and the index was told.
    pub(crate) fn finish(&mut self, cleaned: Cleaned, horizon: Option<Timestamp>) {
        debug_assert!(cleaned.sound <= cleaned.end);
        (self.known, self.horizon) = (Some(cleaned), horizon);
    }

    /// The log has changed from `to` on.
    pub(crate) fn lower(&mut self, to: Offset) {
        self.known = self.known.map(|known| known.lowered(to));
        self.changed_from = self.changed_from.min(to);
        self.lowerings = self.lowerings.wrapping_add(1);
    }

    /// From where on the index does not know yet what has changed.
    pub(crate) fn untold(&self) -> Option<Offset> {
        (self.changed_from < Offset::MAX).then_some(self.changed_from)
    }

    /// The index was told of `untold`.
    pub(crate) fn told(&mut self, untold: Offset) {
        if self.changed_from >= untold {
            self.changed_from = Offset::MAX;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(value: u64) -> Offset {
        Offset::new(value).expect("small")
    }

    fn cleaned(end: u64, sound: u64) -> Cleaned {
        Cleaned { end: offset(end), sound: offset(sound) }
    }

    // Catches a restart that takes a log's new life for clean because its old one was.
    #[test]
    fn what_the_index_says_counts_below_the_last_change_only() {
        let mut state = CleanState::default();
        state.lower(offset(50));
        assert_eq!(state.untold(), Some(offset(50)));
        assert_eq!(state.learn(cleaned(100, 20)), cleaned(50, 20));
        state.lower(offset(10));
        assert_eq!((state.known(), state.untold()), (Some(cleaned(10, 10)), Some(offset(10))));
        state.told(offset(50));
        assert_eq!(state.untold(), Some(offset(10)), "that was an older change");
        state.told(offset(10));
        assert_eq!(state.untold(), None);
        assert_eq!(state.learn(cleaned(100, 20)), cleaned(10, 10), "the index is asked once");
    }
}
