//! The sending half of a connection: replies as they complete, in any order, and pushes in between.
//!
//! Replies that are not ready yet are futures held here, so that completing one costs one wake-up and no hand-over.
//! Nothing is polled while the peer does not take what is already encoded: a slow reader stops its own work, and is
//! cut when it stays below the minimum rate.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered, SelectAll, StreamExt};
use streambus_protocol::frame::EncodedFrame;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::metrics::BrokerMetrics;
use crate::net::admission::RequestPermit;
use crate::net::limits::NetLimits;
use crate::net::outbound::Outbound;
use crate::net::progress::Progress;
use crate::net::socket::WriteHalf;

/// No further frame is encoded while this many bytes wait; one more frame may exceed it.
const OUTBOUND_BYTES_MAX: usize = 1024 * 1024;

/// The answer to one request, with the permit that it gives back once it is written.
#[derive(Debug)]
#[must_use]
pub(crate) struct Reply {
    /// The frame to send.
    pub(crate) frame: EncodedFrame,
    /// The request's admission; bytes that were no request have none.
    pub(crate) permit: Option<RequestPermit>,
}

/// What the reading half hands to the writing half.
pub(crate) enum Work {
    /// An answer that is ready.
    Reply(Reply),
    /// An answer that will be.
    Pending(BoxFuture<'static, Reply>),
    /// Frames pushed until the stream ends.
    Pushes(BoxStream<'static, EncodedFrame>),
}

/// Why the writing half ended.
#[derive(Debug)]
pub(crate) enum WriteEnd {
    /// The reading half ended and all answers are written.
    Done,
    /// The peer took bytes slower than the minimum rate.
    TooSlow,
    /// The socket failed.
    Failed(io::Error),
}

/// The sending half.
pub(crate) struct Writer {
    socket: WriteHalf,
    limits: NetLimits,
    metrics: Arc<BrokerMetrics>,
    work: mpsc::UnboundedReceiver<Work>,
    reader_done: bool,
    replies: FuturesUnordered<BoxFuture<'static, Reply>>,
    pushes: SelectAll<BoxStream<'static, EncodedFrame>>,
    outbound: Outbound,
    /// Of the replies in `outbound`; given back together when it is written.
    permits: Vec<RequestPermit>,
}

impl Writer {
    /// A writer for what arrives on `work`, a channel that request slots bound: each item but the few that refuse a
    /// request owns a slot or a subscription's place.
    pub(crate) fn new(
        socket: WriteHalf,
        limits: NetLimits,
        metrics: Arc<BrokerMetrics>,
        work: mpsc::UnboundedReceiver<Work>,
    ) -> Self {
        Self {
            socket,
            limits,
            metrics,
            work,
            reader_done: false,
            replies: FuturesUnordered::new(),
            pushes: SelectAll::new(),
            outbound: Outbound::default(),
            permits: Vec::new(),
        }
    }

    /// Sends until the reading half has ended and everything is answered.
    pub(crate) async fn run(mut self) -> (WriteEnd, WriteHalf) {
        loop {
            poll_fn(|cx| self.poll_gather(cx)).await;
            let end = match self.flush().await {
                Err(end) => Some(end),
                Ok(()) if self.is_finished() => Some(WriteEnd::Done),
                Ok(()) => None,
            };
            if let Some(end) = end {
                return (end, self.socket);
            }
        }
    }

    fn is_finished(&self) -> bool {
        self.reader_done && self.replies.is_empty() && self.pushes.is_empty()
    }

    /// Ready when there is something to write or nothing is left to come.
    fn poll_gather(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.outbound.len() < OUTBOUND_BYTES_MAX {
            let mut progressed = false;
            if !self.reader_done {
                match self.work.poll_recv(cx) {
                    Poll::Ready(Some(work)) => {
                        self.accept(work);
                        progressed = true;
                    }
                    Poll::Ready(None) => self.reader_done = true,
                    Poll::Pending => {}
                }
            }
            if let Poll::Ready(Some(reply)) = self.replies.poll_next_unpin(cx) {
                self.add(reply);
                progressed = true;
            }
            if let Poll::Ready(Some(frame)) = self.pushes.poll_next_unpin(cx) {
                self.outbound.push(frame);
                progressed = true;
            }
            // All three are pending, so each has registered this task's waker.
            if !progressed {
                break;
            }
        }
        if self.outbound.is_empty() && !self.is_finished() { Poll::Pending } else { Poll::Ready(()) }
    }

    fn accept(&mut self, work: Work) {
        match work {
            Work::Reply(reply) => self.add(reply),
            Work::Pending(reply) => self.replies.push(reply),
            Work::Pushes(frames) => self.pushes.push(frames),
        }
    }

    fn add(&mut self, reply: Reply) {
        self.outbound.push(reply.frame);
        self.permits.extend(reply.permit);
    }

    async fn flush(&mut self) -> Result<(), WriteEnd> {
        self.outbound.seal_gathered();
        let total = self.outbound.len();
        // Time is read only once the socket is full: most writes are taken at once.
        let mut progress: Option<Progress> = None;
        while !self.outbound.is_empty() {
            let attempt = self.socket.try_write_vectored(&self.outbound.slices());
            match attempt {
                Ok(0) => return Err(WriteEnd::Failed(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    self.outbound.advance(written);
                    if let Some(progress) = &mut progress {
                        progress.moved(written);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let progress = progress.get_or_insert_with(|| {
                        let mut started = Progress::start(Instant::now(), &self.limits);
                        // The answers hold budgets until they are written.
                        started.expect(total);
                        started
                    });
                    match timeout_at(progress.deadline(), self.socket.writable()).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return Err(WriteEnd::Failed(error)),
                        Err(_elapsed) => return Err(WriteEnd::TooSlow),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(WriteEnd::Failed(error)),
            }
        }
        self.metrics.bytes_out(total);
        self.permits.clear();
        if self.replies.is_empty() {
            self.outbound.release();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use streambus_protocol::payload::Payload;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::net::socket::Socket;

    // Catches a slow reader that holds the budget of a large answer for hours, at the minimum rate.
    #[tokio::test]
    async fn a_large_answer_must_be_taken_within_its_time() {
        const ANSWER_BYTES: usize = 32 << 20;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let mut peer = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
        let (stream, _) = listener.accept().await.expect("accepts");
        let (_reading, writing) = Socket::Tcp(stream).into_split();
        let limits = NetLimits { progress_grace: Duration::from_millis(200), ..NetLimits::default() };
        let (sender, work) = mpsc::unbounded_channel();
        let frame = EncodedFrame { head: Bytes::from(vec![0; ANSWER_BYTES]), payload: Payload::None };
        assert!(sender.send(Work::Reply(Reply { frame, permit: None })).is_ok());
        let writing = Writer::new(writing, limits, Arc::new(BrokerMetrics::new()), work).run();
        // At the minimum rate this much would earn the peer a quarter of an hour.
        let mut taken = vec![0; 1 << 20];
        let both = futures::future::join(writing, peer.read_exact(&mut taken));
        let (ended, read) = tokio::time::timeout(Duration::from_secs(30), both).await.expect("it is cut");
        assert_eq!(read.expect("the first part"), taken.len());
        assert!(matches!(ended.0, WriteEnd::TooSlow), "{:?}", ended.0);
    }
}
