//! From a command to its outcome, from any node, with every error put where it belongs: not applied, unknown, or
//! refused.
//!
//! A proposal goes on trying while it is certain that the command is in nobody's log. From the moment it may be in
//! one, there is one attempt and its outcome, or an unknown one.

use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use tokio::time::{Instant, sleep, timeout_at};

use super::Inner;
use crate::command::Command;
use crate::error::{NotApplied, ProposeError, UnknownOutcome};
use crate::forward::{Forward, Forwarded};
use crate::limits::COMMAND_BYTES_MAX;
use crate::network::{Peer, TransportError};
use crate::outcome::{Outcome, Reply};
use crate::peer_service::PeerError;
use crate::rpc::{Route, decode, decode_route, encode, encode_request};
use crate::types::{RaftId, TypeConfig};

pub(super) const BACKOFF_FIRST: Duration = Duration::from_millis(2);
pub(super) const BACKOFF_MAX: Duration = Duration::from_millis(100);
/// An answer has a way to go: whoever asked would take one that comes after its deadline for an unknown outcome. So nothing
/// is tried any more in the last eighth of the time, or in the last of this.
const WAY_BACK_MAX: Duration = Duration::from_millis(500);

/// Where a command stands in the log, and what applying it answered.
pub(super) struct Committed {
    index: u64,
    reply: Reply,
}

impl Inner {
    pub(super) async fn propose(&self, command: Command, patience: Duration) -> Result<Outcome, ProposeError> {
        check_encoding(&command)?;
        let deadline = Instant::now() + patience;
        let last_try = deadline - (patience / 8).min(WAY_BACK_MAX);
        let mut backoff = BACKOFF_FIRST;
        let mut controller: Option<Peer> = None;
        loop {
            let asked = controller.take();
            let attempt = match &asked {
                None => self.propose_here(command.clone(), deadline, patience).await.map(|committed| committed.reply),
                Some(peer) => self.propose_there(peer, &command, deadline, patience).await,
            };
            match attempt {
                Ok(reply) => return answered(reply),
                Err(ProposeError::NotApplied(NotApplied::OtherController { id, node })) => {
                    controller = Some(Peer { id, node }).filter(|peer| peer.id != self.identity.raft_id);
                    // This node's own view costs nothing to follow; an answer from elsewhere may be stale.
                    if asked.is_none() && controller.is_some() {
                        continue;
                    }
                }
                Err(ProposeError::NotApplied(NotApplied::NoController)) => {}
                Err(other) => return Err(other),
            }
            let again = Instant::now() + backoff;
            if again >= last_try {
                return Err(NotApplied::NoController.into());
            }
            self.next_controller(again).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Ends when this node knows another controller than now, or at `until`.
    async fn next_controller(&self, until: Instant) {
        let mut metrics = self.raft.server_metrics();
        let former = metrics.borrow_watched().current_leader;
        let changed = async {
            while metrics.borrow_watched().current_leader == former {
                if metrics.changed().await.is_err() {
                    return futures::future::pending().await;
                }
            }
        };
        // Nobody named a controller, or the one named does not answer: time is the other way out.
        let _either = timeout_at(until, changed).await;
    }

    /// Why a command need not even be handed over: by what this node knows, it is not the controller.
    ///
    /// An answer that costs no time. Whoever has little of it left learns for certain that nothing was changed, where a
    /// command handed over to a busy core would have an unknown outcome.
    fn not_mine(&self) -> Option<NotApplied> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let Some(id) = metrics.current_leader else { return Some(NotApplied::NoController) };
        if id == self.identity.raft_id {
            return None;
        }
        let node = metrics.membership_config.membership().get_node(&id);
        Some(node.map_or(NotApplied::NoController, |node| NotApplied::OtherController { id, node: node.clone() }))
    }

    /// Appends the command if this node is the controller.
    pub(super) async fn propose_here(
        &self,
        command: Command,
        deadline: Instant,
        patience: Duration,
    ) -> Result<Committed, ProposeError> {
        if let Some(reason) = self.not_mine() {
            return Err(reason.into());
        }
        match timeout_at(deadline, self.raft.client_write(command)).await {
            Ok(Ok(written)) => Ok(Committed { index: written.log_id.index, reply: written.data }),
            Ok(Err(error)) => Err(classify(error)),
            // The command was handed over: it may be in the log.
            Err(_) => Err(UnknownOutcome::Deadline(patience).into()),
        }
    }

    /// Proposes what this node decided as the controller; nobody else may append it.
    pub(super) async fn propose_as_controller(
        &self,
        command: Command,
        patience: Duration,
    ) -> Result<Outcome, ProposeError> {
        check_encoding(&command)?;
        let deadline = Instant::now() + patience;
        let mut backoff = BACKOFF_FIRST;
        loop {
            match self.propose_here(command.clone(), deadline, patience).await {
                // A new controller may not append before a quorum has answered it.
                Err(ProposeError::NotApplied(NotApplied::NoController)) if Instant::now() + backoff < deadline => {
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
                other => return answered(other?.reply),
            }
        }
    }

    /// Has the controller append the command, and waits until this node has applied it too.
    pub(super) async fn propose_there(
        &self,
        peer: &Peer,
        command: &Command,
        deadline: Instant,
        patience: Duration,
    ) -> Result<Reply, ProposeError> {
        let outcomes = self.outcomes.reader();
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // Not sent at all.
            return Err(NotApplied::NoController.into());
        }
        let request = Forward::Propose { command: command.clone(), patience: left };
        let index = match self.ask_controller(peer, &request, left).await {
            Ok(Forwarded::Committed { index }) => index,
            Ok(Forwarded::NotApplied(reason)) => return Err(reason.into()),
            Ok(Forwarded::Unknown(reason)) => return Err(reason.into()),
            Ok(other) => return Err(UnknownOutcome::Exchange(format!("the controller answered {other:?}")).into()),
            Err(Unanswered::Certainly) => return Err(NotApplied::NoController.into()),
            Err(Unanswered::Perhaps(reason)) => return Err(reason.into()),
        };
        let mut images = self.images.clone();
        match timeout_at(deadline, images.wait_for(|image| image.applied >= index)).await {
            Ok(Ok(_)) => outcomes.read(index).ok_or_else(|| UnknownOutcome::Overtaken.into()),
            Ok(Err(e)) => Err(UnknownOutcome::Stopped(e.to_string()).into()),
            Err(_) => Err(UnknownOutcome::Deadline(patience).into()),
        }
    }

    /// One exchange with the node that this one takes for the controller. Ends early when it is no more.
    pub(super) async fn ask_controller(
        &self,
        peer: &Peer,
        request: &Forward,
        ttl: Duration,
    ) -> Result<Forwarded, Unanswered> {
        let route = Route { cluster: self.identity.cluster_id, from: self.identity.raft_id, to: peer.id };
        let bytes = Bytes::from(encode_request(route, request));
        let sent = self.transport.forward(self.located(peer), bytes, ttl);
        let bounded = Box::pin(tokio::time::timeout(ttl, sent));
        let answer = match select(bounded, Box::pin(self.succeeded(peer.id))).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => return Err(Unanswered::Perhaps(UnknownOutcome::ControllerChanged)),
        };
        match answer {
            Ok(Ok(bytes)) => decode(&bytes).map_err(|e| {
                Unanswered::Perhaps(UnknownOutcome::Exchange(format!("the controller's answer does not decode: {e}")))
            }),
            Ok(Err(TransportError::NotSent(_) | TransportError::Refused(_))) => Err(Unanswered::Certainly),
            Ok(Err(TransportError::Unreachable(reason))) => Err(Unanswered::Perhaps(UnknownOutcome::Exchange(reason))),
            Ok(Err(TransportError::TimedOut(after))) => Err(Unanswered::Perhaps(UnknownOutcome::Deadline(after))),
            Err(_) => Err(Unanswered::Perhaps(UnknownOutcome::Deadline(ttl))),
        }
    }

    fn located(&self, peer: &Peer) -> Peer {
        Peer { id: peer.id, node: self.addresses.locate(&peer.node) }
    }

    /// Ends when this node knows another controller than `former`.
    async fn succeeded(&self, former: RaftId) {
        let mut metrics = self.raft.metrics();
        loop {
            let leader = metrics.borrow_watched().current_leader;
            if leader.is_some_and(|leader| leader != former) {
                return;
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// Answers what a peer's [`Inner::ask_controller`] sent here.
    pub(crate) async fn answer_forwarded(&self, request: &[u8]) -> Result<Vec<u8>, PeerError> {
        let (route, body) = decode_route(request)?;
        self.peers.check_route(&route)?;
        let answer = match decode(body)? {
            Forward::Propose { command, patience } => {
                let patience = patience.min(self.config.tuning.propose);
                match self.propose_here(command, Instant::now() + patience, patience).await {
                    Ok(committed) => Forwarded::Committed { index: committed.index },
                    Err(ProposeError::NotApplied(reason)) => Forwarded::NotApplied(reason),
                    Err(ProposeError::Unknown(reason)) => Forwarded::Unknown(reason),
                    Err(ProposeError::Refused(reason)) => {
                        Forwarded::Unknown(UnknownOutcome::Exchange(format!("refused without an index: {reason}")))
                    }
                }
            }
            Forward::ReadIndex(policy) => match self.read_index_here(policy).await {
                Ok(index) => Forwarded::ReadIndex { index },
                Err(reason) => Forwarded::NotApplied(reason),
            },
            Forward::Heartbeat(beat) => match self.hear(&beat) {
                Ok(answer) => Forwarded::Heard(answer),
                Err(_) => Forwarded::NotApplied(NotApplied::NoController),
            },
        };
        Ok(encode(&answer))
    }
}

/// Why a request to the controller has no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// It has certainly not been carried out.
    Certainly,
    /// It may have been.
    Perhaps(UnknownOutcome),
}

fn classify(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> ProposeError {
    let error = match error {
        RaftError::APIError(error) => error,
        // The core may have appended the command before it stopped.
        RaftError::Fatal(fatal) => return UnknownOutcome::Stopped(fatal.to_string()).into(),
    };
    match error {
        // Refused before it was appended. A leader whose lease has lapsed names nobody, and may get it back.
        ClientWriteError::ForwardToLeader(forward) => match (forward.leader_id, forward.leader_node) {
            (Some(id), Some(node)) => NotApplied::OtherController { id, node }.into(),
            _ => NotApplied::NoController.into(),
        },
        ClientWriteError::LogEntryDiscarded(_) => UnknownOutcome::ControllerChanged.into(),
        ClientWriteError::ChangeMembershipError(e) => NotApplied::Malformed(e.to_string()).into(),
        ClientWriteError::PreconditionFailed(e) => NotApplied::Malformed(e.to_string()).into(),
    }
}

fn answered(reply: Reply) -> Result<Outcome, ProposeError> {
    match reply {
        Reply::Command(outcome) => Ok(outcome?),
        Reply::Nothing => Err(UnknownOutcome::Exchange("the entry was not a command".to_owned()).into()),
    }
}

/// A command enters the log only if every node will be able to read it back.
fn check_encoding(command: &Command) -> Result<(), NotApplied> {
    let bytes = command.encode();
    if bytes.len() > COMMAND_BYTES_MAX {
        return Err(NotApplied::Malformed(format!("{} bytes, at most {COMMAND_BYTES_MAX} are possible", bytes.len())));
    }
    match Command::decode(&bytes) {
        Ok(read) if read == *command => Ok(()),
        Ok(_) => Err(NotApplied::Malformed("it reads back as another command".to_owned())),
        Err(e) => Err(NotApplied::Malformed(e.to_string())),
    }
}
