//! Giving up the beginning of a partition because somebody asks for it: on the disks of all in sync before that is said, or
//! the next leader would have the records again.

use std::sync::Arc;

use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::offset::Offset;
use streambus_storage::partition_log::Durable;

use crate::partition::{Part, Partition, standing};
use crate::service::refusal;

/// A leader's log that starts later now.
#[derive(Debug)]
#[must_use = "the records may come back until `everywhere`"]
pub struct Trimmed {
    log_start: Offset,
    epoch: LeaderEpoch,
    durable: Durable,
    partition: Arc<Partition>,
}

impl Trimmed {
    /// Completes once this broker and every other replica in sync have it on disk; the first offset still there. Dropping it
    /// takes nothing back.
    ///
    /// # Errors
    /// It is not known who has it: `STORAGE_FAILED`, and what [`standing::trimmed`](super::standing) says when the leadership
    /// went. To ask for the same again does no harm.
    pub async fn everywhere(self) -> Result<Offset, ErrorBody> {
        let Self { log_start, epoch, durable, partition } = self;
        durable.await.map_err(refusal::durability_lost)?;
        standing::trimmed(partition, log_start, epoch).await?;
        Ok(log_start)
    }
}

impl Partition {
    /// Gives up what lies below `before`, as leader, whole batches at a time, and tells followers. May read the disk.
    ///
    /// # Errors
    /// Nothing was given up: not the leader, `OFFSET_OUT_OF_RANGE` above the high watermark, or those of the store.
    pub fn trim_as_leader(self: &Arc<Self>, before: Offset) -> Result<Trimmed, ErrorBody> {
        let _order = self.append_lock.lock();
        let epoch = self.lead(LeaderEpoch::UNKNOWN)?.epoch();
        let high_watermark = self.high_watermark();
        if before > high_watermark {
            return Err(ErrorBody::new(
                ErrorCode::OffsetOutOfRange,
                format!(
                    "offset {before} is above the high watermark of '{}' partition {}, which is {high_watermark}",
                    self.topic, self.id.partition
                ),
            ));
        }
        let (log_start, durable) = self.log.trim(before).map_err(|error| refusal::store(&error))?;
        if let Part::Leading(leading) = &*self.part.lock() {
            leading.tell_start(self.id);
        }
        Ok(Trimmed { log_start, epoch, durable, partition: Arc::clone(self) })
    }
}
