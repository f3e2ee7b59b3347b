//! Recent batches of all logs in memory, under one byte budget, so that followers and live consumers never touch the
//! disk. Direct writes leave nothing in the page cache: this is what makes a batch readable at once.
//!
//! Batches leave in the order they came, whatever their log. A batch that is not durable yet never leaves: until its
//! commit is on disk this is the only place it can be read from. A log without cached batches costs nothing.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use streambus_protocol::batch::PlacedBatch;
use streambus_protocol::offset::Offset;

use crate::journal::{LogId, Lsn};

/// Bookkeeping charged per batch besides its bytes.
const BATCH_OVERHEAD_BYTES: usize = 160;
/// Dead queue slots tolerated before the queue is swept.
const DEAD_SLOTS_MIN: usize = 1_024;

/// One cached batch. `ticket` is unique, so that a queue slot never removes a later batch of the same offsets.
#[derive(Debug)]
struct Cached {
    ticket: u64,
    lsn: Lsn,
    batch: PlacedBatch,
}

#[derive(Debug)]
struct Slot {
    log: LogId,
    ticket: u64,
}

/// The cache. Callers put it behind one short lock.
#[derive(Debug)]
pub struct TailCache {
    budget_bytes: usize,
    bytes: usize,
    batches: usize,
    next_ticket: u64,
    logs: HashMap<LogId, VecDeque<Cached>>,
    queue: VecDeque<Slot>,
}

impl TailCache {
    /// An empty cache for at most `budget_bytes` of durable batches.
    pub fn new(budget_bytes: usize) -> Self {
        Self { budget_bytes, bytes: 0, batches: 0, next_ticket: 0, logs: HashMap::new(), queue: VecDeque::new() }
    }

    /// Bytes held, bookkeeping included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Batches held.
    pub fn batches(&self) -> usize {
        self.batches
    }

    /// Adds the newest batch of `log`, journalled as `lsn`, and lets the oldest durable ones (those below
    /// `durable_end`) go. A batch that does
    /// not continue what is cached of its log starts the log's run anew.
    pub fn insert(&mut self, log: LogId, lsn: Lsn, batch: PlacedBatch, durable_end: Lsn) {
        let contiguous = self
            .logs
            .get(&log)
            .and_then(VecDeque::back)
            .is_none_or(|last| last.batch.next_offset() == batch.base_offset());
        if !contiguous {
            self.forget_log(log);
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.bytes += charge(&batch);
        self.batches += 1;
        self.logs.entry(log).or_default().push_back(Cached { ticket, lsn, batch });
        self.queue.push_back(Slot { log, ticket });
        self.evict(durable_end);
    }

    /// Lets batches go until the budget holds or the oldest is not below `durable_end`.
    pub fn evict(&mut self, durable_end: Lsn) {
        while self.bytes > self.budget_bytes {
            let Some(slot) = self.queue.front() else { break };
            let Some(run) = self.logs.get_mut(&slot.log) else {
                self.queue.pop_front();
                continue;
            };
            match run.front() {
                Some(oldest) if oldest.ticket == slot.ticket && oldest.lsn >= durable_end => break,
                Some(oldest) if oldest.ticket == slot.ticket => {
                    self.bytes -= charge(&oldest.batch);
                    self.batches -= 1;
                    run.pop_front();
                    if run.is_empty() {
                        self.logs.remove(&slot.log);
                    }
                    self.queue.pop_front();
                }
                // The batch was truncated away earlier; only its slot was left.
                _ => {
                    self.queue.pop_front();
                }
            }
        }
        if self.queue.len() > self.batches * 2 + DEAD_SLOTS_MIN {
            let logs = &self.logs;
            self.queue.retain(|slot| {
                logs.get(&slot.log)
                    .is_some_and(|run| run.binary_search_by_key(&slot.ticket, |cached| cached.ticket).is_ok())
            });
        }
    }

    /// Whole batches of `log` from the one that holds `from`, all ending at or below `below`, and the offset after
    /// them: at least one batch, and no more than `bytes_max` besides it. Empty when the first ends above `below`;
    /// `None` when the batch that holds `from` is not cached.
    pub fn read(&self, log: LogId, from: Offset, below: Offset, bytes_max: usize) -> Option<(Vec<Bytes>, Offset)> {
        let mut run = self.run_from(log, from).peekable();
        run.peek()?;
        let (mut found, mut bytes, mut next) = (Vec::new(), 0, from);
        for batch in run {
            let size = batch.size_bytes();
            if batch.next_offset() > below || (!found.is_empty() && bytes + size > bytes_max) {
                break;
            }
            bytes += size;
            next = batch.next_offset();
            found.push(batch.as_bytes().clone());
        }
        Some((found, next))
    }

    /// The base offset of the cached batch that holds `offset`.
    pub fn base_of(&self, log: LogId, offset: Offset) -> Option<Offset> {
        self.run_from(log, offset).next().map(PlacedBatch::base_offset)
    }

    /// Forgets the batches of `log` at or above `end`.
    pub fn truncate(&mut self, log: LogId, end: Offset) {
        let Some(run) = self.logs.get_mut(&log) else { return };
        while let Some(last) = run.back()
            && last.batch.next_offset() > end
        {
            self.bytes -= charge(&last.batch);
            self.batches -= 1;
            run.pop_back();
        }
        if run.is_empty() {
            self.logs.remove(&log);
        }
    }

    /// Forgets everything of `log`.
    pub fn forget_log(&mut self, log: LogId) {
        if let Some(run) = self.logs.remove(&log) {
            self.batches -= run.len();
            self.bytes -= run.iter().map(|cached| charge(&cached.batch)).sum::<usize>();
        }
    }

    fn run_from(&self, log: LogId, from: Offset) -> impl Iterator<Item = &PlacedBatch> {
        let run = self.logs.get(&log);
        let first = run.map_or(0, |run| run.partition_point(|cached| cached.batch.next_offset() <= from));
        let holds = run.and_then(|run| run.get(first)).is_some_and(|cached| cached.batch.base_offset() <= from);
        let take = if holds { usize::MAX } else { 0 };
        run.into_iter().flat_map(move |run| run.iter().skip(first)).take(take).map(|cached| &cached.batch)
    }
}

fn charge(batch: &PlacedBatch) -> usize {
    batch.size_bytes() + BATCH_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use streambus_protocol::batch::{BatchBuilder, BatchOptions, UnverifiedBatch};
    use streambus_protocol::epoch::LeaderEpoch;
    use streambus_protocol::record::Record;
    use streambus_protocol::timestamp::Timestamp;

    use super::*;

    const ALL: Lsn = Lsn::new(u64::MAX);
    const LOG: LogId = LogId::new(1);

    fn offset(value: u64) -> Offset {
        Offset::new(value).expect("small")
    }

    /// Two records of 1,000 bytes at `base`.
    fn batch(base: u64) -> PlacedBatch {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for _ in 0..2 {
            builder.push(&Record::new(vec![7; 1_000], Timestamp::from_millis(1))).expect("fits");
        }
        let bytes: BytesMut = builder.build().expect("not empty");
        let batch = UnverifiedBatch::new(bytes).verify(1 << 20).expect("just built");
        batch.place(offset(base), LeaderEpoch::new(0))
    }

    fn read(cache: &TailCache, log: LogId, from: u64, below: u64, bytes_max: usize) -> Option<(usize, u64)> {
        cache.read(log, offset(from), offset(below), bytes_max).map(|(batches, next)| (batches.len(), next.get()))
    }

    #[test]
    fn reads_are_whole_batches_within_their_bounds() {
        let mut cache = TailCache::new(1 << 20);
        for i in 0..4 {
            cache.insert(LOG, Lsn::new(i), batch(10 + i * 2), ALL);
        }
        assert_eq!(read(&cache, LOG, 9, 99, 9_999), None, "before the first cached batch");
        assert_eq!(read(&cache, LOG, 18, 99, 9_999), None, "behind the last");
        assert_eq!(read(&cache, LOG, 11, 99, 1), Some((1, 12)), "a batch larger than asked for is served alone");
        assert_eq!(read(&cache, LOG, 10, 16, 9_999), Some((3, 16)));
        assert_eq!(read(&cache, LOG, 14, 15, 9_999), Some((0, 14)), "its batch ends above the bound");
        assert_eq!(cache.base_of(LOG, offset(13)), Some(offset(12)));
    }

    // Catches a cache that drops the only copy of a batch that is still on its way to the disk.
    #[test]
    fn the_oldest_durable_batches_leave_first_and_others_never() {
        let mut cache = TailCache::new(batch(0).size_bytes() * 2 + 2 * BATCH_OVERHEAD_BYTES);
        let other = LogId::new(2);
        cache.insert(LOG, Lsn::new(0), batch(0), Lsn::new(0));
        for i in 1..5 {
            cache.insert(other, Lsn::new(i), batch(i * 2), Lsn::new(0));
        }
        assert_eq!(cache.batches(), 5, "nothing is durable yet");
        cache.evict(Lsn::new(1));
        assert_eq!(read(&cache, LOG, 0, 99, 9_999), None, "the oldest went, whatever its log");
        assert_eq!(cache.batches(), 4);
        cache.evict(ALL);
        assert_eq!((cache.batches(), read(&cache, other, 6, 99, 9_999)), (2, Some((2, 10))));
    }

    #[test]
    fn truncated_batches_are_gone_and_cost_nothing() {
        let mut cache = TailCache::new(1 << 20);
        for round in 0..3_000 {
            cache.insert(LOG, Lsn::new(round), batch(0), ALL);
            cache.truncate(LOG, offset(0));
        }
        assert_eq!((cache.batches(), cache.bytes(), cache.logs.len()), (0, 0, 0));
        assert!(cache.queue.len() <= DEAD_SLOTS_MIN + 1, "dead slots pile up");
        cache.insert(LOG, Lsn::new(9_000), batch(4), ALL);
        cache.insert(LOG, Lsn::new(9_001), batch(40), ALL);
        assert_eq!(read(&cache, LOG, 4, 99, 9_999), None, "a jump starts a new run");
    }
}
