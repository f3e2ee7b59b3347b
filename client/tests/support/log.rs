//! One partition's log as its leader has it: KIP-98 memory, what is committed, what a change of leader may lose.

use std::collections::{HashMap, VecDeque};

use streambus_protocol::batch::{PlacedBatch, UnverifiedBatch};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::offset::Offset;

#[derive(Default)]
pub struct Log {
    /// None while there is no leader.
    pub leader: Option<u32>,
    pub epoch: u32,
    pub log_start: u64,
    /// Nothing can be read from here on.
    pub damaged_from: Option<u64>,
    pub batches: Vec<PlacedBatch>,
    /// What is before is acknowledged, readable and survives a change of leader.
    committed: u64,
    /// (producer, epoch) -> last batches: first and last sequence, base offset.
    producers: HashMap<i64, (i16, VecDeque<Remembered>)>,
}

type Remembered = (i64, i64, u64);

impl Log {
    pub fn led_by(leader: u32) -> Self {
        Self { leader: Some(leader), ..Self::default() }
    }

    pub fn end(&self) -> u64 {
        self.batches.last().map_or(self.log_start, |b| b.next_offset().get())
    }

    pub fn committed(&self) -> u64 {
        self.committed.max(self.log_start)
    }

    pub fn uncommit(&mut self) {
        self.committed = self.log_start;
    }

    pub fn commit(&mut self, end: u64) {
        self.committed = self.committed.max(end.min(self.end()));
    }

    /// Appends; returns the base offset, also of a batch that is there already.
    pub fn append(&mut self, batch: UnverifiedBatch) -> Result<u64, ErrorCode> {
        let batch = batch.verify(1 << 20).map_err(|e| e.error_code())?;
        let base = self.end();
        let batch = batch.place(Offset::new(base).expect("small"), LeaderEpoch::new(self.epoch));
        match self.remember(&batch)? {
            Some(present) => Ok(present),
            None => {
                self.batches.push(batch);
                Ok(base)
            }
        }
    }

    /// Another leader, which lacks the last `lost` batches that are not committed.
    pub fn lead(&mut self, leader: Option<u32>, lost: usize) {
        self.leader = leader;
        self.epoch += 1;
        for _ in 0..lost {
            if self.end() > self.committed() {
                self.batches.pop();
            }
        }
        self.committed = self.end();
        // As a new leader does: from the log.
        self.producers.clear();
        for batch in std::mem::take(&mut self.batches) {
            assert_eq!(self.remember(&batch), Ok(None), "the log holds nothing twice and nothing out of order");
            self.batches.push(batch);
        }
    }

    pub fn replace(&mut self, from: u64, epoch: u32, count: usize) {
        let template = self.batches.first().expect("a batch").as_bytes().clone();
        self.batches.retain(|batch| batch.base_offset().get() < from);
        for _ in 0..count {
            let copy = UnverifiedBatch::from_shared(template.clone()).verify(1 << 20).expect("a batch");
            self.batches.push(copy.place(Offset::new(self.end()).expect("small"), LeaderEpoch::new(epoch)));
        }
        self.committed = self.end();
    }

    /// Compacts the log: only the records of which `keeps` is true stay, at their offsets.
    pub fn compact(&mut self, keeps: impl Fn(u64) -> bool) {
        for batch in std::mem::take(&mut self.batches) {
            let records = batch.records(1 << 20).expect("expands").map(|stored| stored.expect("sound"));
            let kept: Vec<_> = records.filter(|stored| keeps(stored.offset.get())).collect();
            if !kept.is_empty() {
                self.batches.push(batch.with_records(&kept, None).expect("no larger"));
                continue;
            }
            let before = self.batches.pop_if(|last| last.is_placeholder());
            let base = before.map_or(batch.base_offset(), |last| last.base_offset());
            let left = PlacedBatch::placeholder(base, batch.next_offset(), batch.leader_epoch(), batch.max_timestamp());
            self.batches.push(left.expect("some offsets"));
        }
    }

    /// Takes a batch that is to be appended into the producer's memory, or finds it there.
    fn remember(&mut self, batch: &PlacedBatch) -> Result<Option<u64>, ErrorCode> {
        let Some(stamp) = batch.producer() else { return Ok(None) };
        let base = batch.base_offset().get();
        let first = i64::from(stamp.base_sequence.get());
        let last = first + i64::from(batch.record_count()) - 1;
        match self.producers.get_mut(&stamp.id.get()) {
            Some((epoch, _)) if stamp.epoch.get() < *epoch => return Err(ErrorCode::FencedProducer),
            Some((epoch, known)) if stamp.epoch.get() == *epoch => {
                if let Some((_, _, base)) = known.iter().find(|(f, l, _)| (*f, *l) == (first, last)) {
                    return Ok(Some(*base));
                }
                if known.back().map_or(0, |(_, l, _)| l + 1) != first {
                    return Err(ErrorCode::OutOfOrderSequence);
                }
            }
            Some(_) if first != 0 => return Err(ErrorCode::OutOfOrderSequence),
            _ => {
                self.producers.insert(stamp.id.get(), (stamp.epoch.get(), VecDeque::new()));
            }
        }
        let (_, known) = self.producers.get_mut(&stamp.id.get()).expect("just there");
        known.push_back((first, last, base));
        if known.len() > 5 {
            known.pop_front();
        }
        Ok(None)
    }
}
