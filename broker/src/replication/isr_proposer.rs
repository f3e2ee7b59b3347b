//! Sends changes of in-sync sets to the metadata group, many partitions in one command.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::PartitionId;
use streambus_storage::clock::Clock;
use tokio_util::sync::CancellationToken;

use crate::partition::registry::Registry;
use crate::partition::role::Leadership;
use crate::replication::due_set::DueSet;
use crate::replication::in_sync::{ChangeAnswer, IsrChange};
use crate::replication::registration::Registration;
use crate::replication::settings::ReplicationSettings;

/// Changes in one command: enough for a broker that comes back, small enough to apply at once.
const CHANGES_MAX: usize = 1_000;

/// Who decides about in-sync sets.
pub trait IsrAuthority: Send + Sync + 'static {
    /// Proposes `changes` as this broker in its life `epoch`. One answer for each, in their order; one answer alone when
    /// it is the same for all.
    fn propose(
        &self,
        epoch: BrokerEpoch,
        changes: Vec<(PartitionId, IsrChange)>,
    ) -> BoxFuture<'_, Result<Vec<ChangeAnswer>, ChangeAnswer>>;
}

/// Looks at the partitions led here, at once when `due` names them, and at all of them from time to time: time alone
/// makes a follower lag.
pub struct IsrProposer {
    registry: Arc<Registry>,
    authority: Arc<dyn IsrAuthority>,
    registration: Registration,
    clock: Arc<dyn Clock>,
    settings: ReplicationSettings,
    due: Arc<DueSet>,
    /// Partitions whose last change was not made: they wait for the next tick, however often a follower fetches.
    resting: BTreeSet<PartitionId>,
}

impl IsrProposer {
    /// A proposer for the partitions of `registry` that are led here.
    pub fn new(
        registry: Arc<Registry>,
        authority: Arc<dyn IsrAuthority>,
        registration: Registration,
        clock: Arc<dyn Clock>,
        settings: ReplicationSettings,
        due: Arc<DueSet>,
    ) -> Self {
        Self { registry, authority, registration, clock, settings, due, resting: BTreeSet::new() }
    }

    /// Runs until `stop`. A proposal on its way is given up then: its outcome is no longer of interest here.
    pub async fn run(mut self, stop: CancellationToken) {
        let interval = (self.settings.lag_limit / 8).clamp(Duration::from_millis(50), Duration::from_secs(1));
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.due.added() => {
                    let mut due = self.due.take();
                    due.retain(|id| !self.resting.contains(id));
                    self.propose_for(due, &stop).await;
                }
                _ = ticks.tick() => {
                    self.due.take();
                    self.resting.clear();
                    self.propose_for(self.led(), &stop).await;
                }
            }
        }
    }

    fn led(&self) -> BTreeSet<PartitionId> {
        let is_led = |role: &crate::partition::role::Role| role.leadership == Leadership::Here && role.is_replicated();
        self.registry.all().iter().filter(|partition| is_led(&partition.role())).map(|p| p.id()).collect()
    }

    async fn propose_for(&mut self, ids: BTreeSet<PartitionId>, stop: &CancellationToken) {
        let Some(epoch) = self.registration.epoch() else { return };
        let now = self.clock.monotonic();
        let change = |id| Some((id, self.registry.get(id)?.next_isr_change(now)?));
        let changes: Vec<(PartitionId, IsrChange)> = ids.into_iter().filter_map(change).collect();
        for chunk in changes.chunks(CHANGES_MAX) {
            let result = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                result = self.authority.propose(epoch, chunk.to_vec()) => result,
            };
            let now = self.clock.monotonic();
            for (place, (id, change)) in chunk.iter().enumerate() {
                let answer = match &result {
                    // An answer that is missing is one that nobody knows.
                    Ok(answers) => answers.get(place).cloned().unwrap_or(ChangeAnswer::Unknown),
                    Err(all) => all.clone(),
                };
                log(*id, change, &answer);
                if !matches!(answer, ChangeAnswer::Applied(_)) {
                    self.resting.insert(*id);
                }
                if let Some(partition) = self.registry.get(*id) {
                    partition.on_isr_answer(change.leader_epoch, change.partition_epoch, answer, now);
                }
            }
        }
    }
}

impl std::fmt::Debug for IsrProposer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IsrProposer").finish_non_exhaustive()
    }
}

fn log(id: PartitionId, change: &IsrChange, answer: &ChangeAnswer) {
    let isr: Vec<u32> = change.isr.iter().map(|member| member.broker.get()).collect();
    match answer {
        ChangeAnswer::Applied(version) => {
            tracing::info!(
                partition = %id, ?isr, partition_epoch = %version.partition_epoch,
                "the in-sync set changed"
            );
        }
        ChangeAnswer::NotApplied | ChangeAnswer::Superseded | ChangeAnswer::Unknown => {
            tracing::debug!(partition = %id, ?isr, ?answer, "a change of the in-sync set was not confirmed");
        }
    }
}
