//! Carries the metadata group's messages over the connections between brokers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use streambus_consensus::blocking;
use streambus_consensus::network::{Lane, Peer, Probe, RaftTransport, TransportError};
use streambus_consensus::rpc::Rpc;
use streambus_consensus::snapshot::SnapshotFile;
use streambus_protocol::api::peer::{
    PeerLane, RaftCallRequest, RaftForwardRequest, RaftHelloRequest, RaftHelloResponse, RaftSnapshotRequest,
    SnapshotStep,
};
use streambus_protocol::api::{decode_response, encode_request};
use streambus_protocol::ids::{BrokerId, CorrelationId};
use tokio::time::Instant;

use crate::cluster::dial::DialError;
use crate::cluster::pool::{PeerCallError, PeerPool};
use crate::config::address::HostPort;

/// Bytes of a snapshot in one message.
const CHUNK_BYTES: usize = 256 * 1024;

/// The metadata group's transport.
#[derive(Debug)]
pub struct PeerTransport {
    pool: PeerPool,
    transfers: AtomicU32,
}

impl PeerTransport {
    /// A transport over `pool`.
    pub fn new(pool: PeerPool) -> Arc<Self> {
        Arc::new(Self { pool, transfers: AtomicU32::new(0) })
    }

    /// The broker behind a Raft node; where it is is noted.
    fn broker(&self, peer: Peer) -> BrokerId {
        let broker = peer.node.broker;
        self.pool.book().note_member(broker, HostPort { host: peer.node.host, port: peer.node.port });
        broker
    }
}

impl RaftTransport for PeerTransport {
    fn call(
        &self,
        peer: Peer,
        lane: Lane,
        rpc: Rpc,
        request: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (pool, to) = (self.pool.clone(), self.broker(peer));
        let lane = match lane {
            Lane::Log => PeerLane::Log,
            Lane::Heartbeat => PeerLane::Heartbeat,
            Lane::Snapshot => PeerLane::Snapshot,
        };
        async move {
            let request = RaftCallRequest { rpc: rpc as u8, bytes: request };
            pool.call(to, lane, &request, ttl).await.map(|answer| answer.bytes).map_err(failure)
        }
        .boxed()
    }

    fn send_snapshot(
        &self,
        peer: Peer,
        header: Bytes,
        snapshot: SnapshotFile,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (pool, to) = (self.pool.clone(), self.broker(peer));
        let transfer = self.transfers.fetch_add(1, Ordering::Relaxed);
        send_snapshot(pool, to, transfer, header, Arc::new(snapshot), ttl).boxed()
    }

    fn forward(&self, peer: Peer, request: Bytes, ttl: Duration) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (pool, to) = (self.pool.clone(), self.broker(peer));
        async move {
            let request = RaftForwardRequest { bytes: request };
            pool.call(to, PeerLane::Forward, &request, ttl).await.map(|answer| answer.bytes).map_err(failure)
        }
        .boxed()
    }

    fn hello(
        &self,
        host: String,
        port: u16,
        hello: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let pool = self.pool.clone();
        async move {
            let asking = say_hello(&pool, HostPort { host, port }, hello);
            tokio::time::timeout(ttl, asking).await.unwrap_or(Err(TransportError::TimedOut(ttl)))
        }
        .boxed()
    }

    fn probe(&self, host: String, port: u16, ttl: Duration) -> BoxFuture<'static, Probe> {
        let network = Arc::clone(&self.pool.dialler().network);
        async move {
            match tokio::time::timeout(ttl, network.connect(&host, port)).await {
                Ok(Ok(_socket)) => Probe::Reachable,
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Probe::Refused,
                Ok(Err(_)) | Err(_) => Probe::Unknown,
            }
        }
        .boxed()
    }
}

async fn send_snapshot(
    pool: PeerPool,
    to: BrokerId,
    transfer: u32,
    header: Bytes,
    snapshot: Arc<SnapshotFile>,
    ttl: Duration,
) -> Result<Bytes, TransportError> {
    let deadline = Instant::now() + ttl;
    let step = async |step: SnapshotStep| {
        let left = deadline.saturating_duration_since(Instant::now());
        let request = RaftSnapshotRequest { transfer, step };
        pool.call(to, PeerLane::Snapshot, &request, left).await.map(|answer| answer.bytes).map_err(failure)
    };
    step(SnapshotStep::Begin { header }).await?;
    let bytes_total = snapshot.len();
    let mut position = 0;
    while position < bytes_total {
        let source = Arc::clone(&snapshot);
        let read = blocking::spawn(move || source.read_chunk(position, CHUNK_BYTES)).await;
        let chunk = match read {
            Ok(Ok(chunk)) if !chunk.is_empty() => chunk,
            Ok(Ok(_)) => return Err(TransportError::Unreachable("the snapshot is shorter than it said".to_owned())),
            Ok(Err(error)) => return Err(TransportError::Unreachable(format!("the snapshot cannot be read: {error}"))),
            Err(_interrupted) => return Err(TransportError::Unreachable("this broker is stopping".to_owned())),
        };
        let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        step(SnapshotStep::Chunk { position, bytes: chunk.into() }).await?;
        position = position.saturating_add(length);
    }
    step(SnapshotStep::Finish { bytes_total }).await
}

/// One question on a connection of its own: who is there is not known before.
async fn say_hello(pool: &PeerPool, address: HostPort, hello: Bytes) -> Result<Bytes, TransportError> {
    let closing = pool.closing().child_token();
    let dialed = pool.dialler().dial(&address, None, PeerLane::Forward, closing).await;
    let mut dialed = dialed.map_err(|error| match error {
        DialError::Refused { error, .. } => TransportError::Refused(error.to_string()),
        other => TransportError::NotSent(other.to_string()),
    })?;
    let broken = |error: String| TransportError::Unreachable(format!("{address}: {error}"));
    let correlation = CorrelationId::new(1);
    for chunk in encode_request(&RaftHelloRequest { bytes: hello }, correlation, 0).into_chunks() {
        dialed.socket.write_all(&chunk).await.map_err(|error| broken(error.to_string()))?;
    }
    let (frame, _permit) = dialed.reader.next_frame().await.map_err(|end| broken(end.to_string()))?;
    if frame.header.correlation != correlation {
        return Err(broken("the answer is to another request".to_owned()));
    }
    match decode_response::<RaftHelloResponse>(frame) {
        Ok(Ok(answer)) => Ok(answer.bytes),
        Ok(Err(error)) => Err(TransportError::Refused(error.to_string())),
        Err(error) => Err(broken(format!("the answer does not decode: {error}"))),
    }
}

fn failure(error: PeerCallError) -> TransportError {
    match error {
        PeerCallError::NotSent { .. } => TransportError::NotSent(error.to_string()),
        PeerCallError::Unreachable { .. } => TransportError::Unreachable(error.to_string()),
        PeerCallError::TimedOut { waited, .. } => TransportError::TimedOut(waited),
        PeerCallError::Refused { .. } => TransportError::Refused(error.to_string()),
    }
}
