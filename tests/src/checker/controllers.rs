//! Leader completeness of the metadata's Raft group (I10) where nobody sees what its controllers have when they are elected,
//! as when brokers are processes: by what brokers said that they had applied, and the entries that are on the disks at the
//! end.
//!
//! What a broker in some term has applied was committed in that term or before. A controller of a later term has all of it,
//! so each entry that it writes comes behind. The beginning of a log may be gone by the end, and the first entry of a
//! controller with it: then a later one of its entries is judged, which shows less and never too much.

use std::collections::BTreeMap;
use std::ops::Bound;

use streambus_consensus::inspect::held::HeldLog;

use super::Violation;
use crate::event::{Event, What};

/// Judges every controller that has left an entry on one of `logs`, the metadata logs of brokers by their numbers.
pub fn check_controllers(events: &[Event], logs: &BTreeMap<u32, HeldLog>) -> Vec<Violation> {
    // The furthest that anybody had applied in each term, and who.
    let mut reached: BTreeMap<u64, (u64, u32)> = BTreeMap::new();
    for event in events {
        if let What::Reached { observer, term, applied } | What::Standing { observer, term, applied, .. } = event.what {
            let furthest = reached.entry(term).or_insert((applied, observer));
            *furthest = (*furthest).max((applied, observer));
        }
    }
    // The first entry that is left of each controller.
    let mut wrote: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for (index, entry) in logs.values().flat_map(|log| &log.entries) {
        let first = wrote.entry((entry.term, entry.node)).or_insert(*index);
        *first = (*first).min(*index);
    }
    let mut violations = Vec::new();
    for ((term, node), index) in wrote {
        let earlier = reached.range((Bound::Unbounded, Bound::Excluded(term))).map(|(_, furthest)| *furthest).max();
        if let Some((applied, by)) = earlier.filter(|(applied, _)| *applied >= index) {
            violations.push(Violation::ControllerIncomplete { node, term, index, by, applied });
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use streambus_consensus::inspect::held::HeldEntry;

    use super::*;

    fn reached(observer: u32, term: u64, applied: u64) -> What {
        What::Reached { observer, term, applied }
    }

    /// A log whose entries, from index `first` on, have these terms, each written by the node of the same number.
    fn log(first: u64, terms: &[u64]) -> HeldLog {
        let entry = |term: u64| HeldEntry { term, node: term, checksum: 7 };
        let entries = (first..).zip(terms.iter().map(|term| entry(*term))).collect();
        HeldLog { applied: 0, state: 5, entries }
    }

    fn judged(events: Vec<What>, logs: Vec<HeldLog>) -> Vec<Violation> {
        let events: Vec<_> = (1..).zip(events).map(|(at_us, what)| Event { at_us, what }).collect();
        check_controllers(&events, &(1..).zip(logs).collect())
    }

    #[test]
    fn controllers_that_write_behind_what_was_applied_are_fine() {
        assert_eq!(judged(vec![reached(1, 1, 2), reached(2, 2, 3)], vec![log(1, &[1, 1, 2]), log(1, &[1, 1])]), []);
        // It was applied in the term of the one who wrote it, or in a later one.
        assert_eq!(judged(vec![reached(1, 2, 3), reached(3, 4, 3)], vec![log(1, &[1, 1, 2])]), []);
        // The beginning of the log is gone, and nothing was said.
        assert_eq!(judged(vec![reached(1, 1, 8)], vec![log(9, &[1, 2])]), []);
        assert_eq!(judged(vec![], vec![log(1, &[1, 2, 3])]), []);
    }

    // Catches a controller that was elected without an entry which had been committed, and wrote another in its place.
    #[test]
    fn a_controller_that_lacked_what_was_applied_before_it_is_found() {
        let incomplete = Violation::ControllerIncomplete { node: 3, term: 3, index: 3, by: 1, applied: 3 };
        assert_eq!(judged(vec![reached(1, 1, 3)], vec![log(1, &[1, 1, 3])]), std::slice::from_ref(&incomplete));
        // On whichever disk it is, whatever was said later, and with a term in between that reached less.
        let events = vec![reached(1, 1, 3), reached(2, 2, 1), reached(1, 3, 5)];
        assert_eq!(judged(events, vec![log(1, &[1, 1]), log(1, &[1, 1, 3, 3])]), [incomplete]);
    }

    #[test]
    fn what_a_simulation_sees_of_a_node_counts_too() {
        let standing = What::Standing { observer: 2, node: 9, term: 1, voted: 1, leads: false, last: 4, applied: 4 };
        let found = judged(vec![standing], vec![log(4, &[2])]);
        assert!(
            matches!(found[..], [Violation::ControllerIncomplete { index: 4, by: 2, applied: 4, .. }]),
            "{found:?}"
        );
    }
}
