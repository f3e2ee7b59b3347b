//! The verdict on a run: was any acknowledged record lost, stored twice, damaged, or out of order? Pure.
//!
//! Order is per partition: the records of one producer must come back in the order in which they were sent. Records
//! whose outcome was unknown may be there or not; both are right.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::bits::Bits;
use crate::stamp::{self, Reading};

/// What happened to each record of each producer, as the acknowledgements and the read-back tell it.
#[derive(Debug)]
pub struct Ledger {
    run: u32,
    producers: Vec<Column>,
    verdict: Verdict,
}

/// One producer's records, a bit for each sequence number.
#[derive(Clone, Debug, Default)]
struct Column {
    acked: Bits,
    seen: Bits,
    /// The last sequence seen in each partition.
    last: BTreeMap<u32, u32>,
}

/// How it is known which records must be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// They were acknowledged.
    #[default]
    Acknowledged,
    /// They lie between the ends of their partitions.
    Offsets,
}

/// The counts of a verdict. All is well when the faults are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether the run was checked record by record; false when records are too small to carry a stamp.
    pub by_stamp: bool,
    /// How it is known which records must be there.
    pub expected: Expected,
    /// Records acknowledged, or held by the logs that were read.
    pub acked: u64,
    /// Records of this run that were read back.
    pub read: u64,
    /// Records that must be there and were not: must be 0.
    pub lost: u64,
    /// Records that were there more than once: must be 0.
    pub doubled: u64,
    /// Records that came back after a later one of the same producer and partition: must be 0.
    pub out_of_order: u64,
    /// Records whose checksum was wrong: must be 0.
    pub damaged: u64,
    /// Records that were there without an acknowledgement (their outcome was unknown, or acks were none): allowed.
    pub unacked_present: u64,
}

impl Verdict {
    /// True when nothing was lost, doubled, reordered or damaged.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.out_of_order == 0 && self.damaged == 0
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        let judged = if self.is_clean() { "OK" } else { "FAILED" };
        let basis = match (self.expected, self.by_stamp) {
            (_, true) => String::new(),
            (Expected::Acknowledged, false) => {
                format!(" (by count only: records under {} bytes carry no stamp)", stamp::STAMP_BYTES)
            }
            (Expected::Offsets, false) => " (by offsets only: not every record carries a stamp)".to_owned(),
        };
        let counted = match self.expected {
            Expected::Acknowledged => format!("{} acked, {} read back", self.acked, self.read),
            Expected::Offsets => format!("{} in the logs, {} read", self.acked, self.read),
        };
        if self.expected == Expected::Acknowledged && !self.by_stamp {
            return format!("{judged}{basis}: {counted}");
        }
        format!(
            "{judged}{basis}: {counted}, {} lost, {} doubled, {} out of order, {} damaged",
            self.lost, self.doubled, self.out_of_order, self.damaged
        )
    }

    /// Adds the counts of another reading, judged in the same way.
    pub fn add(&mut self, other: &Self) {
        self.by_stamp &= other.by_stamp;
        self.acked += other.acked;
        self.read += other.read;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.out_of_order += other.out_of_order;
        self.damaged += other.damaged;
        self.unacked_present += other.unacked_present;
    }
}

impl Ledger {
    /// A ledger for `producers` producers of `run`, whose records are `record_bytes` long.
    pub fn new(run: u32, producers: u16, record_bytes: usize) -> Self {
        Self {
            run,
            producers: vec![Column::default(); usize::from(producers)],
            verdict: Verdict { by_stamp: record_bytes >= stamp::STAMP_BYTES, ..Verdict::default() },
        }
    }

    /// Notes that `producer`'s record `sequence` was acknowledged.
    pub fn acked(&mut self, producer: u16, sequence: u32) {
        self.verdict.acked += 1;
        if let Some(column) = self.producers.get_mut(usize::from(producer)) {
            column.acked.set(u64::from(sequence));
        }
    }

    /// Notes a value that was read from `partition`; values must be given in the order of the partition.
    pub fn read(&mut self, partition: u32, value: &[u8]) {
        if !self.verdict.by_stamp {
            self.verdict.read += 1;
            return;
        }
        let stamp = match stamp::read(value, self.run) {
            Reading::Valid(stamp) => stamp,
            Reading::Damaged => {
                self.verdict.damaged += 1;
                return;
            }
            Reading::Foreign => return,
        };
        let Some(column) = self.producers.get_mut(usize::from(stamp.producer)) else {
            self.verdict.damaged += 1;
            return;
        };
        self.verdict.read += 1;
        if column.seen.set(u64::from(stamp.sequence)) {
            self.verdict.doubled += 1;
            return;
        }
        let last = column.last.entry(partition).or_insert(stamp.sequence);
        if stamp.sequence < *last {
            self.verdict.out_of_order += 1;
        }
        *last = stamp.sequence.max(*last);
    }

    /// Records of this run read so far.
    pub fn read_count(&self) -> u64 {
        self.verdict.read
    }

    /// The verdict, once everything has been read.
    pub fn finish(mut self) -> Verdict {
        if self.verdict.by_stamp {
            for column in &self.producers {
                self.verdict.lost += column.acked.count_missing_in(&column.seen);
                self.verdict.unacked_present += column.seen.count_missing_in(&column.acked);
            }
        } else {
            self.verdict.lost = self.verdict.acked.saturating_sub(self.verdict.read);
            self.verdict.unacked_present = self.verdict.read.saturating_sub(self.verdict.acked);
        }
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::{Filler, ValueMaker};

    const RUN: u32 = 5;

    fn ledger_after(acked: &[u32], read: &[(u32, u32)]) -> Verdict {
        let maker = ValueMaker::new(RUN, 0, 64, Filler::Random);
        let mut ledger = Ledger::new(RUN, 1, 64);
        acked.iter().for_each(|sequence| ledger.acked(0, *sequence));
        read.iter().for_each(|(partition, sequence)| ledger.read(*partition, &maker.make(*sequence, 0)));
        ledger.finish()
    }

    #[test]
    fn a_clean_run_is_clean_whatever_the_partitions() {
        let verdict = ledger_after(&[0, 1, 2, 100], &[(1, 1), (0, 0), (0, 2), (1, 100)]);
        assert!(verdict.is_clean(), "{verdict:?}");
        assert_eq!((verdict.acked, verdict.read), (4, 4));
    }

    #[test]
    fn each_fault_is_counted_as_what_it_is() {
        assert_eq!(ledger_after(&[0, 1, 2], &[(0, 0), (0, 2)]).lost, 1);
        assert_eq!(ledger_after(&[0, 1], &[(0, 0), (0, 1), (1, 1)]).doubled, 1);
        assert_eq!(ledger_after(&[0, 1, 2], &[(0, 0), (0, 2), (0, 1)]).out_of_order, 1);
        let unknown = ledger_after(&[0], &[(0, 0), (0, 1)]);
        assert!(unknown.is_clean());
        assert_eq!(unknown.unacked_present, 1);
    }

    /// Catches: a sum over several readings in which the fault of one of them is forgotten.
    #[test]
    fn the_sum_of_readings_keeps_every_fault() {
        let mut sum = Verdict { by_stamp: true, ..Verdict::default() };
        sum.add(&ledger_after(&[0, 1], &[(0, 0), (0, 1)]));
        assert!(sum.is_clean() && sum.by_stamp);
        sum.add(&ledger_after(&[0, 1], &[(0, 1)]));
        assert_eq!((sum.acked, sum.read, sum.lost), (4, 3, 1));
        assert_eq!(sum.describe(), "FAILED: 4 acked, 3 read back, 1 lost, 0 doubled, 0 out of order, 0 damaged");
    }

    #[test]
    fn a_damaged_record_is_both_damaged_and_lost_and_strangers_are_nothing() {
        let mut value = ValueMaker::new(RUN, 0, 64, Filler::Random).make(0, 0).to_vec();
        value[40] ^= 1;
        let mut ledger = Ledger::new(RUN, 1, 64);
        ledger.acked(0, 0);
        ledger.read(0, &value);
        ledger.read(0, &ValueMaker::new(RUN + 1, 0, 64, Filler::Random).make(0, 0));
        let verdict = ledger.finish();
        assert_eq!((verdict.damaged, verdict.lost, verdict.read), (1, 1, 0));
    }

    #[test]
    fn records_without_room_for_a_stamp_are_counted() {
        let mut ledger = Ledger::new(RUN, 1, 10);
        (0..3).for_each(|sequence| ledger.acked(0, sequence));
        (0..2).for_each(|_| ledger.read(0, b"0123456789"));
        let verdict = ledger.finish();
        assert!(!verdict.by_stamp && verdict.lost == 1 && !verdict.is_clean());
    }
}
