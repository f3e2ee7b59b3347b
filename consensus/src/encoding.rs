//! Bounded little-endian encoding of what this crate writes to disk and sends to its peers.
//!
//! It is separate from the client wire's codec on purpose: what is on disk must not move when that one does.
//! Strings and byte blocks are u32 length + bytes, arrays u32 count + elements, options u8 0/1 + value.

/// Why bytes do not decode. Every variant means that the bytes must not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a value.
    #[error("{needed} bytes are missing")]
    Truncated {
        /// How many more bytes the value needs.
        needed: usize,
    },
    /// Bytes are left after the last value.
    #[error("{bytes} bytes are left over")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A count or length is above its limit.
    #[error("{what}: {found} is above the limit {max}")]
    AboveLimit {
        /// What was counted.
        what: &'static str,
        /// The number found.
        found: u64,
        /// The most allowed.
        max: u64,
    },
    /// A value outside its domain.
    #[error("{what}: {found} is not valid")]
    Invalid {
        /// What was read.
        what: &'static str,
        /// The value found, as text.
        found: String,
    },
    /// The checksum does not match its bytes.
    #[error("checksum is {found:#010x}, the bytes give {computed:#010x}")]
    Checksum {
        /// The stored checksum.
        found: u32,
        /// The computed one.
        computed: u32,
    },
    /// Written by a newer release.
    #[error("{what} has format version {found}, this release knows up to {newest}")]
    NewerVersion {
        /// What was read.
        what: &'static str,
        /// The version found.
        found: u8,
        /// The newest version known here.
        newest: u8,
    },
}

/// Builds an encoding. Never fails: limits are checked where values enter and again where they are decoded.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.raw(&value.to_le_bytes());
    }

    /// Writes a count. Saturates: a count that does not fit is refused by every decoder.
    pub(crate) fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }

    pub(crate) fn block(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.block(text.as_bytes());
    }

    pub(crate) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.bool(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }
}

/// Reads an encoding. Nothing is allocated before the bytes for it are known to be there.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Refuses bytes that nothing has read.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { bytes }),
        }
    }

    /// All bytes that are left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn raw(&mut self, bytes: usize) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(bytes) {
            Some((head, tail)) => {
                self.rest = tail;
                Ok(head)
            }
            None => Err(DecodeError::Truncated { needed: bytes - self.rest.len() }),
        }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut value = [0; N];
        value.copy_from_slice(self.raw(N)?);
        Ok(value)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::Invalid { what: "boolean", found: other.to_string() }),
        }
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// A count of elements that take at least `element_bytes_min` bytes each, so that the result can be allocated.
    pub(crate) fn count(
        &mut self,
        what: &'static str,
        element_bytes_min: usize,
        max: usize,
    ) -> Result<usize, DecodeError> {
        let found = self.u32()?;
        let above = |max: usize| DecodeError::AboveLimit { what, found: u64::from(found), max: max as u64 };
        let count = usize::try_from(found).map_err(|_| above(max))?;
        if count > max {
            return Err(above(max));
        }
        let left = self.rest.len() / element_bytes_min.max(1);
        if count > left {
            return Err(above(left));
        }
        Ok(count)
    }

    pub(crate) fn block(&mut self, what: &'static str, max: usize) -> Result<&'a [u8], DecodeError> {
        let bytes = self.count(what, 1, max)?;
        self.raw(bytes)
    }

    pub(crate) fn text(&mut self, what: &'static str, max: usize) -> Result<&'a str, DecodeError> {
        let bytes = self.block(what, max)?;
        std::str::from_utf8(bytes).map_err(|e| DecodeError::Invalid { what, found: e.to_string() })
    }

    pub(crate) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.bool()? { read(self).map(Some) } else { Ok(None) }
    }
}

/// What a sealed value is, so that one kind is never read as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Seal {
    Entry = 1,
    Vote = 2,
    LogPosition = 3,
    Row = 4,
    Applied = 5,
    Identity = 6,
    Directory = 7,
}

const SEAL_VERSION: u8 = 1;

/// Wraps `payload` for the disk: version, kind, CRC-32C, payload. The checksum also covers `place` (the key or name
/// the value is stored under), so that a value found in the wrong place is refused.
pub(crate) fn seal(kind: Seal, place: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(6 + payload.len());
    sealed.extend_from_slice(&[SEAL_VERSION, kind as u8]);
    sealed.extend_from_slice(&checksum(kind, place, payload).to_le_bytes());
    sealed.extend_from_slice(payload);
    sealed
}

/// The payload of a sealed value, after its version, kind and checksum were verified.
pub(crate) fn unseal<'a>(kind: Seal, place: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let mut decoder = Decoder::new(sealed);
    let version = decoder.u8()?;
    if version > SEAL_VERSION {
        return Err(DecodeError::NewerVersion { what: "stored value", found: version, newest: SEAL_VERSION });
    }
    let stored_kind = decoder.u8()?;
    if version != SEAL_VERSION || stored_kind != kind as u8 {
        return Err(DecodeError::Invalid {
            what: "stored value",
            found: format!("version {version} kind {stored_kind}"),
        });
    }
    let found = decoder.u32()?;
    let payload = decoder.rest();
    let computed = checksum(kind, place, payload);
    if found == computed { Ok(payload) } else { Err(DecodeError::Checksum { found, computed }) }
}

fn checksum(kind: Seal, place: &[u8], payload: &[u8]) -> u32 {
    let head = crc32c::crc32c(&[SEAL_VERSION, kind as u8]);
    crc32c::crc32c_append(crc32c::crc32c_append(head, place), payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: a flipped bit, a misplaced value or a value of another kind that is read as good.
    #[test]
    fn sealed_value_refuses_every_flip_and_every_other_place() {
        let sealed = seal(Seal::Row, b"key", b"some payload");
        assert_eq!(unseal(Seal::Row, b"key", &sealed), Ok(&b"some payload"[..]));
        assert!(unseal(Seal::Row, b"kez", &sealed).is_err());
        assert!(unseal(Seal::Entry, b"key", &sealed).is_err());
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(Seal::Row, b"key", &bad).is_err(), "bit {bit}");
        }
        for cut in 0..sealed.len() {
            assert!(unseal(Seal::Row, b"key", &sealed[..cut]).is_err(), "cut {cut}");
        }
    }

    /// Catches: a hostile count that makes the decoder allocate before it has seen the bytes.
    #[test]
    fn count_is_bounded_by_the_bytes_that_are_there() {
        let mut encoder = Encoder::new();
        encoder.u32(1_000_000);
        let bytes = encoder.finish();
        let found = Decoder::new(&bytes).count("elements", 4, 2_000_000);
        assert_eq!(found, Err(DecodeError::AboveLimit { what: "elements", found: 1_000_000, max: 0 }));
    }
}
