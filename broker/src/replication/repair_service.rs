//! Reading what another replica's disk has lost. Bounded like a fetch: by the request, by this broker's own limit, by the
//! budget of followers' reads, and in time.

use std::time::Duration;

use streambus_protocol::api::fetch::Batches;
use streambus_protocol::api::repair::{ReplicaRepairRequest, ReplicaRepairResponse};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::batch::{PlacedBatch, batches};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, PartitionId};
use tokio_util::sync::CancellationToken;

use crate::clock::Deadline;
use crate::partition::read::ReadScope;
use crate::partition::registry::Registry;
use crate::service::reader::{Patience, ReadBudget, Wanted, read_all};

/// How long a read waits for its share of the budget: whoever asks has others to ask.
const BUDGET_PATIENCE: Duration = Duration::from_secs(2);

/// Reads for `peer` what it may have.
///
/// # Errors
/// Those of [`Partition::may_serve_repair`](crate::partition::Partition::may_serve_repair); `UNKNOWN_PARTITION`,
/// `OFFSET_OUT_OF_RANGE`, `STORAGE_DAMAGED`, `OVERLOADED`.
pub(super) async fn read(
    registry: &Registry,
    budget: &ReadBudget,
    bytes_max: u32,
    peer: BrokerId,
    request: ReplicaRepairRequest,
    closing: &CancellationToken,
) -> Result<ReplicaRepairResponse, ErrorBody> {
    if request.broker != peer || request.from >= request.to {
        let text = format!("broker {peer} asks for {} to {} as broker {}", request.from, request.to, request.broker);
        return Err(ErrorBody::new(ErrorCode::InvalidRequest, text));
    }
    let id = PartitionId { topic: request.topic, partition: request.partition };
    let not_here = || ErrorBody::new(ErrorCode::UnknownPartition, format!("partition {id} is not here, or not yet"));
    let partition = registry.get(id).ok_or_else(not_here)?;
    let _committed = partition.may_serve_repair(&request)?;
    let bytes_max = usize::try_from(request.bytes_max.min(bytes_max)).unwrap_or(usize::MAX);
    let (place, from, scope) = (0, request.from, ReadScope::Committed);
    let wanted = Wanted { place, partition: partition.clone(), from, bytes_max, scope };
    let patience = Patience { deadline: Some(Deadline::after(BUDGET_PATIENCE)), closing };
    let got = read_all(budget, vec![wanted], bytes_max, patience).await.pop();
    let chunks = got.ok_or_else(not_here)?.result?.fetched.batches.chunks().to_vec();
    // A leadership that ended while the disk was read may have been the one whose records these are.
    let committed = partition.may_serve_repair(&request)?;
    let mut found = Vec::new();
    for batch in chunks.into_iter().flat_map(batches) {
        let batch = batch.map_err(|error| ErrorBody::new(ErrorCode::StorageDamaged, error.to_string()))?;
        if batch.base_offset() >= request.to || batch.next_offset() > committed {
            break;
        }
        found.push(PlacedBatch::into_bytes(batch));
    }
    if found.is_empty() {
        let text = format!("there is no committed batch at offset {from} here that could be read now");
        return Err(ErrorBody::new(ErrorCode::OffsetNotAvailable, text));
    }
    Ok(ReplicaRepairResponse { batches: Batches::from_chunks(found) })
}
