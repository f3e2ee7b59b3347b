//! How long this broker's disk has stood still: entries wait for it, and none has become durable.
//!
//! A disk that neither works nor fails, as one behind a hung controller or a lost network volume, would keep what its broker
//! leads from everybody for as long as it hangs, because the broker itself is well and says so. Therefore such a broker
//! lets its session run out, as one that hears no answers does: others lead what they hold too, nobody waits for its
//! copies, and it takes part again by itself once the disk moves.
//!
//! Pure; times are counted from any one moment, by a monotonic clock.

use std::time::Duration;

use streambus_storage::journal::Lsn;
use streambus_storage::store::CommitProgress;

/// Longer than a disk that is merely busy, or that stalls for a moment, keeps a commit. The session comes on top.
pub(crate) const PATIENCE: Duration = Duration::from_secs(4);
/// What counts at most between two looks: a process that stood still itself learns nothing about its disk by that.
const BETWEEN_LOOKS_MAX: Duration = Duration::from_secs(1);

/// Looks at the commits several times per second.
#[derive(Debug, Default)]
pub(crate) struct StillDisk {
    looked: Option<(Duration, Lsn)>,
    still: Duration,
}

impl StillDisk {
    /// The commits at `now`. Returns for how long the disk has stood still beyond [`PATIENCE`]: zero while it moves, or
    /// while nothing waits for it.
    pub(crate) fn look(&mut self, commits: CommitProgress, now: Duration) -> Duration {
        let before = self.looked.replace((now, commits.durable));
        self.still = match before {
            Some((at, durable)) if durable == commits.durable && durable < commits.accepted => {
                self.still.saturating_add(now.saturating_sub(at).min(BETWEEN_LOOKS_MAX))
            }
            _ => Duration::ZERO,
        };
        self.still.saturating_sub(PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(250);

    fn commits(accepted: u64, durable: u64) -> CommitProgress {
        CommitProgress { accepted: Lsn::new(accepted), durable: Lsn::new(durable) }
    }

    /// Looks at the same commits every tick, from `from` on, `ticks` times; the last answer and when the next look is due.
    fn looks(disk: &mut StillDisk, commits: CommitProgress, from: Duration, ticks: u32) -> (Duration, Duration) {
        let mut last = Duration::ZERO;
        for tick in 0..ticks {
            last = disk.look(commits, from + TICK * tick);
        }
        (last, from + TICK * ticks)
    }

    /// Catches: a broker that goes on leading over a disk that hangs; one that gives up over a disk that is slow, or when
    /// nothing is written.
    #[test]
    fn only_a_disk_that_keeps_what_waits_for_it_stands_still() {
        let mut disk = StillDisk::default();
        let (idle, at) = looks(&mut disk, commits(7, 7), Duration::ZERO, 100);
        assert_eq!(idle, Duration::ZERO, "nothing waits");
        let (busy, at) = looks(&mut disk, commits(9, 7), at, 16);
        assert_eq!(busy, Duration::ZERO, "for four seconds, which is borne");
        let (late, at) = looks(&mut disk, commits(12, 7), at, 8);
        assert_eq!(late, Duration::from_secs(2), "more that is accepted is no progress");
        let (slow, at) = looks(&mut disk, commits(12, 8), at, 17);
        assert_eq!(slow, Duration::ZERO, "one commit is progress, however late");
        let (late, at) = looks(&mut disk, commits(12, 8), at, 1);
        assert_eq!(late, TICK);
        assert_eq!(disk.look(commits(12, 12), at), Duration::ZERO, "all of it is on the disk");
    }

    /// Catches: a process that was stopped for a minute, or a machine that slept, and blames its disk.
    #[test]
    fn a_process_that_stood_still_itself_does_not_blame_its_disk() {
        let mut disk = StillDisk::default();
        disk.look(commits(9, 7), Duration::ZERO);
        assert_eq!(disk.look(commits(9, 7), Duration::from_secs(60)), Duration::ZERO);
        let (late, _) = looks(&mut disk, commits(9, 7), Duration::from_secs(60) + TICK, 16);
        assert_eq!(late, Duration::from_secs(1), "from then on it is the disk");
    }
}
