//! The verdict on reading a log that others wrote: was every offset delivered once and in order, and is every stamped
//! record the one that its producer sent, in the producer's order? Pure.
//!
//! What was acknowledged only the producers know, and they check it when they read back. A reader knows the offsets
//! between a partition's ends: one that did not come is lost, one that came twice is doubled. Stamps tell the rest.

use std::collections::{BTreeMap, HashMap};

use crate::bits::Bits;
use crate::integrity::{Expected, Verdict};
use crate::stamp::{self, Reading};

/// Runs whose damaged records are remembered until one of their records proves that the run exists.
const SUSPECTS_MAX: usize = 1_024;

/// Whether every offset between a partition's ends holds a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offsets {
    /// Each does: one that does not come is lost.
    Dense,
    /// Compaction has taken some away: only what comes is judged.
    Compacted,
}

/// Where reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// At the ends, or in front of them although more was wanted.
    Ends,
    /// At a number of records that was asked for: what follows was not wanted.
    Limit,
}

/// What has come so far.
#[derive(Debug)]
pub struct Census {
    offsets: Offsets,
    partitions: BTreeMap<u32, Partition>,
    columns: Vec<Column>,
    places: HashMap<(u32, u16), usize>,
    /// The column of the record before: records of one producer come in rows.
    current: usize,
    /// Records with a wrong checksum by the run they name; strangers' records look like that too.
    suspects: BTreeMap<u32, u64>,
    stamped: u64,
    verdict: Verdict,
}

#[derive(Debug)]
struct Partition {
    base: u64,
    end: u64,
    last: Option<u64>,
    seen: Bits,
}

/// The records of one producer of one run.
#[derive(Debug)]
struct Column {
    of: (u32, u16),
    seen: Bits,
    /// The last sequence in each partition.
    last: BTreeMap<u32, u32>,
}

impl Census {
    /// A census of the half-open ranges `from..to` of each partition in `to`; a partition begins at 0 unless `from` says
    /// otherwise.
    pub fn new(from: &BTreeMap<u32, u64>, to: &BTreeMap<u32, u64>, offsets: Offsets) -> Self {
        let partition = |(number, end): (&u32, &u64)| {
            let base = from.get(number).copied().unwrap_or(0).min(*end);
            (*number, Partition { base, end: *end, last: None, seen: Bits::default() })
        };
        Self {
            offsets,
            partitions: to.iter().map(partition).collect(),
            columns: Vec::new(),
            places: HashMap::new(),
            current: 0,
            suspects: BTreeMap::new(),
            stamped: 0,
            verdict: Verdict { expected: Expected::Offsets, ..Verdict::default() },
        }
    }

    /// Notes a record; records must be given in the order in which they came.
    pub fn read(&mut self, partition: u32, offset: u64, value: &[u8]) {
        self.verdict.read += 1;
        let Some(log) = self.partitions.get_mut(&partition).filter(|log| (log.base..log.end).contains(&offset)) else {
            // Nobody asked for it.
            self.verdict.unacked_present += 1;
            return;
        };
        if log.seen.set(offset - log.base) {
            self.verdict.doubled += 1;
            return;
        }
        let is_late = log.last.is_some_and(|last| offset < last);
        log.last = Some(log.last.map_or(offset, |last| last.max(offset)));
        if self.is_behind_its_producer(partition, value) || is_late {
            self.verdict.out_of_order += 1;
        }
    }

    /// Judges the stamp, and tells whether a later record of the same producer has come before in this partition.
    fn is_behind_its_producer(&mut self, partition: u32, value: &[u8]) -> bool {
        let Some(run) = stamp::run_of(value) else { return false };
        let stamp = match stamp::read(value, run) {
            Reading::Valid(stamp) => stamp,
            Reading::Damaged => {
                if self.suspects.len() < SUSPECTS_MAX || self.suspects.contains_key(&run) {
                    *self.suspects.entry(run).or_default() += 1;
                }
                return false;
            }
            Reading::Foreign => return false,
        };
        self.stamped += 1;
        let column = self.column((run, stamp.producer));
        let is_doubled = column.seen.set(u64::from(stamp.sequence));
        let last = column.last.entry(partition).or_insert(stamp.sequence);
        let is_late = stamp.sequence < *last;
        *last = stamp.sequence.max(*last);
        if is_doubled {
            self.verdict.doubled += 1;
            return false;
        }
        is_late
    }

    fn column(&mut self, of: (u32, u16)) -> &mut Column {
        if self.columns.get(self.current).is_none_or(|column| column.of != of) {
            let columns = &mut self.columns;
            self.current = *self.places.entry(of).or_insert_with(|| {
                columns.push(Column { of, seen: Bits::default(), last: BTreeMap::new() });
                columns.len() - 1
            });
        }
        &mut self.columns[self.current]
    }

    /// The verdict, once nothing more comes. `acked` counts the records that the logs hold where they were read.
    pub fn finish(mut self, reach: Reach) -> Verdict {
        let delivered: u64 = self.partitions.values().map(|log| log.seen.len()).sum();
        self.verdict.acked = match self.offsets {
            Offsets::Compacted => delivered,
            Offsets::Dense => self.partitions.values().map(|log| log.wanted(reach)).sum(),
        };
        if self.offsets == Offsets::Dense {
            self.verdict.lost = self.partitions.values().map(|log| log.wanted(reach) - log.seen.len()).sum();
        }
        let runs: Vec<u32> = self.columns.iter().map(|column| column.of.0).collect();
        let of_known_runs = self.suspects.iter().filter(|(run, _)| runs.contains(run));
        self.verdict.damaged = of_known_runs.map(|(_, count)| count).sum();
        self.verdict.by_stamp = self.stamped > 0 && self.stamped + self.verdict.damaged >= delivered;
        self.verdict
    }
}

impl Partition {
    /// Records that had to come.
    fn wanted(&self, reach: Reach) -> u64 {
        match reach {
            Reach::Ends => self.end - self.base,
            Reach::Limit => self.last.map_or(0, |last| last + 1 - self.base),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::{Filler, ValueMaker};

    const RUN: u32 = 9;

    fn value(run: u32, sequence: u32) -> bytes::Bytes {
        ValueMaker::new(run, 0, 64, Filler::Random).make(sequence, 0)
    }

    /// Reads `(partition, offset, sequence)` of two partitions that end at 3 and 2.
    fn verdict_of(records: &[(u32, u64, u32)], offsets: Offsets, reach: Reach) -> Verdict {
        let mut census = Census::new(&BTreeMap::new(), &BTreeMap::from([(0, 3), (1, 2)]), offsets);
        for (partition, offset, sequence) in records {
            census.read(*partition, *offset, &value(RUN, *sequence));
        }
        census.finish(reach)
    }

    const ALL: [(u32, u64, u32); 5] = [(0, 0, 0), (1, 0, 1), (0, 1, 2), (0, 2, 3), (1, 1, 4)];

    #[test]
    fn a_log_that_comes_whole_is_clean() {
        let verdict = verdict_of(&ALL, Offsets::Dense, Reach::Ends);
        assert!(verdict.is_clean() && verdict.by_stamp, "{verdict:?}");
        assert_eq!((verdict.acked, verdict.read), (5, 5));
    }

    /// Catches: a skipped, a repeated or a swapped record that a mere count of records does not show.
    #[test]
    fn each_fault_is_counted_as_what_it_is() {
        let lost = verdict_of(&[ALL[0], ALL[1], ALL[3], ALL[4]], Offsets::Dense, Reach::Ends);
        assert_eq!((lost.lost, lost.doubled, lost.out_of_order), (1, 0, 0));
        let doubled = verdict_of(&[ALL[0], ALL[0], ALL[1], ALL[2], ALL[3], ALL[4]], Offsets::Dense, Reach::Ends);
        assert_eq!((doubled.lost, doubled.doubled, doubled.out_of_order), (0, 1, 0));
        let swapped = verdict_of(&[ALL[0], ALL[1], ALL[3], ALL[2], ALL[4]], Offsets::Dense, Reach::Ends);
        assert_eq!((swapped.lost, swapped.doubled, swapped.out_of_order), (0, 0, 1));
        // The same record stored under two offsets.
        let stored_twice = verdict_of(&[(0, 0, 0), (0, 1, 0), (0, 2, 1)], Offsets::Dense, Reach::Limit);
        assert_eq!((stored_twice.lost, stored_twice.doubled, stored_twice.out_of_order), (0, 1, 0));
        // Offsets in order, the producer's records not.
        let reordered = verdict_of(&[(0, 0, 1), (0, 1, 0)], Offsets::Dense, Reach::Limit);
        assert_eq!((reordered.lost, reordered.out_of_order), (0, 1));
    }

    /// Catches: what lies behind a limit that was asked for, or what compaction took away, told as a loss.
    #[test]
    fn what_was_not_wanted_or_is_no_more_is_not_lost() {
        assert_eq!(verdict_of(&ALL[..2], Offsets::Dense, Reach::Limit).lost, 0);
        assert_eq!(verdict_of(&ALL[..2], Offsets::Dense, Reach::Ends).lost, 3);
        assert_eq!(verdict_of(&[(0, 2, 7)], Offsets::Dense, Reach::Limit).lost, 2, "a gap in front of what came");
        assert!(verdict_of(&[(0, 2, 7)], Offsets::Compacted, Reach::Ends).is_clean());
    }

    /// Catches: a damaged record that goes unnoticed, and a stranger's record that is called damaged.
    #[test]
    fn damage_is_told_from_records_of_no_benchmark() {
        let ends = BTreeMap::from([(0, 2)]);
        let mut damaged = value(RUN, 1).to_vec();
        damaged[40] ^= 1;
        let mut census = Census::new(&BTreeMap::new(), &ends, Offsets::Dense);
        census.read(0, 0, &damaged);
        census.read(0, 1, &value(RUN, 0));
        let verdict = census.finish(Reach::Ends);
        assert_eq!((verdict.damaged, verdict.lost, verdict.by_stamp), (1, 0, true));
        let mut census = Census::new(&BTreeMap::new(), &ends, Offsets::Dense);
        census.read(0, 0, &[b'x'; 64]);
        census.read(0, 1, b"short");
        let verdict = census.finish(Reach::Ends);
        assert!(verdict.is_clean() && !verdict.by_stamp, "{verdict:?}");
    }
}
