//! What is committed: the high watermark, computed from the ends that count. Pure.
//!
//! ```text
//! log start <= high watermark <= counted end of every replica that must have it, <= log end of the leader
//! ```
//! Consumers see only what lies below it. Within a leadership it never goes back. Who must have what is committed, and
//! when it may move at all, is [`LeaderState::advance`](super::leader_state::LeaderState::advance).

use streambus_protocol::offset::Offset;
use streambus_protocol::topic_config::Durability;

/// The leader's own log in one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderLog {
    /// The end of what is on stable storage.
    pub durable_end: Offset,
    /// The end of what is accepted.
    pub end: Offset,
    /// What the log promises for what is appended in this moment, and so which ends count, of every replica.
    pub durability: Durability,
}

impl LeaderLog {
    /// The end that counts.
    pub fn counted_end(&self) -> Offset {
        match self.durability {
            Durability::Sync => self.durable_end,
            Durability::Async => self.end,
        }
    }
}

/// Ends of one kind of the replicas that must have what is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InSync {
    /// Of the leader's log.
    pub leader_end: Offset,
    /// The smallest of the others; none when there are no others.
    pub smallest_follower_end: Option<Offset>,
}

impl InSync {
    /// The watermark that follows `current`.
    pub fn watermark(self, current: Offset) -> Offset {
        let smallest = self.smallest_follower_end.map_or(self.leader_end, |end| end.min(self.leader_end));
        smallest.max(current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(value: u64) -> Offset {
        Offset::new(value).expect("in range")
    }

    // Catches a watermark that trusts the leader alone, or its followers alone.
    #[test]
    fn the_slowest_replica_decides() {
        let ends = |leader, follower| InSync { leader_end: at(leader), smallest_follower_end: Some(at(follower)) };
        assert_eq!(ends(9, 4).watermark(at(3)), at(4));
        assert_eq!(ends(4, 9).watermark(at(3)), at(4));
        assert_eq!(ends(9, 2).watermark(at(3)), at(3), "nothing goes back");
    }

    #[test]
    fn a_single_replica_commits_what_its_disk_holds() {
        let alone = InSync { leader_end: at(9), smallest_follower_end: None };
        assert_eq!(alone.watermark(Offset::ZERO), at(9));
    }
}
