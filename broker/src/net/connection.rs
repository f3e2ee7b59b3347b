//! One connection from accept to close: preface, then a receiving and a sending half that run side by side in one task.
//!
//! The halves share the task so that a request handled at once is answered without waking another task; they are
//! separate futures, so that a peer that does not read does not stop the other direction.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use streambus_protocol::preface::ClientPreface;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::metrics::BrokerMetrics;
use crate::metrics::label::Cut;
use crate::net::admission::{Admission, ConnectionPermit, RequestBudget};
use crate::net::door::{After, Door, FrameHandler, Opened};
use crate::net::kafka_door;
use crate::net::preface::Door as Preface;
use crate::net::reader::{ReadEnd, Reader};
use crate::net::socket::{Socket, WriteHalf};
use crate::net::writer::{WriteEnd, Writer};

/// After the last answer, how long and how much is read and forgotten so that the answer is not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 1024 * 1024;
/// What the receiving half handles before the sending half gets its turn.
const TURN_FRAMES: u32 = 16;
const TURN_BYTES: usize = 512 * 1024;

/// What every connection of a listener shares.
#[derive(Debug)]
pub(crate) struct ConnectionContext {
    /// Who may use how much.
    pub(crate) admission: Arc<Admission>,
    /// What is behind the listener.
    pub(crate) door: Arc<dyn Door>,
    /// Cancelled when the broker drains: connections finish what is in flight and close.
    pub(crate) draining: CancellationToken,
}

/// Serves `socket` until it ends. It never fails, because nobody could act on it: the reason is logged.
pub(crate) async fn serve(socket: Socket, peer: SocketAddr, permit: ConnectionPermit, context: &ConnectionContext) {
    let metrics = Arc::clone(context.door.metrics());
    let _open = context.door.is_for_clients().then(|| Open::new(&metrics));
    let limits = *context.admission.limits();
    let budget = RequestBudget::new(&context.admission);
    let activity = budget.activity();
    let closing = context.draining.child_token();
    let (read_half, mut write_half) = socket.into_split();
    let handshake_by = Instant::now() + limits.handshake_timeout;
    let mut reader = Reader::new(read_half, limits, budget, closing.clone(), handshake_by);
    match open(&mut reader, &mut write_half, handshake_by).await {
        Ok(Opening::Native) => {
            let (work_sender, work) = mpsc::unbounded_channel();
            let writer = Writer::new(write_half, limits, Arc::clone(&metrics), work);
            let opened = Opened { peer, closing: closing.clone(), work: work_sender, activity };
            let session = Arc::clone(&context.door).open(opened);
            run(reader, writer, session, closing, peer, &metrics).await;
        }
        Ok(Opening::NoCommonVersion) => {
            tracing::debug!(%peer, "the client and this broker have no protocol version in common");
            end(reader, write_half, LINGER).await;
        }
        Ok(Opening::Kafka { request_bytes }) => kafka_door::refuse(peer, request_bytes),
        Ok(Opening::Unknown) => tracing::debug!(%peer, "closed a connection that speaks neither protocol"),
        Err(end) => {
            count_cut(&metrics, &end);
            tracing::debug!(%peer, %end, "a connection ended before its preface");
        }
    }
    drop(permit);
}

/// Counts an open connection for as long as it lives, also when its task is cut off.
struct Open(Arc<BrokerMetrics>);

impl Open {
    fn new(metrics: &Arc<BrokerMetrics>) -> Self {
        metrics.connection_opened();
        Self(Arc::clone(metrics))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connection_closed();
    }
}

/// What the preface led to.
enum Opening {
    Native,
    NoCommonVersion,
    Kafka { request_bytes: usize },
    Unknown,
}

async fn open(reader: &mut Reader, socket: &mut WriteHalf, by: Instant) -> Result<Opening, ReadEnd> {
    match Preface::detect(reader.peek_preface().await?) {
        Preface::Native => {}
        Preface::Kafka { request_bytes } => return Ok(Opening::Kafka { request_bytes }),
        Preface::Unknown => return Ok(Opening::Unknown),
    }
    let Ok(offer) = ClientPreface::decode(reader.take_preface().await?) else { return Ok(Opening::Unknown) };
    let answer = offer.answer();
    match timeout_at(by, socket.write_all(&answer.encode())).await {
        Ok(Ok(())) if answer.version.is_some() => Ok(Opening::Native),
        Ok(Ok(())) => Ok(Opening::NoCommonVersion),
        Ok(Err(error)) => Err(ReadEnd::Failed(error)),
        Err(_elapsed) => Err(ReadEnd::HandshakeTimeout),
    }
}

/// Runs both halves. The reading half ends first in an orderly close: what it has accepted is then still answered.
async fn run(
    reader: Reader,
    writer: Writer,
    session: Box<dyn FrameHandler>,
    closing: CancellationToken,
    peer: SocketAddr,
    metrics: &BrokerMetrics,
) {
    let mut writing = pin!(writer.run());
    let mut reading = Box::pin(read(reader, session, metrics));
    let (read_end, reader) = tokio::select! {
        biased;
        ended = &mut reading => ended,
        (write_end, socket) = &mut writing => {
            drop(reading);
            closing.cancel();
            log_write_end(peer, &write_end, metrics);
            drop(socket);
            return;
        }
    };
    count_cut(metrics, &read_end);
    tracing::debug!(%peer, %read_end, "a connection is read no further");
    // Parked fetches answer now and subscriptions end; appends are waited for.
    closing.cancel();
    let (write_end, socket) = writing.await;
    log_write_end(peer, &write_end, metrics);
    if matches!(write_end, WriteEnd::Done) {
        let linger = match read_end {
            // The peer does not know yet that it is over and may be sending: what it was told must not be lost.
            ReadEnd::Frame(_) | ReadEnd::Refused => LINGER,
            _ => Duration::ZERO,
        };
        end(reader, socket, linger).await;
    }
}

/// Reads and handles frames until there are no more.
async fn read(mut reader: Reader, mut session: Box<dyn FrameHandler>, metrics: &BrokerMetrics) -> (ReadEnd, Reader) {
    let (mut frames, mut bytes) = (0_u32, 0_usize);
    loop {
        let read = reader.next_frame().await;
        let received = reader.take_received_bytes();
        metrics.bytes_in(received);
        match read {
            Ok((frame, permit)) => match session.handle(frame, permit) {
                After::Read => {}
                After::HandshakeCompleted => reader.handshake_completed(),
                After::Stop => return (ReadEnd::Refused, reader),
            },
            Err(end) => {
                if let ReadEnd::Frame(error) = &end {
                    session.refuse_broken_frame(error);
                }
                return (end, reader);
            }
        }
        // A peer that sends without a pause would otherwise keep the sending half, and this worker, to itself.
        (frames, bytes) = (frames + 1, bytes.saturating_add(received));
        if frames >= TURN_FRAMES || bytes >= TURN_BYTES {
            (frames, bytes) = (0, 0);
            tokio::task::yield_now().await;
        }
    }
}

/// Closes so that the peer gets everything that was written.
async fn end(reader: Reader, mut socket: WriteHalf, linger: Duration) {
    // The peer may be gone already, which is what is wanted.
    let _gone = socket.shutdown().await;
    reader.discard(Instant::now() + linger, LINGER_BYTES_MAX).await;
}

fn count_cut(metrics: &BrokerMetrics, end: &ReadEnd) {
    match end {
        ReadEnd::HandshakeTimeout => metrics.connection_cut(Cut::Handshake),
        ReadEnd::Idle => metrics.connection_cut(Cut::Idle),
        ReadEnd::TooSlow => metrics.connection_cut(Cut::Slow),
        ReadEnd::NoRoom => metrics.connection_cut(Cut::Overload),
        ReadEnd::Frame(_) | ReadEnd::Refused => metrics.connection_cut(Cut::Protocol),
        ReadEnd::Closed | ReadEnd::Closing | ReadEnd::Truncated | ReadEnd::Failed(_) => {}
    }
}

fn log_write_end(peer: SocketAddr, end: &WriteEnd, metrics: &BrokerMetrics) {
    match end {
        WriteEnd::Done => {}
        WriteEnd::TooSlow => {
            metrics.connection_cut(Cut::Slow);
            tracing::info!(%peer, "cut a connection that reads its answers too slowly");
        }
        WriteEnd::Failed(error) => tracing::debug!(%peer, %error, "a connection broke while it was written to"),
    }
}
