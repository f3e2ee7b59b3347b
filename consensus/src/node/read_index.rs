//! Linearizable reads: up to where this node must have applied, to have seen everything acknowledged anywhere before.

use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Inner;
use super::propose::{BACKOFF_FIRST, BACKOFF_MAX};
use crate::error::{NotApplied, ReadIndexError};
use crate::forward::{Confirmation, Forward, Forwarded};
use crate::network::Peer;

impl Inner {
    /// An index such that a reader that has applied it sees everything acknowledged before the call.
    pub(super) async fn read_index(&self, policy: Confirmation, patience: Duration) -> Result<u64, ReadIndexError> {
        let deadline = Instant::now() + patience;
        let mut backoff = BACKOFF_FIRST;
        let index = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let attempt = match tokio::time::timeout(left, self.read_index_here(policy)).await {
                Ok(Err(NotApplied::OtherController { id, node })) => {
                    match self.ask_controller(&Peer { id, node }, &Forward::ReadIndex(policy), left).await {
                        Ok(Forwarded::ReadIndex { index }) => Some(index),
                        Ok(_) | Err(_) => None,
                    }
                }
                Ok(result) => result.ok(),
                Err(_) => None,
            };
            if let Some(index) = attempt {
                break index;
            }
            let again = Instant::now() + backoff;
            if again >= deadline {
                return Err(ReadIndexError::NoController(patience));
            }
            sleep_until(again).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        };
        let mut images = self.images.clone();
        match timeout_at(deadline, images.wait_for(|image| image.applied >= index)).await {
            Ok(Ok(image)) => Ok(image.applied),
            Ok(Err(e)) => Err(ReadIndexError::Stopped(e.to_string())),
            Err(_) => Err(ReadIndexError::Behind { index, applied: self.images.borrow().applied }),
        }
    }

    /// The read index, confirmed as asked, if this node is the controller.
    pub(super) async fn read_index_here(&self, policy: Confirmation) -> Result<u64, NotApplied> {
        let policy = match policy {
            Confirmation::Quorum => ReadPolicy::ReadIndex,
            Confirmation::Lease => ReadPolicy::LeaseRead,
        };
        match self.raft.get_read_log_id(policy).await {
            Ok((read, _)) => Ok(read.index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                match (forward.leader_id, forward.leader_node) {
                    (Some(id), Some(node)) if id != self.identity.raft_id => {
                        Err(NotApplied::OtherController { id, node })
                    }
                    _ => Err(NotApplied::NoController),
                }
            }
            Err(_) => Err(NotApplied::NoController),
        }
    }
}
