//! How far retention may move a log's start. Pure: extents and limits in, an offset out.
//!
//! Retention works on whole extents, oldest first, and stops at the first that must stay. A record without a time never
//! expires by time. Space comes back by segment: one lives as long as the longest-lived extent in it, so a topic that is
//! kept for a year holds on to segments it shares with topics that are kept for an hour, until [`crate::compaction`]
//! empties them.

use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;
use streambus_protocol::topic_config::Retention;

use crate::index::Extent;

/// Decides, extent by extent from the oldest, how far a log's start may move.
#[derive(Clone, Copy, Debug)]
pub struct RetentionPlan {
    retention: Retention,
    now: Timestamp,
    /// Nothing at or above it goes: the durable end, or what the caller protects.
    limit: Offset,
    /// What the log would still hold.
    size_bytes: u64,
    new_start: Offset,
}

impl RetentionPlan {
    /// A plan for a log that starts at `start` and holds `size_bytes`.
    pub fn new(retention: Retention, now: Timestamp, start: Offset, limit: Offset, size_bytes: u64) -> Self {
        Self { retention, now, limit, size_bytes, new_start: start }
    }

    /// True when there is nothing to decide.
    pub fn is_idle(&self) -> bool {
        let over = self.retention.bytes.is_some_and(|bytes| self.size_bytes > bytes);
        (self.retention.time_ms.is_none() && !over) || self.new_start >= self.limit
    }

    /// Considers the next extent; false when it stays, and with it everything behind.
    pub fn consider(&mut self, extent: &Extent) -> bool {
        if extent.next <= self.new_start {
            return true;
        }
        if extent.next > self.limit || !(self.is_expired(extent) || self.is_surplus(extent)) {
            return false;
        }
        self.size_bytes = self.size_bytes.saturating_sub(u64::from(extent.batch_bytes));
        self.new_start = extent.next;
        true
    }

    /// The start that retention allows.
    pub fn new_start(&self) -> Offset {
        self.new_start
    }

    fn is_expired(&self, extent: &Extent) -> bool {
        let age_ms = u64::try_from(self.now.as_millis().saturating_sub(extent.max_timestamp.as_millis())).unwrap_or(0);
        extent.max_timestamp.as_millis() >= 0 && self.retention.time_ms.is_some_and(|limit| age_ms > limit)
    }

    /// True when what stays without it still fills the allowance.
    fn is_surplus(&self, extent: &Extent) -> bool {
        let rest = self.size_bytes.saturating_sub(u64::from(extent.batch_bytes));
        self.retention.bytes.is_some_and(|limit| rest >= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::SegmentId;

    fn offset(value: u64) -> Offset {
        Offset::new(value).expect("small")
    }

    /// Ten extents of ten records and 100 bytes, one second apart.
    fn new_start(retention: Retention, now_ms: i64, limit: u64) -> u64 {
        let mut plan = RetentionPlan::new(retention, Timestamp::from_millis(now_ms), offset(0), offset(limit), 1_000);
        if !plan.is_idle() {
            for i in 0..10_u32 {
                let extent = Extent {
                    base: offset(u64::from(i) * 10),
                    next: offset(u64::from(i) * 10 + 10),
                    segment: SegmentId::new(1),
                    position: 0,
                    length: 0,
                    batch_bytes: 100,
                    max_timestamp: if i == 7 { Timestamp::NONE } else { Timestamp::from_millis(i64::from(i) * 1_000) },
                };
                if !plan.consider(&extent) {
                    break;
                }
            }
        }
        plan.new_start().get()
    }

    #[test]
    fn by_time_by_size_and_never_past_the_limit() {
        let by_time = Retention { time_ms: Some(2_500), bytes: None };
        assert_eq!(new_start(by_time, 5_000, 100), 30, "extents of seconds 0 to 2 are older than 2.5 s");
        assert_eq!(new_start(by_time, 5_000, 15), 10, "the limit cuts an extent: it stays whole");
        assert_eq!(new_start(by_time, 99_000, 100), 70, "a record without a time does not expire");
        assert_eq!(new_start(by_time, -5_000, 100), 0, "a clock before the records expires nothing");
        let by_size = Retention { time_ms: None, bytes: Some(650) };
        assert_eq!(new_start(by_size, 0, 100), 30, "700 bytes stay: with one extent less it would be under 650");
        assert_eq!(new_start(Retention { time_ms: None, bytes: None }, i64::MAX, 100), 0);
        let both = Retention { time_ms: Some(2_500), bytes: Some(950) };
        assert_eq!(new_start(both, 5_000, 100), 30, "the shorter of both counts");
    }
}
