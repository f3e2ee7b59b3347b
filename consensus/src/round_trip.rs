//! How far apart nodes may be, and every wait of theirs that follows from it.
//!
//! With `max` as the longest that a message and its answer take together:
//!
//! ```text
//! 0          max    answer   election_min                election_max              question
//! |-----------|--------|----------|---------------------------|--------------------------|
//!             1      1.05       1.125                         2                          3
//! ```
//!
//! A heartbeat is given up after `answer`, so that a leader further away is none. A vote goes there, onto a disk and back
//! within `election_min`, which is also the shortest time without a leader before a node campaigns.

use std::time::Duration;

/// How long a message between two nodes and its answer may take together. The same on every node of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    max: Duration,
}

impl RoundTrip {
    /// The shortest that can be asked for: less would leave a vote too little time on its way to a disk.
    pub const MIN: Duration = Duration::from_millis(400);
    /// The longest. Connections are dialled and proposals wait within fixed times, which are enough for this.
    pub const MAX: Duration = Duration::from_millis(800);
    /// What a cluster has that asks for nothing.
    pub const DEFAULT: Duration = Self::MIN;

    /// Of up to `max`.
    ///
    /// # Panics
    /// Outside of [`Self::MIN`] to [`Self::MAX`]. Whoever reads it from a configuration checks it.
    pub fn of_up_to(max: Duration) -> Self {
        assert!((Self::MIN..=Self::MAX).contains(&max), "round trips of up to {max:?} are not provided for");
        Self { max }
    }

    /// How long a heartbeat may be under way. A little more, since the answer has to be seen in time.
    pub(crate) fn answer(self) -> Duration {
        self.max * 21 / 20
    }

    /// The shortest time without a leader before a node campaigns, and how long a vote may take.
    pub(crate) fn election_min(self) -> Duration {
        self.max * 9 / 8
    }

    /// The longest, and the length of a leader's lease: the answer that counts was asked for before the one that is on its
    /// way.
    pub(crate) fn election_max(self) -> Duration {
        self.max * 2
    }

    /// How long a connection attempt may take that only asks whether somebody listens.
    pub(crate) fn probe(self) -> Duration {
        self.max * 5 / 4
    }

    /// How long each survivor of a controller waits for the one before it: a vote has reached the others, and is heard of.
    pub(crate) fn turn(self) -> Duration {
        self.max * 3 / 8
    }

    /// How long a broker's heartbeat to the controller may take; the next one is better than a late answer.
    pub(crate) fn broker_heartbeat(self) -> Duration {
        self.max * 5 / 2
    }

    /// How long a peer may take to answer a question: three times there and back, a connection being opened for it.
    pub(crate) fn question(self) -> Duration {
        self.max * 3
    }

    /// How long a reader waits for the controller to confirm something. Longer than an election between nodes that reach
    /// each other, and than a question to the controller, and then one of its to a quorum behind a heartbeat that is under
    /// way.
    pub fn confirmation(self) -> Duration {
        self.max * 5
    }
}

impl Default for RoundTrip {
    fn default() -> Self {
        Self::of_up_to(Self::DEFAULT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Tuning;

    /// Catches: a wait that does not grow with the distance, so that far nodes keep no leader or elect one after the other;
    /// timings that openraft refuses; and other timings for those who ask for nothing.
    #[test]
    fn every_wait_follows_from_the_distance() {
        let millis = |of: RoundTrip| {
            let waits = [of.answer(), of.election_min(), of.election_max(), of.probe(), of.turn()];
            let longer = [of.broker_heartbeat(), of.question(), of.confirmation()];
            waits.into_iter().chain(longer).map(|wait| wait.as_millis()).collect::<Vec<_>>()
        };
        assert_eq!(millis(RoundTrip::default()), [420, 450, 800, 500, 150, 1_000, 1_200, 2_000]);
        assert_eq!(millis(RoundTrip::of_up_to(RoundTrip::MAX)), [840, 900, 1_600, 1_000, 300, 2_000, 2_400, 4_000]);
        for max in [RoundTrip::MIN, Duration::from_millis(555), RoundTrip::MAX] {
            let tuning = Tuning::within(RoundTrip::of_up_to(max));
            let config = tuning.raft_config().unwrap();
            let limit = u64::try_from(max.as_millis()).unwrap();
            assert!(limit < config.heartbeat_interval, "an answer that takes as long as it may is heard");
            assert!(
                config.heartbeat_interval < config.election_timeout_min,
                "one that is lost costs no leader its office"
            );
            assert!(config.election_timeout_max >= 2 * limit);
        }
    }

    /// Catches: a distance for which the fixed times are too short.
    #[test]
    #[should_panic(expected = "not provided for")]
    fn nodes_on_two_planets_are_refused() {
        RoundTrip::of_up_to(RoundTrip::MAX + Duration::from_millis(1));
    }
}
