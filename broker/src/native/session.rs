//! One native connection's memory: whether it said hello, and its open subscriptions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use streambus_protocol::api::session::{ApiRange, ErrorBody, HandshakeRequest, HandshakeResponse};
use streambus_protocol::api::{ApiKey, Listener, encode_error};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::frame::{Flags, Frame, FrameError};
use streambus_protocol::ids::CorrelationId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::native::call::Call;
use crate::native::{NativeDoor, SOFTWARE_VERSION, dispatch};
use crate::net::admission::{Activity, RequestPermit};
use crate::net::door::{After, Door as _, FrameHandler, Opened};
use crate::net::writer::{Reply, Work};
use crate::service::subscribe::SubscriptionControl;

/// The receiving side of one native connection.
pub(crate) struct Session {
    pub(super) door: Arc<NativeDoor>,
    /// Cancelled when the connection ends or the broker drains: whatever waits answers with what it has.
    pub(super) closing: CancellationToken,
    /// Kept by each subscription, so that its connection does not count as idle.
    pub(super) activity: Activity,
    /// By the client's number; an entry whose stream has ended is replaced or removed when the client says so.
    pub(super) subscriptions: HashMap<u32, Arc<SubscriptionControl>>,
    work: mpsc::UnboundedSender<Work>,
    greeting: Greeting,
    peer: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeting {
    Awaited,
    Done,
}

/// What a handler made of a request.
pub(crate) enum Handled {
    /// The answer.
    Now(Reply),
    /// The answer, later.
    Later(BoxFuture<'static, Reply>),
    /// No answer, or one that is on its way already.
    Unanswered,
    /// No answer, and the end of the connection: the one way to say that an unanswered request failed.
    Close,
}

impl From<Reply> for Handled {
    fn from(reply: Reply) -> Self {
        Self::Now(reply)
    }
}

impl Session {
    pub(super) fn new(door: Arc<NativeDoor>, opened: Opened) -> Self {
        let Opened { peer, closing, work, activity } = opened;
        Self { door, closing, activity, subscriptions: HashMap::new(), work, greeting: Greeting::Awaited, peer }
    }

    fn take(&mut self, frame: Frame, permit: RequestPermit) -> After {
        let header = frame.header;
        if header.flags != Flags::REQUEST {
            let error = ErrorBody::new(ErrorCode::MalformedRequest, "only requests go from a client to a broker");
            let _stops_anyway = self.refuse_frame(header.api, header.correlation, &error, Some(permit));
            return After::Stop;
        }
        let Some(api) = ApiKey::from_wire(header.api) else {
            let error = ErrorBody::new(
                ErrorCode::UnsupportedApi,
                format!("API {} is not known here: the handshake lists the ones that are", header.api),
            );
            return self.refuse_frame(header.api, header.correlation, &error, Some(permit));
        };
        let versions = api.versions();
        if !versions.contains(header.version) {
            let name = api.as_str();
            let (min, max, given) = (versions.min, versions.max, header.version);
            let error = ErrorBody::new(
                ErrorCode::UnsupportedApi,
                format!("{name} is served in versions {min} to {max}, not in {given}"),
            );
            return self.refuse_frame(header.api, header.correlation, &error, Some(permit));
        }
        let timeout_default = self.door.limits().request_timeout;
        let call = Call::new(api, header, permit, timeout_default, Arc::clone(self.door.metrics()));
        if api.listener() != Listener::Client {
            let error = ErrorBody::new(
                ErrorCode::ClusterListenerOnly,
                format!("{} is served between brokers only: this is the port for clients", api.as_str()),
            );
            return self.stop_after(call.refuse(&error));
        }
        match (self.greeting, api) {
            (Greeting::Done, _) => match dispatch::dispatch(self, api, call, frame) {
                Handled::Now(reply) => self.hand_over(Work::Reply(reply)),
                Handled::Later(reply) => self.hand_over(Work::Pending(reply)),
                Handled::Unanswered => After::Read,
                Handled::Close => After::Stop,
            },
            (Greeting::Awaited, ApiKey::Handshake) => self.greet(call, frame),
            (Greeting::Awaited, _) => {
                let error = ErrorBody::new(ErrorCode::HandshakeRequired, "the first request must be a handshake");
                self.stop_after(call.refuse(&error))
            }
        }
    }

    /// Hands an answer, or what will become one, to the writing half.
    pub(super) fn hand_over(&mut self, work: Work) -> After {
        // The writing half only goes away together with this one.
        match self.work.send(work) {
            Ok(()) => After::Read,
            Err(_) => After::Stop,
        }
    }

    fn stop_after(&mut self, reply: Reply) -> After {
        let _stops_anyway = self.hand_over(Work::Reply(reply));
        After::Stop
    }

    fn refuse_frame(
        &mut self,
        api: u8,
        correlation: CorrelationId,
        error: &ErrorBody,
        permit: Option<RequestPermit>,
    ) -> After {
        tracing::debug!(peer = %self.peer, %error, "refused a frame");
        let sent = self.hand_over(Work::Reply(Reply { frame: encode_error(api, correlation, error), permit }));
        match self.greeting {
            Greeting::Awaited => After::Stop,
            Greeting::Done => sent,
        }
    }

    fn greet(&mut self, call: Call, frame: Frame) -> After {
        let (request, call) = match call.decode::<HandshakeRequest>(frame) {
            Ok(decoded) => decoded,
            Err(reply) => return self.stop_after(reply),
        };
        let cluster = &self.door.services().cluster;
        let cluster_id = cluster.cluster_id();
        if let Some(meant) = request.cluster_id.filter(|meant| *meant != cluster_id) {
            let error =
                ErrorBody::new(ErrorCode::WrongCluster, format!("this broker is of cluster {cluster_id}, not {meant}"));
            return self.stop_after(call.refuse(&error));
        }
        tracing::debug!(
            peer = %self.peer,
            client = request.client_id,
            software = request.software_name,
            version = request.software_version,
            "a client connected"
        );
        let limits = self.door.limits();
        let apis = ApiKey::ALL
            .iter()
            .filter(|api| api.listener() == Listener::Client)
            .map(|api| ApiRange { api: api.to_wire(), min: api.versions().min, max: api.versions().max })
            .collect();
        let response = HandshakeResponse {
            cluster_id,
            broker_id: cluster.broker_id(),
            software_version: SOFTWARE_VERSION.to_owned(),
            frame_bytes_max: u32::try_from(limits.frame_bytes_max).unwrap_or(u32::MAX),
            requests_in_flight_max: u32::try_from(limits.requests_in_flight_max).unwrap_or(u32::MAX),
            apis,
        };
        self.greeting = Greeting::Done;
        match self.hand_over(Work::Reply(call.answer(&response))) {
            After::Read => After::HandshakeCompleted,
            after => after,
        }
    }
}

impl FrameHandler for Session {
    fn handle(&mut self, frame: Frame, permit: RequestPermit) -> After {
        self.take(frame, permit)
    }

    fn refuse_broken_frame(&mut self, error: &FrameError) {
        let code = match error {
            FrameError::TooLarge { .. } | FrameError::BodyTooLarge { .. } => ErrorCode::RequestTooLarge,
            _ => ErrorCode::MalformedRequest,
        };
        let body = ErrorBody::new(code, error.to_string());
        // Neither the API nor the correlation of a broken frame can be trusted.
        let _stops_anyway = self.refuse_frame(0, CorrelationId::new(0), &body, None);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Subscriptions end with their connection even if the writing half lives on to send what is left.
        for control in self.subscriptions.values() {
            control.close();
        }
    }
}
