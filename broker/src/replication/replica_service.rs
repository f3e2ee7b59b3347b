//! The leader's end of replication: fetches and progress of followers.
//!
//! A fetch is answered as soon as one partition has news, before the leader's own sync: what counts is durable ends, and
//! those are said afterwards.

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
use crate::partition::Partition;
use crate::partition::lead::FollowerLook;
use crate::partition::read::ReadScope;
use crate::partition::registry::Registry;
use crate::partition::role::Leadership;
use crate::replication::due_set::DueSet;
use crate::replication::fetch_session::id_of;
use crate::replication::follower_state::Prefix;
use crate::replication::repair_service;
use crate::replication::replica_session::{ReplicaSession, Turn, Waiting};
use crate::replication::settings::ReplicationSettings;
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
        Self { inner: Arc::new(Inner { registry, budget, clock, settings, isr_due, sessions: Mutex::default() }) }
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
            if let Some(partition) = self.registry.get(*id)
                && partition.on_follower_progress(peer, *epoch, *durable_end, now)
            {
                self.isr_due.add(*id);
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

    /// Looks at every queued partition, and reads what is new for the follower.
    async fn collect(
        &self,
        session: &Arc<ReplicaSession>,
        bytes_max: usize,
        patience: Patience<'_>,
    ) -> Vec<ReplicaFetchOutcome> {
        let news = session.as_news();
        let now = self.clock.monotonic();
        let mut looked = Vec::new();
        let mut wanted = Vec::new();
        for (position, is_fresh) in session.take_queued() {
            let id = id_of(&position);
            let result = match self.registry.get(id) {
                None => Err(not_here(id)),
                Some(partition) => {
                    let look = if is_fresh {
                        partition.on_follower_fetch(session.follower(), &position, &news, now)
                    } else {
                        partition.look_for_follower(&position)
                    };
                    look.map(|look| (partition, look))
                }
            };
            if let Ok((partition, look)) = &result {
                if look.wants_change {
                    self.isr_due.add(id);
                }
                if look.prefix == Prefix::Matches && position.fetch_offset < look.ends.log_end {
                    wanted.push(Wanted {
                        place: looked.len(),
                        partition: Arc::clone(partition),
                        from: position.fetch_offset,
                        bytes_max: usize::try_from(position.bytes_max).unwrap_or(usize::MAX),
                        scope: ReadScope::Accepted,
                    });
                }
            }
            looked.push(Looked { position, result });
        }
        let mut batches: HashMap<usize, Result<Batches, ErrorBody>> = HashMap::with_capacity(wanted.len());
        if !wanted.is_empty() {
            for got in read_all(&self.budget, wanted, bytes_max, patience).await {
                let result = got.result.map(|out| out.fetched.batches);
                if let (Ok(read), Some(looked)) = (&result, looked.get(got.place))
                    && read.is_empty()
                {
                    // The answer is full: its turn comes with the next one.
                    session.requeue(id_of(&looked.position));
                }
                batches.insert(got.place, result);
            }
        }
        looked
            .into_iter()
            .enumerate()
            .filter_map(|(place, looked)| outcome(session, looked, batches.remove(&place)))
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
                    session.on_watermark_told(id_of(&position), look.ends.high_watermark);
                    (look.leader_epoch, None, Ok(fetched(batches)))
                }
                (Prefix::Matches, _) if told > position.known_high_watermark => {
                    session.on_watermark_told(id_of(&position), told);
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
