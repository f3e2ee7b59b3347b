//! The fetch session between a follower and a leader, both ends (after KIP-227). Pure.
//!
//! Each end remembers what the follower said last about each partition; a request names only what changed since, an
//! answer only what has news. So an idle partition costs nothing, however many there are. One request of a session is
//! open at a time and its sequence is the one expected: a request that was lost, repeated or overtaken ends the session,
//! and the follower begins another with everything it has.

use std::collections::{BTreeSet, HashMap, VecDeque};

use streambus_protocol::api::replica::ReplicaFetchPartition;
use streambus_protocol::ids::PartitionId;
use streambus_protocol::limits::PARTITIONS_PER_REQUEST_MAX;
use streambus_protocol::offset::Offset;

/// The follower's end.
#[derive(Debug, Default)]
pub struct FollowerSession {
    id: u32,
    sequence: u32,
    /// What the follower would say now.
    positions: HashMap<PartitionId, ReplicaFetchPartition>,
    /// Partitions whose position the leader does not know.
    unsaid: BTreeSet<PartitionId>,
    /// Partitions the leader knows and should forget.
    gone: BTreeSet<PartitionId>,
}

/// The varying part of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRequest {
    /// The session; zero to begin one.
    pub session: u32,
    /// The request's number in it.
    pub sequence: u32,
    /// Positions the leader does not know.
    pub changed: Vec<ReplicaFetchPartition>,
    /// Partitions to forget.
    pub forgotten: Vec<PartitionId>,
    /// False when more changes wait for the next request, which must not be kept waiting then.
    pub is_complete: bool,
}

impl FollowerSession {
    /// No session, no partition.
    pub fn new() -> Self {
        Self::default()
    }

    /// Partitions in it.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// True when there is nothing to fetch.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// The session's number; zero before the leader gave one.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What was said last about `id`, or will be with the next request.
    pub fn position(&self, id: PartitionId) -> Option<&ReplicaFetchPartition> {
        self.positions.get(&id)
    }

    /// Adds a partition, or says where it is now. A position that the leader knows is not said again.
    pub fn set(&mut self, position: ReplicaFetchPartition) {
        let id = id_of(&position);
        self.gone.remove(&id);
        if self.positions.insert(id, position).as_ref() != Some(&position) {
            self.unsaid.insert(id);
        }
    }

    /// Says the position of `id` again with the next request, although it has not changed: the answer to it was not
    /// used.
    pub fn repeat(&mut self, id: PartitionId) {
        if self.positions.contains_key(&id) {
            self.unsaid.insert(id);
        }
    }

    /// Takes a partition out.
    pub fn remove(&mut self, id: PartitionId) {
        if self.positions.remove(&id).is_some() {
            self.unsaid.remove(&id);
            self.gone.insert(id);
        }
    }

    /// True when the next request has something to say.
    pub fn has_changes(&self) -> bool {
        !self.unsaid.is_empty() || !self.gone.is_empty()
    }

    /// The next request. It counts as said; when it fails, [`FollowerSession::reset`] makes everything unsaid again.
    pub fn next_request(&mut self) -> SessionRequest {
        let said: Vec<PartitionId> = self.unsaid.iter().take(PARTITIONS_PER_REQUEST_MAX).copied().collect();
        let mut changed = Vec::with_capacity(said.len());
        for id in said {
            self.unsaid.remove(&id);
            changed.extend(self.positions.get(&id).copied());
        }
        let forgotten: Vec<PartitionId> = self.gone.iter().take(PARTITIONS_PER_REQUEST_MAX).copied().collect();
        for id in &forgotten {
            self.gone.remove(id);
        }
        let is_complete = !self.has_changes();
        SessionRequest { session: self.id, sequence: self.sequence, changed, forgotten, is_complete }
    }

    /// The leader answered the request of `sequence` in `session`. False when that is not the answer expected: the
    /// session is over then.
    pub fn on_answer(&mut self, session: u32, sequence: u32) -> bool {
        let is_expected = sequence == self.sequence && session != 0 && (self.sequence == 0 || session == self.id);
        // At the end of the numbers another session begins.
        match self.sequence.checked_add(1).filter(|_| is_expected) {
            Some(next) => {
                self.id = session;
                self.sequence = next;
                true
            }
            None => {
                self.reset();
                false
            }
        }
    }

    /// The session is over; the next request begins another with every partition.
    pub fn reset(&mut self) {
        self.id = 0;
        self.sequence = 0;
        self.gone.clear();
        self.unsaid = self.positions.keys().copied().collect();
    }
}

/// The leader's end.
#[derive(Debug)]
pub struct LeaderSession {
    id: u32,
    sequence: u32,
    partitions: HashMap<PartitionId, Tracked>,
    /// Partitions to look at for the next answer, each once.
    queue: VecDeque<PartitionId>,
    /// Partitions that wait for their share of what may be sent to those who are behind, each once.
    held: VecDeque<PartitionId>,
    /// Those of them that move under a limit of their own.
    held_apart: VecDeque<PartitionId>,
}

/// What a partition that is held back waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldBy {
    /// Its share of the limit of all that are behind.
    All,
    /// The limit of its own move.
    Move,
}

#[derive(Debug)]
struct Tracked {
    position: ReplicaFetchPartition,
    is_queued: bool,
    /// The follower said the position since it was last looked at.
    is_fresh: bool,
    is_held: bool,
}

/// The leader knows no such session, or expected another request of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no fetch session {session} expects request {sequence}: begin another one")]
pub struct UnknownSession {
    /// The session of the request.
    pub session: u32,
    /// Its number in it.
    pub sequence: u32,
}

impl LeaderSession {
    /// A session that expects its first request.
    pub fn new(id: u32) -> Self {
        assert_ne!(id, 0, "zero names no session");
        let (queue, held, held_apart) = Default::default();
        Self { id, sequence: 0, partitions: HashMap::new(), queue, held, held_apart }
    }

    /// The session's number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Partitions in it.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        self.partitions.keys().copied()
    }

    /// True when `id` is in it.
    pub fn contains(&self, id: PartitionId) -> bool {
        self.partitions.contains_key(&id)
    }

    /// Takes a request: what it changed is to be looked at first.
    ///
    /// # Errors
    /// [`UnknownSession`]; nothing was taken then, and the session is over.
    pub fn on_request(
        &mut self,
        session: u32,
        sequence: u32,
        changed: Vec<ReplicaFetchPartition>,
        forgotten: &[PartitionId],
    ) -> Result<(), UnknownSession> {
        let is_expected = sequence == self.sequence && (session == self.id || (sequence == 0 && session == 0));
        let next = self.sequence.checked_add(1).filter(|_| is_expected);
        self.sequence = next.ok_or(UnknownSession { session, sequence })?;
        for id in forgotten {
            // What is queued is skipped when its turn comes.
            self.partitions.remove(id);
        }
        for position in changed.into_iter().rev() {
            let id = id_of(&position);
            match self.partitions.get_mut(&id) {
                Some(tracked) => {
                    tracked.position = position;
                    tracked.is_fresh = true;
                    if !std::mem::replace(&mut tracked.is_queued, true) {
                        self.queue.push_front(id);
                    }
                }
                None => {
                    self.partitions.insert(id, Tracked { position, is_queued: true, is_fresh: true, is_held: false });
                    self.queue.push_front(id);
                }
            }
        }
        Ok(())
    }

    /// Queues a partition that may have news. Returns true when it was not queued before. One that is held has news
    /// already.
    pub fn mark(&mut self, id: PartitionId) -> bool {
        match self.partitions.get_mut(&id) {
            Some(tracked) if !tracked.is_queued && !tracked.is_held => {
                tracked.is_queued = true;
                self.queue.push_back(id);
                true
            }
            _ => false,
        }
    }

    /// True when a partition is queued.
    pub fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next partition to look at, with the follower's position and whether that is news from the follower. It is no
    /// longer queued.
    pub fn next_queued(&mut self) -> Option<(ReplicaFetchPartition, bool)> {
        while let Some(id) = self.queue.pop_front() {
            // A forgotten partition that came back while its old place was still in the queue comes once.
            if let Some(tracked) = self.partitions.get_mut(&id)
                && std::mem::replace(&mut tracked.is_queued, false)
            {
                return Some((tracked.position, std::mem::take(&mut tracked.is_fresh)));
            }
        }
        None
    }

    /// Holds a partition back: it has records for the follower, which may not be sent yet.
    pub fn hold(&mut self, id: PartitionId, by: HeldBy) {
        if let Some(tracked) = self.partitions.get_mut(&id)
            && !std::mem::replace(&mut tracked.is_held, true)
        {
            match by {
                HeldBy::All => self.held.push_back(id),
                HeldBy::Move => self.held_apart.push_back(id),
            }
        }
    }

    /// True when this partition is held back.
    pub fn is_held(&self, id: PartitionId) -> bool {
        self.partitions.get(&id).is_some_and(|tracked| tracked.is_held)
    }

    /// Queues a partition that was held back, because it is waited for by now. Returns true when it was held.
    pub fn release(&mut self, id: PartitionId) -> bool {
        // Its place among those that are held is skipped.
        let was_held = self.partitions.get_mut(&id).is_some_and(|tracked| std::mem::take(&mut tracked.is_held));
        if was_held {
            let _queued = self.mark(id);
        }
        was_held
    }

    /// True when a partition is held back.
    pub fn has_held(&self) -> bool {
        self.has_held_by_all() || !self.held_apart.is_empty()
    }

    /// True when a partition waits for its share of the limit of all.
    pub fn has_held_by_all(&self) -> bool {
        !self.held.is_empty()
    }

    /// The partitions that wait for the limits of their moves, the longest waiting first. There are as many as somebody
    /// moves under limits: few.
    pub fn held_by_moves(&mut self) -> Vec<PartitionId> {
        let partitions = &self.partitions;
        self.held_apart.retain(|id| partitions.get(id).is_some_and(|tracked| tracked.is_held));
        self.held_apart.iter().copied().collect()
    }

    /// Takes a partition that waits for the limit of its move, with the follower's position. It is no longer held.
    pub fn take_held_by_move(&mut self, id: PartitionId) -> Option<ReplicaFetchPartition> {
        let place = self.held_apart.iter().position(|held| *held == id)?;
        self.held_apart.remove(place);
        let tracked = self.partitions.get_mut(&id)?;
        std::mem::take(&mut tracked.is_held).then_some(tracked.position)
    }

    /// The partition that waits longest for its share of the limit of all, with the follower's position. It is no longer
    /// held.
    pub fn next_held(&mut self) -> Option<ReplicaFetchPartition> {
        while let Some(id) = self.held.pop_front() {
            if let Some(tracked) = self.partitions.get_mut(&id)
                && std::mem::replace(&mut tracked.is_held, false)
            {
                return Some(tracked.position);
            }
        }
        None
    }

    /// The answer tells the follower this watermark of `id`, and where the leader's log starts.
    pub fn on_told(&mut self, id: PartitionId, high_watermark: Offset, log_start: Offset) {
        if let Some(tracked) = self.partitions.get_mut(&id) {
            tracked.position.known_high_watermark = high_watermark;
            tracked.position.log_start = tracked.position.log_start.max(log_start);
        }
    }
}

/// The partition a position is about.
pub fn id_of(position: &ReplicaFetchPartition) -> PartitionId {
    PartitionId { topic: position.topic, partition: position.partition }
}

#[cfg(test)]
mod tests;
