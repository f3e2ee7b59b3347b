//! The receiving half of a connection: bytes to frames, each admitted before it is read in full.
//!
//! Buffers follow the traffic: none while the connection is idle, a small one for small frames, and one of exactly its
//! size for a large frame, because a stored batch keeps the buffer it arrived in alive. For the same reason the record
//! bytes of a small frame are moved out of the shared buffer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, BufMut, BytesMut};
use streambus_protocol::frame::{Frame, FrameDecoder, FrameError};
use streambus_protocol::limits::FRAME_BYTES_MAX_BEFORE_HANDSHAKE;
use streambus_protocol::preface::PREFACE_BYTES;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::net::admission::{ChargeRefused, RequestBudget, RequestPermit};
use crate::net::limits::NetLimits;
use crate::net::preface::PREFACE_DETECT_BYTES;
use crate::net::progress::Progress;
use crate::net::socket::ReadHalf;

/// The first buffer of a connection that wakes up.
const BUFFER_BYTES_MIN: usize = 4 * 1024;
/// Read ahead at most this much when frames are small.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// A frame of this size gets a buffer of its own.
const LARGE_FRAME_BYTES: usize = 16 * 1024;
/// What a frame may take of memory and budget grows at most by this factor of what has arrived of it: a declared length
/// alone takes next to nothing from others.
const GROWTH_MAX: usize = 4;
/// What a frame may take before anything of it has arrived.
const CHARGED_BYTES_MIN: usize = 4 * 1024;

/// Why no further frame comes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadEnd {
    /// The peer closed its side between two frames.
    #[error("the peer closed it")]
    Closed,
    /// The broker is draining, or the other half of the connection ended.
    #[error("the broker closes it")]
    Closing,
    /// A request was answered with the end of the connection.
    #[error("a request was refused for good")]
    Refused,
    /// The peer closed its side inside a frame.
    #[error("the peer closed it inside a frame")]
    Truncated,
    /// The handshake took too long.
    #[error("the handshake took too long")]
    HandshakeTimeout,
    /// Nothing was asked for longer than the idle timeout.
    #[error("it was idle for too long")]
    Idle,
    /// A frame arrived slower than the minimum rate.
    #[error("a frame arrived too slowly")]
    TooSlow,
    /// Requests in flight left no room for the rest of a frame.
    #[error("requests in flight left no room for the rest of a frame: raise `limits.inflight_bytes`")]
    NoRoom,
    /// What arrived is no frame.
    #[error(transparent)]
    Frame(FrameError),
    /// The socket failed.
    #[error(transparent)]
    Failed(io::Error),
}

/// The receiving half.
pub(crate) struct Reader {
    socket: ReadHalf,
    limits: NetLimits,
    budget: RequestBudget,
    closing: CancellationToken,
    decoder: FrameDecoder,
    buffer: BytesMut,
    buffer_bytes: usize,
    handshake_by: Option<Instant>,
    /// The frame that is being received, if a byte of it has arrived.
    open_frame: Option<Progress>,
    received_bytes: usize,
    /// All bytes received so far, for whoever watches from outside.
    arrived: Arc<AtomicU64>,
}

impl Reader {
    /// A reader that expects the handshake to be complete at `handshake_by`.
    pub(crate) fn new(
        socket: ReadHalf,
        limits: NetLimits,
        budget: RequestBudget,
        closing: CancellationToken,
        handshake_by: Instant,
    ) -> Self {
        Self {
            socket,
            limits,
            budget,
            closing,
            decoder: FrameDecoder::new(FRAME_BYTES_MAX_BEFORE_HANDSHAKE.min(limits.frame_bytes_max)),
            buffer: BytesMut::new(),
            buffer_bytes: BUFFER_BYTES_MIN,
            handshake_by: Some(handshake_by),
            open_frame: None,
            received_bytes: 0,
            arrived: Arc::default(),
        }
    }

    /// Lifts the limits that hold before the handshake.
    pub(crate) fn handshake_completed(&mut self) {
        self.handshake_by = None;
        self.decoder.set_frame_bytes_max(self.limits.frame_bytes_max);
    }

    /// Bytes received since the last call.
    pub(crate) fn take_received_bytes(&mut self) -> usize {
        std::mem::take(&mut self.received_bytes)
    }

    /// How many bytes have come so far, also while a frame is being received.
    pub(crate) fn arrived(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.arrived)
    }

    /// The first bytes of the connection, left in place for [`Reader::take_preface`].
    pub(crate) async fn peek_preface(&mut self) -> Result<[u8; PREFACE_DETECT_BYTES], ReadEnd> {
        loop {
            if let Some(first) = self.buffer.first_chunk::<PREFACE_DETECT_BYTES>() {
                return Ok(*first);
            }
            self.fill(PREFACE_DETECT_BYTES, 0).await?;
        }
    }

    /// The client's preface, taken off the connection.
    pub(crate) async fn take_preface(&mut self) -> Result<[u8; PREFACE_BYTES], ReadEnd> {
        loop {
            if let Some(preface) = self.buffer.first_chunk::<PREFACE_BYTES>().copied() {
                self.open_frame = None;
                self.buffer.advance(PREFACE_BYTES);
                return Ok(preface);
            }
            self.fill(PREFACE_BYTES, 0).await?;
        }
    }

    /// The next frame with its admission. The permit is taken once the length is known, and what it charges grows with
    /// what arrives.
    pub(crate) async fn next_frame(&mut self) -> Result<(Frame, RequestPermit), ReadEnd> {
        let mut permit = None;
        loop {
            let declared = self.decoder.declared_bytes(&self.buffer).map_err(ReadEnd::Frame)?;
            if let (Some(frame_bytes), None) = (declared, &permit) {
                permit = Some(self.admit(frame_bytes).await?);
                if self.buffer.len() < frame_bytes {
                    let mut progress = Progress::start(Instant::now(), &self.limits);
                    progress.expect(frame_bytes);
                    self.open_frame = Some(progress);
                }
            }
            if let (Some(frame_bytes), Some(permit)) = (declared, &mut permit) {
                self.charge(frame_bytes, permit).await?;
            }
            match (self.decoder.decode(&mut self.buffer).map_err(ReadEnd::Frame)?, permit.take()) {
                (Some(mut frame), Some(admitted)) => {
                    self.open_frame = None;
                    if declared.is_some_and(|bytes| bytes < LARGE_FRAME_BYTES) && !frame.payload.is_empty() {
                        frame.payload = BytesMut::from(frame.payload.as_ref());
                    }
                    return Ok((frame, admitted));
                }
                (_, kept) => permit = kept,
            }
            self.fill(declared.unwrap_or(0), permit.as_ref().map_or(0, RequestPermit::charged)).await?;
        }
    }

    async fn admit(&mut self, frame_bytes: usize) -> Result<RequestPermit, ReadEnd> {
        let charged = charged_bytes(frame_bytes, self.buffer.len());
        if let Some(permit) = self.budget.try_admit(frame_bytes, charged) {
            return Ok(permit);
        }
        // No deadline: requests in flight end by their own deadlines, and slow readers are cut by the writer.
        tokio::select! {
            () = self.closing.cancelled() => Err(ReadEnd::Closing),
            permit = self.budget.admit(frame_bytes, charged) => permit.ok_or(ReadEnd::Closing),
        }
    }

    /// Charges more once what was charged has arrived.
    async fn charge(&mut self, frame_bytes: usize, permit: &mut RequestPermit) -> Result<(), ReadEnd> {
        let held = self.buffer.len();
        if held < permit.charged() && held < frame_bytes {
            return Ok(());
        }
        let charged = charged_bytes(frame_bytes, held);
        if self.budget.try_charge(permit, charged) {
            return Ok(());
        }
        let waiting_since = Instant::now();
        tokio::select! {
            biased;
            refused = self.budget.charge(permit, charged) => refused.map_err(|refused| match refused {
                ChargeRefused::Closed => ReadEnd::Closing,
                ChargeRefused::NoRoom => ReadEnd::NoRoom,
            })?,
            () = self.closing.cancelled() => return Err(ReadEnd::Closing),
        }
        if let Some(progress) = &mut self.open_frame {
            progress.forgive(waiting_since.elapsed());
        }
        Ok(())
    }

    /// Receives at least one byte; `frame_bytes` is the size of the open frame, 0 when it is not known, and `charged` what
    /// may be held of it.
    async fn fill(&mut self, frame_bytes: usize, charged: usize) -> Result<(), ReadEnd> {
        loop {
            // Looked at before every receive: a peer that sends without a pause would never let the reader wait.
            if self.closing.is_cancelled() {
                return Err(ReadEnd::Closing);
            }
            let room = self.make_room(frame_bytes, charged);
            match self.socket.try_read_buf(&mut (&mut self.buffer).limit(room)) {
                Ok(0) if self.buffer.is_empty() => return Err(ReadEnd::Closed),
                Ok(0) => return Err(ReadEnd::Truncated),
                Ok(received) => {
                    self.account(received, room);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_readable().await?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadEnd::Failed(error)),
            }
        }
    }

    /// Makes room and returns how much to receive now.
    fn make_room(&mut self, frame_bytes: usize, charged: usize) -> usize {
        let held = self.buffer.len();
        let missing = frame_bytes.saturating_sub(held);
        if frame_bytes < LARGE_FRAME_BYTES {
            let room = missing.min(grown(held)).max(self.buffer_bytes);
            self.buffer.reserve(room);
            return room;
        }
        self.buffer_bytes = BUFFER_BYTES_MIN;
        let room = missing.min(charged.saturating_sub(held)).min(grown(held).saturating_sub(held)).max(1);
        let spare = self.buffer.capacity() - held;
        if spare < room {
            // Not `reserve`: it doubles, and the doubled buffer would live as long as the batch.
            let mut exact = BytesMut::with_capacity(held + room);
            exact.extend_from_slice(&self.buffer);
            self.buffer = exact;
        }
        room
    }

    fn account(&mut self, received: usize, room: usize) {
        self.received_bytes = self.received_bytes.saturating_add(received);
        // It orders nothing: what came is handed over by other means.
        self.arrived.fetch_add(u64::try_from(received).unwrap_or(u64::MAX), Ordering::Relaxed);
        if let Some(progress) = &mut self.open_frame {
            progress.moved(received);
        }
        if room == self.buffer_bytes {
            if received == room {
                self.buffer_bytes = (self.buffer_bytes * 2).min(BUFFER_BYTES_MAX);
            } else if received < room / 4 {
                self.buffer_bytes = (self.buffer_bytes / 2).max(BUFFER_BYTES_MIN);
            }
        }
    }

    async fn wait_readable(&mut self) -> Result<(), ReadEnd> {
        if self.buffer.is_empty() {
            // An idle connection holds no buffer.
            self.buffer = BytesMut::new();
        } else if self.open_frame.is_none() {
            self.open_frame = Some(Progress::start(Instant::now(), &self.limits));
        }
        loop {
            let frame_by = self.open_frame.as_ref().map(Progress::deadline);
            let (by, late) = match (self.handshake_by, frame_by) {
                (Some(handshake), Some(frame)) if frame < handshake => (frame, ReadEnd::TooSlow),
                (Some(handshake), _) => (handshake, ReadEnd::HandshakeTimeout),
                (None, Some(frame)) => (frame, ReadEnd::TooSlow),
                (None, None) => (Instant::now() + self.limits.idle_timeout, ReadEnd::Idle),
            };
            tokio::select! {
                biased;
                ready = timeout_at(by, self.socket.readable()) => match ready {
                    Ok(Ok(())) => return Ok(()),
                    Ok(Err(error)) => return Err(ReadEnd::Failed(error)),
                    // A parked fetch or a subscription is no idleness.
                    Err(_elapsed) if matches!(late, ReadEnd::Idle) && !self.budget.is_idle(1) => {}
                    Err(_elapsed) => return Err(late),
                },
                () = self.closing.cancelled() => return Err(ReadEnd::Closing),
            }
        }
    }

    /// Reads and forgets until the peer closes, `until` passes or `bytes_max` have come: closing a socket with unread
    /// bytes would reset it, and the peer would lose the last answer.
    pub(crate) async fn discard(mut self, until: Instant, bytes_max: usize) {
        let mut scratch = [0; 4096];
        let mut left = bytes_max;
        while left > 0 {
            match self.socket.try_read(&mut scratch) {
                Ok(0) => return,
                Ok(received) => left = left.saturating_sub(received),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match timeout_at(until, self.socket.readable()).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) | Err(_) => return,
                    }
                }
                Err(_) => return,
            }
        }
    }
}

/// What a frame of which `held` bytes have arrived may charge.
fn charged_bytes(frame_bytes: usize, held: usize) -> usize {
    if held >= frame_bytes { frame_bytes } else { frame_bytes.min(grown(held)) }
}

fn grown(held: usize) -> usize {
    held.saturating_mul(GROWTH_MAX).max(CHARGED_BYTES_MIN)
}
