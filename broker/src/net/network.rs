//! The network as an argument: who listens and connects, so that a simulation can take the machine's place.
//!
//! Production runs on [`TcpNetwork`]. The types of [`socket`](crate::net::socket) name tokio's sockets outright and a
//! supplied one only as their other variant, so that bytes take no detour for the sake of a test.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream};

use crate::net::socket::Socket;

/// Where a broker listens and what it connects through.
pub trait Network: Debug + Send + Sync {
    /// Listens on `host:port`; port 0 takes any free one.
    fn bind<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Listener>>;

    /// Connects to `host:port`. `ConnectionRefused` says that the machine is there and nobody listens: whoever hears it
    /// takes the process for gone. Dropping the future gives the attempt up.
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Socket>>;
}

/// A listener that is not the machine's.
pub trait SuppliedListener: Send + Sync {
    /// Where it listens.
    ///
    /// # Errors
    /// When it does not any more.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// The next connection and where it comes from. Dropping the future loses none.
    fn accept(&self) -> BoxFuture<'_, io::Result<(Socket, SocketAddr)>>;
}

/// Something that accepts connections.
pub enum Listener {
    /// The machine's.
    Tcp(TcpListener),
    /// Another, such as a simulation's.
    Supplied(Box<dyn SuppliedListener>),
}

impl Listener {
    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Supplied(listener) => listener.local_addr(),
        }
    }

    /// The next connection and where it comes from. Dropping the future loses none.
    ///
    /// # Errors
    /// What the system says; some errors are about one connection, some about all.
    pub async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, peer)| (Socket::Tcp(stream), peer)),
            Self::Supplied(listener) => listener.accept().await,
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

/// The machine's network.
#[derive(Clone, Copy, Debug)]
pub struct TcpNetwork;

impl Network for TcpNetwork {
    fn bind<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Listener>> {
        async move { TcpListener::bind((host, port)).await.map(Listener::Tcp) }.boxed()
    }

    fn connect<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Socket>> {
        async move { TcpStream::connect((host, port)).await.map(Socket::Tcp) }.boxed()
    }
}
