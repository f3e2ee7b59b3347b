//! Log compaction, Kafka's `cleanup.policy=compact`: keep the last record of each key. Pure: batches in, batches out.
//!
//! Two passes. [`note_keys`] reads the part of a log that was never cleaned and fills an [`OffsetMap`] until that is
//! full; [`Cleaner`] then goes through the log from its start up to where the first pass came, and drops
//! - a record whose key has a newer one in the map,
//! - a tombstone (a record without a value) whose batch's delete horizon has passed. The first cleaning that meets a
//!   tombstone sets the horizon (KIP-534), so that every consumer has `delete.retention.ms` to see it. Where something
//!   below had to be left alone, in which what the tombstone deletes may live on, it neither goes nor gets a horizon.
//!
//! What is left covers the same offsets without a gap: see [`PlacedBatch::placeholder`]. Left alone are records without a
//! key, control batches and those of transactions (whose fate is not decided here), and batches that cannot be read. A
//! batch that the log still knows a producer by stays without its records, so that a replica which copies the log learns
//! of the producer too.

use bytes::Bytes;
use streambus_protocol::batch::{BatchError, BatchHeader, PlacedBatch};
use streambus_protocol::limits::{BATCH_BYTES_MAX, DECOMPRESSED_FACTOR_MAX};
use streambus_protocol::offset::Offset;
use streambus_protocol::record::StoredRecord;
use streambus_protocol::timestamp::Timestamp;

pub mod deletions;
mod offset_map;

pub use offset_map::OffsetMap;

/// What a compressed batch may expand to.
const EXPANDED_BYTES_MAX: usize = BATCH_BYTES_MAX * DECOMPRESSED_FACTOR_MAX;

/// Notes the newest offset of every key in `batch`; false when the map is full: what it has of this batch is no harm, but
/// the batch is not covered. Batches come in the order of their offsets.
pub fn note_keys(batch: &PlacedBatch, map: &mut OffsetMap) -> bool {
    if !is_cleanable(batch) {
        return true;
    }
    // A batch that cannot be read covers nothing, and is left alone.
    let Ok(records) = records_of(batch) else { return true };
    records.iter().all(|stored| stored.record.key.as_ref().is_none_or(|key| map.note(key, stored.offset)))
}

/// What one cleaning goes by.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// The newest offsets of the keys.
    pub newest: &'a OffsetMap,
    /// The broker's time.
    pub now: Timestamp,
    /// `delete.retention.ms`.
    pub delete_retention_ms: u64,
    /// True for the base offset of a batch that the log knows a producer by.
    pub names_producer: &'a dyn Fn(Offset) -> bool,
    /// Below it nothing is left that a tombstone deletes, whatever this cleaning leaves alone.
    pub always_sound_below: Offset,
    /// The same, unless this cleaning leaves something alone below the tombstone.
    pub sound_below: Offset,
}

impl std::fmt::Debug for Rules<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").field("now", &self.now).finish_non_exhaustive()
    }
}

/// What a cleaning made of some consecutive batches.
#[derive(Debug, Default)]
pub struct Cleaned {
    /// They cover the offsets that went in.
    pub batches: Vec<PlacedBatch>,
    /// Something is not as it went in.
    pub is_changed: bool,
    /// Records dropped.
    pub records_removed: u64,
    /// The earliest time at which a tombstone in them may go.
    pub horizon: Option<Timestamp>,
    /// The first batch that stays as it is although records in it may have been superseded.
    pub left_alone: Option<Offset>,
}

/// Cleans consecutive batches.
pub struct Cleaner<'a> {
    rules: Rules<'a>,
    cleaned: Cleaned,
}

impl std::fmt::Debug for Cleaner<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cleaner").field("cleaned", &self.cleaned).finish_non_exhaustive()
    }
}

impl<'a> Cleaner<'a> {
    /// Begins with nothing.
    pub fn new(rules: Rules<'a>) -> Self {
        Self { rules, cleaned: Cleaned::default() }
    }

    /// Takes the next batch.
    pub fn push(&mut self, batch: PlacedBatch) {
        if batch.is_control() {
            return self.keep(batch);
        }
        if !is_cleanable(&batch) {
            return self.leave_alone(batch);
        }
        // What cannot be read is for its readers to judge.
        let Ok(records) = records_of(&batch) else { return self.leave_alone(batch) };
        let before = records.len();
        let kept: Vec<StoredRecord> =
            records.into_iter().filter(|stored| !self.is_superseded(stored) && !self.is_over(&batch, stored)).collect();
        let removed = (before - kept.len()) as u64;
        if kept.is_empty() {
            self.cleaned.records_removed += removed;
            return self.empty(batch, removed > 0);
        }
        // One that has to stay waits for no horizon.
        let has_tombstone = self.is_sound(batch.last_offset()) && kept.iter().any(is_tombstone);
        let set_horizon = (has_tombstone && batch.delete_horizon().is_none()).then(|| {
            let wait_ms = i64::try_from(self.rules.delete_retention_ms).unwrap_or(i64::MAX);
            Timestamp::from_millis(self.rules.now.as_millis().saturating_add(wait_ms))
        });
        if removed == 0 && set_horizon.is_none() {
            if has_tombstone {
                self.remember(batch.delete_horizon());
            }
            return self.keep(batch);
        }
        match batch.with_records(&kept, set_horizon) {
            Ok(left) if left.size_bytes() <= BATCH_BYTES_MAX => {
                if has_tombstone {
                    self.remember(left.delete_horizon());
                }
                self.cleaned.records_removed += removed;
                self.cleaned.is_changed = true;
                self.cleaned.batches.push(left);
            }
            // Another encoder made it smaller: it stays whole.
            Ok(_) | Err(_) => self.leave_alone(batch),
        }
    }

    /// What became of everything taken.
    pub fn finish(self) -> Cleaned {
        self.cleaned
    }

    fn keep(&mut self, batch: PlacedBatch) {
        self.cleaned.batches.push(batch);
    }

    fn leave_alone(&mut self, batch: PlacedBatch) {
        self.cleaned.left_alone.get_or_insert(batch.base_offset());
        self.keep(batch);
    }

    /// True when nothing is left of what a tombstone at `offset` deletes.
    fn is_sound(&self, offset: Offset) -> bool {
        let is_whole = self.cleaned.left_alone.is_none_or(|left| offset < left);
        offset < self.rules.always_sound_below || (offset < self.rules.sound_below && is_whole)
    }

    /// Nothing of `batch` is left but its offsets, and perhaps its producer.
    fn empty(&mut self, batch: PlacedBatch, had_records: bool) {
        if batch.producer().is_some() && (self.rules.names_producer)(batch.base_offset()) {
            self.cleaned.is_changed |= had_records;
            let emptied = if had_records { batch.with_records(&[], None).ok() } else { None };
            return self.keep(emptied.unwrap_or(batch));
        }
        let (mut base, mut newest) = (batch.base_offset(), batch.max_timestamp());
        let (next, epoch) = (batch.next_offset(), batch.leader_epoch());
        let joins = self.cleaned.batches.last().filter(|last| {
            last.is_placeholder()
                && last.leader_epoch() == epoch
                && PlacedBatch::placeholder(last.base_offset(), next, epoch, newest).is_some()
        });
        if let Some(last) = joins {
            (base, newest) = (last.base_offset(), newest.max(last.max_timestamp()));
            self.cleaned.batches.pop();
        } else if batch.is_placeholder() {
            return self.keep(batch);
        }
        // Both were checked: one batch's offsets always fit, and so do those of the two.
        match PlacedBatch::placeholder(base, next, epoch, newest) {
            Some(placeholder) => {
                self.cleaned.is_changed = true;
                self.keep(placeholder);
            }
            None => self.keep(batch),
        }
    }

    fn is_superseded(&self, stored: &StoredRecord) -> bool {
        let newest = stored.record.key.as_ref().and_then(|key| self.rules.newest.newest(key));
        newest.is_some_and(|newest| newest > stored.offset)
    }

    /// True for a tombstone that every consumer has had time to see.
    fn is_over(&self, batch: &PlacedBatch, stored: &StoredRecord) -> bool {
        is_tombstone(stored)
            && self.is_sound(stored.offset)
            && batch.delete_horizon().is_some_and(|horizon| horizon <= self.rules.now)
    }

    fn remember(&mut self, horizon: Option<Timestamp>) {
        if let Some(horizon) = horizon {
            self.cleaned.horizon = Some(self.cleaned.horizon.map_or(horizon, |known| known.min(horizon)));
        }
    }
}

/// True for a batch whose records may go one by one.
fn is_cleanable(batch: &PlacedBatch) -> bool {
    !batch.is_control() && !batch.header().is_transactional()
}

/// A record that deletes its key.
fn is_tombstone(stored: &StoredRecord) -> bool {
    stored.record.key.is_some() && stored.record.value.is_none()
}

pub(crate) fn records_of(batch: &PlacedBatch) -> Result<Vec<StoredRecord>, BatchError> {
    if batch.record_count() == 0 {
        return Ok(Vec::new());
    }
    batch.records(EXPANDED_BYTES_MAX)?.collect()
}

/// The stored batch in `bytes` without what lies before `from`, when it is a placeholder that begins earlier: a replica
/// may ask from inside of it.
pub(crate) fn clip_placeholder(bytes: Bytes, from: Offset) -> Bytes {
    // Batches with records, nearly all, cost no more than this.
    if !BatchHeader::parse(&bytes).is_ok_and(|header| header.record_count == 0) {
        return bytes;
    }
    // A batch that does not prove is the reader's to refuse.
    match PlacedBatch::verify_stored(bytes.clone()) {
        Ok(batch) if batch.is_placeholder() && batch.base_offset() < from => batch.placeholder_from(from).into_bytes(),
        _ => bytes,
    }
}

#[cfg(test)]
mod tests;
