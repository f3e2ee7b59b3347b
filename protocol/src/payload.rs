//! Record bytes that travel behind a body, as the chunks they were read in.

use bytes::{Bytes, BytesMut};

/// Chunks of record bytes, in order. Almost every message has none or one, so those need no vector.
#[derive(Clone, Debug, Default)]
pub enum Payload {
    /// No record bytes.
    #[default]
    None,
    /// One chunk.
    One(Bytes),
    /// Several chunks.
    Many(Vec<Bytes>),
}

impl Payload {
    /// Appends a chunk; an empty one is dropped.
    #[inline]
    pub fn push(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        *self = match std::mem::take(self) {
            Self::None => Self::One(chunk),
            Self::One(first) => Self::Many(vec![first, chunk]),
            Self::Many(mut chunks) => {
                chunks.push(chunk);
                Self::Many(chunks)
            }
        };
    }

    /// The chunks, in order.
    #[inline]
    pub fn chunks(&self) -> &[Bytes] {
        match self {
            Self::None => &[],
            Self::One(chunk) => std::slice::from_ref(chunk),
            Self::Many(chunks) => chunks,
        }
    }

    /// Bytes of all chunks together.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(chunk) => chunk.len(),
            Self::Many(chunks) => chunks.iter().map(Bytes::len).sum(),
        }
    }

    /// True when there is not one byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All bytes in one piece: no copy for one chunk, one copy for several.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::None => Bytes::new(),
            Self::One(chunk) => chunk,
            Self::Many(chunks) => {
                let mut joined = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
                chunks.iter().for_each(|chunk| joined.extend_from_slice(chunk));
                joined.freeze()
            }
        }
    }
}

impl From<Vec<Bytes>> for Payload {
    fn from(mut chunks: Vec<Bytes>) -> Self {
        match chunks.len() {
            0 => Self::None,
            1 => chunks.pop().map_or(Self::None, Self::One),
            _ => Self::Many(chunks),
        }
    }
}

impl From<Bytes> for Payload {
    fn from(chunk: Bytes) -> Self {
        if chunk.is_empty() { Self::None } else { Self::One(chunk) }
    }
}

impl IntoIterator for Payload {
    type Item = Bytes;
    type IntoIter = std::iter::Chain<std::option::IntoIter<Bytes>, std::vec::IntoIter<Bytes>>;

    /// The chunks, in order.
    fn into_iter(self) -> Self::IntoIter {
        let (one, many) = match self {
            Self::None => (None, Vec::new()),
            Self::One(chunk) => (Some(chunk), Vec::new()),
            Self::Many(chunks) => (None, chunks),
        };
        one.into_iter().chain(many)
    }
}

/// Equal when the bytes are, however they are cut into chunks.
impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.chunks().iter().flatten().eq(other.chunks().iter().flatten())
    }
}

impl Eq for Payload {}
