//! What a follower does when the controller's process is gone.
//!
//! Raft's own answer is to wait: until the controller's lease is over and a timeout has passed. A process that was
//! killed leaves a better proof: its machine refuses connections. Then a follower takes over at once, in the way of a
//! controller that hands over its office, which lets voters disregard the lease. Votes, terms and logs decide as ever,
//! so a wrong conclusion costs an election and decides nothing: decisions are confirmed by a quorum, and so is what the
//! former controller, if it runs after all, denies. Its lists may be from before, for as long as its lease lasts.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::TransferLeaderRequest;
use streambus_protocol::ids::BrokerId;
use tokio::time::{sleep, timeout};

use super::Inner;
use crate::network::{Probe, RaftTransport};
use crate::types::{RaftId, RaftNode, Vote};

/// Pauses before another attempt. A killed process's connections break a moment before its listener is closed.
const PROBE_AGAIN: [Duration; 4] =
    [Duration::from_millis(10), Duration::from_millis(30), Duration::from_millis(80), Duration::from_millis(180)];

/// True when nobody listens at that address any more. To be asked when a connection to it broke. An attempt may take `ttl`.
pub(super) async fn is_gone(transport: &dyn RaftTransport, host: &str, port: u16, ttl: Duration) -> bool {
    let mut pauses = PROBE_AGAIN.into_iter();
    loop {
        match transport.probe(host.to_owned(), port, ttl).await {
            Probe::Refused => return true,
            Probe::Unknown => return false,
            Probe::Reachable => match pauses.next() {
                Some(pause) => sleep(pause).await,
                None => return false,
            },
        }
    }
}

/// A controller as a follower sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reign {
    vote: Vote,
    id: RaftId,
    node: RaftNode,
}

#[cfg(test)]
impl Reign {
    /// The vote it began with.
    pub(super) fn vote(&self) -> Vote {
        self.vote
    }
}

impl Inner {
    /// The present controller, if it is `broker` and another node.
    pub(super) fn reign_of(&self, broker: BrokerId) -> Option<Reign> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let id = metrics.current_leader.filter(|id| *id != self.identity.raft_id)?;
        let node = metrics.membership_config.membership().get_node(&id)?;
        let node = Some(node).filter(|node| node.broker == broker)?.clone();
        Some(Reign { vote: metrics.vote, id, node })
    }

    /// Takes over if the controller's process is gone. To be called when a connection to it broke.
    pub(super) async fn take_over(&self, reign: Reign) {
        let address = self.addresses.locate(&reign.node);
        let round_trip = self.config.tuning.round_trip;
        if !is_gone(self.transport.as_ref(), &address.host, address.port, round_trip.probe()).await {
            return;
        }
        let Some(turn) = self.turn_behind(reign.id) else {
            return;
        };
        // Two that campaign together may elect nobody.
        if timeout(round_trip.turn() * turn, self.ends(&reign)).await.is_ok() {
            return;
        }
        tracing::info!(broker = %reign.node.broker, "the controller's process is gone: taking over");
        let request = TransferLeaderRequest::new(reign.vote, self.identity.raft_id, None);
        // It answers for a handover that was asked for; whether this node is elected, the votes say.
        if let Err(e) = self.raft.handle_transfer_leader(request).await {
            tracing::debug!(error = %e, "not taken over");
        }
    }

    /// How many voters try before this one; none when it is no voter.
    fn turn_behind(&self, gone: RaftId) -> Option<u32> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let voters = metrics.membership_config.membership().voter_ids().filter(|id| *id != gone);
        let position = voters.into_iter().position(|id| id == self.identity.raft_id)?;
        u32::try_from(position).ok()
    }

    /// Ends when this node knows of a vote behind that reign's.
    async fn ends(&self, reign: &Reign) {
        let mut metrics = self.raft.server_metrics();
        while metrics.borrow_watched().vote == reign.vote {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }
}
