//! When a follower last heard from the node that it follows. What a new controller knows of the one before it.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::types::RaftId;

/// The node that sent entries last, and when anything came from it last. One per node; every way in tells it.
#[derive(Debug, Default)]
pub(crate) struct LastHeard {
    leader: Mutex<Option<(RaftId, Instant)>>,
}

impl LastHeard {
    /// `from` sent entries, or none as a heartbeat.
    pub(crate) fn leader(&self, from: RaftId, now: Instant) {
        *self.leader.lock() = Some((from, now));
    }

    /// `from` sent or answered something.
    pub(crate) fn node(&self, from: RaftId, now: Instant) {
        if let Some((leader, at)) = self.leader.lock().as_mut()
            && *leader == from
        {
            *at = now;
        }
    }

    /// For how long the followed node has been silent; none when no node is followed.
    pub(crate) fn silence(&self, now: Instant) -> Option<Duration> {
        self.leader.lock().map(|(_, at)| now.saturating_duration_since(at))
    }

    /// Who was followed until now, and for how long it has been silent. Asked when this node leads: what it hears from
    /// then on, nobody owes it.
    pub(crate) fn take(&self, now: Instant) -> Option<(RaftId, Duration)> {
        self.leader.lock().take().map(|(leader, at)| (leader, now.saturating_duration_since(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: a vote of the former leader that is not counted as a sign of life, one of another node that is, and a
    /// silence that is held against a node for ever.
    #[test]
    fn silence_is_that_of_the_leader_alone() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let heard = LastHeard::default();
        assert_eq!(heard.take(at(0)), None);
        let (one, two) = (RaftId::new(1), RaftId::new(2));
        heard.leader(two, at(0));
        heard.leader(one, at(100));
        heard.node(two, at(400));
        assert_eq!(heard.silence(at(800)), Some(Duration::from_millis(700)));
        assert_eq!(heard.take(at(800)), Some((one, Duration::from_millis(700))));
        heard.leader(one, at(900));
        heard.node(one, at(1200));
        assert_eq!(heard.take(at(1200)), Some((one, Duration::ZERO)));
        assert_eq!(heard.take(at(1300)), None, "taken");
    }
}
