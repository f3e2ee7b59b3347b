//! What only the controller can do for others: hear heartbeats, and hand over its office.

use std::cmp::Reverse;
use std::time::Duration;

use openraft::alias::InstantOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, RaftMetrics};
use streambus_protocol::ids::BrokerId;
use tokio::time::{Instant, timeout};

use super::Inner;
use super::propose::Unanswered;
use crate::command::Command;
use crate::controller::liveness::{Heartbeat, Liveness, ShutdownVerdict};
use crate::error::TransferError;
use crate::forward::{Forward, Forwarded};
use crate::heartbeat::{HeartbeatAnswer, HeartbeatError, ShutdownProgress};
use crate::image::ClusterImage;
use crate::network::{Peer, Probe};
use crate::types::{RaftId, TypeConfig};

/// A moment of Raft's clock.
type RaftInstant = InstantOf<TypeConfig>;

/// What a controller knows beyond the replicated state. It is drawn up anew by each controller.
pub(super) struct Office {
    pub(super) liveness: Liveness,
    pub(super) term: u64,
    pub(super) next_balance: Instant,
    pub(super) next_drain: Instant,
}

impl Office {
    /// What to propose about brokers whose sessions are over. Without a majority behind it a controller answers nobody, so
    /// that it cannot say who was silent: as if it had been paused.
    pub(super) fn overdue(&mut self, now: Duration, image: &ClusterImage, is_followed: bool) -> Vec<Command> {
        if is_followed { self.liveness.tick(now, image) } else { Vec::new() }
    }
}

impl Inner {
    /// Tells the controller, wherever it is, that a broker is alive.
    pub(super) async fn heartbeat(&self, beat: Heartbeat) -> Result<HeartbeatAnswer, HeartbeatError> {
        let controller = self.controller().ok_or(HeartbeatError::NoController)?;
        if controller.id == self.identity.raft_id {
            return self.hear(&beat);
        }
        let ttl = self.config.tuning.round_trip.broker_heartbeat();
        match self.ask_controller(&controller, &Forward::Heartbeat(beat), ttl).await {
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
        quorum_silence(&metrics, self.identity.raft_id, self.config.tuning.election_max, RaftInstant::now())
    }

    /// The first of these whose process is there: one that is gone would leave the office empty for a while.
    async fn first_present(&self, heirs: Vec<(Option<u64>, Peer)>) -> Option<RaftId> {
        for (_, heir) in heirs {
            let node = self.addresses.locate(&heir.node);
            let ttl = self.config.tuning.round_trip.probe();
            if self.transport.probe(node.host, node.port, ttl).await == Probe::Reachable {
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

/// How long before `now` the controller `me` sent what a quorum answered last, as `metrics` have it: at most `lease`.
fn quorum_silence(
    metrics: &RaftMetrics<TypeConfig>,
    me: RaftId,
    lease: Duration,
    now: RaftInstant,
) -> Option<Duration> {
    // Its images are at least as new as this says.
    let is_up_to_date =
        metrics.last_applied.as_ref().is_some_and(|id| id.committed_leader_id() == &metrics.vote.leader_id);
    if !metrics.state.is_leader() || !is_up_to_date {
        return None;
    }
    // A majority of one answers itself, which is not counted as an answer.
    if metrics.membership_config.membership().voter_ids().eq([me]) {
        return Some(Duration::ZERO);
    }
    // Not counted from the election: who votes has said nothing about the time since, which may be long, if this process
    // stood still in between.
    let answered = metrics.last_quorum_acked?;
    let silence = now.saturating_duration_since(answered.into_inner());
    (silence <= lease).then_some(silence)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use openraft::ServerState;
    use streambus_protocol::api::metadata::BrokerEndpoint;
    use streambus_protocol::ids::{ClusterId, DirectoryId};

    use super::*;
    use crate::command::{ClusterEndpoint, Incarnation};
    use crate::explore::State;
    use crate::outcome::Outcome;
    use crate::types::{LogId, Membership, RaftNode, StoredMembership, Vote};

    const ME: RaftId = RaftId::new(1);
    const LEASE: Duration = Duration::from_millis(800);

    /// A controller of these voters that a quorum answered at `answered`.
    fn in_office(voters: &[u64], answered: Option<RaftInstant>) -> RaftMetrics<TypeConfig> {
        let voters: BTreeSet<RaftId> = voters.iter().copied().map(RaftId::new).collect();
        let node = |id: &RaftId| (*id, RaftNode { broker: BrokerId::new(1), host: "h".to_owned(), port: 1 });
        let nodes: BTreeMap<RaftId, RaftNode> = voters.iter().map(node).collect();
        let membership = Membership::new(vec![voters], nodes).unwrap();
        let vote = Vote::new_committed(4, ME);
        RaftMetrics {
            state: ServerState::Leader,
            vote,
            last_applied: Some(LogId::new(vote.leader_id, 9)),
            last_quorum_acked: answered.map(Into::into),
            membership_config: Arc::new(StoredMembership::new(None, membership)),
            ..RaftMetrics::new_initial(ME)
        }
    }

    /// Catches: a controller that vouches for leaders, itself among them, although no quorum has answered it, or none for a
    /// lease, or before it has what its predecessor committed; a lone one that never does.
    #[test]
    fn only_a_controller_that_a_quorum_answered_within_a_lease_is_followed() {
        let answered = RaftInstant::now();
        let silence = |metrics: &RaftMetrics<TypeConfig>, now| quorum_silence(metrics, ME, LEASE, now);
        let three = in_office(&[1, 2, 3], Some(answered));
        assert_eq!(silence(&three, answered), Some(Duration::ZERO));
        assert_eq!(silence(&three, answered + LEASE), Some(LEASE));
        assert_eq!(silence(&three, answered + LEASE + Duration::from_millis(1)), None, "somebody else may be elected");
        assert_eq!(silence(&in_office(&[1, 2, 3], None), answered), None, "a vote is no answer");
        let behind = LogId::new(Vote::new_committed(3, RaftId::new(2)).leader_id, 9);
        let behind = RaftMetrics { last_applied: Some(behind), ..three.clone() };
        assert_eq!(silence(&behind, answered), None, "its predecessor may have committed more");
        assert_eq!(silence(&RaftMetrics { last_applied: None, ..three.clone() }, answered), None);
        assert_eq!(silence(&RaftMetrics { state: ServerState::Follower, ..three }, answered), None);
        assert_eq!(silence(&in_office(&[1], None), answered), Some(Duration::ZERO), "it is its own quorum");
        assert_eq!(silence(&in_office(&[2], None), answered), None, "it has no vote itself");
    }

    /// Catches: a controller that had no majority for longer than a session and then fences everybody, since it refused to
    /// hear them all the while.
    #[test]
    fn a_controller_without_a_majority_fences_nobody_then_or_right_after() {
        let mut state = State::new();
        state.apply(1, &Command::FoundCluster { cluster_id: ClusterId::from_bytes([1; 16]) }).unwrap();
        let broker = BrokerId::new(1);
        let register = Command::RegisterBroker {
            incarnation: Incarnation::from_bytes([1; 16]),
            endpoint: BrokerEndpoint { id: broker, host: "h".to_owned(), port: 1, rack: None },
            cluster: ClusterEndpoint { host: "h".to_owned(), port: 2 },
            directory: DirectoryId::from_bytes([1; 16]),
            intact: true,
            version: "0".to_owned(),
        };
        let Ok(Outcome::BrokerRegistered { epoch }) = state.apply(2, &register) else { panic!("not registered") };
        state.apply(3, &Command::UnfenceBroker { broker, epoch }).unwrap();
        let (session, step) = (Duration::from_secs(3), Duration::from_millis(50));
        let mut now = Duration::ZERO;
        let liveness = Liveness::new(now, state.image(), session, None);
        let at = Instant::now();
        let mut office = Office { liveness, term: 1, next_balance: at, next_drain: at };
        // Ticks every now and then for `time`, and says what came of it.
        let mut run = |time: Duration, is_followed: bool| {
            let end = now + time;
            let mut commands = Vec::new();
            while now < end {
                now += step;
                commands.extend(office.overdue(now, state.image(), is_followed));
            }
            commands
        };
        assert_eq!(run(session / 2, true), []);
        assert_eq!(run(session * 10, false), [], "it hears nobody");
        assert_eq!(run(session, true), [], "everybody has a whole session to be heard");
        let fence = Command::FenceBroker { broker, epoch };
        assert_eq!(run(step, true), [fence], "and no more");
    }
}
