//! How a follower reaches the leaders it copies from.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use streambus_protocol::api::Request;
use streambus_protocol::api::peer::PeerLane;
use streambus_protocol::api::repair::{ReplicaRepairRequest, ReplicaRepairResponse};
use streambus_protocol::api::replica::{ReplicaFetchRequest, ReplicaFetchResponse, ReplicaProgressRequest};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::ids::BrokerId;

use crate::cluster::pool::{PeerCallError, PeerPool};

/// The way to other brokers, for replication.
///
/// Messages to one broker arrive in the order in which they were first polled, each at most once, or their connection is
/// over: then what was in flight fails. So a progress message that went out is lost only together with the fetch that was
/// open then.
pub trait PeerLink: Send + Sync + 'static {
    /// Asks `leader`, and waits for its answer for at most `ttl`.
    fn fetch(
        &self,
        leader: BrokerId,
        request: ReplicaFetchRequest,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<ReplicaFetchResponse, LinkError>>;

    /// Asks `source` for batches that this disk has lost, and waits for its answer for at most `ttl`.
    fn repair(
        &self,
        source: BrokerId,
        request: ReplicaRepairRequest,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<ReplicaRepairResponse, LinkError>>;

    /// Tells `leader`, without an answer. False when the message certainly does not go out: say it again another way.
    #[must_use]
    fn progress(&self, leader: BrokerId, progress: ReplicaProgressRequest) -> bool;
}

/// Why a fetch has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// There is no connection, it broke, or the time was up.
    #[error("broker cannot be reached: {0}")]
    Unreachable(String),
    /// The leader refused the fetch as a whole.
    #[error(transparent)]
    Refused(ErrorBody),
}

impl PeerLink for PeerPool {
    fn fetch(
        &self,
        leader: BrokerId,
        request: ReplicaFetchRequest,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<ReplicaFetchResponse, LinkError>> {
        call(self.clone(), leader, request, ttl)
    }

    fn repair(
        &self,
        source: BrokerId,
        request: ReplicaRepairRequest,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<ReplicaRepairResponse, LinkError>> {
        call(self.clone(), source, request, ttl)
    }

    fn progress(&self, leader: BrokerId, progress: ReplicaProgressRequest) -> bool {
        self.send(leader, PeerLane::Replication, &progress).is_ok()
    }
}

fn call<M: Request + Send + Sync + 'static>(
    pool: PeerPool,
    to: BrokerId,
    request: M,
    ttl: Duration,
) -> BoxFuture<'static, Result<M::Response, LinkError>> {
    async move {
        pool.call(to, PeerLane::Replication, &request, ttl).await.map_err(|error| match error {
            PeerCallError::Refused { error, .. } => LinkError::Refused(error),
            PeerCallError::NotSent { .. } | PeerCallError::Unreachable { .. } | PeerCallError::TimedOut { .. } => {
                LinkError::Unreachable(error.to_string())
            }
        })
    }
    .boxed()
}
