//! Copies partitions from one leader: one stream of fetches for all of them.
//!
//! The next fetch goes out as soon as an answer is in the logs, before it is durable; what became durable is said in
//! between by progress messages. Whatever goes wrong with the stream as a whole ends the session, and the next one says
//! every position anew, with durable ends as they are then.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use streambus_consensus::blocking;
use streambus_protocol::api::replica::{
    ReplicaFetchOutcome, ReplicaFetchRequest, ReplicaFetchResponse, ReplicaProgressRequest,
};
use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, PartitionId};
use streambus_storage::clock::Clock;
use streambus_storage::partition_log::Durable;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::Deadline;
use crate::partition::Partition;
use crate::partition::follow::{FollowError, Taken};
use crate::partition::registry::Registry;
use crate::replication::fetch_session::FollowerSession;
use crate::replication::follower_state::{Answer, Asked, LeaderEnds};
use crate::replication::peer_link::{LinkError, PeerLink};
use crate::replication::registration::Registration;
use crate::replication::settings::ReplicationSettings;
use crate::replication::store_trouble::{StoreTrouble, Trouble};

/// A fetch is given up this long after its leader should have answered it.
const ANSWER_GRACE: Duration = Duration::from_secs(5);

/// Partitions that a fetcher gets or loses. At most one entry per partition.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    entries: Mutex<HashMap<PartitionId, Option<Arc<Partition>>>>,
    notify: Notify,
}

impl Inbox {
    /// The fetcher is to copy `partition`, or to look at its role again.
    pub(crate) fn assign(&self, partition: Arc<Partition>) {
        self.entries.lock().insert(partition.id(), Some(partition));
        self.notify.notify_one();
    }

    /// The fetcher is to leave the partition alone.
    pub(crate) fn take_away(&self, id: PartitionId) {
        self.entries.lock().insert(id, None);
        self.notify.notify_one();
    }

    fn take(&self) -> HashMap<PartitionId, Option<Arc<Partition>>> {
        std::mem::take(&mut *self.entries.lock())
    }

    async fn added(&self) {
        while self.entries.lock().is_empty() {
            self.notify.notified().await;
        }
    }
}

/// What every fetcher needs.
#[derive(Clone)]
pub(crate) struct FetcherEnv {
    pub(crate) link: Arc<dyn PeerLink>,
    pub(crate) registration: Registration,
    pub(crate) settings: ReplicationSettings,
    pub(crate) registry: Arc<Registry>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) trouble: Arc<StoreTrouble>,
}

/// Copies from one leader.
pub(crate) struct Fetcher {
    leader: BrokerId,
    env: FetcherEnv,
    inbox: Arc<Inbox>,
    session: FollowerSession,
    partitions: HashMap<PartitionId, Arc<Partition>>,
    /// Partitions whose position is to be read anew before the next fetch.
    moved: BTreeSet<PartitionId>,
    /// Partitions that wait before they are asked for again, with how often in a row.
    postponed: BTreeMap<PartitionId, (Deadline, u32)>,
    failures: HashMap<PartitionId, u32>,
    commits: FuturesUnordered<BoxFuture<'static, Vec<PartitionId>>>,
}

impl Fetcher {
    pub(crate) fn new(leader: BrokerId, env: FetcherEnv, inbox: Arc<Inbox>) -> Self {
        Self {
            leader,
            env,
            inbox,
            session: FollowerSession::new(),
            partitions: HashMap::new(),
            moved: BTreeSet::new(),
            postponed: BTreeMap::new(),
            failures: HashMap::new(),
            commits: FuturesUnordered::new(),
        }
    }

    /// Copies until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut failures = 0_u32;
        loop {
            self.take_inbox();
            self.resume_postponed();
            self.read_positions();
            if self.session.is_empty() {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = self.inbox.added() => {}
                    () = until(self.next_resumption()) => {}
                }
                continue;
            }
            let epoch = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                epoch = self.env.registration.registered() => epoch,
            };
            let request = self.request(epoch);
            let ttl = Duration::from_millis(u64::from(request.wait_ms)) + ANSWER_GRACE;
            let call = self.env.link.fetch(self.leader, request, ttl);
            let result = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                result = self.attend(call) => result,
            };
            match result {
                Ok(answer) if self.session.on_answer(answer.session, answer.sequence) => {
                    failures = 0;
                    let until = self.env.clock.monotonic().saturating_add(self.env.settings.silence_max());
                    self.env.registry.note_heard(self.leader, until);
                    self.take_answer(answer).await;
                }
                Ok(_) => self.say_everything(),
                Err(error) => {
                    self.say_everything();
                    if matches!(&error, LinkError::Refused(body) if body.code == ErrorCode::UnknownReplicaSession)
                        && failures == 0
                    {
                        failures = 1;
                        continue;
                    }
                    if failures == 0 {
                        tracing::info!(leader = %self.leader, %error, "copying is interrupted; trying again");
                    }
                    let pause = self.pause(failures);
                    failures = failures.saturating_add(1);
                    // Readers here learn that it is silent once it has been for long enough.
                    self.env.registry.announce_change();
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                        // Whoever leads more partitions than a moment ago is alive.
                        () = self.inbox.added() => {}
                    }
                }
            }
        }
    }

    fn take_inbox(&mut self) {
        for (id, entry) in self.inbox.take() {
            self.postponed.remove(&id);
            self.failures.remove(&id);
            match entry {
                Some(partition) => {
                    self.commits.extend(becoming_durable(&partition));
                    self.partitions.insert(id, partition);
                    self.moved.insert(id);
                }
                None => {
                    self.partitions.remove(&id);
                    self.session.remove(id);
                }
            }
        }
    }

    fn resume_postponed(&mut self) {
        let due: Vec<_> = self.postponed.iter().filter(|(_, (at, _))| at.has_passed()).map(|(id, _)| *id).collect();
        for id in due {
            self.postponed.remove(&id);
            self.moved.insert(id);
        }
    }

    fn next_resumption(&self) -> Option<Deadline> {
        self.postponed.values().map(|(at, _)| *at).min()
    }

    fn read_positions(&mut self) {
        for id in std::mem::take(&mut self.moved) {
            let bytes_max = self.env.settings.partition_bytes_max;
            match self.partitions.get(&id).and_then(|partition| partition.follower_position(self.leader, bytes_max)) {
                Some(position) => {
                    self.session.set(position);
                    // Also when the numbers are the same: the answer to them was not used.
                    self.session.repeat(id);
                }
                None => self.session.remove(id),
            }
        }
    }

    fn request(&mut self, epoch: BrokerEpoch) -> ReplicaFetchRequest {
        let said = self.session.next_request();
        // The first answer gives the session, without which nothing can be said in between.
        let may_wait = said.is_complete && said.session != 0;
        let wait = if may_wait { self.env.settings.fetch_wait } else { Duration::ZERO };
        ReplicaFetchRequest {
            broker: self.env.registration.broker(),
            broker_epoch: epoch,
            session: said.session,
            sequence: said.sequence,
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            bytes_max: self.env.settings.fetch_bytes_max,
            changed: said.changed,
            forgotten: said.forgotten,
        }
    }

    /// Waits for the answer, says meanwhile what became durable, and asks for the answer when there is more to ask for.
    async fn attend(
        &mut self,
        call: BoxFuture<'static, Result<ReplicaFetchResponse, LinkError>>,
    ) -> Result<ReplicaFetchResponse, LinkError> {
        let mut call = call;
        let mut is_nudged = false;
        let resumption = self.next_resumption();
        // Whoever reads here is to ask the leader when this broker no longer hears it.
        let mut silence = Some(Deadline::after(self.env.settings.silence_max()));
        loop {
            tokio::select! {
                biased;
                result = &mut call => return result,
                () = until(silence) => {
                    silence = None;
                    self.env.registry.announce_change();
                }
                Some(ids) = self.commits.next() => self.say_progress(&ids),
                () = self.inbox.added(), if !is_nudged => {
                    is_nudged = true;
                    self.nudge();
                }
                () = until(resumption), if !is_nudged => {
                    is_nudged = true;
                    self.nudge();
                }
            }
        }
    }

    fn nudge(&self) {
        // What does not go out is not missed: the fetch is answered when its wait is over.
        let progress = ReplicaProgressRequest { session: self.session.id(), ends: Vec::new() };
        let _is_out = self.env.link.progress(self.leader, progress);
    }

    fn say_progress(&mut self, ids: &[PartitionId]) {
        // Without a session there is nothing the leader could match it with. The request that begins one may be on its way
        // with the ends of before: the one after it says them as they are.
        if self.session.id() == 0 {
            let postponed = &self.postponed;
            self.moved.extend(ids.iter().filter(|id| !postponed.contains_key(id)));
            return;
        }
        // A leader that gives up records on request waits for this, and only a fetch says it.
        let starts_later = |id: &&PartitionId| match (self.session.position(**id), self.partitions.get(*id)) {
            (Some(said), Some(partition)) => partition.log().synced_start() > said.log_start,
            _ => false,
        };
        let later: Vec<PartitionId> = ids.iter().filter(starts_later).copied().collect();
        if !later.is_empty() {
            self.moved.extend(later);
            self.nudge();
        }
        let progress = |id: &PartitionId| {
            let (epoch, durable_end) = self.partitions.get(id)?.follower_progress(self.leader)?;
            Some((*id, epoch, durable_end))
        };
        let ends: Vec<_> = ids.iter().filter_map(progress).collect();
        let progress = ReplicaProgressRequest { session: self.session.id(), ends };
        if !progress.ends.is_empty() && !self.env.link.progress(self.leader, progress) {
            // The next fetch says it.
            self.moved.extend(ids.iter().copied());
        }
    }

    async fn take_answer(&mut self, answer: ReplicaFetchResponse) {
        let mut appended: Vec<PartitionId> = Vec::new();
        let mut durables: Vec<Durable> = Vec::new();
        for outcome in answer.partitions {
            let id = PartitionId { topic: outcome.topic, partition: outcome.partition };
            match self.take_outcome(id, outcome).await {
                Ok(Some(durable)) => {
                    self.failures.remove(&id);
                    appended.push(id);
                    durables.push(durable);
                    if self.env.trouble.ends() {
                        tracing::info!("the store takes what is copied again");
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    self.say_unused(id, &error);
                    self.postpone(id);
                }
            }
        }
        if !appended.is_empty() {
            self.commits.push(Box::pin(async move {
                for durable in durables {
                    // A failed sync moves no durable end, so nothing false is said; the store reports it.
                    let _ = durable.await;
                }
                appended
            }));
        }
    }

    fn say_unused(&self, id: PartitionId, error: &FollowError) {
        match Trouble::of(error) {
            None => {
                tracing::warn!(
                    partition = %id, leader = %self.leader, %error,
                    "an answer of the leader was not used; asking again"
                );
            }
            // Every partition and every try would say the same.
            Some(trouble) if self.env.trouble.begins(trouble) => {
                tracing::warn!(%error, "what is copied from leaders is not taken; trying again until it is");
            }
            Some(_) => {
                tracing::debug!(
                    partition = %id, leader = %self.leader, %error,
                    "an answer of the leader was not used; asking again"
                );
            }
        }
    }

    /// Acts on one partition's outcome; the promise of what was appended, if anything was.
    async fn take_outcome(
        &mut self,
        id: PartitionId,
        outcome: ReplicaFetchOutcome,
    ) -> Result<Option<Durable>, FollowError> {
        let (Some(partition), Some(said)) = (self.partitions.get(&id).cloned(), self.session.position(id)) else {
            return Ok(None);
        };
        let asked = Asked { leader_epoch: said.leader_epoch, fetch_offset: said.fetch_offset };
        let (ends, chunks) = match outcome.result {
            Ok(fetched) => {
                let ends = LeaderEnds {
                    log_start: fetched.log_start,
                    high_watermark: fetched.high_watermark,
                    log_end: fetched.log_end,
                };
                (Ok(ends), fetched.batches.chunks().to_vec())
            }
            Err(error) => {
                tracing::debug!(partition = %id, leader = %self.leader, %error, "the leader has no answer");
                (Err(error.code), Vec::new())
            }
        };
        let answer = Answer { leader_epoch: outcome.leader_epoch, diverging: outcome.diverging, ends };
        match partition.take_answer(self.leader, asked, &answer, &chunks)? {
            Taken::Appended(durable) => {
                if durable.is_some() {
                    self.moved.insert(id);
                }
                Ok(durable)
            }
            Taken::AppendedAbove(durable, before) => {
                self.moved.insert(id);
                let leader = self.leader;
                let trimmed = blocking(move || partition.trim_as_follower(leader, before)).await?;
                // The journal is one for all: the later promise is the earlier one's too.
                Ok(trimmed.or(durable))
            }
            Taken::Realign(how) => {
                self.moved.insert(id);
                let leader = self.leader;
                // The position is read anew, and what is durable is said once it is: of a log that begins elsewhere nothing
                // is before.
                blocking(move || partition.realign(leader, asked, how)).await
            }
            Taken::Ignored => {
                self.moved.insert(id);
                Ok(None)
            }
            Taken::Wait(_) => {
                self.postpone(id);
                Ok(None)
            }
            Taken::Stopped(alarm) => {
                tracing::error!(partition = %id, leader = %self.leader, %alarm, "a replica has stopped");
                self.session.remove(id);
                Ok(None)
            }
        }
    }

    /// Leaves a partition alone for a moment; the leader forgets it meanwhile.
    fn postpone(&mut self, id: PartitionId) {
        let failures = self.failures.entry(id).or_default();
        let attempts = *failures;
        *failures = failures.saturating_add(1);
        let at = Deadline::after(self.pause(attempts));
        self.moved.remove(&id);
        self.session.remove(id);
        self.postponed.insert(id, (at, attempts));
    }

    fn pause(&self, failures: u32) -> Duration {
        let ReplicationSettings { retry_min, retry_max, .. } = self.env.settings;
        retry_min.saturating_mul(1_u32 << failures.min(16)).min(retry_max)
    }

    fn say_everything(&mut self) {
        self.session.reset();
        let postponed = &self.postponed;
        self.moved.extend(self.partitions.keys().filter(|id| !postponed.contains_key(id)).copied());
    }
}

/// What a partition has from its former leader and not on its disk yet: whoever copied that reports to the former leader.
/// Without a report the new one would wait for it until something else is copied, perhaps for ever.
fn becoming_durable(partition: &Partition) -> Option<BoxFuture<'static, Vec<PartitionId>>> {
    let (id, end) = (partition.id(), partition.log().log_end());
    let mut durable_end = partition.log().watch_durable_end();
    let is_durable = *durable_end.borrow() >= end;
    (!is_durable).then(|| -> BoxFuture<'static, Vec<PartitionId>> {
        Box::pin(async move {
            // A log that is cut meanwhile is reported by who cuts it, a closed one by nobody.
            let _reached = durable_end.wait_for(|durable| *durable >= end).await;
            vec![id]
        })
    })
}

/// Runs `work` where blocking is allowed. It is not given up: the caller's task ends only between answers.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FollowError> + Send + 'static,
) -> Result<T, FollowError> {
    match blocking::spawn(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

async fn until(deadline: Option<Deadline>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.instant()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
