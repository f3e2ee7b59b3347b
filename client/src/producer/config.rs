//! Settings of a producer: every field states unit and default.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error as _};
use streambus_protocol::api::produce::Acks;
use streambus_protocol::compression::Compression;
use streambus_protocol::limits::{BATCH_BYTES_MAX, BATCH_BYTES_MAX_DEFAULT};

use crate::config::units;
use crate::error::Error;

/// How a record with a key finds its partition. A record without a key sticks to one partition per batch; a record
/// with an explicit partition goes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Partitioner {
    /// Murmur2 of the key modulo the number of partitions: the same place as Kafka's Java client chooses.
    #[default]
    Murmur2,
    /// A consistent-hash ring (SHA-1, 150 points a partition): when partitions are added, few keys move.
    Ring,
}

/// How records are collected, sent and acknowledged.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ProducerConfig {
    /// What an acknowledgement means. Default [`Acks::All`]: on the disk of every in-sync replica.
    #[serde(deserialize_with = "acks")]
    pub acks: Acks,
    /// Whether retries are recognised by the broker, so that nothing is stored twice. Default true; off when `acks` is
    /// none, where nothing is ever retried.
    pub idempotent: bool,
    /// How long an unfilled batch waits for more records. Default zero: what is queued is sent as soon as it can be.
    #[serde(with = "units::duration")]
    pub linger: Duration,
    /// Size at which a batch is full, bytes before compression. Default 1,000,000.
    #[serde(with = "units::bytes")]
    pub batch_bytes: usize,
    /// The largest single record, bytes. Default 1 MiB; a topic's `max.message.bytes` applies too.
    #[serde(with = "units::bytes")]
    pub record_bytes_max: usize,
    /// Memory for records that are not acknowledged yet, bytes; when it is used up, `enqueue` waits. Default 32 MiB.
    #[serde(with = "units::bytes")]
    pub buffer_bytes: usize,
    /// How batches are compressed. Default none.
    #[serde(deserialize_with = "compression")]
    pub compression: Compression,
    /// How keys find partitions. Default [`Partitioner::Murmur2`].
    pub partitioner: Partitioner,
    /// Batches in flight per partition, 1 to 5. Default 5; always 1 when not idempotent, so that order is kept.
    pub batches_in_flight_max: usize,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            idempotent: true,
            linger: Duration::ZERO,
            batch_bytes: 1_000_000,
            record_bytes_max: BATCH_BYTES_MAX_DEFAULT,
            buffer_bytes: 32 * 1024 * 1024,
            compression: Compression::None,
            partitioner: Partitioner::Murmur2,
            batches_in_flight_max: BATCHES_IN_FLIGHT_MAX,
        }
    }
}

/// The broker remembers the last five batches of a producer (KIP-98): more in flight could not be told from duplicates.
pub(crate) const BATCHES_IN_FLIGHT_MAX: usize = 5;

impl ProducerConfig {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`ProducerConfig::acks`].
    pub fn acks(mut self, acks: Acks) -> Self {
        self.acks = acks;
        self
    }

    /// Sets [`ProducerConfig::idempotent`].
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = idempotent;
        self
    }

    /// Sets [`ProducerConfig::linger`].
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Sets [`ProducerConfig::batch_bytes`].
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.batch_bytes = bytes;
        self
    }

    /// Sets [`ProducerConfig::record_bytes_max`].
    pub fn record_bytes_max(mut self, bytes: usize) -> Self {
        self.record_bytes_max = bytes;
        self
    }

    /// Sets [`ProducerConfig::buffer_bytes`].
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// Sets [`ProducerConfig::compression`].
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Sets [`ProducerConfig::partitioner`].
    pub fn partitioner(mut self, partitioner: Partitioner) -> Self {
        self.partitioner = partitioner;
        self
    }

    /// Sets [`ProducerConfig::batches_in_flight_max`].
    pub fn batches_in_flight_max(mut self, batches: usize) -> Self {
        self.batches_in_flight_max = batches;
        self
    }

    /// True when batches carry a producer identity.
    pub(crate) fn stamps(&self) -> bool {
        self.idempotent && self.acks != Acks::None
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |what: &str| Err(Error::Invalid { what: what.to_owned() });
        if !(1..=BATCHES_IN_FLIGHT_MAX).contains(&self.batches_in_flight_max) {
            return refuse("`batches_in_flight_max` must be 1 to 5: the broker remembers five batches of a producer");
        }
        if self.batch_bytes < 1024 || self.batch_bytes > BATCH_BYTES_MAX {
            return refuse("`batch_bytes` must be 1 KiB to 8 MiB");
        }
        if self.record_bytes_max < 1024 || self.record_bytes_max > BATCH_BYTES_MAX {
            return refuse("`record_bytes_max` must be 1 KiB to 8 MiB");
        }
        if self.buffer_bytes < self.record_bytes_max || u32::try_from(self.buffer_bytes).is_err() {
            return refuse("`buffer_bytes` must hold at least one record of `record_bytes_max`, and be below 4 GiB");
        }
        Ok(())
    }
}

fn acks<'de, D: Deserializer<'de>>(from: D) -> Result<Acks, D::Error> {
    let text = String::deserialize(from)?;
    match text.as_str() {
        "none" => Ok(Acks::None),
        "leader" => Ok(Acks::Leader),
        "all" => Ok(Acks::All),
        _ => Err(D::Error::custom(format!("'{text}' is no ack level: none, leader or all"))),
    }
}

fn compression<'de, D: Deserializer<'de>>(from: D) -> Result<Compression, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(|_| D::Error::custom(format!("'{text}' is no codec: none, gzip, snappy, lz4 or zstd")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_words_and_refuses_what_the_broker_could_not_keep_apart() {
        let config: ProducerConfig =
            serde_json::from_str(r#"{"acks":"leader","compression":"zstd","partitioner":"ring","linger":"5ms"}"#)
                .expect("valid");
        assert_eq!(config.acks, Acks::Leader);
        assert_eq!(config.partitioner, Partitioner::Ring);
        config.check().expect("in range");
        assert!(serde_json::from_str::<ProducerConfig>(r#"{"acks":"most"}"#).is_err());
        assert!(ProducerConfig::new().batches_in_flight_max(6).check().is_err());
        assert!(ProducerConfig::new().buffer_bytes(10).check().is_err());
        assert!(!ProducerConfig::new().acks(Acks::None).stamps(), "nothing is retried, so nothing is recognised");
    }
}
