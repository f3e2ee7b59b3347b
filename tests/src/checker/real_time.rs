//! Edges of real time: what was known at one moment binds every answer to a question that was asked later (I3, I6), and
//! what any consumer ever read still lies there (I1, I2).

use std::collections::{BTreeMap, HashMap};

use streambus_protocol::ids::PartitionIndex;
use streambus_protocol::offset::Offset;

use super::lineages::Lineages;
use super::{ReadBack, Violation};
use crate::event::{Event, What};
use crate::history::Value;

/// How far a partition was known to reach, over time: moments and ends, both rising.
#[derive(Debug, Default)]
struct Known {
    ends: BTreeMap<u32, Vec<(u64, u64)>>,
}

impl Known {
    /// From `at_us` on everybody may rely on the partition reaching `end`. Moments must come in order.
    fn learn(&mut self, partition: u32, at_us: u64, end: u64) {
        let ends = self.ends.entry(partition).or_default();
        if ends.last().is_none_or(|(_, known)| *known < end) {
            ends.push((at_us, end));
        }
    }

    /// What was known of the partition holds no more: an operator gave it up.
    fn forget(&mut self, partition: u32) {
        self.ends.remove(&partition);
    }

    /// The furthest end known before `at_us`; zero when nothing was.
    fn before(&self, partition: u32, at_us: u64) -> u64 {
        let Some(ends) = self.ends.get(&partition) else { return 0 };
        let earlier = ends.partition_point(|(known_at, _)| *known_at < at_us);
        earlier.checked_sub(1).map_or(0, |last| ends[last].1)
    }

    /// Since when more than `end` is known; `None` when nothing above it is.
    fn above_since(&self, partition: u32, end: u64) -> Option<u64> {
        let ends = self.ends.get(&partition)?;
        ends.get(ends.partition_point(|(_, known)| *known <= end)).map(|(known_at, _)| *known_at)
    }
}

/// Each consumer got its partitions without a step back or a hole, but where it was told of a loss, and what it got is what
/// lies there at the end, but where it was given up since.
pub(super) fn readers(events: &[Event], read: &[ReadBack], violations: &mut Vec<Violation>) {
    let by_place: HashMap<(PartitionIndex, Offset), Option<Value>> =
        read.iter().map(|record| ((record.partition, record.offset), record.value)).collect();
    let mut next: HashMap<(u32, u32), u64> = HashMap::new();
    let (mut now, last) = (Lineages::default(), Lineages::at_end(events));
    for event in events {
        now.pass(&event.what);
        let (reader, partition, offset, value) = match event.what {
            What::Read { reader, partition, offset, value } => (reader, partition, offset, value),
            What::Told { reader, partition, next: at } => {
                next.insert((reader, partition), at);
                continue;
            }
            _ => continue,
        };
        let expected = next.get(&(reader, partition)).copied().unwrap_or(0);
        if offset != expected {
            violations.push(Violation::ReaderJumped { reader, partition, expected, got: offset });
        }
        next.insert((reader, partition), offset + 1);
        if now.of(partition) < last.of(partition) {
            continue;
        }
        let found = Offset::new(offset).and_then(|at| by_place.get(&(PartitionIndex::new(partition), at)).copied());
        if found != Some(value) {
            violations.push(Violation::ReadDisagrees { reader, partition, offset, read: value, found });
        }
    }
}

/// A record sent after another was acknowledged lies behind it, and every acknowledgement has enough replicas, also one
/// that a new leader gives to a retry.
pub(super) fn acknowledgements(events: &[Event], min_isr: u8, violations: &mut Vec<Violation>) {
    let mut invoked: HashMap<Value, u64> = HashMap::new();
    let mut known = Known::default();
    for event in events {
        match event.what {
            What::Invoked { value } => {
                invoked.insert(value, event.at_us);
            }
            What::Acked { value, partition, offset, durable } => {
                let sent = invoked.get(&value).copied().unwrap_or(event.at_us);
                if durable < min_isr {
                    violations.push(Violation::TooFewReplicas { value, durable, min_isr });
                }
                let end = known.before(partition, sent);
                if offset < end {
                    violations.push(Violation::OutOfRealTime { value, partition, offset, earlier: end - 1 });
                }
                known.learn(partition, event.at_us, offset + 1);
            }
            What::GivenUp { partition } => known.forget(partition),
            _ => {}
        }
    }
}

/// No client is told a watermark below one that it was told before (I6).
///
/// An answer may be older than what other clients know already: a leader that was cut off from everybody answers from
/// what it has until it learns that it was replaced. [`staleness_us`] measures that.
pub(super) fn watermarks(events: &[Event], violations: &mut Vec<Violation>) {
    let mut told: HashMap<u32, u64> = HashMap::new();
    let mut given_up: HashMap<u32, u64> = HashMap::new();
    for event in events {
        match event.what {
            // An answer that was under way when the partition was given up may be of either side.
            What::Watermark { asked_us, partition, .. }
                if given_up.get(&partition).is_some_and(|at| asked_us < *at) => {}
            What::Watermark { asked_us, partition, offset } => {
                let known = told.entry(partition).or_insert(offset);
                if offset < *known {
                    violations.push(Violation::WatermarkBack { partition, asked_us, offset, known: *known });
                }
                *known = offset.max(*known);
            }
            What::GivenUp { partition } => {
                told.remove(&partition);
                given_up.insert(partition, event.at_us);
            }
            _ => {}
        }
    }
}

/// How long, at most, an answer about a watermark was behind what acknowledgements and reads had shown to others before
/// it was asked for: the age of the oldest such fact above the answer, in microseconds.
pub fn staleness_us(events: &[Event]) -> u64 {
    let mut known = Known::default();
    let mut longest = 0;
    for event in events {
        match event.what {
            What::Acked { partition, offset, .. } | What::Read { partition, offset, .. } => {
                known.learn(partition, event.at_us, offset + 1);
            }
            What::Watermark { asked_us, partition, offset } => {
                if let Some(since) = known.above_since(partition, offset) {
                    longest = longest.max(asked_us.saturating_sub(since));
                }
            }
            What::GivenUp { partition } => known.forget(partition),
            _ => {}
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn value(sequence: u64) -> Value {
        Value { producer: 1, sequence }
    }

    fn run(events: Vec<What>) -> Vec<Event> {
        (1..).zip(events).map(|(at_us, what)| Event { at_us, what }).collect()
    }

    fn acked(sequence: u64, offset: u64) -> What {
        What::Acked { value: value(sequence), partition: 0, offset, durable: 2 }
    }

    fn sent(sequence: u64) -> What {
        What::Invoked { value: value(sequence) }
    }

    fn read(offset: u64, sequence: u64) -> What {
        What::Read { reader: 7, partition: 0, offset, value: Some(value(sequence)) }
    }

    fn lies(offset: u64, sequence: u64) -> ReadBack {
        ReadBack {
            partition: PartitionIndex::new(0),
            offset: Offset::new(offset).unwrap(),
            value: Some(value(sequence)),
        }
    }

    fn judged(judge: impl FnOnce(&mut Vec<Violation>)) -> Vec<Violation> {
        let mut violations = Vec::new();
        judge(&mut violations);
        violations
    }

    #[test]
    fn records_in_flight_together_may_lie_in_any_order() {
        let events = run(vec![sent(0), sent(1), acked(1, 0), acked(0, 1)]);
        assert_eq!(judged(|found| acknowledgements(&events, 2, found)), []);
    }

    #[test]
    fn a_record_sent_after_an_acknowledgement_and_stored_before_it_is_found() {
        let events = run(vec![sent(0), acked(0, 1), sent(1), acked(1, 0)]);
        let found = judged(|found| acknowledgements(&events, 2, found));
        assert!(matches!(found[..], [Violation::OutOfRealTime { offset: 0, earlier: 1, .. }]), "{found:?}");
    }

    #[test]
    fn an_acknowledgement_with_one_replica_of_two_is_found() {
        let lonely = What::Acked { value: value(0), partition: 0, offset: 0, durable: 1 };
        let retried = run(vec![sent(0), What::Fault { what: "cut".to_owned() }, lonely.clone()]);
        for events in [retried, run(vec![sent(0), lonely])] {
            let found = judged(|found| acknowledgements(&events, 2, found));
            assert!(matches!(found[..], [Violation::TooFewReplicas { durable: 1, min_isr: 2, .. }]), "{found:?}");
        }
    }

    #[test]
    fn a_watermark_below_one_told_before_is_found_and_one_behind_others_is_measured() {
        let asked = |asked_us, offset| What::Watermark { asked_us, partition: 0, offset };
        let back = run(vec![asked(0, 9), asked(2, 8)]);
        let found = judged(|found| watermarks(&back, found));
        assert!(matches!(found[..], [Violation::WatermarkBack { offset: 8, known: 9, .. }]), "{found:?}");
        // Acknowledged at moments 2 and 3; the answer at 7 knows neither.
        let late = run(vec![sent(0), acked(0, 5), acked(1, 6), asked(7, 5)]);
        assert_eq!(judged(|found| watermarks(&late, found)), []);
        assert_eq!(staleness_us(&late), 5);
        // Asked before the acknowledgement came: either answer is right.
        assert_eq!(staleness_us(&run(vec![sent(0), acked(0, 5), asked(1, 5)])), 0);
    }

    #[test]
    fn a_consumer_that_skips_repeats_or_reads_what_is_gone_is_found() {
        let log = [lies(0, 0), lies(1, 1), lies(2, 2)];
        let good = run(vec![read(0, 0), read(1, 1), read(2, 2)]);
        assert_eq!(judged(|found| readers(&good, &log, found)), []);
        let skipped = run(vec![read(0, 0), read(2, 2)]);
        assert!(matches!(
            judged(|f| readers(&skipped, &log, f))[..],
            [Violation::ReaderJumped { expected: 1, got: 2, .. }]
        ));
        let repeated = run(vec![read(0, 0), read(1, 1), read(1, 1)]);
        assert!(matches!(
            judged(|f| readers(&repeated, &log, f))[..],
            [Violation::ReaderJumped { expected: 2, got: 1, .. }]
        ));
        let other = run(vec![read(0, 0), read(1, 9)]);
        assert!(matches!(judged(|f| readers(&other, &log, f))[..], [Violation::ReadDisagrees { offset: 1, .. }]));
        let gone = run(vec![read(0, 0), read(1, 1), read(2, 2), read(3, 3)]);
        assert!(matches!(judged(|f| readers(&gone, &log, f))[..], [Violation::ReadDisagrees { found: None, .. }]));
    }
}
