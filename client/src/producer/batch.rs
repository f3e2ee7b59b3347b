//! One batch on the producer's side, from its first record to its outcome.

use std::sync::Arc;

use bytes::Bytes;
use streambus_protocol::batch::{BatchBuilder, BatchOptions, BuildError, ProducerStamp, UnverifiedBatch};
use streambus_protocol::compression::Compression;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::offset::Offset;
use tokio::time::Instant;

use crate::error::Error;
use crate::producer::completion::BatchCompletion;

/// A batch that has no outcome yet.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Its number within its partition, in the order of sending.
    pub(crate) id: u64,
    pub(crate) content: Content,
    pub(crate) records: u32,
    /// Bytes it holds of the producer's buffer.
    pub(crate) charged_bytes: usize,
    pub(crate) completion: Arc<BatchCompletion>,
    /// When its first record came.
    pub(crate) opened: Instant,
    /// When it may be sent although it is not full.
    pub(crate) ripe: Instant,
    /// When it is given up.
    pub(crate) deadline: Instant,
    pub(crate) attempts: u32,
    /// An attempt ended without saying whether it was applied, and no later answer has settled it.
    pub(crate) doubt: bool,
    pub(crate) last_error: Option<Error>,
}

/// A batch's records.
#[derive(Debug)]
pub(crate) enum Content {
    /// Records are still added.
    Open(BatchBuilder),
    /// Full; compressed and stamped when it is sent.
    Sealed(BatchBuilder),
    /// Being compressed and stamped by whoever sends it, outside the partition's lock.
    Building,
    /// As it is sent, now and in every retry.
    Built(Bytes),
    /// Built under an identity that is not used any more; nothing of it was stored. Built anew before it is sent.
    Stale(Bytes),
}

/// What somebody must do to get a batch's bytes: done outside the partition's lock, since it may compress.
#[derive(Debug)]
pub(crate) enum Recipe {
    /// Nothing: these are they.
    Ready(Bytes),
    /// Build them.
    Build(BatchBuilder),
    /// Take the records of these bytes and stamp them anew.
    Restamp(Bytes, Option<ProducerStamp>),
}

impl Recipe {
    /// The bytes. `compression` is what a restamped batch is compressed with.
    pub(crate) fn cook(self, compression: Compression) -> Result<Bytes, BuildError> {
        match self {
            Self::Ready(bytes) => Ok(bytes),
            Self::Build(builder) => builder.build().map(|bytes| bytes.freeze()),
            Self::Restamp(bytes, stamp) => restamp(bytes, stamp, compression),
        }
    }
}

/// The same records under another stamp. Rare: after a failure that left a gap in the sequence.
fn restamp(bytes: Bytes, stamp: Option<ProducerStamp>, compression: Compression) -> Result<Bytes, BuildError> {
    let mut builder = BatchBuilder::new(BatchOptions { compression, producer: stamp, is_control: false });
    // The bytes are our own, built a moment ago: what does not decode here would be a defect, and is refused as empty.
    let placed = UnverifiedBatch::from_shared(bytes.clone())
        .verify(bytes.len())
        .map_err(|_| BuildError::Empty)?
        .place(Offset::ZERO, LeaderEpoch::ZERO);
    let records = placed.records(streambus_protocol::limits::BATCH_BYTES_MAX).map_err(|_| BuildError::Empty)?;
    for stored in records {
        let stored = stored.map_err(|_| BuildError::Empty)?;
        builder.push(&stored.record).map_err(|_| BuildError::TooLarge { bytes: bytes.len() })?;
    }
    builder.build().map(|bytes| bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use streambus_protocol::batch::BatchHeader;
    use streambus_protocol::ids::{ProducerEpoch, ProducerId, Sequence};
    use streambus_protocol::record::Record;
    use streambus_protocol::timestamp::Timestamp;

    #[test]
    fn a_restamped_batch_has_the_same_records_and_the_new_stamp() {
        let options = BatchOptions { compression: Compression::Lz4, producer: None, is_control: false };
        let mut builder = BatchBuilder::new(options);
        for i in 0..3i64 {
            builder.push(&Record::new(format!("v{i}"), Timestamp::from_millis(100 + i))).expect("fits");
        }
        let bytes = builder.build().expect("built").freeze();
        let stamp =
            ProducerStamp { id: ProducerId::new(7), epoch: ProducerEpoch::new(2), base_sequence: Sequence::new(0) };
        let again = Recipe::Restamp(bytes, Some(stamp)).cook(Compression::Lz4).expect("restamped");
        let header = BatchHeader::parse(&again).expect("a batch");
        assert_eq!((header.record_count, header.producer(), header.base_timestamp), (3, Some(stamp), 100));
        UnverifiedBatch::from_shared(again).verify(1 << 20).expect("a client's batch, checksum included");
    }
}
