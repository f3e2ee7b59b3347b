//! The settings of one log that storage acts on.

use streambus_protocol::topic_config::{Durability, Retention, TopicConfig};

use crate::stored::Fields;

/// Bit of a stored option byte: time retention is set.
const HAS_TIME: u8 = 1;
/// Bit: size retention is set.
const HAS_BYTES: u8 = 2;
/// Bit: acknowledgements do not wait for the disk.
const IS_ASYNC: u8 = 4;

/// What storage needs to know of a topic's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// How long batches are kept.
    pub retention: Retention,
    /// Whether an acknowledgement waits for the disk.
    pub durability: Durability,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self::from(&TopicConfig::default())
    }
}

impl From<&TopicConfig> for LogOptions {
    fn from(config: &TopicConfig) -> Self {
        Self { retention: config.retention, durability: config.durability }
    }
}

impl LogOptions {
    /// Appends 17 bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let time = if self.retention.time_ms.is_some() { HAS_TIME } else { 0 };
        let bytes = if self.retention.bytes.is_some() { HAS_BYTES } else { 0 };
        let durability = match self.durability {
            Durability::Sync => 0,
            Durability::Async => IS_ASYNC,
        };
        out.push(time | bytes | durability);
        out.extend_from_slice(&self.retention.time_ms.unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&self.retention.bytes.unwrap_or(0).to_le_bytes());
    }

    /// Reads them back; `None` when a bit is set that this version does not know.
    pub(crate) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let bits = fields.u8().filter(|bits| bits & !(HAS_TIME | HAS_BYTES | IS_ASYNC) == 0)?;
        let (time_ms, bytes) = (fields.u64()?, fields.u64()?);
        Some(Self {
            retention: Retention {
                time_ms: (bits & HAS_TIME != 0).then_some(time_ms),
                bytes: (bits & HAS_BYTES != 0).then_some(bytes),
            },
            durability: if bits & IS_ASYNC != 0 { Durability::Async } else { Durability::Sync },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_survives() {
        for bits in 0..8_u8 {
            let options = LogOptions {
                retention: Retention {
                    time_ms: (bits & 1 != 0).then_some(0),
                    bytes: (bits & 2 != 0).then_some(u64::MAX),
                },
                durability: if bits & 4 != 0 { Durability::Async } else { Durability::Sync },
            };
            let mut bytes = Vec::new();
            options.encode(&mut bytes);
            assert_eq!(LogOptions::decode(&mut Fields::new(&bytes)), Some(options));
        }
        assert_eq!(LogOptions::decode(&mut Fields::new(&[8; 17])), None);
    }
}
