//! What one log remembers of idempotent producers, so that a retried batch is stored once (KIP-98). Pure.
//!
//! Per producer: its epoch, when it was last heard, and its last ten batches, of which the last five are judged by.
//! Five, because a client keeps at most five batches in flight: a retry can only be of one of those. Ten, because a
//! truncation takes away what is not committed, and with `acks=all` that is among the five in flight: those five that
//! are then the last ones are still known, here and after every replay of the same journal. State changes only through
//! [`ProducerTable::accept`], which the log calls after the append was accepted (KAFKA-6683) and which never refuses:
//! replication and recovery replay decisions that were taken once (KAFKA-6003). It outlives the records that retention
//! deletes (KAFKA-7190) and ends by silence.
//!
//! Truncation drops the batches above the new end. A producer that does not wait for `acks=all` may lose more than five
//! by it: those before them are [recalled](recall) from the log, as far as it has them. One of whom nothing is left keeps
//! its epoch and may go on with any sequence.

use std::collections::HashMap;
use std::time::Duration;

use streambus_protocol::batch::ProducerStamp;
use streambus_protocol::ids::{ProducerEpoch, ProducerId, Sequence};
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;

pub mod recall;

/// The last batches of a producer that its next one is judged by: what a client may have in flight.
pub const BATCHES_JUDGED: usize = 5;
/// Batches remembered for one producer: so many that a truncation of all that may be in flight leaves those judged by.
pub const BATCHES_REMEMBERED: usize = 2 * BATCHES_JUDGED;

/// One batch that a producer appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducedBatch {
    /// Sequence of its first record.
    pub base_sequence: Sequence,
    /// Records in it, at least one.
    pub record_count: u32,
    /// Offset of its first record.
    pub base_offset: Offset,
}

impl ProducedBatch {
    /// True when it lies wholly below `end`.
    fn ends_by(&self, end: Offset) -> bool {
        self.base_offset.checked_add(u64::from(self.record_count)).is_some_and(|next| next <= end)
    }

    /// The sequence that the next batch must start with.
    fn next_sequence(&self) -> Sequence {
        sequence_after(self.base_sequence, self.record_count)
    }
}

/// What one log knows of one producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerEntry {
    /// The newest epoch seen; older ones are fenced.
    pub epoch: ProducerEpoch,
    /// When it last appended, by this broker's clock: a client's own timestamps could expire it at once.
    pub last_seen: Timestamp,
    /// Its last batches, oldest first, at most [`BATCHES_REMEMBERED`].
    pub batches: Vec<ProducedBatch>,
}

impl ProducerEntry {
    /// The batches that the next one is judged by.
    fn window(&self) -> &[ProducedBatch] {
        self.batches.get(self.batches.len().saturating_sub(BATCHES_JUDGED)..).unwrap_or_default()
    }
}

/// The answer to "may this batch be appended?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceVerdict {
    /// Append it.
    Accept,
    /// It is in the log already, at this base offset: answer as the first time.
    Duplicate {
        /// Offset of the batch's first record.
        base: Offset,
    },
    /// A sequence number is missing before it.
    OutOfOrder {
        /// The sequence that was expected.
        expected: Sequence,
    },
    /// A newer incarnation of the producer exists.
    Fenced {
        /// The newest epoch known.
        current: ProducerEpoch,
    },
    /// It was appended longer ago than the last five batches; its offset is no longer known.
    TooOld,
}

/// The producers of one log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerTable {
    entries: HashMap<ProducerId, ProducerEntry>,
}

impl ProducerTable {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rebuilds a table from a snapshot.
    pub fn from_entries(entries: impl IntoIterator<Item = (ProducerId, ProducerEntry)>) -> Self {
        Self { entries: entries.into_iter().collect() }
    }

    /// Every producer, in the order of their ids, for a snapshot.
    pub fn sorted_entries(&self) -> Vec<(ProducerId, &ProducerEntry)> {
        let mut all: Vec<_> = self.entries.iter().map(|(id, entry)| (*id, entry)).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// The base offsets of all batches that are remembered.
    pub fn named_batches(&self) -> impl Iterator<Item = Offset> {
        self.entries.values().flat_map(|entry| entry.batches.iter().map(|batch| batch.base_offset))
    }

    /// Producers remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when no producer is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Judges a batch a client sent to the leader, in the order of KIP-98 and KIP-360: fencing, duplicate, sequence.
    pub fn check(&self, stamp: ProducerStamp, record_count: u32) -> SequenceVerdict {
        let Some(entry) = self.entries.get(&stamp.id) else { return SequenceVerdict::Accept };
        if stamp.epoch < entry.epoch {
            return SequenceVerdict::Fenced { current: entry.epoch };
        }
        if stamp.epoch > entry.epoch {
            let first = Sequence::new(0);
            return if stamp.base_sequence == first {
                SequenceVerdict::Accept
            } else {
                SequenceVerdict::OutOfOrder { expected: first }
            };
        }
        let same =
            |known: &&ProducedBatch| known.base_sequence == stamp.base_sequence && known.record_count == record_count;
        let window = entry.window();
        if let Some(known) = window.iter().find(same) {
            return SequenceVerdict::Duplicate { base: known.base_offset };
        }
        let (Some(oldest), Some(newest)) = (window.first(), window.last()) else {
            return SequenceVerdict::Accept;
        };
        let expected = newest.next_sequence();
        if stamp.base_sequence == expected {
            SequenceVerdict::Accept
        } else if is_before(stamp.base_sequence, oldest.base_sequence) && window.len() == BATCHES_JUDGED {
            SequenceVerdict::TooOld
        } else {
            SequenceVerdict::OutOfOrder { expected }
        }
    }

    /// Remembers an accepted batch. At most `producers_max` stay: the longest silent goes first.
    pub fn accept(
        &mut self,
        stamp: ProducerStamp,
        record_count: u32,
        base_offset: Offset,
        now: Timestamp,
        producers_max: usize,
    ) {
        debug_assert!(record_count > 0);
        if !self.entries.contains_key(&stamp.id) && self.entries.len() >= producers_max {
            self.forget_longest_silent();
        }
        let entry = self.entries.entry(stamp.id).or_insert_with(|| ProducerEntry {
            epoch: stamp.epoch,
            last_seen: now,
            batches: Vec::with_capacity(1),
        });
        if stamp.epoch != entry.epoch {
            entry.epoch = stamp.epoch;
            entry.batches.clear();
        }
        entry.last_seen = entry.last_seen.max(now);
        if entry.batches.len() >= BATCHES_REMEMBERED {
            entry.batches.remove(0);
        }
        entry.batches.push(ProducedBatch { base_sequence: stamp.base_sequence, record_count, base_offset });
    }

    /// Forgets batches that are not wholly below `end`, the new end of the log.
    pub fn truncate(&mut self, end: Offset) {
        for entry in self.entries.values_mut() {
            entry.batches.retain(|batch| batch.ends_by(end));
        }
    }

    /// Forgets producers silent for longer than `expiry`; returns how many.
    pub fn expire(&mut self, now: Timestamp, expiry: Duration) -> usize {
        let expiry_ms = i64::try_from(expiry.as_millis()).unwrap_or(i64::MAX);
        let before = self.entries.len();
        self.entries.retain(|_, entry| now.as_millis().saturating_sub(entry.last_seen.as_millis()) <= expiry_ms);
        if self.entries.is_empty() {
            self.entries = HashMap::new();
        }
        before - self.entries.len()
    }

    /// Bytes on the heap, estimated.
    pub fn heap_bytes(&self) -> usize {
        let slot = size_of::<(ProducerId, ProducerEntry)>() + 1;
        let batches: usize = self.entries.values().map(|e| e.batches.capacity() * size_of::<ProducedBatch>()).sum();
        self.entries.capacity() * slot * 8 / 7 + batches
    }

    fn forget_longest_silent(&mut self) {
        // Linear, but only at the bound, which an ordinary log never reaches. The id breaks ties, so that replicas agree.
        let silent = self.entries.iter().min_by_key(|(id, entry)| (entry.last_seen, **id)).map(|(id, _)| *id);
        if let Some(id) = silent {
            self.entries.remove(&id);
        }
    }
}

/// The sequence `count` records after `base`; wraps from `i32::MAX` to 0.
fn sequence_after(base: Sequence, count: u32) -> Sequence {
    let wrapped = (i64::from(base.get()) + i64::from(count)) % (i64::from(i32::MAX) + 1);
    Sequence::new(i32::try_from(wrapped).unwrap_or(0))
}

/// True when `a` lies less than half the number circle before `b`.
fn is_before(a: Sequence, b: Sequence) -> bool {
    let circle = i64::from(i32::MAX) + 1;
    let distance = (i64::from(b.get()) - i64::from(a.get())).rem_euclid(circle);
    distance != 0 && distance < circle / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn stamp(id: i64, epoch: i16, base: i32) -> ProducerStamp {
        ProducerStamp { id: ProducerId::new(id), epoch: ProducerEpoch::new(epoch), base_sequence: Sequence::new(base) }
    }

    fn at(value: u64) -> Offset {
        Offset::new(value).expect("small")
    }

    fn filled(batches: u32) -> ProducerTable {
        let mut table = ProducerTable::new();
        for i in 0..batches {
            let base = i32::try_from(i * 10).expect("small");
            table.accept(stamp(1, 0, base), 10, at(u64::from(i) * 100), NOW, 10);
        }
        table
    }

    // Catches a window of one batch: librdkafka keeps five in flight and would get a spurious gap.
    #[test]
    fn every_one_of_the_last_five_is_a_duplicate_and_the_sixth_too_old() {
        let table = filled(6);
        for i in 1..6_u32 {
            let base = i32::try_from(i * 10).expect("small");
            assert_eq!(table.check(stamp(1, 0, base), 10), SequenceVerdict::Duplicate { base: at(u64::from(i) * 100) });
        }
        assert_eq!(table.check(stamp(1, 0, 0), 10), SequenceVerdict::TooOld);
        assert_eq!(table.check(stamp(1, 0, 60), 3), SequenceVerdict::Accept);
        assert_eq!(
            table.check(stamp(1, 0, 61), 3),
            SequenceVerdict::OutOfOrder { expected: Sequence::new(60) },
            "a gap"
        );
        assert_eq!(table.check(stamp(2, 0, 77), 1), SequenceVerdict::Accept, "an unknown producer may start anywhere");
    }

    #[test]
    fn a_newer_epoch_starts_at_zero_and_fences_the_older() {
        let mut table = filled(2);
        assert_eq!(table.check(stamp(1, 1, 5), 1), SequenceVerdict::OutOfOrder { expected: Sequence::new(0) });
        assert_eq!(table.check(stamp(1, 1, 0), 1), SequenceVerdict::Accept);
        table.accept(stamp(1, 1, 0), 1, at(500), NOW, 10);
        assert_eq!(table.check(stamp(1, 0, 20), 1), SequenceVerdict::Fenced { current: ProducerEpoch::new(1) });
        assert_eq!(table.check(stamp(1, 1, 0), 1), SequenceVerdict::Duplicate { base: at(500) });
    }

    // Catches plain addition: a producer of 2^31 records would be refused for ever.
    #[test]
    fn sequences_wrap_after_the_largest() {
        let mut table = ProducerTable::new();
        table.accept(stamp(1, 0, i32::MAX - 1), 2, at(0), NOW, 10);
        assert_eq!(table.check(stamp(1, 0, 0), 1), SequenceVerdict::Accept);
        table.accept(stamp(1, 0, i32::MAX), 3, at(2), NOW, 10);
        assert_eq!(table.check(stamp(1, 0, 2), 1), SequenceVerdict::Accept);
    }

    #[test]
    fn truncation_forgets_dropped_batches_and_keeps_the_epoch() {
        let mut table = filled(3);
        table.truncate(at(150));
        assert_eq!(table.check(stamp(1, 0, 20), 10), SequenceVerdict::Accept, "its first life was dropped");
        assert_eq!(table.check(stamp(1, 0, 10), 10), SequenceVerdict::Duplicate { base: at(100) });
        table.accept(stamp(1, 3, 0), 1, at(150), NOW, 10);
        table.truncate(at(0));
        assert_eq!(table.check(stamp(1, 2, 0), 1), SequenceVerdict::Fenced { current: ProducerEpoch::new(3) });
        assert_eq!(table.check(stamp(1, 3, 9), 1), SequenceVerdict::Accept);
    }

    // Catches a cut that forgets older batches with the dropped ones: a retry of one that stays would be refused, or, when
    // all five are dropped, appended twice.
    #[test]
    fn after_a_cut_the_five_before_it_are_judged_by() {
        for dropped in 1..=5_u64 {
            let mut table = filled(12);
            table.truncate(at((12 - dropped) * 100));
            let last = u32::try_from(12 - dropped).expect("small");
            for i in 0..12_u32 {
                let base = i32::try_from(i * 10).expect("small");
                let expected = match i {
                    i if i + 5 < last => SequenceVerdict::TooOld,
                    i if i < last => SequenceVerdict::Duplicate { base: at(u64::from(i) * 100) },
                    i if i == last => SequenceVerdict::Accept,
                    _ => SequenceVerdict::OutOfOrder {
                        expected: Sequence::new(i32::try_from(last * 10).expect("small")),
                    },
                };
                assert_eq!(table.check(stamp(1, 0, base), 10), expected, "batch {i} after {dropped} were dropped");
            }
        }
    }

    #[test]
    fn the_table_is_bounded_and_expires_by_silence() {
        let mut table = ProducerTable::new();
        for id in 0..20 {
            table.accept(stamp(id, 0, 0), 1, at(0), Timestamp::from_millis(id), 8);
        }
        assert_eq!(table.len(), 8);
        assert!(table.sorted_entries().iter().all(|(id, _)| id.get() >= 12), "the longest silent went first");
        assert_eq!(table.expire(Timestamp::from_millis(1_016), Duration::from_millis(1_000)), 4);
        assert_eq!(table.len(), 4);
    }
}
