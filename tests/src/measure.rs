//! Times of a run, out of its events: how long until the next acknowledgement after a fault, and the longest silence.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

use crate::event::{Event, What};
use crate::history::Value;

/// Microseconds from `fault_us` to the first acknowledgement, in each partition, of a record that was sent after it.
/// Partitions without one are left out.
pub fn recovery_us(events: &[Event], fault_us: u64) -> BTreeMap<u32, u64> {
    let mut sent_after: HashMap<Value, ()> = HashMap::new();
    let mut first = BTreeMap::new();
    for event in events.iter().filter(|event| event.at_us >= fault_us) {
        match event.what {
            What::Invoked { value } => {
                sent_after.insert(value, ());
            }
            What::Acked { value, partition, .. } if sent_after.contains_key(&value) => {
                first.entry(partition).or_insert(event.at_us - fault_us);
            }
            _ => {}
        }
    }
    first
}

/// The consumers and partitions of which one got a record that was sent within `events`.
pub fn read_since(events: &[Event]) -> BTreeSet<(u32, u32)> {
    let mut sent: HashSet<Value> = HashSet::new();
    let mut seen = BTreeSet::new();
    for event in events {
        match event.what {
            What::Invoked { value } => {
                sent.insert(value);
            }
            What::Read { reader, partition, value: Some(value), .. } if sent.contains(&value) => {
                seen.insert((reader, partition));
            }
            _ => {}
        }
    }
    seen
}

/// How long each record that was sent within `events`, and acknowledged within them, waited for that; microseconds.
pub fn acknowledged_after_us(events: &[Event]) -> Times {
    let mut sent: HashMap<Value, u64> = HashMap::new();
    let mut micros = Vec::new();
    for event in events {
        match event.what {
            What::Invoked { value } => {
                sent.insert(value, event.at_us);
            }
            What::Acked { value, .. } => micros.extend(sent.remove(&value).map(|at_us| event.at_us - at_us)),
            _ => {}
        }
    }
    micros.sort_unstable();
    Times { micros }
}

/// The longest time without an acknowledgement in any one partition, between its first and its last, in microseconds.
pub fn longest_silence_us(events: &[Event]) -> u64 {
    let mut last: BTreeMap<u32, u64> = BTreeMap::new();
    let mut longest = 0;
    for event in events {
        if let What::Acked { partition, .. } = event.what
            && let Some(before) = last.insert(partition, event.at_us)
        {
            longest = longest.max(event.at_us - before);
        }
    }
    longest
}

/// Some measured times, shown as count, median and maximum in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Times {
    micros: Vec<u64>,
}

impl Times {
    /// Adds one.
    pub fn add(&mut self, micros: u64) {
        self.micros.push(micros);
        self.micros.sort_unstable();
    }

    /// Adds all of another measurement.
    pub fn extend(&mut self, other: &Self) {
        self.micros.extend_from_slice(&other.micros);
        self.micros.sort_unstable();
    }

    /// The value that so many of a hundred do not exceed (nearest rank), if there is one.
    pub fn percentile_us(&self, percent: usize) -> Option<u64> {
        let rank = (self.micros.len() * percent).div_ceil(100);
        self.micros.get(rank.saturating_sub(1)).copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.micros.len()
    }

    /// True when nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.micros.is_empty()
    }

    /// The largest, if there is one.
    pub fn max_us(&self) -> Option<u64> {
        self.micros.last().copied()
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(median), Some(max)) = (self.micros.get(self.micros.len() / 2), self.micros.last()) else {
            return f.write_str("not measured");
        };
        write!(f, "{} times, median {} ms, longest {} ms", self.micros.len(), median / 1_000, max / 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acked(at_us: u64, sequence: u64, partition: u32) -> Event {
        let value = Value { producer: 0, sequence };
        Event { at_us, what: What::Acked { value, partition, offset: sequence, durable: 1 } }
    }

    fn sent(at_us: u64, sequence: u64) -> Event {
        Event { at_us, what: What::Invoked { value: Value { producer: 0, sequence } } }
    }

    #[test]
    fn only_records_sent_after_the_fault_show_recovery() {
        let events = [sent(1, 0), acked(12, 0, 0), sent(15, 1), acked(40, 1, 0), sent(41, 2), acked(90, 2, 1)];
        assert_eq!(recovery_us(&events, 10), BTreeMap::from([(0, 30), (1, 80)]));
    }

    #[test]
    fn what_was_sent_before_is_neither_read_nor_timed() {
        let read = |at_us, sequence, partition| Event {
            at_us,
            what: What::Read { reader: 4, partition, offset: sequence, value: Some(Value { producer: 0, sequence }) },
        };
        // Of record 0 only the end is among them; record 3 has no end.
        let events = [acked(12, 0, 0), sent(15, 1), sent(16, 2), read(20, 0, 0), acked(40, 2, 1), acked(41, 1, 0)];
        let events = [&events[..], &[sent(42, 3), read(43, 2, 1)]].concat();
        assert_eq!(read_since(&events), BTreeSet::from([(4, 1)]));
        assert_eq!(acknowledged_after_us(&events).micros, [24, 26]);
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let mut times = Times::default();
        assert_eq!(times.percentile_us(50), None);
        for micros in (1..=20).rev() {
            times.add(micros);
        }
        assert_eq!(
            [50, 95, 99, 100].map(|percent| times.percentile_us(percent)),
            [Some(10), Some(19), Some(20), Some(20)]
        );
    }

    #[test]
    fn silence_is_counted_in_each_partition_by_itself() {
        let events = [acked(10, 0, 0), acked(20, 1, 1), acked(40, 2, 0), acked(45, 3, 1)];
        assert_eq!(longest_silence_us(&events), 30);
    }
}
