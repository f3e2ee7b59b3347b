//! What the metadata's Raft group promises whoever relies on it (I10), from what its nodes knew of themselves: a node stands
//! for one disk, a leader has all that was committed before it was elected, and the same changes make the same state.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use super::Violation;
use crate::event::{Event, What};

/// Judges who was which Raft node: an emptied disk, and another broker's, are other nodes.
pub(super) fn disks(events: &[Event], violations: &mut Vec<Violation>) {
    // How often each broker's disk was emptied, and whose disk each node was after how many times.
    let mut emptied: HashMap<u32, u32> = HashMap::new();
    let mut disk_of: HashMap<u64, (u32, u32)> = HashMap::new();
    for event in events {
        match event.what {
            What::Wiped { broker } => *emptied.entry(broker).or_default() += 1,
            What::Standing { observer, node, .. } => {
                let disk = (observer, emptied.get(&observer).copied().unwrap_or_default());
                let first = *disk_of.entry(node).or_insert(disk);
                if first != disk {
                    violations.push(Violation::NodeTwice { node, before: first.0, now: observer });
                    disk_of.insert(node, disk);
                }
            }
            _ => {}
        }
    }
}

/// Judges leaders by what was applied in earlier terms, whenever that was seen: an entry that a broker in some term has
/// applied was committed in it or before, so whoever is elected in a later one has it.
pub(super) fn leaders(events: &[Event], violations: &mut Vec<Violation>) {
    // The furthest that anybody had applied in each term.
    let mut reached: BTreeMap<u64, (u64, u32)> = BTreeMap::new();
    for event in events {
        if let What::Standing { observer, term, applied, .. } = event.what {
            let furthest = reached.entry(term).or_insert((applied, observer));
            *furthest = (*furthest).max((applied, observer));
        }
    }
    for event in events {
        // The vote on its disk is of its own election or an earlier one, which asks for less.
        let What::Standing { observer, voted, leads: true, last, .. } = event.what else { continue };
        let earlier = reached.range((Bound::Unbounded, Bound::Excluded(voted))).map(|(_, furthest)| *furthest).max();
        if let Some((applied, by)) = earlier.filter(|(applied, _)| *applied > last) {
            violations.push(Violation::LeaderIncomplete { leader: observer, term: voted, last, by, applied });
        }
    }
}

/// Judges the states of all brokers and lives, one against the other.
pub(super) fn states(events: &[Event], violations: &mut Vec<Violation>) {
    let mut state_at: HashMap<u64, (u32, u32)> = HashMap::new();
    for event in events {
        if let What::Applied { observer, index, digest } = event.what {
            let (known, by) = *state_at.entry(index).or_insert((digest, observer));
            if known != digest {
                violations.push(Violation::StatesDiffer { one: by, other: observer, index });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(judge: fn(&[Event], &mut Vec<Violation>), events: Vec<What>) -> Vec<Violation> {
        let events: Vec<_> = (1..).zip(events).map(|(at_us, what)| Event { at_us, what }).collect();
        let mut violations = Vec::new();
        judge(&events, &mut violations);
        violations
    }

    fn node(observer: u32, node: u64) -> What {
        What::Standing { observer, node, term: 1, voted: 1, leads: false, last: 0, applied: 0 }
    }

    fn follows(observer: u32, term: u64, applied: u64) -> What {
        What::Standing { observer, node: 1, term, voted: term, leads: false, last: applied, applied }
    }

    fn leads(observer: u32, term: u64, last: u64) -> What {
        What::Standing { observer, node: 1, term, voted: term, leads: true, last, applied: 0 }
    }

    #[test]
    fn a_node_is_one_disk() {
        let emptied = What::Wiped { broker: 1 };
        assert_eq!(judged(disks, vec![node(1, 1), node(2, 2), emptied.clone(), node(1, 77), node(2, 2)]), []);
        let found = judged(disks, vec![node(1, 1), emptied.clone(), node(1, 1), node(1, 1)]);
        assert!(matches!(found[..], [Violation::NodeTwice { node: 1, before: 1, now: 1 }]), "{found:?}");
        let found = judged(disks, vec![node(1, 1), node(2, 1)]);
        assert!(matches!(found[..], [Violation::NodeTwice { node: 1, before: 1, now: 2 }]), "{found:?}");
    }

    #[test]
    fn a_leader_without_what_was_committed_before_it_is_found_whoever_is_seen_first() {
        assert_eq!(judged(leaders, vec![follows(1, 3, 10), leads(2, 4, 10), follows(1, 4, 12), leads(2, 4, 10)]), []);
        assert_eq!(judged(leaders, vec![leads(2, 3, 9), follows(1, 3, 10)]), [], "it has gone on since");
        for events in [[follows(1, 3, 10), leads(2, 4, 9)], [leads(2, 4, 9), follows(1, 3, 10)]] {
            let found = judged(leaders, events.to_vec());
            let incomplete = Violation::LeaderIncomplete { leader: 2, term: 4, last: 9, by: 1, applied: 10 };
            assert_eq!(found, [incomplete]);
        }
        // Terms in between do not hide it.
        assert_eq!(judged(leaders, vec![follows(1, 1, 10), follows(3, 5, 4), leads(2, 6, 9)]).len(), 1);
    }

    #[test]
    fn a_change_that_makes_two_states_is_found() {
        let applied = |observer, index, digest| What::Applied { observer, index, digest };
        assert_eq!(
            judged(states, vec![applied(1, 5, 50), applied(1, 7, 70), applied(2, 5, 50), applied(2, 6, 60)]),
            []
        );
        let found = judged(states, vec![applied(1, 5, 50), applied(2, 6, 60), applied(2, 5, 51)]);
        assert!(matches!(found[..], [Violation::StatesDiffer { one: 1, other: 2, index: 5 }]), "{found:?}");
        let lives = vec![applied(1, 5, 50), What::Started { broker: 1 }, applied(1, 5, 51)];
        assert!(matches!(judged(states, lives)[..], [Violation::StatesDiffer { one: 1, other: 1, index: 5 }]));
    }
}
