//! Which protocol a connection speaks, told by its first four bytes.

use streambus_protocol::limits::FRAME_BYTES_MAX;

/// Bytes that decide.
pub(crate) const PREFACE_DETECT_BYTES: usize = 4;

/// What the first four bytes announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// `SBUS`: the native protocol.
    Native,
    /// A big-endian length a Kafka request could have; `SBUS` read so is above 1 GiB and cannot be one.
    Kafka {
        /// The announced request size in bytes.
        request_bytes: usize,
    },
    /// Neither.
    Unknown,
}

impl Door {
    /// Reads the first four bytes of a connection.
    pub(crate) fn detect(first: [u8; PREFACE_DETECT_BYTES]) -> Self {
        if &first == b"SBUS" {
            return Self::Native;
        }
        match usize::try_from(i32::from_be_bytes(first)) {
            // A Kafka request has at least an API key, a version and a correlation id: 8 bytes.
            Ok(request_bytes) if (8..=FRAME_BYTES_MAX).contains(&request_bytes) => Self::Kafka { request_bytes },
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_doors() {
        assert_eq!(Door::detect(*b"SBUS"), Door::Native);
        assert_eq!(Door::detect([0, 0, 0, 35]), Door::Kafka { request_bytes: 35 });
        assert_eq!(Door::detect(*b"GET "), Door::Unknown);
        assert_eq!(Door::detect([0xff; 4]), Door::Unknown);
        assert_eq!(Door::detect([0, 0, 0, 7]), Door::Unknown);
        // A TLS ClientHello: content type 22, version 3.1.
        assert_eq!(Door::detect([0x16, 3, 1, 2]), Door::Unknown);
    }
}
