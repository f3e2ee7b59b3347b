//! What a truncation would make a log forget of its producers, and what the log itself still says of it. Pure.
//!
//! A truncation that takes more than five batches of one producer leaves fewer than five of those that are remembered. The
//! older ones are in the log: they are looked up before it is cut, and stored with the truncation's journal entry, so that
//! every replay of the journal knows what the first life knew.
//!
//! | stored | bytes |
//! |---|---|
//! | count of producers | u32 |
//! | each: id, epoch, count of batches | i64, i16, u32 |
//! | each batch, oldest first: base sequence, records, base offset | i32, u32, u64 |
//!
//! All are little-endian; nothing at all stands for no producer.

use streambus_protocol::batch::ProducerStamp;
use streambus_protocol::ids::{ProducerEpoch, ProducerId, Sequence};
use streambus_protocol::offset::Offset;

use super::{BATCHES_JUDGED, BATCHES_REMEMBERED, ProducedBatch, ProducerEntry, ProducerTable};
use crate::stored::{Fields, stored_count};

/// Bytes of a stored producer without its batches, and of one batch.
const PRODUCER_BYTES: usize = 14;
const BATCH_BYTES: usize = 16;

/// Older batches of one producer, as far as the log has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recalled {
    id: ProducerId,
    epoch: ProducerEpoch,
    /// Oldest first.
    batches: Vec<ProducedBatch>,
}

/// A producer of whom older batches are looked for, newest first.
#[derive(Debug)]
pub(crate) struct Wanted {
    id: ProducerId,
    epoch: ProducerEpoch,
    /// Only what lies below is older.
    below: Offset,
    /// How many more are remembered.
    missing: usize,
    /// Newest first.
    found: Vec<ProducedBatch>,
}

impl Wanted {
    /// True when nothing more is looked for.
    pub(crate) const fn is_done(&self) -> bool {
        self.missing == 0
    }

    /// Takes in a batch of the log. They come newest first.
    pub(crate) fn see(&mut self, stamp: ProducerStamp, record_count: u32, base_offset: Offset) {
        if stamp.id != self.id || base_offset >= self.below || self.missing == 0 {
            return;
        }
        if stamp.epoch != self.epoch {
            // Of an earlier life of the producer, which its epoch has ended.
            self.missing = 0;
            return;
        }
        self.found.push(ProducedBatch { base_sequence: stamp.base_sequence, record_count, base_offset });
        self.missing -= 1;
    }

    /// What was found, if anything was.
    pub(crate) fn into_recalled(self) -> Option<Recalled> {
        let Self { id, epoch, mut found, .. } = self;
        found.reverse();
        (!found.is_empty()).then_some(Recalled { id, epoch, batches: found })
    }
}

impl ProducerTable {
    /// The producers of whom a truncation at `end` leaves fewer batches than are judged by, while there may be older ones
    /// than are remembered. In the order of their ids.
    pub(crate) fn forgotten_by(&self, end: Offset) -> Vec<Wanted> {
        let wanted = |(id, entry): (ProducerId, &ProducerEntry)| {
            let stay: Vec<_> = entry.batches.iter().filter(|batch| batch.ends_by(end)).collect();
            let oldest = entry.batches.first()?;
            // Its numbers begin with zero: there is nothing older.
            let is_all = oldest.base_sequence == Sequence::new(0);
            if is_all || stay.len() == entry.batches.len() || stay.len() >= BATCHES_JUDGED {
                return None;
            }
            Some(Wanted {
                id,
                epoch: entry.epoch,
                below: stay.first().map_or(end, |oldest| oldest.base_offset),
                missing: BATCHES_REMEMBERED - stay.len(),
                found: Vec::new(),
            })
        };
        self.sorted_entries().into_iter().filter_map(wanted).collect()
    }

    /// Remembers older batches again. The log was just truncated.
    pub(crate) fn recall(&mut self, recalled: &[Recalled]) {
        for Recalled { id, epoch, batches } in recalled {
            let Some(entry) = self.entries.get_mut(id).filter(|entry| entry.epoch == *epoch) else { continue };
            let oldest = entry.batches.first().map_or(Offset::MAX, |batch| batch.base_offset);
            let older = batches.iter().filter(|batch| batch.base_offset < oldest).copied();
            let mut all: Vec<_> = older.chain(entry.batches.iter().copied()).collect();
            all.drain(..all.len().saturating_sub(BATCHES_REMEMBERED));
            entry.batches = all;
        }
    }
}

/// As many of `recalled` as fit into `bytes_max`, and their stored form.
pub(crate) fn encode(recalled: &mut Vec<Recalled>, bytes_max: usize) -> Vec<u8> {
    let mut left = bytes_max.saturating_sub(4);
    let fitting = recalled.iter().take_while(|one| {
        let bytes = PRODUCER_BYTES + one.batches.len() * BATCH_BYTES;
        let fits = bytes <= left;
        left = left.saturating_sub(bytes);
        fits
    });
    let count = fitting.count();
    recalled.truncate(count);
    let mut out = Vec::new();
    if recalled.is_empty() {
        return out;
    }
    out.extend_from_slice(&stored_count(recalled.len()));
    for Recalled { id, epoch, batches } in recalled.iter() {
        out.extend_from_slice(&id.get().to_le_bytes());
        out.extend_from_slice(&epoch.get().to_le_bytes());
        out.extend_from_slice(&stored_count(batches.len()));
        for batch in batches {
            out.extend_from_slice(&batch.base_sequence.get().to_le_bytes());
            out.extend_from_slice(&batch.record_count.to_le_bytes());
            out.extend_from_slice(&batch.base_offset.get().to_le_bytes());
        }
    }
    out
}

/// Reads what [`encode`] wrote; `None` when it is something else.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<Recalled>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let mut fields = Fields::new(bytes);
    let mut recalled = Vec::new();
    for _ in 0..fields.count(PRODUCER_BYTES)? {
        let id = ProducerId::new(fields.i64()?);
        let epoch = ProducerEpoch::new(fields.array().map(i16::from_le_bytes)?);
        let count = fields.count(BATCH_BYTES).filter(|count| *count <= BATCHES_REMEMBERED)?;
        let mut batches = Vec::with_capacity(count);
        for _ in 0..count {
            batches.push(ProducedBatch {
                base_sequence: Sequence::new(fields.array().map(i32::from_le_bytes)?),
                record_count: fields.u32()?,
                base_offset: fields.offset()?,
            });
        }
        recalled.push(Recalled { id, epoch, batches });
    }
    fields.is_empty().then_some(recalled)
}

#[cfg(test)]
mod tests {
    use streambus_protocol::timestamp::Timestamp;

    use super::*;
    use crate::producer_state::SequenceVerdict;

    fn at(value: u64) -> Offset {
        Offset::new(value).expect("small")
    }

    fn stamp(epoch: i16, base: i32) -> ProducerStamp {
        ProducerStamp { id: ProducerId::new(1), epoch: ProducerEpoch::new(epoch), base_sequence: Sequence::new(base) }
    }

    /// Batches of one record each, a hundred offsets apart.
    fn filled(batches: i32) -> ProducerTable {
        let mut table = ProducerTable::new();
        for i in 0..batches {
            table.accept(stamp(0, i), 1, at(u64::from(i.unsigned_abs()) * 100), Timestamp::from_millis(1), 10);
        }
        table
    }

    /// What the log says below `end`.
    fn recalled(table: &ProducerTable, end: u64) -> Vec<Recalled> {
        let mut wanted = table.forgotten_by(at(end));
        for i in (0..20_u8).rev() {
            let offset = at(u64::from(i) * 100);
            wanted.iter_mut().for_each(|wanted| wanted.see(stamp(0, i32::from(i)), 1, offset));
        }
        wanted.into_iter().filter_map(Wanted::into_recalled).collect()
    }

    // Catches a cut after which a retry is taken for a gap, or for news.
    #[test]
    fn what_is_older_is_known_again_however_much_is_cut() {
        for dropped in 6..14_u64 {
            let mut table = filled(20);
            let end = (20 - dropped) * 100;
            let older = recalled(&table, end);
            table.truncate(at(end));
            table.recall(&older);
            let last = i32::try_from(20 - dropped).expect("small");
            for i in last - 5..last {
                let duplicate = SequenceVerdict::Duplicate { base: at(u64::from(i.unsigned_abs()) * 100) };
                assert_eq!(table.check(stamp(0, i), 1), duplicate, "batch {i} after {dropped} were dropped");
            }
            assert_eq!(table.check(stamp(0, last), 1), SequenceVerdict::Accept);
            assert_eq!(table.check(stamp(0, last - 6), 1), SequenceVerdict::TooOld);
            let newer = SequenceVerdict::OutOfOrder { expected: Sequence::new(last) };
            assert_eq!(table.check(stamp(0, last + 1), 1), newer);
        }
    }

    // Catches a look through the log that nothing asks for, and one that mixes two lives of a producer.
    #[test]
    fn only_what_may_be_missing_is_looked_for() {
        assert!(filled(20).forgotten_by(at(1_500)).is_empty(), "five stay");
        assert!(filled(20).forgotten_by(at(2_000)).is_empty(), "nothing goes");
        assert!(filled(9).forgotten_by(at(200)).is_empty(), "all there were are known");
        let table = filled(20);
        let mut wanted = table.forgotten_by(at(1_200));
        let [one] = &mut wanted[..] else { panic!("one producer") };
        one.see(stamp(0, 12), 1, at(1_200));
        one.see(stamp(0, 9), 1, at(900));
        one.see(stamp(7, 3), 1, at(300));
        assert!(one.is_done());
        one.see(stamp(0, 2), 1, at(200));
        let found = wanted.remove(0).into_recalled().expect("something");
        assert_eq!(found.batches.iter().map(|batch| batch.base_offset).collect::<Vec<_>>(), [at(900)]);
        let mut later = filled(20);
        later.accept(stamp(8, 0), 1, at(2_000), Timestamp::from_millis(1), 10);
        later.recall(&[found]);
        assert_eq!(later.check(stamp(8, 1), 1), SequenceVerdict::Accept, "of another life by now");
    }

    #[test]
    fn it_survives_and_is_cut_to_what_fits() {
        let mut found = recalled(&filled(20), 1_200);
        let whole = found.clone();
        let bytes = encode(&mut found, 1 << 20);
        assert_eq!((decode(&bytes), &found), (Some(whole.clone()), &whole));
        assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(decode(&[&bytes[..], &[0]].concat()), None);
        assert_eq!((encode(&mut found, bytes.len() - 1), found), (Vec::new(), Vec::new()));
        assert_eq!(decode(&[]), Some(Vec::new()));
    }
}
