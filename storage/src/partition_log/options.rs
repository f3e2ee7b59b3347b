//! The settings of one log that storage acts on.

use streambus_protocol::topic_config::{Durability, Retention, TopicConfig};

use crate::stored::Fields;

/// Bit of a stored option byte: time retention is set.
const HAS_TIME: u8 = 1;
/// Bit: size retention is set.
const HAS_BYTES: u8 = 2;
/// Bit: acknowledgements do not wait for the disk.
const IS_ASYNC: u8 = 4;

/// Bit: records give way to newer ones of their key; three more fields follow.
const IS_COMPACTED: u8 = 8;
/// Bit: nothing goes by age and size.
const KEEPS_ALL: u8 = 16;

/// How the records of a key give way to its newest (`cleanup.policy=compact`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// How long a tombstone stays after it was met, in milliseconds.
    pub delete_retention_ms: u64,
    /// A record younger than this many milliseconds stays.
    pub min_lag_ms: u64,
    /// Millionths of a log that must never have been compacted before that is worth while.
    pub min_dirty_millionths: u32,
}

/// What storage needs to know of a topic's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// How long batches are kept, when they go by age and size.
    pub retention: Retention,
    /// True when batches go by age and size.
    pub deletes: bool,
    /// Set when records give way to newer ones of their key.
    pub compaction: Option<Compaction>,
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
        let compaction = config.cleanup.compacts().then(|| Compaction {
            delete_retention_ms: config.delete_retention_ms,
            min_lag_ms: config.min_compaction_lag_ms,
            min_dirty_millionths: config.min_dirty_ratio.millionths(),
        });
        let deletes = config.cleanup.deletes();
        Self { retention: config.retention, deletes, compaction, durability: config.durability }
    }
}

impl LogOptions {
    /// The retention that is applied.
    pub fn retention_in_force(&self) -> Retention {
        if self.deletes { self.retention } else { Retention { time_ms: None, bytes: None } }
    }

    /// Appends 17 bytes, and 20 more for a log that is compacted.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let time = if self.retention.time_ms.is_some() { HAS_TIME } else { 0 };
        let bytes = if self.retention.bytes.is_some() { HAS_BYTES } else { 0 };
        let durability = match self.durability {
            Durability::Sync => 0,
            Durability::Async => IS_ASYNC,
        };
        let compacted = if self.compaction.is_some() { IS_COMPACTED } else { 0 };
        let keeps = if self.deletes { 0 } else { KEEPS_ALL };
        out.push(time | bytes | durability | compacted | keeps);
        out.extend_from_slice(&self.retention.time_ms.unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&self.retention.bytes.unwrap_or(0).to_le_bytes());
        if let Some(compaction) = &self.compaction {
            out.extend_from_slice(&compaction.delete_retention_ms.to_le_bytes());
            out.extend_from_slice(&compaction.min_lag_ms.to_le_bytes());
            out.extend_from_slice(&compaction.min_dirty_millionths.to_le_bytes());
        }
    }

    /// Reads them back; `None` when a bit is set that this version does not know.
    pub(crate) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let known = HAS_TIME | HAS_BYTES | IS_ASYNC | IS_COMPACTED | KEEPS_ALL;
        let bits = fields.u8().filter(|bits| bits & !known == 0)?;
        let (time_ms, bytes) = (fields.u64()?, fields.u64()?);
        let compaction = if bits & IS_COMPACTED == 0 {
            None
        } else {
            let (delete_retention_ms, min_lag_ms) = (fields.u64()?, fields.u64()?);
            Some(Compaction { delete_retention_ms, min_lag_ms, min_dirty_millionths: fields.u32()? })
        };
        Some(Self {
            retention: Retention {
                time_ms: (bits & HAS_TIME != 0).then_some(time_ms),
                bytes: (bits & HAS_BYTES != 0).then_some(bytes),
            },
            deletes: bits & KEEPS_ALL == 0,
            compaction,
            durability: if bits & IS_ASYNC != 0 { Durability::Async } else { Durability::Sync },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_survives() {
        for bits in 0..32_u8 {
            let compaction = Compaction { delete_retention_ms: 7, min_lag_ms: u64::MAX, min_dirty_millionths: 9 };
            let options = LogOptions {
                retention: Retention {
                    time_ms: (bits & 1 != 0).then_some(0),
                    bytes: (bits & 2 != 0).then_some(u64::MAX),
                },
                compaction: (bits & 8 != 0).then_some(compaction),
                deletes: bits & 16 == 0,
                durability: if bits & 4 != 0 { Durability::Async } else { Durability::Sync },
            };
            let mut bytes = Vec::new();
            options.encode(&mut bytes);
            assert_eq!(LogOptions::decode(&mut Fields::new(&bytes)), Some(options));
        }
        assert_eq!(LogOptions::decode(&mut Fields::new(&[32; 17])), None);
    }
}
