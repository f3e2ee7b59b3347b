//! Finding offsets: the ends of a log, or the first record at or after a time.

use streambus_consensus::blocking;
use streambus_protocol::api::offsets::{
    ListOffsetsRequest, ListOffsetsResponse, OffsetFound, OffsetQuery, OffsetsOutcome, OffsetsPartition,
};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::timestamp::Timestamp;

use crate::clock::Deadline;
use crate::service::directory::Directory;
use crate::service::refusal;

/// Finds offsets.
#[derive(Debug)]
pub struct OffsetService {
    directory: Directory,
}

impl OffsetService {
    /// A service over the partitions of `directory`.
    pub fn new(directory: Directory) -> Self {
        Self { directory }
    }

    /// One offset for each partition asked for. Searches by time read the disk; those not done at `deadline` answer
    /// `TIMEOUT`.
    pub async fn list(&self, request: ListOffsetsRequest, deadline: Deadline) -> ListOffsetsResponse {
        let mut partitions = Vec::with_capacity(request.partitions.len());
        for asked in request.partitions {
            let result = match deadline.limit(self.find(asked)).await {
                Some(result) => result,
                None => Err(ErrorBody::new(ErrorCode::Timeout, "the deadline passed during the search: ask for less")),
            };
            partitions.push(OffsetsOutcome { topic: asked.topic, partition: asked.partition, result });
        }
        ListOffsetsResponse { partitions }
    }

    async fn find(&self, asked: OffsetsPartition) -> Result<OffsetFound, ErrorBody> {
        let partition = self.directory.partition(asked.topic, asked.partition)?;
        let _token = partition.lead(LeaderEpoch::UNKNOWN)?;
        let high_watermark = partition.high_watermark();
        let end = |offset| OffsetFound { offset, timestamp: Timestamp::NONE };
        match asked.query {
            OffsetQuery::Earliest => Ok(end(partition.log().log_start())),
            OffsetQuery::Latest if partition.is_watermark_settled() => Ok(end(high_watermark)),
            OffsetQuery::Latest => Err(ErrorBody::new(
                ErrorCode::OffsetNotAvailable,
                format!(
                    "the new leader of '{}' partition {} does not know yet what is committed: try again shortly",
                    partition.topic(),
                    asked.partition
                ),
            )),
            OffsetQuery::At(time) => {
                let log = partition.log().clone();
                let search = blocking::spawn(move || log.offset_for_time(time, high_watermark));
                let found = search.await.map_err(|error| refusal::blocking_failed(&error))?;
                let found = found.map_err(|error| refusal::read(&partition, high_watermark, &error))?;
                Ok(found.map_or(end(high_watermark), |(offset, timestamp)| OffsetFound { offset, timestamp }))
            }
        }
    }
}
