//! What is committed: the high watermark, computed from durable ends alone. Pure.
//!
//! ```text
//! log start <= high watermark <= durable end of every replica that must have it, <= log end of the leader
//! ```
//! Consumers see only what lies below it. Within a leadership it never goes back. Who must have what is committed, and
//! when it may move at all, is [`LeaderState::advance`](super::leader_state::LeaderState::advance).

use streambus_protocol::offset::Offset;

/// Durable ends of the replicas that must have what is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InSync {
    /// Of the leader's log.
    pub leader_durable_end: Offset,
    /// The smallest of the others; none when there are no others.
    pub smallest_follower_durable_end: Option<Offset>,
}

impl InSync {
    /// The high watermark that follows `current`.
    pub fn high_watermark(self, current: Offset) -> Offset {
        let smallest =
            self.smallest_follower_durable_end.map_or(self.leader_durable_end, |end| end.min(self.leader_durable_end));
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
        let ends = |leader, follower| InSync {
            leader_durable_end: at(leader),
            smallest_follower_durable_end: Some(at(follower)),
        };
        assert_eq!(ends(9, 4).high_watermark(at(3)), at(4));
        assert_eq!(ends(4, 9).high_watermark(at(3)), at(4));
        assert_eq!(ends(9, 2).high_watermark(at(3)), at(3), "nothing goes back");
    }

    #[test]
    fn a_single_replica_commits_what_its_disk_holds() {
        let alone = InSync { leader_durable_end: at(9), smallest_follower_durable_end: None };
        assert_eq!(alone.high_watermark(Offset::ZERO), at(9));
    }
}
