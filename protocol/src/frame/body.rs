//! A received body: what a message is read from, and then nothing more.
//!
//! Most bodies are a few dozen bytes, and those are copied out of the receive buffer. One more reference to the buffer
//! costs two atomic writes, the second one, on another thread, to memory that the reader is using; and what waits for its
//! turn would keep the whole buffer.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

/// Bodies of up to this many bytes are copied: a produce or fetch request of one partition fits, and its answer.
const COPIED_BYTES_MAX: usize = 64;

/// The bytes of a body.
#[derive(Clone)]
pub struct Body(Held);

#[derive(Clone)]
enum Held {
    /// The body is what lies before `end`; the rest has no meaning.
    Copied {
        bytes: [u8; COPIED_BYTES_MAX],
        end: usize,
    },
    Shared(Bytes),
}

impl Body {
    /// A copy of the first `end` bytes of `received`, or `None` when they are too many to be copied.
    #[inline]
    pub(super) fn copied(received: &[u8], end: usize) -> Option<Self> {
        if end > COPIED_BYTES_MAX {
            return None;
        }
        let bytes = match received.first_chunk() {
            // As many as there is room for, whatever they are: a copy of a fixed size is a few moves and no call.
            Some(chunk) => *chunk,
            None => {
                let mut bytes = [0; COPIED_BYTES_MAX];
                bytes.get_mut(..end)?.copy_from_slice(received.get(..end)?);
                bytes
            }
        };
        Some(Self(Held::Copied { bytes, end }))
    }
}

impl Deref for Body {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Copied { bytes, end } => bytes.get(..*end).unwrap_or_default(),
            Held::Shared(bytes) => bytes,
        }
    }
}

impl From<Bytes> for Body {
    #[inline]
    fn from(bytes: Bytes) -> Self {
        Self(Held::Shared(bytes))
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

/// Nothing but the body's own bytes: next to a copied one lie bytes of other messages.
impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// Equal when the bytes are.
impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Body {}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::api::peer::RaftCallRequest;
    use crate::api::{decode_body, encode_request_into};
    use crate::frame::FrameDecoder;
    use crate::ids::CorrelationId;

    // Catches a copy that takes bytes of the next message along, or leaves out its own last ones, and a body that shows
    // its neighbour to whoever prints or compares it.
    #[test]
    fn a_copy_has_the_bodys_bytes_and_no_others() {
        let received: Vec<u8> = (1..=200).collect();
        for end in 0..=200 {
            for arrived in [end, end + 1, 200] {
                let received = received.get(..arrived.min(200)).expect("200 bytes");
                let expected = received.get(..end).expect("all of the body has arrived");
                let Some(body) = Body::copied(received, end) else {
                    assert!(end > COPIED_BYTES_MAX, "a body of {end} bytes is not copied");
                    continue;
                };
                assert!(end <= COPIED_BYTES_MAX, "a body of {end} bytes is copied");
                assert_eq!(&*body, expected, "{end} bytes of {arrived}");
                assert_eq!(format!("{body:?}"), format!("{expected:?}"));
                assert_eq!(body, Body::from(expected.to_vec()));
            }
        }
        assert_eq!(Body::copied(&[1, 2, 3], 4), None, "a body that has not arrived");
    }

    // Catches a copied body after which the next frame, or its own record bytes, are looked for in the wrong place.
    #[test]
    fn copied_and_shared_bodies_follow_one_another() {
        let calls: Vec<RaftCallRequest> =
            (0..=u8::MAX).map(|n| RaftCallRequest { rpc: n, bytes: vec![n; usize::from(n)].into() }).collect();
        let mut buffer = BytesMut::new();
        for (call, n) in calls.iter().zip(0..) {
            let payload = encode_request_into(call, CorrelationId::new(n), 0, &mut buffer);
            assert!(payload.is_empty());
        }
        let mut decoder = FrameDecoder::new(usize::MAX);
        for (call, n) in calls.iter().zip(0..) {
            let frame = decoder.decode(&mut buffer).expect("a sound frame").expect("a whole frame");
            assert_eq!(frame.header.correlation, CorrelationId::new(n));
            assert_eq!(decode_body::<RaftCallRequest>(frame).as_ref(), Ok(call));
        }
        assert!(buffer.is_empty());
    }
}
