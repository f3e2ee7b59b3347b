//! A journal under test with what was appended to it and what it reported.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::ids::DirectoryId;
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;

use crate::clock::ManualClock;
use crate::disk::Disk;
use crate::journal::*;
use crate::latch::{Latch, LatchReason};

pub(super) fn directory() -> DirectoryId {
    DirectoryId::from_bytes([7; 16])
}

/// Small enough that everything rolls within a few entries.
pub(super) fn small_config() -> JournalConfig {
    JournalConfig {
        segment_bytes: 256 * 1024,
        group_bytes: 8 * 1024,
        queue_bytes_max: 16 * 1024,
        payload_bytes_max: 12_000,
        ..JournalConfig::new(directory())
    }
}

/// A record batch v2 of `records` records as far as the journal looks at it.
pub(super) fn batch(base: u64, records: u32, epoch: u32, body: &[u8]) -> Bytes {
    let mut checked = BytesMut::new();
    checked.put_i16(0);
    checked.put_u32(records - 1);
    checked.put_slice(body);
    let mut out = BytesMut::new();
    out.put_u64(base);
    out.put_u32(u32::try_from(checked.len() + 9).expect("small"));
    out.put_u32(epoch);
    out.put_u8(2);
    out.put_u32(crc32c::crc32c(&checked));
    out.put_slice(&checked);
    out.freeze()
}

pub(super) fn entry(log: u64, base: u64, payload: &[u8]) -> NewEntry {
    let base = Offset::new(base).expect("small");
    NewEntry {
        log: LogId::new(log),
        kind: EntryKind::Checkpoint,
        base,
        last: base,
        epoch: LeaderEpoch::new(1),
        max_timestamp: Timestamp::from_millis(5),
        payload: Bytes::copy_from_slice(payload),
    }
}

#[derive(Debug, Default)]
pub(super) struct Recorder {
    entries: Mutex<Vec<CommittedEntry>>,
    sealed: Mutex<Vec<SegmentId>>,
    failures: Mutex<usize>,
}

impl Recorder {
    pub(super) fn entries(&self) -> Vec<CommittedEntry> {
        self.entries.lock().clone()
    }

    pub(super) fn sealed(&self) -> Vec<SegmentId> {
        self.sealed.lock().clone()
    }

    pub(super) fn failures(&self) -> usize {
        *self.failures.lock()
    }
}

impl JournalObserver for Recorder {
    fn committed(&self, entries: &[CommittedEntry]) {
        assert_eq!(*self.failures.lock(), 0, "nothing is reported after a failure");
        self.entries.lock().extend_from_slice(entries);
    }

    fn sealed(&self, segment: SegmentId) {
        self.sealed.lock().push(segment);
    }

    fn failed(&self, _reason: &LatchReason) {
        *self.failures.lock() += 1;
    }
}

pub(super) fn open(
    disk: Arc<dyn Disk>,
    config: &JournalConfig,
) -> Result<(JournalParts, Vec<ReplayedEntry>, RecoveryReport, Arc<Latch>), OpenError> {
    let latch = Arc::new(Latch::new(Arc::new(ManualClock::default())));
    let mut entries = Vec::new();
    let mut replay = |entry: ReplayedEntry| {
        // Copied, as the store must for what it keeps.
        entries.push(ReplayedEntry { entry: entry.entry, payload: Bytes::copy_from_slice(&entry.payload) });
        ReplayDecision::Continue
    };
    let opened = Journal::open(disk, config.clone(), RecoverFrom::default(), latch.clone(), &mut replay);
    let (parts, report) = opened?;
    Ok((parts, entries, report, latch))
}

/// What a start on `disk` finds. The start itself happens: it writes its marker.
pub(super) fn recovered(disk: &(impl Disk + Clone), config: &JournalConfig) -> (Vec<ReplayedEntry>, RecoveryReport) {
    let (_, entries, report, _) = open(Arc::new(disk.clone()), config).expect("opens");
    (entries, report)
}

pub(super) struct Bench {
    pub(super) journal: Journal,
    pub(super) committer: Committer,
    pub(super) observer: Arc<Recorder>,
    pub(super) latch: Arc<Latch>,
    pub(super) payloads: Vec<(Lsn, Bytes)>,
    next_offset: u64,
}

impl Bench {
    pub(super) fn open(disk: Arc<dyn Disk>, config: JournalConfig) -> Self {
        Self::try_open(disk, &config).expect("opens").0
    }

    pub(super) fn try_open(
        disk: Arc<dyn Disk>,
        config: &JournalConfig,
    ) -> Result<(Self, Vec<ReplayedEntry>, RecoveryReport), OpenError> {
        let (parts, entries, report, latch) = open(disk, config)?;
        let observer = Arc::new(Recorder::default());
        let (journal, committer) = parts.manual(observer.clone());
        let next_offset = report.next_lsn.get() * 10;
        Ok((Self { journal, committer, observer, latch, payloads: Vec::new(), next_offset }, entries, report))
    }

    /// A batch of `bytes` payload bytes whose content nothing else has.
    pub(super) fn try_append(&mut self, log: u64, bytes: usize) -> Result<Lsn, AppendError> {
        self.next_offset += 1;
        let base = self.next_offset;
        let body: Vec<u8> = (0..bytes.saturating_sub(27)).map(|at| (at as u64 * 31 + base * 7) as u8).collect();
        let payload = batch(base, 1, 1, &body);
        let new = NewEntry { kind: EntryKind::Batch, payload, ..entry(log, base, b"") };
        self.append_entry(new)
    }

    pub(super) fn append_entry(&mut self, new: NewEntry) -> Result<Lsn, AppendError> {
        let payload = new.payload.clone();
        let lsn = self.journal.append(new)?;
        self.payloads.push((lsn, payload));
        Ok(lsn)
    }

    pub(super) fn append(&mut self, log: u64, bytes: usize) -> Lsn {
        loop {
            match self.try_append(log, bytes) {
                Ok(lsn) => return lsn,
                Err(AppendError::Busy { .. }) => assert_ne!(self.committer.step(), Step::Idle, "busy for ever"),
                Err(other) => panic!("{other}"),
            }
        }
    }

    pub(super) fn appended(&self) -> usize {
        self.payloads.len()
    }

    pub(super) fn payload_of(&self, lsn: Lsn) -> Bytes {
        self.payloads.iter().find(|(known, _)| *known == lsn).expect("was appended").1.clone()
    }

    pub(super) fn step_until_idle(&mut self) {
        while !matches!(self.committer.step(), Step::Idle | Step::Stopped) {}
    }

    /// Closes in an orderly way.
    pub(super) fn finish(&mut self) {
        self.step_until_idle();
        self.committer.mark();
        self.journal.close();
    }
}
