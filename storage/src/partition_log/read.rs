//! Reads that need the disk: find the extent, read it whole, prove every batch, and never take damage for an end.
//!
//! A reader holds no lock while it reads. What it may race with, and what then happens:
//! - extents moving from memory to the index: they are put there before they leave memory, and memory is asked first;
//! - trimming and recycling: the journal answers that the segment is gone, and the log start says why;
//! - compaction: the segment is gone too, and a second lookup names another extent;
//! - truncation: the log's generation has changed when the reader is done, and it reads again.
//!
//! A hole that none of these explains is damage: it is remembered and reported, and reading can go on behind it.

use std::io::ErrorKind;

use bytes::Bytes;
use streambus_protocol::offset::Offset;

use super::damage::DamagedOffsets;
use super::salvage::salvage_entries;
use super::{PartitionLog, ReadLimit, clipped};
use crate::error::ReadError;
use crate::index::Extent;
use crate::journal::{self, DamagedRange, ReplayedEntry};

/// A read that must run where blocking is allowed.
#[derive(Clone, Debug)]
pub struct DiskRead {
    log: PartitionLog,
    from: Offset,
    limit: ReadLimit,
}

/// One whole batch read back and proven.
#[derive(Clone, Debug)]
pub(super) struct StoredBatch {
    pub(super) base: Offset,
    pub(super) next: Offset,
    pub(super) bytes: Bytes,
}

/// Where an offset is to be found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Extent(Extent),
    Damaged(DamagedOffsets),
}

/// The bounds a read started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct View {
    below: Offset,
    generation: u32,
}

impl DiskRead {
    pub(super) fn new(log: PartitionLog, from: Offset, limit: ReadLimit) -> Self {
        Self { log, from, limit }
    }

    /// Reads, blocking: whole batches, the first holding the asked offset, and the offset after them.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] when the first batch is damaged; damage behind good batches ends the read early, so the
    /// next one reports it. [`ReadError::OutOfRange`] also when the log was trimmed or truncated meanwhile.
    pub fn run(self) -> Result<(Vec<Bytes>, Offset), ReadError> {
        loop {
            let view = self.view()?;
            let found = self.collect(view);
            if let Err(ReadError::Index(error)) = &found {
                self.log.store.index_failed(error);
            }
            // Whatever was found counts only when no truncation came between; a trim since then explains an error.
            match self.view() {
                Ok(now) if now.generation == view.generation => {
                    return found.map(|(batches, next)| (clipped(batches, self.from), next));
                }
                Ok(_) => {}
                Err(gone) => return Err(gone),
            }
        }
    }

    fn view(&self) -> Result<View, ReadError> {
        let state = self.log.core.state.lock();
        if state.deleted {
            return Err(ReadError::Deleted);
        }
        if self.from < state.start || self.from > state.end {
            return Err(ReadError::OutOfRange { start: state.start, end: state.end });
        }
        Ok(View { below: self.limit.below.min(state.end), generation: state.generation })
    }

    fn collect(&self, view: View) -> Result<(Vec<Bytes>, Offset), ReadError> {
        let log = &self.log;
        let (mut found, mut bytes, mut cursor) = (Vec::new(), 0, self.from);
        while cursor < view.below && (found.is_empty() || bytes < self.limit.bytes_max) {
            let left = self.limit.bytes_max.saturating_sub(bytes);
            if let Some((batches, next)) = log.store.cache.lock().read(log.core.id, cursor, view.below, left) {
                found.extend(batches);
                return Ok((found, next));
            }
            let extent = match log.locate(cursor) {
                Ok(Place::Extent(extent)) => extent,
                Ok(Place::Damaged(range)) if found.is_empty() => {
                    log.store.metrics.damaged_reads.increment();
                    return Err(ReadError::Damaged { base: cursor, next: range.next });
                }
                Ok(Place::Damaged(_)) => return Ok((found, cursor)),
                Err(error) if found.is_empty() => return Err(error),
                Err(_) => return Ok((found, cursor)),
            };
            let batches = match log.read_extent(&extent) {
                Ok(batches) => batches,
                Err(error) if found.is_empty() => return Err(error),
                Err(_) => return Ok((found, cursor)),
            };
            let before = cursor;
            for batch in batches {
                if batch.next <= cursor {
                    continue;
                }
                if batch.base > cursor {
                    // The extent has a hole here; the next round reports it.
                    break;
                }
                if batch.next > view.below || (!found.is_empty() && bytes + batch.bytes.len() > self.limit.bytes_max) {
                    return Ok((found, cursor));
                }
                bytes += batch.bytes.len();
                cursor = batch.next;
                found.push(batch.bytes);
            }
            if cursor < extent.next && (cursor == before || cursor < view.below) {
                log.note_hole(&extent, cursor)?;
            }
        }
        Ok((found, cursor))
    }
}

impl PartitionLog {
    /// Where the batch that holds `offset` lies. The offset is below the log end and not cached.
    pub(super) fn locate(&self, offset: Offset) -> Result<Place, ReadError> {
        match self.locate_once(offset)? {
            Ok(place) => Ok(place),
            // A hole. Extents move from memory to the index while one looks: look again before calling it damage.
            Err(_) => match self.locate_once(offset)? {
                Ok(place) => Ok(place),
                Err(hole) => {
                    let next = {
                        let state = self.core.state.lock();
                        let anew = [state.repaired.first_from(offset), state.rewritten.first_from(offset)];
                        anew.into_iter().flatten().fold(hole.next, |next, extent| next.min(extent.base))
                    };
                    let hole = DamagedOffsets { next, ..hole };
                    self.mark_damaged(hole, "no extent covers these offsets")?;
                    Ok(Place::Damaged(hole))
                }
            },
        }
    }

    /// Where the extent, or the damage, that holds `offset` ends.
    pub(crate) fn extent_end(&self, offset: Offset) -> Result<Offset, ReadError> {
        Ok(match self.locate(offset)? {
            Place::Extent(extent) => extent.next,
            Place::Damaged(range) => range.next,
        })
    }

    /// The place of `offset`, or the hole around it.
    fn locate_once(&self, offset: Offset) -> Result<Result<Place, DamagedOffsets>, ReadError> {
        let index_end = {
            let state = self.core.state.lock();
            if offset < state.start {
                return Err(ReadError::OutOfRange { start: state.start, end: state.end });
            }
            if let Some(extent) = state.repaired.find(offset) {
                return Ok(Ok(Place::Extent(extent)));
            }
            if let Some(range) = state.damage.at(offset) {
                return Ok(Ok(Place::Damaged(range)));
            }
            if let Some(extent) = state.rewritten.find(offset) {
                return Ok(Ok(Place::Extent(extent)));
            }
            if let Some(extent) = state.extents.find(offset) {
                return Ok(Ok(Place::Extent(extent)));
            }
            if offset >= state.synced_end {
                // Not durable yet, so in the cache, unless the log was restarted this moment.
                return Err(ReadError::OutOfRange { start: state.start, end: state.synced_end });
            }
            let index_end = state.index_end();
            if index_end <= offset {
                let next = state.extents.first_above(offset).map_or(state.synced_end, |extent| extent.base);
                return Ok(Err(DamagedOffsets { base: offset, next }));
            }
            index_end
        };
        if let Some(mut extent) = self.store.index.floor(self.core.id, offset)?
            && extent.next > offset
        {
            extent.next = extent.next.min(index_end);
            return Ok(Ok(Place::Extent(extent)));
        }
        let mut next = index_end;
        self.store.index.extents(self.core.id, offset, |extent| {
            next = next.min(extent.base);
            std::ops::ControlFlow::Break(())
        })?;
        Ok(Err(DamagedOffsets { base: offset, next }))
    }

    /// Every batch of this log in `extent` that can be proven, in order.
    pub(super) fn read_extent(&self, extent: &Extent) -> Result<Vec<StoredBatch>, ReadError> {
        let (segment, position, length) = (extent.segment, extent.position, u64::from(extent.length));
        let reader = &self.store.reader;
        let bytes = match reader.read_range(segment, position, length) {
            Ok(bytes) => bytes,
            Err(error @ (journal::ReadError::NoSegment(_) | journal::ReadError::OutOfSegment { .. })) => {
                return self.explain_missing(extent, error);
            }
            // Only what the device refuses is lost; what cannot be proven is remembered and not asked for again.
            Err(journal::ReadError::Io { source, .. }) if source.kind() != ErrorKind::NotFound => {
                reader.salvage_range(segment, position, length)?
            }
            Err(error @ journal::ReadError::Io { .. }) => return self.explain_missing(extent, error),
            Err(error) => return Err(error.into()),
        };
        self.store.metrics.disk_read_bytes.add(length);
        let seed = reader.checksum_seed();
        let entries = match journal::reader::parse_entries(&bytes, segment, position, seed) {
            Ok(entries) => entries,
            Err(_) => salvage_entries(&bytes, segment, position, seed),
        };
        Ok(entries.into_iter().filter_map(|entry| self.own_batch(entry, extent)).collect())
    }

    /// The batch in `entry` when it is one of this log and not truncated away.
    fn own_batch(&self, entry: ReplayedEntry, extent: &Extent) -> Option<StoredBatch> {
        let ReplayedEntry { entry, payload } = entry;
        let next = entry.last.next()?;
        let own = entry.log == self.core.id && entry.kind.holds_batch();
        (own && extent.base <= entry.base && next <= extent.next).then_some(StoredBatch {
            base: entry.base,
            next,
            bytes: payload,
        })
    }

    /// The journal has no such segment: fine when the log was trimmed past it, else everything there is lost.
    fn explain_missing(&self, extent: &Extent, error: journal::ReadError) -> Result<Vec<StoredBatch>, ReadError> {
        let start = self.log_start();
        if extent.next <= start {
            return Err(ReadError::OutOfRange { start, end: self.log_end() });
        }
        let (is_here, _) = self.is_current(extent, extent.base.max(start), extent.next)?;
        if !is_here {
            return Ok(Vec::new());
        }
        tracing::error!(log = %self.core.partition, %error, "the index names journal bytes that are not there");
        Ok(Vec::new())
    }

    /// `extent` holds nothing valid at `from`: everything up to its next valid batch is damaged.
    pub(super) fn note_hole(&self, extent: &Extent, from: Offset) -> Result<(), ReadError> {
        let batches = self.read_extent(extent)?;
        let next = batches.iter().map(|batch| batch.base).find(|base| *base > from).unwrap_or(extent.next);
        if batches.iter().any(|batch| batch.base <= from && from < batch.next) {
            // Read well the second time: a flaky disk, not damage.
            return Ok(());
        }
        self.mark_hole(extent, DamagedOffsets { base: from, next })
    }

    /// True while `extent` is where the log has `offset`, damaged or not, and no other took its place; and the offset up to
    /// which that answer holds, at most `until`.
    fn is_current(&self, extent: &Extent, offset: Offset, until: Offset) -> Result<(bool, Offset), ReadError> {
        let is_same = |now: &Extent| (now.segment, now.position) == (extent.segment, extent.position);
        let until = {
            let state = self.core.state.lock();
            // What was repaired wins over what was rewritten, and both over what lies in order.
            let mut until = until;
            for overlay in [&state.repaired, &state.rewritten] {
                match overlay.first_from(offset) {
                    Some(now) if now.base <= offset => return Ok((is_same(&now), until.min(now.next))),
                    Some(above) => until = until.min(above.base),
                    None => {}
                }
            }
            if let Some(now) = state.extents.find(offset) {
                return Ok((is_same(&now), until.min(now.next)));
            }
            until
        };
        let index = &self.store.index;
        if let Some(now) = index.floor(self.core.id, offset)?.filter(|now| now.next > offset) {
            return Ok((is_same(&now), until.min(now.next)));
        }
        let mut next = until;
        index.extents(self.core.id, offset, |above| {
            next = next.min(above.base);
            std::ops::ControlFlow::Break(())
        })?;
        Ok((false, next))
    }

    /// Remembers a hole in `extent` as damage, but for what was stored anew elsewhere.
    fn mark_hole(&self, extent: &Extent, hole: DamagedOffsets) -> Result<(), ReadError> {
        let mut cursor = hole.base;
        while cursor < hole.next {
            let (is_here, next) = self.is_current(extent, cursor, hole.next)?;
            assert!(cursor < next, "every answer is about at least one offset");
            if is_here {
                self.mark_damaged(DamagedOffsets { base: cursor, next }, "a stored batch does not prove")?;
            }
            cursor = next;
        }
        Ok(())
    }

    /// Remembers damage, unless the log has given up those offsets meanwhile.
    pub(super) fn mark_damaged(&self, range: DamagedOffsets, what: &'static str) -> Result<(), ReadError> {
        let mut state = self.core.state.lock();
        if range.base < state.start || range.base >= state.end {
            return Err(ReadError::OutOfRange { start: state.start, end: state.end });
        }
        let next = range.next.min(state.end);
        state.repaired.forget(range.base, next);
        if state.damage.add(range.base, next) {
            self.store.metrics.damage_found.increment();
            tracing::error!(
                log = %self.core.partition, base = %range.base, next = %range.next,
                "{what}: the range is damaged on this disk and is not served"
            );
        }
        Ok(())
    }
}

impl PartitionLog {
    /// Remembers as damage what cannot be proven around `offset`, if the log has it.
    pub(crate) fn look_at(&self, offset: Offset) -> Result<(), ReadError> {
        let looked = self.locate(offset.max(self.log_start())).and_then(|place| match place {
            Place::Extent(extent) => self.verify_extent(&extent),
            Place::Damaged(_) => Ok(()),
        });
        match looked {
            Err(ReadError::OutOfRange { .. } | ReadError::Deleted) => Ok(()),
            looked => looked,
        }
    }

    /// Remembers `base..next` as damage when the log has it in an older place than `lost`, which does not prove.
    pub(crate) fn mark_unless_newer(&self, lost: &DamagedRange, base: Offset, next: Offset) -> Result<(), ReadError> {
        let base = base.max(self.log_start());
        match self.locate(base) {
            Ok(Place::Extent(extent)) if (extent.segment, extent.position) < (lost.segment, lost.position) => {
                self.mark_damaged(DamagedOffsets { base, next }, "a compacted batch does not prove")
            }
            Ok(Place::Extent(_) | Place::Damaged(_)) | Err(ReadError::OutOfRange { .. } | ReadError::Deleted) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads `extent` and remembers every range in it that does not prove.
    pub(crate) fn verify_extent(&self, extent: &Extent) -> Result<(), ReadError> {
        let start = self.log_start();
        let mut cursor = extent.base.max(start);
        for batch in self.read_extent(extent)? {
            if batch.base > cursor {
                self.mark_hole(extent, DamagedOffsets { base: cursor, next: batch.base })?;
            }
            cursor = cursor.max(batch.next);
        }
        if cursor < extent.next {
            self.mark_hole(extent, DamagedOffsets { base: cursor, next: extent.next })?;
        }
        Ok(())
    }
}
