//! Opens a journal: finds its segments, replays them, tells a torn tail from damage, and makes the tail durable.
//!
//! The order of positions, and what a process that ended may have left:
//! ```text
//! segment header .. commits known to be synced .. last commit .. [one commit in flight] .. unused
//!                   ^ must be valid: else damage  ^ must be valid  ^ whole or dropped as torn
//! ```
//! A later valid commit, or a later segment, proves that everything before it was synced. Only one commit is in
//! flight at a time, so an invalid one without such proof behind it may be dropped: nobody was told of it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::{Condvar, Mutex, RwLock};
use streambus_planted::{Defect, is_planted};
use streambus_protocol::ids::DirectoryId;

use super::committer::{ActiveSegment, Committer, Step, active_entry, write_header};
use super::config::JournalConfig;
use super::entry::{ChecksumSeed, ENTRY_HEADER_BYTES, ReplayDecision, ReplayedEntry};
use super::error::OpenError;
use super::handle::{JournalObserver, JournalParts};
use super::position::{CommitSequence, Lsn, SegmentId};
use super::report::{DamageReason, DamagedRange, RecoveryReport};
use super::scan::{Expected, Found, Item, SegmentCursor};
use super::segment::{
    FORMAT_VERSION, HeaderBlock, SEGMENT_HEADER_BYTES, SEGMENT_PREFIX, SegmentHeader, segment_file_name,
    segment_of_file_name,
};
use super::state::{Intake, NextSegment, SegmentEntry, Shared};
use super::supply::{CreateError, Spare, Supply};
use super::zero_ahead::ZeroAhead;
use crate::aligned::{AlignedBuffer, BLOCK_BYTES};
use crate::disk::{Disk, DiskFile, OpenHow};
use crate::latch::Latch;

/// Where replay starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoverFrom {
    /// The first segment to read; `None` for the oldest. Must still be part of the journal: every segment from it on is.
    pub segment: Option<SegmentId>,
    /// Entries below this number are verified and not replayed.
    pub lsn: Lsn,
    /// Everything below this number is known to have been synced: when it is not there, that is damage and never a torn
    /// tail.
    pub durable_below: Lsn,
}

/// A file of the replayed range with what its header says.
struct Opened {
    id: SegmentId,
    file: Arc<dyn DiskFile>,
    header: Option<SegmentHeader>,
    bytes: u64,
}

/// Where the journal goes on.
enum Tail {
    /// In this segment, at this position.
    Continue { segment: SegmentId, position: u64, bytes: u64 },
    /// In a new segment after this one: the last one's end cannot be trusted.
    Roll { after: SegmentId },
}

pub(super) fn open(
    disk: Arc<dyn Disk>,
    config: JournalConfig,
    from: RecoverFrom,
    latch: Arc<Latch>,
    replay: &mut dyn FnMut(ReplayedEntry) -> ReplayDecision,
) -> Result<(JournalParts, RecoveryReport), OpenError> {
    config.validate()?;
    let seed = ChecksumSeed::of(config.directory);
    let all = list_segments(&*disk)?;
    let mut recovery = Recovery::new(&*disk, config.directory, seed, from);
    let tail = recovery.run(&all, replay)?;
    let Recovery { expected, mut report, written, headers, .. } = recovery;

    let incarnation = expected.incarnation.next();
    let sequence = expected.sequence.unwrap_or_default();
    let next_lsn = expected.lsn.unwrap_or_default().max(from.lsn).max(from.durable_below);
    report.incarnation = incarnation;
    report.next_lsn = next_lsn;

    // What the last process renamed or wrote just before it was killed may still be in memory only.
    disk.sync_dir().map_err(io_error("syncing", "."))?;
    let mut supply = Supply::open(disk.clone(), &config).map_err(io_error("listing", "spare files"))?;
    let mut catalog = BTreeMap::new();
    for id in all {
        let header = headers.get(&id);
        let file = disk.open(&segment_file_name(id), OpenHow::ReadOnly);
        let bytes = file.and_then(|file| file.len()).map_err(io_error("measuring", &segment_file_name(id)))?;
        let entry = SegmentEntry {
            id,
            bytes,
            written: AtomicU64::new(written.get(&id).copied().unwrap_or(u64::MAX)),
            sealed: AtomicBool::new(true),
            base_lsn: header.map(|header| header.base_lsn),
            first_sequence: header.map(|header| header.first_sequence),
            file: None,
        };
        catalog.insert(id, Arc::new(entry));
    }
    let active = match tail {
        Tail::Continue { segment, position, bytes } => {
            let name = segment_file_name(segment);
            let file = disk.open(&name, OpenHow::Existing).map_err(io_error("opening", &name))?;
            file.sync().map_err(io_error("syncing", &name))?;
            if let Some(header) = headers.get(&segment) {
                let header = SegmentHeader { segment_bytes: bytes, ..*header };
                catalog.insert(segment, Arc::new(active_entry(&header, &file, position)));
            }
            // Nobody knows which of its blocks were written before.
            ActiveSegment { id: segment, file, position, bytes, zero_ahead: ZeroAhead::none() }
        }
        Tail::Roll { after } => {
            if let Some(last) = catalog.keys().next_back() {
                let name = segment_file_name(*last);
                let file = disk.open(&name, OpenHow::Existing).map_err(io_error("opening", &name))?;
                file.sync().map_err(io_error("syncing", &name))?;
            }
            let header = SegmentHeader {
                directory: config.directory,
                segment: after.next(),
                base_lsn: next_lsn,
                first_sequence: sequence,
                incarnation,
                segment_bytes: u64::from(config.segment_bytes),
            };
            let in_use = catalog.values().map(|entry| entry.bytes).sum();
            let spare = first_segment(&*disk, &mut supply, &header, in_use)?;
            catalog.insert(header.segment, Arc::new(active_entry(&header, &spare.file, SEGMENT_HEADER_BYTES)));
            let (id, position, bytes) = (header.segment, SEGMENT_HEADER_BYTES, header.segment_bytes);
            ActiveSegment { id, position, bytes, zero_ahead: spare.zero_ahead(), file: spare.file }
        }
    };
    let next_segment = if supply.count() > 0 { NextSegment::Ready } else { NextSegment::Wanted };
    let intake = Intake::new(&config, next_lsn, active.bytes - active.position, next_segment);
    let shared = Arc::new(Shared {
        disk,
        config,
        seed,
        latch,
        intake: Mutex::new(intake),
        wake: Condvar::new(),
        catalog: RwLock::new(catalog),
        supply: Mutex::new(supply),
        names: Mutex::new(()),
        durable_lsn: AtomicU64::new(next_lsn.get()),
    });
    let parts = prove(JournalParts { shared, active, sequence, incarnation });
    Ok((parts, report))
}

/// Writes the marker that starts this incarnation: it proves the recovered tail, and makes any leftover of an earlier
/// torn commit recognisable. A failure sets the latch and leaves the journal readable.
fn prove(parts: JournalParts) -> JournalParts {
    struct Nobody;
    impl JournalObserver for Nobody {
        fn committed(&self, _entries: &[super::CommittedEntry]) {}
        fn sealed(&self, _segment: SegmentId) {}
        fn failed(&self, _reason: &crate::latch::LatchReason) {}
    }
    let JournalParts { shared, active, sequence, incarnation } = parts;
    let mut committer = Committer::new(shared, Arc::new(Nobody), active, sequence, incarnation);
    if committer.mark() == Step::Stopped {
        tracing::error!("the recovered journal cannot be written to; it is read-only");
    }
    // Space for accepted entries is reserved ahead; see the intake.
    committer.prepare();
    committer.into_parts()
}

/// Creates the first segment, or the one after a tail that cannot be trusted.
fn first_segment(
    disk: &dyn Disk,
    supply: &mut Supply,
    header: &SegmentHeader,
    in_use_bytes: u64,
) -> Result<Spare, OpenError> {
    let name = segment_file_name(header.segment);
    if supply.count() == 0 {
        supply.create(in_use_bytes).map_err(|error| {
            io_error("creating", &name)(match error {
                CreateError::NoSpace(problem) => io::Error::new(io::ErrorKind::StorageFull, problem),
                CreateError::Refused { source, .. } => source,
            })
        })?;
    }
    let spare = supply.take().ok_or_else(|| io_error("creating", &name)(io::ErrorKind::StorageFull.into()))?;
    write_header(&spare.file, header).map_err(io_error("writing", &name))?;
    disk.rename(&spare.name, &name).map_err(io_error("creating", &name))?;
    disk.sync_dir().map_err(io_error("syncing", "."))?;
    Ok(spare)
}

fn list_segments(disk: &dyn Disk) -> Result<Vec<SegmentId>, OpenError> {
    let names = disk.list(SEGMENT_PREFIX).map_err(io_error("listing", "segments"))?;
    let parse = |name: String| segment_of_file_name(&name).ok_or(OpenError::StrangeFile { file: name });
    let mut ids = names.into_iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    ids.sort_unstable();
    Ok(ids)
}

fn io_error<'a>(operation: &'static str, file: &'a str) -> impl Fn(io::Error) -> OpenError + 'a {
    move |source| OpenError::Io { operation, file: file.to_owned(), source }
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    directory: DirectoryId,
    seed: ChecksumSeed,
    from: RecoverFrom,
    expected: Expected,
    report: RecoveryReport,
    /// The unexplained end of the segment before: damage, if the next commit found is not the expected one.
    open_end: Option<DamagedRange>,
    written: BTreeMap<SegmentId, u64>,
    headers: BTreeMap<SegmentId, SegmentHeader>,
}

impl<'a> Recovery<'a> {
    fn new(disk: &'a dyn Disk, directory: DirectoryId, seed: ChecksumSeed, from: RecoverFrom) -> Self {
        Self {
            disk,
            directory,
            seed,
            from,
            expected: Expected::default(),
            report: RecoveryReport::default(),
            open_end: None,
            written: BTreeMap::new(),
            headers: BTreeMap::new(),
        }
    }

    fn run(
        &mut self,
        all: &[SegmentId],
        replay: &mut dyn FnMut(ReplayedEntry) -> ReplayDecision,
    ) -> Result<Tail, OpenError> {
        let first = self.from.segment.or(all.first().copied()).unwrap_or_default();
        let mut opened = Vec::new();
        for id in all.iter().copied().filter(|id| *id >= first) {
            opened.push(self.open_segment(id)?);
        }
        if self.from.segment.is_some() && opened.first().is_none_or(|segment| segment.id != first) {
            let next = opened.first().and_then(|segment| segment.header).map(|header| header.base_lsn);
            self.report.damaged.push(missing(first, self.from.lsn, next));
        }
        let mut tail = Tail::Roll { after: self.from.segment.or(all.last().copied()).unwrap_or_default() };
        let mut segments = opened.into_iter().peekable();
        let mut previous: Option<SegmentId> = None;
        while let Some(segment) = segments.next() {
            self.enter(&segment, previous);
            previous = Some(segment.id);
            let is_last = segments.peek().is_none();
            let stop = segments.peek().filter(|next| next.id == segment.id.next()).and_then(|next| next.header);
            tail = self.replay_segment(segment, is_last, stop.map(|next| next.first_sequence), replay)?;
        }
        // The caller knows that everything below its own number was durable.
        let (end, durable_below) = (self.expected.lsn.unwrap_or_default(), self.from.durable_below.max(self.from.lsn));
        if end < durable_below && !is_planted(Defect::CorruptionAsEnd) {
            let last = previous.unwrap_or(first);
            if self.report.damaged.last().is_none_or(|range| range.next_lsn.is_some()) {
                self.report.damaged.push(missing(last, end, Some(durable_below)));
            }
            self.expected.lsn = Some(durable_below);
            self.skip_lost(self.headers.get(&last).map_or(0, |header| header.segment_bytes));
            tail = Tail::Roll { after: last.max(first) };
        }
        Ok(tail)
    }

    /// Leaves a gap in the numbers for what was lost in the last `bytes`, so that later starts report the damage too,
    /// and so that entries which a flaky disk returns one day do not have the numbers of newer ones.
    fn skip_lost(&mut self, bytes: u64) {
        self.expected.sequence = Some(self.expected.sequence.unwrap_or_default().next());
        self.expected.lsn = Some(self.expected.lsn.unwrap_or_default().steps(bytes / ENTRY_HEADER_BYTES as u64));
    }

    fn open_segment(&mut self, id: SegmentId) -> Result<Opened, OpenError> {
        let name = segment_file_name(id);
        let file = self.disk.open(&name, OpenHow::Scan).map_err(io_error("opening", &name))?;
        let bytes = file.len().map_err(io_error("measuring", &name))?;
        let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
        // A header that cannot be read is a damaged one.
        let read = file.read_at(0, block.as_mut_slice());
        let decoded = read.map_or(HeaderBlock::Damaged, |()| SegmentHeader::decode(block.as_slice()));
        let header = match decoded {
            HeaderBlock::Valid(header) if header.directory != self.directory => {
                let (found, expected) = (header.directory, self.directory);
                return Err(OpenError::ForeignSegment { file: name, found, expected });
            }
            HeaderBlock::Newer { version } => {
                return Err(OpenError::NewerFormat { file: name, found: version, supported: FORMAT_VERSION });
            }
            HeaderBlock::Valid(header) if header.segment == id => Some(header),
            HeaderBlock::Valid(_) | HeaderBlock::Damaged => None,
        };
        if let Some(header) = header {
            self.headers.insert(id, header);
        }
        Ok(Opened { id, file, header, bytes })
    }

    /// Compares what `segment`'s header says with what is expected.
    fn enter(&mut self, segment: &Opened, previous: Option<SegmentId>) {
        let Some(header) = segment.header else {
            self.report.damaged.push(DamagedRange {
                segment: segment.id,
                position: 0,
                length: SEGMENT_HEADER_BYTES.min(segment.bytes),
                base_lsn: self.expected.lsn.unwrap_or_default(),
                next_lsn: self.expected.lsn,
                entry: None,
                reason: DamageReason::SegmentHeader,
            });
            return;
        };
        if self.expected.sequence.is_some_and(|expected| header.first_sequence > expected) {
            let gone = previous.filter(|previous| previous.next() != segment.id).map(SegmentId::next);
            match (gone, self.open_end.take()) {
                (None, Some(end)) => {
                    self.report.damaged.push(DamagedRange { next_lsn: Some(header.base_lsn), ..end });
                }
                (gone, _) => {
                    let lost = self.expected.lsn.unwrap_or(header.base_lsn);
                    self.report.damaged.push(missing(gone.unwrap_or(segment.id), lost, Some(header.base_lsn)));
                }
            }
        }
        self.open_end = None;
        self.expected = Expected {
            sequence: Some(header.first_sequence),
            lsn: Some(header.base_lsn),
            incarnation: header.incarnation.max(self.expected.incarnation),
        };
    }

    fn replay_segment(
        &mut self,
        segment: Opened,
        is_last: bool,
        stop: Option<CommitSequence>,
        replay: &mut dyn FnMut(ReplayedEntry) -> ReplayDecision,
    ) -> Result<Tail, OpenError> {
        let Opened { id, file, header, bytes } = segment;
        let name = segment_file_name(id);
        let cursor = SegmentCursor::new(file, id, self.seed, self.expected, stop);
        let mut cursor = cursor.map_err(io_error("measuring", &name))?;
        self.report.segments += 1;
        let end = loop {
            let before = cursor.expected;
            match cursor.next() {
                Found::Commit { position, intact: false, .. } | Found::Gap { position, .. }
                    if is_planted(Defect::CorruptionAsEnd) =>
                {
                    cursor.expected = before;
                    break position;
                }
                Found::Commit { header, position, items, intact } => {
                    let durable_below = self.from.durable_below.max(self.from.lsn);
                    if is_last && cursor.is_torn(&header, position, intact, durable_below) {
                        self.report.torn_tail_bytes = header.padded_bytes();
                        cursor.expected = before;
                        break position;
                    }
                    self.report.commits += 1;
                    self.open_end = None;
                    self.replay_items(items, replay)?;
                }
                Found::Gap { position, length, next } => {
                    let here = DamagedRange {
                        segment: id,
                        position,
                        length,
                        base_lsn: before.lsn.unwrap_or(next.first_lsn),
                        next_lsn: Some(next.first_lsn),
                        entry: None,
                        reason: cursor.reason_within(position..position + length, DamageReason::Commit),
                    };
                    // Commits missing at the start of a segment whose header is damaged may be the lost end of the
                    // one before.
                    match self.open_end.take() {
                        Some(end) if length == 0 => {
                            self.report.damaged.push(DamagedRange { next_lsn: Some(next.first_lsn), ..end });
                        }
                        _ => self.report.damaged.push(here),
                    }
                }
                Found::End { position } => break position,
            }
        };
        self.expected = cursor.expected;
        self.report.bytes += cursor.read_bytes();
        self.written.insert(id, end);
        Ok(self.end_segment(&cursor, end, header.is_some(), is_last, bytes))
    }

    fn end_segment(&mut self, cursor: &SegmentCursor, end: u64, header_valid: bool, is_last: bool, bytes: u64) -> Tail {
        let id = cursor.segment();
        let rest = DamagedRange {
            segment: id,
            position: end,
            length: bytes.saturating_sub(end),
            base_lsn: self.expected.lsn.unwrap_or_default(),
            next_lsn: None,
            entry: None,
            reason: cursor.reason_within(end..bytes, DamageReason::Commit),
        };
        if !is_last {
            self.open_end = Some(rest);
            return Tail::Roll { after: id };
        }
        if let Some(bad) = cursor.unreadable_from(end) {
            // Torn writes can be read. What cannot is damage, and may have been the last commits.
            let length = bad.end - bad.start;
            self.report.damaged.push(DamagedRange { position: bad.start, length, ..rest });
            self.skip_lost(length);
            return Tail::Roll { after: id };
        }
        if !header_valid || !bytes.is_multiple_of(BLOCK_BYTES as u64) || end > bytes {
            return Tail::Roll { after: id };
        }
        Tail::Continue { segment: id, position: end, bytes }
    }

    fn replay_items(
        &mut self,
        items: Vec<Item>,
        replay: &mut dyn FnMut(ReplayedEntry) -> ReplayDecision,
    ) -> Result<(), OpenError> {
        for item in items {
            match item {
                Item::Damage(range) => self.report.damaged.push(range),
                Item::Entry(entry) if entry.entry.lsn < self.from.lsn => {}
                Item::Entry(entry) => {
                    self.report.entries += 1;
                    if let ReplayDecision::Stop(problem) = replay(entry) {
                        return Err(OpenError::ReplayRefused { problem });
                    }
                }
            }
        }
        Ok(())
    }
}

fn missing(segment: SegmentId, base_lsn: Lsn, next_lsn: Option<Lsn>) -> DamagedRange {
    let (position, length, entry) = (0, 0, None);
    DamagedRange { segment, position, length, base_lsn, next_lsn, entry, reason: DamageReason::Missing }
}
