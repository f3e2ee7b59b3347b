//! Opens a connection: transport, preface, handshake; then the two tasks take over.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};

use bytes::BytesMut;
use parking_lot::Mutex;
use streambus_protocol::api::session::{HandshakeRequest, HandshakeResponse};
use streambus_protocol::api::{decode_response, encode_request};
use streambus_protocol::frame::{Flags, Frame, FrameDecoder};
use streambus_protocol::ids::{ClusterId, CorrelationId};
use streambus_protocol::limits::{FRAME_BYTES_MAX_BEFORE_HANDSHAKE, FRAME_HEADER_BYTES};
use streambus_protocol::preface::{BrokerPreface, ClientPreface, PREFACE_BYTES};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::connection::call_error::CallError;
use crate::connection::connector::{Connector, Transport, TransportReader};
use crate::connection::in_flight::InFlight;
use crate::connection::outbox::Outbox;
use crate::connection::read::Reader;
use crate::connection::{Connection, ConnectionSettings, Shared, run};
use crate::tasks::Tasks;

/// Opens a connection to `address`. A broker of another cluster than `cluster`, when that is given, is refused.
///
/// Dropped before it is done, it leaves nothing behind but a transport that the broker sees closing.
pub(crate) async fn open(
    connector: &dyn Connector,
    address: &str,
    cluster: Option<ClusterId>,
    settings: &ConnectionSettings,
    tasks: &Tasks,
) -> Result<Connection, CallError> {
    match tokio::time::timeout(settings.connect_timeout, attempt(connector, address, cluster, settings, tasks)).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Err(CallError::io(io::ErrorKind::TimedOut, "no connection in time", false)),
    }
}

async fn attempt(
    connector: &dyn Connector,
    address: &str,
    cluster: Option<ClusterId>,
    settings: &ConnectionSettings,
    tasks: &Tasks,
) -> Result<Connection, CallError> {
    let Transport { mut reader, mut writer } = connector.connect(address).await.map_err(unsent)?;
    let hello = HandshakeRequest {
        client_id: settings.client_id.clone(),
        software_name: "streambus-rust".to_owned(),
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster_id: cluster,
    };
    let correlation = CorrelationId::new(0);
    let timeout_ms = u32::try_from(settings.connect_timeout.as_millis()).unwrap_or(u32::MAX);
    // Both at once: a broker that knows the version answers both, and one that does not closes anyway.
    let mut opening = BytesMut::from(&ClientPreface::CURRENT.encode()[..]);
    for chunk in encode_request(&hello, correlation, timeout_ms).into_chunks() {
        opening.extend_from_slice(&chunk);
    }
    writer.write_all(&opening).await.map_err(unsent)?;
    writer.flush().await.map_err(unsent)?;

    let mut preface = [0; PREFACE_BYTES];
    reader.read_exact(&mut preface).await.map_err(unsent)?;
    let chosen =
        BrokerPreface::decode(preface, ClientPreface::CURRENT).map_err(|e| CallError::Protocol(e.to_string()))?;
    if chosen.version.is_none() {
        return Err(CallError::Protocol("the broker speaks no protocol version this client knows".to_owned()));
    }

    let mut decoder = FrameDecoder::new(FRAME_BYTES_MAX_BEFORE_HANDSHAKE);
    let mut buffer = BytesMut::new();
    let frame = first_frame(&mut reader, &mut decoder, &mut buffer).await?;
    if !frame.header.flags.contains(Flags::RESPONSE) || frame.header.correlation != correlation {
        return Err(CallError::Protocol("the first frame is no answer to the handshake".to_owned()));
    }
    let answer: HandshakeResponse = decode_response(frame)
        .map_err(|e| CallError::Protocol(format!("the handshake's answer does not decode: {e}")))?
        .map_err(CallError::Refused)?;

    decoder.set_frame_bytes_max(settings.frame_bytes_max);
    let theirs = usize::try_from(answer.requests_in_flight_max).unwrap_or(usize::MAX);
    let permits = settings.requests_in_flight_max.min(theirs).max(1);
    let shared = Shared {
        address: address.to_owned(),
        broker: answer.broker_id,
        cluster: answer.cluster_id,
        frame_bytes_max: usize::try_from(answer.frame_bytes_max).unwrap_or(usize::MAX).max(FRAME_HEADER_BYTES),
        settings: settings.clone(),
        in_flight: Mutex::new(InFlight::new(settings.request_timeout)),
        permits: Arc::new(Semaphore::new(permits)),
        outbox: Outbox::default(),
        next_subscription: AtomicU32::new(1),
        suspect: AtomicBool::new(false),
        ended: CancellationToken::new(),
    };
    tracing::debug!(broker = %shared.broker, address, version = %answer.software_version, "connected");
    Ok(run(shared, Reader::new(reader, decoder, buffer), writer, tasks))
}

async fn first_frame(
    reader: &mut TransportReader,
    decoder: &mut FrameDecoder,
    buffer: &mut BytesMut,
) -> Result<Frame, CallError> {
    loop {
        if let Some(frame) = decoder.decode(buffer).map_err(|e| CallError::Protocol(e.to_string()))? {
            return Ok(frame);
        }
        buffer.reserve(decoder.read_reserve(buffer));
        if reader.read_buf(buffer).await.map_err(unsent)? == 0 {
            return Err(CallError::io(
                io::ErrorKind::UnexpectedEof,
                "closed by the broker during the handshake",
                false,
            ));
        }
    }
}

fn unsent(source: io::Error) -> CallError {
    CallError::Io { source: Arc::new(source), sent: false }
}
