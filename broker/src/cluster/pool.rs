//! Calls to other brokers, by broker and lane.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use streambus_protocol::api::peer::PeerLane;
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::api::{Request, decode_response, encode_request};
use streambus_protocol::frame::EncodedFrame;
use streambus_protocol::ids::{BrokerId, CorrelationId};
use streambus_protocol::limits::{FRAME_BODY_BYTES_MAX, FRAME_BYTES_MAX, FRAME_HEADER_BYTES};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::book::PeerBook;
use crate::cluster::connection::{Lost, Outgoing};
use crate::cluster::dial::Dialler;
use crate::cluster::link::{Link, OnDisconnect};
use crate::cluster::local::LocalBroker;
use crate::net::admission::Admission;
use crate::net::limits::NetLimits;
use crate::net::network::Network;

/// Requests of one lane that wait to be sent; a caller beyond it waits for room.
const QUEUE_MAX: usize = 256;

/// The limits of connections between brokers: few, trusted, and idle for as long as they like.
pub(crate) const fn peer_limits() -> NetLimits {
    NetLimits {
        connections_max: 4_096,
        connections_per_ip_max: 4_096,
        handshake_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(86_400),
        progress_grace: Duration::from_secs(30),
        progress_bytes_per_second: 1024,
        requests_in_flight_max: 1_024,
        connection_request_bytes_max: 2 * FRAME_BYTES_MAX,
        request_bytes_max: 8 * FRAME_BYTES_MAX,
        frame_bytes_max: FRAME_BYTES_MAX,
        request_timeout: Duration::from_secs(30),
    }
}

/// Why a call to another broker has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerCallError {
    /// There was no connection: the other broker has certainly not seen the request.
    #[error("not sent to broker {broker}: {why}")]
    NotSent {
        /// Whom it was meant for.
        broker: BrokerId,
        /// What stood in the way.
        why: Arc<str>,
    },
    /// The connection broke, or what came is no answer: the other broker may have carried the request out.
    #[error("broker {broker}: {why}")]
    Unreachable {
        /// Whom it was sent to.
        broker: BrokerId,
        /// What broke.
        why: Arc<str>,
    },
    /// No answer in time: the other broker may have carried the request out, or may yet.
    #[error("broker {broker} did not answer within {waited:?}")]
    TimedOut {
        /// Whom it was sent to.
        broker: BrokerId,
        /// How long the caller waited.
        waited: Duration,
    },
    /// The other broker says no.
    #[error("broker {broker}: {error}")]
    Refused {
        /// Who refuses.
        broker: BrokerId,
        /// Its reason.
        error: ErrorBody,
    },
}

/// The connections to other brokers. Cheap to clone; all clones share them.
///
/// One connection per broker and lane, opened by the first call that needs it. The order on one lane is the order in
/// which the calls were first polled. A connection that breaks fails what is in flight on it; the next call opens it anew.
#[derive(Clone)]
pub struct PeerPool {
    inner: Arc<Inner>,
}

struct Inner {
    dialler: Dialler,
    book: PeerBook,
    links: Mutex<HashMap<(BrokerId, PeerLane), LinkHandle>>,
    on_disconnect: OnDisconnect,
    correlation: AtomicU32,
    tasks: TaskTracker,
    closing: CancellationToken,
}

#[derive(Clone)]
struct LinkHandle {
    queue: mpsc::Sender<Outgoing>,
    generation: Arc<AtomicU64>,
    given_up: Arc<Notify>,
}

impl fmt::Debug for PeerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerPool").field("local", &self.inner.dialler.local).finish_non_exhaustive()
    }
}

impl PeerPool {
    /// No connection yet. `on_disconnect` hears of each connection that breaks. The tasks run on `tasks` and end when
    /// `closing` is cancelled.
    pub fn new(
        network: Arc<dyn Network>,
        local: LocalBroker,
        book: PeerBook,
        on_disconnect: impl Fn(BrokerId, PeerLane) + Send + Sync + 'static,
        tasks: TaskTracker,
        closing: CancellationToken,
    ) -> Self {
        let dialler = Dialler { network, local, admission: Admission::new(peer_limits()) };
        Self {
            inner: Arc::new(Inner {
                dialler,
                book,
                links: Mutex::default(),
                on_disconnect: Arc::new(on_disconnect),
                correlation: AtomicU32::new(1),
                tasks,
                closing,
            }),
        }
    }

    /// Where other brokers are looked for.
    pub fn book(&self) -> &PeerBook {
        &self.inner.book
    }

    pub(crate) fn dialler(&self) -> &Dialler {
        &self.inner.dialler
    }

    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.inner.closing
    }

    /// Sends `message` and waits for its answer, at most `ttl` altogether.
    ///
    /// # Errors
    /// See [`PeerCallError`]; only `NotSent` and `Refused` say that nothing was done.
    pub async fn call<M: Request>(
        &self,
        to: BrokerId,
        lane: PeerLane,
        message: &M,
        ttl: Duration,
    ) -> Result<M::Response, PeerCallError> {
        let link = self.link(to, lane);
        let (frame, correlation) = self.encode(to, message, ttl)?;
        let (answer, answered) = oneshot::channel();
        let exchange = async {
            let request = Outgoing { frame, correlation, answer: Some(answer) };
            if link.queue.send(request).await.is_err() {
                return Err(Lost::NotSent("this broker is stopping".into()));
            }
            // The link answers or fails every request it has; it is dropped unheard only with the whole broker.
            answered.await.unwrap_or_else(|_dropped| Err(Lost::Broken("this broker is stopping".into())))
        };
        let frame = match tokio::time::timeout(ttl, exchange).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(Lost::NotSent(why))) => return Err(PeerCallError::NotSent { broker: to, why }),
            Ok(Err(Lost::Broken(why))) => return Err(PeerCallError::Unreachable { broker: to, why }),
            Err(_elapsed) => {
                link.given_up.notify_one();
                return Err(PeerCallError::TimedOut { broker: to, waited: ttl });
            }
        };
        match decode_response(frame) {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(PeerCallError::Refused { broker: to, error }),
            Err(error) => {
                let why = format!("the answer does not decode: {error}").into();
                Err(PeerCallError::Unreachable { broker: to, why })
            }
        }
    }

    /// Queues a message that has no answer. It is lost with its connection.
    ///
    /// # Errors
    /// `NotSent` when the queue is full or closed.
    pub fn send<M: Request>(&self, to: BrokerId, lane: PeerLane, message: &M) -> Result<(), PeerCallError> {
        let (frame, correlation) = self.encode(to, message, Duration::ZERO)?;
        let sent = self.link(to, lane).queue.try_send(Outgoing { frame, correlation, answer: None });
        sent.map_err(|error| PeerCallError::NotSent { broker: to, why: error.to_string().into() })
    }

    /// Counts the connections that this lane has had: another number than before means that something may be lost.
    pub fn connection_generation(&self, to: BrokerId, lane: PeerLane) -> u64 {
        self.link(to, lane).generation.load(Ordering::Acquire)
    }

    fn encode<M: Request>(
        &self,
        to: BrokerId,
        message: &M,
        ttl: Duration,
    ) -> Result<(EncodedFrame, CorrelationId), PeerCallError> {
        let correlation = CorrelationId::new(self.inner.correlation.fetch_add(1, Ordering::Relaxed));
        let frame = encode_request(message, correlation, u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX));
        let body = frame.head.len().saturating_sub(FRAME_HEADER_BYTES);
        if body > FRAME_BODY_BYTES_MAX || frame.len() > FRAME_BYTES_MAX {
            let why = format!("a message of {} bytes is above the limit", frame.len()).into();
            return Err(PeerCallError::NotSent { broker: to, why });
        }
        Ok((frame, correlation))
    }

    fn link(&self, broker: BrokerId, lane: PeerLane) -> LinkHandle {
        let inner = &self.inner;
        let mut links = inner.links.lock();
        let handle = links.entry((broker, lane)).or_insert_with(|| {
            let (queue, requests) = mpsc::channel(QUEUE_MAX);
            let (generation, given_up) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
            let link = Link {
                broker,
                lane,
                dialler: inner.dialler.clone(),
                book: inner.book.clone(),
                generation: Arc::clone(&generation),
                given_up: Arc::clone(&given_up),
                on_disconnect: Arc::clone(&inner.on_disconnect),
                closing: inner.closing.clone(),
            };
            inner.tasks.spawn(link.run(requests));
            LinkHandle { queue, generation, given_up }
        });
        handle.clone()
    }
}
