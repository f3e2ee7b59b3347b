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
//! Both are kept in the index, and with them when the first tombstone may go: that is a reason to compact a log to which
//! nothing is added any more. They go back when the log is cut, and when a stretch is repaired: what another replica had
//! there need not have been compacted. The index must know that before a checkpoint does.

use streambus_protocol::offset::Offset;

use crate::index::Cleaned;

/// What a log remembers of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CleanState {
    /// `None` until the index was asked.
    known: Option<Cleaned>,
    /// What the index says is true below this offset only; it does not know yet.
    changed_from: Offset,
    /// Replay met something stored anew up to here. Where that is more than the index says was compacted, a cleaning was
    /// under way when the process ended, and has met tombstones of which the index does not know.
    replayed_end: Offset,
    /// Grows each time it goes back: a cleaning under way has to begin anew.
    pub(crate) lowerings: u32,
}

impl Default for CleanState {
    fn default() -> Self {
        Self { known: None, changed_from: Offset::MAX, replayed_end: Offset::ZERO, lowerings: 0 }
    }
}

impl CleanState {
    /// What is known without asking the index.
    pub(crate) fn known(&self) -> Option<Cleaned> {
        self.known
    }

    /// The index said `stored`.
    pub(crate) fn learn(&mut self, stored: Cleaned) -> Cleaned {
        let is_behind = self.replayed_end > stored.end;
        let stored = if is_behind { stored.with_unknown_horizon() } else { stored };
        *self.known.get_or_insert(stored.lowered(self.changed_from))
    }

    /// Replay met a batch that was stored anew and ends at `next`.
    pub(crate) fn replayed(&mut self, next: Offset) {
        self.replayed_end = self.replayed_end.max(next);
    }

    /// A cleaning has ended, and the index was told.
    pub(crate) fn finish(&mut self, cleaned: Cleaned) {
        debug_assert!(cleaned.sound <= cleaned.end);
        self.known = Some(cleaned);
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
        Cleaned { end: offset(end), sound: offset(sound), horizon: None }
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

    // Catches tombstones that nobody goes back to, because the power went before the index knew of them.
    #[test]
    fn a_cleaning_that_did_not_end_owes_a_look() {
        let learned = |replayed: u64| {
            let mut state = CleanState::default();
            state.replayed(offset(replayed));
            state.learn(cleaned(100, 20))
        };
        assert_eq!(learned(100), cleaned(100, 20));
        assert_eq!(learned(101), cleaned(100, 20).with_unknown_horizon());
    }
}
