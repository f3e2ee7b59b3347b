//! What an operator may lose, and nothing else (I1, I2): the election of a leader that lacks records ends one lineage of a
//! partition and begins another, which has a prefix of the former.
//!
//! ```text
//! offset       0 1 2 3 4 5 6
//! lineage 0    p q r s t u v         the elected had four records: t, u and v may be gone
//! lineage 1    p q r s a b c d
//! ```
//! The log at the end and the log of any lineage are the same up to one offset, and differ from there on. So of what was
//! acknowledged in a lineage that has ended, a tail may be missing at the end, without a survivor in it; a lineage that an
//! older replica continues may come back whole. A consumer may read in one lineage and go on in another where both have
//! what it read; otherwise it must be told.

use std::collections::{BTreeMap, HashMap};

use streambus_protocol::ids::PartitionIndex;
use streambus_protocol::offset::Offset;

use super::final_read::may_be_there;
use super::{ReadBack, Violation};
use crate::event::{Event, What};
use crate::history::{History, Value};

/// The lineage that each partition is in: how often it was given up so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Lineages {
    ended: HashMap<u32, usize>,
}

impl Lineages {
    /// Where partitions are after all of `events`.
    pub(super) fn at_end(events: &[Event]) -> Self {
        let mut lineages = Self::default();
        events.iter().for_each(|event| lineages.pass(&event.what));
        lineages
    }

    /// Goes past one event.
    pub(super) fn pass(&mut self, what: &What) {
        if let What::GivenUp { partition } = what {
            *self.ended.entry(*partition).or_default() += 1;
        }
    }

    /// The lineage that a partition is in.
    pub(super) fn of(&self, partition: u32) -> usize {
        self.ended.get(&partition).copied().unwrap_or(0)
    }
}

/// A record that was acknowledged in the lineage in which it was sent: no other has it but by way of that one's log.
#[derive(Clone, Copy, Debug)]
struct Promise {
    lineage: usize,
    offset: u64,
    value: Value,
}

/// A record that a consumer got.
#[derive(Clone, Copy, Debug)]
struct Seen {
    lineage: usize,
    offset: u64,
    value: Option<Value>,
}

/// What is known of the partitions that were given up.
#[derive(Debug)]
struct Logs {
    last: Lineages,
    /// By partition and lineage: what was acknowledged or read at each offset.
    known: HashMap<(u32, usize), BTreeMap<u64, Option<Value>>>,
    /// What lies there at the end.
    read: HashMap<(u32, u64), Option<Value>>,
}

impl Logs {
    /// Takes note of what lies at an offset of a lineage; what is already known to lie there when that is something else.
    fn learn(&mut self, partition: u32, seen: Seen) -> Option<Option<Value>> {
        let known = self.known.entry((partition, seen.lineage)).or_default();
        let one = *known.entry(seen.offset).or_insert(seen.value);
        (one != seen.value).then_some(one)
    }

    /// What lies at an offset of a lineage; the outer `None` when nobody saw it. Of the last one everything is known.
    fn at(&self, partition: u32, lineage: usize, offset: u64) -> Option<Option<Value>> {
        if lineage == self.last.of(partition) {
            return Some(self.at_end(partition, offset));
        }
        self.known.get(&(partition, lineage))?.get(&offset).copied()
    }

    fn at_end(&self, partition: u32, offset: u64) -> Option<Value> {
        self.read.get(&(partition, offset)).copied().flatten()
    }
}

/// Judges what became of partitions that an operator gave up, and what consumers were told.
pub(super) fn given_up(events: &[Event], read: &[ReadBack], violations: &mut Vec<Violation>) {
    let last = Lineages::at_end(events);
    let by_place = |record: &ReadBack| ((record.partition.get(), record.offset.get()), record.value);
    let mut logs = Logs { last, known: HashMap::new(), read: read.iter().map(by_place).collect() };
    let history = History::of(events);
    let mut now = Lineages::default();
    // Places among the events: where each value was sent, and where the present lineage of each partition began.
    let (mut sent, mut began): (HashMap<Value, usize>, HashMap<u32, usize>) = (HashMap::new(), HashMap::new());
    let mut promises: BTreeMap<u32, Vec<Promise>> = BTreeMap::new();
    let mut views: HashMap<(u32, u32), Vec<Seen>> = HashMap::new();
    let mut told: HashMap<(u32, u32), usize> = HashMap::new();
    for (place, event) in events.iter().enumerate() {
        now.pass(&event.what);
        match event.what {
            What::GivenUp { partition } => {
                began.insert(partition, place);
            }
            What::Invoked { value } if !logs.last.ended.is_empty() => {
                sent.insert(value, place);
            }
            What::Acked { value, partition, offset, .. } if logs.last.of(partition) > 0 => {
                let lineage = now.of(partition);
                if sent.get(&value) >= began.get(&partition) {
                    promises.entry(partition).or_default().push(Promise { lineage, offset, value });
                }
                learn(&mut logs, partition, Seen { lineage, offset, value: Some(value) }, violations);
            }
            What::Read { reader, partition, offset, value } if logs.last.of(partition) > 0 => {
                let seen = Seen { lineage: now.of(partition), offset, value };
                learn(&mut logs, partition, seen, violations);
                views.entry((reader, partition)).or_default().push(seen);
                // What is there at the end is judged with the rest.
                let is_gone = seen.lineage < logs.last.of(partition);
                if is_gone && !value.is_some_and(|value| may_be_there(&history, value)) {
                    let (partition, at) = (PartitionIndex::new(partition), Offset::new(offset).unwrap_or(Offset::MAX));
                    violations.push(Violation::Phantom { value, partition, offset: at });
                }
            }
            What::Told { reader, partition, .. } => {
                let times = told.entry((reader, partition)).or_default();
                *times += 1;
                if *times > now.of(partition) {
                    violations.push(Violation::ToldForNothing { reader, partition });
                }
                let view = views.remove(&(reader, partition)).unwrap_or_default();
                in_one_lineage((reader, partition), &view, &logs, violations);
            }
            _ => {}
        }
    }
    for (at, view) in &views {
        in_one_lineage(*at, view, &logs, violations);
    }
    for (partition, promises) in &promises {
        tails(*partition, promises, &logs, violations);
    }
}

fn learn(logs: &mut Logs, partition: u32, seen: Seen, violations: &mut Vec<Violation>) {
    if let Some(one) = logs.learn(partition, seen) {
        let Seen { offset, value: other, .. } = seen;
        violations.push(Violation::TwoLineages { partition, offset, one, other });
    }
}

/// Of each lineage that ended, what is lost is a tail of what was promised in it.
fn tails(partition: u32, promises: &[Promise], logs: &Logs, violations: &mut Vec<Violation>) {
    for lineage in 0..logs.last.of(partition) {
        let of_it = || promises.iter().filter(move |promise| promise.lineage == lineage);
        let is_lost = |promise: &&Promise| logs.at_end(partition, promise.offset) != Some(promise.value);
        let Some(lost) = of_it().filter(is_lost).map(|promise| promise.offset).min() else { continue };
        for Promise { offset, value, .. } in of_it().filter(|promise| promise.offset > lost && !is_lost(promise)) {
            violations.push(Violation::Survived { value: *value, partition, offset: *offset, lost });
        }
    }
}

/// What a consumer read without being told of a loss fits into every lineage in which it went on reading.
fn in_one_lineage((reader, partition): (u32, u32), view: &[Seen], logs: &Logs, violations: &mut Vec<Violation>) {
    let mut lineages: Vec<usize> = view.iter().map(|seen| seen.lineage).collect();
    lineages.dedup();
    for Seen { lineage, offset, value } in view {
        let later = lineages.iter().filter(|later| *later > lineage);
        let other = later.filter_map(|later| logs.at(partition, *later, *offset)).find(|found| found != value);
        if let Some(found) = other {
            violations.push(Violation::Mixed { reader, partition, offset: *offset, read: *value, found });
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::check_run;

    const fn value(sequence: u64) -> Value {
        Value { producer: 1, sequence }
    }

    fn run(events: Vec<What>) -> Vec<Event> {
        (1..).zip(events).map(|(at_us, what)| Event { at_us, what }).collect()
    }

    /// Sent, and acknowledged.
    fn stored(partition: u32, offset: u64, sequence: u64) -> Vec<What> {
        let value = value(sequence);
        vec![What::Invoked { value }, What::Acked { value, partition, offset, durable: 2 }]
    }

    fn got(offset: u64, sequence: u64) -> What {
        What::Read { reader: 7, partition: 0, offset, value: Some(value(sequence)) }
    }

    const GIVEN_UP: What = What::GivenUp { partition: 0 };
    const TOLD: What = What::Told { reader: 7, partition: 0, next: 0 };

    /// The final read: the values of partition 0, then those of partition 1.
    fn lies(values: [&[u64]; 2]) -> Vec<ReadBack> {
        let of = |(partition, values): (u32, &&[u64])| {
            let at = |(offset, sequence): (u64, &u64)| ReadBack {
                partition: PartitionIndex::new(partition),
                offset: Offset::new(offset).unwrap(),
                value: Some(value(*sequence)),
            };
            (0..).zip(values.iter()).map(at).collect::<Vec<_>>()
        };
        (0..).zip(&values).flat_map(of).collect()
    }

    /// Four records, of which the elected has two; then two more. Another partition has one record.
    fn story(more: Vec<What>) -> Vec<Event> {
        let before = (0..4).flat_map(|at| stored(0, at, at)).chain(stored(1, 0, 50));
        let after = [stored(0, 2, 10), stored(0, 3, 11)].concat();
        run(before.chain([GIVEN_UP]).chain(after).chain(more).collect())
    }

    #[test]
    fn a_tail_that_was_given_up_may_be_gone_and_may_be_there() {
        assert_eq!(check_run(&story(vec![]), &lies([&[0, 1, 10, 11], &[50]]), 2), []);
        // The one that was elected lacked nothing.
        let all = run([(0..4).flat_map(|at| stored(0, at, at)).collect(), vec![GIVEN_UP], stored(0, 4, 10)].concat());
        assert_eq!(check_run(&all, &lies([&[0, 1, 2, 3, 10], &[]]), 2), []);
    }

    // Catches a checker that an election makes blind: for what comes after it, for other partitions, for the way in which
    // records are lost, and for runs in which nobody gave anything up.
    #[test]
    fn a_loss_after_the_election_or_elsewhere_is_found() {
        let found = check_run(&story(vec![]), &lies([&[0, 1, 10], &[50]]), 2);
        assert!(matches!(found[..], [Violation::Lost { value: Value { sequence: 11, .. }, .. }]), "{found:?}");
        let found = check_run(&story(vec![]), &lies([&[0, 1, 10, 11], &[]]), 2);
        assert!(matches!(found[..], [Violation::Lost { value: Value { sequence: 50, .. }, .. }]), "{found:?}");
        // A hole: what lies above it was the former leader's.
        let events = run([(0..4).flat_map(|at| stored(0, at, at)).collect(), vec![GIVEN_UP]].concat());
        let found = check_run(&events, &lies([&[0, 60, 2, 3], &[]]), 2);
        let survives = |found: &&Violation| matches!(found, Violation::Survived { lost: 1, .. });
        assert_eq!(found.iter().filter(survives).count(), 2, "{found:?}");
        assert!(found.iter().any(|found| matches!(found, Violation::Phantom { .. })), "{found:?}");
        let honest: Vec<Event> = story(vec![]).into_iter().filter(|event| event.what != GIVEN_UP).collect();
        let found = check_run(&honest, &lies([&[0, 1, 10, 11], &[50]]), 2);
        assert_eq!(found.iter().filter(|found| matches!(found, Violation::Lost { .. })).count(), 2, "{found:?}");
    }

    #[test]
    fn a_lineage_that_an_older_replica_continues_comes_back_whole() {
        // Both have 0; one goes on with 1 and 2, the other with 10, then the first again with 20.
        let events = [
            (0..3).flat_map(|at| stored(0, at, at)).collect(),
            vec![GIVEN_UP],
            stored(0, 1, 10),
            vec![GIVEN_UP],
            stored(0, 3, 20),
        ];
        assert_eq!(check_run(&run(events.concat()), &lies([&[0, 1, 2, 20], &[]]), 2), []);
        let found = check_run(&run(events.concat()), &lies([&[0, 1, 2], &[]]), 2);
        assert!(matches!(found[..], [Violation::Lost { .. }]), "{found:?}");
    }

    #[test]
    fn a_consumer_may_go_on_untold_only_where_nothing_that_it_read_is_gone() {
        let read = |reads: Vec<What>| {
            let mut events: Vec<What> = story(vec![]).into_iter().map(|event| event.what).collect();
            let at = events.iter().position(|what| *what == GIVEN_UP).expect("it is there");
            let (before, after): (Vec<What>, Vec<What>) = reads.into_iter().partition(|what| match what {
                What::Read { value: Some(value), .. } => value.sequence < 4,
                _ => false,
            });
            events.extend(after);
            events.splice(at..at, before);
            check_run(&run(events), &lies([&[0, 1, 10, 11], &[50]]), 2)
        };
        assert_eq!(read(vec![got(0, 0), got(1, 1), got(2, 10), got(3, 11)]), []);
        // It got one that is gone, and then what lies behind it now.
        let found = read(vec![got(0, 0), got(1, 1), got(2, 2), got(3, 11)]);
        assert!(matches!(found[..], [Violation::Mixed { offset: 2, .. }]), "{found:?}");
    }

    #[test]
    fn a_consumer_that_is_told_begins_anew_and_one_that_is_told_for_nothing_is_found() {
        let told = |more: Vec<What>| {
            let mut events: Vec<What> = (0..4).flat_map(|at| stored(0, at, at)).collect();
            events.extend((0..4).map(|at| got(at, at)));
            events.extend([GIVEN_UP, TOLD]);
            events.extend(stored(0, 2, 10));
            events.extend(more);
            check_run(&run(events), &lies([&[0, 1, 10], &[]]), 2)
        };
        assert_eq!(told(vec![got(0, 0), got(1, 1), got(2, 10)]), []);
        let found = told(vec![got(0, 0), got(1, 1), got(2, 10), TOLD]);
        assert!(matches!(found[..], [Violation::ToldForNothing { reader: 7, partition: 0 }]), "{found:?}");
        // It was told, and went on as if it had not been.
        let found = told(vec![got(2, 10)]);
        assert!(matches!(found[..], [Violation::ReaderJumped { expected: 0, got: 2, .. }]), "{found:?}");
        let found = check_run(&run(vec![TOLD]), &[], 2);
        assert!(matches!(found[..], [Violation::ToldForNothing { .. }]), "{found:?}");
    }

    #[test]
    fn two_records_at_one_offset_of_one_lineage_are_found_also_when_both_are_gone() {
        let other = What::Read { reader: 8, partition: 0, offset: 3, value: Some(value(2)) };
        let mut events: Vec<What> = story(vec![]).into_iter().map(|event| event.what).collect();
        let at = events.iter().position(|what| *what == GIVEN_UP).expect("it is there");
        let reads = (0..3).map(|at| What::Read { reader: 8, partition: 0, offset: at, value: Some(value(at)) });
        events.splice(at..at, reads.chain([other]));
        let found = check_run(&run(events), &lies([&[0, 1, 10, 11], &[50]]), 2);
        assert!(found.iter().any(|found| matches!(found, Violation::TwoLineages { offset: 3, .. })), "{found:?}");
    }
}
