//! The keys and values of the index, and nothing else about it. Version [`INDEX_FORMAT`].
//!
//! | key | value |
//! |---|---|
//! | `M` name | a fact about the index itself, see [`Fact`] |
//! | `E` log (u64 BE) base offset (u64 BE) | an [`Extent`]: next offset u64, segment u64, position u64, length u32, batch bytes u32, max timestamp i64 (all LE) |
//! | `C` log (u64 BE) | how far the log was compacted: the end of it u64, up to where nothing was left alone u64, when the first tombstone met there may go i64 (LE; the greatest number for never). Without the last it is of an earlier version; absent when it never was |
//! | `S` segment (u64 BE) log (u64 BE) | a [`SegmentShare`]: next offset u64 (LE) |
//!
//! Keys are big-endian so that byte order is numeric order: the extents of one log are one key range, and so are the
//! logs of one segment.

use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;

use crate::error::IndexError;
use crate::journal::{LogId, SegmentId};
use crate::stored::Fields;

/// The version of this layout, kept under [`Fact::Format`].
pub const INDEX_FORMAT: u32 = 1;

const TAG_FACT: u8 = b'M';
const TAG_EXTENT: u8 = b'E';
const TAG_SHARE: u8 = b'S';
const TAG_CLEAN: u8 = b'C';
const KEY_BYTES: usize = 17;

/// What the index says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The layout's version, u32 LE.
    Format,
    /// The data directory's identity, 16 bytes.
    Directory,
    /// The sequence of the newest checkpoint that relies on this content, u64 LE.
    Checkpoint,
}

/// A stored key, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A fact about the index.
    Fact(Fact),
    /// The extent of a log that begins at an offset.
    Extent(LogId, Offset),
    /// What a log has in a segment.
    Share(SegmentId, LogId),
    /// How far a log was compacted.
    Clean(LogId),
}

impl Key {
    /// The key's bytes.
    pub fn encode(self) -> Vec<u8> {
        match self {
            Self::Fact(fact) => {
                let name: &[u8] = match fact {
                    Fact::Format => b"format",
                    Fact::Directory => b"directory",
                    Fact::Checkpoint => b"checkpoint",
                };
                [&[TAG_FACT], name].concat()
            }
            Self::Extent(log, base) => pair(TAG_EXTENT, log.get(), base.get()),
            Self::Share(segment, log) => pair(TAG_SHARE, segment.get(), log.get()),
            Self::Clean(log) => [&[TAG_CLEAN][..], &log.get().to_be_bytes()].concat(),
        }
    }

    /// Reads a key; the error says that the index is damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        let damaged = || IndexError::Damaged(format!("unknown key of {} bytes", bytes.len()));
        match bytes.split_first().ok_or_else(damaged)? {
            (&TAG_FACT, b"format") => Ok(Self::Fact(Fact::Format)),
            (&TAG_FACT, b"directory") => Ok(Self::Fact(Fact::Directory)),
            (&TAG_FACT, b"checkpoint") => Ok(Self::Fact(Fact::Checkpoint)),
            (&TAG_CLEAN, rest) => {
                let log = rest.try_into().map_err(|_| damaged())?;
                Ok(Self::Clean(LogId::new(u64::from_be_bytes(log))))
            }
            (&tag, rest) if rest.len() == KEY_BYTES - 1 => {
                let mut rest = Fields::new(rest);
                let (first, second) = (rest.u64_be().ok_or_else(damaged)?, rest.u64_be().ok_or_else(damaged)?);
                match tag {
                    TAG_EXTENT => Ok(Self::Extent(LogId::new(first), Offset::new(second).ok_or_else(damaged)?)),
                    TAG_SHARE => Ok(Self::Share(SegmentId::new(first), LogId::new(second))),
                    _ => Err(damaged()),
                }
            }
            _ => Err(damaged()),
        }
    }

    /// The keys of all extents of `log` with a base in `from..to`.
    pub fn extents(log: LogId, from: Offset, to: Option<Offset>) -> (Vec<u8>, Vec<u8>) {
        let end = match to {
            Some(to) => pair(TAG_EXTENT, log.get(), to.get()),
            None => pair(TAG_EXTENT, log.get(), u64::MAX),
        };
        (pair(TAG_EXTENT, log.get(), from.get()), end)
    }

    /// The keys of all extents of all logs.
    pub fn all_extents() -> (Vec<u8>, Vec<u8>) {
        (vec![TAG_EXTENT], vec![TAG_EXTENT + 1])
    }

    /// The keys of all shares of `segment`.
    pub fn shares_of(segment: SegmentId) -> (Vec<u8>, Vec<u8>) {
        (pair(TAG_SHARE, segment.get(), 0), pair(TAG_SHARE, segment.get().saturating_add(1), 0))
    }

    /// The keys of all shares.
    pub fn all_shares() -> (Vec<u8>, Vec<u8>) {
        (vec![TAG_SHARE], vec![TAG_SHARE + 1])
    }

    /// The key of how far `log` was compacted, as a range.
    pub fn clean_of(log: LogId) -> (Vec<u8>, Vec<u8>) {
        (Self::Clean(log).encode(), Self::Clean(LogId::new(log.get().saturating_add(1))).encode())
    }

    /// Every key there can be.
    pub fn everything() -> (Vec<u8>, Vec<u8>) {
        (Vec::new(), vec![u8::MAX])
    }
}

/// A run of one log's batches in one segment: the span of journal bytes that holds them all. The span may hold
/// entries of other logs as well; a reader skips them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Offset of its first record.
    pub base: Offset,
    /// The offset after its last record. Entries of this log in the span at or above it were truncated away.
    pub next: Offset,
    /// The segment.
    pub segment: SegmentId,
    /// Byte position of the first entry's header in the segment.
    pub position: u64,
    /// Bytes from there to the end of the last entry.
    pub length: u32,
    /// Bytes of the log's own batches in the span.
    pub batch_bytes: u32,
    /// The newest record time of its batches; `NONE` when no batch has one.
    pub max_timestamp: Timestamp,
}

impl Extent {
    /// The part of this extent that holds `base..next`, which lie in it. It names the span of the whole: readers take only
    /// the batches of their offsets. Its bytes are its share of the offsets: nobody knows better without reading.
    pub fn part(&self, base: Offset, next: Offset) -> Self {
        debug_assert!(self.base <= base && base < next && next <= self.next, "a part lies in the whole");
        let count = |from: Offset, to: Offset| u128::from(from.distance_to(to).unwrap_or(0));
        let share = u128::from(self.batch_bytes) * count(base, next) / count(self.base, self.next).max(1);
        Self { base, next, batch_bytes: u32::try_from(share).unwrap_or(self.batch_bytes), ..*self }
    }

    /// The value's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(40);
        bytes.extend_from_slice(&self.next.get().to_le_bytes());
        bytes.extend_from_slice(&self.segment.get().to_le_bytes());
        bytes.extend_from_slice(&self.position.to_le_bytes());
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes.extend_from_slice(&self.batch_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.max_timestamp.as_millis().to_le_bytes());
        bytes
    }

    /// Reads the value stored under the base offset `base`.
    pub fn decode(base: Offset, bytes: &[u8]) -> Result<Self, IndexError> {
        let mut fields = Fields::new(bytes);
        let read = |fields: &mut Fields<'_>| {
            let extent = Self {
                base,
                next: fields.offset()?,
                segment: SegmentId::new(fields.u64()?),
                position: fields.u64()?,
                length: fields.u32()?,
                batch_bytes: fields.u32()?,
                max_timestamp: Timestamp::from_millis(fields.i64()?),
            };
            (fields.is_empty() && extent.base < extent.next).then_some(extent)
        };
        read(&mut fields).ok_or_else(|| IndexError::Damaged(format!("the extent at offset {base} does not decode")))
    }
}

/// What one log has in one sealed segment: the segment is dead when every such log starts at or above `next`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentShare {
    /// The offset after the log's last record in the segment.
    pub next: Offset,
}

impl SegmentShare {
    /// The value's bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.next.get().to_le_bytes().to_vec()
    }

    /// Reads a value.
    pub fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        let mut fields = Fields::new(bytes);
        let read = |fields: &mut Fields<'_>| {
            let share = Self { next: fields.offset()? };
            fields.is_empty().then_some(share)
        };
        read(&mut fields).ok_or_else(|| IndexError::Damaged("a segment's share does not decode".to_owned()))
    }
}

/// How far a log was compacted, by key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Everything below was compacted, or left alone.
    pub end: Offset,
    /// At or below the end: below it nothing was left alone.
    pub sound: Offset,
    /// When the first tombstone that was met may go; `None` when none waits for its time.
    pub horizon: Option<Timestamp>,
}

/// What stands for no horizon.
const NO_HORIZON: i64 = i64::MAX;

impl Cleaned {
    /// The horizon of tombstones of which nobody knows: it has passed, so that somebody looks.
    pub const UNKNOWN_HORIZON: Timestamp = Timestamp::from_millis(0);

    /// The same, where tombstones may have been met since of which it does not speak.
    #[must_use]
    pub const fn with_unknown_horizon(self) -> Self {
        Self { horizon: Some(Self::UNKNOWN_HORIZON), ..self }
    }

    /// What stays true of it for a log that has changed from `to` on.
    #[must_use]
    pub fn lowered(self, to: Offset) -> Self {
        Self { end: self.end.min(to), sound: self.sound.min(to), horizon: self.horizon }
    }

    /// The value's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let horizon = self.horizon.map_or(NO_HORIZON, Timestamp::as_millis);
        [self.end.get().to_le_bytes(), self.sound.get().to_le_bytes(), horizon.to_le_bytes()].concat()
    }

    /// Reads the value.
    pub fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        let mut fields = Fields::new(bytes);
        let read = |fields: &mut Fields<'_>| {
            let (end, sound) = (fields.offset()?, fields.offset()?);
            let horizon = if fields.is_empty() {
                Some(Self::UNKNOWN_HORIZON)
            } else {
                Some(fields.i64()?).filter(|millis| *millis != NO_HORIZON).map(Timestamp::from_millis)
            };
            (fields.is_empty() && sound <= end).then_some(Self { end, sound, horizon })
        };
        read(&mut fields).ok_or_else(|| IndexError::Damaged("how far a log was compacted does not decode".to_owned()))
    }
}

fn pair(tag: u8, first: u64, second: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(KEY_BYTES);
    key.push(tag);
    key.extend_from_slice(&first.to_be_bytes());
    key.extend_from_slice(&second.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_numbers_and_decode() {
        let key = |log, base| Key::Extent(LogId::new(log), Offset::new(base).expect("small"));
        let keys = [key(1, 0), key(1, 255), key(1, 256), key(2, 0), key(256, 1)];
        let encoded: Vec<_> = keys.iter().map(|k| k.encode()).collect();
        assert!(encoded.windows(2).all(|w| w[0] < w[1]), "little-endian keys would not sort");
        let clean = Key::Clean(LogId::new(7));
        assert_eq!(Key::decode(&clean.encode()).expect("own key"), clean);
        for (key, bytes) in keys.iter().zip(&encoded) {
            assert_eq!(Key::decode(bytes).expect("own key"), *key);
        }
        assert!(Key::decode(b"E123").is_err());
        assert!(Key::decode(b"").is_err());
    }

    // Catches a restart that does not know when tombstones may go, and an upgrade that takes what it finds for damage.
    #[test]
    fn how_far_a_log_was_compacted_survives() {
        let at = |value| Offset::new(value).expect("small");
        for horizon in [None, Some(Timestamp::from_millis(77))] {
            let cleaned = Cleaned { end: at(9), sound: at(7), horizon };
            let bytes = cleaned.encode();
            assert_eq!(Cleaned::decode(&bytes).expect("own value"), cleaned);
            let before = Cleaned::decode(&bytes[..16]).expect("the value of an earlier version");
            assert_eq!(before, cleaned.with_unknown_horizon());
            assert!(Cleaned::decode(&bytes[..20]).is_err());
            let above = Cleaned { sound: at(10), ..cleaned };
            assert!(Cleaned::decode(&above.encode()).is_err());
        }
    }

    #[test]
    fn an_extent_survives_and_a_cut_one_is_refused() {
        let extent = Extent {
            base: Offset::new(7).expect("small"),
            next: Offset::new(9).expect("small"),
            segment: SegmentId::new(3),
            position: 4096,
            length: 300,
            batch_bytes: 200,
            max_timestamp: Timestamp::NONE,
        };
        let bytes = extent.encode();
        assert_eq!(Extent::decode(extent.base, &bytes).expect("own value"), extent);
        assert!(Extent::decode(extent.base, &bytes[..39]).is_err());
        assert!(Extent::decode(extent.next, &bytes).is_err(), "an extent must hold at least one record");
    }
}
