//! Reads one segment's commits in order and tells valid bytes from damaged ones. Used by recovery and by scrubbing.
//!
//! Reading is sequential and in large pieces: hopping from header to header costs 100 us each on a cold disk. How large
//! is the caller's choice. A disk serves what it was asked for in one go before it turns to a commit that somebody waits
//! for: recovery, for which nobody waits yet, takes megabytes; the scrub takes little at a time.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::commit::{COMMIT_HEADER_BYTES, CommitHeader};
use super::entry::{ChecksumSeed, ENTRY_ALIGN_BYTES, ENTRY_HEADER_BYTES, EntryHeader, ReplayedEntry};
use super::position::{CommitSequence, Incarnation, Lsn, SegmentId};
use super::report::{DamageReason, DamagedEntry, DamagedRange};
use super::segment::SEGMENT_HEADER_BYTES;
use crate::aligned::{AlignedBuffer, BLOCK_BYTES};
use crate::disk::DiskFile;

/// Bytes asked for at once where nothing else waits for the disk.
const PIECE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes asked for at once beside the commits of a running journal: some 0.2 ms of a disk's time.
const GENTLE_PIECE_BYTES: usize = 128 * 1024;

/// A moving view of one file. Blocks the disk refuses to return read as zeros and are remembered.
#[derive(Debug)]
struct Window {
    file: Arc<dyn DiskFile>,
    len: u64,
    /// Bytes asked for at once, whole blocks.
    piece: usize,
    base: u64,
    bytes: Bytes,
    read_bytes: u64,
    unreadable: Vec<Range<u64>>,
}

impl Window {
    fn new(file: Arc<dyn DiskFile>) -> io::Result<Self> {
        let len = file.len()?;
        Ok(Self { file, len, piece: PIECE_BYTES, base: 0, bytes: Bytes::new(), read_bytes: 0, unreadable: Vec::new() })
    }

    /// `length` bytes from `position` (a multiple of the block), fewer at the end of the file.
    fn get(&mut self, position: u64, length: usize) -> Bytes {
        let end = position.saturating_add(length as u64).min(self.len);
        if position >= end {
            return Bytes::new();
        }
        if position < self.base || end > self.base + self.bytes.len() as u64 {
            self.load(position, usize::try_from(end - position).unwrap_or(length));
        }
        let (Ok(from), Ok(to)) = (usize::try_from(position - self.base), usize::try_from(end - self.base)) else {
            return Bytes::new();
        };
        if to <= self.bytes.len() { self.bytes.slice(from..to) } else { Bytes::new() }
    }

    fn load(&mut self, position: u64, at_least: usize) {
        let left = usize::try_from(self.len - position).unwrap_or(usize::MAX);
        let bytes = at_least.max(self.piece).min(left);
        let mut buffer = AlignedBuffer::zeroed(bytes);
        if let Some(target) = buffer.as_mut_slice().get_mut(..bytes) {
            // A commit that goes beyond the window: its beginning is here.
            let held = usize::try_from(position.wrapping_sub(self.base)).ok().and_then(|from| self.bytes.get(from..));
            let held = held.map_or(&[][..], |held| held.get(..held.len() / BLOCK_BYTES * BLOCK_BYTES).unwrap_or(&[]));
            let known = held.len().min(bytes);
            let (begin, rest) = target.split_at_mut(known);
            begin.copy_from_slice(held.get(..known).unwrap_or(&[]));
            self.read_bytes += rest.len() as u64;
            // Whole blocks where the file has them, so that the read may bypass the page cache.
            let mut at = position + known as u64;
            for piece in rest.chunks_mut(self.piece) {
                if self.file.read_at(at, piece).is_err() {
                    self.load_by_block(at, piece);
                }
                at += piece.len() as u64;
            }
        }
        self.base = position;
        self.bytes = Bytes::from_owner(buffer).slice(..bytes);
    }

    /// A large read failed: find out which blocks are to blame.
    fn load_by_block(&mut self, position: u64, target: &mut [u8]) {
        let mut at = position;
        for block in target.chunks_mut(BLOCK_BYTES) {
            let end = at + block.len() as u64;
            if self.file.read_at(at, block).is_err() {
                block.fill(0);
                match self.unreadable.last_mut() {
                    Some(range) if range.end == at => range.end = end,
                    Some(range) if range.contains(&at) => {}
                    _ => self.unreadable.push(at..end),
                }
            }
            at = end;
        }
    }

    /// The block of the first byte at or behind `position` that may have been written, or the file's end.
    fn written_from(&self, position: u64) -> u64 {
        // Who cannot be asked passes over nothing: reading tells what is wrong.
        let written = self.file.written_from(position).unwrap_or(position);
        (written / BLOCK_BYTES as u64 * BLOCK_BYTES as u64).max(position)
    }

    fn unreadable_within(&self, range: Range<u64>) -> Option<Range<u64>> {
        self.unreadable.iter().find(|bad| bad.start < range.end && range.start < bad.end).cloned()
    }
}

/// One piece of a commit's body.
#[derive(Debug)]
pub(crate) enum Item {
    Entry(ReplayedEntry),
    Damage(DamagedRange),
}

/// What the cursor came upon.
#[derive(Debug)]
pub(crate) enum Found {
    /// A commit whose header is valid. `intact` is false when an item is damage.
    Commit { header: CommitHeader, position: u64, items: Vec<Item>, intact: bool },
    /// Bytes that should hold commits `missing` up to that of the commit found next.
    Gap { position: u64, length: u64, next: CommitHeader },
    /// Nothing valid follows in this segment.
    End { position: u64 },
}

/// What the cursor expects next; `None` as long as nothing was seen that would say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Expected {
    pub(crate) sequence: Option<CommitSequence>,
    pub(crate) lsn: Option<Lsn>,
    pub(crate) incarnation: Incarnation,
}

/// Walks the commits of one segment.
#[derive(Debug)]
pub(crate) struct SegmentCursor {
    window: Window,
    segment: SegmentId,
    seed: ChecksumSeed,
    position: u64,
    pub(crate) expected: Expected,
    /// The first commit that is known to be in the next segment.
    stop: Option<CommitSequence>,
}

impl SegmentCursor {
    pub(crate) fn new(
        file: Arc<dyn DiskFile>,
        segment: SegmentId,
        seed: ChecksumSeed,
        expected: Expected,
        stop: Option<CommitSequence>,
    ) -> io::Result<Self> {
        Ok(Self { window: Window::new(file)?, segment, seed, position: SEGMENT_HEADER_BYTES, expected, stop })
    }

    /// Reads little at a time, so that a commit does not wait behind it.
    pub(crate) fn read_gently(&mut self) {
        self.window.piece = GENTLE_PIECE_BYTES;
    }

    /// Starts at the commit at `position` instead of the first one.
    pub(crate) fn seek(&mut self, position: u64) {
        self.position = position.next_multiple_of(BLOCK_BYTES as u64).max(SEGMENT_HEADER_BYTES);
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn segment(&self) -> SegmentId {
        self.segment
    }

    pub(crate) fn read_bytes(&self) -> u64 {
        self.window.read_bytes
    }

    /// The first range at or behind `position` that the disk refused to return.
    pub(crate) fn unreadable_from(&self, position: u64) -> Option<Range<u64>> {
        self.window.unreadable_within(position..u64::MAX)
    }

    /// The next commit, gap, or end.
    pub(crate) fn next(&mut self) -> Found {
        let at = self.position;
        if self.expected.sequence.is_some() && self.expected.sequence == self.stop {
            return Found::End { position: at };
        }
        let Some(header) = self.header_at(at) else {
            return match self.find_later(at + BLOCK_BYTES as u64) {
                Some((position, next)) => {
                    self.position = position;
                    self.expected.sequence = Some(next.sequence);
                    Found::Gap { position: at, length: position - at, next }
                }
                None => Found::End { position: at },
            };
        };
        if self.expected.sequence.is_some_and(|expected| header.sequence > expected) {
            self.expected.sequence = Some(header.sequence);
            return Found::Gap { position: at, length: 0, next: header };
        }
        let items = self.body(&header, at);
        let intact = items.iter().all(|item| matches!(item, Item::Entry(_)));
        self.position = at + header.padded_bytes();
        self.expected = Expected {
            sequence: Some(header.sequence.next()),
            lsn: Some(header.next_lsn()),
            incarnation: header.incarnation,
        };
        Found::Commit { header, position: at, items, intact }
    }

    /// True when a valid commit later than all seen so far lies behind the cursor: proof that those before it were
    /// synced. Does not move the cursor.
    pub(crate) fn proof_follows(&mut self) -> bool {
        self.find_later(self.position).is_some()
    }

    /// True when the commit that was found last, with its `header` at `position`, is what a write that was under way has
    /// left: it is not whole, nothing later proves that it was, all of it can be read, and nobody knows it to be durable.
    /// Only the last commit of the last segment can be. The one place of this rule: what it does not explain is damage.
    pub(crate) fn is_torn(&mut self, header: &CommitHeader, position: u64, intact: bool, durable_below: Lsn) -> bool {
        !intact
            && header.first_lsn >= durable_below
            && self.unreadable_from(position).is_none()
            && !self.proof_follows()
    }

    /// The valid header at `position`, when it is not older than what is expected.
    fn header_at(&mut self, position: u64) -> Option<CommitHeader> {
        let bytes = self.window.get(position, BLOCK_BYTES);
        self.accept(&bytes, position)
    }

    fn accept(&self, bytes: &[u8], position: u64) -> Option<CommitHeader> {
        if !CommitHeader::starts(bytes) {
            return None;
        }
        let header = CommitHeader::decode(bytes, self.seed)?;
        let fits = position + header.padded_bytes() <= self.window.len;
        // A lower sequence or incarnation is a leftover of an earlier torn tail.
        let current = header.segment == self.segment
            && header.incarnation >= self.expected.incarnation
            && self.expected.sequence.is_none_or(|expected| header.sequence >= expected)
            && self.expected.lsn.is_none_or(|expected| header.first_lsn >= expected)
            && self.stop.is_none_or(|stop| header.sequence < stop);
        (fits && current).then_some(header)
    }

    /// The first acceptable header at or behind `from`, looking at every block that was ever written to the end of the
    /// segment. A segment is reserved whole, so most of the last one was not: reading that would cost a start more than
    /// all else. A piece is read whatever the file system says of it.
    fn find_later(&mut self, from: u64) -> Option<(u64, CommitHeader)> {
        let mut at = from;
        while at < self.window.len {
            if at > from {
                at = self.window.written_from(at);
            }
            let bytes = self.window.get(at, self.window.piece);
            if bytes.is_empty() {
                return None;
            }
            for block in bytes.chunks(BLOCK_BYTES) {
                if let Some(header) = self.accept(block, at) {
                    // Not the expected commit itself: where that must be, it is not.
                    let later =
                        self.expected.sequence.is_none_or(|expected| header.sequence > expected) || at == self.position;
                    if later {
                        return Some((at, header));
                    }
                }
                at += block.len() as u64;
            }
        }
        None
    }

    fn body(&mut self, header: &CommitHeader, position: u64) -> Vec<Item> {
        let bytes = self.window.get(position, usize::try_from(header.bytes).unwrap_or(usize::MAX));
        let mut items =
            Vec::with_capacity(usize::try_from(header.entries).unwrap_or(0).min(bytes.len() / ENTRY_HEADER_BYTES));
        let end_lsn = header.next_lsn();
        let mut lsn = header.first_lsn;
        let mut at = COMMIT_HEADER_BYTES;
        while lsn < end_lsn {
            let found = self.entry_at(&bytes, at, lsn..lsn.next()).map(|entry| (at, entry)).or_else(|| {
                (at + ENTRY_ALIGN_BYTES..bytes.len())
                    .step_by(ENTRY_ALIGN_BYTES)
                    .find_map(|later| Some((later, self.entry_at(&bytes, later, lsn.next()..end_lsn)?)))
            });
            let Some((start, entry)) = found else {
                items.push(self.lost(position, at..bytes.len(), lsn..end_lsn));
                return items;
            };
            if start > at {
                items.push(self.lost(position, at..start, lsn..entry.lsn));
            }
            let end = start + usize::try_from(entry.length()).unwrap_or(usize::MAX);
            items.push(self.item(&entry, &bytes, position, start..end));
            lsn = entry.lsn.next();
            at = end.next_multiple_of(ENTRY_ALIGN_BYTES);
        }
        items
    }

    /// The valid entry header at `at` whose number is in `lsns` and whose payload ends within the commit.
    fn entry_at(&self, commit: &[u8], at: usize, lsns: Range<Lsn>) -> Option<EntryHeader> {
        let bytes = commit.get(at..)?;
        if !EntryHeader::starts(bytes) {
            return None;
        }
        let header = EntryHeader::decode(bytes, self.seed)?;
        (lsns.contains(&header.lsn) && header.length() <= bytes.len() as u64).then_some(header)
    }

    fn item(&self, header: &EntryHeader, commit: &Bytes, position: u64, range: Range<usize>) -> Item {
        let start = position + range.start as u64;
        let payload = commit.slice((range.start + ENTRY_HEADER_BYTES).min(range.end)..range.end);
        let entry = u32::try_from(start).ok().map(|at| header.committed(self.segment, at));
        match entry {
            Some(entry) if header.covers(&payload) => Item::Entry(ReplayedEntry { entry, payload }),
            _ => Item::Damage(DamagedRange {
                segment: self.segment,
                position: start,
                length: header.length(),
                base_lsn: header.lsn,
                next_lsn: Some(header.lsn.next()),
                entry: Some(DamagedEntry {
                    log: header.log,
                    kind: header.kind,
                    base: header.base,
                    last: header.last,
                    epoch: header.epoch,
                }),
                reason: self.reason_within(start..position + range.end as u64, DamageReason::Payload),
            }),
        }
    }

    fn lost(&self, position: u64, range: Range<usize>, lsns: Range<Lsn>) -> Item {
        let bytes = position + range.start as u64..position + range.end as u64;
        Item::Damage(DamagedRange {
            segment: self.segment,
            position: bytes.start,
            length: bytes.end.saturating_sub(bytes.start),
            base_lsn: lsns.start,
            next_lsn: Some(lsns.end),
            entry: None,
            reason: self.reason_within(bytes, DamageReason::EntryHeader),
        })
    }

    pub(crate) fn reason_within(&self, bytes: Range<u64>, otherwise: DamageReason) -> DamageReason {
        if self.window.unreadable_within(bytes).is_some() { DamageReason::Unreadable } else { otherwise }
    }
}
