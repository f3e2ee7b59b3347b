//! Replicas of stopped brokers against each other, byte for byte up to the watermark (I11). What compaction by key has taken
//! records from, on one of two replicas, is compared by its readers alone: the other need not have been compacted yet.

use std::collections::BTreeMap;

use super::Violation;
use crate::dump::{LogDump, StoredBatch};

/// Judges the `replicas` of one log, by broker. Each must reach `watermark`, and below it all must hold the same batches.
///
/// What lies above the watermark was never promised and may differ. A replica whose log starts later (retention) is
/// compared from there on.
pub fn check_replicas(log: &str, watermark: u64, replicas: &BTreeMap<u32, LogDump>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (broker, replica) in replicas {
        let end = replica.end();
        if end < watermark {
            violations.push(Violation::ReplicaShort { broker: *broker, log: log.to_owned(), end, watermark });
        }
    }
    let mut pairs = replicas.iter();
    if let Some((one, first)) = pairs.next() {
        for (other, replica) in pairs {
            let start = first.start().max(replica.start());
            if let Some((offset, detail)) = difference(first, replica, start, watermark) {
                let log = log.to_owned();
                violations.push(Violation::ReplicasDiffer { one: *one, other: *other, log, offset, detail });
            }
        }
    }
    violations
}

fn difference(one: &LogDump, other: &LogDump, start: u64, watermark: u64) -> Option<(u64, String)> {
    let below = |dump: &LogDump| -> Vec<StoredBatch> {
        let is_whole = |batch: &StoredBatch| {
            !one.is_compacted(batch.base, batch.end) && !other.is_compacted(batch.base, batch.end)
        };
        let within = dump.batches().filter(|batch| batch.end > start && batch.base < watermark);
        within.filter(|batch| is_whole(batch)).copied().collect()
    };
    let (left, right) = (below(one), below(other));
    for at in 0..left.len().max(right.len()) {
        let (a, b) = (left.get(at), right.get(at));
        if a != b {
            let offset = a.or(b).map_or(start, |batch| batch.base);
            return Some((offset, format!("{a:?} against {b:?}")));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn batch(base: u64, end: u64, checksum: u32) -> StoredBatch {
        StoredBatch { base, end, epoch: 1, bytes: 100, checksum }
    }

    fn replicas(logs: &[&[StoredBatch]]) -> BTreeMap<u32, LogDump> {
        (1..).zip(logs).map(|(broker, batches)| (broker, LogDump::of(batches.to_vec()))).collect()
    }

    #[test]
    fn equal_logs_are_equal_and_tails_above_the_watermark_may_differ() {
        let one = [batch(0, 3, 1), batch(3, 5, 2)];
        let tail = [batch(0, 3, 1), batch(3, 5, 2), batch(5, 9, 7)];
        assert_eq!(check_replicas("t/0", 5, &replicas(&[&one, &one, &tail])), []);
    }

    #[test]
    fn a_flipped_checksum_a_short_log_and_another_batch_border_are_found() {
        let good = [batch(0, 3, 1), batch(3, 5, 2)];
        let flipped = [batch(0, 3, 1), batch(3, 5, 9)];
        let found = check_replicas("t/0", 5, &replicas(&[&good, &flipped]));
        assert!(matches!(found[..], [Violation::ReplicasDiffer { offset: 3, .. }]), "{found:?}");
        let short = [batch(0, 3, 1)];
        let found = check_replicas("t/0", 5, &replicas(&[&good, &short]));
        assert!(found.iter().any(|v| matches!(v, Violation::ReplicaShort { broker: 2, end: 3, .. })), "{found:?}");
        let joined = [batch(0, 5, 1)];
        let found = check_replicas("t/0", 5, &replicas(&[&good, &joined]));
        assert!(matches!(found[..], [Violation::ReplicasDiffer { offset: 0, .. }]), "{found:?}");
    }

    #[test]
    fn another_epoch_at_the_same_offsets_is_found() {
        let good = [batch(0, 3, 1)];
        let stale = [StoredBatch { epoch: 2, ..batch(0, 3, 1) }];
        assert_eq!(check_replicas("t/0", 3, &replicas(&[&good, &stale])).len(), 1);
    }
}
