//! A replica's log with what its disk would give back after a power cut: an ordered journal of changes, of which any
//! prefix may have reached the disk.

use std::collections::VecDeque;

use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::offset::Offset;
use streambus_storage::epoch_cache::{EpochCache, EpochEnd};

use super::random::Random;
use crate::replication::follower_state::FollowerLog;

/// One record, a batch of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) epoch: LeaderEpoch,
    pub(super) value: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content {
    entries: Vec<Entry>,
    epochs: EpochCache,
    /// What was recorded to be committed.
    committed: usize,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Append(Entry),
    Truncate(usize),
    Epoch(LeaderEpoch),
    Committed(usize),
}

impl Content {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Append(entry) => {
                self.epochs.assign(entry.epoch, offset(self.entries.len()));
                self.entries.push(entry);
            }
            Change::Truncate(to) => {
                self.entries.truncate(to);
                self.epochs.truncate(offset(to));
                self.committed = self.committed.min(to);
            }
            Change::Epoch(epoch) => {
                self.epochs.assign(epoch, offset(self.entries.len()));
            }
            Change::Committed(at) => self.committed = self.committed.max(at.min(self.entries.len())),
        }
    }
}

/// The log.
#[derive(Clone, Debug, Default)]
pub(super) struct ModelLog {
    now: Content,
    disk: Content,
    /// Changes that are in `now` and not yet on the disk.
    journal: VecDeque<Change>,
}

impl ModelLog {
    pub(super) fn entries(&self) -> &[Entry] {
        &self.now.entries
    }

    pub(super) fn len(&self) -> usize {
        self.now.entries.len()
    }

    pub(super) fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.now.epochs.latest().map(|latest| latest.epoch)
    }

    /// How much of the log no power cut can take: what it has in common with every state the disk may be in.
    pub(super) fn durable_len(&self) -> usize {
        if !self.journal.iter().any(|change| matches!(change, Change::Truncate(_))) {
            // Nothing but growth: all of the disk is in the log.
            return self.disk.entries.len();
        }
        let mut state = self.disk.clone();
        let mut least = common(&self.now, &state);
        for change in &self.journal {
            state.apply(*change);
            least = least.min(common(&self.now, &state));
        }
        least
    }

    pub(super) fn append(&mut self, entry: Entry) {
        self.change(Change::Append(entry));
    }

    pub(super) fn truncate(&mut self, to: usize) {
        self.change(Change::Truncate(to));
    }

    pub(super) fn start_epoch(&mut self, epoch: LeaderEpoch) {
        self.change(Change::Epoch(epoch));
    }

    /// Records that everything below `at` is committed, as far as it is on the disk.
    pub(super) fn record_committed(&mut self, at: usize) {
        let at = at.min(self.durable_len());
        if at > self.now.committed {
            self.change(Change::Committed(at));
        }
    }

    /// What is known to be committed.
    pub(super) fn committed(&self) -> usize {
        self.now.committed
    }

    fn change(&mut self, change: Change) {
        self.now.apply(change);
        self.journal.push_back(change);
    }

    /// Brings the oldest `count` changes to the disk.
    pub(super) fn sync(&mut self, count: usize) {
        for change in self.journal.drain(..count.min(self.journal.len())) {
            self.disk.apply(change);
        }
    }

    pub(super) fn unsynced(&self) -> usize {
        self.journal.len()
    }

    /// The power goes: some prefix of the journal has reached the disk.
    pub(super) fn crash(&mut self, random: &mut Random) {
        let survivors = random.below(self.journal.len() + 1);
        self.sync(survivors);
        self.journal.clear();
        self.now = self.disk.clone();
    }
}

fn common(a: &Content, b: &Content) -> usize {
    a.entries.iter().zip(&b.entries).take_while(|(x, y)| x == y).count()
}

pub(super) fn offset(value: usize) -> Offset {
    Offset::new(u64::try_from(value).expect("small")).expect("small")
}

pub(super) fn index(offset: Offset) -> usize {
    usize::try_from(offset.get()).expect("small")
}

impl FollowerLog for ModelLog {
    fn start(&self) -> Offset {
        Offset::ZERO
    }

    fn end(&self) -> Offset {
        offset(self.len())
    }

    fn end_offset_for(&self, epoch: LeaderEpoch) -> EpochEnd {
        self.now.epochs.end_offset_for(epoch, self.end())
    }
}
