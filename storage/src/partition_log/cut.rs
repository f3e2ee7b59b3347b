//! Changes of a log that are no batches: trim, truncate, restart elsewhere, a new leadership, a watermark, deletion.
//!
//! Each is one journal entry, ordered among the log's batches. The index is not touched here: what it holds above the
//! first extent in memory means nothing, and maintenance cleans it before new extents go there.

use std::ops::ControlFlow;

use bytes::Bytes;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;

use super::durable::Durable;
use super::read::Place;
use super::state::LogState;
use super::{PartitionLog, check_exists};
use crate::epoch_cache::EpochStart;
use crate::error::{AppendError, StoreError};
use crate::index::Extent;
use crate::journal::{EntryKind, Lsn, NewEntry};
use crate::producer_state::recall;

impl PartitionLog {
    /// Gives up everything below `before`; returns the new start. An offset at or below the start changes nothing.
    /// May read the index.
    ///
    /// # Errors
    /// [`StoreError::OutOfRange`] above the log end; [`StoreError::Append`] when the journal takes nothing.
    pub fn trim(&self, before: Offset) -> Result<(Offset, Durable), StoreError> {
        let _order = self.core.order.lock();
        let (start, end) = self.bounds()?;
        if before > end {
            return Err(StoreError::OutOfRange { asked: before, start, end });
        }
        if before <= start && self.synced_start() >= start {
            return Ok((start, Durable::at_once()));
        }
        // What gave it up before may be on its way to the disk still, and fail there: once more, with a promise of its own.
        let before = before.max(start);
        let gone = self.index_bytes(start, before, |extent| start < extent.next && extent.next <= before)?;
        let durable = self.change(EntryKind::Trim, before, LeaderEpoch::ZERO, |state, lsn| {
            state.accept_trim(lsn, before, gone);
        })?;
        self.store.metrics.trimmed_bytes.add(gone);
        Ok((before, durable))
    }

    /// Drops the whole log and goes on at `at`, for a replica that shares no record with its leader: above its end,
    /// when the leader has deleted everything as old as that, or below its start, when a leader of an unclean election
    /// ends there. Nothing it could keep would join what it copies next, and a log has no gaps. Epochs and producers
    /// start anew. Until the restart is on stable storage the durable end stays where it was, or falls to the new
    /// start: a crash before brings the old log back. May read the index.
    ///
    /// # Errors
    /// [`StoreError::OutOfRange`] from the log start to its end: trim or truncate is meant then.
    pub fn restart_at(&self, at: Offset) -> Result<Durable, StoreError> {
        let _order = self.core.order.lock();
        let (start, end) = self.bounds()?;
        if start <= at && at <= end {
            return Err(StoreError::OutOfRange { asked: at, start, end });
        }
        let gone = self.index_bytes(start, at.max(end), |extent| start < extent.next)?;
        let durable = match at > end {
            true => {
                self.change(EntryKind::Trim, at, LeaderEpoch::ZERO, |state, lsn| state.accept_trim(lsn, at, gone))?
            }
            false => self.change(EntryKind::Truncate, at, LeaderEpoch::ZERO, |state, lsn| {
                state.accept_restart_below(lsn, at, gone);
            })?,
        };
        self.store.cache.lock().forget_log(self.core.id);
        Ok(durable)
    }

    /// Cuts the log at `to`, or at the start of the batch that holds `to`; returns the new end. Damage that holds `to` goes
    /// too, but for what is known to be committed. An offset above the end changes nothing; the end itself takes away only a
    /// leadership of which the log holds no record (KAFKA-20961). The durable end falls at once, and a promise of a batch
    /// that was cut while it was on its way to the disk breaks with
    /// [`DurabilityLost::Truncated`](crate::error::DurabilityLost::Truncated). What it would make the log forget of producers
    /// is looked up below. May read the disk.
    ///
    /// # Errors
    /// [`StoreError::OutOfRange`] below the log start; [`StoreError::Read`] when the batch boundary cannot be read.
    pub fn truncate(&self, to: Offset) -> Result<(Offset, Durable), StoreError> {
        let _order = self.core.order.lock();
        let (start, end) = self.bounds()?;
        if to < start {
            return Err(StoreError::OutOfRange { asked: to, start, end });
        }
        let is_idle_epoch = to == end && self.latest_epoch().is_some_and(|latest| latest.start >= end);
        if to >= end && !is_idle_epoch {
            return Ok((end, Durable::at_once()));
        }
        // A batch that straddles the start is kept from the start on.
        // Asked before the boundary is looked up: what is committed meanwhile is then in one of the two.
        let rewriting = self.core.state.lock().rewriting_batches();
        let boundary = if is_idle_epoch { end } else { self.batch_boundary(to)? };
        let across = rewriting.into_iter().find(|batch| batch.start < boundary && boundary < batch.end);
        let new_end = across.map_or(boundary, |batch| batch.start).max(start);
        let gone = self.index_bytes(new_end, end, |extent| extent.base >= new_end)?;
        let mut recalled = self.recall_producers(new_end)?;
        // One entry has to hold it.
        let bytes_max = usize::try_from(self.store.config.batch_bytes_max).unwrap_or(usize::MAX);
        let said = recall::encode(&mut recalled, bytes_max);
        let cut = (EntryKind::Truncate, new_end, LeaderEpoch::ZERO);
        let durable = self.change_saying(cut, said.into(), |state, lsn| {
            state.accept_truncate(lsn, new_end, gone, &recalled);
        })?;
        self.store.cache.lock().truncate(self.core.id, new_end);
        Ok((new_end, durable))
    }

    /// Records that a leadership begins at the log end, even if no record follows (KAFKA-7415).
    ///
    /// # Errors
    /// [`AppendError::StaleEpoch`] when a newer one is known.
    pub fn start_epoch(&self, epoch: LeaderEpoch) -> Result<Durable, StoreError> {
        let _order = self.core.order.lock();
        let (_, end) = self.bounds()?;
        if let Some(latest) = self.latest_epoch()
            && latest.epoch > epoch
        {
            return Err(AppendError::StaleEpoch { current: latest.epoch, found: epoch }.into());
        }
        let durable = self.change(EntryKind::EpochStart, end, epoch, |state, lsn| {
            state.accept_epoch(lsn, EpochStart { epoch, start: end });
        })?;
        Ok(durable)
    }

    /// Records what is known to be committed, if that is news; true when there is an entry of it now.
    pub(crate) fn record_committed(&self) -> Result<bool, StoreError> {
        let _order = self.core.order.lock();
        let Some(committed) = self.core.state.lock().unrecorded() else { return Ok(false) };
        self.change(EntryKind::Checkpoint, committed, LeaderEpoch::ZERO, |state, lsn| {
            state.accept_committed(lsn, committed);
        })?;
        Ok(true)
    }

    /// Deletes the log. Readers and appenders are told at once; its space comes back once the deletion is durable.
    pub(crate) fn delete(&self) -> Result<Durable, StoreError> {
        let _order = self.core.order.lock();
        self.bounds()?;
        let durable = self.change(EntryKind::LogDeleted, Offset::ZERO, LeaderEpoch::ZERO, |state, lsn| {
            state.accept_deletion(lsn);
        })?;
        self.store.cache.lock().forget_log(self.core.id);
        Ok(durable)
    }

    /// Journals a change and applies it. The caller holds the order lock.
    fn change(
        &self,
        kind: EntryKind,
        base: Offset,
        epoch: LeaderEpoch,
        accept: impl FnOnce(&mut LogState, Lsn),
    ) -> Result<Durable, StoreError> {
        self.change_saying((kind, base, epoch), Bytes::new(), accept)
    }

    /// The same, with more to say.
    fn change_saying(
        &self,
        (kind, base, epoch): (EntryKind, Offset, LeaderEpoch),
        payload: Bytes,
        accept: impl FnOnce(&mut LogState, Lsn),
    ) -> Result<Durable, StoreError> {
        let entry =
            NewEntry { log: self.core.id, kind, base, last: base, epoch, max_timestamp: Timestamp::NONE, payload };
        let lsn = self.store.journal.append(entry).map_err(AppendError::from)?;
        let mut state = self.core.state.lock();
        accept(&mut state, lsn);
        let durable = self.promise(&mut state, lsn);
        self.settle(&mut state);
        Ok(durable)
    }

    fn bounds(&self) -> Result<(Offset, Offset), StoreError> {
        let state = self.core.state.lock();
        check_exists(&state)?;
        Ok((state.start, state.end))
    }

    /// The base of the batch that holds `to`; near it, where this disk has lost that batch.
    fn batch_boundary(&self, to: Offset) -> Result<Offset, StoreError> {
        // What log compaction has stored anew may have other boundaries than what is cached.
        let is_as_cached = {
            let state = self.core.state.lock();
            state.rewrites == 0 || to >= state.synced_end
        };
        if is_as_cached && let Some(base) = self.store.cache.lock().base_of(self.core.id, to) {
            return Ok(base);
        }
        let mut looked_again = false;
        loop {
            let extent = match self.locate(to)? {
                Place::Damaged(range) => return Ok(self.keeps_committed(range.base, to)),
                Place::Extent(extent) => extent,
            };
            let batches = self.read_extent(&extent)?;
            let hole = match batches.iter().rev().find(|batch| batch.base <= to) {
                Some(batch) if to < batch.next => return Ok(batch.base),
                Some(batch) => batch.next,
                None => extent.base,
            };
            if hole >= to || looked_again {
                return Ok(self.keeps_committed(hole, to));
            }
            // Damage that nobody had met, or a disk that answers better the second time.
            self.note_hole(&extent, hole.max(self.log_start()))?;
            looked_again = true;
        }
    }

    /// Where a log is cut whose damage begins at `base` and holds `to`. What is damaged goes as a whole, since nobody knows
    /// where its batches begin, but for what is known to be committed: that stays, as damage. Others have it, and a shorter
    /// log would say that it never was.
    fn keeps_committed(&self, base: Offset, to: Offset) -> Offset {
        let committed = self.core.state.lock().committed();
        if committed <= to { base.max(committed) } else { base }
    }

    /// Batch bytes of the extents in the index between the one that holds `from` and `to` that `gone` says are lost.
    fn index_bytes(&self, from: Offset, to: Offset, gone: impl Fn(&Extent) -> bool) -> Result<u64, StoreError> {
        // Above the first extent in memory the index means nothing.
        let to = to.min({
            let state = self.core.state.lock();
            state.index_end()
        });
        let mut bytes = 0;
        let first = self.store.index.floor(self.core.id, from)?.map_or(from, |extent| extent.base);
        self.store.index.extents(self.core.id, first, |extent| {
            if extent.base >= to {
                return ControlFlow::Break(());
            }
            if gone(&extent) {
                bytes += u64::from(extent.batch_bytes);
            }
            ControlFlow::Continue(())
        })?;
        Ok(bytes)
    }
}
