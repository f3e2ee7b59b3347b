//! One follower as its leader sees it: how far it is, and since when it has not kept up. Pure.
//!
//! ```text
//! log start  <=  durable end  <=  accepted end  <=  log end      of the follower, all as it said itself
//!                (counts: sync)   (counts: async)   (what to send)
//! ```
//! A follower has caught up at a time when it has, by the end that counts, everything that the leader had at that time
//! (rule I1, KAFKA-7152). Time is the monotonic clock's.

use std::time::Duration;

use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::offset::Offset;
use streambus_protocol::topic_config::Durability;

use crate::replication::watermark::LeaderLog;

/// What a follower says about its log, once the epoch checks have shown that it is a prefix of the leader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerReport {
    /// The registration it fetches under.
    pub broker_epoch: BrokerEpoch,
    /// The end of its log.
    pub log_end: Offset,
    /// What it has on stable storage.
    pub durable_end: Offset,
    /// What it has, wherever.
    pub accepted_end: Offset,
    /// The first offset it still has, once what it has given up is gone from stable storage.
    pub log_start: Offset,
}

impl FollowerReport {
    /// What counts for a topic of this durability.
    pub fn counted_end(&self, durability: Durability) -> Offset {
        let end = match durability {
            Durability::Sync => self.durable_end,
            Durability::Async => self.accepted_end,
        };
        end.min(self.log_end)
    }
}

/// A follower in one leadership.
#[derive(Clone, Debug)]
pub struct FollowerProgress {
    /// None until it fetched in this leadership: what it had before may not be this leader's log.
    report: Option<FollowerReport>,
    /// The last time at which it had everything, or when the leadership began.
    caught_up_at: Duration,
    has_caught_up: bool,
    /// The leader's end at an earlier time, which the follower has not reached yet.
    goal: Option<(Duration, Offset)>,
    pace: Pace,
}

/// How fast a follower's log grows, measured over spans of at least [`Pace::SPAN`].
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    began: Option<(Duration, Offset)>,
    per_second: u64,
}

impl Pace {
    const SPAN: Duration = Duration::from_secs(1);
    /// Whoever was not heard for so many spans has stopped.
    const SPANS_SILENT: u32 = 3;

    fn on_end(&mut self, end: Offset, now: Duration) {
        let Some((began, from)) = self.began else {
            self.began = Some((now, end));
            return;
        };
        let span = now.saturating_sub(began);
        if span >= Self::SPAN {
            // A log that was cut has not grown.
            let grown = u128::from(from.distance_to(end).unwrap_or(0));
            self.per_second = u64::try_from(grown * 1_000 / span.as_millis().max(1)).unwrap_or(u64::MAX);
            self.began = Some((now, end));
        }
    }

    fn per_second(&self, now: Duration) -> u64 {
        let is_heard = |(began, _)| now.saturating_sub(began) <= Self::SPAN * Self::SPANS_SILENT;
        if self.began.is_some_and(is_heard) { self.per_second } else { 0 }
    }
}

impl FollowerProgress {
    /// A follower that has not fetched in this leadership, which began at `now`: it has the whole lag limit to show up.
    pub fn new(now: Duration) -> Self {
        Self { report: None, caught_up_at: now, has_caught_up: false, goal: None, pace: Pace::default() }
    }

    /// What it said last, in this leadership.
    pub fn report(&self) -> Option<FollowerReport> {
        self.report
    }

    /// What counts towards the high watermark; nothing before the first fetch of this leadership.
    pub fn counted_end(&self, durability: Durability) -> Offset {
        self.report.map_or(Offset::ZERO, |report| report.counted_end(durability))
    }

    /// The last time at which it had everything the leader had, or when the leadership began.
    pub fn caught_up_at(&self) -> Duration {
        self.caught_up_at
    }

    /// Whether it has had everything in this leadership.
    pub fn has_caught_up(&self) -> bool {
        self.has_caught_up
    }

    /// It fetched: `report` is what it has.
    pub fn on_fetch(&mut self, report: FollowerReport, leader: LeaderLog, now: Duration) {
        if self.report.is_some_and(|before| before.broker_epoch != report.broker_epoch) {
            // Another life, perhaps on an empty disk: what the former one had says nothing about it.
            self.has_caught_up = false;
            self.goal = None;
            self.pace = Pace::default();
        }
        self.report = Some(report);
        self.pace.on_end(report.log_end, now);
        self.catch_up(leader, now);
    }

    /// How many offsets its log grew by in a second, lately.
    pub fn records_per_second(&self, now: Duration) -> u64 {
        self.pace.per_second(now)
    }

    /// It said how far its disk is, in between fetches; false when it has not fetched in this leadership.
    pub fn on_durable_end(&mut self, durable_end: Offset, leader: LeaderLog, now: Duration) -> bool {
        let Some(report) = self.report.as_mut() else { return false };
        // Within one leadership a follower's log only grows once it matches, so a smaller end is an older message.
        report.durable_end = report.durable_end.max(durable_end);
        self.catch_up(leader, now);
        true
    }

    /// Time passes. A follower that has everything keeps up without a word.
    pub fn catch_up(&mut self, leader: LeaderLog, now: Duration) {
        let Some(report) = self.report else { return };
        let counted_end = report.counted_end(leader.durability);
        if counted_end >= leader.end {
            self.caught_up_at = self.caught_up_at.max(now);
            self.has_caught_up = true;
            self.goal = None;
            return;
        }
        match self.goal {
            Some((_, end)) if end > counted_end => {}
            reached => {
                if let Some((at, _)) = reached {
                    self.caught_up_at = self.caught_up_at.max(at);
                    self.has_caught_up = true;
                }
                self.goal = Some((now, leader.end));
            }
        }
    }

    /// True when it has not had everything for longer than `limit` (rule I1).
    pub fn is_lagging(&self, leader: LeaderLog, limit: Duration, now: Duration) -> bool {
        let has_everything = self.report.is_some() && self.counted_end(leader.durability) >= leader.end;
        !has_everything && now.saturating_sub(self.caught_up_at) > limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(value: u64) -> Offset {
        Offset::new(value).expect("in range")
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn leader(end: u64) -> LeaderLog {
        LeaderLog { durable_end: at(end), end: at(end), durability: Durability::Sync }
    }

    fn report(log_end: u64, durable_end: u64) -> FollowerReport {
        FollowerReport {
            broker_epoch: BrokerEpoch::new(1),
            log_end: at(log_end),
            durable_end: at(durable_end),
            accepted_end: at(log_end),
            log_start: Offset::ZERO,
        }
    }

    const LIMIT: Duration = Duration::from_secs(10);

    // I1. Catches removing a follower that keeps up with a constant distance under load.
    #[test]
    fn i1_a_follower_that_is_always_a_little_behind_is_not_lagging() {
        let mut follower = FollowerProgress::new(s(0));
        for second in 1..60_u64 {
            follower.on_fetch(report(second * 100 - 50, second * 100 - 60), leader(second * 100), s(second));
            assert!(!follower.is_lagging(leader(second * 100), LIMIT, s(second)), "at {second} s");
        }
        assert!(follower.caught_up_at() >= s(57), "{:?}", follower.caught_up_at());
    }

    // I1. Catches a follower with a hung disk that stays in sync because it still receives everything.
    #[test]
    fn i1_what_is_not_durable_does_not_count_as_caught_up() {
        let mut follower = FollowerProgress::new(s(0));
        for second in 1..=11_u64 {
            follower.on_fetch(report(second, 1), leader(second), s(second));
        }
        assert_eq!(follower.counted_end(Durability::Sync), at(1));
        assert!(!follower.is_lagging(leader(11), LIMIT, s(11)));
        assert!(follower.is_lagging(leader(11), LIMIT, s(12)));
    }

    // I1. Catches a shrink for time alone: an idle partition's followers have nothing to fetch.
    #[test]
    fn i1_a_follower_that_has_everything_never_lags() {
        let mut follower = FollowerProgress::new(s(0));
        follower.on_fetch(report(5, 5), leader(5), s(1));
        assert!(!follower.is_lagging(leader(5), LIMIT, s(1_000)));
        follower.catch_up(leader(5), s(1_000));
        assert!(!follower.is_lagging(leader(6), LIMIT, s(1_005)), "it had everything until a moment ago");
        assert!(follower.is_lagging(leader(6), LIMIT, s(1_011)));
    }

    #[test]
    fn a_follower_that_never_fetched_lags_after_the_limit_and_counts_for_nothing() {
        let mut follower = FollowerProgress::new(s(5));
        assert_eq!(follower.counted_end(Durability::Sync), Offset::ZERO);
        assert!(!follower.on_durable_end(at(9), leader(9), s(6)), "progress before a fetch says nothing");
        assert!(!follower.is_lagging(leader(0), LIMIT, s(15)));
        assert!(follower.is_lagging(leader(0), LIMIT, s(16)), "also on an empty log: it is not known to match");
    }

    #[test]
    fn the_pace_is_that_of_the_last_span_and_ends_with_silence() {
        let mut follower = FollowerProgress::new(s(0));
        for (second, end) in [(1, 0), (2, 500), (4, 700)] {
            follower.on_fetch(report(end, end), leader(9_000), s(second));
        }
        assert_eq!(follower.records_per_second(s(5)), 100, "200 offsets in two seconds");
        assert_eq!(follower.records_per_second(s(8)), 0, "not heard for longer than it fetches");
        follower.on_fetch(report(10, 10), leader(9_000), s(9));
        assert_eq!(follower.records_per_second(s(9)), 0, "its log was cut");
    }

    // Catches a broker that comes back with an empty disk and passes for one that was there a moment ago.
    #[test]
    fn another_life_has_not_caught_up_whatever_the_former_had() {
        let mut follower = FollowerProgress::new(s(0));
        follower.on_fetch(report(50, 50), leader(50), s(1));
        assert!(follower.has_caught_up());
        let emptied = FollowerReport { broker_epoch: BrokerEpoch::new(2), ..report(0, 0) };
        follower.on_fetch(emptied, leader(50), s(2));
        assert!(!follower.has_caught_up());
        follower.on_fetch(
            FollowerReport { log_end: at(50), durable_end: at(50), accepted_end: at(50), ..emptied },
            leader(60),
            s(3),
        );
        assert!(follower.has_caught_up(), "it has what there was when it came");
    }

    // Catches a durable end above what the follower has: it would count a record that is not there.
    #[test]
    fn progress_counts_up_to_the_fetched_end_and_never_goes_back() {
        let mut follower = FollowerProgress::new(s(0));
        follower.on_fetch(report(5, 2), leader(9), s(1));
        assert!(follower.on_durable_end(at(9), leader(9), s(2)));
        assert_eq!(follower.counted_end(Durability::Sync), at(5));
        follower.on_fetch(report(9, 9), leader(9), s(3));
        assert!(follower.on_durable_end(at(4), leader(9), s(4)));
        assert_eq!(follower.counted_end(Durability::Sync), at(9));
    }
}
