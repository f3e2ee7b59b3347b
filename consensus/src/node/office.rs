//! What only the controller can do for others: hear heartbeats, and hand over its office.

use std::cmp::Reverse;
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use streambus_protocol::ids::BrokerId;
use tokio::time::{Instant, timeout};

use super::Inner;
use super::propose::Unanswered;
use super::takeover::PROBE_TTL;
use crate::controller::liveness::{Heartbeat, Liveness, ShutdownVerdict};
use crate::error::TransferError;
use crate::forward::{Forward, Forwarded};
use crate::heartbeat::{HEARTBEAT_TTL, HeartbeatAnswer, HeartbeatError, ShutdownProgress};
use crate::network::{Peer, Probe};
use crate::types::RaftId;

/// What a controller knows beyond the replicated state. It is drawn up anew by each controller.
pub(super) struct Office {
    pub(super) liveness: Liveness,
    pub(super) term: u64,
    pub(super) next_balance: Instant,
    pub(super) next_drain: Instant,
}

impl Inner {
    /// Tells the controller, wherever it is, that a broker is alive.
    pub(super) async fn heartbeat(&self, beat: Heartbeat) -> Result<HeartbeatAnswer, HeartbeatError> {
        let controller = self.controller().ok_or(HeartbeatError::NoController)?;
        if controller.id == self.identity.raft_id {
            return self.hear(&beat);
        }
        match self.ask_controller(&controller, &Forward::Heartbeat(beat), HEARTBEAT_TTL).await {
            Ok(Forwarded::Heard(answer)) => Ok(answer),
            Ok(Forwarded::NotApplied(_)) | Err(Unanswered::Certainly) => Err(HeartbeatError::NoController),
            Ok(other) => Err(HeartbeatError::Unanswered(format!("it answered {other:?}"))),
            Err(Unanswered::Perhaps(reason)) => Err(HeartbeatError::Unanswered(reason.to_string())),
        }
    }

    /// Hears a broker, if this node is the controller and a quorum still takes it for one.
    pub(super) fn hear(&self, beat: &Heartbeat) -> Result<HeartbeatAnswer, HeartbeatError> {
        let quorum_silence = self.quorum_silence().ok_or(HeartbeatError::NoController)?;
        let image = self.images.borrow().clone();
        let (verdict, disks) = {
            let mut office = self.office.lock();
            let office = office.as_mut().ok_or(HeartbeatError::NoController)?;
            let verdict = office.liveness.heartbeat(beat, self.now(), &image);
            (verdict, if beat.wants_disks { office.liveness.disks() } else { Vec::new() })
        };
        let (shutdown, begin) = match verdict.shutdown {
            ShutdownVerdict::NotWanted => (ShutdownProgress::NotWanted, None),
            ShutdownVerdict::Begin(command) => (ShutdownProgress::Wait, Some(command)),
            ShutdownVerdict::Wait => (ShutdownProgress::Wait, None),
            ShutdownVerdict::MayStop => (ShutdownProgress::MayStop, None),
        };
        let requested: Vec<_> = verdict.unfence.into_iter().chain(begin).collect();
        if !requested.is_empty() {
            self.requested.lock().extend(requested);
            self.hint.notify_one();
        }
        Ok(HeartbeatAnswer {
            fenced: verdict.fenced,
            shutdown,
            unknown_registration: verdict.unknown_registration,
            controller: self.config.broker_id,
            applied: image.applied,
            quorum_silence,
            disks,
        })
    }

    /// The time that sessions are measured in.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// The node that this one takes for the controller; it may be this one.
    pub(super) fn controller(&self) -> Option<Peer> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let id = metrics.current_leader?;
        metrics.membership_config.membership().get_node(&id).map(|node| Peer { id, node: node.clone() })
    }

    /// False for a controller that no quorum has answered yet, or for as long as a lease: it may have been succeeded. Nor is
    /// one followed that has not applied the entry it began with: what its predecessors committed is only known then.
    pub(super) fn is_followed(&self) -> bool {
        self.quorum_silence().is_some()
    }

    /// How long ago this controller sent what a quorum answered last; none when it is none, or may have been succeeded, or
    /// may not have everything yet that was committed before it.
    fn quorum_silence(&self) -> Option<Duration> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        // Its images are at least as new as this says.
        let is_up_to_date =
            metrics.last_applied.as_ref().is_some_and(|id| id.committed_leader_id() == &metrics.vote.leader_id);
        if !metrics.state.is_leader() || !is_up_to_date {
            return None;
        }
        // A majority of one answers itself, which is not counted as an answer.
        if metrics.membership_config.membership().voter_ids().eq([self.identity.raft_id]) {
            return Some(Duration::ZERO);
        }
        // Not counted from the election: who votes has said nothing about the time since, which may be long, if this
        // process stood still in between.
        let silence = metrics.last_quorum_acked.as_ref()?.elapsed();
        (silence <= self.config.tuning.election_max).then_some(silence)
    }

    /// The first of these whose process is there: one that is gone would leave the office empty for a while.
    async fn first_present(&self, heirs: Vec<(Option<u64>, Peer)>) -> Option<RaftId> {
        for (_, heir) in heirs {
            let node = self.addresses.locate(&heir.node);
            if self.transport.probe(node.host, node.port, PROBE_TTL).await == Probe::Reachable {
                return Some(heir.id);
            }
        }
        None
    }

    /// Hands the office over to the voter that has most of the log, and waits until somebody else has it.
    pub(super) async fn transfer_controller(&self, patience: Duration) -> Result<BrokerId, TransferError> {
        let me = self.identity.raft_id;
        let mut heirs: Vec<(Option<u64>, Peer)> = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let replication = metrics.replication.as_ref().ok_or(TransferError::NotController)?;
            let membership = metrics.membership_config.membership();
            let heir = |id: RaftId| {
                let confirmed = replication.get(&id).copied().flatten().map(|matched| matched.index);
                membership.get_node(&id).map(|node| (confirmed, Peer { id, node: node.clone() }))
            };
            membership.voter_ids().filter(|id| *id != me).filter_map(heir).collect()
        };
        heirs.sort_by_key(|(confirmed, _)| Reverse(*confirmed));
        let to = self.first_present(heirs).await.ok_or(TransferError::NobodyElse)?;
        self.raft.trigger().transfer_leader(to).await.map_err(|e| TransferError::Stopped(e.to_string()))?;
        let mut metrics = self.raft.server_metrics();
        let succeeded = async {
            loop {
                let leader = {
                    let metrics = metrics.borrow_watched();
                    let node = |id| metrics.membership_config.membership().get_node(&id).map(|node| node.broker);
                    metrics.current_leader.filter(|id| *id != me).and_then(node)
                };
                if let Some(broker) = leader {
                    return Ok(broker);
                }
                metrics.changed().await.map_err(|e| TransferError::Stopped(e.to_string()))?;
            }
        };
        timeout(patience, succeeded).await.map_err(|_| TransferError::NotTaken(patience))?
    }
}
