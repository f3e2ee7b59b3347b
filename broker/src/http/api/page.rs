//! A page of records: where reading starts, which records fit, and where the next page starts.
//!
//! Pure: positions and batches in, records and positions out. Several partitions are merged by timestamp; a partition's
//! own records keep the order of their offsets whatever their timestamps say.

use std::fmt::Write as _;

use bytes::Bytes;
use serde::Serialize;
use streambus_protocol::batch::{BatchError, batches};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::ids::PartitionIndex;
use streambus_protocol::limits::{BATCH_BYTES_MAX, DECOMPRESSED_FACTOR_MAX};
use streambus_protocol::offset::Offset;
use streambus_protocol::record::StoredRecord;
use streambus_protocol::timestamp::Timestamp;

use super::super::problem::Problem;
use super::json_record::OutgoingRecord;
use super::rfc3339;

/// What a compressed batch may grow to.
const EXPANDED_BYTES_MAX: usize = BATCH_BYTES_MAX * DECOMPRESSED_FACTOR_MAX;

/// What the records of all partitions may take before they are merged, in pages: with single records above their share.
const HELD_FACTOR_MAX: usize = 2;

/// Where a first page starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Earliest,
    Latest,
    Offset(Offset),
    Time(Timestamp),
    /// This many offsets before the end of each partition.
    Tail(u64),
}

impl From {
    /// Reads `earliest`, `latest`, `offset:N`, `time:T` or `tail:N`.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let (kind, value) = text.split_once(':').unwrap_or((text, ""));
        let parsed = match kind {
            "earliest" if value.is_empty() => Some(Self::Earliest),
            "latest" if value.is_empty() => Some(Self::Latest),
            "offset" => value.parse().ok().and_then(Offset::new).map(Self::Offset),
            "tail" => value.parse().ok().map(Self::Tail),
            "time" => {
                let millis = value.parse().ok().or_else(|| rfc3339::parse(value)).filter(|millis| *millis >= 0);
                millis.map(|millis| Self::Time(Timestamp::from_millis(millis)))
            }
            _ => None,
        };
        parsed.ok_or_else(|| {
            let detail = format!(
                "'from' is '{text}', it must be earliest, latest, offset:N, tail:N, or time: with milliseconds since \
                 1970 or an instant such as 2026-11-21T10:00:00Z"
            );
            Problem::invalid(detail).at("from")
        })
    }
}

/// One partition's next offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) partition: PartitionIndex,
    pub(super) offset: Offset,
    /// The leader epoch of what lies in front of it, if that was read: by it another log is told from the one that was read.
    pub(super) epoch: Option<LeaderEpoch>,
}

/// Writes positions as a cursor: `0:12:3,1:40`, the leader epoch where it is known. Readable on purpose; it needs no state
/// here.
pub(super) fn cursor(positions: &[Position]) -> String {
    let mut text = String::new();
    for position in positions {
        let separator = if text.is_empty() { "" } else { "," };
        let _infallible = write!(text, "{separator}{}:{}", position.partition, position.offset.get());
        if let Some(epoch) = position.epoch {
            let _infallible = write!(text, ":{epoch}");
        }
    }
    text
}

/// Reads a cursor back.
pub(super) fn positions(cursor: &str) -> Result<Vec<Position>, Problem> {
    let read = |part: &str| {
        let (partition, place) = part.split_once(':')?;
        let (offset, epoch) = match place.split_once(':') {
            Some((offset, epoch)) => (offset, Some(LeaderEpoch::new(epoch.parse().ok()?))),
            None => (place, None),
        };
        let offset = Offset::new(offset.parse().ok()?)?;
        Some(Position { partition: PartitionIndex::new(partition.parse().ok()?), offset, epoch })
    };
    let positions: Option<Vec<Position>> = cursor.split(',').map(read).collect();
    let is_distinct = |list: &Vec<Position>| {
        let mut seen: Vec<u32> = list.iter().map(|position| position.partition.get()).collect();
        seen.sort_unstable();
        seen.windows(2).all(|pair| pair.first() != pair.last())
    };
    positions.filter(is_distinct).ok_or_else(|| {
        Problem::invalid(format!("'{cursor}' is no cursor: give back the 'next' of the page before")).at("cursor")
    })
}

/// What was fetched from one partition.
#[derive(Debug)]
pub(super) struct FetchedPartition {
    pub(super) asked: Position,
    pub(super) log_start: Offset,
    pub(super) high_watermark: Offset,
    pub(super) batches: Vec<Bytes>,
}

/// A page before it is written.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) records: Vec<OutgoingRecord>,
    pub(super) partitions: Vec<PagePartition>,
    pub(super) next: Vec<Position>,
}

/// Where one partition stands after a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct PagePartition {
    pub(super) partition: u32,
    pub(super) log_start: u64,
    pub(super) high_watermark: u64,
    /// The offset that the next page starts at.
    pub(super) next: u64,
    /// The leader epoch of what lies in front of it, if that was read.
    pub(super) leader_epoch: Option<u32>,
}

/// Takes up to `limit` records of together about `bytes_max` bytes of keys and values; the first fits always.
///
/// One batch is expanded at a time and only what the page may take of it is kept: each partition gets its share of
/// `bytes_max`, at least one record. The page ends before a partition that has more than its share could be overtaken.
///
/// # Errors
/// A batch that does not decode, with its partition.
pub(super) fn page(
    fetched: Vec<FetchedPartition>,
    limit: usize,
    bytes_max: usize,
) -> Result<Page, (PartitionIndex, BatchError)> {
    let mut queues = Vec::with_capacity(fetched.len());
    let share = bytes_max / fetched.len().max(1);
    let mut held: usize = 0;
    for partition in &fetched {
        // Single records above their share: what is full already leaves the other partitions to the next page.
        let queue = if held > bytes_max.saturating_mul(HELD_FACTOR_MAX) {
            Queue::unread(partition)
        } else {
            Queue::read(partition, limit, share).map_err(|error| (partition.asked.partition, error))?
        };
        held = held.saturating_add(queue.bytes);
        queues.push(queue);
    }
    let mut records = Vec::new();
    let mut bytes: usize = 0;
    while records.len() < limit && !queues.iter().any(Queue::is_cut_off) {
        // The partition whose next record is the oldest; ties go to the lower partition.
        let earliest = queues.iter_mut().filter(|queue| !queue.records.is_empty()).min_by_key(|queue| queue.time());
        let popped = earliest.and_then(|queue| queue.records.pop().map(|record| (queue, record)));
        let Some((queue, (record, epoch))) = popped else { break };
        let size = record_bytes(&record);
        if !records.is_empty() && bytes.saturating_add(size) > bytes_max {
            queue.records.push((record, epoch));
            break;
        }
        bytes = bytes.saturating_add(size);
        queue.taken.offset = record.offset.next().unwrap_or(Offset::MAX);
        queue.taken.epoch = Some(epoch);
        records.push(OutgoingRecord::new(queue.taken.partition, epoch, &record));
    }
    let next: Vec<Position> = queues.iter().map(Queue::position).collect();
    let partitions = fetched.iter().zip(&next).map(|(partition, next)| PagePartition {
        partition: next.partition.get(),
        log_start: partition.log_start.get(),
        high_watermark: partition.high_watermark.get(),
        next: next.offset.get(),
        leader_epoch: next.epoch.map(LeaderEpoch::get),
    });
    Ok(Page { records, partitions: partitions.collect(), next })
}

/// One partition's records, the next one last.
struct Queue {
    /// Behind the last one that is on the page.
    taken: Position,
    records: Vec<(StoredRecord, LeaderEpoch)>,
    /// Behind all of them.
    end: Position,
    /// Bytes of the records read.
    bytes: usize,
    /// There are more in what was fetched, and they were not read.
    has_more: bool,
}

impl Queue {
    /// Reads up to `limit` records of together up to `bytes_max` bytes, but one in any case.
    fn read(fetched: &FetchedPartition, limit: usize, bytes_max: usize) -> Result<Self, BatchError> {
        let mut records = Vec::new();
        let mut end = fetched.asked;
        let (mut bytes, mut has_more) = (0_usize, false);
        'chunks: for chunk in &fetched.batches {
            for batch in batches(chunk.clone()) {
                let batch = batch?;
                if batch.next_offset() <= end.offset {
                    continue;
                }
                let epoch = batch.leader_epoch();
                if !batch.header().is_control() {
                    for record in batch.records(EXPANDED_BYTES_MAX)? {
                        let record = record?;
                        if record.offset < end.offset {
                            continue;
                        }
                        let size = record_bytes(&record);
                        if records.len() == limit || (!records.is_empty() && bytes.saturating_add(size) > bytes_max) {
                            // The end is this record's offset, or in a gap before it: the next page finds it.
                            has_more = true;
                            break 'chunks;
                        }
                        bytes = bytes.saturating_add(size);
                        end.offset = record.offset.next().unwrap_or(Offset::MAX);
                        end.epoch = Some(epoch);
                        records.push((detached(record), epoch));
                    }
                }
                end.offset = batch.next_offset();
                end.epoch = Some(epoch);
            }
        }
        records.reverse();
        Ok(Self { taken: fetched.asked, records, end, bytes, has_more })
    }

    /// A partition that the page leaves where it is.
    fn unread(fetched: &FetchedPartition) -> Self {
        Self { taken: fetched.asked, records: Vec::new(), end: fetched.asked, bytes: 0, has_more: false }
    }

    /// Its next record is not here to be compared with the others'.
    fn is_cut_off(&self) -> bool {
        self.has_more && self.records.is_empty()
    }

    fn time(&self) -> Timestamp {
        self.records.last().map_or(Timestamp::NONE, |(record, _)| record.record.timestamp)
    }

    /// Where the next page starts. Its epoch is that of the offset in front of it, and of no record behind that.
    fn position(&self) -> Position {
        if self.records.is_empty() { self.end } else { self.taken }
    }
}

/// The record with bytes of its own: a slice would keep the whole expanded batch.
fn detached(mut stored: StoredRecord) -> StoredRecord {
    let own = |bytes: &mut Option<Bytes>| {
        if let Some(bytes) = bytes {
            *bytes = Bytes::copy_from_slice(bytes);
        }
    };
    own(&mut stored.record.key);
    own(&mut stored.record.value);
    for header in &mut stored.record.headers {
        own(&mut header.value);
    }
    stored
}

fn record_bytes(stored: &StoredRecord) -> usize {
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let record = &stored.record;
    let headers: usize = record.headers.iter().map(|header| header.key.len() + length(&header.value)).sum();
    length(&record.key) + length(&record.value) + headers
}

#[cfg(test)]
mod tests {
    use streambus_protocol::batch::{BatchBuilder, BatchOptions, UnverifiedBatch};
    use streambus_protocol::record::Record;

    use super::*;

    fn offset(n: u64) -> Offset {
        Offset::new(n).expect("small")
    }

    fn batch(base: u64, times: &[i64], value: &str) -> Bytes {
        batch_of(0, base, times, value)
    }

    fn batch_of(epoch: u32, base: u64, times: &[i64], value: &str) -> Bytes {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for time in times {
            builder.push(&Record::new(value.to_owned(), Timestamp::from_millis(*time))).expect("fits");
        }
        let built = UnverifiedBatch::new(builder.build().expect("builds")).verify(1 << 20).expect("verifies");
        built.place(offset(base), LeaderEpoch::new(epoch)).as_bytes().clone()
    }

    fn fetched(partition: u32, from: u64, batches: Vec<Bytes>) -> FetchedPartition {
        FetchedPartition {
            asked: Position { partition: PartitionIndex::new(partition), offset: offset(from), epoch: None },
            log_start: Offset::ZERO,
            high_watermark: offset(100),
            batches,
        }
    }

    fn offsets(page: &Page) -> Vec<(u32, u64)> {
        page.records.iter().map(|record| (record.partition, record.offset)).collect()
    }

    #[test]
    fn a_page_starts_inside_a_batch_and_the_next_one_goes_on_there() {
        let chunk = batch(10, &[1, 2, 3, 4], "v");
        let first = page(vec![fetched(0, 11, vec![chunk.clone()])], 2, 1 << 20).expect("decodes");
        assert_eq!(offsets(&first), [(0, 11), (0, 12)]);
        assert_eq!(cursor(&first.next), "0:13:0");
        let second = page(vec![fetched(0, 13, vec![chunk])], 2, 1 << 20).expect("decodes");
        assert_eq!((offsets(&second), cursor(&second.next)), (vec![(0, 13)], "0:14:0".to_owned()));
    }

    /// Catches a merge that loses or repeats records where a page ends.
    #[test]
    fn partitions_are_merged_by_time_and_pages_cover_every_record_once() {
        let chunks = |partition: u32| match partition {
            0 => vec![batch(0, &[10, 20, 50], "a"), batch(3, &[40], "a")],
            _ => vec![batch(5, &[15, 30, 45], "b")],
        };
        let mut seen = Vec::new();
        let mut at = vec![(0_u32, 0_u64), (1, 5)];
        loop {
            let fetched = at.iter().map(|(partition, from)| fetched(*partition, *from, chunks(*partition))).collect();
            let page = page(fetched, 2, 1 << 20).expect("decodes");
            if page.records.is_empty() {
                break;
            }
            seen.extend(offsets(&page));
            at = page.next.iter().map(|p| (p.partition.get(), p.offset.get())).collect();
        }
        assert_eq!(seen, [(0, 0), (1, 5), (0, 1), (1, 6), (1, 7), (0, 2), (0, 3)]);
    }

    #[test]
    fn a_page_is_bounded_in_bytes_but_never_empty() {
        let big = "x".repeat(1000);
        let chunks = vec![batch(0, &[1, 2, 3], &big)];
        let first = page(vec![fetched(0, 0, chunks.clone())], 100, 2100).expect("decodes");
        assert_eq!((offsets(&first).len(), cursor(&first.next).as_str()), (2, "0:2:0"));
        let tiny = page(vec![fetched(0, 2, chunks)], 100, 1).expect("decodes");
        assert_eq!(offsets(&tiny), [(0, 2)]);
    }

    /// Catches a page that holds everything it was given before it looks at its limit, and records that keep the batch
    /// they were expanded from.
    #[test]
    fn a_page_holds_only_what_it_may_take() {
        let big = "x".repeat(1_000);
        let read = Queue::read(&fetched(0, 0, vec![batch(0, &[1; 50], &big)]), 1_000, 3_500).expect("decodes");
        assert_eq!((read.records.len(), read.bytes, read.end.offset, read.has_more), (3, 3_000, offset(3), true));
        let chunk = batch(0, &[1], &big);
        let read = Queue::read(&fetched(0, 0, vec![chunk.clone()]), 10, 10_000).expect("decodes");
        let value = read.records[0].0.record.value.as_ref().expect("a value").as_ptr();
        assert!(!chunk.as_ptr_range().contains(&value), "a slice of the batch");
        let huge: Vec<_> = (0..8).map(|p| fetched(p, 0, vec![batch(0, &[1], &big)])).collect();
        let first = page(huge, 100, 500).expect("decodes");
        assert_eq!(offsets(&first), [(0, 0)]);
        assert_eq!(cursor(&first.next), "0:1:0,1:0,2:0,3:0,4:0,5:0,6:0,7:0");
    }

    /// Catches a merge that goes on with the other partitions' later records once one has used up its share.
    #[test]
    fn a_page_ends_where_a_partition_has_more_than_its_share() {
        let big = "x".repeat(1_000);
        let chunks = || vec![fetched(0, 0, vec![batch(0, &[1, 2, 3], &big)]), fetched(1, 0, vec![batch(0, &[9], "b")])];
        let first = page(chunks(), 100, 2_400).expect("decodes");
        assert_eq!((offsets(&first), cursor(&first.next).as_str()), (vec![(0, 0)], "0:1:0,1:0"));
    }

    // Catches a cursor whose epoch is not that of the offset in front of it: a log that was never replaced would be refused, or
    // one that was taken for the same.
    #[test]
    fn the_next_position_has_the_epoch_of_what_lies_in_front_of_it() {
        let chunks = || vec![batch_of(2, 0, &[1, 2], "v"), batch_of(5, 2, &[3, 4], "v")];
        for (limit, next) in [(1, "0:1:2"), (2, "0:2:2"), (3, "0:3:5"), (9, "0:4:5")] {
            let page = page(vec![fetched(0, 0, chunks())], limit, 1 << 20).expect("decodes");
            assert_eq!(cursor(&page.next), next);
        }
        // The other partition's record does not fit, and its position is what it was.
        let mut other = fetched(1, 7, vec![batch_of(9, 7, &[8], "later")]);
        other.asked.epoch = Some(LeaderEpoch::new(4));
        let page = page(vec![fetched(0, 0, chunks()), other], 2, 1 << 20).expect("decodes");
        assert_eq!(cursor(&page.next), "0:2:2,1:7:4");
        assert_eq!(page.partitions.iter().map(|at| at.leader_epoch).collect::<Vec<_>>(), [Some(2), Some(4)]);
    }

    #[test]
    fn nothing_new_stays_where_it_is() {
        let empty = page(vec![fetched(3, 100, Vec::new())], 10, 10).expect("decodes");
        assert_eq!((empty.records.len(), cursor(&empty.next).as_str()), (0, "3:100"));
        assert_eq!(empty.partitions[0].high_watermark, 100);
    }

    #[test]
    fn damage_names_its_partition() {
        let mut bytes = batch(0, &[1], "v").to_vec();
        if let Some(last) = bytes.last_mut() {
            *last ^= 1;
        }
        let (partition, _) = page(vec![fetched(4, 0, vec![bytes.into()])], 1, 1).expect_err("checksum");
        assert_eq!(partition.get(), 4);
    }

    #[test]
    fn starting_points_and_cursors_are_read() {
        for (text, expected) in [
            ("earliest", From::Earliest),
            ("latest", From::Latest),
            ("offset:42", From::Offset(offset(42))),
            ("tail:5", From::Tail(5)),
            ("time:1000", From::Time(Timestamp::from_millis(1000))),
            ("time:1970-01-01T00:00:02Z", From::Time(Timestamp::from_millis(2000))),
        ] {
            assert_eq!(From::parse(text), Ok(expected), "{text}");
        }
        for text in ["", "now", "offset:", "offset:-1", "tail:x", "time:-5", "time:soon", "earliest:1"] {
            assert!(From::parse(text).is_err(), "{text}");
        }
        let list = positions("0:12,7:40:3").expect("legal");
        assert_eq!(cursor(&list), "0:12,7:40:3");
        for text in ["", "0", "0:", "0:1,", "0:1,0:2", "-1:5", "0:99999999999999999999", "0:1:", "0:1:x", "0:1:2:3"] {
            assert!(positions(text).is_err(), "{text}");
        }
    }
}
