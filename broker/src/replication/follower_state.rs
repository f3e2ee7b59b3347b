//! What a follower does with an answer of its leader. Pure: it decides, whoever owns the log acts.
//!
//! ```text
//! log start <= high watermark <= log end          a follower's watermark is at most its leader's (F8)
//! ```
//! The rule numbers are those of the replication specification: F4-F8. A follower never cuts its log at its watermark
//! (KIP-101), cuts before it takes the answer's watermark (KAFKA-14704), and stops rather than cut below its watermark
//! when the metadata knows of no unclean election.

use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::offset::Offset;
use streambus_storage::epoch_cache::EpochEnd;

/// The follower's log.
pub trait FollowerLog {
    /// The first offset still there.
    fn start(&self) -> Offset;
    /// The offset that the next record gets.
    fn end(&self) -> Offset;
    /// Where `epoch` ended in it (rule F3).
    fn end_offset_for(&self, epoch: LeaderEpoch) -> EpochEnd;
}

/// Where the follower was when it asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The leadership that it followed.
    pub leader_epoch: LeaderEpoch,
    /// Its log end.
    pub fetch_offset: Offset,
}

/// An answer for one partition, without its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The leader's epoch.
    pub leader_epoch: LeaderEpoch,
    /// The last epoch that both logs know, and its end in the leader's.
    pub diverging: Option<(LeaderEpoch, Offset)>,
    /// The leader's ends, or the code of its refusal.
    pub ends: Result<LeaderEnds, ErrorCode>,
}

/// The ends of the leader's log, read before its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderEnds {
    /// The first offset still there.
    pub log_start: Offset,
    /// The end of what is committed.
    pub high_watermark: Offset,
    /// The end.
    pub log_end: Offset,
}

/// What to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Append the answer's batches, if there are any, then call [`FollowerState::on_matched`].
    Append(LeaderEnds),
    /// Cut the log at this offset, or the batch boundary below it, then call [`FollowerState::on_cut`] and fetch again.
    Truncate(Offset),
    /// Drop the whole log and go on at this offset, then call [`FollowerState::on_restarted`] and fetch again.
    RestartAt(Offset),
    /// The answer is about a leadership or a log end that is past: fetch again.
    Ignore,
    /// Nothing to be done now: wait a moment, or for newer metadata, and fetch again.
    Wait(ErrorCode),
    /// Stop this replica: going on would destroy committed records.
    Stop(Alarm),
}

/// Why a replica must not go on by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Alarm {
    /// The leader's log ends below what this replica knows to be committed (rule F7).
    #[error(
        "the leader of epoch {leader_epoch} wants the log cut at {to}, but everything below {high_watermark} is committed \
         and no unclean election is recorded: this replica stops and keeps its log. Look at what the leader's disk has lost; \
         if the leader's log is to stay, stop this broker, move its data directory aside and start it again: it copies \
         everything anew"
    )]
    CommittedWouldBeLost {
        /// The leadership that wants it.
        leader_epoch: LeaderEpoch,
        /// Where it wants the cut.
        to: Offset,
        /// What is known to be committed.
        high_watermark: Offset,
    },
}

/// Whether the metadata explains that a log whose last leadership is `latest` loses committed records: an election that may
/// lose some is not over, or came after everything that the log has (rule F7).
pub fn may_lose_committed(recovering: bool, unclean: Option<LeaderEpoch>, latest: Option<LeaderEpoch>) -> bool {
    recovering || unclean.is_some_and(|unclean| latest.is_none_or(|latest| latest < unclean))
}

/// A replica that follows.
#[derive(Clone, Debug)]
pub struct FollowerState {
    leader_epoch: LeaderEpoch,
    high_watermark: Offset,
    /// An unclean election is recorded that this replica may not have followed to its end: committed records may go.
    unclean: bool,
    /// An answer of this leadership has shown the log to be a prefix of the leader's, and nothing was cut since.
    matched: bool,
    alarm: Option<Alarm>,
    #[cfg(test)]
    planted: Option<crate::replication::planted::PlantedBug>,
}

impl FollowerState {
    /// A replica that begins to follow `leader_epoch`, with the watermark that it knew before.
    pub fn new(leader_epoch: LeaderEpoch, high_watermark: Offset, unclean: bool) -> Self {
        Self {
            leader_epoch,
            high_watermark,
            unclean,
            matched: false,
            alarm: None,
            #[cfg(test)]
            planted: None,
        }
    }

    /// The leadership it follows.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// The end of what it knows to be committed.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Why it has stopped, if it has.
    pub fn alarm(&self) -> Option<Alarm> {
        self.alarm
    }

    /// True when committed records may still have to go because of an unclean election.
    pub fn is_unclean(&self) -> bool {
        self.unclean
    }

    /// True once the log is known to be a prefix of this leadership's.
    pub fn is_matched(&self) -> bool {
        self.matched
    }

    /// The metadata records an unclean election in this leadership.
    pub fn on_unclean_election(&mut self) {
        self.unclean = true;
        self.alarm = None;
    }

    /// Decides about `answer`, which the question `asked` brought.
    pub fn judge(&mut self, asked: Asked, answer: &Answer, log: &impl FollowerLog) -> Step {
        // A reply that was in flight while the leadership or the log changed speaks of a past one (rule E3, KAFKA-7786).
        if asked.leader_epoch != self.leader_epoch || asked.fetch_offset != log.end() {
            return Step::Ignore;
        }
        if let Some(alarm) = self.alarm {
            return Step::Stop(alarm);
        }
        let ends = match answer.ends {
            Ok(ends) => ends,
            Err(code) => return Step::Wait(code),
        };
        if answer.leader_epoch != self.leader_epoch {
            return Step::Ignore;
        }
        if ends.log_start > log.end() {
            // The leader has nothing this replica could go on from (rule F6, KAFKA-9491).
            return Step::RestartAt(ends.log_start);
        }
        #[cfg(test)]
        if self.planted == Some(crate::replication::planted::PlantedBug::WatermarkBeforeTruncation) {
            self.high_watermark = ends.high_watermark.min(log.end());
        }
        match answer.diverging {
            Some((epoch, end)) => self.cut_to(divergence(epoch, end, log), ends, log),
            // The leader's log is a prefix of this one (rule F6): legal after an unclean election only.
            None if ends.log_end < log.end() => self.cut_to(ends.log_end, ends, log),
            None => Step::Append(ends),
        }
    }

    /// Plants `bug`.
    #[cfg(test)]
    pub(crate) fn plant(&mut self, bug: Option<crate::replication::planted::PlantedBug>) {
        self.planted = bug;
    }

    /// The answer's batches are appended: the log, which ends at `log_end`, is a prefix of the leader's. Takes over the
    /// leader's watermark as far as the log goes (rule F8).
    pub fn on_matched(&mut self, ends: LeaderEnds, log_end: Offset) {
        self.high_watermark = ends.high_watermark.min(log_end);
        // What is above the cut is gone by now, and what is below is the leader's.
        self.unclean = false;
        self.matched = true;
    }

    /// The log was cut at `log_end`.
    pub fn on_cut(&mut self, log_end: Offset) {
        assert!(self.unclean || log_end >= self.high_watermark, "a cut below the watermark was not to be made");
        self.high_watermark = self.high_watermark.min(log_end);
        self.matched = false;
    }

    /// The log goes on at `at`, which the leader has given up everything below of (rule F6, KAFKA-9491).
    pub fn on_restarted(&mut self, at: Offset) {
        self.high_watermark = at;
        self.matched = false;
    }

    fn cut_to(&mut self, to: Offset, ends: LeaderEnds, log: &impl FollowerLog) -> Step {
        let to = to.min(log.end());
        if to < self.high_watermark && !self.unclean {
            let alarm = Alarm::CommittedWouldBeLost {
                leader_epoch: self.leader_epoch,
                to,
                high_watermark: self.high_watermark,
            };
            self.alarm = Some(alarm);
            return Step::Stop(alarm);
        }
        // When nothing of this log is the leader's, it goes on at its own start if the leader has that, else where the
        // leader begins.
        if to >= log.start() || ends.log_end >= log.start() {
            Step::Truncate(to.max(log.start()))
        } else {
            Step::RestartAt(ends.log_start)
        }
    }
}

/// Where this log leaves the leader's, in which `epoch` ended at `end` (rule F5, KIP-279).
fn divergence(epoch: LeaderEpoch, end: Offset, log: &impl FollowerLog) -> Offset {
    match log.end_offset_for(epoch) {
        EpochEnd::Undefined => end,
        EpochEnd::Ended { end: own, .. } => end.min(own),
    }
}

/// What the leader finds when it compares a follower's position with its own log (rules F3 and F4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// The follower's log is a prefix of the leader's.
    Matches,
    /// It ends below the leader's log start.
    BelowStart,
    /// It leaves the leader's log: the last epoch both know, and its end in the leader's log.
    Diverges(LeaderEpoch, Offset),
    /// The leader cannot tell: it knows nothing of the follower's last epoch.
    Unknown,
}

/// The leader's ends, and how the log of a follower at `fetch_offset` compares. Retention may move the leader's start
/// meanwhile: the answer is of one moment all the same.
pub fn look_at(
    fetch_offset: Offset,
    last_epoch: LeaderEpoch,
    leader_latest: LeaderEpoch,
    high_watermark: Offset,
    leader: &impl FollowerLog,
) -> (LeaderEnds, Prefix) {
    // In the order of the number line, and before any batch is read (rule F2).
    let log_start = leader.start();
    let log_end = leader.end();
    let prefix = compare(fetch_offset, last_epoch, leader_latest, leader);
    // A start from before it moved would tell a follower below it that its log was compared.
    let log_start = if prefix == Prefix::BelowStart { leader.start() } else { log_start };
    (LeaderEnds { log_start, high_watermark: high_watermark.max(log_start), log_end }, prefix)
}

/// Compares a follower whose log ends at `fetch_offset`, with its last batch from `last_epoch`, with the leader's log.
pub fn compare(
    fetch_offset: Offset,
    last_epoch: LeaderEpoch,
    leader_latest: LeaderEpoch,
    leader: &impl FollowerLog,
) -> Prefix {
    // The start first: below it the leader remembers no epochs either (KAFKA-12996).
    if fetch_offset < leader.start() {
        return Prefix::BelowStart;
    }
    if last_epoch == LeaderEpoch::UNKNOWN {
        // An empty log has no past that could differ; it only has a place.
        return match fetch_offset > leader.end() {
            true => Prefix::Diverges(leader_latest, leader.end()),
            false => Prefix::Matches,
        };
    }
    match leader.end_offset_for(last_epoch) {
        // A leader has its own epoch on disk before it serves, so every smaller one is defined.
        EpochEnd::Undefined => Prefix::Unknown,
        EpochEnd::Ended { epoch, end } if epoch < last_epoch || end < fetch_offset => Prefix::Diverges(epoch, end),
        EpochEnd::Ended { .. } => Prefix::Matches,
    }
}

#[cfg(test)]
mod tests;
