//! Turmoil's network as brokers and clients take it, with what it leaves out of TCP.
//!
//! Turmoil drops what is sent over a cut link for good, and never breaks a connection by itself. TCP retransmits: so a
//! short freeze holds messages back, and a cut breaks the connections across it, after the time that brokers allow
//! unconfirmed bytes, or when it ends. A connect across a cut waits, as it does without an answer; only a machine that
//! runs without the process refuses.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use streambus_broker::net::network::{Listener, Network, SuppliedListener};
use streambus_broker::net::socket::{Socket, SuppliedReader, SuppliedWriter};
use streambus_client::connector::{Connector, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use turmoil::net::{TcpListener, TcpStream};

use crate::trace::Trace;

/// What one write puts on the wire at most.
const SEGMENT_BYTES_MAX: usize = 32 * 1024;
/// What one read takes.
const READ_BYTES: usize = 64 * 1024;

/// What is left of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    /// Its process runs.
    Serving,
    /// The process is gone; the machine refuses connections.
    WithoutProcess,
    /// Nobody answers.
    Dark,
}

/// What every host of a run shares about the network.
#[derive(Clone, Debug)]
pub(crate) struct Wires {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
    trace: Trace,
}

#[derive(Debug, Default)]
struct State {
    /// How many faults block the way from one host to another.
    blocked: BTreeMap<(String, String), u32>,
    machines: BTreeMap<String, Machine>,
    lines: Vec<Weak<Line>>,
}

impl Wires {
    pub(crate) fn new(trace: Trace) -> Self {
        Self { state: Arc::default(), changed: Arc::new(watch::channel(0).0), trace }
    }

    /// Blocks the way from `from` to `to`; true when it was open.
    pub(crate) fn block(&self, from: &str, to: &str) -> bool {
        let mut state = self.state.lock();
        let count = state.blocked.entry((from.to_owned(), to.to_owned())).or_default();
        *count += 1;
        let is_first = *count == 1;
        drop(state);
        self.changed.send_modify(|changes| *changes += 1);
        is_first
    }

    /// Takes one block away; true when the way is open now.
    pub(crate) fn unblock(&self, from: &str, to: &str) -> bool {
        let mut state = self.state.lock();
        let count = state.blocked.entry((from.to_owned(), to.to_owned())).or_default();
        *count = count.saturating_sub(1);
        let is_open = *count == 0;
        drop(state);
        self.changed.send_modify(|changes| *changes += 1);
        is_open
    }

    pub(crate) fn set_machine(&self, host: &str, machine: Machine) {
        self.state.lock().machines.insert(host.to_owned(), machine);
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// Breaks every connection between the two, at both ends.
    pub(crate) fn break_lines(&self, one: &str, other: &str) {
        let mut broken = Vec::new();
        let mut state = self.state.lock();
        state.lines.retain(|line| line.strong_count() > 0);
        for line in state.lines.iter().filter_map(Weak::upgrade) {
            if (line.local == one && line.remote == other) || (line.local == other && line.remote == one) {
                broken.push(line);
            }
        }
        drop(state);
        for line in broken {
            line.broken.cancel();
        }
    }

    pub(crate) fn is_cut(&self, one: &str, other: &str) -> bool {
        let state = self.state.lock();
        let is_blocked =
            |from: &str, to: &str| state.blocked.get(&(from.to_owned(), to.to_owned())).is_some_and(|count| *count > 0);
        is_blocked(one, other) || is_blocked(other, one)
    }

    fn machine(&self, host: &str) -> Machine {
        self.state.lock().machines.get(host).copied().unwrap_or(Machine::Serving)
    }

    fn line(&self, local: &str, remote: &str, stream: TcpStream, silent: &Arc<AtomicBool>) -> Arc<Line> {
        let line = Arc::new(Line {
            local: local.to_owned(),
            remote: remote.to_owned(),
            stream: Mutex::new(stream),
            broken: CancellationToken::new(),
            silent: Arc::clone(silent),
            trace: self.trace.clone(),
        });
        self.state.lock().lines.push(Arc::downgrade(&line));
        line
    }
}

/// The network as one host has it.
#[derive(Clone, Debug)]
pub(crate) struct HostNetwork {
    pub(crate) me: String,
    pub(crate) wires: Wires,
    /// True once the host's process is dead, in the middle of a tick: what it still seems to send was never sent.
    pub(crate) silent: Arc<AtomicBool>,
}

impl HostNetwork {
    async fn open(&self, host: &str, port: u16) -> io::Result<Arc<Line>> {
        let mut changes = self.wires.changed.subscribe();
        loop {
            changes.mark_unchanged();
            let is_unreachable = self.wires.is_cut(&self.me, host) || self.wires.machine(host) == Machine::Dark;
            if is_unreachable {
                changes.changed().await.map_err(io::Error::other)?;
                continue;
            }
            if self.wires.machine(host) == Machine::WithoutProcess {
                sleep(Duration::from_millis(1)).await;
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let attempt = TcpStream::connect((host, port));
            let opened = tokio::select! {
                biased;
                opened = attempt => opened,
                // Turmoil delivers nothing to a host that is down, and drops across a cut: look again.
                _ = changes.changed() => continue,
            };
            match opened {
                Err(_) if self.wires.is_cut(&self.me, host) => {}
                Ok(stream) => return Ok(self.wires.line(&self.me, host, stream, &self.silent)),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Network for HostNetwork {
    fn bind<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Listener>> {
        async move {
            let listener = TcpListener::bind((host, port)).await?;
            Ok(Listener::Supplied(Box::new(HostListener { listener, network: self.clone() })))
        }
        .boxed()
    }

    fn connect<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Socket>> {
        async move {
            let line = self.open(host, port).await?;
            Ok(Socket::Supplied(Box::new(LineReader::new(Arc::clone(&line))), Box::new(LineWriter::new(line))))
        }
        .boxed()
    }
}

impl Connector for HostNetwork {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Transport>> {
        let (network, address) = (self.clone(), address.to_owned());
        async move {
            let (host, port) = address.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
            let line = network.open(host, port.parse().map_err(io::Error::other)?).await?;
            let (reader, writer) = (LineReader::new(Arc::clone(&line)), LineWriter::new(line));
            Ok(Transport { reader: Box::new(reader), writer: Box::new(writer) })
        }
        .boxed()
    }
}

struct HostListener {
    listener: TcpListener,
    network: HostNetwork,
}

impl SuppliedListener for HostListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(Socket, SocketAddr)>> {
        async move {
            let (stream, peer) = self.listener.accept().await?;
            let from = turmoil::reverse_lookup(peer.ip()).unwrap_or_else(|| peer.ip().to_string());
            let line = self.network.wires.line(&self.network.me, &from, stream, &self.network.silent);
            let halves = (LineReader::new(Arc::clone(&line)), LineWriter::new(line));
            Ok((Socket::Supplied(Box::new(halves.0), Box::new(halves.1)), peer))
        }
        .boxed()
    }
}

/// One end of a connection.
#[derive(Debug)]
struct Line {
    local: String,
    remote: String,
    stream: Mutex<TcpStream>,
    broken: CancellationToken,
    silent: Arc<AtomicBool>,
    trace: Trace,
}

impl Line {
    fn check(&self) -> io::Result<()> {
        match self.broken.is_cancelled() {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(()),
        }
    }
}

/// The receiving side of one end.
struct LineReader {
    line: Arc<Line>,
    broken: Pin<Box<WaitForCancellationFutureOwned>>,
    arrived: Vec<u8>,
    taken: usize,
    is_over: bool,
}

impl LineReader {
    fn new(line: Arc<Line>) -> Self {
        let broken = Box::pin(line.broken.clone().cancelled_owned());
        Self { line, broken, arrived: Vec::new(), taken: 0, is_over: false }
    }
}

impl SuppliedReader for LineReader {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line.check()?;
        if self.taken < self.arrived.len() || self.is_over {
            return Poll::Ready(Ok(()));
        }
        if self.broken.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.arrived.resize(READ_BYTES, 0);
        let mut buffer = ReadBuf::new(&mut self.arrived);
        let read = Pin::new(&mut *self.line.stream.lock()).poll_read(cx, &mut buffer);
        let count = buffer.filled().len();
        self.arrived.truncate(count);
        self.taken = 0;
        match read {
            Poll::Ready(Ok(())) => {
                self.is_over = count == 0;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.line.check()?;
        let waiting = &self.arrived[self.taken..];
        if waiting.is_empty() {
            return if self.is_over { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let count = waiting.len().min(buffer.len());
        buffer[..count].copy_from_slice(&waiting[..count]);
        self.taken += count;
        Ok(count)
    }
}

impl AsyncRead for LineReader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.poll_readable(cx) {
            Poll::Ready(Ok(())) => {
                let count = self.try_read(buffer.initialize_unfilled())?;
                buffer.advance(count);
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

/// The sending side of one end.
struct LineWriter {
    line: Arc<Line>,
    broken: Pin<Box<WaitForCancellationFutureOwned>>,
    is_shut: bool,
}

impl LineWriter {
    fn new(line: Arc<Line>) -> Self {
        let broken = Box::pin(line.broken.clone().cancelled_owned());
        Self { line, broken, is_shut: false }
    }
}

impl SuppliedWriter for LineWriter {
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let stream = self.line.stream.lock();
        // What it waits for is kept by the stream, not by the future.
        pin!(stream.writable()).poll(cx)
    }

    fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.line.check()?;
        let mut segment = Vec::new();
        for slice in slices {
            let room = SEGMENT_BYTES_MAX - segment.len();
            segment.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        if self.line.silent.load(Ordering::Relaxed) {
            return Ok(segment.len());
        }
        let sent = self.line.stream.lock().try_write(&segment)?;
        let (to, sum) = (&self.line.remote, crc32c::crc32c(&segment[..sent]));
        self.line.trace.line(&self.line.local, &format!("sends {to} {sent} bytes {sum:08x}"));
        Ok(sent)
    }

    fn shutdown(&mut self) -> io::Result<()> {
        self.is_shut = true;
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(&mut *self.line.stream.lock()).poll_shutdown(&mut cx) {
            Poll::Ready(shut) => shut,
            Poll::Pending => Ok(()),
        }
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        if !self.is_shut && turmoil::in_simulation() && !self.line.silent.load(Ordering::Relaxed) {
            // A connection that is gone already is closed enough.
            let _gone = self.shutdown();
        }
    }
}

impl AsyncWrite for LineWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.try_write_vectored(&[IoSlice::new(bytes)]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self.poll_writable(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                },
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shutdown())
    }
}
