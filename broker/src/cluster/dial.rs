//! Opening a connection to another broker: socket, preface, handshake.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use streambus_protocol::api::peer::{PeerHandshakeRequest, PeerHandshakeResponse, PeerLane};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::api::{decode_response, encode_request};
use streambus_protocol::ids::{BrokerId, CorrelationId};
use streambus_protocol::preface::{BrokerPreface, ClientPreface};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::local::LocalBroker;
use crate::config::address::HostPort;
use crate::net::admission::{Admission, RequestBudget};
use crate::net::limits::NetLimits;
use crate::net::reader::{ReadEnd, Reader};

/// How long connecting and the handshake may take together.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Sent bytes that the other machine does not confirm for this long break the connection. A peer whose process stands
/// still confirms; one that is cut off or without power does not.
const UNCONFIRMED_MAX: Duration = Duration::from_secs(3);
/// The same for a connection on which nothing is sent.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// An open connection whose handshake is done.
pub(crate) struct Dialed {
    pub(crate) reader: Reader,
    pub(crate) socket: OwnedWriteHalf,
    pub(crate) peer: PeerHandshakeResponse,
}

/// Why no connection came about. Nothing was asked on it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The socket did not connect, or broke before the handshake was done.
    #[error("{address}: {source}")]
    Socket {
        /// Where.
        address: HostPort,
        /// What the system says.
        source: io::Error,
    },
    /// Nobody answered in time.
    #[error("{address}: no handshake within {DIAL_TIMEOUT:?}")]
    TimedOut {
        /// Where.
        address: HostPort,
    },
    /// What answered is no cluster listener of this version.
    #[error("{address}: {what}: is it the address of a cluster listener?")]
    Protocol {
        /// Where.
        address: HostPort,
        /// What is wrong.
        what: String,
    },
    /// The other broker does not want this connection.
    #[error("{address}: {error}")]
    Refused {
        /// Where.
        address: HostPort,
        /// Its reason.
        error: ErrorBody,
    },
}

/// What a dialler brings along for every connection.
#[derive(Clone, Debug)]
pub(crate) struct Dialler {
    pub(crate) local: LocalBroker,
    pub(crate) admission: Arc<Admission>,
}

impl Dialler {
    pub(crate) fn limits(&self) -> &NetLimits {
        self.admission.limits()
    }

    /// Connects to `address` for `lane`; `expected` must be who answers, if it is given.
    pub(crate) async fn dial(
        &self,
        address: &HostPort,
        expected: Option<BrokerId>,
        lane: PeerLane,
        closing: CancellationToken,
    ) -> Result<Dialed, DialError> {
        let hello = self.local.handshake(expected, lane);
        match tokio::time::timeout(DIAL_TIMEOUT, self.attempt(address, &hello, closing)).await {
            Ok(dialed) => dialed,
            Err(_elapsed) => Err(DialError::TimedOut { address: address.clone() }),
        }
    }

    async fn attempt(
        &self,
        address: &HostPort,
        hello: &PeerHandshakeRequest,
        closing: CancellationToken,
    ) -> Result<Dialed, DialError> {
        let broken = |source: io::Error| DialError::Socket { address: address.clone(), source };
        let protocol = |what: String| DialError::Protocol { address: address.clone(), what };
        let read = |end: ReadEnd| match end {
            ReadEnd::Failed(source) => broken(source),
            end => protocol(end.to_string()),
        };
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(broken)?;
        tune(&stream).map_err(broken)?;
        let (read_half, mut socket) = stream.into_split();
        let correlation = CorrelationId::new(0);
        let mut opening = BytesMut::from(&ClientPreface::CURRENT.encode()[..]);
        for chunk in encode_request(hello, correlation, 0).into_chunks() {
            opening.extend_from_slice(&chunk);
        }
        socket.write_all(&opening).await.map_err(broken)?;

        let budget = RequestBudget::new(&self.admission);
        let mut reader = Reader::new(read_half, *self.limits(), budget, closing, Instant::now() + DIAL_TIMEOUT);
        let preface = reader.take_preface().await.map_err(read)?;
        let answer =
            BrokerPreface::decode(preface, ClientPreface::CURRENT).map_err(|error| protocol(error.to_string()))?;
        if answer.version.is_none() {
            return Err(protocol("it speaks no protocol version that this broker speaks".to_owned()));
        }
        let (frame, _permit) = reader.next_frame().await.map_err(read)?;
        if frame.header.correlation != correlation {
            return Err(protocol("the first frame answers another request".to_owned()));
        }
        let peer = decode_response::<PeerHandshakeResponse>(frame)
            .map_err(|error| protocol(format!("the handshake's answer does not decode: {error}")))?
            .map_err(|error| DialError::Refused { address: address.clone(), error })?;
        reader.handshake_completed();
        Ok(Dialed { reader, socket, peer })
    }
}

/// Makes a connection between brokers quick to send and quick to break.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNCONFIRMED_MAX))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(3))
}
