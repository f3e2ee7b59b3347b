//! An open connection to another broker: requests go out in the order of the queue, answers find their callers.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use streambus_protocol::frame::{EncodedFrame, Frame};
use streambus_protocol::ids::CorrelationId;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::cluster::dial::Dialed;
use crate::cluster::silence::{SILENCE_MAX, Silence};
use crate::net::outbound::Outbound;
use crate::net::reader::{ReadEnd, Reader};
use crate::net::socket::WriteHalf;

/// No further request is taken from the queue while this many bytes wait; one more may exceed it.
const OUTBOUND_BYTES_MAX: usize = 1024 * 1024;
/// Callers that gave up are swept out when this many wait for answers.
const SWEEP_AT: usize = 128;

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) frame: EncodedFrame,
    pub(crate) correlation: CorrelationId,
    /// Where the answer goes; a one-way message has none.
    pub(crate) answer: Option<oneshot::Sender<Result<Frame, Lost>>>,
}

impl Outgoing {
    /// True when nobody waits for the answer any more.
    fn is_given_up(&self) -> bool {
        self.answer.as_ref().is_some_and(oneshot::Sender::is_closed)
    }

    /// Tells the caller that there will be no answer; one that gave up does not hear it.
    pub(crate) fn fail(self, lost: Lost) {
        if let Some(answer) = self.answer {
            let _gave_up = answer.send(Err(lost));
        }
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Not one byte of it left this broker.
    NotSent(Arc<str>),
    /// The connection broke after it was sent, or while it was.
    Broken(Arc<str>),
}

/// Requests that were sent and are not answered. Bounded by the callers: each waits for one.
#[derive(Debug)]
struct InFlight {
    waiting: Mutex<HashMap<CorrelationId, oneshot::Sender<Result<Frame, Lost>>>>,
    silence: Silence,
    /// Bytes that have come.
    arrived: Arc<AtomicU64>,
}

impl InFlight {
    fn new(arrived: Arc<AtomicU64>) -> Self {
        Self { waiting: Mutex::default(), silence: Silence::default(), arrived }
    }

    fn insert(&self, correlation: CorrelationId, answer: oneshot::Sender<Result<Frame, Lost>>) {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= SWEEP_AT {
            waiting.retain(|_, answer| !answer.is_closed());
        }
        waiting.insert(correlation, answer);
        self.silence.ask(self.arrived.load(Ordering::Relaxed), Instant::now());
    }

    /// Ends when a caller has given up and nothing at all has come since it, or an earlier one, asked.
    async fn is_silent(&self, given_up: &Notify) {
        loop {
            given_up.notified().await;
            if self.silence.is_too_long(self.arrived.load(Ordering::Relaxed), Instant::now()) {
                return;
            }
        }
    }

    fn answer(&self, frame: Frame) {
        let answer = self.waiting.lock().remove(&frame.header.correlation);
        if let Some(answer) = answer {
            let _gave_up = answer.send(Ok(frame));
        }
    }

    fn fail_all(&self, why: &Arc<str>) {
        for (_, answer) in self.waiting.lock().drain() {
            let _gave_up = answer.send(Err(Lost::Broken(Arc::clone(why))));
        }
    }
}

/// Serves requests from `queue` until the connection breaks or is too silent, and says why it ended; `None` when the
/// queue was closed. Requests that were not taken from the queue stay there. `given_up` tells of callers that gave up.
pub(crate) async fn serve(
    dialed: Dialed,
    first: Outgoing,
    queue: &mut mpsc::Receiver<Outgoing>,
    given_up: &Notify,
) -> Option<String> {
    let in_flight = InFlight::new(dialed.reader.arrived());
    let why = {
        let reading = std::pin::pin!(read(dialed.reader, &in_flight));
        let writing = std::pin::pin!(write(dialed.socket, first, queue, &in_flight));
        tokio::select! {
            biased;
            end = reading => Some(end.to_string()),
            () = in_flight.is_silent(given_up) => Some(format!("not a byte has come for {SILENCE_MAX:?}")),
            end = writing => end.err().map(|error| error.to_string()),
        }
    };
    let told: Arc<str> = why.as_deref().unwrap_or("this broker is stopping").into();
    in_flight.fail_all(&told);
    why
}

async fn read(mut reader: Reader, in_flight: &InFlight) -> ReadEnd {
    loop {
        match reader.next_frame().await {
            // The memory of an answer is its caller's from here on.
            Ok((frame, _permit)) => in_flight.answer(frame),
            Err(end) => return end,
        }
    }
}

async fn write(
    mut socket: WriteHalf,
    first: Outgoing,
    queue: &mut mpsc::Receiver<Outgoing>,
    in_flight: &InFlight,
) -> io::Result<()> {
    let mut outbound = Outbound::default();
    let mut next = Some(first);
    loop {
        let Some(request) = next.take() else {
            match queue.recv().await {
                Some(request) => next = Some(request),
                None => return Ok(()),
            }
            continue;
        };
        gather(request, &mut outbound, in_flight);
        while outbound.len() < OUTBOUND_BYTES_MAX {
            let Ok(request) = queue.try_recv() else { break };
            gather(request, &mut outbound, in_flight);
        }
        flush(&mut socket, &mut outbound).await?;
    }
}

fn gather(request: Outgoing, outbound: &mut Outbound, in_flight: &InFlight) {
    if request.is_given_up() {
        return;
    }
    let Outgoing { frame, correlation, answer } = request;
    // Known before the first byte goes out: the answer may be quicker than this task.
    if let Some(answer) = answer {
        in_flight.insert(correlation, answer);
    }
    outbound.push(frame);
}

/// A peer that takes nothing holds this up for as long as its machine confirms what was sent: its callers' time limits
/// end, and the connection once nothing has come on it for [`SILENCE_MAX`].
async fn flush(socket: &mut WriteHalf, outbound: &mut Outbound) -> io::Result<()> {
    outbound.seal_gathered();
    while !outbound.is_empty() {
        let attempt = socket.try_write_vectored(&outbound.slices());
        match attempt {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => outbound.advance(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
