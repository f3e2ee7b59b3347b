//! Storing batches anew whose first copy this disk has lost.
//!
//! Each batch becomes a journal entry of the kind `Repair`: it has the place, the epoch and the bytes of the batch it
//! replaces, and neither moves the log end nor speaks of producers. The damage mark goes when the entry is durable. Of a log
//! that is compacted, records that were deleted are left out: see [`PartitionLog::repair_but`].

use bytes::Bytes;
use streambus_protocol::batch::PlacedBatch;
use streambus_protocol::offset::Offset;

use super::durable::Durable;
use super::read::Place;
use super::{PartitionLog, Read, ReadLimit, check_exists};
use crate::cleaner::deletions::{Deleted, Deletions, without};
use crate::cleaner::records_of;
use crate::error::{AppendError, ReadError, RepairError};
use crate::journal::{EntryKind, NewEntry};

/// Separate repaired stretches that one log may have.
const REPAIRED_MAX: usize = 16_384;

impl PartitionLog {
    /// Stores `batches`, in the order of their offsets, in place of the damaged ones with the same offsets: as another
    /// replica has them, base and last offset, leader epoch and every byte. Each must lie in damage of this log, below
    /// its synced end; one that was trimmed or repaired meanwhile is passed over. The range is served, and no longer
    /// counted as damaged, once the answer resolves. May read the disk.
    ///
    /// # Errors
    /// See [`RepairError`]. On [`RepairError::Append`] the batches before the refused one are repaired all the same; on
    /// any other nothing was stored.
    pub fn repair(&self, batches: Vec<Bytes>) -> Result<Durable, RepairError> {
        self.repair_but(batches, &Deletions::default())
    }

    /// As [`PartitionLog::repair`], but for the records that were deleted, as the other replica knows, by a tombstone that
    /// this log has dropped: they must not come back. A record whose tombstone is still here, or cannot be read, stays.
    ///
    /// # Errors
    /// As of [`PartitionLog::repair`]; [`RepairError::Moving`] while it cannot be told whether a tombstone is here.
    pub fn repair_but(&self, batches: Vec<Bytes>, deletions: &Deletions) -> Result<Durable, RepairError> {
        let verify = |bytes| PlacedBatch::verify_stored(bytes).map_err(|error| RepairError::Invalid(error.to_string()));
        let batches = batches.into_iter().map(verify).collect::<Result<Vec<_>, _>>()?;
        if !batches.is_sorted_by(|a, b| a.next_offset() <= b.base_offset()) {
            return Err(RepairError::Invalid("the batches are not in the order of their offsets".to_owned()));
        }
        // Under it nothing is stored anew: what is here stays until the repair is accepted.
        let _order = self.core.order.lock();
        let mut wanted = Vec::with_capacity(batches.len());
        for batch in batches {
            if self.wants_repair(&batch)? {
                let gone = self.dropped(&deletions.within(&batch))?;
                wanted.push(without(batch, &gone));
            }
        }
        let mut durable = Durable::at_once();
        for batch in wanted {
            let (size, next) = (batch.size_bytes() as u64, batch.next_offset());
            let base = batch.base_offset();
            let entry = NewEntry {
                log: self.core.id,
                kind: EntryKind::Repair,
                base,
                last: batch.last_offset(),
                epoch: batch.leader_epoch(),
                max_timestamp: batch.max_timestamp(),
                payload: batch.into_bytes(),
            };
            let lsn = self.store.journal.append(entry).map_err(AppendError::from)?;
            self.store.metrics.batches_repaired.increment();
            self.store.metrics.bytes_repaired.add(size);
            let mut state = self.core.state.lock();
            state.accept_repair(lsn, base, next);
            durable = self.promise(&mut state, lsn);
            self.settle(&mut state);
        }
        Ok(durable)
    }

    /// The records of `deleted` whose tombstones this log has dropped.
    fn dropped(&self, deleted: &[Deleted]) -> Result<Vec<Offset>, RepairError> {
        let mut gone = Vec::new();
        for Deleted { record, tombstone } in deleted.iter().copied() {
            let end = tombstone.next().unwrap_or(Offset::MAX);
            if self.core.state.lock().is_rewriting_within(tombstone, end) {
                return Err(RepairError::Moving(tombstone));
            }
            if self.lacks_record(tombstone)? {
                gone.push(record);
            }
        }
        Ok(gone)
    }

    /// True when the batch that holds `offset` can be read and has no such record: compaction took it.
    fn lacks_record(&self, offset: Offset) -> Result<bool, ReadError> {
        let limit = ReadLimit { bytes_max: 1, below: Offset::MAX };
        let found = match self.read(offset, limit) {
            Ok(Read::Ready(batches, _)) => Ok(batches),
            Ok(Read::Disk(read)) => read.run().map(|(batches, _)| batches),
            Err(error) => Err(error),
        };
        let batches = match found {
            Ok(batches) => batches,
            // Lost as well, or given up: nobody knows whether it was here.
            Err(ReadError::Damaged { .. } | ReadError::OutOfRange { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        // So with one that this version cannot read.
        let batch = batches.into_iter().next().and_then(|bytes| PlacedBatch::verify_stored(bytes).ok());
        let records = batch.and_then(|batch| records_of(&batch).ok());
        Ok(records.is_some_and(|records| records.iter().all(|stored| stored.offset != offset)))
    }

    /// True when `batch` replaces damage; false when there is nothing to do.
    fn wants_repair(&self, batch: &PlacedBatch) -> Result<bool, RepairError> {
        let (base, next) = {
            let mut state = self.core.state.lock();
            check_exists(&state)?;
            let (base, next) = (batch.base_offset().max(state.start), batch.next_offset());
            if next > state.synced_end {
                return Err(ReadError::OutOfRange { start: state.start, end: state.synced_end }.into());
            }
            if next <= state.start {
                return Ok(false);
            }
            if state.repaired.rest_of(base, next).is_empty() {
                // Very many damaged ranges were merged over it: whoever goes by them would ask for it again and again.
                state.damage.remove(base, next);
                return Ok(false);
            }
            if state.repaired.as_slice().len() >= REPAIRED_MAX {
                return Err(RepairError::TooMany { limit: REPAIRED_MAX });
            }
            (base, next)
        };
        if self.is_damaged(base, next) {
            return self.check_epoch(batch, base).map(|()| true);
        }
        // Damage is known from where somebody met it; the batch may begin before, or nobody has looked yet.
        for offset in [base, batch.last_offset()] {
            if let Place::Extent(extent) = self.locate(offset)? {
                self.verify_extent(&extent)?;
            }
        }
        if !self.is_damaged(base, next) {
            return Err(RepairError::NotDamaged { base, next });
        }
        self.check_epoch(batch, base).map(|()| true)
    }

    /// Checks that the batch's leadership lies between those around the damage that holds `base`. Within it more may have
    /// begun than the log knows of.
    fn check_epoch(&self, batch: &PlacedBatch, base: Offset) -> Result<(), RepairError> {
        let state = self.core.state.lock();
        let behind = state.damage.at(base).map_or(batch.next_offset(), |range| range.next);
        let (floor, ceiling) = (state.epochs.epoch_at(base), state.epochs.epoch_at(behind));
        let found = batch.leader_epoch();
        if floor.is_some_and(|floor| found < floor) || ceiling.is_some_and(|ceiling| found > ceiling) {
            return Err(RepairError::Epoch { base, found });
        }
        Ok(())
    }

    fn is_damaged(&self, base: Offset, next: Offset) -> bool {
        let state = self.core.state.lock();
        let mut rest = state.repaired.rest_of(base, next).into_iter();
        rest.all(|(mut cursor, next)| {
            while let Some(range) = state.damage.at(cursor)
                && cursor < next
            {
                cursor = range.next;
            }
            cursor >= next
        })
    }
}
