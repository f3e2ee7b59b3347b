//! Frames: where one message ends and the next begins, proven by a checksum before anything in them is believed.
//!
//! The layout is in `PROTOCOL.md`, section 3. The checksum covers everything but the record bytes, which carry their
//! own. This module is sans-I/O: it cuts frames out of a buffer that somebody else fills, and says how much that
//! somebody may reserve.

pub mod body;

use bytes::{Buf, Bytes, BytesMut};

use crate::frame::body::Body;
use crate::ids::CorrelationId;
use crate::limits::{FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, READ_AHEAD_BYTES_MAX, READ_IDLE_BYTES};
use crate::payload::Payload;

/// Bytes of the length field, which does not count itself.
const LENGTH_BYTES: usize = 4;
/// Words that a header is written in.
const HEADER_WORDS: usize = FRAME_HEADER_BYTES / size_of::<u64>();
const _: () = assert!(FRAME_HEADER_BYTES.is_multiple_of(size_of::<u64>()));
/// Where the checksum ends; it covers neither itself nor the record bytes.
const CHECKSUM_END: usize = 8;

/// What kind of message a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Flags(u16);

impl Flags {
    /// A request.
    pub const REQUEST: Self = Self(0);
    /// The one answer to a request.
    pub const RESPONSE: Self = Self(1);
    /// With `RESPONSE`: the body is an error, whatever the API.
    pub const ERROR: Self = Self(2);
    /// A message of the broker's own accord, part of a subscription.
    pub const PUSH: Self = Self(4);

    /// Both sets together.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True when every flag of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The wire's 16 bits.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Reads the wire's 16 bits. `None` for a combination with no meaning: a request, a response, an error response
    /// and a push are the only four.
    pub const fn from_wire(bits: u16) -> Option<Self> {
        match bits {
            0 | 1 | 3 | 4 => Some(Self(bits)),
            _ => None,
        }
    }
}

/// A frame's header without lengths and checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The API's number; a number this side does not know is passed on, so that it can be answered.
    pub api: u8,
    /// The API's version.
    pub version: u8,
    /// What kind of message this is.
    pub flags: Flags,
    /// Pairs a response, or a push, with its request.
    pub correlation: CorrelationId,
    /// In a request: milliseconds until the client gives up, 0 for the broker's default. Otherwise 0.
    pub timeout_ms: u32,
}

/// One whole frame whose checksum is right.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The header.
    pub header: FrameHeader,
    /// The message.
    pub body: Body,
    /// The record bytes: disjoint from everything else and mutable, so that a leader can place batches without a copy.
    pub payload: BytesMut,
}

/// Why a connection cannot go on: after any of these the position of the next frame is unknown or not to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The frame is larger than this side takes.
    #[error("a frame of {bytes} bytes is announced, the limit is {max}")]
    TooLarge {
        /// Its whole size.
        bytes: usize,
        /// The limit in force.
        max: usize,
    },
    /// The frame is smaller than its own header.
    #[error("a frame of {bytes} bytes is announced, a header alone has {FRAME_HEADER_BYTES}")]
    TooSmall {
        /// Its whole size.
        bytes: usize,
    },
    /// The body is larger than any body may be.
    #[error("a body of {bytes} bytes is announced, the limit is {FRAME_BODY_BYTES_MAX}")]
    BodyTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The body reaches past its frame.
    #[error("a body of {bytes} bytes is announced in a frame that has room for {room}")]
    BodyBeyondFrame {
        /// Its size.
        bytes: usize,
        /// What the frame has left after the header.
        room: usize,
    },
    /// The bytes are not the ones that were sent.
    #[error("the frame's checksum is {declared:08x}, its bytes give {computed:08x}")]
    Checksum {
        /// What the frame says.
        declared: u32,
        /// What the bytes say.
        computed: u32,
    },
    /// The flags have no meaning together.
    #[error("the frame's flags {0:#06x} have no meaning")]
    Flags(u16),
}

/// The lengths in a frame's first 24 bytes.
#[derive(Clone, Copy)]
struct Lengths {
    frame: usize,
    body: usize,
}

/// Cuts frames out of a receive buffer. It holds no bytes itself, only the limit.
#[derive(Clone, Debug)]
pub struct FrameDecoder {
    frame_bytes_max: usize,
}

impl FrameDecoder {
    /// A decoder that refuses frames of more than `frame_bytes_max` bytes, header included.
    pub const fn new(frame_bytes_max: usize) -> Self {
        Self { frame_bytes_max }
    }

    /// Changes the limit; the handshake raises it.
    pub const fn set_frame_bytes_max(&mut self, frame_bytes_max: usize) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// The limit in force, in bytes, header included.
    pub const fn frame_bytes_max(&self) -> usize {
        self.frame_bytes_max
    }

    /// The whole size of the frame at the start of `buffer`, once its length has arrived. Fails as soon as the length
    /// is out of bounds, so that admission can be asked before anything is reserved.
    pub fn declared_bytes(&self, buffer: &[u8]) -> Result<Option<usize>, FrameError> {
        let Some(length) = buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let bytes = frame_bytes(*length);
        if bytes > self.frame_bytes_max {
            return Err(FrameError::TooLarge { bytes, max: self.frame_bytes_max });
        }
        if bytes < FRAME_HEADER_BYTES {
            return Err(FrameError::TooSmall { bytes });
        }
        Ok(Some(bytes))
    }

    /// How many bytes to make room for before the next read: what the frame at the start of `buffer` still needs, at
    /// least [`READ_IDLE_BYTES`] and at most [`READ_AHEAD_BYTES_MAX`], however much the frame announces. While `buffer` has
    /// room left from before, nothing is added: a slow sender must not make it grow with every read.
    pub fn read_reserve(&self, buffer: &BytesMut) -> usize {
        if buffer.capacity() - buffer.len() >= READ_IDLE_BYTES {
            return READ_IDLE_BYTES;
        }
        match self.declared_bytes(buffer) {
            Ok(Some(bytes)) => bytes.saturating_sub(buffer.len()).clamp(READ_IDLE_BYTES, READ_AHEAD_BYTES_MAX),
            Ok(None) | Err(_) => READ_IDLE_BYTES,
        }
    }

    /// Takes the first frame off `buffer`, or `None` while it is incomplete. Lengths are refused as soon as they have
    /// arrived, the checksum as soon as the frame is whole. After an error the connection must be closed.
    #[inline]
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(head) = buffer.first_chunk::<FRAME_HEADER_BYTES>() else {
            return self.declared_bytes(buffer).map(|_| None);
        };
        let lengths = self.lengths(head)?;
        let checked_end = FRAME_HEADER_BYTES + lengths.body;
        if buffer.len() < lengths.frame {
            return Ok(None);
        }
        let [l0, l1, l2, l3, c0, c1, c2, c3, api, version, f0, f1, i0, i1, i2, i3, t0, t1, t2, t3, ..] = *head;
        let (length, declared) = ([l0, l1, l2, l3], u32::from_le_bytes([c0, c1, c2, c3]));
        if let Some(slot) = buffer.get_mut(LENGTH_BYTES..CHECKSUM_END) {
            slot.copy_from_slice(&length);
        }
        let checked = buffer.get(..checked_end).unwrap_or_default();
        let computed = checksum(checked, u32::from_le_bytes(length));
        if declared != computed {
            return Err(FrameError::Checksum { declared, computed });
        }
        let bits = u16::from_le_bytes([f0, f1]);
        let header = FrameHeader {
            api,
            version,
            flags: Flags::from_wire(bits).ok_or(FrameError::Flags(bits))?,
            correlation: CorrelationId::new(u32::from_le_bytes([i0, i1, i2, i3])),
            timeout_ms: u32::from_le_bytes([t0, t1, t2, t3]),
        };

        let behind_header = buffer.get(FRAME_HEADER_BYTES..).unwrap_or_default();
        let body = match Body::copied(behind_header, lengths.body) {
            Some(body) => {
                buffer.advance(checked_end);
                body
            }
            None => {
                buffer.advance(FRAME_HEADER_BYTES);
                Body::from(buffer.split_to(lengths.body).freeze())
            }
        };
        // Without record bytes, one reference to the buffer less.
        let payload = match lengths.frame - checked_end {
            0 => BytesMut::new(),
            bytes => buffer.split_to(bytes),
        };
        Ok(Some(Frame { header, body, payload }))
    }

    #[inline]
    fn lengths(&self, head: &[u8; FRAME_HEADER_BYTES]) -> Result<Lengths, FrameError> {
        let [l0, l1, l2, l3, .., b0, b1, b2, b3] = *head;
        let frame = frame_bytes([l0, l1, l2, l3]);
        let body = widen(u32::from_le_bytes([b0, b1, b2, b3]));
        if frame > self.frame_bytes_max {
            return Err(FrameError::TooLarge { bytes: frame, max: self.frame_bytes_max });
        }
        let Some(room) = frame.checked_sub(FRAME_HEADER_BYTES) else {
            return Err(FrameError::TooSmall { bytes: frame });
        };
        if body > FRAME_BODY_BYTES_MAX {
            return Err(FrameError::BodyTooLarge { bytes: body });
        }
        if body > room {
            return Err(FrameError::BodyBeyondFrame { bytes: body, room });
        }
        Ok(Lengths { frame, body })
    }
}

/// A frame ready to be sent: header and body in one piece, then the record bytes as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedFrame {
    /// Header and body.
    pub head: Bytes,
    /// Record bytes.
    pub payload: Payload,
}

impl EncodedFrame {
    /// Bytes of the whole frame.
    pub fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    /// Never true: a frame has at least its header.
    pub fn is_empty(&self) -> bool {
        self.head.is_empty()
    }

    /// The frame's chunks, in the order they are to be sent.
    pub fn into_chunks(self) -> impl Iterator<Item = Bytes> {
        std::iter::once(self.head).chain(self.payload)
    }
}

/// Fills in the header of the frame that starts at `start` of `buffer`: there, 24 bytes were left free and the body
/// follows to the buffer's end. A length that does not fit 32 bits becomes `u32::MAX`, which every receiver refuses.
#[inline]
pub(crate) fn seal(buffer: &mut BytesMut, start: usize, header: FrameHeader, payload_bytes: usize) {
    let frame = buffer.get_mut(start..).unwrap_or_default();
    let end = frame.len();
    debug_assert!(end >= FRAME_HEADER_BYTES);
    let frame_length = narrow((end - LENGTH_BYTES).saturating_add(payload_bytes));
    let length = u64::from(frame_length);
    let body = u64::from(narrow(end - FRAME_HEADER_BYTES));
    let FrameHeader { api, version, flags, correlation, timeout_ms } = header;
    let kind = u64::from(api) | u64::from(version) << 8 | u64::from(flags.bits()) << 16;
    // Whole words, because the checksum reads them right back in such steps, and a read waits for writes that are
    // narrower than itself. Where the checksum will stand is the length once more, see `checksum`.
    let words: [u64; HEADER_WORDS] =
        [length | length << 32, kind | u64::from(correlation.get()) << 32, u64::from(timeout_ms) | body << 32];
    if let Some((slot, _)) = frame.split_first_chunk_mut::<FRAME_HEADER_BYTES>() {
        for (slot, word) in slot.chunks_exact_mut(size_of::<u64>()).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
    }
    let checksum = checksum(frame, frame_length);
    if let Some(slot) = frame.get_mut(LENGTH_BYTES..CHECKSUM_END) {
        slot.copy_from_slice(&checksum.to_le_bytes());
    }
}

/// CRC-32C over the length field and over everything from the checksum field's end to the end of `checked`. The caller
/// has put `length` where the checksum stands too, next to the rest, so that one pass does it: for a small frame,
/// starting a second pass costs as much as the first.
///
/// The length is passed over twice, the first time in such a way that nothing comes of it: the pass takes bytes one by
/// one until it is at an address divisible by eight, and where a frame begins is one more often than four bytes behind.
#[inline]
fn checksum(checked: &[u8], length: u32) -> u32 {
    crc32c::crc32c_append(BEFORE_LENGTH ^ length, checked)
}

/// What becomes the checksum of nothing when a length is mixed into it and then appended to it, whatever the length is.
const BEFORE_LENGTH: u32 = {
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    // The checksum of nothing is 0, as a register all ones; from there the register's 32 steps are taken back.
    let mut register = u32::MAX;
    let mut step = 0;
    while step < u32::BITS {
        register = if register >> 31 == 1 { (register ^ POLYNOMIAL) << 1 | 1 } else { register << 1 };
        step += 1;
    }
    !register
};

#[inline]
fn frame_bytes(length: [u8; LENGTH_BYTES]) -> usize {
    widen(u32::from_le_bytes(length)).saturating_add(LENGTH_BYTES)
}

/// A 32-bit length as a size in memory; on a machine too small for it, the largest size, which every limit refuses.
#[inline]
fn widen(length: u32) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

#[inline]
fn narrow(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
