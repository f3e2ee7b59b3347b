//! The leader's end of replication: fetches and progress of followers.
//!
//! A fetch is answered as soon as one partition has news, before the leader's own sync: what counts is durable ends, and
//! those are said afterwards. What a replica lacks that no commit waits for is sent in portions, under a limit: between
//! the answers that commits wait for, never in one with them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use streambus_protocol::api::fetch::Batches;
use streambus_protocol::api::repair::{ReplicaRepairRequest, ReplicaRepairResponse};
use streambus_protocol::api::replica::{
    ReplicaFetchOutcome, ReplicaFetchPartition, ReplicaFetchRequest, ReplicaFetchResponse, ReplicaFetched,
    ReplicaProgressRequest, ReplicaStateRequest, ReplicaStateResponse,
};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, PartitionId};
use streambus_storage::clock::Clock;
use tokio_util::sync::CancellationToken;

use crate::clock::Deadline;
use crate::cluster::replica_service::ReplicaService;
use crate::metrics::snapshot::CatchUpSnapshot;
use crate::partition::Partition;
use crate::partition::lead::FollowerLook;
use crate::partition::read::ReadScope;
use crate::partition::registry::Registry;
use crate::partition::role::Leadership;
use crate::replication::catch_up::{CatchUp, Limit};
use crate::replication::due_set::DueSet;
use crate::replication::fetch_session::id_of;
use crate::replication::follower_state::Prefix;
use crate::replication::repair_service;
use crate::replication::replica_session::{ReplicaSession, Turn, Waiting};
use crate::replication::settings::ReplicationSettings;
use crate::replication::throttle::PORTION_BYTES_MAX;
use crate::service::reader::{Patience, ReadBudget, Wanted, read_all};
use crate::service::topic_description::leader_log_state;

/// Serves followers. One session per follower: a broker copies over one connection. Clones share it.
#[derive(Clone)]
pub struct LeaderService {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Arc<Registry>,
    budget: ReadBudget,
    clock: Arc<dyn Clock>,
    settings: ReplicationSettings,
    isr_due: Arc<DueSet>,
    catch_up: CatchUp,
    sessions: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    by_follower: HashMap<BrokerId, Arc<ReplicaSession>>,
    last_id: u32,
}

/// A partition of the answer that was looked at.
struct Looked {
    position: ReplicaFetchPartition,
    result: Result<(Arc<Partition>, FollowerLook), ErrorBody>,
}

impl Looked {
    /// True when the log goes on where the follower's ends.
    fn has_records(&self) -> bool {
        let has_more =
            |look: &FollowerLook| look.prefix == Prefix::Matches && self.position.fetch_offset < look.ends.log_end;
        self.result.as_ref().is_ok_and(|(_, look)| has_more(look))
    }
}

impl LeaderService {
    /// A service over the partitions of `registry`. Partitions whose in-sync set should change are added to `isr_due`.
    /// `budget` is for followers alone: readers that are slow must not hold up commits.
    pub fn new(
        registry: Arc<Registry>,
        budget: ReadBudget,
        clock: Arc<dyn Clock>,
        settings: ReplicationSettings,
        isr_due: Arc<DueSet>,
    ) -> Self {
        let catch_up = CatchUp::new(settings.catch_up_rate, Arc::clone(&clock));
        let sessions = Mutex::default();
        Self { inner: Arc::new(Inner { registry, budget, clock, settings, isr_due, catch_up, sessions }) }
    }

    /// How replicas that are behind are catching up.
    pub fn catch_up(&self) -> CatchUpSnapshot {
        self.inner.catch_up.snapshot(&self.inner.registry)
    }
}

impl ReplicaService for LeaderService {
    fn fetch(
        &self,
        peer: BrokerId,
        request: ReplicaFetchRequest,
        closing: CancellationToken,
    ) -> BoxFuture<'static, Result<ReplicaFetchResponse, ErrorBody>> {
        let inner = Arc::clone(&self.inner);
        async move { inner.fetch(peer, request, closing).await }.boxed()
    }

    fn progress(&self, peer: BrokerId, request: ReplicaProgressRequest) {
        self.inner.progress(peer, &request);
    }

    fn repair(
        &self,
        peer: BrokerId,
        request: ReplicaRepairRequest,
        closing: CancellationToken,
    ) -> BoxFuture<'static, Result<ReplicaRepairResponse, ErrorBody>> {
        let inner = Arc::clone(&self.inner);
        async move {
            let bytes_max = inner.settings.partition_bytes_max;
            repair_service::read(&inner.registry, &inner.budget, bytes_max, peer, request, &closing).await
        }
        .boxed()
    }

    fn state(&self, request: ReplicaStateRequest) -> ReplicaStateResponse {
        let now = self.inner.clock.monotonic();
        let state = |id: PartitionId| {
            let partition = self.inner.registry.get(id).filter(|p| p.role().leadership == Leadership::Here);
            let partition = partition.ok_or_else(|| not_here(id))?;
            Ok(leader_log_state(&partition, now))
        };
        ReplicaStateResponse { partitions: request.partitions.into_iter().map(|id| (id, state(id))).collect() }
    }

    fn disconnected(&self, peer: BrokerId) {
        self.inner.disconnected(peer);
    }
}

impl Inner {
    /// Answers when a partition of the session has news, or when the request's wait ends. Requests of one follower must be
    /// polled for the first time in their order.
    ///
    /// # Errors
    /// The whole fetch: another broker's, an earlier life's, or `UNKNOWN_REPLICA_SESSION`, after which the follower begins
    /// a new session.
    async fn fetch(
        &self,
        peer: BrokerId,
        mut request: ReplicaFetchRequest,
        closing: CancellationToken,
    ) -> Result<ReplicaFetchResponse, ErrorBody> {
        if request.broker != peer {
            return Err(ErrorBody::new(
                ErrorCode::InvalidRequest,
                format!("broker {peer} fetches in the name of broker {}", request.broker),
            ));
        }
        let session = self.session_for(&request)?;
        let turn = match session.accept(&mut request) {
            Ok(turn) => turn,
            Err(unknown) => {
                self.close(&session);
                return Err(ErrorBody::new(ErrorCode::UnknownReplicaSession, unknown.to_string()));
            }
        };
        let bytes_max = request.bytes_max.min(self.settings.fetch_bytes_max);
        let deadline = Deadline::after(Duration::from_millis(u64::from(request.wait_ms)).min(self.settings.fetch_wait));
        loop {
            let patience = Patience { deadline: None, closing: &closing };
            let partitions = self.collect(&session, usize::try_from(bytes_max).unwrap_or(usize::MAX), patience).await;
            if !partitions.is_empty() || request.wait_ms == 0 || !self.wait(&session, turn, deadline, &closing).await {
                return Ok(ReplicaFetchResponse { session: session.id(), sequence: request.sequence, partitions });
            }
        }
    }

    /// A follower's disk has moved while its fetch is open. Without any end it asks for that fetch to be answered.
    fn progress(&self, peer: BrokerId, progress: &ReplicaProgressRequest) {
        let session = self.sessions.lock().by_follower.get(&peer).cloned();
        let Some(session) = session.filter(|session| session.id() == progress.session) else { return };
        if progress.ends.is_empty() {
            session.nudge();
            return;
        }
        let now = self.clock.monotonic();
        for (id, epoch, durable_end) in &progress.ends {
            let Some(partition) = self.registry.get(*id) else { continue };
            if partition.on_follower_progress(peer, *epoch, *durable_end, now) {
                self.isr_due.add(*id);
            }
            // It has caught up while its next records wait for their portion of the limit: from now on commits wait for it.
            if session.is_held(*id) && partition.waits_for_follower(peer, *epoch, now) {
                session.release(*id);
            }
        }
    }

    /// The follower's connection is gone: nobody reads the answer of its open fetch.
    fn disconnected(&self, peer: BrokerId) {
        let session = self.sessions.lock().by_follower.remove(&peer);
        if let Some(session) = session {
            session.close();
        }
    }

    fn session_for(&self, request: &ReplicaFetchRequest) -> Result<Arc<ReplicaSession>, ErrorBody> {
        let mut sessions = self.sessions.lock();
        let known = sessions.by_follower.get(&request.broker);
        if let Some(newer) = known.map(|session| session.follower().1).filter(|epoch| *epoch > request.broker_epoch) {
            return Err(ErrorBody::new(
                ErrorCode::StaleBrokerEpoch,
                format!("broker {} fetches under epoch {newer} by now", request.broker),
            ));
        }
        if request.sequence == 0 {
            sessions.last_id = sessions.last_id.checked_add(1).unwrap_or(1);
            let id = sessions.last_id;
            let session = Arc::new(ReplicaSession::new(request.broker, request.broker_epoch, id));
            if let Some(former) = sessions.by_follower.insert(request.broker, Arc::clone(&session)) {
                former.close();
            }
            return Ok(session);
        }
        let session = known.filter(|s| s.id() == request.session && s.follower().1 == request.broker_epoch).cloned();
        session.ok_or_else(|| {
            ErrorBody::new(
                ErrorCode::UnknownReplicaSession,
                format!("broker {} has no session {} here: begin another one", request.broker, request.session),
            )
        })
    }

    fn close(&self, session: &Arc<ReplicaSession>) {
        let mut sessions = self.sessions.lock();
        let follower = session.follower().0;
        if sessions.by_follower.get(&follower).is_some_and(|known| Arc::ptr_eq(known, session)) {
            sessions.by_follower.remove(&follower);
        }
        session.close();
    }

    /// What is new for the follower: of partitions that commits wait for it in, or a portion of what it lacks in others.
    async fn collect(
        &self,
        session: &Arc<ReplicaSession>,
        bytes_max: usize,
        patience: Patience<'_>,
    ) -> Vec<ReplicaFetchOutcome> {
        let held = self.collect_held(session, patience).await;
        if !held.is_empty() {
            return held;
        }
        let queued = self.collect_queued(session, bytes_max, patience).await;
        if !queued.is_empty() {
            return queued;
        }
        // It may just have been found to be behind.
        self.collect_held(session, patience).await
    }

    /// Looks at every queued partition, and reads what is new for the follower, unless nobody waits for it: that is held
    /// back.
    async fn collect_queued(
        &self,
        session: &Arc<ReplicaSession>,
        bytes_max: usize,
        patience: Patience<'_>,
    ) -> Vec<ReplicaFetchOutcome> {
        let news = session.as_news();
        let now = self.clock.monotonic();
        let mut looked = Vec::new();
        for (position, is_fresh) in session.take_queued() {
            let id = id_of(&position);
            let seen = self.registry.get(id).ok_or_else(|| not_here(id)).and_then(|partition| {
                let look = if is_fresh {
                    partition.on_follower_fetch(session.follower(), &position, &news, now)
                } else {
                    partition.look_for_follower(session.follower().0, &position, now)
                };
                look.map(|look| (partition, look))
            });
            let seen = Looked { position, result: seen };
            if let Ok((partition, look)) = &seen.result {
                if look.wants_change {
                    self.isr_due.add(id);
                }
                if look.is_waited_for {
                    session.on_waited_for(id);
                } else if seen.has_records() {
                    let limit = Limit::of(partition, session.follower().0);
                    self.catch_up.on_growth(limit, session.on_behind(id, look.appended_bytes));
                    session.hold(id, limit.held_by());
                    continue;
                }
            }
            looked.push(seen);
        }
        // An answer that is full: the turn of what did not fit comes with the next one.
        self.read(session, looked, bytes_max, patience, |id| session.requeue(id)).await
    }

    /// Reads a portion of what is held back, as far as the limits for replicas that are behind allow: of what moves under
    /// limits of its own, or of the rest.
    async fn collect_held(&self, session: &Arc<ReplicaSession>, patience: Patience<'_>) -> Vec<ReplicaFetchOutcome> {
        if self.may_send_held(session).is_err() || !session.is_turn_of_held() {
            return Vec::new();
        }
        let moves_first = session.is_turn_of_moves();
        for is_moves in [moves_first, !moves_first] {
            let outcomes = match is_moves {
                true => self.collect_moves(session, patience).await,
                false => self.collect_behind(session, patience).await,
            };
            if !outcomes.is_empty() {
                return outcomes;
            }
        }
        Vec::new()
    }

    /// Whether some of what is held back may be sent now.
    ///
    /// # Errors
    /// How long to wait for that; longer than any fetch when nothing is held back.
    fn may_send_held(&self, session: &ReplicaSession) -> Result<(), Duration> {
        let of_all = session.has_held_by_all().then(|| self.catch_up.available(Limit::All));
        let moves = session.held_by_moves().into_iter().map(|id| self.catch_up.available(self.limit(session, id)));
        let mut wait = Duration::MAX;
        for available in of_all.into_iter().chain(moves) {
            match available {
                Ok(_) => return Ok(()),
                Err(longer) => wait = wait.min(longer),
            }
        }
        Err(wait)
    }

    /// The limit under which the follower is sent partition `id` now.
    fn limit(&self, session: &ReplicaSession, id: PartitionId) -> Limit {
        self.registry.get(id).map_or(Limit::All, |partition| Limit::of(&partition, session.follower().0))
    }

    /// Reads a portion of what waits for the limits of moves.
    async fn collect_moves(&self, session: &Arc<ReplicaSession>, patience: Patience<'_>) -> Vec<ReplicaFetchOutcome> {
        self.catch_up.forget_moves(&self.registry);
        for id in session.held_by_moves() {
            let limit = self.limit(session, id);
            let Ok(available) = self.catch_up.available(limit) else { continue };
            let Some(position) = session.take_held_by_move(id) else { continue };
            if limit == Limit::All {
                // The move has ended, or goes on without a limit of its own.
                session.hold(id, limit.held_by());
                continue;
            }
            let (looked, _) = self.look_at_held(session, position, limit);
            let outcomes = self.send_held(session, vec![looked], available, limit, patience).await;
            if !outcomes.is_empty() {
                return outcomes;
            }
        }
        Vec::new()
    }

    /// Reads a portion of what waits for the limit of all.
    async fn collect_behind(&self, session: &Arc<ReplicaSession>, patience: Patience<'_>) -> Vec<ReplicaFetchOutcome> {
        let Ok(available) = self.catch_up.available(Limit::All) else { return Vec::new() };
        let (mut looked, mut planned) = (Vec::new(), 0_u64);
        while planned < available
            && let Some(position) = session.next_held()
        {
            let id = id_of(&position);
            let limit = self.limit(session, id);
            if limit != Limit::All {
                // It moves under a limit of its own by now.
                session.hold(id, limit.held_by());
                continue;
            }
            let (seen, lacking) = self.look_at_held(session, position, limit);
            planned = planned.saturating_add(lacking);
            looked.push(seen);
        }
        self.send_held(session, looked, available, Limit::All, patience).await
    }

    /// Looks at a partition that was held back; also says about how many bytes the follower lacks.
    fn look_at_held(&self, session: &ReplicaSession, position: ReplicaFetchPartition, limit: Limit) -> (Looked, u64) {
        let id = id_of(&position);
        let now = self.clock.monotonic();
        let seen = self.registry.get(id).ok_or_else(|| not_here(id)).and_then(|partition| {
            let look = partition.look_for_follower(session.follower().0, &position, now)?;
            Ok((partition, look))
        });
        let mut lacking = 0;
        if let Ok((partition, look)) = &seen {
            self.catch_up.on_growth(limit, session.on_behind(id, look.appended_bytes));
            lacking = partition.bytes_between(position.fetch_offset, look.ends.log_end).max(1);
        }
        (Looked { position, result: seen }, lacking)
    }

    /// Reads what was held back, at most `available` bytes of it, one batch apart.
    async fn send_held(
        &self,
        session: &ReplicaSession,
        looked: Vec<Looked>,
        available: u64,
        limit: Limit,
        patience: Patience<'_>,
    ) -> Vec<ReplicaFetchOutcome> {
        let bytes_max = usize::try_from(available.min(PORTION_BYTES_MAX)).unwrap_or(usize::MAX);
        let outcomes = self.read(session, looked, bytes_max, patience, |id| session.hold(id, limit.held_by())).await;
        let sent = outcomes.iter().filter_map(|outcome| outcome.result.as_ref().ok());
        let bytes = sent.map(|fetched| u64::try_from(fetched.batches.len()).unwrap_or(u64::MAX)).sum();
        self.catch_up.take(limit, bytes);
        outcomes
    }

    /// Reads the records of what was looked at, at most `bytes_max`, one batch apart; those that found no room are `left`.
    async fn read(
        &self,
        session: &ReplicaSession,
        looked: Vec<Looked>,
        bytes_max: usize,
        patience: Patience<'_>,
        left: impl Fn(PartitionId),
    ) -> Vec<ReplicaFetchOutcome> {
        let wanted = |(place, seen): (usize, &Looked)| {
            let (partition, _) = seen.result.as_ref().ok().filter(|_| seen.has_records())?;
            Some(Wanted {
                place,
                partition: Arc::clone(partition),
                from: seen.position.fetch_offset,
                bytes_max: usize::try_from(seen.position.bytes_max).unwrap_or(usize::MAX),
                scope: ReadScope::Accepted,
            })
        };
        let wanted: Vec<Wanted> = looked.iter().enumerate().filter_map(wanted).collect();
        let mut batches: HashMap<usize, Result<Batches, ErrorBody>> = HashMap::with_capacity(wanted.len());
        if !wanted.is_empty() {
            for got in read_all(&self.budget, wanted, bytes_max, patience).await {
                let result = got.result.map(|out| out.fetched.batches);
                if let (Ok(read), Some(seen)) = (&result, looked.get(got.place))
                    && read.is_empty()
                {
                    left(id_of(&seen.position));
                }
                batches.insert(got.place, result);
            }
        }
        looked
            .into_iter()
            .enumerate()
            .filter_map(|(place, seen)| outcome(session, seen, batches.remove(&place)))
            .collect()
    }

    /// Waits for news; false when the fetch is to be answered as it is.
    async fn wait(
        &self,
        session: &ReplicaSession,
        turn: Turn,
        deadline: Deadline,
        closing: &CancellationToken,
    ) -> bool {
        let mut linger: Option<Deadline> = None;
        loop {
            let news = session.news();
            tokio::pin!(news);
            // Registered first, looked at second: news in between wakes us again, none is missed.
            news.as_mut().enable();
            let until = match session.waiting(turn) {
                Waiting::Ready => return true,
                Waiting::Answer => return false,
                Waiting::Nothing => deadline,
                Waiting::Held => match self.may_send_held(session) {
                    Ok(()) => return !closing.is_cancelled(),
                    // Nothing may be left of what was held.
                    Err(Duration::MAX) => deadline,
                    Err(wait) => Deadline::after(wait).earlier(deadline),
                },
                Waiting::Linger => {
                    let lingering = *linger.get_or_insert_with(|| Deadline::after(self.settings.watermark_linger));
                    if lingering.has_passed() {
                        return true;
                    }
                    lingering.earlier(deadline)
                }
            };
            tokio::select! {
                biased;
                () = closing.cancelled() => return false,
                passed = until.limit(news) => {
                    if passed.is_none() && deadline.has_passed() {
                        return false;
                    }
                }
            }
        }
    }
}

impl fmt::Debug for LeaderService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaderService").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

fn not_here(id: PartitionId) -> ErrorBody {
    ErrorBody::new(ErrorCode::NotLeader, format!("partition {id} is not led here, or not yet"))
}

/// The outcome for the answer, if there is anything new in it.
fn outcome(
    session: &ReplicaSession,
    looked: Looked,
    read: Option<Result<Batches, ErrorBody>>,
) -> Option<ReplicaFetchOutcome> {
    let Looked { position, result } = looked;
    let (leader_epoch, diverging, result) = match result {
        Err(error) => (position.leader_epoch, None, Err(error)),
        Ok((_, look)) => {
            let fetched = |batches| ReplicaFetched {
                high_watermark: look.ends.high_watermark,
                log_start: look.ends.log_start,
                log_end: look.ends.log_end,
                batches,
            };
            let told = look.ends.high_watermark.min(position.fetch_offset);
            match (look.prefix, read) {
                (Prefix::Matches, Some(Err(error))) => (look.leader_epoch, None, Err(error)),
                (Prefix::Matches, Some(Ok(batches))) if !batches.is_empty() => {
                    session.on_told(id_of(&position), look.ends.high_watermark, look.ends.log_start);
                    (look.leader_epoch, None, Ok(fetched(batches)))
                }
                (Prefix::Matches, _)
                    if told > position.known_high_watermark || look.ends.log_start > position.log_start =>
                {
                    session.on_told(id_of(&position), told.max(position.known_high_watermark), look.ends.log_start);
                    (look.leader_epoch, None, Ok(fetched(Batches::EMPTY)))
                }
                (Prefix::Matches, _) => return None,
                (Prefix::Diverges(epoch, end), _) => {
                    (look.leader_epoch, Some((epoch, end)), Ok(fetched(Batches::EMPTY)))
                }
                (Prefix::BelowStart | Prefix::Unknown, _) => (look.leader_epoch, None, Ok(fetched(Batches::EMPTY))),
            }
        }
    };
    Some(ReplicaFetchOutcome { topic: position.topic, partition: position.partition, leader_epoch, diverging, result })
}
