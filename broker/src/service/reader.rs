//! Reading many partitions under one byte budget: memory first, then all disk reads together in one blocking call.

use std::sync::Arc;

use bytes::Bytes;
use streambus_protocol::api::fetch::Fetched;
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::offset::Offset;
use streambus_storage::partition_log::DiskRead;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::partition::Partition;
use crate::partition::read::{Found, PartitionRead};
use crate::service::refusal;

/// Bytes that reads from disk may hold in memory, for all requests together. Bytes of the tail cache are not counted:
/// they are there anyway.
#[derive(Clone, Debug)]
pub struct ReadBudget {
    bytes: Arc<Semaphore>,
    bytes_max: usize,
}

impl ReadBudget {
    /// A budget of `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        // A permit count is 32 bits wide.
        let bytes_max = bytes_max.clamp(1, 1 << 30);
        Self { bytes: Arc::new(Semaphore::new(bytes_max)), bytes_max }
    }

    /// Waits for room. Whoever holds permits gives them back when the answer is written or its connection is cut.
    async fn acquire(&self, bytes: usize) -> Option<Arc<OwnedSemaphorePermit>> {
        let count = u32::try_from(bytes.clamp(1, self.bytes_max)).unwrap_or(1);
        Arc::clone(&self.bytes).acquire_many_owned(count).await.ok().map(Arc::new)
    }
}

/// Bytes read from disk, with their share of the budget: given back when the last slice of them is dropped.
struct Budgeted {
    bytes: Bytes,
    _permit: Arc<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Budgeted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// One partition to read.
#[derive(Debug)]
pub struct Wanted {
    /// The caller's number for it.
    pub place: usize,
    /// The partition.
    pub partition: Arc<Partition>,
    /// The first offset wanted.
    pub from: Offset,
    /// Bytes of it, at most; its first batch comes whole.
    pub bytes_max: usize,
}

/// What one partition gave.
#[derive(Debug)]
pub struct Got {
    /// The caller's number for it.
    pub place: usize,
    /// The batches, perhaps none, or why it cannot be read.
    pub result: Result<ReadOut, ErrorBody>,
}

/// Batches and where the next read starts.
#[derive(Debug)]
pub struct ReadOut {
    /// The answer.
    pub fetched: Fetched,
    /// The offset after the last batch; the offset asked for when there is none.
    pub next: Offset,
}

struct Pending {
    place: usize,
    partition: Arc<Partition>,
    from: Offset,
    read: PartitionRead,
}

/// Reads `wanted` in its order, at most `bytes_max` bytes, but at least one batch if one is committed. Partitions that
/// the budget does not reach answer with their watermarks and no batch.
pub async fn read_all(budget: &ReadBudget, wanted: Vec<Wanted>, bytes_max: usize) -> Vec<Got> {
    let mut left = bytes_max.max(1);
    let mut anything = false;
    let mut got = Vec::with_capacity(wanted.len());
    let mut disk: Vec<(Pending, DiskRead)> = Vec::new();
    let mut disk_bytes = 0_usize;
    for Wanted { place, partition, from, bytes_max } in wanted {
        let limit = bytes_max.clamp(1, left.max(1));
        let mut read = match partition.read(from, limit) {
            Ok(read) => read,
            Err(error) => {
                got.push(Got { place, result: Err(error) });
                continue;
            }
        };
        match std::mem::replace(&mut read.found, Found::Nothing) {
            Found::Nothing => got.push(nothing(place, &read, from)),
            Found::InMemory { chunks, next } => {
                let bytes: usize = chunks.iter().map(Bytes::len).sum();
                if anything && bytes > left {
                    got.push(nothing(place, &read, from));
                } else {
                    left = left.saturating_sub(bytes);
                    anything = true;
                    got.push(Got { place, result: Ok(ReadOut { fetched: read.answer(chunks), next }) });
                }
            }
            Found::OnDisk(_) if anything && left == 0 => got.push(nothing(place, &read, from)),
            Found::OnDisk(disk_read) => {
                left = left.saturating_sub(limit);
                anything = true;
                disk_bytes = disk_bytes.saturating_add(limit);
                disk.push((Pending { place, partition, from, read }, disk_read));
            }
        }
    }
    if !disk.is_empty() {
        got.extend(read_disk(budget, disk, disk_bytes).await);
    }
    got
}

fn nothing(place: usize, read: &PartitionRead, from: Offset) -> Got {
    Got { place, result: Ok(ReadOut { fetched: read.answer(Vec::new()), next: from }) }
}

async fn read_disk(budget: &ReadBudget, disk: Vec<(Pending, DiskRead)>, bytes: usize) -> Vec<Got> {
    let permit = budget.acquire(bytes).await;
    let places: Vec<usize> = disk.iter().map(|(pending, _)| pending.place).collect();
    let blocking = tokio::task::spawn_blocking(move || {
        disk.into_iter().map(|(pending, read)| (pending, read.run())).collect::<Vec<_>>()
    });
    match blocking.await {
        Ok(done) => done
            .into_iter()
            .map(|(pending, result)| {
                let result = match result {
                    Ok((chunks, next)) => {
                        let chunks = chunks.into_iter().map(|bytes| charge(bytes, permit.as_ref())).collect();
                        Ok(ReadOut { fetched: pending.read.answer(chunks), next })
                    }
                    Err(error) => Err(refusal::read(&pending.partition, pending.from, &error)),
                };
                Got { place: pending.place, result }
            })
            .collect(),
        Err(error) => {
            places.into_iter().map(|place| Got { place, result: Err(refusal::blocking_failed(&error)) }).collect()
        }
    }
}

fn charge(bytes: Bytes, permit: Option<&Arc<OwnedSemaphorePermit>>) -> Bytes {
    match permit {
        Some(permit) => Bytes::from_owner(Budgeted { bytes, _permit: Arc::clone(permit) }),
        None => bytes,
    }
}
