//! Which leader epoch starts at which offset, for one log. Pure: values in, values out.
//!
//! A follower that lost its leader asks the new one where a given epoch ended and truncates there (KIP-101, KIP-279),
//! never to a watermark. The cache is strictly increasing in epoch and increasing in start offset; an entry that
//! contradicts a newer fact is dropped, so that truncating the log truncates the cache too (KAFKA-10706).
//!
//! ```text
//!   offsets   start          s1            s2        end
//!             |--- epoch 0 ---|-- epoch 3 --|- epoch 4 -|
//! ```

use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::offset::Offset;

/// One leadership's first offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The leader epoch.
    pub epoch: LeaderEpoch,
    /// The log end when that leadership began.
    pub start: Offset,
}

/// Where an epoch ended (KIP-101).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochEnd {
    /// Nothing is known about this epoch: the log never saw it, or is empty of epochs.
    Undefined,
    /// The greatest known epoch that is not above the asked one, and the offset at which it ended.
    Ended {
        /// The epoch that the answer is about; at most the asked one.
        epoch: LeaderEpoch,
        /// The first offset that does not belong to it.
        end: Offset,
    },
}

/// The epochs of one log, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochCache {
    // Not a map: a log has a handful of epochs, appended at the end, and an idle log must cost next to nothing.
    starts: Vec<EpochStart>,
}

impl EpochCache {
    /// An empty cache.
    pub const fn new() -> Self {
        Self { starts: Vec::new() }
    }

    /// Rebuilds a cache from stored entries; entries that contradict a later one are dropped as in [`Self::assign`].
    pub fn from_starts(starts: impl IntoIterator<Item = EpochStart>) -> Self {
        let mut cache = Self::new();
        for entry in starts {
            cache.assign(entry.epoch, entry.start);
        }
        cache
    }

    /// The entries, oldest first.
    pub fn starts(&self) -> &[EpochStart] {
        &self.starts
    }

    /// The newest epoch, if any.
    pub fn latest(&self) -> Option<EpochStart> {
        self.starts.last().copied()
    }

    /// Records that `epoch` starts at `start`. Returns false when nothing changed: the epoch is already the latest,
    /// or an older leadership claims to follow a newer one.
    pub fn assign(&mut self, epoch: LeaderEpoch, start: Offset) -> bool {
        if self.latest().is_some_and(|latest| latest.epoch >= epoch && latest.start <= start) {
            return false;
        }
        self.starts.retain(|known| known.epoch < epoch && known.start < start);
        self.starts.push(EpochStart { epoch, start });
        debug_assert!(self.is_ordered());
        true
    }

    /// Learns from a batch that was stored anew that `epoch` had begun at `offset` or before: an epoch whose first batches
    /// were lost seems to start behind them. What contradicts a known fact is not learned.
    pub fn learn(&mut self, epoch: LeaderEpoch, offset: Offset) {
        let above = self.starts.partition_point(|known| known.start <= offset);
        let below = above.checked_sub(1).and_then(|below| self.starts.get(below));
        if below.is_some_and(|below| below.epoch >= epoch || below.start == offset) {
            return;
        }
        match self.starts.get_mut(above) {
            Some(next) if next.epoch == epoch => next.start = offset,
            Some(next) if next.epoch < epoch => {}
            _ => self.starts.insert(above, EpochStart { epoch, start: offset }),
        }
        debug_assert!(self.is_ordered());
    }

    /// Forgets epochs that start at or after `end`, the new end of the log.
    pub fn truncate(&mut self, end: Offset) {
        self.starts.retain(|known| known.start < end);
        self.starts.shrink_to_fit();
    }

    /// Forgets epochs that ended at or before `start`, the new start of the log. The epoch that `start` lies in is
    /// kept and begins there from now on.
    pub fn trim(&mut self, start: Offset) {
        let keep_from = self.starts.iter().rposition(|known| known.start <= start).unwrap_or(0);
        self.starts.drain(..keep_from);
        if let Some(first) = self.starts.first_mut()
            && first.start < start
        {
            first.start = start;
        }
        self.starts.shrink_to_fit();
        debug_assert!(self.is_ordered());
    }

    /// Where `epoch` ended, in a log that ends at `log_end`.
    pub fn end_offset_for(&self, epoch: LeaderEpoch, log_end: Offset) -> EpochEnd {
        let (Some(first), Some(latest)) = (self.starts.first(), self.latest()) else { return EpochEnd::Undefined };
        if epoch == latest.epoch {
            return EpochEnd::Ended { epoch, end: log_end };
        }
        if epoch > latest.epoch {
            return EpochEnd::Undefined;
        }
        if epoch < first.epoch {
            return EpochEnd::Ended { epoch, end: first.start };
        }
        // first.epoch <= epoch < latest.epoch, so both neighbours exist.
        let above = self.starts.partition_point(|known| known.epoch <= epoch);
        match (above.checked_sub(1).and_then(|below| self.starts.get(below)), self.starts.get(above)) {
            (Some(floor), Some(next)) => EpochEnd::Ended { epoch: floor.epoch, end: next.start },
            _ => EpochEnd::Undefined,
        }
    }

    /// The epoch that the record at `offset` belongs to, if known.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let above = self.starts.partition_point(|known| known.start <= offset);
        above.checked_sub(1).and_then(|below| self.starts.get(below)).map(|known| known.epoch)
    }

    fn is_ordered(&self) -> bool {
        self.starts.windows(2).all(|pair| match pair {
            [a, b] => a.epoch < b.epoch && a.start < b.start,
            _ => true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(value: u64) -> Offset {
        Offset::new(value).expect("small")
    }

    // Catches an epoch that keeps the start that damage gave it, and one learned against what is known.
    #[test]
    fn a_repaired_batch_moves_its_epoch_back_and_contradicts_nothing() {
        let mut known = cache(&[(1, 0), (4, 20)]);
        for (epoch, start) in [(4, 15), (4, 17), (2, 10), (1, 5), (3, 12), (9, 13), (0, 30), (5, 0)] {
            known.learn(LeaderEpoch::new(epoch), offset(start));
        }
        assert_eq!(pairs(&known), [(1, 0), (2, 10), (3, 12), (4, 15)]);
    }

    fn cache(entries: &[(u32, u64)]) -> EpochCache {
        EpochCache::from_starts(
            entries.iter().map(|(e, s)| EpochStart { epoch: LeaderEpoch::new(*e), start: offset(*s) }),
        )
    }

    fn pairs(cache: &EpochCache) -> Vec<(u32, u64)> {
        cache.starts().iter().map(|s| (s.epoch.get(), s.start.get())).collect()
    }

    // Catches an answer that is off by one epoch, which makes followers truncate committed records.
    #[test]
    fn end_offset_follows_every_branch_of_rule_f3() {
        let known = cache(&[(2, 10), (4, 20), (7, 30)]);
        let end = |epoch| match known.end_offset_for(LeaderEpoch::new(epoch), offset(40)) {
            EpochEnd::Undefined => None,
            EpochEnd::Ended { epoch, end } => Some((epoch.get(), end.get())),
        };
        assert_eq!(end(7), Some((7, 40)), "the latest epoch ends at the log end");
        assert_eq!(end(8), None, "an epoch above all is unknown");
        assert_eq!(end(1), Some((1, 10)), "an epoch below all ended where the log begins");
        assert_eq!(end(2), Some((2, 20)));
        assert_eq!(end(3), Some((2, 20)), "a gap is answered with the epoch below");
        assert_eq!(end(6), Some((4, 30)));
        assert_eq!(EpochCache::new().end_offset_for(LeaderEpoch::new(0), offset(0)), EpochEnd::Undefined);
    }

    // Catches a cache that keeps an epoch of a discarded tail, or refuses the leadership of an idle log (KAFKA-7415).
    #[test]
    fn assign_drops_what_contradicts_it() {
        let mut known = cache(&[(2, 10), (4, 20)]);
        assert!(!known.assign(LeaderEpoch::new(4), offset(25)), "more records of the same epoch change nothing");
        assert!(!known.assign(LeaderEpoch::new(3), offset(30)), "an older leadership cannot follow");
        assert!(known.assign(LeaderEpoch::new(5), offset(20)), "no record in epoch 4: epoch 5 replaces it");
        assert_eq!(pairs(&known), [(2, 10), (5, 20)]);
        assert!(known.assign(LeaderEpoch::new(6), offset(10)));
        assert_eq!(pairs(&known), [(6, 10)]);
    }

    #[test]
    fn truncation_and_trimming_cut_the_cache() {
        let mut known = cache(&[(2, 10), (4, 20), (7, 30)]);
        known.truncate(offset(30));
        assert_eq!(pairs(&known), [(2, 10), (4, 20)]);
        known.trim(offset(25));
        assert_eq!(pairs(&known), [(4, 25)]);
        known.trim(offset(5));
        assert_eq!(pairs(&known), [(4, 25)]);
        assert_eq!(known.epoch_at(offset(24)), None);
        assert_eq!(known.epoch_at(offset(26)), Some(LeaderEpoch::new(4)));
    }
}
