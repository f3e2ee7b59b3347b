//! What brokers said about who leads (I9): one leader per epoch, epochs only rise, leaders and in-sync brokers are replicas.

use std::collections::HashMap;

use super::Violation;
use crate::event::{Event, What};

/// Judges every answer about leadership.
pub(super) fn leaders(events: &[Event], violations: &mut Vec<Violation>) {
    let mut leader_of: HashMap<(u32, u32), u32> = HashMap::new();
    let mut epoch_seen: HashMap<(u32, u32), u32> = HashMap::new();
    for event in events {
        match &event.what {
            // A new process may begin with an older picture than the one before had.
            What::Started { broker } => epoch_seen.retain(|(observer, _), _| observer != broker),
            What::Leadership { observer, partition, leader, leader_epoch, isr, replicas } => {
                if !isr.iter().chain(leader).all(|broker| replicas.contains(broker)) {
                    violations.push(Violation::NotAReplica {
                        partition: *partition,
                        leader_epoch: *leader_epoch,
                        leader: *leader,
                        isr: isr.clone(),
                        replicas: replicas.clone(),
                    });
                }
                if let Some(leader) = leader {
                    let one = *leader_of.entry((*partition, *leader_epoch)).or_insert(*leader);
                    if one != *leader {
                        violations.push(Violation::TwoLeaders {
                            partition: *partition,
                            leader_epoch: *leader_epoch,
                            one,
                            other: *leader,
                        });
                    }
                }
                let before = epoch_seen.insert((*observer, *partition), *leader_epoch).unwrap_or(0);
                if *leader_epoch < before {
                    violations.push(Violation::EpochBack {
                        observer: *observer,
                        partition: *partition,
                        before,
                        now: *leader_epoch,
                    });
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(observer: u32, leader: Option<u32>, leader_epoch: u32, isr: &[u32]) -> What {
        What::Leadership { observer, partition: 0, leader, leader_epoch, isr: isr.to_vec(), replicas: vec![1, 2, 3] }
    }

    fn judged(events: Vec<What>) -> Vec<Violation> {
        let events: Vec<_> = (1..).zip(events).map(|(at_us, what)| Event { at_us, what }).collect();
        let mut violations = Vec::new();
        leaders(&events, &mut violations);
        violations
    }

    #[test]
    fn leaders_that_follow_each_other_are_fine_and_an_observer_may_lag() {
        let events = vec![
            said(1, Some(1), 1, &[1, 2, 3]),
            said(2, None, 1, &[2, 3]),
            said(2, Some(2), 2, &[2, 3]),
            said(1, Some(1), 1, &[1, 2, 3]),
        ];
        assert_eq!(judged(events), []);
    }

    #[test]
    fn two_leaders_of_one_epoch_are_found_whoever_said_so() {
        let found = judged(vec![said(1, Some(1), 4, &[1]), said(2, Some(2), 4, &[2])]);
        assert!(matches!(found[..], [Violation::TwoLeaders { leader_epoch: 4, one: 1, other: 2, .. }]), "{found:?}");
    }

    #[test]
    fn an_epoch_that_goes_back_is_found_unless_the_broker_was_started_anew() {
        let found = judged(vec![said(1, Some(1), 4, &[1]), said(1, Some(2), 3, &[2])]);
        assert!(matches!(found[..], [Violation::EpochBack { before: 4, now: 3, .. }]), "{found:?}");
        let events = vec![said(1, Some(1), 4, &[1]), What::Started { broker: 1 }, said(1, Some(2), 3, &[2])];
        assert_eq!(judged(events), []);
    }

    #[test]
    fn a_stranger_in_sync_is_found() {
        let found = judged(vec![said(1, Some(1), 1, &[1, 9])]);
        assert!(matches!(found[..], [Violation::NotAReplica { .. }]), "{found:?}");
        let found = judged(vec![said(1, Some(9), 1, &[1])]);
        assert!(matches!(found[..], [Violation::NotAReplica { .. }]), "{found:?}");
    }
}
