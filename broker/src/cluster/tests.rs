//! Connections between brokers over loopback.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use streambus_consensus::network::{Lane, Peer, Probe, RaftTransport, TransportError};
use streambus_consensus::peer_door::PeerDoor;
use streambus_consensus::rpc::Rpc;
use streambus_consensus::types::{RaftId, RaftNode};
use streambus_protocol::api::peer::{PeerLane, RaftHelloRequest};
use streambus_protocol::api::repair::{ReplicaRepairRequest, ReplicaRepairResponse};
use streambus_protocol::api::replica::{
    ReplicaFetchRequest, ReplicaFetchResponse, ReplicaProgressRequest, ReplicaStateRequest, ReplicaStateResponse,
};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::api::{ApiKey, Listener, decode_error};
use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, ClusterId};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::book::PeerBook;
use super::dial::Dialler;
use super::door::ClusterDoor;
use super::local::LocalBroker;
use super::pool::{PeerCallError, PeerPool, peer_limits};
use super::raft_transport::PeerTransport;
use super::replica_service::ReplicaService;
use super::silence::SILENCE_MAX;
use crate::config::address::HostPort;
use crate::metrics::BrokerMetrics;
use crate::net::admission::Admission;
use crate::net::connection::ConnectionContext;
use crate::net::listener;
use crate::net::network::TcpNetwork;
use crate::net::reader::ReadEnd;

const TTL: Duration = Duration::from_secs(20);
const ONE: BrokerId = BrokerId::new(1);
const TWO: BrokerId = BrokerId::new(2);

fn cluster(byte: u8) -> ClusterId {
    ClusterId::from_bytes([byte; 16])
}

/// What the listening side was told, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Fetch(u32),
    Progress(u32),
    Gone(BrokerId),
}

/// Answers a fetch when it is told of progress in the same session; session 0 is answered at once.
#[derive(Debug)]
struct Followed {
    told: mpsc::UnboundedSender<Told>,
    parked: Mutex<Vec<(u32, tokio::sync::oneshot::Sender<()>)>>,
}

impl ReplicaService for Followed {
    fn fetch(
        &self,
        _: BrokerId,
        request: ReplicaFetchRequest,
        closing: CancellationToken,
    ) -> BoxFuture<'static, Result<ReplicaFetchResponse, ErrorBody>> {
        let _test_over = self.told.send(Told::Fetch(request.session));
        let (wake, woken) = tokio::sync::oneshot::channel();
        self.parked.lock().push((request.session, wake));
        async move {
            if request.session > 0 {
                tokio::select! {
                    _ = woken => {}
                    () = closing.cancelled() => {}
                }
            }
            Ok(ReplicaFetchResponse { session: request.session, sequence: request.sequence, partitions: Vec::new() })
        }
        .boxed()
    }

    fn progress(&self, _: BrokerId, request: ReplicaProgressRequest) {
        let _test_over = self.told.send(Told::Progress(request.session));
        let mut parked = self.parked.lock();
        if let Some(at) = parked.iter().position(|(session, _)| *session == request.session) {
            let (_, wake) = parked.swap_remove(at);
            let _gone = wake.send(());
        }
    }

    fn repair(
        &self,
        _: BrokerId,
        _: ReplicaRepairRequest,
        _: CancellationToken,
    ) -> BoxFuture<'static, Result<ReplicaRepairResponse, ErrorBody>> {
        std::future::ready(Err(ErrorBody::new(ErrorCode::StorageDamaged, "nothing is whole here"))).boxed()
    }

    fn state(&self, _: ReplicaStateRequest) -> ReplicaStateResponse {
        ReplicaStateResponse { partitions: Vec::new() }
    }

    fn disconnected(&self, peer: BrokerId) {
        let _test_over = self.told.send(Told::Gone(peer));
    }
}

/// Broker 2 as broker 1 sees it.
struct Other {
    address: HostPort,
    told: mpsc::UnboundedReceiver<Told>,
    abort: CancellationToken,
    tasks: TaskTracker,
}

impl Other {
    async fn start(port: u16) -> Self {
        let local = LocalBroker::new(TWO);
        local.joined(cluster(1), 2);
        Self::start_as(local, port).await
    }

    async fn start_as(local: LocalBroker, port: u16) -> Self {
        let socket = TcpListener::bind(("127.0.0.1", port)).await.expect("a port");
        let address = HostPort::loopback(socket.local_addr().expect("bound").port());
        let door = Arc::new(ClusterDoor::new(local, PeerDoor::new(TWO), Arc::new(BrokerMetrics::new())));
        let (sender, told) = mpsc::unbounded_channel();
        door.attach_replicas(Arc::new(Followed { told: sender, parked: Mutex::default() }));
        let context =
            ConnectionContext { admission: Admission::new(peer_limits()), door, draining: CancellationToken::new() };
        let (tasks, abort) = (TaskTracker::new(), CancellationToken::new());
        let accepting = listener::accept_loop(socket.into(), Arc::new(context), tasks.clone(), abort.clone());
        let stop = abort.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = accepting => {}
                () = stop.cancelled() => {}
            }
        });
        Self { address, told, abort, tasks }
    }

    /// Ends every connection and the listener.
    async fn stop(self) -> u16 {
        self.abort.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.address.port
    }
}

struct This {
    pool: PeerPool,
    lost: mpsc::UnboundedReceiver<(BrokerId, PeerLane)>,
}

fn this(cluster_id: Option<ClusterId>, target: BrokerId, address: &HostPort) -> This {
    let local = LocalBroker::new(ONE);
    if let Some(cluster_id) = cluster_id {
        local.joined(cluster_id, 1);
        local.registered(BrokerEpoch::new(9));
    }
    let book = PeerBook::new(BTreeMap::from([(target, address.clone())]));
    let (sender, lost) = mpsc::unbounded_channel();
    let on_disconnect = move |broker, lane| {
        let _test_over = sender.send((broker, lane));
    };
    let pool =
        PeerPool::new(Arc::new(TcpNetwork), local, book, on_disconnect, TaskTracker::new(), CancellationToken::new());
    This { pool, lost }
}

fn fetch(session: u32) -> ReplicaFetchRequest {
    ReplicaFetchRequest {
        broker: ONE,
        broker_epoch: BrokerEpoch::new(9),
        session,
        sequence: 7,
        wait_ms: 0,
        bytes_max: 0,
        changed: Vec::new(),
        forgotten: Vec::new(),
    }
}

// Catches messages of one lane that overtake one another, and a fetch that is not under way when the progress made
// during it arrives: the follower would wait in vain.
#[tokio::test]
async fn messages_of_one_lane_are_taken_up_in_order_and_a_parked_fetch_does_not_stop_them() {
    let mut other = Other::start(0).await;
    let this = this(Some(cluster(1)), TWO, &other.address);
    for session in 1..=100 {
        let parked = fetch(session);
        let call = this.pool.call(TWO, PeerLane::Replication, &parked, TTL);
        let mut call = std::pin::pin!(call);
        assert!(call.as_mut().now_or_never().is_none(), "nothing has been sent yet");
        let progress = ReplicaProgressRequest { session, ends: Vec::new() };
        this.pool.send(TWO, PeerLane::Replication, &progress).expect("room in the queue");
        assert_eq!(call.await.map(|answer| (answer.session, answer.sequence)), Ok((session, 7)));
        assert_eq!(other.told.recv().await, Some(Told::Fetch(session)));
        assert_eq!(other.told.recv().await, Some(Told::Progress(session)));
    }
    assert_eq!(this.pool.connection_generation(TWO, PeerLane::Replication), 1, "one connection for all of it");
}

// Catches a broken connection that leaves a call hanging or is not opened again, and one that nobody hears of.
#[tokio::test]
async fn a_broken_connection_fails_what_is_under_way_is_told_and_opened_again() {
    let mut other = Other::start(0).await;
    let mut this = this(Some(cluster(1)), TWO, &other.address);
    let parked = TaskTracker::new().spawn({
        let pool = this.pool.clone();
        async move { pool.call(TWO, PeerLane::Replication, &fetch(5), TTL).await }
    });
    assert_eq!(other.told.recv().await, Some(Told::Fetch(5)));
    let port = other.stop().await;
    let failed = parked.await.expect("no panic");
    assert!(matches!(failed, Err(PeerCallError::Unreachable { broker: TWO, .. })), "{failed:?}");
    assert_eq!(this.lost.recv().await, Some((TWO, PeerLane::Replication)));

    let refused = this.pool.call(TWO, PeerLane::Replication, &fetch(0), TTL).await;
    assert!(matches!(refused, Err(PeerCallError::NotSent { .. })), "{refused:?}: nobody listens");
    let mut other = Other::start(port).await;
    let answered = this.pool.call(TWO, PeerLane::Replication, &fetch(0), TTL).await;
    assert_eq!(answered.map(|answer| answer.session), Ok(0));
    assert_eq!(other.told.recv().await, Some(Told::Fetch(0)));
    assert_eq!(this.pool.connection_generation(TWO, PeerLane::Replication), 2);
}

// Catches a connection that takes requests and gives no answer for ever, and one that is broken off although answers
// come: a fetch may be parked for long.
#[tokio::test]
async fn a_connection_without_an_answer_is_broken_off_and_opened_again() {
    let mut other = Other::start(0).await;
    let mut this = this(Some(cluster(1)), TWO, &other.address);
    let ttl = SILENCE_MAX + Duration::from_millis(50);
    let pool = this.pool.clone();
    let parked = TaskTracker::new().spawn(async move { pool.call(TWO, PeerLane::Replication, &fetch(1), TTL).await });
    assert_eq!(other.told.recv().await, Some(Told::Fetch(1)));
    let given_up = {
        let late = fetch(2);
        let late = this.pool.call(TWO, PeerLane::Replication, &late, ttl);
        let mut late = std::pin::pin!(late);
        assert!(late.as_mut().now_or_never().is_none());
        this.pool.call(TWO, PeerLane::Replication, &fetch(0), TTL).await.expect("an answer after it was asked");
        late.await
    };
    assert!(matches!(given_up, Err(PeerCallError::TimedOut { broker: TWO, .. })), "{given_up:?}");
    assert!(!parked.is_finished() && this.lost.try_recv().is_err(), "an answer came after both were asked");

    let pool = this.pool.clone();
    let insisting = async move {
        loop {
            let unanswered = pool.call(TWO, PeerLane::Replication, &fetch(3), ttl).await;
            assert!(unanswered.is_err(), "{unanswered:?}");
        }
    };
    let lost = async {
        tokio::select! {
            lost = this.lost.recv() => lost,
            () = insisting => None,
        }
    };
    let lost = tokio::time::timeout(TTL, lost).await.expect("it goes on for ever");
    assert_eq!(lost, Some((TWO, PeerLane::Replication)));
    let failed = parked.await.expect("no panic");
    assert!(matches!(failed, Err(PeerCallError::Unreachable { broker: TWO, .. })), "{failed:?}");
    this.pool.call(TWO, PeerLane::Replication, &fetch(0), TTL).await.expect("opened again");
    assert_eq!(this.pool.connection_generation(TWO, PeerLane::Replication), 2);
}

// Catches a leader that goes on waiting for a follower whose connection is gone.
#[tokio::test]
async fn the_listening_side_hears_of_a_follower_that_leaves() {
    let mut other = Other::start(0).await;
    let closing = CancellationToken::new();
    let local = LocalBroker::new(ONE);
    local.joined(cluster(1), 1);
    let book = PeerBook::new(BTreeMap::from([(TWO, other.address.clone())]));
    let pool = PeerPool::new(Arc::new(TcpNetwork), local, book, |_, _| {}, TaskTracker::new(), closing.clone());
    pool.call(TWO, PeerLane::Replication, &fetch(0), TTL).await.expect("an answer");
    assert_eq!(other.told.recv().await, Some(Told::Fetch(0)));
    closing.cancel();
    assert_eq!(other.told.recv().await, Some(Told::Gone(ONE)));
}

// Catches two clusters that mix, and an address that belongs to another broker by now.
#[tokio::test]
async fn a_stranger_is_refused_with_its_reason() {
    let other = Other::start(0).await;
    let hello = RaftHelloRequest { bytes: Bytes::new() };
    for (cluster_id, target, reason) in
        [(cluster(2), TWO, "WRONG_CLUSTER"), (cluster(1), BrokerId::new(3), "WRONG_BROKER")]
    {
        let this = this(Some(cluster_id), target, &other.address);
        let refused = this.pool.call(target, PeerLane::Forward, &hello, TTL).await;
        let Err(PeerCallError::NotSent { why, .. }) = refused else { panic!("{refused:?}") };
        assert!(why.contains(reason), "{why}");
    }
    let nowhere = this(Some(cluster(1)), ONE, &other.address);
    let refused = nowhere.pool.call(TWO, PeerLane::Log, &hello, TTL).await;
    assert!(matches!(refused, Err(PeerCallError::NotSent { .. })), "{refused:?}");
}

// Catches replication with a broker that was in no cluster, or in another's name.
#[tokio::test]
async fn only_members_replicate_and_only_in_their_own_name() {
    let other = Other::start(0).await;
    let code = |result: Result<ReplicaFetchResponse, PeerCallError>| match result {
        Err(PeerCallError::Refused { error, .. }) => error.code,
        other => panic!("{other:?}"),
    };
    let homeless = this(None, TWO, &other.address);
    let refused = homeless.pool.call(TWO, PeerLane::Replication, &fetch(0), TTL).await;
    assert_eq!(code(refused), ErrorCode::NotReady);
    let member = this(Some(cluster(1)), TWO, &other.address);
    let borrowed = ReplicaFetchRequest { broker: BrokerId::new(3), ..fetch(0) };
    let refused = member.pool.call(TWO, PeerLane::Replication, &borrowed, TTL).await;
    assert_eq!(code(refused), ErrorCode::InvalidRequest);
}

// Catches a leader that takes its followers for strangers for ever because they connected before it had joined.
#[tokio::test]
async fn a_broker_that_joins_serves_those_who_connected_before() {
    let local = LocalBroker::new(TWO);
    let other = Other::start_as(local.clone(), 0).await;
    let member = this(Some(cluster(1)), TWO, &other.address);
    let early = member.pool.call(TWO, PeerLane::Replication, &fetch(0), TTL).await;
    assert!(matches!(early, Err(PeerCallError::Refused { .. })), "{early:?}");
    local.joined(cluster(1), 2);
    let served = member.pool.call(TWO, PeerLane::Replication, &fetch(0), TTL).await;
    assert!(served.is_ok(), "{served:?}");
    assert_eq!(member.pool.connection_generation(TWO, PeerLane::Replication), 1, "on the same connection");
}

// Catches a client's request that is served between brokers, where nothing checks clients' limits.
#[tokio::test]
async fn every_client_api_is_refused_on_the_cluster_listener() {
    let other = Other::start(0).await;
    let local = LocalBroker::new(ONE);
    local.joined(cluster(1), 1);
    let dialler = Dialler { network: Arc::new(TcpNetwork), local, admission: Admission::new(peer_limits()) };
    for api in ApiKey::ALL.iter().filter(|api| api.listener() == Listener::Client) {
        let dialed = dialler.dial(&other.address, Some(TWO), PeerLane::Forward, CancellationToken::new()).await;
        let mut dialed = dialed.expect("a connection");
        dialed.socket.write_all(&bare_request(*api)).await.expect("sent");
        let (frame, _permit) = dialed.reader.next_frame().await.expect("an answer");
        assert_eq!(decode_error(&frame).map(|error| error.code), Ok(ErrorCode::ClientListenerOnly), "{api:?}");
        let after = dialed.reader.next_frame().await;
        assert!(matches!(after, Err(ReadEnd::Closed | ReadEnd::Failed(_))), "{api:?} leaves the connection open");
    }
}

/// A request of `api` without a body; what is refused for its number is refused before its body is looked at.
fn bare_request(api: ApiKey) -> Vec<u8> {
    let mut frame = vec![0; 24];
    frame[..4].copy_from_slice(&20_u32.to_le_bytes());
    frame[8] = api.to_wire();
    frame[9] = 1;
    frame[12] = 77;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    frame
}

// Catches failures that are reported as milder or worse than they are: only "not sent" and "refused" say that nothing
// was done.
#[tokio::test]
async fn the_metadata_group_hears_exactly_what_happened() {
    let other = Other::start(0).await;
    let this = this(Some(cluster(1)), TWO, &other.address);
    let transport = PeerTransport::new(this.pool.clone());
    let node = RaftNode { broker: TWO, host: other.address.host.clone(), port: other.address.port };
    let peer = Peer { id: RaftId::new(2), node };

    let call = transport.call(peer.clone(), Lane::Log, Rpc::Vote, Bytes::from_static(b"?"), TTL).await;
    assert!(matches!(call, Err(TransportError::Refused(_))), "{call:?}: no node is attached to the door");
    let forward = transport.forward(peer.clone(), Bytes::from_static(b"?"), TTL).await;
    assert!(matches!(forward, Err(TransportError::Refused(_))), "{forward:?}");
    let (host, port) = (other.address.host.clone(), other.address.port);
    let hello = transport.hello(host.clone(), port, Bytes::from_static(b"?"), TTL).await;
    assert!(!matches!(hello, Err(TransportError::NotSent(_) | TransportError::Unreachable(_))), "{hello:?}");
    assert_eq!(transport.probe(host.clone(), port, TTL).await, Probe::Reachable);

    other.stop().await;
    assert_eq!(transport.probe(host.clone(), port, TTL).await, Probe::Refused);
    let hello = transport.hello(host, port, Bytes::new(), TTL).await;
    assert!(matches!(hello, Err(TransportError::NotSent(_))), "{hello:?}");
}
