//! One connection to one broker: requests pipelined under correlation ids, answered in any order; pushes of
//! subscriptions; signs of life when it is silent. A connection is never repaired: when it ends, everything on it fails
//! and the pool opens another.
//!
//! Two tasks own the transport's halves, the reader and the writer; everybody else shares the table of requests in
//! flight and the outbox.

pub(crate) mod call_error;
pub(crate) mod circuit_state;
pub mod connector;
mod establish;
pub(crate) mod in_flight;
pub(crate) mod outbox;
pub(crate) mod pool;
mod read;
mod write;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use streambus_protocol::api::subscribe::{SubscribeRequest, SubscribeResponse};
use streambus_protocol::api::{Message, Request, decode_response, encode_request};
use streambus_protocol::frame::Frame;
use streambus_protocol::ids::{BrokerId, ClusterId, CorrelationId};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::connection::call_error::CallError;
use crate::connection::in_flight::{InFlight, Outcome, PushSender, Reply};
use crate::connection::outbox::{FrameSource, Outbox, Outgoing};
use crate::tasks::Tasks;

pub(crate) use establish::open;

/// The most time that a broker's answer is given to come here, of what its caller waits.
const ANSWER_WAY_MAX: Duration = Duration::from_millis(500);

/// What a connection is told about itself when it is opened.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionSettings {
    pub(crate) client_id: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) ping_interval: Duration,
    pub(crate) ping_timeout: Duration,
    pub(crate) requests_in_flight_max: usize,
    pub(crate) frame_bytes_max: usize,
}

/// A handle on an open connection. Cheap to clone; the connection lives until it fails, is closed, or the client ends.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Shared>);

struct Shared {
    address: String,
    broker: BrokerId,
    cluster: ClusterId,
    /// The largest frame the broker takes.
    frame_bytes_max: usize,
    settings: ConnectionSettings,
    in_flight: Mutex<InFlight>,
    /// One permit per request in flight.
    permits: Arc<Semaphore>,
    outbox: Outbox,
    next_subscription: AtomicU32,
    /// The broker was asked for a sign of life and has let the asker wait.
    suspect: AtomicBool,
    /// Cancelled when the connection has ended.
    ended: CancellationToken,
}

impl Connection {
    /// The broker at the other end.
    pub(crate) fn broker(&self) -> BrokerId {
        self.0.broker
    }

    /// The cluster it belongs to.
    pub(crate) fn cluster(&self) -> ClusterId {
        self.0.cluster
    }

    /// The address it was opened to.
    pub(crate) fn address(&self) -> &str {
        &self.0.address
    }

    /// True once it has ended: nothing sent on it can be answered.
    pub(crate) fn is_ended(&self) -> bool {
        self.0.ended.is_cancelled()
    }

    /// True while a sign of life is overdue: the broker may be gone, and whatever it led elsewhere.
    pub(crate) fn is_suspect(&self) -> bool {
        self.0.suspect.load(Ordering::Relaxed)
    }

    /// Sends `request` and waits for its answer, until `deadline` or the configured time, whichever is sooner.
    ///
    /// Dropped while it waits, the request is not recalled: the broker may still carry it out.
    pub(crate) async fn call<M: Request>(
        &self,
        request: &M,
        deadline: Option<Instant>,
    ) -> Result<M::Response, CallError> {
        let (sender, receiver) = oneshot::channel();
        let guard = self.begin(request, deadline, Reply::Caller(sender)).await?;
        let frame = self.answer(receiver, guard).await?;
        self.decode(frame)
    }

    /// Opens a subscription whose pushes go to `pushes`; returns its correlation id, which [`Connection::unsubscribed`]
    /// takes.
    pub(crate) async fn subscribe(
        &self,
        request: &SubscribeRequest,
        pushes: PushSender,
        deadline: Option<Instant>,
    ) -> Result<(CorrelationId, SubscribeResponse), CallError> {
        let (sender, receiver) = oneshot::channel();
        let guard = self.begin(request, deadline, Reply::Subscription(sender, pushes)).await?;
        let correlation = guard.correlation;
        let response = match self.answer(receiver, guard).await {
            Ok(frame) => self.decode::<SubscribeResponse>(frame),
            Err(error) => Err(error),
        };
        if response.is_err() {
            self.unsubscribed(correlation);
        }
        response.map(|response| (correlation, response))
    }

    /// A number for a subscription that is not in use on this connection.
    pub(crate) fn next_subscription(&self) -> u32 {
        self.0.next_subscription.fetch_add(1, Ordering::Relaxed)
    }

    /// Forgets a subscription: pushes that still arrive for it are dropped.
    pub(crate) fn unsubscribed(&self, correlation: CorrelationId) {
        self.0.in_flight.lock().abandon(correlation, Instant::now());
    }

    /// Sends a message that has no answer. On an ended connection it goes nowhere, and nobody needs to know: whatever it
    /// was about has ended too.
    pub(crate) fn notify<M: Request>(&self, message: &M) {
        let frame = encode_request(message, CorrelationId::new(0), 0);
        let _ = self.0.outbox.push(Outgoing::Frame(frame));
    }

    /// Lets `source` make frames as soon as the transport takes them. Returns false when the connection has ended.
    pub(crate) fn arm(&self, source: Arc<dyn FrameSource>) -> bool {
        self.0.outbox.push(Outgoing::Source(source)).is_ok()
    }

    /// Ends the connection because the broker broke the protocol.
    pub(crate) fn breach(&self, reason: String) {
        self.0.end(CallError::Protocol(reason));
    }

    async fn begin<M: Request>(
        &self,
        request: &M,
        deadline: Option<Instant>,
        reply: Reply,
    ) -> Result<AbandonOnDrop<'_>, CallError> {
        let shared = &*self.0;
        let permit = match Arc::clone(&shared.permits).acquire_owned().await {
            Ok(permit) => permit,
            Err(_closed) => return Err(shared.ended_error()),
        };
        let now = Instant::now();
        let latest = now + shared.settings.request_timeout;
        let deadline = deadline.map_or(latest, |deadline| deadline.min(latest));
        let correlation = shared
            .in_flight
            .lock()
            .insert(M::API, deadline, reply, Some(permit))
            .map_err(|(reason, _reply)| before_sending(reason))?;
        let guard = AbandonOnDrop { shared, correlation };
        let frame = encode_request(request, correlation, millis_until(deadline, now));
        if frame.len() > shared.frame_bytes_max {
            let what = format!("a request of {} bytes, the broker takes {}", frame.len(), shared.frame_bytes_max);
            shared.in_flight.lock().withdraw(correlation);
            return Err(CallError::io(io::ErrorKind::InvalidInput, &what, false));
        }
        match shared.outbox.push(Outgoing::Frame(frame)) {
            Ok(()) => Ok(guard),
            Err(_unsent) => Err(before_sending(shared.ended_error())),
        }
    }

    async fn answer(&self, receiver: oneshot::Receiver<Outcome>, guard: AbandonOnDrop<'_>) -> Result<Frame, CallError> {
        let outcome = receiver.await;
        std::mem::forget(guard);
        match outcome {
            Ok(outcome) => outcome,
            // The table drops no reply unanswered; should it ever, the outcome is as unknown as after a lost connection.
            Err(_dropped) => Err(self.0.ended_error().after_sending()),
        }
    }

    fn decode<M: Message>(&self, frame: Frame) -> Result<M, CallError> {
        match decode_response(frame) {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(refusal)) => Err(CallError::Refused(refusal)),
            Err(error) => {
                let reason = format!("an answer does not decode: {error}");
                self.breach(reason.clone());
                Err(CallError::Protocol(reason))
            }
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({} at {})", self.0.broker, self.0.address)
    }
}

impl Shared {
    /// Ends the connection for `reason`: everything in flight fails, nothing more is taken. The first reason stays.
    fn end(&self, reason: CallError) {
        let replies = self.in_flight.lock().end(reason.clone());
        self.permits.close();
        self.ended.cancel();
        let left = self.outbox.close();
        if !replies.is_empty() || !matches!(reason, CallError::Closed) {
            tracing::debug!(
                broker = %self.broker, address = %self.address, in_flight = replies.len(), %reason,
                "connection ended"
            );
        }
        for reply in replies {
            reply.give(Err(reason.clone().after_sending()));
        }
        for item in left {
            if let Outgoing::Source(source) = item {
                source.disconnected();
            }
        }
    }

    fn ended_error(&self) -> CallError {
        match self.in_flight.lock().ended() {
            Some(reason) => reason.clone(),
            None => CallError::io(io::ErrorKind::BrokenPipe, "the connection is ending", false),
        }
    }
}

/// Marks a request as abandoned when its caller goes away before the answer.
struct AbandonOnDrop<'a> {
    shared: &'a Shared,
    correlation: CorrelationId,
}

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        self.shared.in_flight.lock().abandon(self.correlation, Instant::now());
    }
}

/// The same failure of a request that certainly did not leave.
fn before_sending(reason: CallError) -> CallError {
    match reason {
        CallError::Io { source, .. } => CallError::Io { source, sent: false },
        CallError::Protocol(reason) => CallError::io(io::ErrorKind::ConnectionAborted, &reason, false),
        other => other,
    }
}

/// Whole milliseconds from `now` to `deadline`, at least 1: on the wire 0 means "the broker's default".
fn millis_until(deadline: Instant, now: Instant) -> u32 {
    let left = deadline.saturating_duration_since(now).as_millis();
    u32::try_from(left).unwrap_or(u32::MAX).max(1)
}

/// The same, less the time that the broker's answer needs to come here: then it says what it waited for in vain.
fn millis_for_answer(deadline: Instant, now: Instant) -> u32 {
    let left = deadline.saturating_duration_since(now);
    millis_until(deadline - (left / 10).min(ANSWER_WAY_MAX), now)
}

/// Starts the two tasks of an open transport.
fn run(shared: Shared, reader: read::Reader, writer: connector::TransportWriter, tasks: &Tasks) -> Connection {
    let shared = Arc::new(shared);
    let (for_reader, for_writer) = (Arc::clone(&shared), Arc::clone(&shared));
    tasks.spawn(async move {
        let _end = EndOnDrop(Arc::clone(&for_reader));
        let reason = reader.run(&for_reader).await;
        for_reader.end(reason);
    });
    tasks.spawn(async move {
        let _end = EndOnDrop(Arc::clone(&for_writer));
        let reason = write::run(&for_writer, writer).await;
        for_writer.end(reason);
    });
    Connection(shared)
}

/// Ends the connection when a task of it is stopped, so that nothing waits on it for ever.
struct EndOnDrop(Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(CallError::Closed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Catches a broker that is given all the time there is, so that its explanation comes when nobody waits any more.
    #[tokio::test(start_paused = true)]
    async fn a_broker_has_to_answer_before_its_caller_gives_up() {
        let now = Instant::now();
        let told = |ms| millis_for_answer(now + Duration::from_millis(ms), now);
        assert_eq!((told(10_000), told(1_000), told(20), told(0)), (9_500, 900, 18, 1));
    }
}
