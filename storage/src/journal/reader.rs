//! Reads committed entries back, verified, and walks whole segments for scrubbing and inspection.
//!
//! A read may race with recycling. Recycling takes the segment out of the catalog before its bytes can change, and a
//! read looks at the catalog again when it has its bytes: what it returns was read while the segment was part of the
//! journal.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::commit::{COMMIT_HEADER_BYTES, CommitHeader};
use super::entry::{ChecksumSeed, ENTRY_ALIGN_BYTES, ENTRY_HEADER_BYTES, EntryHeader, ReplayedEntry};
use super::error::ReadError;
use super::position::{Location, Lsn, SegmentId};
use super::report::{DamageReason, DamagedRange};
use super::scan::{Expected, Found, Item, SegmentCursor};
use super::segment::segment_file_name;
use super::state::{SegmentEntry, Shared};
use crate::aligned::{AlignedBuffer, BLOCK_BYTES};
use crate::disk::{DiskFile, OpenHow};

/// One segment as seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its id.
    pub id: SegmentId,
    /// Size of its file, in bytes.
    pub bytes: u64,
    /// End of its last commit, in bytes; `None` for a sealed segment that nobody has read since the start.
    pub written: Option<u64>,
    /// True when it gets no more commits.
    pub sealed: bool,
    /// The number of its first entry, when known.
    pub base_lsn: Option<Lsn>,
}

/// What one part of a scan saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScannedPart {
    /// Bytes read.
    pub bytes: u64,
    /// Valid entries handed out.
    pub entries: u64,
    /// Bytes that should be valid and are not.
    pub damaged: Vec<DamagedRange>,
    /// Where the next part starts; `None` when the segment's end is reached.
    pub next_position: Option<u64>,
}

/// Reads from one journal. Cheap to clone.
#[derive(Clone)]
pub struct JournalReader {
    shared: Arc<Shared>,
}

impl JournalReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Every segment, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let info = |entry: &Arc<SegmentEntry>| SegmentInfo {
            id: entry.id,
            bytes: entry.bytes,
            written: entry.written(),
            sealed: entry.sealed.load(Ordering::Acquire),
            base_lsn: entry.base_lsn,
        };
        self.shared.catalog.read().values().map(info).collect()
    }

    /// `length` raw bytes from `position`. Nothing is verified: see [`JournalReader::entries`].
    ///
    /// # Errors
    /// [`ReadError::NoSegment`] also when the segment was recycled during the read.
    pub fn read_range(&self, segment: SegmentId, position: u64, length: u64) -> Result<Bytes, ReadError> {
        let (entry, file) = self.open(segment, OpenHow::ReadOnly)?;
        let outside = ReadError::OutOfSegment { segment, position, length };
        let (Some(end), Ok(bytes)) = (position.checked_add(length), usize::try_from(length)) else {
            return Err(outside);
        };
        if end > entry.written().unwrap_or(entry.bytes) {
            return Err(outside);
        }
        let mut buffer = BytesMut::zeroed(bytes);
        let read = file.read_at(position, &mut buffer);
        self.still_there(segment)?;
        read.map_err(|source| ReadError::Io { segment, source })?;
        Ok(buffer.freeze())
    }

    /// As [`JournalReader::read_range`] after that failed with [`ReadError::Io`]: reads block by block, and what the
    /// device refuses comes back as zeros, which prove nothing.
    ///
    /// # Errors
    /// [`ReadError::Io`] when the device returns none of the blocks and not the segment's first one either: then it is
    /// the device that is in trouble, and nothing is known about these bytes.
    pub fn salvage_range(&self, segment: SegmentId, position: u64, length: u64) -> Result<Bytes, ReadError> {
        let (_, file) = self.open(segment, OpenHow::Scan)?;
        let mut buffer = BytesMut::zeroed(usize::try_from(length).unwrap_or(0));
        let (mut at, mut rest, mut returned, mut failure) = (position, buffer.as_mut(), false, None);
        while !rest.is_empty() {
            let to_block = BLOCK_BYTES - usize::try_from(at % BLOCK_BYTES as u64).unwrap_or(0);
            let (block, behind) = rest.split_at_mut(to_block.min(rest.len()));
            match file.read_at(at, block) {
                Ok(()) => returned = true,
                Err(source) => {
                    block.fill(0);
                    failure = Some(source);
                }
            }
            at += block.len() as u64;
            rest = behind;
        }
        self.still_there(segment)?;
        if let Some(source) = failure.filter(|_| !returned) {
            let mut first = AlignedBuffer::zeroed(BLOCK_BYTES);
            if file.read_at(0, first.as_mut_slice()).is_err() {
                return Err(ReadError::Io { segment, source });
            }
        }
        Ok(buffer.freeze())
    }

    /// The entries that lie in `length` bytes from `position`, which is the position of an entry. Commit headers and
    /// padding in between are skipped; every entry is verified.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] at the first entry that is not what was written.
    pub fn entries(&self, segment: SegmentId, position: u64, length: u64) -> Result<Vec<ReplayedEntry>, ReadError> {
        let bytes = self.read_range(segment, position, length)?;
        parse_entries(&bytes, segment, position, self.shared.seed)
    }

    /// The one entry at `location`, verified.
    ///
    /// # Errors
    /// As [`JournalReader::entries`].
    pub fn entry(&self, location: Location) -> Result<ReplayedEntry, ReadError> {
        let position = u64::from(location.position);
        let mut entries = self.entries(location.segment, position, u64::from(location.length))?;
        match (entries.pop(), entries.is_empty()) {
            (Some(entry), true) if entry.entry.location == location => Ok(entry),
            _ => Err(ReadError::Damaged { segment: location.segment, position, log: None }),
        }
    }

    /// The seed that [`parse_entries`] needs.
    pub fn checksum_seed(&self) -> ChecksumSeed {
        self.shared.seed
    }

    /// Walks the commits of `segment` from `position` (0 to start) for at least one commit and until about `bytes_max`
    /// are read, and hands every valid entry to `sink`.
    ///
    /// # Errors
    /// [`ReadError::NoSegment`] and [`ReadError::Io`] when the file does not open. Damage is no error: it is in the
    /// returned part.
    pub fn scan(
        &self,
        segment: SegmentId,
        position: u64,
        bytes_max: u64,
        sink: &mut dyn FnMut(ReplayedEntry),
    ) -> Result<ScannedPart, ReadError> {
        // Before the file is read, so that commits written meanwhile are not missed but left for the next scan.
        let (entry, file) = self.open(segment, OpenHow::Scan)?;
        let next = self.shared.catalog.read().get(&segment.next()).and_then(|next| next.first_sequence);
        let expected = Expected {
            sequence: entry.first_sequence.filter(|_| position == 0),
            lsn: entry.base_lsn.filter(|_| position == 0),
            ..Expected::default()
        };
        let mut cursor = SegmentCursor::new(file, segment, self.shared.seed, expected, next)
            .map_err(|source| ReadError::Io { segment, source })?;
        cursor.read_gently();
        cursor.seek(position);
        let end = entry.written().unwrap_or(entry.bytes);
        let mut part = ScannedPart { bytes: 0, entries: 0, damaged: Vec::new(), next_position: None };
        let start = cursor.position();
        while cursor.position() < end {
            if part.entries + part.damaged.len() as u64 > 0 && cursor.position() - start >= bytes_max {
                part.next_position = Some(cursor.position());
                break;
            }
            let before = cursor.expected;
            match cursor.next() {
                Found::Commit { items, .. } => {
                    for item in items {
                        match item {
                            Item::Entry(entry) => {
                                part.entries += 1;
                                sink(entry);
                            }
                            Item::Damage(range) => part.damaged.push(range),
                        }
                    }
                }
                Found::Gap { position, length, next } => {
                    part.damaged.push(gap(&cursor, segment, position, length, before.lsn, Some(next.first_lsn)));
                }
                Found::End { position } => {
                    // Where the segment's end is known, everything before it must be there.
                    let complete = match (next, entry.written()) {
                        (Some(next), _) => before.sequence.is_none_or(|sequence| sequence == next),
                        (None, Some(written)) => position >= written,
                        (None, None) => true,
                    };
                    if !complete {
                        part.damaged.push(gap(&cursor, segment, position, end - position, before.lsn, None));
                    }
                    break;
                }
            }
        }
        self.still_there(segment)?;
        part.bytes = cursor.read_bytes();
        Ok(part)
    }

    fn open(&self, segment: SegmentId, how: OpenHow) -> Result<(Arc<SegmentEntry>, Arc<dyn DiskFile>), ReadError> {
        let entry = self.shared.catalog.read().get(&segment).cloned().ok_or(ReadError::NoSegment(segment))?;
        if let Some(file) = entry.file.clone() {
            return Ok((entry, file));
        }
        match self.shared.disk.open(&segment_file_name(segment), how) {
            Ok(file) => Ok((entry, file)),
            Err(source) => {
                self.still_there(segment)?;
                Err(ReadError::Io { segment, source })
            }
        }
    }

    fn still_there(&self, segment: SegmentId) -> Result<(), ReadError> {
        if self.shared.catalog.read().contains_key(&segment) { Ok(()) } else { Err(ReadError::NoSegment(segment)) }
    }
}

impl fmt::Debug for JournalReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JournalReader")
    }
}

fn gap(
    cursor: &SegmentCursor,
    segment: SegmentId,
    position: u64,
    length: u64,
    base: Option<Lsn>,
    next: Option<Lsn>,
) -> DamagedRange {
    DamagedRange {
        segment,
        position,
        length,
        base_lsn: base.or(next).unwrap_or_default(),
        next_lsn: next,
        entry: None,
        reason: cursor.reason_within(position..position + length, DamageReason::Commit),
    }
}

/// The entries in `bytes`, which were read from `position` of `segment` and start with an entry. Commit headers and
/// padding in between are skipped.
///
/// # Errors
/// [`ReadError::Damaged`] at the first thing that is not what was written, or that `bytes` cuts.
pub fn parse_entries(
    bytes: &Bytes,
    segment: SegmentId,
    position: u64,
    seed: ChecksumSeed,
) -> Result<Vec<ReplayedEntry>, ReadError> {
    let mut entries: Vec<ReplayedEntry> = Vec::new();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let here = position + at as u64;
        let damaged = |log| ReadError::Damaged { segment, position: here, log };
        if EntryHeader::starts(rest) {
            let header = EntryHeader::decode(rest, seed).ok_or_else(|| damaged(None))?;
            let length = usize::try_from(header.length()).map_err(|_| damaged(None))?;
            let in_order = entries.last().is_none_or(|last| last.entry.lsn < header.lsn);
            let payload = (length <= rest.len()).then(|| bytes.slice(at + ENTRY_HEADER_BYTES..at + length));
            let start = u32::try_from(here).map_err(|_| damaged(Some(header.log)))?;
            match payload {
                Some(payload) if in_order && header.covers(&payload) => {
                    entries.push(ReplayedEntry { entry: header.committed(segment, start), payload });
                }
                _ => return Err(damaged(Some(header.log))),
            }
            at = (at + length).next_multiple_of(ENTRY_ALIGN_BYTES);
        } else if here.is_multiple_of(BLOCK_BYTES as u64) {
            let header = CommitHeader::decode(rest, seed).filter(|header| header.segment == segment);
            let header = header.ok_or_else(|| damaged(None))?;
            // A marker's block holds nothing else.
            at += if header.entries == 0 { BLOCK_BYTES } else { COMMIT_HEADER_BYTES };
        } else {
            // Zeros up to the next commit; anything else is an entry whose first bytes are damaged.
            let left = BLOCK_BYTES - usize::try_from(here % BLOCK_BYTES as u64).unwrap_or(0);
            let zeros = rest.get(..left.min(rest.len())).unwrap_or(rest);
            if entries.is_empty() || zeros.iter().any(|byte| *byte != 0) {
                return Err(damaged(None));
            }
            at += left;
        }
    }
    Ok(entries)
}
