//! The state of every log at some point of the journal, so that recovery replays one or two segments and not all.
//!
//! A file `checkpoint-<sequence, 16 hex digits>` is written each time a segment was sealed and its extents are in the
//! index. Two generations are kept: when the newest is damaged, the one before it and a longer replay give the same
//! state. Segments are recycled only once they lie behind the older one.
//!
//! A checkpoint is *fuzzy*: logs are captured one after the other while appends go on, each with the sequence number
//! of the last entry it includes. Replay starts at a segment at or before all of them and skips, log by log, what is
//! included. It is written only when everything it includes is durable, so it never knows more than the journal.
//!
//! ```text
//! magic "SBCP" | format u32 | crc32c u32 of all that follows | sequence u64 | directory 16 | replay segment u64
//! | replay lsn u64 | next log id u64 | logs u32 x (log record) | ranges u32 x (damaged range)
//! ```
//! A damaged range is one whose log is not known: segment u64, position u64, length u64, base lsn u64, next lsn u64 (all
//! ones: not known), reason u8 (see [`DamageReason`]'s stored numbers). Integers are little-endian; [`LogSnapshot`] has the
//! fields of a log record in their order. A repaired extent is its base offset u64, then the index's value of an extent.
//!
//! Format 2 has no committed offsets in its log records, so nothing is known to be committed but what retention gave up,
//! and at most five batches of a producer. Format 1 has no repaired extents either, and ends before the ranges.

use std::io;

use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::ids::{DirectoryId, PartitionId, PartitionIndex, ProducerEpoch, ProducerId, Sequence, TopicId};
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;

use crate::disk::Disk;
use crate::epoch_cache::{EpochCache, EpochStart};
use crate::index::Extent;
use crate::journal::{DamageReason, DamagedRange, LogId, Lsn, SegmentId};
use crate::partition_log::damage::DamagedOffsets;
use crate::partition_log::options::LogOptions;
use crate::producer_state::{BATCHES_REMEMBERED, ProducedBatch, ProducerEntry, ProducerTable};
use crate::stored::{Fields, stored_count};

/// What checkpoint file names start with.
pub const CHECKPOINT_PREFIX: &str = "checkpoint-";
/// The format this version writes.
const CHECKPOINT_FORMAT: u32 = 3;
/// The format without damaged ranges; read, not written.
const CHECKPOINT_FORMAT_1: u32 = 1;
/// The format without committed offsets; read, not written.
const CHECKPOINT_FORMAT_2: u32 = 2;
const MAGIC: [u8; 4] = *b"SBCP";
/// Generations kept.
pub const GENERATIONS: usize = 2;

/// The state of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSnapshot {
    /// The log.
    pub log: LogId,
    /// The partition it is of.
    pub partition: PartitionId,
    /// The last journal entry of this log that the snapshot includes.
    pub applied: Lsn,
    /// Log start.
    pub start: Offset,
    /// Log end.
    pub end: Offset,
    /// Bytes of the log's batches.
    pub size_bytes: u64,
    /// Its settings.
    pub options: LogOptions,
    /// Its leader epochs.
    pub epochs: EpochCache,
    /// Its known damage.
    pub damaged: Vec<DamagedOffsets>,
    /// Its idempotent producers.
    pub producers: ProducerTable,
    /// Where batches lie that were stored anew in place of damaged ones; from format 2 on.
    pub repaired: Vec<Extent>,
    /// Everything below was committed; from format 3 on.
    pub committed: Offset,
}

/// The state of every log, and where to go on from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Grows by one a checkpoint.
    pub sequence: u64,
    /// The data directory it belongs to.
    pub directory: DirectoryId,
    /// The first segment whose entries may be missing from the index.
    pub replay_segment: SegmentId,
    /// The first sequence number of that segment.
    pub replay_lsn: Lsn,
    /// The number the next new log gets.
    pub next_log: LogId,
    /// The logs.
    pub logs: Vec<LogSnapshot>,
    /// Damage of the journal whose log is not known.
    pub unattributed: Vec<DamagedRange>,
}

/// What the checkpoint files of a directory say.
#[derive(Debug, Default)]
pub struct CheckpointsFound {
    /// The newest that can be read.
    pub newest: Option<Checkpoint>,
    /// Where each readable generation would replay from, newest first. Segments before the second may be recycled.
    pub replay_segments: Vec<SegmentId>,
    /// Files that cannot be read, and why.
    pub damaged: Vec<(String, String)>,
    /// The highest sequence any file name carries.
    pub highest_sequence: u64,
}

impl Checkpoint {
    /// Every journal entry below this number was on stable storage when the checkpoint was written.
    pub fn durable_below(&self) -> Lsn {
        let applied = self.logs.iter().map(|log| log.applied.next()).max();
        applied.unwrap_or_default().max(self.replay_lsn)
    }

    /// The name of the file.
    pub fn file_name(sequence: u64) -> String {
        format!("{CHECKPOINT_PREFIX}{sequence:016x}")
    }

    /// Reads every checkpoint file of the directory.
    pub fn load_all(disk: &dyn Disk, directory: DirectoryId) -> io::Result<CheckpointsFound> {
        let mut found = CheckpointsFound::default();
        for name in disk.list(CHECKPOINT_PREFIX)?.into_iter().rev() {
            let Some(sequence) = sequence_of(&name) else { continue };
            found.highest_sequence = found.highest_sequence.max(sequence);
            let decoded = match disk.read_file(&name) {
                Ok(bytes) => Self::decode(&bytes),
                // The generation before it is there for this.
                Err(error) => Err(format!("it cannot be read: {error}")),
            };
            match decoded {
                Ok(checkpoint) if checkpoint.directory != directory => {
                    found.damaged.push((name, format!("it belongs to data directory {}", checkpoint.directory)));
                }
                Ok(checkpoint) if checkpoint.sequence != sequence => {
                    found.damaged.push((name, format!("it holds checkpoint {}", checkpoint.sequence)));
                }
                Ok(checkpoint) => {
                    found.replay_segments.push(checkpoint.replay_segment);
                    if found.newest.is_none() {
                        found.newest = Some(checkpoint);
                    }
                }
                Err(problem) => found.damaged.push((name, problem)),
            }
        }
        Ok(found)
    }

    /// Writes this checkpoint durably and removes generations that are no longer needed.
    pub fn store(&self, disk: &dyn Disk) -> io::Result<()> {
        disk.write_file_atomically(&Self::file_name(self.sequence), &self.encode())?;
        let names: Vec<_> = disk.list(CHECKPOINT_PREFIX)?.into_iter().filter(|n| sequence_of(n).is_some()).collect();
        for old in names.iter().rev().skip(GENERATIONS) {
            disk.remove(old)?;
        }
        Ok(())
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(64 + self.logs.len() * 160);
        body.extend_from_slice(&self.sequence.to_le_bytes());
        body.extend_from_slice(self.directory.as_bytes());
        body.extend_from_slice(&self.replay_segment.get().to_le_bytes());
        body.extend_from_slice(&self.replay_lsn.get().to_le_bytes());
        body.extend_from_slice(&self.next_log.get().to_le_bytes());
        body.extend_from_slice(&stored_count(self.logs.len()));
        for log in &self.logs {
            log.encode(&mut body);
        }
        body.extend_from_slice(&stored_count(self.unattributed.len()));
        for range in &self.unattributed {
            encode_damage(range, &mut body);
        }
        let mut bytes = Vec::with_capacity(body.len() + 12);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&CHECKPOINT_FORMAT.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    /// Reads the file's bytes; the error says what is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut fields = Fields::new(bytes);
        if fields.array() != Some(MAGIC) {
            return Err("it does not start like a checkpoint".to_owned());
        }
        let format = match fields.u32() {
            Some(format @ (CHECKPOINT_FORMAT_1 | CHECKPOINT_FORMAT_2 | CHECKPOINT_FORMAT)) => format,
            found => return Err(format!("it has format {found:?}, this version reads up to {CHECKPOINT_FORMAT}")),
        };
        let crc = fields.u32();
        if crc != bytes.get(12..).map(crc32c::crc32c) {
            return Err("its checksum differs".to_owned());
        }
        Self::decode_body(&mut fields, format)
            .filter(|_| fields.is_empty())
            .ok_or_else(|| "its checksum is right and its content does not decode".to_owned())
    }

    fn decode_body(fields: &mut Fields<'_>, format: u32) -> Option<Self> {
        let sequence = fields.u64()?;
        let directory = DirectoryId::from_bytes(fields.array()?);
        let replay_segment = SegmentId::new(fields.u64()?);
        let replay_lsn = Lsn::new(fields.u64()?);
        let next_log = LogId::new(fields.u64()?);
        let count = fields.count(64)?;
        let logs = (0..count).map(|_| LogSnapshot::decode(fields, format)).collect::<Option<_>>()?;
        let ranges = if format == CHECKPOINT_FORMAT_1 { 0 } else { fields.count(41)? };
        let unattributed = (0..ranges).map(|_| decode_damage(fields)).collect::<Option<_>>()?;
        Some(Self { sequence, directory, replay_segment, replay_lsn, next_log, logs, unattributed })
    }
}

impl LogSnapshot {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.log.get().to_le_bytes());
        encode_partition(self.partition, out);
        out.extend_from_slice(&self.applied.get().to_le_bytes());
        out.extend_from_slice(&self.start.get().to_le_bytes());
        out.extend_from_slice(&self.end.get().to_le_bytes());
        out.extend_from_slice(&self.size_bytes.to_le_bytes());
        self.options.encode(out);
        out.extend_from_slice(&stored_count(self.epochs.starts().len()));
        for known in self.epochs.starts() {
            out.extend_from_slice(&known.epoch.get().to_le_bytes());
            out.extend_from_slice(&known.start.get().to_le_bytes());
        }
        out.extend_from_slice(&stored_count(self.damaged.len()));
        for range in &self.damaged {
            out.extend_from_slice(&range.base.get().to_le_bytes());
            out.extend_from_slice(&range.next.get().to_le_bytes());
        }
        out.extend_from_slice(&stored_count(self.producers.len()));
        for (id, entry) in self.producers.sorted_entries() {
            out.extend_from_slice(&id.get().to_le_bytes());
            out.extend_from_slice(&entry.epoch.get().to_le_bytes());
            out.extend_from_slice(&entry.last_seen.as_millis().to_le_bytes());
            out.extend_from_slice(&stored_count(entry.batches.len()));
            for batch in &entry.batches {
                out.extend_from_slice(&batch.base_sequence.get().to_le_bytes());
                out.extend_from_slice(&batch.record_count.to_le_bytes());
                out.extend_from_slice(&batch.base_offset.get().to_le_bytes());
            }
        }
        out.extend_from_slice(&stored_count(self.repaired.len()));
        for extent in &self.repaired {
            out.extend_from_slice(&extent.base.get().to_le_bytes());
            out.extend_from_slice(&extent.encode());
        }
        out.extend_from_slice(&self.committed.get().to_le_bytes());
    }

    fn decode(fields: &mut Fields<'_>, format: u32) -> Option<Self> {
        let log = LogId::new(fields.u64()?);
        let partition = decode_partition(fields)?;
        let applied = Lsn::new(fields.u64()?);
        let (start, end) = (fields.offset()?, fields.offset()?);
        let size_bytes = fields.u64()?;
        let options = LogOptions::decode(fields)?;
        let mut epochs = Vec::new();
        for _ in 0..fields.count(12)? {
            epochs.push(EpochStart { epoch: LeaderEpoch::new(fields.u32()?), start: fields.offset()? });
        }
        let mut damaged = Vec::new();
        for _ in 0..fields.count(16)? {
            damaged.push(DamagedOffsets { base: fields.offset()?, next: fields.offset()? });
        }
        let mut producers = Vec::new();
        for _ in 0..fields.count(22)? {
            let id = ProducerId::new(fields.i64()?);
            let epoch = ProducerEpoch::new(fields.array().map(i16::from_le_bytes)?);
            let last_seen = Timestamp::from_millis(fields.i64()?);
            let count = fields.count(16).filter(|count| *count <= BATCHES_REMEMBERED)?;
            let mut batches = Vec::with_capacity(count);
            for _ in 0..count {
                batches.push(ProducedBatch {
                    base_sequence: Sequence::new(fields.array().map(i32::from_le_bytes)?),
                    record_count: fields.u32()?,
                    base_offset: fields.offset()?,
                });
            }
            producers.push((id, ProducerEntry { epoch, last_seen, batches }));
        }
        let mut repaired = Vec::new();
        let count = if format == CHECKPOINT_FORMAT_1 { 0 } else { fields.count(48)? };
        for _ in 0..count {
            let base = fields.offset()?;
            repaired.push(Extent::decode(base, &fields.array::<40>()?).ok()?);
        }
        let committed = if format < CHECKPOINT_FORMAT { start } else { fields.offset()? };
        let snapshot = Self {
            log,
            partition,
            applied,
            start,
            end,
            size_bytes,
            options,
            epochs: EpochCache::from_starts(epochs),
            damaged,
            producers: ProducerTable::from_entries(producers),
            repaired,
            committed,
        };
        (snapshot.start <= snapshot.end).then_some(snapshot)
    }
}

fn encode_damage(range: &DamagedRange, out: &mut Vec<u8>) {
    let next_lsn = range.next_lsn.map_or(u64::MAX, Lsn::get);
    for number in [range.segment.get(), range.position, range.length, range.base_lsn.get(), next_lsn] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.push(range.reason.to_stored());
}

fn decode_damage(fields: &mut Fields<'_>) -> Option<DamagedRange> {
    Some(DamagedRange {
        segment: SegmentId::new(fields.u64()?),
        position: fields.u64()?,
        length: fields.u64()?,
        base_lsn: Lsn::new(fields.u64()?),
        next_lsn: Some(fields.u64()?).filter(|next| *next != u64::MAX).map(Lsn::new),
        entry: None,
        reason: fields.array().and_then(|[stored]| DamageReason::from_stored(stored))?,
    })
}

/// Appends a partition's id, 20 bytes.
pub(crate) fn encode_partition(partition: PartitionId, out: &mut Vec<u8>) {
    out.extend_from_slice(partition.topic.as_bytes());
    out.extend_from_slice(&partition.partition.get().to_le_bytes());
}

/// Reads a partition's id.
pub(crate) fn decode_partition(fields: &mut Fields<'_>) -> Option<PartitionId> {
    let topic = TopicId::from_bytes(fields.array()?);
    Some(PartitionId { topic, partition: PartitionIndex::new(fields.u32()?) })
}

fn sequence_of(name: &str) -> Option<u64> {
    let hex = name.strip_prefix(CHECKPOINT_PREFIX).filter(|hex| hex.len() == 16)?;
    u64::from_str_radix(hex, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::memory::MemoryDisk;

    fn offset(value: u64) -> Offset {
        Offset::new(value).expect("small")
    }

    fn damage(reason: DamageReason) -> DamagedRange {
        let next_lsn = (reason != DamageReason::Missing).then_some(Lsn::new(9));
        let (segment, base_lsn) = (SegmentId::new(3), Lsn::new(8));
        DamagedRange { segment, position: 4096, length: 100, base_lsn, next_lsn, entry: None, reason }
    }

    fn checkpoint(sequence: u64) -> Checkpoint {
        let batch = ProducedBatch { base_sequence: Sequence::new(4), record_count: 2, base_offset: offset(8) };
        let producer =
            ProducerEntry { epoch: ProducerEpoch::new(1), last_seen: Timestamp::from_millis(5), batches: vec![batch] };
        let extent = Extent {
            base: offset(6),
            next: offset(7),
            segment: SegmentId::new(2),
            position: 8192,
            length: 90,
            batch_bytes: 70,
            max_timestamp: Timestamp::from_millis(3),
        };
        Checkpoint {
            sequence,
            directory: DirectoryId::from_bytes([3; 16]),
            replay_segment: SegmentId::new(sequence * 2),
            replay_lsn: Lsn::new(77),
            next_log: LogId::new(12),
            logs: vec![LogSnapshot {
                log: LogId::new(11),
                partition: PartitionId { topic: TopicId::from_bytes([5; 16]), partition: PartitionIndex::new(2) },
                applied: Lsn::new(76),
                start: offset(4),
                end: offset(10),
                size_bytes: 600,
                options: LogOptions::default(),
                epochs: EpochCache::from_starts([EpochStart { epoch: LeaderEpoch::new(1), start: offset(4) }]),
                damaged: vec![DamagedOffsets { base: offset(5), next: offset(6) }],
                producers: ProducerTable::from_entries([(ProducerId::new(9), producer)]),
                repaired: vec![extent],
                committed: offset(9),
            }],
            unattributed: DamageReason::ALL.map(damage).to_vec(),
        }
    }

    #[test]
    fn survives_and_every_flipped_bit_is_refused() {
        let bytes = checkpoint(1).encode();
        assert_eq!(Checkpoint::decode(&bytes).expect("own bytes"), checkpoint(1));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Checkpoint::decode(&flipped).is_err(), "bit {bit} was not noticed");
        }
        for length in 0..bytes.len() {
            assert!(Checkpoint::decode(&bytes[..length]).is_err(), "a file cut to {length} bytes was accepted");
        }
    }

    // Catches an upgrade that refuses what the version before wrote.
    #[test]
    fn the_formats_before_are_read() {
        let mut old = Checkpoint { unattributed: Vec::new(), ..checkpoint(1) };
        old.logs[0].repaired.clear();
        // Nothing is known to be committed but what was given up.
        old.logs[0].committed = old.logs[0].start;
        let full = old.encode();
        let empty_list = [0; 4];
        // The end of a file: the list of repaired extents, what is committed, the list of ranges.
        let head = &full[..full.len() - 16];
        let bodies: [(u32, &[&[u8]]); 2] =
            [(CHECKPOINT_FORMAT_1, &[]), (CHECKPOINT_FORMAT_2, &[&empty_list, &empty_list])];
        for (format, tail) in bodies {
            let mut bytes = [head, &tail.concat()].concat();
            bytes[4..8].copy_from_slice(&format.to_le_bytes());
            let crc = crc32c::crc32c(&bytes[12..]);
            bytes[8..12].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(Checkpoint::decode(&bytes), Ok(old.clone()), "format {format}");
        }
    }

    // Catches a store that keeps one generation only: one flipped bit would cost every log.
    #[test]
    fn a_damaged_newest_generation_falls_back_to_the_one_before() {
        let disk = MemoryDisk::new();
        for sequence in 1..=4 {
            checkpoint(sequence).store(&disk).expect("store");
        }
        assert_eq!(disk.list(CHECKPOINT_PREFIX).expect("list").len(), GENERATIONS);
        let directory = checkpoint(1).directory;
        let found = Checkpoint::load_all(&disk, directory).expect("load");
        assert_eq!(found.newest.as_ref().map(|c| c.sequence), Some(4));
        assert_eq!(found.replay_segments, [SegmentId::new(8), SegmentId::new(6)]);
        disk.write_file_atomically(&Checkpoint::file_name(4), b"garbage").expect("damage");
        let found = Checkpoint::load_all(&disk, directory).expect("load");
        assert_eq!(found.newest.as_ref().map(|c| c.sequence), Some(3));
        assert_eq!((found.damaged.len(), found.highest_sequence), (1, 4));
    }
}
