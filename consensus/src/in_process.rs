//! A transport between metadata nodes of one process, with faults, for tests: links that carry nothing one way or
//! both, that lose one kind of message, damage snapshots, or are long; answers that are lost after the request was carried out,
//! processes that are gone.
//!
//! A cut link is a black hole, as a lost route is: the sender waits until its time is over. A process that is gone
//! refuses, as its machine's kernel does, and its peers notice at once that their connections broke.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use streambus_protocol::ids::BrokerId;

use crate::network::{Lane, Peer, Probe, RaftTransport, TransportError};
use crate::peer_door::PeerDoor;
use crate::peer_service::PeerError;
use crate::rpc::Rpc;
use crate::snapshot::SnapshotFile;

const CHUNK_BYTES: usize = 64 * 1024;
const PORT: u16 = 9093;

/// The wires between the brokers. Cheap to clone.
#[derive(Clone, Default)]
pub struct InProcessNetwork {
    links: Arc<Mutex<Links>>,
}

#[derive(Default)]
struct Links {
    doors: BTreeMap<BrokerId, PeerDoor>,
    /// Directed links that carry nothing.
    cut: BTreeSet<(BrokerId, BrokerId)>,
    /// What is lost on every link.
    lost: Vec<(Lane, Rpc)>,
    /// One byte of each snapshot changes on its way.
    damages_snapshots: bool,
    /// How long everything takes one way.
    delay: Duration,
    /// How many calls of each kind were sent to whom.
    calls: BTreeMap<(BrokerId, Lane, Rpc), usize>,
}

impl InProcessNetwork {
    /// Wires without brokers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where `broker` is reached on these wires.
    pub fn address(broker: BrokerId) -> (String, u16) {
        (format!("broker-{broker}"), PORT)
    }

    /// The transport of `from`.
    pub fn transport(&self, from: BrokerId) -> Arc<dyn RaftTransport> {
        Arc::new(Wire { network: self.clone(), from })
    }

    /// Connects a broker, or replaces it after a restart.
    pub fn attach(&self, door: PeerDoor) {
        self.links.lock().doors.insert(door.broker(), door);
    }

    /// Takes a broker away, as the end of its process does: its peers' connections break, new ones are refused.
    pub fn detach(&self, broker: BrokerId) {
        let left: Vec<PeerDoor> = {
            let mut links = self.links.lock();
            links.doors.remove(&broker);
            let sees = |other: &BrokerId| !links.cut.contains(&(broker, *other));
            links.doors.iter().filter(|(other, _)| sees(other)).map(|(_, door)| door.clone()).collect()
        };
        for door in left {
            door.peer_disconnected(broker);
        }
    }

    /// Nothing goes from `from` to `to` any more. An answer from `to` still needs the opposite link.
    pub fn cut(&self, from: BrokerId, to: BrokerId) {
        self.links.lock().cut.insert((from, to));
    }

    /// Cuts every link from and to `broker`.
    pub fn isolate(&self, broker: BrokerId) {
        let mut links = self.links.lock();
        let others: Vec<BrokerId> = links.doors.keys().copied().filter(|other| *other != broker).collect();
        links.cut.extend(others.into_iter().flat_map(|other| [(broker, other), (other, broker)]));
    }

    /// Messages of this kind get nowhere any more.
    pub fn lose(&self, lane: Lane, rpc: Rpc) {
        self.links.lock().lost.push((lane, rpc));
    }

    /// One byte of each snapshot changes on its way from now on.
    pub fn damage_snapshots(&self) {
        self.links.lock().damages_snapshots = true;
    }

    /// How many calls of this kind were sent to `to` so far.
    pub fn calls(&self, to: BrokerId, lane: Lane, rpc: Rpc) -> usize {
        self.links.lock().calls.get(&(to, lane, rpc)).copied().unwrap_or_default()
    }

    /// Everything takes this long one way from now on.
    pub fn set_delay(&self, one_way: Duration) {
        self.links.lock().delay = one_way;
    }

    /// Restores every link. They stay as long as they are.
    pub fn heal(&self) {
        let mut links = self.links.lock();
        links.cut.clear();
        links.lost.clear();
        links.damages_snapshots = false;
    }

    /// Counts a message, and says what becomes of it.
    fn send(&self, to: BrokerId, lane: Lane, rpc: Rpc) -> Sending {
        let mut links = self.links.lock();
        *links.calls.entry((to, lane, rpc)).or_default() += 1;
        if links.lost.contains(&(lane, rpc)) { Sending::Lost } else { Sending::OnItsWay }
    }

    /// Waits as long as a message takes one way.
    async fn travel(&self) {
        let delay = self.links.lock().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    /// The door of `to`, unless the link to it is cut.
    fn reach(&self, from: BrokerId, to: BrokerId) -> Result<PeerDoor, Unreached> {
        let links = self.links.lock();
        if links.cut.contains(&(from, to)) {
            return Err(Unreached::BlackHole);
        }
        links.doors.get(&to).cloned().ok_or(Unreached::Refused)
    }

    /// An answer travels the opposite link, as it is when the answer is ready.
    fn is_cut(&self, from: BrokerId, to: BrokerId) -> bool {
        self.links.lock().cut.contains(&(from, to))
    }

    fn broker_at(&self, host: &str) -> Option<BrokerId> {
        self.links.lock().doors.keys().copied().find(|broker| Self::address(*broker).0 == host)
    }
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    OnItsWay,
    /// Messages of its kind get nowhere.
    Lost,
}

/// No answer, for as long as the sender waits.
fn lost(ttl: Duration) -> BoxFuture<'static, Result<Bytes, TransportError>> {
    Box::pin(async move {
        tokio::time::sleep(ttl).await;
        Err(TransportError::TimedOut(ttl))
    })
}

enum Unreached {
    BlackHole,
    Refused,
}

struct Wire {
    network: InProcessNetwork,
    from: BrokerId,
}

impl Wire {
    /// One exchange with the door of `to`, bounded by `ttl`.
    fn exchange<F>(
        &self,
        to: BrokerId,
        ttl: Duration,
        ask: impl FnOnce(PeerDoor) -> F + Send + 'static,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>
    where
        F: Future<Output = Result<Vec<u8>, PeerError>> + Send,
    {
        let (network, from) = (self.network.clone(), self.from);
        let exchange = async move {
            network.travel().await;
            let door = match network.reach(from, to) {
                Ok(door) => door,
                Err(Unreached::Refused) => return Err(TransportError::NotSent(format!("broker {to} is not there"))),
                Err(Unreached::BlackHole) => futures::future::pending().await,
            };
            let answer = ask(door).await.map_err(|e| TransportError::Refused(e.to_string()));
            network.travel().await;
            if network.is_cut(to, from) {
                futures::future::pending::<()>().await;
            }
            answer.map(Bytes::from)
        };
        Box::pin(async move { tokio::time::timeout(ttl, exchange).await.unwrap_or(Err(TransportError::TimedOut(ttl))) })
    }
}

impl RaftTransport for Wire {
    fn call(
        &self,
        peer: Peer,
        lane: Lane,
        rpc: Rpc,
        request: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        if self.network.send(peer.node.broker, lane, rpc) == Sending::Lost {
            return lost(ttl);
        }
        self.exchange(peer.node.broker, ttl, move |door| async move { door.call(rpc, &request).await })
    }

    fn send_snapshot(
        &self,
        peer: Peer,
        header: Bytes,
        snapshot: SnapshotFile,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        if self.network.send(peer.node.broker, Lane::Snapshot, Rpc::Snapshot) == Sending::Lost {
            return lost(ttl);
        }
        let damages = self.network.links.lock().damages_snapshots;
        self.exchange(peer.node.broker, ttl, move |door| async move {
            let failed = |e: std::io::Error| PeerError::Stopped(e.to_string());
            let mut sink = door.receive_snapshot()?;
            let mut position = 0;
            while position < snapshot.len() {
                let mut chunk = snapshot.read_chunk(position, CHUNK_BYTES).map_err(failed)?;
                if let Some(last) = chunk.last_mut().filter(|_| damages && position == 0) {
                    *last ^= 1;
                }
                position += chunk.len() as u64;
                sink.write(&chunk).map_err(failed)?;
            }
            let received = sink.finish().map_err(failed)?;
            door.install_snapshot(&header, received).await
        })
    }

    fn forward(&self, peer: Peer, request: Bytes, ttl: Duration) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        self.exchange(peer.node.broker, ttl, move |door| async move { door.forward(&request).await })
    }

    fn hello(
        &self,
        host: String,
        _: u16,
        hello: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        match self.network.broker_at(&host) {
            Some(broker) => self.exchange(broker, ttl, move |door| async move { door.handle_hello(&hello).await }),
            None => Box::pin(async move { Err(TransportError::NotSent(format!("nobody listens at {host}"))) }),
        }
    }

    fn probe(&self, host: String, _: u16, ttl: Duration) -> BoxFuture<'static, Probe> {
        let (network, from) = (self.network.clone(), self.from);
        Box::pin(async move {
            network.travel().await;
            network.travel().await;
            let Some(broker) = network.broker_at(&host) else {
                return Probe::Refused;
            };
            match network.reach(from, broker) {
                Ok(_) if !network.is_cut(broker, from) => Probe::Reachable,
                Err(Unreached::Refused) => Probe::Refused,
                Ok(_) | Err(Unreached::BlackHole) => {
                    tokio::time::sleep(ttl).await;
                    Probe::Unknown
                }
            }
        })
    }
}
