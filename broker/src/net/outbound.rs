//! What a connection has ready to send: small pieces gathered into one buffer, large ones passed on uncopied.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};
use streambus_protocol::frame::EncodedFrame;

/// Pieces up to this many bytes are copied next to their neighbours; above it the copy costs more than the slice.
const GATHER_BYTES_MAX: usize = 2048;
/// Slices of one vectored write.
pub(crate) const WRITE_SLICES_MAX: usize = 64;

/// Encoded frames in the order in which they are written. Bounded by its owner, which stops adding above its limit.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    chunks: VecDeque<Bytes>,
    gathered: BytesMut,
    bytes: usize,
}

impl Outbound {
    /// Bytes not yet written.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// True when all has been written.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Adds one frame.
    pub(crate) fn push(&mut self, frame: EncodedFrame) {
        for chunk in frame.into_chunks() {
            self.bytes += chunk.len();
            if chunk.len() <= GATHER_BYTES_MAX {
                self.gathered.extend_from_slice(&chunk);
            } else {
                self.seal_gathered();
                self.chunks.push_back(chunk);
            }
        }
    }

    /// Makes every byte reachable through [`Outbound::slices`].
    pub(crate) fn seal_gathered(&mut self) {
        if !self.gathered.is_empty() {
            self.chunks.push_back(self.gathered.split().freeze());
        }
    }

    /// The next pieces to write, in order. Call [`Outbound::seal_gathered`] first.
    pub(crate) fn slices(&self) -> Vec<IoSlice<'_>> {
        debug_assert!(self.gathered.is_empty(), "sealed before it is written");
        self.chunks.iter().take(WRITE_SLICES_MAX).map(|chunk| IoSlice::new(chunk)).collect()
    }

    /// Drops the first `written` bytes.
    pub(crate) fn advance(&mut self, written: usize) {
        assert!(written <= self.bytes, "more written than there was");
        self.bytes -= written;
        let mut left = written;
        while left > 0 {
            let Some(front) = self.chunks.front_mut() else { break };
            if front.len() > left {
                front.advance(left);
                left = 0;
            } else {
                left -= front.len();
                self.chunks.pop_front();
            }
        }
        debug_assert_eq!(left, 0);
    }

    /// Gives back what idle connections should not hold.
    pub(crate) fn release(&mut self) {
        debug_assert!(self.is_empty());
        self.gathered = BytesMut::new();
        self.chunks = VecDeque::new();
    }
}
