//! A follower's fetch session on the leader: what may have news, and who waits for it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use streambus_protocol::api::replica::{ReplicaFetchPartition, ReplicaFetchRequest};
use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::{BrokerId, PartitionId};
use streambus_protocol::limits::PARTITIONS_PER_REQUEST_MAX;
use streambus_protocol::offset::Offset;
use tokio::sync::Notify;

use crate::partition::lead::FollowerNews;
use crate::replication::fetch_session::{HeldBy, LeaderSession, UnknownSession};

/// One follower's session. Partitions hold it weakly and note their news in it.
pub(crate) struct ReplicaSession {
    follower: BrokerId,
    broker_epoch: BrokerEpoch,
    id: u32,
    state: Mutex<State>,
    notify: Notify,
}

struct State {
    session: LeaderSession,
    /// Watermarks that moved, and may wait a moment for records to travel with.
    watermarks: BTreeSet<PartitionId>,
    /// Of partitions in which the follower is behind: what their leaders had appended when they were last looked at.
    behind: HashMap<PartitionId, u64>,
    /// Partitions in which it is behind have their turn next.
    is_turn_of_held: bool,
    /// Of those, it was the turn of partitions that move under limits of their own.
    is_turn_of_moves: bool,
    /// Grows with each request: an older one that still waits is over.
    turn: u64,
    /// The open fetch is to be answered with what there is.
    is_nudged: bool,
    is_closed: bool,
}

/// The place of one request in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn(u64);

/// What a waiting fetch should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Look at the queue.
    Ready,
    /// Only watermarks have moved: a moment longer.
    Linger,
    /// The follower is behind, and may perhaps be sent some of it.
    Held,
    /// Nothing yet.
    Nothing,
    /// Answer with what there is: the follower has something new to ask, or the session is over.
    Answer,
}

impl ReplicaSession {
    pub(crate) fn new(follower: BrokerId, broker_epoch: BrokerEpoch, id: u32) -> Self {
        Self {
            follower,
            broker_epoch,
            id,
            state: Mutex::new(State {
                session: LeaderSession::new(id),
                watermarks: BTreeSet::new(),
                behind: HashMap::new(),
                is_turn_of_held: false,
                is_turn_of_moves: false,
                turn: 0,
                is_nudged: false,
                is_closed: false,
            }),
            notify: Notify::new(),
        }
    }

    pub(crate) fn follower(&self) -> (BrokerId, BrokerEpoch) {
        (self.follower, self.broker_epoch)
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Takes a request; an older one of the session that still waits is answered at once.
    pub(crate) fn accept(&self, request: &mut ReplicaFetchRequest) -> Result<Turn, UnknownSession> {
        let mut state = self.state.lock();
        let changed = std::mem::take(&mut request.changed);
        state.session.on_request(request.session, request.sequence, changed, &request.forgotten)?;
        for id in &request.forgotten {
            state.behind.remove(id);
        }
        state.turn += 1;
        state.is_nudged = false;
        let turn = Turn(state.turn);
        drop(state);
        self.notify.notify_waiters();
        Ok(turn)
    }

    /// The positions to look at, each with whether the follower said it just now. What moved only its watermark comes with
    /// the rest. What happens from now on is for the next answer.
    pub(crate) fn take_queued(&self) -> Vec<(ReplicaFetchPartition, bool)> {
        let mut state = self.state.lock();
        for id in std::mem::take(&mut state.watermarks) {
            state.session.mark(id);
        }
        std::iter::from_fn(|| state.session.next_queued()).take(PARTITIONS_PER_REQUEST_MAX).collect()
    }

    /// Looks at a partition again with the next answer: its records did not fit this one.
    pub(crate) fn requeue(&self, id: PartitionId) {
        self.state.lock().session.mark(id);
    }

    /// The follower is behind in this partition, of which its leader has appended `appended_bytes` in its time. Returns how
    /// many of them are new: that much more is to be sent.
    pub(crate) fn on_behind(&self, id: PartitionId, appended_bytes: u64) -> u64 {
        // What was there before it fell behind is no growth.
        let seen = self.state.lock().behind.insert(id, appended_bytes);
        seen.map_or(0, |seen| appended_bytes.saturating_sub(seen))
    }

    /// Holds back a partition in which the follower is behind, for [`ReplicaSession::next_held`] or
    /// [`ReplicaSession::take_held_by_move`].
    pub(crate) fn hold(&self, id: PartitionId, by: HeldBy) {
        self.state.lock().session.hold(id, by);
    }

    /// True when this partition is held back.
    pub(crate) fn is_held(&self, id: PartitionId) -> bool {
        self.state.lock().session.is_held(id)
    }

    /// The follower has become waited for in a partition that may be held back: its turn is now.
    pub(crate) fn release(&self, id: PartitionId) {
        let was_held = {
            let mut state = self.state.lock();
            state.behind.remove(&id);
            state.session.release(id)
        };
        if was_held {
            self.notify.notify_waiters();
        }
    }

    /// The follower is waited for in this partition.
    pub(crate) fn on_waited_for(&self, id: PartitionId) {
        let mut state = self.state.lock();
        if !state.behind.is_empty() {
            state.behind.remove(&id);
        }
    }

    /// True when it is the turn of what is held back: each second time this is asked, or when nothing else is queued. So
    /// neither keeps the other waiting for more than one answer.
    pub(crate) fn is_turn_of_held(&self) -> bool {
        let mut state = self.state.lock();
        let is_turn = state.is_turn_of_held || !state.session.has_queued();
        state.is_turn_of_held = !is_turn;
        is_turn && state.session.has_held()
    }

    /// The position held back longest by the limit of all. It is no longer held.
    pub(crate) fn next_held(&self) -> Option<ReplicaFetchPartition> {
        self.state.lock().session.next_held()
    }

    /// True when something waits for its share of the limit of all.
    pub(crate) fn has_held_by_all(&self) -> bool {
        self.state.lock().session.has_held_by_all()
    }

    /// What waits for the limits of moves, the longest waiting first.
    pub(crate) fn held_by_moves(&self) -> Vec<PartitionId> {
        self.state.lock().session.held_by_moves()
    }

    /// The position held back by the limit of its move. It is no longer held.
    pub(crate) fn take_held_by_move(&self, id: PartitionId) -> Option<ReplicaFetchPartition> {
        self.state.lock().session.take_held_by_move(id)
    }

    /// True each second time this is asked: those that move under limits of their own and the others take turns.
    pub(crate) fn is_turn_of_moves(&self) -> bool {
        let mut state = self.state.lock();
        state.is_turn_of_moves = !state.is_turn_of_moves;
        state.is_turn_of_moves
    }

    pub(crate) fn on_told(&self, id: PartitionId, high_watermark: Offset, log_start: Offset) {
        self.state.lock().session.on_told(id, high_watermark, log_start);
    }

    /// What the fetch of `turn` should do now.
    pub(crate) fn waiting(&self, turn: Turn) -> Waiting {
        let state = self.state.lock();
        if state.is_closed || state.is_nudged || Turn(state.turn) != turn {
            Waiting::Answer
        } else if state.session.has_queued() {
            Waiting::Ready
        } else if !state.watermarks.is_empty() {
            Waiting::Linger
        } else if state.session.has_held() {
            Waiting::Held
        } else {
            Waiting::Nothing
        }
    }

    /// Completes with the next news. Create it before looking at [`ReplicaSession::waiting`].
    pub(crate) fn news(&self) -> tokio::sync::futures::Notified<'_> {
        self.notify.notified()
    }

    /// The follower wants its open fetch answered.
    pub(crate) fn nudge(&self) {
        self.state.lock().is_nudged = true;
        self.notify.notify_waiters();
    }

    /// The session is over.
    pub(crate) fn close(&self) {
        self.state.lock().is_closed = true;
        self.notify.notify_waiters();
    }

    pub(crate) fn as_news(self: &Arc<Self>) -> Arc<dyn FollowerNews> {
        Arc::clone(self) as Arc<dyn FollowerNews>
    }
}

impl FollowerNews for ReplicaSession {
    fn has_records(&self, id: PartitionId) {
        // Under load the partition is queued already, and nobody has to be woken.
        if self.state.lock().session.mark(id) {
            self.notify.notify_waiters();
        }
    }

    fn has_watermark(&self, id: PartitionId) {
        let mut state = self.state.lock();
        if state.session.contains(id) && state.watermarks.insert(id) && state.watermarks.len() == 1 {
            drop(state);
            self.notify.notify_waiters();
        }
    }
}
