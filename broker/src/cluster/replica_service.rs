//! What replication serves to other replicas of this broker's partitions.

use std::fmt::Debug;

use futures::future::BoxFuture;
use streambus_protocol::api::repair::{ReplicaRepairRequest, ReplicaRepairResponse};
use streambus_protocol::api::replica::{
    ReplicaFetchRequest, ReplicaFetchResponse, ReplicaProgressRequest, ReplicaStateRequest, ReplicaStateResponse,
};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::ids::BrokerId;
use tokio_util::sync::CancellationToken;

/// The serving side of replication, behind the cluster listener.
///
/// The messages of one connection are handed over in the order in which they arrived: a fetch is polled for the first time
/// before the next message is handed over. `peer` is who introduced itself on the connection, in this cluster.
pub trait ReplicaService: Debug + Send + Sync {
    /// Answers a follower's long poll. When `closing` is cancelled, the connection ends or this broker stops: it
    /// answers with what it has.
    fn fetch(
        &self,
        peer: BrokerId,
        request: ReplicaFetchRequest,
        closing: CancellationToken,
    ) -> BoxFuture<'static, Result<ReplicaFetchResponse, ErrorBody>>;

    /// Notes what a follower has on stable storage.
    fn progress(&self, peer: BrokerId, request: ReplicaProgressRequest);

    /// Reads committed batches for a replica that has lost them, as leader or as follower. When `closing` is cancelled it
    /// answers without.
    fn repair(
        &self,
        peer: BrokerId,
        request: ReplicaRepairRequest,
        closing: CancellationToken,
    ) -> BoxFuture<'static, Result<ReplicaRepairResponse, ErrorBody>>;

    /// Tells how leader and followers stand.
    fn state(&self, request: ReplicaStateRequest) -> ReplicaStateResponse;

    /// A connection on which `peer` fetched has ended. A newer one may be open already.
    fn disconnected(&self, peer: BrokerId);
}
