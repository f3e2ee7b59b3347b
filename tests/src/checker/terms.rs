//! What brokers said about the terms of the metadata's Raft group (I10): a disk never goes back to an earlier term, since
//! one that forgot its vote could vote twice.
//!
//! Several controllers of one term are no violation: elections are numbered by the term together with the node that stands
//! in it, so that a later one of the same term takes over from an earlier one. What one controller at a time is for is
//! judged by its consequences, in `metadata` and `metadata_logs`.

use std::collections::HashMap;

use super::Violation;
use crate::event::{Event, What};

/// Judges every answer about a term, and what each process found on its disk: that must be what the process before it
/// had promised. A disk that was emptied is another one.
pub(super) fn votes(events: &[Event], violations: &mut Vec<Violation>) {
    let mut highest: HashMap<u32, u64> = HashMap::new();
    // The same, at the start of each broker's last process.
    let mut promised: HashMap<u32, u64> = HashMap::new();
    for event in events {
        let (broker, before, now) = match event.what {
            What::Wiped { broker } => {
                highest.remove(&broker);
                promised.remove(&broker);
                continue;
            }
            What::Started { broker } => {
                promised.extend(highest.get(&broker).map(|term| (broker, *term)));
                continue;
            }
            What::Term { observer, term } | What::Standing { observer, voted: term, .. } => {
                let before = highest.get(&observer).copied().unwrap_or(term);
                highest.insert(observer, term.max(before));
                (observer, before, term)
            }
            What::Opened { broker, term } => (broker, promised.get(&broker).copied().unwrap_or(term), term),
            _ => continue,
        };
        if now < before {
            violations.push(Violation::TermBack { broker, before, now });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(events: Vec<What>) -> Vec<Violation> {
        let events: Vec<_> = (1..).zip(events).map(|(at_us, what)| Event { at_us, what }).collect();
        let mut violations = Vec::new();
        votes(&events, &mut violations);
        violations
    }

    #[test]
    fn a_broker_that_forgets_its_term_is_found_also_across_a_start() {
        let term = |observer, term| What::Term { observer, term };
        assert_eq!(judged(vec![term(1, 4), term(2, 1), term(2, 4), term(1, 4), term(1, 5)]), []);
        let found = judged(vec![term(1, 4), What::Started { broker: 1 }, term(1, 3)]);
        assert!(matches!(found[..], [Violation::TermBack { broker: 1, before: 4, now: 3 }]), "{found:?}");
        let opened = |broker, term| What::Opened { broker, term };
        // The process is in term 5 by the time that what it found is read from its log.
        let lives = vec![term(1, 4), What::Started { broker: 1 }, term(1, 5), opened(1, 4)];
        assert_eq!(judged(lives), []);
        let forgot = judged(vec![term(1, 4), What::Started { broker: 1 }, term(1, 5), opened(1, 3)]);
        assert!(matches!(forgot[..], [Violation::TermBack { broker: 1, before: 4, now: 3 }]), "{forgot:?}");
        assert_eq!(judged(vec![term(1, 4), What::Wiped { broker: 1 }, What::Started { broker: 1 }, term(1, 1)]), []);
        assert_eq!(judged(vec![term(1, 4), What::Wiped { broker: 2 }, term(1, 1)]).len(), 1);
    }

    #[test]
    fn what_is_on_the_disk_counts_and_not_what_is_only_known() {
        let standing = |term, voted| {
            let (observer, node, leads, last, applied) = (1, 1, false, 0, 0);
            What::Standing { observer, node, term, voted, leads, last, applied }
        };
        let crashed = What::Started { broker: 1 };
        assert_eq!(judged(vec![standing(5, 4), crashed.clone(), standing(4, 4)]), []);
        let found = judged(vec![standing(5, 5), crashed, standing(5, 4)]);
        assert!(matches!(found[..], [Violation::TermBack { broker: 1, before: 5, now: 4 }]), "{found:?}");
    }
}
