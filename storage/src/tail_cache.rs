//! Recent batches of all logs in memory, under one byte budget, so that followers and live consumers never touch the
//! disk. Direct writes leave nothing in the page cache: this is what makes a batch readable at once.
//!
//! Batches leave in the order they came, whatever their log. A batch that is not durable yet never leaves: until its
//! commit is on disk this is the only place it can be read from. A log without cached batches costs nothing.
//!
//! Batches that nobody reads soon, because they are copied long after they were written, only pass through: they leave
//! as soon as they are durable, before any other, and what is cached of their log before them leaves with them.

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
    stay: Stay,
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
    held: Held,
    next_ticket: u64,
    logs: HashMap<LogId, VecDeque<Cached>>,
    /// Of the batches that stay as long as the budget lets them.
    queue: VecDeque<Slot>,
    /// Of those that pass through.
    passing: VecDeque<Slot>,
}

/// What is in the cache. Bytes include the bookkeeping.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    batches: usize,
    /// Of batches that stay while the budget lets them.
    fresh_bytes: usize,
    /// Of batches that only pass. They are on their way to the disk, which bounds them.
    passing_bytes: usize,
}

impl Held {
    fn bytes_of(&mut self, stay: Stay) -> &mut usize {
        match stay {
            Stay::WhileFresh => &mut self.fresh_bytes,
            Stay::UntilDurable => &mut self.passing_bytes,
        }
    }

    fn add(&mut self, cached: &Cached) {
        self.batches += 1;
        *self.bytes_of(cached.stay) += charge(&cached.batch);
    }

    fn remove(&mut self, cached: &Cached) {
        self.batches -= 1;
        *self.bytes_of(cached.stay) -= charge(&cached.batch);
    }
}

/// How long a batch stays in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// As long as the budget lets it.
    WhileFresh,
    /// Until it is durable.
    UntilDurable,
}

impl TailCache {
    /// An empty cache for at most `budget_bytes` of durable batches.
    pub fn new(budget_bytes: usize) -> Self {
        let (logs, queue, passing) = Default::default();
        Self { budget_bytes, held: Held::default(), next_ticket: 0, logs, queue, passing }
    }

    /// Bytes held, bookkeeping included.
    pub fn bytes(&self) -> usize {
        self.held.fresh_bytes + self.held.passing_bytes
    }

    /// Batches held.
    pub fn batches(&self) -> usize {
        self.held.batches
    }

    /// Adds the newest batch of `log`, journalled as `lsn`, and lets the oldest durable ones (those below
    /// `durable_end`) go. A batch that does
    /// not continue what is cached of its log starts the log's run anew.
    pub fn insert(&mut self, log: LogId, lsn: Lsn, batch: PlacedBatch, stay: Stay, durable_end: Lsn) {
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
        let cached = Cached { ticket, lsn, batch, stay };
        self.held.add(&cached);
        self.logs.entry(log).or_default().push_back(cached);
        match stay {
            Stay::WhileFresh => self.queue.push_back(Slot { log, ticket }),
            Stay::UntilDurable => self.passing.push_back(Slot { log, ticket }),
        }
        self.evict(durable_end);
    }

    /// Lets go what only passed and is below `durable_end`, then others until the budget holds or the oldest is not below
    /// `durable_end`.
    pub fn evict(&mut self, durable_end: Lsn) {
        self.let_pass(durable_end);
        while self.held.fresh_bytes > self.budget_bytes {
            let Some(slot) = self.queue.front() else { break };
            let Some(run) = self.logs.get_mut(&slot.log) else {
                self.queue.pop_front();
                continue;
            };
            match run.front() {
                Some(oldest) if oldest.ticket == slot.ticket && oldest.lsn >= durable_end => break,
                // An older one passes and is not durable: neither is this one.
                Some(oldest) if oldest.ticket < slot.ticket => break,
                Some(oldest) if oldest.ticket == slot.ticket => {
                    self.held.remove(oldest);
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
        if self.queue.len() > self.held.batches * 2 + DEAD_SLOTS_MIN {
            let logs = &self.logs;
            self.queue.retain(|slot| {
                logs.get(&slot.log)
                    .is_some_and(|run| run.binary_search_by_key(&slot.ticket, |cached| cached.ticket).is_ok())
            });
        }
    }

    /// Lets go of the batches below `durable_end` that only pass, and of what is cached of their logs before them: what is
    /// cached of a log has no holes.
    fn let_pass(&mut self, durable_end: Lsn) {
        while let Some(slot) = self.passing.front() {
            if let Some(run) = self.logs.get_mut(&slot.log)
                && let Ok(place) = run.binary_search_by_key(&slot.ticket, |cached| cached.ticket)
            {
                if run.get(place).is_some_and(|cached| cached.lsn >= durable_end) {
                    return;
                }
                run.drain(..=place).for_each(|cached| self.held.remove(&cached));
                if run.is_empty() {
                    self.logs.remove(&slot.log);
                }
            }
            self.passing.pop_front();
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
            self.held.remove(last);
            run.pop_back();
        }
        if run.is_empty() {
            self.logs.remove(&log);
        }
    }

    /// Forgets everything of `log`.
    pub fn forget_log(&mut self, log: LogId) {
        if let Some(run) = self.logs.remove(&log) {
            run.iter().for_each(|cached| self.held.remove(cached));
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
            cache.insert(LOG, Lsn::new(i), batch(10 + i * 2), Stay::WhileFresh, ALL);
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
        cache.insert(LOG, Lsn::new(0), batch(0), Stay::WhileFresh, Lsn::new(0));
        for i in 1..5 {
            cache.insert(other, Lsn::new(i), batch(i * 2), Stay::WhileFresh, Lsn::new(0));
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
            cache.insert(LOG, Lsn::new(round), batch(0), Stay::WhileFresh, ALL);
            cache.truncate(LOG, offset(0));
        }
        assert_eq!((cache.batches(), cache.bytes(), cache.logs.len()), (0, 0, 0));
        assert!(cache.queue.len() <= DEAD_SLOTS_MIN + 1, "dead slots pile up");
        cache.insert(LOG, Lsn::new(9_000), batch(4), Stay::WhileFresh, ALL);
        cache.insert(LOG, Lsn::new(9_001), batch(40), Stay::WhileFresh, ALL);
        assert_eq!(read(&cache, LOG, 4, 99, 9_999), None, "a jump starts a new run");
    }

    // Catches copies of old batches that push out what live readers read, that vanish before they are durable, or that
    // pin those behind them.
    #[test]
    fn what_passes_leaves_when_it_is_durable_and_pushes_nothing_out() {
        let mut cache = TailCache::new(batch(0).size_bytes() * 2 + 2 * BATCH_OVERHEAD_BYTES);
        let other = LogId::new(2);
        cache.insert(LOG, Lsn::new(0), batch(0), Stay::WhileFresh, Lsn::new(0));
        cache.insert(LOG, Lsn::new(1), batch(2), Stay::WhileFresh, Lsn::new(1));
        for i in 2..50 {
            cache.insert(other, Lsn::new(i), batch(i * 2), Stay::UntilDurable, Lsn::new(i));
            assert_eq!(read(&cache, other, i * 2, 999, 9_999), Some((1, i * 2 + 2)), "it is nowhere else yet");
        }
        assert_eq!(read(&cache, LOG, 2, 99, 9_999), Some((1, 4)), "what is read live");
        cache.evict(ALL);
        assert_eq!((cache.batches(), cache.passing.len()), (2, 0));
        assert_eq!(read(&cache, LOG, 0, 99, 9_999), Some((2, 4)), "nothing was pushed out");
        // It has caught up: what follows stays, and leaves in its turn.
        cache.insert(other, Lsn::new(50), batch(100), Stay::UntilDurable, Lsn::new(50));
        for i in 51..60 {
            cache.insert(other, Lsn::new(i), batch(i * 2), Stay::WhileFresh, Lsn::new(50));
        }
        assert_eq!(read(&cache, other, 100, 999, 99_999), Some((10, 120)), "none of it is durable");
        cache.evict(ALL);
        assert_eq!((cache.batches(), read(&cache, other, 116, 999, 9_999)), (2, Some((2, 120))));
        assert_eq!(cache.bytes(), (batch(0).size_bytes() + BATCH_OVERHEAD_BYTES) * 2);
    }

    // Catches a log that falls behind and keeps a hole in its cached batches, or slots of batches that were cut away.
    #[test]
    fn what_was_cached_before_what_passes_leaves_with_it() {
        let mut cache = TailCache::new(1 << 20);
        cache.insert(LOG, Lsn::new(0), batch(0), Stay::WhileFresh, ALL);
        cache.insert(LOG, Lsn::new(1), batch(2), Stay::UntilDurable, Lsn::new(1));
        cache.insert(LOG, Lsn::new(2), batch(4), Stay::WhileFresh, Lsn::new(1));
        assert_eq!(cache.batches(), 3);
        cache.evict(Lsn::new(2));
        assert_eq!((cache.batches(), read(&cache, LOG, 4, 99, 9_999)), (1, Some((1, 6))));
        cache.insert(LOG, Lsn::new(3), batch(6), Stay::UntilDurable, Lsn::new(2));
        cache.truncate(LOG, offset(6));
        cache.evict(ALL);
        assert_eq!((cache.batches(), cache.passing.len()), (1, 0));
    }
}
