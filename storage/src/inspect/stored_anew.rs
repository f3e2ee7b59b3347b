//! Which damaged batches were stored anew: told by their place, or, behind a damaged entry header, by what they are.
//!
//! A damaged header says nothing any more: not whose entry it is, nor which offsets. The batch behind it may be whole and
//! says its offsets itself, but not its log. A repair of the very same bytes is its copy, and speaks for one such batch
//! only: logs may have equal ones.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use streambus_protocol::batch::{BatchHeader, PlacedBatch};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::offset::Offset;

use super::BatchPlace;
use crate::disk::{Disk, OpenHow};
use crate::journal::entry::{ENTRY_ALIGN_BYTES, ENTRY_HEADER_BYTES};
use crate::journal::segment::segment_file_name;
use crate::journal::{DamageReason, DamagedRange, LogId, ReplayedEntry};

/// What tells a stored batch from every other, but for an equal one of another log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Likeness {
    base: Offset,
    last: Offset,
    epoch: LeaderEpoch,
    bytes: usize,
    crc32c: u32,
}

impl Likeness {
    fn of(batch: &PlacedBatch) -> Self {
        Self {
            base: batch.base_offset(),
            last: batch.last_offset(),
            epoch: batch.leader_epoch(),
            bytes: batch.size_bytes(),
            crc32c: crc32c::crc32c(batch.as_bytes()),
        }
    }
}

/// The repairs in a journal.
#[derive(Debug, Default)]
pub(super) struct StoredAnew {
    copies: BTreeMap<BatchPlace, Vec<Likeness>>,
}

impl StoredAnew {
    /// Adds a repair.
    pub(super) fn add(&mut self, repair: &ReplayedEntry) {
        let entry = &repair.entry;
        let place = BatchPlace { log: entry.log, base: entry.base, last: entry.last };
        let copies = self.copies.entry(place).or_default();
        // A payload that this version does not know is a copy by its place all the same.
        if let Ok(batch) = PlacedBatch::verify_stored(repair.payload.clone()) {
            copies.push(Likeness::of(&batch));
        }
    }

    /// True when the batch at `place` was stored anew. A copy has its batch's borders.
    pub(super) fn has(&self, place: &BatchPlace) -> bool {
        self.copies.contains_key(place)
    }

    /// True when a batch of `log` that begins at `base` was stored anew.
    pub(super) fn begins_at(&self, log: LogId, base: Offset) -> bool {
        let from = BatchPlace { log, base, last: base };
        self.copies.range(from..).next().is_some_and(|(place, _)| (place.log, place.base) == (log, base))
    }

    /// The repair at `place` speaks for a batch that is known by its place, and for no other.
    pub(super) fn claim(&mut self, place: &BatchPlace) {
        if let Some(copies) = self.copies.get_mut(place) {
            copies.clear();
        }
    }

    /// True when each of `hidden` has a copy of its own, which speaks for no other from now on.
    pub(super) fn claim_alike(&mut self, hidden: &[Likeness]) -> bool {
        let mut claimed = Vec::with_capacity(hidden.len());
        for likeness in hidden {
            let found =
                self.copies.iter().find(|(place, copies)| copies.contains(likeness) && !claimed.contains(*place));
            let Some((place, _)) = found else { return false };
            claimed.push(*place);
        }
        claimed.iter().for_each(|place| self.claim(place));
        !hidden.is_empty()
    }
}

/// The batches behind the damaged headers of `range`: as many as entries were lost there, all of them whole, and nothing
/// else. Empty when that is not so.
pub(super) fn behind_damaged_headers(disk: &dyn Disk, range: &DamagedRange) -> Vec<Likeness> {
    let lost = range.next_lsn.and_then(|next| range.base_lsn.distance_to(next));
    let (Some(lost), DamageReason::EntryHeader, None) = (lost, range.reason, range.entry) else { return Vec::new() };
    let Some(bytes) = read(disk, range) else { return Vec::new() };
    let (mut at, mut found) = (0, Vec::new());
    while at < bytes.len() {
        let Some(batch) = batch_at(&bytes, at + ENTRY_HEADER_BYTES) else { return Vec::new() };
        at = (at + ENTRY_HEADER_BYTES + batch.size_bytes()).next_multiple_of(ENTRY_ALIGN_BYTES);
        found.push(Likeness::of(&batch));
    }
    if found.len() as u64 == lost { found } else { Vec::new() }
}

/// The batch that begins at `at`, when it proves.
fn batch_at(bytes: &Bytes, at: usize) -> Option<PlacedBatch> {
    let rest = bytes.slice(at.min(bytes.len())..);
    let size = BatchHeader::parse(&rest).ok()?.size_bytes();
    if size > rest.len() {
        return None;
    }
    PlacedBatch::verify_stored(rest.slice(..size)).ok()
}

/// The bytes of `range`; what cannot be read is damaged, and is listed as that.
fn read(disk: &dyn Disk, range: &DamagedRange) -> Option<Bytes> {
    let file = disk.open(&segment_file_name(range.segment), OpenHow::ReadOnly).ok()?;
    let mut bytes = BytesMut::zeroed(usize::try_from(range.length).ok()?);
    file.read_at(range.position, &mut bytes).ok()?;
    Some(bytes.freeze())
}
