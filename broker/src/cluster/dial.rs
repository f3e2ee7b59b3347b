//! Opening a connection to another broker: socket, preface, handshake.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use streambus_protocol::api::peer::{PeerHandshakeRequest, PeerHandshakeResponse, PeerLane};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::api::{decode_response, encode_request};
use streambus_protocol::ids::{BrokerId, CorrelationId};
use streambus_protocol::preface::{BrokerPreface, ClientPreface};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::local::LocalBroker;
use crate::config::address::HostPort;
use crate::net::admission::{Admission, RequestBudget};
use crate::net::limits::NetLimits;
use crate::net::network::Network;
use crate::net::reader::{ReadEnd, Reader};
use crate::net::socket::{Silence, WriteHalf};

/// How long connecting and the handshake may take together.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Makes a connection between brokers quick to break. A peer whose process stands still confirms; one that is cut off or
/// without power does not.
const SILENCE: Silence = Silence {
    unconfirmed_max: Some(Duration::from_secs(3)),
    tested_after: Duration::from_secs(1),
    tested_every: Duration::from_secs(1),
    tests: Some(3),
};

/// An open connection whose handshake is done.
pub(crate) struct Dialed {
    pub(crate) reader: Reader,
    pub(crate) socket: WriteHalf,
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
    pub(crate) network: Arc<dyn Network>,
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
        let socket = self.network.connect(&address.host, address.port).await.map_err(broken)?;
        socket.tune(SILENCE).map_err(broken)?;
        let (read_half, mut socket) = socket.into_split();
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
