//! Holds a recorded history against a full read of every partition (I1, I2, I3 per producer, I4, I5).
//!
//! The invariants are those of the field's consistency tests of logs: offsets give the order, so no search for a
//! linearization is needed and the check is O(n log n).

use std::collections::BTreeMap;

use streambus_protocol::ids::PartitionIndex;
use streambus_protocol::offset::Offset;

use super::Violation;
use crate::history::{History, Outcome, Value};

/// One record of the final read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadBack {
    /// Where it was read.
    pub partition: PartitionIndex,
    /// Its offset.
    pub offset: Offset,
    /// Its value, or `None` when the bytes are nothing that a producer of the run writes.
    pub value: Option<Value>,
}

/// Every broken promise, none when `read` agrees with `history`. `read` holds each partition's records in read order.
pub fn check(history: &History, read: &[ReadBack]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let by_place = places(read, &mut violations);
    acknowledged_are_there(history, &by_place, &mut violations);
    nothing_twice_nothing_invented(history, &by_place, &mut violations);
    in_order(&by_place, &mut violations);
    without_gap(&by_place, &mut violations);
    violations
}

/// What was read where.
pub(super) type Places = BTreeMap<(PartitionIndex, Offset), Option<Value>>;

fn places(read: &[ReadBack], violations: &mut Vec<Violation>) -> Places {
    let mut by_place = Places::new();
    for record in read {
        if by_place.insert((record.partition, record.offset), record.value).is_some() {
            violations.push(Violation::TwoValues { partition: record.partition, offset: record.offset });
        }
    }
    by_place
}

fn acknowledged_are_there(history: &History, by_place: &Places, violations: &mut Vec<Violation>) {
    for (value, outcome) in history.outcomes() {
        if let Outcome::Acked { partition, offset } = outcome {
            let found = by_place.get(&(partition, offset)).copied().flatten();
            if found != Some(value) {
                violations.push(Violation::Lost { value, partition, offset, found });
            }
        }
    }
}

/// True when a producer wrote `value` and was not told that it is not there.
pub(super) fn may_be_there(history: &History, value: Value) -> bool {
    match history.outcome(value) {
        Some(Outcome::Acked { .. } | Outcome::GivenUp { .. } | Outcome::Unknown) => true,
        Some(Outcome::Refused) | None => false,
    }
}

fn nothing_twice_nothing_invented(history: &History, by_place: &Places, violations: &mut Vec<Violation>) {
    let mut seen: BTreeMap<Value, Offset> = BTreeMap::new();
    for ((partition, offset), value) in by_place {
        let Some(known) = value.filter(|value| may_be_there(history, *value)) else {
            violations.push(Violation::Phantom { value: *value, partition: *partition, offset: *offset });
            continue;
        };
        if let Some(first) = seen.insert(known, *offset) {
            violations.push(Violation::Duplicate { value: known, partition: *partition, first, second: *offset });
        }
    }
}

fn in_order(by_place: &Places, violations: &mut Vec<Violation>) {
    let mut highest: BTreeMap<(PartitionIndex, u32), u64> = BTreeMap::new();
    for ((partition, _), value) in by_place {
        let Some(value) = value else { continue };
        let slot = highest.entry((*partition, value.producer)).or_insert(value.sequence);
        if value.sequence < *slot {
            violations.push(Violation::Reordered {
                partition: *partition,
                producer: value.producer,
                earlier: value.sequence,
                later: *slot,
            });
        }
        *slot = (*slot).max(value.sequence);
    }
}

fn without_gap(by_place: &Places, violations: &mut Vec<Violation>) {
    let mut expected: BTreeMap<PartitionIndex, Offset> = BTreeMap::new();
    for (partition, offset) in by_place.keys() {
        let next = expected.entry(*partition).or_insert(Offset::ZERO);
        if *offset != *next {
            violations.push(Violation::Gap { partition: *partition, missing: *next });
        }
        *next = offset.next().unwrap_or(Offset::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITION: PartitionIndex = PartitionIndex::new(0);

    fn value(sequence: u64) -> Value {
        Value { producer: 1, sequence }
    }

    fn at(offset: u64, value: Option<Value>) -> ReadBack {
        ReadBack { partition: PARTITION, offset: Offset::new(offset).unwrap(), value }
    }

    fn acked(count: u64) -> History {
        let mut history = History::default();
        for i in 0..count {
            history.record(value(i), Outcome::Acked { partition: PARTITION, offset: Offset::new(i).unwrap() });
        }
        history
    }

    fn good_read(count: u64) -> Vec<ReadBack> {
        (0..count).map(|i| at(i, Some(value(i)))).collect()
    }

    #[test]
    fn a_faithful_log_has_no_violation() {
        assert_eq!(check(&acked(5), &good_read(5)), []);
    }

    #[test]
    fn a_lost_tail_is_found() {
        let found = check(&acked(5), &good_read(4));
        assert!(matches!(found[..], [Violation::Lost { value: Value { sequence: 4, .. }, .. }]), "{found:?}");
    }

    #[test]
    fn a_hole_is_both_lost_and_a_gap() {
        let mut read = good_read(5);
        read.remove(2);
        let found = check(&acked(5), &read);
        assert!(found.iter().any(|v| matches!(v, Violation::Lost { .. })), "{found:?}");
        assert!(found.iter().any(|v| matches!(v, Violation::Gap { .. })), "{found:?}");
    }

    #[test]
    fn a_record_stored_twice_is_found() {
        let mut read = good_read(5);
        read.push(at(5, Some(value(4))));
        let found = check(&acked(5), &read);
        assert!(matches!(found[..], [Violation::Duplicate { .. }]), "{found:?}");
    }

    #[test]
    fn a_swap_is_reordering_and_loss() {
        let mut read = good_read(5);
        (read[1].value, read[2].value) = (read[2].value, read[1].value);
        let found = check(&acked(5), &read);
        assert!(found.iter().any(|v| matches!(v, Violation::Reordered { .. })), "{found:?}");
    }

    #[test]
    fn bytes_nobody_wrote_are_a_phantom_and_so_is_a_refused_record() {
        let mut history = acked(1);
        history.record(value(1), Outcome::Refused);
        let read = [at(0, Some(value(0))), at(1, Some(value(1))), at(2, None)];
        let phantoms = check(&history, &read).into_iter().filter(|v| matches!(v, Violation::Phantom { .. })).count();
        assert_eq!(phantoms, 2);
    }

    #[test]
    fn an_unknown_outcome_may_be_there_or_not() {
        let mut history = acked(3);
        history.record(value(3), Outcome::Unknown);
        assert_eq!(check(&history, &good_read(3)), []);
        assert_eq!(check(&history, &good_read(4)), []);
    }

    #[test]
    fn a_value_survives_its_bytes_and_a_flipped_one_does_not() {
        for sequence in 0..200 {
            let bytes = value(sequence).to_bytes();
            assert_eq!(Value::from_bytes(&bytes), Some(value(sequence)));
            let mut flipped = bytes.clone();
            let last = flipped.len() - 1;
            flipped[last] ^= 1;
            assert_ne!(Value::from_bytes(&flipped), Some(value(sequence)));
        }
    }
}
