//! Which part of a new segment is zeroed before commits get there.
//!
//! The first write to reserved blocks makes the file system commit its own journal beside ours: two to three times the
//! time of a small synced write. So the commit loop, while it has nothing to commit, writes zeros a little ahead of the
//! commits. They are what the blocks read as anyway: nothing that is recovered changes, whenever the power goes.

use std::ops::Range;

use crate::aligned::AlignedBuffer;

/// Zeroed at once. A commit that comes meanwhile waits for it: about as long as one more commit takes.
const CHUNK_BYTES: u64 = 256 * 1024;

/// How far ahead of the commits one segment has been written before.
#[derive(Debug)]
pub(crate) struct ZeroAhead {
    /// From here on nobody has written yet, as far as is known.
    from: u64,
    zeros: Option<AlignedBuffer>,
}

impl ZeroAhead {
    /// For a segment whose blocks from `from` on were reserved and never written.
    pub(crate) fn starting(from: u64) -> Self {
        Self { from, zeros: None }
    }

    /// For a segment whose blocks were all written before, or may have been.
    pub(crate) fn none() -> Self {
        Self::starting(u64::MAX)
    }

    /// What to zero next, so that `window` bytes beyond `position`, where the next commit goes, have been written before;
    /// whole chunks, up to the segment's end at `bytes`.
    pub(crate) fn next(&self, position: u64, bytes: u64, window: u64) -> Option<Range<u64>> {
        let from = self.from.max(position);
        let to = from.saturating_add(CHUNK_BYTES).min(bytes);
        (from < to && to - position <= window).then_some(from..to)
    }

    /// Zeros for `range`, which [`ZeroAhead::next`] has named.
    pub(crate) fn zeros(&mut self) -> &AlignedBuffer {
        self.zeros.get_or_insert_with(|| AlignedBuffer::zeroed(CHUNK_BYTES as usize))
    }

    /// Notes that everything before `end` has been written.
    pub(crate) fn written(&mut self, end: u64) {
        self.from = self.from.max(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Catches zeros over what is committed, zeros that never end, and ones written again.
    #[test]
    fn zeros_stay_between_the_commits_and_the_window() {
        let mut ahead = ZeroAhead::starting(4096);
        let mut position = 4096;
        let mut written = Vec::new();
        for _ in 0..3 {
            while let Some(range) = ahead.next(position, 4 * MIB, MIB) {
                assert!(range.start >= position && range.end <= position + MIB);
                assert!(written.last().is_none_or(|last: &Range<u64>| last.end <= range.start), "written twice");
                ahead.written(range.end);
                written.push(range);
            }
            position += 3 * MIB / 4;
        }
        assert_eq!(written.len(), 4 + 3 + 3);
        assert_eq!(written.last().map(|last| last.end), Some(4096 + 10 * MIB / 4));
        // Commits that have overtaken the zeros are not zeroed away.
        let overtaken = ahead.next(3 * MIB, 4 * MIB, MIB);
        assert_eq!(overtaken, Some(3 * MIB..3 * MIB + CHUNK_BYTES));
        // The segment's last chunk may be short, and nothing follows it.
        let end = 4 * MIB;
        ahead.written(end - 4096);
        assert_eq!(ahead.next(end - 8192, end, MIB), Some(end - 4096..end));
        ahead.written(end);
        assert_eq!(ahead.next(end - 8192, end, MIB), None);
        assert_eq!(ZeroAhead::none().next(4096, end, MIB), None);
    }
}
