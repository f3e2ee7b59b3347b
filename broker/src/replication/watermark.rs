//! What is committed: the high watermark, computed from durable ends alone. Pure.
//!
//! ```text
//! log start <= high watermark <= durable end of every in-sync replica, <= log end of the leader
//! ```
//! Consumers see only what lies below it. It is the smallest durable end over the in-sync replicas, and it moves only
//! while there are as many of them as the topic demands (KAFKA-15583); within a leadership it never goes back.

use streambus_protocol::offset::Offset;

/// What the leader of a partition knows of its in-sync replicas, itself included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InSync<'a> {
    /// Durable end of the leader's log.
    pub leader_durable_end: Offset,
    /// Durable ends of the other members.
    pub follower_durable_ends: &'a [Offset],
    /// The topic's `min.insync.replicas`.
    pub replicas_min: usize,
}

impl InSync<'_> {
    /// Members, the leader included.
    pub fn count(&self) -> usize {
        1 + self.follower_durable_ends.len()
    }

    /// True when enough replicas are in sync to commit.
    pub fn may_commit(&self) -> bool {
        self.count() >= self.replicas_min
    }

    /// The high watermark that follows `current`.
    pub fn high_watermark(&self, current: Offset) -> Offset {
        if !self.may_commit() {
            return current;
        }
        let smallest = self.follower_durable_ends.iter().fold(self.leader_durable_end, |least, end| least.min(*end));
        smallest.max(current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(value: u64) -> Offset {
        Offset::new(value).expect("in range")
    }

    // Catches a watermark that trusts the leader alone.
    #[test]
    fn the_slowest_in_sync_replica_decides() {
        let ends = [at(7), at(4)];
        let in_sync = InSync { leader_durable_end: at(9), follower_durable_ends: &ends, replicas_min: 2 };
        assert_eq!(in_sync.high_watermark(at(3)), at(4));
    }

    #[test]
    fn a_single_replica_commits_what_its_disk_holds() {
        let alone = InSync { leader_durable_end: at(9), follower_durable_ends: &[], replicas_min: 1 };
        assert_eq!(alone.high_watermark(Offset::ZERO), at(9));
    }

    // Catches the loss that strict min.insync.replicas exists to prevent.
    #[test]
    fn too_few_replicas_commit_nothing_and_nothing_goes_back() {
        let alone = InSync { leader_durable_end: at(9), follower_durable_ends: &[], replicas_min: 2 };
        assert_eq!(alone.high_watermark(at(3)), at(3));
        let behind = InSync { leader_durable_end: at(2), follower_durable_ends: &[], replicas_min: 1 };
        assert_eq!(behind.high_watermark(at(3)), at(3));
    }
}
