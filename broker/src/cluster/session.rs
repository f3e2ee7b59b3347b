//! One connection from another broker: its introduction, then its requests.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::FutureExt;
use streambus_consensus::rpc::Rpc;
use streambus_protocol::api::peer::{
    PeerHandshakeRequest, PeerHandshakeResponse, PeerLane, RaftCallRequest, RaftCallResponse, RaftForwardRequest,
    RaftForwardResponse, RaftHelloRequest, RaftHelloResponse,
};
use streambus_protocol::api::repair::ReplicaRepairRequest;
use streambus_protocol::api::replica::{ReplicaFetchRequest, ReplicaProgressRequest};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::api::{ApiKey, Listener, Message, encode_error};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::frame::{Flags, Frame, FrameError};
use streambus_protocol::ids::{BrokerId, ClusterId, CorrelationId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cluster::door::{ClusterDoor, peer_error};
use crate::cluster::snapshot_transfer::SnapshotTransfer;
use crate::native::SOFTWARE_VERSION;
use crate::native::call::Call;
use crate::net::admission::{Activity, RequestPermit};
use crate::net::door::{After, FrameHandler, Opened};
use crate::net::writer::{Reply, Work};

/// The receiving side of one connection from another broker.
pub(super) struct PeerSession {
    door: Arc<ClusterDoor>,
    closing: CancellationToken,
    work: mpsc::UnboundedSender<Work>,
    peer: SocketAddr,
    caller: Option<Caller>,
    snapshot: Arc<SnapshotTransfer>,
    /// A connection between brokers may be idle for long.
    _activity: Activity,
}

/// Who is on the other end.
#[derive(Clone, Copy, Debug)]
struct Caller {
    broker: BrokerId,
    lane: PeerLane,
    /// Its cluster when it connected, if it belonged to one.
    cluster: Option<ClusterId>,
    has_fetched: bool,
}

impl PeerSession {
    pub(super) fn new(door: Arc<ClusterDoor>, connection: Opened) -> Self {
        let Opened { peer, closing, work, activity } = connection;
        let snapshot = Arc::new(SnapshotTransfer::default());
        Self { door, closing, work, peer, caller: None, snapshot, _activity: activity }
    }

    fn take(&mut self, frame: Frame, permit: RequestPermit) -> After {
        let header = frame.header;
        let api = ApiKey::from_wire(header.api)
            .filter(|api| header.flags == Flags::REQUEST && api.versions().contains(header.version));
        let Some(api) = api else {
            let error = ErrorBody::new(
                ErrorCode::UnsupportedApi,
                format!("API {} in version {} is not served between brokers", header.api, header.version),
            );
            self.reply(Reply { frame: encode_error(header.api, header.correlation, &error), permit: Some(permit) });
            return After::Stop;
        };
        let metrics = Arc::clone(crate::net::door::Door::metrics(&*self.door));
        let call = Call::new(api, header, permit, self.door.limits().request_timeout, metrics);
        match (api.listener(), self.caller) {
            (Listener::Client, _) => {
                let error = ErrorBody::new(
                    ErrorCode::ClientListenerOnly,
                    format!("{} is served to clients only: this is the port for brokers", api.as_str()),
                );
                self.reply(call.refuse(&error));
                After::Stop
            }
            (Listener::Cluster, Some(caller)) => self.dispatch(api, caller, call, frame).unwrap_or_else(|reply| {
                self.reply(reply);
                After::Read
            }),
            (Listener::Cluster, None) if api == ApiKey::PeerHandshake => self.greet(call, frame),
            (Listener::Cluster, None) => {
                let error = ErrorBody::new(ErrorCode::HandshakeRequired, "the first request must be a peer_handshake");
                self.reply(call.refuse(&error));
                After::Stop
            }
        }
    }

    fn greet(&mut self, call: Call, frame: Frame) -> After {
        let (hello, call) = match call.decode::<PeerHandshakeRequest>(frame) {
            Ok(decoded) => decoded,
            Err(reply) => {
                self.reply(reply);
                return After::Stop;
            }
        };
        let local = self.door.local();
        let standing = local.standing();
        if let Err(error) = check(&hello, local.id(), standing.cluster_id) {
            tracing::warn!(peer = %self.peer, broker = %hello.broker_id, %error, "refused a broker");
            self.reply(call.refuse(&error));
            return After::Stop;
        }
        tracing::debug!(
            peer = %self.peer,
            broker = %hello.broker_id,
            lane = hello.lane.as_str(),
            version = hello.software_version,
            "a broker connected"
        );
        self.caller =
            Some(Caller { broker: hello.broker_id, lane: hello.lane, cluster: hello.cluster_id, has_fetched: false });
        let answer = PeerHandshakeResponse {
            cluster_id: standing.cluster_id,
            broker_id: local.id(),
            raft_id: standing.raft_id,
            software_version: SOFTWARE_VERSION.to_owned(),
            frame_bytes_max: u32::try_from(self.door.limits().frame_bytes_max).unwrap_or(u32::MAX),
        };
        self.reply(call.answer(&answer));
        After::HandshakeCompleted
    }

    /// Hands a request to whom it is for; the error is a request that cannot be read or taken, answered.
    fn dispatch(&mut self, api: ApiKey, caller: Caller, call: Call, frame: Frame) -> Result<After, Reply> {
        let metadata = self.door.metadata().clone();
        match api {
            ApiKey::RaftHello => {
                let (RaftHelloRequest { bytes }, call) = call.decode(frame)?;
                self.later(call, async move {
                    let answer = metadata.handle_hello(&bytes).await.map_err(|error| peer_error(&error))?;
                    Ok(RaftHelloResponse { bytes: answer.into() })
                });
            }
            ApiKey::RaftCall => {
                let (RaftCallRequest { rpc, bytes }, call) = call.decode(frame)?;
                let Some(rpc) = Rpc::from_wire(rpc) else {
                    let error =
                        ErrorBody::new(ErrorCode::UnsupportedApi, format!("there is no consensus request {rpc}"));
                    return Err(call.refuse(&error));
                };
                self.later(call, async move {
                    let answer = metadata.call(rpc, &bytes).await.map_err(|error| peer_error(&error))?;
                    Ok(RaftCallResponse { bytes: answer.into() })
                });
            }
            ApiKey::RaftSnapshot => {
                let (request, call) = call.decode(frame)?;
                let snapshot = Arc::clone(&self.snapshot);
                self.later(call, async move { snapshot.step(&metadata, request).await });
            }
            ApiKey::RaftForward => {
                let (RaftForwardRequest { bytes }, call) = call.decode(frame)?;
                self.later(call, async move {
                    let answer = metadata.forward(&bytes).await.map_err(|error| peer_error(&error))?;
                    Ok(RaftForwardResponse { bytes: answer.into() })
                });
            }
            ApiKey::ReplicaFetch => self.replica_fetch(caller, call, frame)?,
            ApiKey::ReplicaProgress => return Ok(self.replica_progress(caller, call, frame)),
            ApiKey::ReplicaRepair => {
                let (request, call) = call.decode::<ReplicaRepairRequest>(frame)?;
                match self.member(caller, request.broker).and_then(|()| self.door.replicas()) {
                    Ok(replicas) => {
                        let read = replicas.repair(caller.broker, request, self.closing.clone());
                        self.later(call, read);
                    }
                    Err(error) => return Err(call.refuse(&error)),
                }
            }
            ApiKey::ReplicaState => {
                let (request, call) = call.decode(frame)?;
                let answer = self.door.replicas().map(|replicas| replicas.state(request));
                self.reply(call.finish(answer));
            }
            other => {
                let error = ErrorBody::new(ErrorCode::InvalidRequest, format!("{} was done already", other.as_str()));
                return Err(call.refuse(&error));
            }
        }
        Ok(After::Read)
    }

    fn replica_fetch(&mut self, caller: Caller, call: Call, frame: Frame) -> Result<(), Reply> {
        let (request, call) = call.decode::<ReplicaFetchRequest>(frame)?;
        let replicas = match self.member(caller, request.broker).and_then(|()| self.door.replicas()) {
            Ok(replicas) => replicas,
            Err(error) => return Err(call.refuse(&error)),
        };
        let fetch = replicas.fetch(caller.broker, request, self.closing.clone());
        if let Some(caller) = &mut self.caller {
            caller.has_fetched = true;
        }
        self.later(call, fetch);
        Ok(())
    }

    /// There is no answer that could say what is wrong, so a connection that says something wrong ends.
    fn replica_progress(&mut self, caller: Caller, call: Call, frame: Frame) -> After {
        match call.decode::<ReplicaProgressRequest>(frame) {
            Ok((request, call)) => match self.member(caller, caller.broker).and_then(|()| self.door.replicas()) {
                Ok(replicas) => {
                    replicas.progress(caller.broker, request);
                    call.leave_unanswered(Ok(()));
                    After::Read
                }
                Err(error) => {
                    call.leave_unanswered(Err(error.code));
                    After::Read
                }
            },
            Err(_malformed) => After::Stop,
        }
    }

    /// Refuses replication with a broker that was in no cluster when it connected, or that speaks for another. This
    /// broker's own cluster is what it is now: it may have joined since.
    fn member(&self, caller: Caller, speaks_for: BrokerId) -> Result<(), ErrorBody> {
        if caller.cluster.is_none() || caller.cluster != self.door.local().standing().cluster_id {
            return Err(ErrorBody::new(
                ErrorCode::NotReady,
                format!("broker {} did not open this connection as a member of this cluster: try again", caller.broker),
            ));
        }
        if speaks_for != caller.broker {
            return Err(ErrorBody::new(
                ErrorCode::InvalidRequest,
                format!("broker {} asks in the name of broker {speaks_for}", caller.broker),
            ));
        }
        Ok(())
    }

    /// Polls the answer once now, so that requests are taken up in the order of their arrival, and leaves the rest to
    /// the sending half.
    fn later<M: Message>(&self, call: Call, answer: impl Future<Output = Result<M, ErrorBody>> + Send + 'static) {
        let mut reply = async move { call.finish(answer.await) }.boxed();
        match (&mut reply).now_or_never() {
            Some(reply) => self.reply(reply),
            None => self.hand_over(Work::Pending(reply)),
        }
    }

    fn reply(&self, reply: Reply) {
        self.hand_over(Work::Reply(reply));
    }

    fn hand_over(&self, work: Work) {
        // The writing half only goes away together with this one.
        let _ended = self.work.send(work);
    }
}

/// Refuses a broker that is not meant or not one of ours.
fn check(hello: &PeerHandshakeRequest, me: BrokerId, cluster: Option<ClusterId>) -> Result<(), ErrorBody> {
    if let Some(expected) = hello.expected.filter(|expected| *expected != me) {
        return Err(ErrorBody::new(
            ErrorCode::WrongBroker,
            format!("this is broker {me}, not broker {expected}: check the addresses in --peers"),
        ));
    }
    if hello.broker_id == me {
        return Err(ErrorBody::new(
            ErrorCode::DuplicateBroker,
            format!("this is broker {me} already: two processes run with the same --broker-id, or one dials itself"),
        ));
    }
    match (hello.cluster_id, cluster) {
        (Some(theirs), Some(ours)) if theirs != ours => Err(ErrorBody::new(
            ErrorCode::WrongCluster,
            format!("this broker is of cluster {ours}, not {theirs}: check --peers, or the data directory"),
        )),
        _ => Ok(()),
    }
}

impl FrameHandler for PeerSession {
    fn handle(&mut self, frame: Frame, permit: RequestPermit) -> After {
        self.take(frame, permit)
    }

    fn refuse_broken_frame(&mut self, error: &FrameError) {
        tracing::warn!(peer = %self.peer, %error, "a broker's connection carries bytes that are no frame");
        let body = ErrorBody::new(ErrorCode::MalformedRequest, error.to_string());
        // Neither the API nor the correlation of a broken frame can be trusted.
        self.reply(Reply { frame: encode_error(0, CorrelationId::new(0), &body), permit: None });
    }
}

impl Drop for PeerSession {
    fn drop(&mut self) {
        if let Some(caller) = self.caller {
            tracing::debug!(broker = %caller.broker, lane = caller.lane.as_str(), "a broker's connection ended");
            self.door.disconnected(caller.broker, caller.has_fetched);
        }
    }
}
