//! An open connection's bytes, in the manner of tokio's sockets: try, and wait for readiness when that would block.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BufMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// What one read of a supplied socket takes at most.
const SUPPLIED_READ_BYTES: usize = 16 * 1024;

/// The receiving side of a connection that is not the machine's.
pub trait SuppliedReader: Send + Sync {
    /// Ready once [`SuppliedReader::try_read`] would not block.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Takes what is there; zero bytes say that the peer closed its side.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there yet; anything else ends the connection.
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

/// The sending side of a connection that is not the machine's. Dropping it closes that side.
pub trait SuppliedWriter: Send + Sync {
    /// Ready once [`SuppliedWriter::try_write_vectored`] would not block.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Sends a beginning of `slices` and says how much.
    ///
    /// # Errors
    /// `WouldBlock` when nothing can be taken now; anything else ends the connection.
    fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Closes this side: the peer reads what was sent, then the end.
    ///
    /// # Errors
    /// When the connection is gone already.
    fn shutdown(&mut self) -> io::Result<()>;
}

/// An open connection.
pub enum Socket {
    /// The machine's.
    Tcp(TcpStream),
    /// Another, such as a simulation's.
    Supplied(Box<dyn SuppliedReader>, Box<dyn SuppliedWriter>),
}

/// How the machine finds out that a peer is gone which sends and confirms nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence {
    /// Sent bytes that the other machine does not confirm for this long break the connection, where the system can.
    pub(crate) unconfirmed_max: Option<Duration>,
    /// A connection on which nothing is sent is tested after this long...
    pub(crate) tested_after: Duration,
    /// ...and again after this long...
    pub(crate) tested_every: Duration,
    /// ...so many times; `None` = as often as the system does.
    pub(crate) tests: Option<u32>,
}

impl Socket {
    /// Sends small writes at once, and notices a silent end as `silence` says. A supplied socket has ends of its own.
    pub(crate) fn tune(&self, silence: Silence) -> io::Result<()> {
        let Self::Tcp(stream) = self else { return Ok(()) };
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        #[cfg(target_os = "linux")]
        if silence.unconfirmed_max.is_some() {
            socket.set_tcp_user_timeout(silence.unconfirmed_max)?;
        }
        let keepalive = TcpKeepalive::new().with_time(silence.tested_after).with_interval(silence.tested_every);
        socket.set_tcp_keepalive(&match silence.tests {
            Some(tests) => keepalive.with_retries(tests),
            None => keepalive,
        })
    }

    pub(crate) fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(stream) => {
                let (reader, writer) = stream.into_split();
                (ReadHalf::Tcp(reader), WriteHalf::Tcp(writer))
            }
            Self::Supplied(reader, writer) => (ReadHalf::Supplied(reader), WriteHalf::Supplied(writer)),
        }
    }
}

/// The receiving half.
pub(crate) enum ReadHalf {
    Tcp(OwnedReadHalf),
    Supplied(Box<dyn SuppliedReader>),
}

impl ReadHalf {
    pub(crate) async fn readable(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.readable().await,
            Self::Supplied(socket) => poll_fn(|cx| socket.poll_readable(cx)).await,
        }
    }

    pub(crate) fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_read(buffer),
            Self::Supplied(socket) => socket.try_read(buffer),
        }
    }

    pub(crate) fn try_read_buf(&mut self, buffer: &mut impl BufMut) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_read_buf(buffer),
            Self::Supplied(socket) => {
                let mut chunk = [0; SUPPLIED_READ_BYTES];
                let (chunk, _) = chunk.split_at_mut(SUPPLIED_READ_BYTES.min(buffer.remaining_mut()));
                let received = socket.try_read(chunk)?;
                let (received, _) = chunk.split_at(received);
                buffer.put_slice(received);
                Ok(received.len())
            }
        }
    }
}

/// The sending half.
pub(crate) enum WriteHalf {
    Tcp(OwnedWriteHalf),
    Supplied(Box<dyn SuppliedWriter>),
}

impl WriteHalf {
    pub(crate) async fn writable(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.writable().await,
            Self::Supplied(socket) => poll_fn(|cx| socket.poll_writable(cx)).await,
        }
    }

    pub(crate) fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_write_vectored(slices),
            Self::Supplied(socket) => socket.try_write_vectored(slices),
        }
    }

    pub(crate) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.write_all(bytes).await,
            Self::Supplied(socket) => {
                while !bytes.is_empty() {
                    match socket.try_write_vectored(&[IoSlice::new(bytes)]) {
                        Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                        Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            poll_fn(|cx| socket.poll_writable(cx)).await?;
                        }
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            }
        }
    }

    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.shutdown().await,
            Self::Supplied(socket) => socket.shutdown(),
        }
    }
}
