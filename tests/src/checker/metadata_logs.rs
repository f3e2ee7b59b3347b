//! The metadata logs of stopped brokers, one against the other (I10): what is committed is the same on all disks, entries of
//! one id are one entry, and two logs that agree on an entry agree on all before it.

use std::collections::BTreeMap;

use streambus_consensus::inspect::held::HeldLog;

use super::Violation;

/// Every contradiction between the `logs` of one cluster's brokers, the first of each pair.
pub fn check_metadata_logs(logs: &BTreeMap<u32, HeldLog>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (one, log) in logs {
        for (other, other_log) in logs.range(one + 1..) {
            if let Some((index, detail)) = contradiction(log, other_log) {
                violations.push(Violation::MetadataLogsDiffer { one: *one, other: *other, index, detail });
            }
            if log.applied == other_log.applied && log.state != other_log.state {
                violations.push(Violation::StatesDiffer { one: *one, other: *other, index: log.applied });
            }
        }
    }
    violations
}

/// The first entry that both have and that shows that they are not of one history.
fn contradiction(one: &HeldLog, other: &HeldLog) -> Option<(u64, String)> {
    let both = || one.entries.iter().filter_map(|(index, entry)| Some((*index, *entry, *other.entries.get(index)?)));
    let agreed = both().filter(|(_, a, b)| (a.term, a.node) == (b.term, b.node)).map(|(index, _, _)| index).max();
    // Up to here they must be the same: both have applied it, or both have the same entry later on.
    let settled = one.applied.min(other.applied).max(agreed.unwrap_or(0));
    both().find(|(index, a, b)| *index <= settled && a != b).map(|(index, a, b)| (index, format!("{a:?} and {b:?}")))
}

#[cfg(test)]
mod tests {
    use streambus_consensus::inspect::held::HeldEntry;

    use super::*;

    /// A log of entries with these terms, from index 1 on.
    fn log(applied: u64, terms: &[u64]) -> HeldLog {
        let checksum = |term: u64| u32::try_from(10 * term).expect("small");
        let entry = |term: u64| HeldEntry { term, node: 1, checksum: checksum(term) };
        HeldLog { applied, state: 5, entries: (1..).zip(terms.iter().map(|term| entry(*term))).collect() }
    }

    fn judged(one: HeldLog, other: HeldLog) -> Vec<Violation> {
        check_metadata_logs(&BTreeMap::from([(1, one), (2, other)]))
    }

    #[test]
    fn logs_of_one_history_are_fine() {
        assert_eq!(judged(log(3, &[1, 1, 2]), log(3, &[1, 1, 2])), []);
        // One lags, and ends in entries that were never committed.
        assert_eq!(judged(log(3, &[1, 1, 2, 2]), log(2, &[1, 1, 1])), []);
        let mut purged = log(3, &[1, 1, 2]);
        purged.entries.remove(&1);
        assert_eq!(judged(purged, log(3, &[1, 1, 2])), []);
        assert_eq!(judged(log(0, &[]), log(2, &[1, 1])), []);
    }

    #[test]
    fn a_committed_entry_that_changed_is_found() {
        let found = judged(log(3, &[1, 1, 2]), log(2, &[1, 2, 3]));
        assert!(matches!(found[..], [Violation::MetadataLogsDiffer { one: 1, other: 2, index: 2, .. }]), "{found:?}");
    }

    #[test]
    fn two_entries_of_one_id_are_found_committed_or_not() {
        let mut other = log(1, &[1, 1, 2]);
        other.entries.get_mut(&3).expect("three").checksum += 1;
        let found = judged(log(1, &[1, 1, 2]), other);
        assert!(matches!(found[..], [Violation::MetadataLogsDiffer { index: 3, .. }]), "{found:?}");
    }

    #[test]
    fn logs_that_agree_late_and_differ_before_are_found() {
        let found = judged(log(0, &[1, 1, 3]), log(0, &[1, 2, 3]));
        assert!(matches!(found[..], [Violation::MetadataLogsDiffer { index: 2, .. }]), "{found:?}");
    }

    #[test]
    fn two_states_after_the_same_entries_are_found() {
        let found = judged(log(2, &[1, 1]), HeldLog { state: 6, ..log(2, &[1, 1]) });
        assert!(matches!(found[..], [Violation::StatesDiffer { one: 1, other: 2, index: 2 }]), "{found:?}");
    }
}
