//! Opens transports. The network is a constructor argument: tests and simulations supply in-memory pipes.

use std::io;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// The reading half of a transport.
pub type TransportReader = Box<dyn AsyncRead + Send + Unpin>;
/// The writing half of a transport.
pub type TransportWriter = Box<dyn AsyncWrite + Send + Unpin>;

/// An open transport, in halves.
pub struct Transport {
    /// Bytes from the broker.
    pub reader: TransportReader,
    /// Bytes to the broker.
    pub writer: TransportWriter,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Transport")
    }
}

/// Opens a transport to an address.
pub trait Connector: Send + Sync + 'static {
    /// Opens a transport to `address` (`host:port`). Dropping the future gives up the attempt.
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Transport>>;
}

/// Connects over TCP, without Nagle's delay: the client batches by itself.
#[derive(Clone, Copy, Debug)]
pub struct TcpConnector;

impl Connector for TcpConnector {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Transport>> {
        let address = address.to_owned();
        Box::pin(async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            let (reader, writer) = stream.into_split();
            Ok(Transport { reader: Box::new(reader), writer: Box::new(writer) })
        })
    }
}
