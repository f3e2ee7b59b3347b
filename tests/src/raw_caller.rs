//! Frames by hand, for what no client library would send.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::BytesMut;
use streambus_protocol::api::{Request, decode_error, decode_response, encode_request};

use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::frame::{Flags, Frame, FrameDecoder};
use streambus_protocol::ids::CorrelationId;
use streambus_protocol::preface::{BrokerPreface, ClientPreface, PREFACE_BYTES};

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(10);
/// The largest answer.
const FRAME_BYTES_MAX: usize = 1024 * 1024;

/// A connection of which this side knows nothing but frames.
#[derive(Debug)]
pub struct RawCaller {
    stream: TcpStream,
    decoder: FrameDecoder,
    buffer: BytesMut,
    correlation: u32,
}

impl RawCaller {
    /// Connects and agrees on the protocol's version; no handshake.
    pub fn connect(address: SocketAddr) -> std::io::Result<Self> {
        Self::connect_within(address, LIMIT)
    }

    /// [`RawCaller::connect`], with a limit of its own for connecting and for each answer.
    pub fn connect_within(address: SocketAddr, limit: Duration) -> std::io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.write_all(&ClientPreface::CURRENT.encode())?;
        let mut answer = [0; PREFACE_BYTES];
        stream.read_exact(&mut answer)?;
        BrokerPreface::decode(answer, ClientPreface::CURRENT).map_err(std::io::Error::other)?;
        Ok(Self { stream, decoder: FrameDecoder::new(FRAME_BYTES_MAX), buffer: BytesMut::new(), correlation: 0 })
    }

    /// Sends one request and returns its answer, or the broker's refusal.
    ///
    /// # Errors
    ///
    /// What the socket says; [`std::io::ErrorKind::UnexpectedEof`] when the broker closes instead.
    pub fn call<M: Request>(&mut self, message: &M) -> std::io::Result<Result<M::Response, ErrorBody>> {
        self.correlation += 1;
        for chunk in encode_request(message, CorrelationId::new(self.correlation), 0).into_chunks() {
            self.stream.write_all(&chunk)?;
        }
        let frame = self.frame()?;
        if frame.header.flags.contains(Flags::ERROR) {
            return decode_error(&frame).map(Err).map_err(std::io::Error::other);
        }
        decode_response(frame).map_err(std::io::Error::other)
    }

    fn frame(&mut self) -> std::io::Result<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buffer).map_err(std::io::Error::other)? {
                return Ok(frame);
            }
            let mut chunk = [0; 4096];
            let length = self.stream.read(&mut chunk)?;
            if length == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            self.buffer.extend_from_slice(&chunk[..length]);
        }
    }
}
