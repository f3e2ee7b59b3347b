//! A transport between metadata nodes of one process, with faults, for tests: links that are cut one way or both,
//! and answers that are lost after the request was carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::network::{Lane, Peer, RaftTransport, TransportError};
use crate::peer_service::PeerService;
use crate::rpc::Rpc;
use crate::snapshot::SnapshotFile;
use crate::types::RaftId;

const CHUNK_BYTES: usize = 64 * 1024;

/// The wires between the nodes. Cheap to clone.
#[derive(Clone, Default)]
pub struct InProcessNetwork {
    links: Arc<Mutex<Links>>,
}

#[derive(Default)]
struct Links {
    nodes: BTreeMap<RaftId, PeerService>,
    /// Directed links that carry nothing.
    cut: BTreeSet<(RaftId, RaftId)>,
}

impl InProcessNetwork {
    /// Wires without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The transport of node `from`.
    pub fn transport(&self, from: RaftId) -> Arc<dyn RaftTransport> {
        Arc::new(Wire { links: Arc::clone(&self.links), from })
    }

    /// Connects a node, or replaces it after a restart.
    pub fn attach(&self, id: RaftId, service: PeerService) {
        self.links.lock().nodes.insert(id, service);
    }

    /// Takes a node away, as a crash does.
    pub fn detach(&self, id: RaftId) {
        self.links.lock().nodes.remove(&id);
    }

    /// Nothing goes from `from` to `to` any more. An answer from `to` still needs the opposite link.
    pub fn cut(&self, from: RaftId, to: RaftId) {
        self.links.lock().cut.insert((from, to));
    }

    /// Cuts every link from and to `id`.
    pub fn isolate(&self, id: RaftId) {
        let mut links = self.links.lock();
        let others: Vec<RaftId> = links.nodes.keys().copied().filter(|other| *other != id).collect();
        links.cut.extend(others.into_iter().flat_map(|other| [(id, other), (other, id)]));
    }

    /// Restores every link.
    pub fn heal(&self) {
        self.links.lock().cut.clear();
    }
}

struct Wire {
    links: Arc<Mutex<Links>>,
    from: RaftId,
}

impl Wire {
    fn reach(links: &Mutex<Links>, from: RaftId, to: RaftId) -> Result<PeerService, TransportError> {
        let links = links.lock();
        if links.cut.contains(&(from, to)) {
            return Err(TransportError::Unreachable(format!("the link from {from} to {to} is cut")));
        }
        let missing = || TransportError::Unreachable(format!("node {to} is not there"));
        links.nodes.get(&to).cloned().ok_or_else(missing)
    }

    /// An answer travels the opposite link, as it is when the answer is ready.
    fn answered(links: &Mutex<Links>, from: RaftId, to: RaftId) -> Result<(), TransportError> {
        if links.lock().cut.contains(&(to, from)) {
            return Err(TransportError::Unreachable(format!("the answer from {to} to {from} was lost")));
        }
        Ok(())
    }
}

impl RaftTransport for Wire {
    fn call(
        &self,
        peer: Peer,
        _: Lane,
        rpc: Rpc,
        request: Bytes,
        _: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (links, from) = (Arc::clone(&self.links), self.from);
        Box::pin(async move {
            let service = Self::reach(&links, from, peer.id)?;
            let answer = service.call(rpc, &request).await.map_err(|e| TransportError::Refused(e.to_string()))?;
            Self::answered(&links, from, peer.id)?;
            Ok(Bytes::from(answer))
        })
    }

    fn send_snapshot(
        &self,
        peer: Peer,
        header: Bytes,
        snapshot: SnapshotFile,
        _: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (links, from) = (Arc::clone(&self.links), self.from);
        Box::pin(async move {
            let service = Self::reach(&links, from, peer.id)?;
            let refused = |e: std::io::Error| TransportError::Refused(e.to_string());
            let mut sink = service.receive_snapshot().map_err(refused)?;
            let mut position = 0;
            while position < snapshot.len() {
                let chunk = snapshot.read_chunk(position, CHUNK_BYTES).map_err(refused)?;
                position += chunk.len() as u64;
                sink.write(&chunk).map_err(refused)?;
            }
            let received = sink.finish().map_err(refused)?;
            let answer = service.install_snapshot(&header, received).await;
            let answer = answer.map_err(|e| TransportError::Refused(e.to_string()))?;
            Self::answered(&links, from, peer.id)?;
            Ok(Bytes::from(answer))
        })
    }
}
