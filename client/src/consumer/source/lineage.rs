//! Whether the log that is read on from is the one that was read so far: a leader that lacks records, elected by force, may
//! have put others at their offsets, and be past them by the time it is asked.
//!
//! Offset and leader epoch together name a record for ever. So in another leadership the last batch that was read is asked
//! for once more: with another epoch it is another batch, and what was read before is lost.

use streambus_protocol::batch::PlacedBatch;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::offset::Offset;

/// What is known of the log below the next offset. By default nothing was read of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lineage {
    /// The epoch of the last batch read.
    written: Option<LeaderEpoch>,
    /// The last leadership whose log had that batch.
    seen_in: LeaderEpoch,
}

/// What becomes of a batch that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// It was read before.
    Known,
    /// It is the next one.
    Next,
    /// It shows that what was read is not in this log.
    Replaced,
}

impl Lineage {
    /// The offset to ask the leader of `epoch` for, to go on at `next`.
    pub(super) fn ask_from(self, next: Offset, epoch: LeaderEpoch) -> Offset {
        let last = next.get().checked_sub(1).and_then(Offset::new);
        last.filter(|_| self.written.is_some() && epoch > self.seen_in).unwrap_or(next)
    }

    /// Takes a batch of the leader of `led`, where `next` is the offset to go on at.
    pub(super) fn take(&mut self, batch: &PlacedBatch, next: Offset, led: LeaderEpoch) -> Finding {
        let has_last = batch.base_offset() < next && next <= batch.next_offset();
        let is_known = batch.next_offset() <= next;
        if let Some(written) = self.written {
            let is_other = has_last && led > self.seen_in && batch.leader_epoch() != written;
            // Epochs only rise along a log.
            if is_other || !is_known && batch.leader_epoch() < written {
                return Finding::Replaced;
            }
        }
        if has_last || !is_known {
            self.seen_in = self.seen_in.max(led);
        }
        if is_known {
            return Finding::Known;
        }
        self.written = Some(batch.leader_epoch());
        Finding::Next
    }

    /// The leader of `led` has nothing left below the next offset: there is nothing to compare.
    pub(super) fn trust(&mut self, led: LeaderEpoch) {
        self.seen_in = self.seen_in.max(led);
    }
}
