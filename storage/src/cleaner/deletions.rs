//! Which records of lost batches were deleted, as another replica knows. Pure.
//!
//! A log that is compacted drops a tombstone when its time is over. Another replica, compacted less far, may still have the
//! record that it deleted: put in the place of damage alone, it would be back for ever. That replica has the tombstone too,
//! because no log drops one above a record that it deletes. So what it has above the lost batches is read for their keys.

use std::collections::HashMap;

use bytes::Bytes;
use streambus_protocol::batch::PlacedBatch;
use streambus_protocol::limits::BATCH_BYTES_MAX;
use streambus_protocol::offset::Offset;

use super::{is_cleanable, is_tombstone, records_of};

/// The newest record of a key.
#[derive(Clone, Copy, Debug)]
struct Newest {
    offset: Offset,
    is_tombstone: bool,
}

/// A record that a tombstone deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The record's offset.
    pub record: Offset,
    /// That of the tombstone.
    pub tombstone: Offset,
}

/// What another replica has of the keys of some batches, in those and above them.
#[derive(Clone, Debug, Default)]
pub struct Deletions {
    newest: HashMap<Bytes, Newest>,
}

impl Deletions {
    /// Of the keys in `batches`.
    pub fn for_keys_of<'a>(batches: impl IntoIterator<Item = &'a PlacedBatch>) -> Self {
        let mut newest: HashMap<Bytes, Newest> = HashMap::new();
        each_record(batches, |key, found| {
            // A copy: a slice would keep all of its batch.
            let known = newest.entry(Bytes::copy_from_slice(key)).or_insert(found);
            *known = newer(*known, found);
        });
        Self { newest }
    }

    /// True when there is no key to look for.
    pub fn is_empty(&self) -> bool {
        self.newest.is_empty()
    }

    /// Notes what other batches have of those keys.
    pub fn note<'a>(&mut self, batches: impl IntoIterator<Item = &'a PlacedBatch>) {
        each_record(batches, |key, found| {
            if let Some(known) = self.newest.get_mut(key) {
                *known = newer(*known, found);
            }
        });
    }

    /// The records of `batch` whose key was deleted above them and not written again.
    pub(crate) fn within(&self, batch: &PlacedBatch) -> Vec<Deleted> {
        let mut deleted = Vec::new();
        each_record([batch], |key, found| {
            let newest = self.newest.get(key).filter(|newest| newest.is_tombstone && newest.offset > found.offset);
            deleted.extend(newest.map(|newest| Deleted { record: found.offset, tombstone: newest.offset }));
        });
        deleted
    }
}

/// `batch` without the records at `gone`; as it is when what is left cannot be stored.
pub(crate) fn without(batch: PlacedBatch, gone: &[Offset]) -> PlacedBatch {
    if gone.is_empty() {
        return batch;
    }
    let Ok(records) = records_of(&batch) else { return batch };
    let kept: Vec<_> = records.into_iter().filter(|stored| !gone.contains(&stored.offset)).collect();
    match batch.with_records(&kept, None) {
        Ok(left) if left.size_bytes() <= BATCH_BYTES_MAX => left,
        // Another encoder made it smaller: in doubt the records stay.
        Ok(_) | Err(_) => batch,
    }
}

fn newer(known: Newest, found: Newest) -> Newest {
    if found.offset > known.offset { found } else { known }
}

/// Visits every record with a key of batches whose records may go one by one. What cannot be read says nothing: in doubt
/// a record stays.
fn each_record<'a>(batches: impl IntoIterator<Item = &'a PlacedBatch>, mut visit: impl FnMut(&[u8], Newest)) {
    for batch in batches.into_iter().filter(|batch| is_cleanable(batch)) {
        for stored in records_of(batch).unwrap_or_default() {
            if let Some(key) = &stored.record.key {
                visit(key, Newest { offset: stored.offset, is_tombstone: is_tombstone(&stored) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use streambus_protocol::batch::{BatchBuilder, BatchOptions, UnverifiedBatch};
    use streambus_protocol::epoch::LeaderEpoch;
    use streambus_protocol::record::Record;
    use streambus_protocol::timestamp::Timestamp;

    use super::*;

    fn at(value: u64) -> Offset {
        Offset::new(value).expect("small")
    }

    fn batch(base: u64, records: &[(&'static str, Option<&'static str>)]) -> PlacedBatch {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for (key, value) in records {
            let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
            let timestamp = Timestamp::from_millis(1);
            let record = Record { key: Some(bytes(key)), value: value.map(bytes), headers: Vec::new(), timestamp };
            builder.push(&record).expect("fits");
        }
        let batch = UnverifiedBatch::new(builder.build().expect("not empty")).verify(1 << 20).expect("just built");
        batch.place(at(base), LeaderEpoch::ZERO)
    }

    fn keys(batch: &PlacedBatch) -> Vec<(Bytes, u64)> {
        let records = records_of(batch).expect("readable").into_iter();
        records.map(|stored| (stored.record.key.expect("a key"), stored.offset.get())).collect()
    }

    // Catches a repair that brings a deleted record back, and one that leaves out what was never deleted, was written again,
    // or is the tombstone itself.
    #[test]
    fn only_what_is_deleted_above_and_not_written_again_is_deleted() {
        let value = Some("v");
        let lost = batch(10, &[("gone", value), ("again", value), ("older", None), ("kept", value), ("twice", value)]);
        let mut deletions = Deletions::for_keys_of([&lost]);
        assert!(!deletions.is_empty());
        let above = [
            batch(20, &[("gone", None), ("again", None), ("other", None), ("twice", None)]),
            batch(30, &[("again", value), ("twice", value)]),
            batch(40, &[("twice", None)]),
        ];
        deletions.note(&above);
        let deleted = |record, tombstone| Deleted { record: at(record), tombstone: at(tombstone) };
        assert_eq!(deletions.within(&lost), [deleted(10, 20), deleted(14, 40)]);
        assert_eq!(deletions.within(&above[2]), [], "the tombstone stays");
        let left = without(lost.clone(), &[at(10), at(14)]);
        let named = |text: &'static str, offset| (Bytes::from_static(text.as_bytes()), offset);
        assert_eq!(keys(&left), [named("again", 11), named("older", 12), named("kept", 13)]);
        assert_eq!((left.base_offset(), left.next_offset()), (lost.base_offset(), lost.next_offset()));
        assert_eq!(without(lost.clone(), &[]), lost);
        assert!(Deletions::for_keys_of([&without(lost, &[10, 11, 12, 13, 14].map(at))]).is_empty());
    }
}
