//! Storing a stretch of a log anew: compaction's two halves of work on one log.
//!
//! First the stretch is read without any lock, every batch proven; then, under the log's order lock and only if nothing
//! has cut the log meanwhile, its batches go to the journal side by side. Until they are on stable storage readers are
//! sent to the old place. What is damaged is not touched: damage must never be copied as good. What was repaired is copied
//! like anything else, and no longer counts as repaired then.

use bytes::Bytes;
use streambus_protocol::batch::PlacedBatch;
use streambus_protocol::offset::Offset;

use super::read::{Place, StoredBatch};
use super::{PartitionLog, state::LogState};
use crate::error::ReadError;
use crate::journal::{self, EntryKind, NewEntry};

/// A stretch of a log as it was read to be stored anew.
#[derive(Debug)]
pub(crate) enum Stretch {
    /// All of it, in order and without a gap.
    Whole(WholeStretch),
    /// A part is damaged.
    Damaged,
    /// The log has given it up.
    Gone,
    /// The log is cut this moment, or the stretch is being stored anew already: ask again.
    Moving,
}

/// The batches of a stretch, and what must not have changed when they are stored anew.
#[derive(Debug)]
pub(crate) struct WholeStretch {
    /// In order, each proven, the first holding the stretch's base.
    pub(crate) batches: Vec<Bytes>,
    pub(crate) base: Offset,
    pub(crate) next: Offset,
    generation: u32,
    rewrites: u64,
}

impl WholeStretch {
    /// This stretch and the one right behind it as one, when that is no more than `bytes_max`; else this one.
    pub(crate) fn join(mut self, behind: Self, bytes_max: u64) -> Result<Self, Self> {
        let fits = self.bytes() + behind.bytes() <= bytes_max;
        let is_same = (self.generation, self.rewrites) == (behind.generation, behind.rewrites);
        if !fits || self.next != behind.base || !is_same {
            return Err(self);
        }
        self.batches.extend(behind.batches);
        self.next = behind.next;
        Ok(self)
    }

    /// Bytes of the batches.
    pub(crate) fn bytes(&self) -> u64 {
        self.batches.iter().map(|batch| batch.len() as u64).sum()
    }
}

impl PartitionLog {
    /// Reads the batches that hold the offsets `base..next`, whole. Blocking.
    pub(crate) fn read_stretch(&self, base: Offset, next: Offset) -> Result<Stretch, ReadError> {
        let (generation, rewrites) = {
            let state = self.core.state.lock();
            match standing(&state, base, next) {
                Standing::Untouched => (state.generation, state.rewrites),
                Standing::Damaged => return Ok(Stretch::Damaged),
                Standing::Gone => return Ok(Stretch::Gone),
                Standing::Moving => return Ok(Stretch::Moving),
            }
        };
        let (mut batches, mut cursor, mut first) = (Vec::new(), base, base);
        while cursor < next {
            let extent = match self.locate(cursor) {
                Ok(Place::Extent(extent)) => extent,
                Ok(Place::Damaged(_)) => return Ok(Stretch::Damaged),
                Err(ReadError::OutOfRange { .. } | ReadError::Deleted) => return Ok(Stretch::Gone),
                Err(error) => return Err(error),
            };
            let before = cursor;
            for StoredBatch { base, next: end, bytes } in self.read_extent(&extent)? {
                if end <= cursor || cursor >= next {
                    continue;
                }
                if base > cursor {
                    break;
                }
                first = first.min(base);
                batches.push(bytes);
                cursor = end;
            }
            if cursor == before {
                // Reads and scrubbing do the same: what does not prove is remembered as damage.
                self.note_hole(&extent, cursor)?;
                return Ok(Stretch::Damaged);
            }
        }
        Ok(Stretch::Whole(WholeStretch { batches, base: first, next: cursor, generation, rewrites }))
    }

    /// Stores `batches` in place of `stretch`: they have its offsets, all of them and no others. False when the log has
    /// changed since, and nothing was stored.
    ///
    /// # Errors
    /// As the journal's: nothing was stored.
    ///
    /// # Panics
    /// When the batches do not cover exactly the stretch: storing them would make a hole.
    pub(crate) fn store_anew(
        &self,
        stretch: &WholeStretch,
        batches: Vec<PlacedBatch>,
    ) -> Result<bool, journal::AppendError> {
        let (first, last) = (batches.first(), batches.last());
        assert!(first.is_some_and(|batch| batch.base_offset() == stretch.base), "a rewrite begins where the old did");
        assert!(last.is_some_and(|batch| batch.next_offset() == stretch.next), "a rewrite ends where the old did");
        let gapless = |pair: &[PlacedBatch]| matches!(pair, [a, b] if a.next_offset() == b.base_offset());
        assert!(batches.windows(2).all(gapless), "a rewrite has no gap");
        let _order = self.core.order.lock();
        {
            let state = self.core.state.lock();
            let standing = standing(&state, stretch.base.max(state.durable_start), stretch.next);
            // What somebody else stored anew since may have other batch boundaries.
            let is_same = (state.generation, state.rewrites) == (stretch.generation, stretch.rewrites);
            if !matches!(standing, Standing::Untouched) || !is_same {
                return Ok(false);
            }
        }
        let ranges: Vec<_> = batches.iter().map(|batch| (batch.base_offset(), batch.next_offset())).collect();
        let entry = |batch: PlacedBatch| NewEntry {
            log: self.core.id,
            kind: EntryKind::Rewrite,
            base: batch.base_offset(),
            last: batch.last_offset(),
            epoch: batch.leader_epoch(),
            max_timestamp: batch.max_timestamp(),
            payload: batch.into_bytes(),
        };
        let mut lsn = self.store.journal.append_run(batches.into_iter().map(entry).collect())?;
        let mut state = self.core.state.lock();
        for (base, next) in ranges {
            state.accept_rewrite(lsn, base, next);
            lsn = lsn.next();
        }
        self.settle(&mut state);
        Ok(true)
    }
}

/// What stands against storing a stretch anew.
enum Standing {
    Untouched,
    Damaged,
    Gone,
    Moving,
}

fn standing(state: &LogState, base: Offset, next: Offset) -> Standing {
    // A cut that is not durable yet, and copies that are not, are waited for.
    let is_moving = state.settled_end() == Offset::MAX || state.is_rewriting_within(base, next);
    if state.deleted || next <= state.durable_start || next > state.synced_end {
        Standing::Gone
    } else if is_moving {
        Standing::Moving
    } else if state.damage.overlaps(base, next) {
        Standing::Damaged
    } else {
        Standing::Untouched
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use streambus_protocol::batch::{BatchBuilder, BatchOptions, UnverifiedBatch};
    use streambus_protocol::epoch::LeaderEpoch;
    use streambus_protocol::ids::{PartitionId, PartitionIndex, TopicId};
    use streambus_protocol::record::Record;
    use streambus_protocol::timestamp::Timestamp;

    use super::*;
    use crate::clock::ManualClock;
    use crate::config::StoreConfig;
    use crate::disk::memory::MemoryDisk;
    use crate::index::memory::MemoryIndex;
    use crate::partition_log::{LogOptions, ReadLimit};
    use crate::store::{Drive, Store, StoreEnv};

    fn append(log: &PartitionLog, bytes: usize) {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(&Record::new(vec![7; bytes], Timestamp::from_millis(1))).expect("fits");
        let batch = UnverifiedBatch::new(builder.build().expect("not empty")).verify(1 << 20).expect("just built");
        log.append(batch.place(log.log_end(), LeaderEpoch::ZERO)).expect("accepted");
    }

    // Catches a reader that looked up a place before compaction gave it away, and takes that for damage.
    #[test]
    fn a_place_given_away_since_the_lookup_is_no_damage() {
        let env = StoreEnv {
            disk: Arc::new(MemoryDisk::new()),
            index: Arc::new(MemoryIndex::new()),
            clock: Arc::new(ManualClock::new(Timestamp::from_millis(5))),
            random: Box::new(|| 77),
            drive: Drive::Stepped,
        };
        let (store, _) = Store::open(env, StoreConfig::tiny()).expect("opens");
        let log_of = |index| {
            let id = PartitionId { topic: TopicId::from_bytes([1; 16]), partition: PartitionIndex::new(index) };
            store.create_log(id, LogOptions::default()).expect("created")
        };
        let (short, long) = (log_of(0), log_of(1));
        append(&long, 100);
        for _ in 0..200 {
            append(&short, 900);
            while store.step() {}
        }
        let Ok(Place::Extent(old)) = long.locate(Offset::ZERO) else { panic!("it is in the index") };
        short.trim(short.log_end()).expect("trimmed");
        while store.step() {}
        let is_there = || store.inner().journal.segments().iter().any(|info| info.id == old.segment);
        for _ in 0..100 {
            store.compact_step(Timestamp::from_millis(5), u64::MAX);
            while store.step() {}
        }
        assert!(!is_there(), "its segment was emptied");
        assert!(long.read_extent(&old).expect("answered").is_empty(), "its segment is gone");
        long.note_hole(&old, Offset::ZERO).expect("answered");
        long.verify_extent(&old).expect("answered");
        assert_eq!(long.damaged(), []);
        let limit = ReadLimit { bytes_max: 1, below: long.log_end() };
        let read = super::super::DiskRead::new(long.clone(), Offset::ZERO, limit);
        assert_eq!(read.run().expect("at its new place").0.len(), 1);
    }
}
