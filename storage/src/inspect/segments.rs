//! Walking every journal segment without opening the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use streambus_protocol::ids::DirectoryId;
use streambus_protocol::offset::Offset;

use super::stored_anew::{StoredAnew, behind_damaged_headers};
use super::{BatchPlace, Damage, InspectError, VerifyReport, open_scan};
use crate::aligned::{AlignedBuffer, BLOCK_BYTES};
use crate::disk::Disk;
use crate::error::OpenError;
use crate::journal::entry::ChecksumSeed;
use crate::journal::position::CommitSequence;
use crate::journal::scan::{Expected, Found, Item, SegmentCursor};
use crate::journal::segment::{
    FORMAT_VERSION, HeaderBlock, SEGMENT_PREFIX, SegmentHeader, segment_file_name, segment_of_file_name,
};
use crate::journal::{
    self, CommittedEntry, DamageReason, DamagedRange, EntryKind, LogId, Lsn, ReplayedEntry, SegmentId,
};
use crate::store::replay::decode_creation;

/// What walking the journal told.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Segments present.
    pub(super) segments: BTreeSet<SegmentId>,
    /// Logs that exist at the end.
    pub(super) live_logs: BTreeSet<LogId>,
    /// Where logs start, as far as trims say that are still there: the index may not have forgotten what lies below.
    pub(super) starts: BTreeMap<LogId, Offset>,
    /// Batches stored anew in the place of damaged ones.
    pub(super) stored_anew: StoredAnew,
}

impl Walked {
    /// Follows where a log starts.
    fn note_start(&mut self, entry: &CommittedEntry) {
        match entry.kind {
            EntryKind::Trim => {
                let start = self.starts.entry(entry.log).or_insert(entry.base);
                *start = entry.base.max(*start);
            }
            // One that goes on below its start.
            EntryKind::Truncate => {
                if let Some(start) = self.starts.get_mut(&entry.log) {
                    *start = entry.base.min(*start);
                }
            }
            _ => {}
        }
    }
}

/// One thing met on the way.
pub(super) enum Met {
    Entry(ReplayedEntry),
    Damage(DamagedRange),
    Torn { segment: SegmentId, position: u64, bytes: u64 },
    Commit,
}

/// The segments of a directory, oldest first. Files with strange names are left out: the broker refuses them itself.
pub(super) fn list(disk: &dyn Disk) -> io::Result<Vec<SegmentId>> {
    let mut ids: Vec<_> = disk.list(SEGMENT_PREFIX)?.iter().filter_map(|name| segment_of_file_name(name)).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// The directory's id as the first readable segment states it.
pub(super) fn directory_of(disk: &dyn Disk) -> Option<DirectoryId> {
    list(disk).ok()?.into_iter().find_map(|id| match header_of(disk, id) {
        HeaderBlock::Valid(header) => Some(header.directory),
        HeaderBlock::Newer { .. } | HeaderBlock::Damaged => None,
    })
}

/// Walks all segments and fills the report.
pub(super) fn walk(
    disk: &dyn Disk,
    directory: DirectoryId,
    (replay_from, durable_below): (Option<SegmentId>, Lsn),
    mut names: BTreeMap<LogId, String>,
    report: &mut VerifyReport,
) -> Result<Walked, InspectError> {
    let mut walked = Walked { live_logs: names.keys().copied().collect(), ..Walked::default() };
    let ids = list(disk).map_err(|error| refuse("listing", "segments", error))?;
    walked.segments = ids.iter().copied().collect();
    if let Some(missing) = replay_from.filter(|from| !walked.segments.contains(from)) {
        report.add_file(&segment_file_name(missing), "the segment that recovery starts from is missing".to_owned());
    }
    let checkpoint_logs = walked.live_logs.last().copied();
    for (at, id) in ids.iter().enumerate() {
        if let Some(previous) = at.checked_sub(1).and_then(|before| ids.get(before))
            && previous.next() != *id
            && replay_from.is_none_or(|from| *previous >= from)
        {
            report.add_file(&segment_file_name(previous.next()), "a segment is missing".to_owned());
        }
        let tail = (at + 1 == ids.len()).then_some(durable_below);
        report.segments += 1;
        report.bytes += scan_segment(disk, directory, *id, tail, &mut |met| match met {
            Met::Commit => report.commits += 1,
            Met::Torn { bytes, .. } => report.torn_tail_bytes += bytes,
            Met::Damage(range) => {
                let log = range.entry.map(|entry| name_of(&names, entry.log));
                report.add(Damage { hidden: behind_damaged_headers(disk, &range), ..describe(&range, log) });
            }
            Met::Entry(replayed) => {
                report.entries += 1;
                let entry = replayed.entry;
                walked.note_start(&entry);
                if entry.kind == EntryKind::Repair {
                    walked.stored_anew.add(&replayed);
                }
                report.batches += u64::from(holds_batch(entry.kind));
                match entry.kind {
                    EntryKind::LogCreated => {
                        if let Some((partition, _)) = decode_creation(&replayed.payload) {
                            names.insert(entry.log, partition.to_string());
                        }
                        // One that the checkpoint lacks and that is not newer was deleted before it.
                        if checkpoint_logs.is_none_or(|newest| entry.log > newest) {
                            walked.live_logs.insert(entry.log);
                        }
                    }
                    EntryKind::LogDeleted => {
                        walked.live_logs.remove(&entry.log);
                    }
                    EntryKind::Batch | EntryKind::Repair | EntryKind::Rewrite => {}
                    EntryKind::Truncate | EntryKind::Trim | EntryKind::EpochStart | EntryKind::Checkpoint => {}
                }
            }
        })?;
    }
    report.forgive(&mut walked.stored_anew);
    Ok(walked)
}

/// Walks one segment; returns the bytes read. `tail` is there for the last one: below it everything was on stable storage
/// once.
pub(super) fn scan_segment(
    disk: &dyn Disk,
    directory: DirectoryId,
    id: SegmentId,
    tail: Option<Lsn>,
    sink: &mut dyn FnMut(Met),
) -> Result<u64, InspectError> {
    let name = segment_file_name(id);
    let mut expected = Expected::default();
    match header_of(disk, id) {
        HeaderBlock::Valid(header) if header.directory != directory => {
            let (found, expected) = (header.directory, directory);
            return Err(journal_refuses(journal::OpenError::ForeignSegment { file: name, found, expected }));
        }
        HeaderBlock::Newer { version } => {
            let (found, supported) = (version, FORMAT_VERSION);
            return Err(journal_refuses(journal::OpenError::NewerFormat { file: name, found, supported }));
        }
        HeaderBlock::Valid(header) if header.segment == id => {
            expected.sequence = Some(header.first_sequence);
            expected.lsn = Some(header.base_lsn);
            expected.incarnation = header.incarnation;
        }
        HeaderBlock::Valid(_) | HeaderBlock::Damaged => {
            sink(Met::Damage(damage(id, 0, BLOCK_BYTES as u64, DamageReason::SegmentHeader)))
        }
    }
    let stop = first_sequence_of(disk, id.next());
    let opened = open_scan(disk, &name)
        .and_then(|file| SegmentCursor::new(file, id, ChecksumSeed::of(directory), expected, stop));
    let mut cursor = opened.map_err(|error| refuse("opening", &name, error))?;
    loop {
        match cursor.next() {
            Found::Commit { header, position, items, intact } => {
                // A commit of a directory in use may be half written; so may the last one of a killed process.
                if tail.is_some_and(|durable_below| cursor.is_torn(&header, position, intact, durable_below)) {
                    sink(Met::Torn { segment: id, position, bytes: header.padded_bytes() });
                    break;
                }
                sink(Met::Commit);
                for item in items {
                    sink(match item {
                        Item::Entry(entry) => Met::Entry(entry),
                        Item::Damage(range) => Met::Damage(range),
                    });
                }
            }
            Found::Gap { position, length, .. } => {
                let length = length.max(1);
                let reason = cursor.reason_within(position..position + length, DamageReason::Commit);
                sink(Met::Damage(damage(id, position, length, reason)));
            }
            Found::End { position } => {
                let cut_short = stop.is_some() && cursor.expected.sequence.is_some_and(|next| Some(next) != stop);
                if let Some(bad) = cursor.unreadable_from(position) {
                    sink(Met::Damage(damage(id, bad.start, bad.end - bad.start, DamageReason::Unreadable)));
                } else if cut_short {
                    sink(Met::Damage(damage(id, position, BLOCK_BYTES as u64, DamageReason::Commit)));
                } else if tail.is_some_and(|durable_below| cursor.expected.lsn.unwrap_or_default() < durable_below) {
                    // As recovery finds: commits that the checkpoint relies on are gone from the end.
                    sink(Met::Damage(damage(id, position, 0, DamageReason::Missing)));
                }
                break;
            }
        }
    }
    Ok(cursor.read_bytes())
}

fn damage(segment: SegmentId, position: u64, length: u64, reason: DamageReason) -> DamagedRange {
    DamagedRange { segment, position, length, base_lsn: Lsn::ZERO, next_lsn: None, entry: None, reason }
}

/// A range in the words of a report.
pub(super) fn describe(range: &DamagedRange, log: Option<String>) -> Damage {
    let what = match (range.reason, range.entry) {
        (DamageReason::SegmentHeader, _) => "the segment's header is damaged; its commits are read all the same".into(),
        (DamageReason::Payload, Some(entry)) => {
            format!("offsets {} to {} do not match their checksum and are not served", entry.base, entry.last)
        }
        (DamageReason::Payload, None) => "a payload does not match its checksum and is not served".to_owned(),
        (DamageReason::EntryHeader, _) => "an entry's header is damaged; the entry is not served".to_owned(),
        (DamageReason::Commit, _) => "a commit is damaged; its entries are not served".to_owned(),
        (DamageReason::Unreadable, _) => "the disk does not return these bytes".to_owned(),
        (DamageReason::Missing, _) => "the file is missing or too short".to_owned(),
    };
    Damage {
        file: segment_file_name(range.segment),
        position: Some(range.position),
        length: Some(range.length),
        what,
        log,
        batch: range.entry.filter(|entry| holds_batch(entry.kind)).map(|entry| BatchPlace {
            log: entry.log,
            base: entry.base,
            last: entry.last,
        }),
        hidden: Vec::new(),
    }
}

const fn holds_batch(kind: EntryKind) -> bool {
    matches!(kind, EntryKind::Batch | EntryKind::Repair | EntryKind::Rewrite)
}

fn name_of(names: &BTreeMap<LogId, String>, log: LogId) -> String {
    names.get(&log).cloned().unwrap_or_else(|| format!("log {log}"))
}

fn header_of(disk: &dyn Disk, id: SegmentId) -> HeaderBlock {
    let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
    let read = open_scan(disk, &segment_file_name(id)).and_then(|file| file.read_at(0, block.as_mut_slice()));
    read.map_or(HeaderBlock::Damaged, |()| SegmentHeader::decode(block.as_slice()))
}

fn first_sequence_of(disk: &dyn Disk, id: SegmentId) -> Option<CommitSequence> {
    match header_of(disk, id) {
        HeaderBlock::Valid(header) if header.segment == id => Some(header.first_sequence),
        HeaderBlock::Valid(_) | HeaderBlock::Newer { .. } | HeaderBlock::Damaged => None,
    }
}

fn refuse(operation: &'static str, file: &str, source: io::Error) -> InspectError {
    OpenError::Io { operation, file: file.to_owned(), source }.into()
}

fn journal_refuses(error: journal::OpenError) -> InspectError {
    OpenError::Journal(error).into()
}
