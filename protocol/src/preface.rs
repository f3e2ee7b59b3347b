//! The eight bytes each side sends first: which protocol, and which version of it.
//!
//! The client's first four bytes tell this protocol from Kafka's on a shared port: read as a Kafka length they would be
//! over 1 GiB, which no Kafka client sends.

use std::ops::RangeInclusive;

/// The first four bytes of every connection.
pub const MAGIC: [u8; 4] = *b"SBUS";
/// Bytes of a preface, either way.
pub const PREFACE_BYTES: usize = 8;
/// The protocol versions this crate speaks.
pub const VERSIONS: RangeInclusive<u16> = 1..=1;

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// Fewer than four bytes, all of them as expected so far.
    Undecided,
    /// A StreamBus client.
    Native,
    /// Something else; on the client listener that is a Kafka client.
    Other,
}

/// Tells whose connection this is from its first bytes, as soon as they decide.
pub fn sniff(first: &[u8]) -> Sniffed {
    let seen = first.get(..MAGIC.len()).unwrap_or(first);
    if !MAGIC.starts_with(seen) {
        Sniffed::Other
    } else if seen.len() < MAGIC.len() {
        Sniffed::Undecided
    } else {
        Sniffed::Native
    }
}

/// Why a preface is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefaceError {
    /// The first four bytes are not [`MAGIC`].
    #[error("the peer does not speak the StreamBus protocol: its first bytes are {0:02x?}")]
    NotStreamBus([u8; 4]),
    /// The smallest version offered is above the largest.
    #[error("the peer offers protocol versions {min} to {max}, which is no range")]
    EmptyRange {
        /// Smallest version offered.
        min: u16,
        /// Largest version offered.
        max: u16,
    },
    /// The broker chose a version that was not offered, or its reserved bytes are not zero.
    #[error("the broker chose protocol version {0}, which was not offered")]
    NotOffered(u16),
}

/// What a client sends first: the versions it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientPreface {
    /// The smallest version spoken.
    pub version_min: u16,
    /// The largest version spoken.
    pub version_max: u16,
}

impl ClientPreface {
    /// The preface of a client built with this crate.
    pub const CURRENT: Self = Self { version_min: *VERSIONS.start(), version_max: *VERSIONS.end() };

    /// The bytes to send.
    pub const fn encode(self) -> [u8; PREFACE_BYTES] {
        let [a, b, c, d] = MAGIC;
        let [e, f] = self.version_min.to_le_bytes();
        let [g, h] = self.version_max.to_le_bytes();
        [a, b, c, d, e, f, g, h]
    }

    /// Reads a client's preface.
    pub fn decode(bytes: [u8; PREFACE_BYTES]) -> Result<Self, PrefaceError> {
        let [a, b, c, d, e, f, g, h] = bytes;
        if [a, b, c, d] != MAGIC {
            return Err(PrefaceError::NotStreamBus([a, b, c, d]));
        }
        let (min, max) = (u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]));
        if min > max {
            return Err(PrefaceError::EmptyRange { min, max });
        }
        Ok(Self { version_min: min, version_max: max })
    }

    /// The broker's answer: the largest version both sides speak, if there is one.
    pub fn answer(self) -> BrokerPreface {
        let version = self.version_max.min(*VERSIONS.end());
        let spoken = version >= self.version_min && version >= *VERSIONS.start();
        BrokerPreface { version: spoken.then_some(version) }
    }
}

/// What the broker answers: the version chosen. After `None` it closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerPreface {
    /// The version both will speak, or `None` when there is no common one.
    pub version: Option<u16>,
}

impl BrokerPreface {
    /// The bytes to send.
    pub fn encode(self) -> [u8; PREFACE_BYTES] {
        let [a, b, c, d] = MAGIC;
        let [e, f] = self.version.unwrap_or(0).to_le_bytes();
        [a, b, c, d, e, f, 0, 0]
    }

    /// Reads a broker's answer to `offered`. Fails when the answer is no answer to it.
    pub fn decode(bytes: [u8; PREFACE_BYTES], offered: ClientPreface) -> Result<Self, PrefaceError> {
        let [a, b, c, d, e, f, g, h] = bytes;
        if [a, b, c, d] != MAGIC {
            return Err(PrefaceError::NotStreamBus([a, b, c, d]));
        }
        let version = u16::from_le_bytes([e, f]);
        if version == 0 && [g, h] == [0, 0] {
            return Ok(Self { version: None });
        }
        if [g, h] != [0, 0] || version < offered.version_min || version > offered.version_max {
            return Err(PrefaceError::NotOffered(version));
        }
        Ok(Self { version: Some(version) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kafka_length_is_never_taken_for_the_magic() {
        assert_eq!(sniff(b""), Sniffed::Undecided);
        assert_eq!(sniff(b"SBU"), Sniffed::Undecided);
        assert_eq!(sniff(b"SBUS\x01"), Sniffed::Native);
        assert_eq!(sniff(&[0, 0, 0, 43]), Sniffed::Other);
        assert_eq!(sniff(b"SX"), Sniffed::Other);
        assert!(u32::from_be_bytes(MAGIC) > 1 << 30);
    }

    #[test]
    fn the_largest_common_version_is_chosen_or_none() {
        let offer = |version_min, version_max| ClientPreface { version_min, version_max }.answer().version;
        assert_eq!(offer(1, 1), Some(1));
        assert_eq!(offer(0, 9), Some(1));
        assert_eq!(offer(2, 9), None);
        assert_eq!(offer(0, 0), None);
    }

    #[test]
    fn both_prefaces_survive_the_wire_and_nonsense_is_refused() {
        let client = ClientPreface::CURRENT;
        assert_eq!(client.encode(), *b"SBUS\x01\x00\x01\x00");
        assert_eq!(ClientPreface::decode(client.encode()), Ok(client));
        assert_eq!(ClientPreface::decode(*b"SBUS\x02\x00\x01\x00"), Err(PrefaceError::EmptyRange { min: 2, max: 1 }));
        assert_eq!(ClientPreface::decode(*b"KAFKA!!!"), Err(PrefaceError::NotStreamBus(*b"KAFK")));
        for version in [Some(1), None] {
            let broker = BrokerPreface { version };
            assert_eq!(BrokerPreface::decode(broker.encode(), client), Ok(broker));
        }
        assert_eq!(BrokerPreface::decode(*b"SBUS\x02\x00\x00\x00", client), Err(PrefaceError::NotOffered(2)));
        assert_eq!(BrokerPreface::decode(*b"SBUS\x00\x00\x01\x00", client), Err(PrefaceError::NotOffered(0)));
    }
}
