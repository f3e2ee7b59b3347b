//! Which segments are worth emptying by rewriting what lives in them. Pure: figures in, a plan out.
//!
//! A segment comes back when nothing in it lives. With retentions that differ, a few live bytes can pin a whole segment;
//! copying those gives the rest back. Copying is never free, so the rule is a ratio: what is copied is at most
//! [`Limits::live_percent_max`] of the segment (a third more is written than was appended at 25 %, in the worst case and
//! only once per life of a segment). Segments in shreds, whose extents would join to far fewer, may cost more.
//! What dies soon by itself is waited for, and a segment that is mostly alive dies as a whole: its extents are never
//! copied.

use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;

use crate::index::Extent;
use crate::journal::{LogId, SegmentId};

/// When copying pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A segment of which at most this percentage lives is emptied.
    pub live_percent_max: u64,
    /// As above, for a segment in shreds.
    pub shredded_live_percent_max: u64,
    /// A segment is in shreds when its extents hold fewer bytes than this on average...
    pub shred_bytes_max: u64,
    /// ...and at least this many of them would join to one.
    pub shreds_per_run: u64,
    /// A plan copies no more bytes than this, unless one segment alone needs more.
    pub copy_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            live_percent_max: 25,
            shredded_live_percent_max: 50,
            shred_bytes_max: 16 << 10,
            shreds_per_run: 4,
            copy_bytes_max: 64 << 20,
        }
    }
}

/// What one segment holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentUse {
    /// Bytes that come back with it: the size of its file.
    pub bytes: u64,
    /// Bytes of live batches.
    pub live_bytes: u64,
    /// Those of them that retention takes soon.
    pub soon_bytes: u64,
    /// Live extents.
    pub extents: u64,
    /// Stretches of consecutive offsets that these are parts of.
    pub runs: u64,
    /// Something in it can or must not be copied: it is damaged, or the index does not name it.
    pub is_pinned: bool,
    last: Option<(LogId, Offset)>,
}

impl SegmentUse {
    /// An empty segment of `bytes`.
    pub fn new(bytes: u64) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// Counts a live extent. They come log by log, in the order of their offsets.
    pub fn add(&mut self, log: LogId, extent: &Extent, dies_soon: bool) {
        self.live_bytes += u64::from(extent.batch_bytes);
        self.soon_bytes += if dies_soon { u64::from(extent.batch_bytes) } else { 0 };
        self.extents += 1;
        self.runs += u64::from(self.last != Some((log, extent.base)));
        self.last = Some((log, extent.next));
    }

    fn is_shredded(&self, limits: &Limits) -> bool {
        self.live_bytes < self.extents.saturating_mul(limits.shred_bytes_max)
            && self.extents >= self.runs.saturating_mul(limits.shreds_per_run)
    }
}

/// Why a segment is emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Little of it lives.
    MostlyDead,
    /// Half of it is dead and the rest in shreds.
    Shredded,
}

/// A segment to be emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emptying {
    /// The segment.
    pub segment: SegmentId,
    /// Why.
    pub reason: Reason,
    /// Bytes to copy.
    pub copy_bytes: u64,
    /// Bytes that come back, less those copied.
    pub gain_bytes: u64,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Segments in which nothing lives.
    pub dead: Vec<SegmentId>,
    /// Segments to empty, the most rewarding first.
    pub emptied: Vec<Emptying>,
}

/// Plans from what the segments hold.
pub fn plan(uses: impl IntoIterator<Item = (SegmentId, SegmentUse)>, limits: &Limits) -> Plan {
    let mut plan = Plan::default();
    for (segment, held) in uses {
        if held.is_pinned {
            continue;
        }
        if held.extents == 0 {
            plan.dead.push(segment);
        } else if let Some(reason) = reason_to_empty(&held, limits) {
            let gain_bytes = held.bytes.saturating_sub(held.live_bytes);
            plan.emptied.push(Emptying { segment, reason, copy_bytes: held.live_bytes, gain_bytes });
        }
    }
    // Least to copy first: segments are of one size, so that is most to gain.
    plan.emptied.sort_by_key(|emptying| (emptying.copy_bytes, emptying.segment));
    let mut sum = 0_u64;
    plan.emptied.retain(|emptying| {
        let fits = sum == 0 || sum.saturating_add(emptying.copy_bytes) <= limits.copy_bytes_max;
        if fits {
            sum = sum.saturating_add(emptying.copy_bytes.max(1));
        }
        fits
    });
    plan
}

fn reason_to_empty(held: &SegmentUse, limits: &Limits) -> Option<Reason> {
    // Most of it goes by itself: what is left then costs less to copy, or nothing.
    if held.soon_bytes * 2 > held.live_bytes {
        return None;
    }
    let lives_at_most = |percent: u64| held.live_bytes.saturating_mul(100) <= held.bytes.saturating_mul(percent);
    if lives_at_most(limits.live_percent_max) {
        Some(Reason::MostlyDead)
    } else if lives_at_most(limits.shredded_live_percent_max) && held.is_shredded(limits) {
        Some(Reason::Shredded)
    } else {
        None
    }
}

/// True when time retention takes `extent` at or before `at`.
pub fn dies_by(extent: &Extent, retention_ms: Option<u64>, at: Timestamp) -> bool {
    let newest = extent.max_timestamp.as_millis();
    let age = u64::try_from(at.as_millis().saturating_sub(newest)).unwrap_or(0);
    newest >= 0 && retention_ms.is_some_and(|limit| age > limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn held(live: u64, soon: u64, extents: u64, runs: u64) -> SegmentUse {
        SegmentUse { live_bytes: live, soon_bytes: soon, extents, runs, ..SegmentUse::new(256 * MIB) }
    }

    fn planned(uses: &[SegmentUse]) -> Plan {
        let numbered = uses.iter().enumerate().map(|(i, held)| (SegmentId::new(i as u64), *held));
        plan(numbered, &Limits::default())
    }

    fn emptied(uses: &[SegmentUse]) -> Vec<(u64, Reason)> {
        planned(uses).emptied.iter().map(|emptying| (emptying.segment.get(), emptying.reason)).collect()
    }

    // Catches a rule that copies what would come back by itself, or that copies more than it frees.
    #[test]
    fn only_what_pays_is_copied() {
        let uses = [
            held(40 * MIB, 0, 200, 200),
            held(MIB, 0, 4, 4),
            held(100 * MIB, 0, 400, 400),
            held(100 * MIB, 0, 400_000, 1_000),
            held(200 * MIB, 0, 800_000, 1_000),
            held(20 * MIB, 11 * MIB, 80, 80),
            SegmentUse { is_pinned: true, ..held(MIB, 0, 4, 4) },
        ];
        assert_eq!(emptied(&uses), [(1, Reason::MostlyDead), (0, Reason::MostlyDead)], "100 MiB more is over the sum");
        assert_eq!(emptied(&uses[3..4]), [(0, Reason::Shredded)], "alone it may be over the sum");
        assert_eq!(emptied(&uses[2..3]), [], "40 % alive in big extents dies as a whole");
        assert_eq!(emptied(&uses[4..]), [], "mostly alive; mostly dying; pinned");
        assert_eq!(planned(&uses).emptied[0].gain_bytes, 255 * MIB);
        assert_eq!(planned(&[held(0, 0, 0, 0)]).dead, [SegmentId::new(0)]);
    }

    #[test]
    fn neighbours_count_as_one_run() {
        let extent = |base: u64, next: u64| Extent {
            base: Offset::new(base).expect("small"),
            next: Offset::new(next).expect("small"),
            segment: SegmentId::new(1),
            position: 0,
            length: 100,
            batch_bytes: 100,
            max_timestamp: Timestamp::from_millis(5),
        };
        let mut held = SegmentUse::new(MIB);
        for (log, base, next) in [(1, 0, 5), (1, 5, 7), (1, 8, 9), (2, 9, 10), (2, 10, 11)] {
            held.add(LogId::new(log), &extent(base, next), base == 0);
        }
        assert_eq!((held.extents, held.runs, held.live_bytes, held.soon_bytes), (5, 3, 500, 100));
        assert!(dies_by(&extent(0, 1), Some(10), Timestamp::from_millis(16)));
        assert!(!dies_by(&extent(0, 1), Some(10), Timestamp::from_millis(15)));
        assert!(!dies_by(&extent(0, 1), None, Timestamp::from_millis(i64::MAX)));
    }
}
