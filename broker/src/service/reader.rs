//! Reading many partitions under one byte budget: memory first, then all disk reads together in one blocking call.

use std::sync::Arc;

use bytes::Bytes;
use streambus_consensus::blocking;
use streambus_protocol::api::fetch::Fetched;
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::offset::Offset;
use streambus_storage::error::ReadError;
use streambus_storage::partition_log::DiskRead;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::clock::Deadline;
use crate::partition::Partition;
use crate::partition::read::{Found, PartitionRead, ReadScope};
use crate::service::refusal;

/// Batches read from disk are copied up to this many bytes: the size to which the store's extents grow by default.
const COPIED_BYTES_MAX: usize = 256 * 1024;

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

    /// Waits for room for `bytes`, or for all there is if they are more. Whoever holds permits gives them back when the
    /// answer is written or its connection is cut.
    async fn acquire(&self, bytes: usize, patience: Patience<'_>) -> Room {
        let count = self.permit_count(bytes);
        let acquired = Arc::clone(&self.bytes).acquire_many_owned(count);
        let late = async {
            match patience.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.instant()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // The semaphore is never closed.
            permit = acquired => permit.map_or(Room::Closing, Room::Granted),
            () = patience.closing.cancelled() => Room::Closing,
            () = late => Room::Late,
        }
    }

    /// Makes `permit` one for `bytes`: gives back what is too much, and takes what is missing if it is there. What is
    /// not there is at most one batch of a topic whose largest batch became smaller after it was written.
    fn settle(&self, permit: &mut OwnedSemaphorePermit, bytes: usize) {
        let (held, count) = (permit.num_permits(), self.permit_count(bytes) as usize);
        if let Some(too_much) = held.checked_sub(count) {
            drop(permit.split(too_much));
        } else if let Ok(missing) = Arc::clone(&self.bytes).try_acquire_many_owned(self.permit_count(count - held)) {
            permit.merge(missing);
        }
    }

    fn permit_count(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.clamp(1, self.bytes_max)).unwrap_or(u32::MAX)
    }
}

/// How long a read waits for its share of the budget.
#[derive(Clone, Copy, Debug)]
pub struct Patience<'a> {
    /// Until then; `None` for as long as it takes.
    pub deadline: Option<Deadline>,
    /// And no longer than this is not cancelled.
    pub closing: &'a CancellationToken,
}

/// The answer to asking for a share of the budget.
enum Room {
    Granted(OwnedSemaphorePermit),
    Late,
    Closing,
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
    /// How far it may be read.
    pub scope: ReadScope,
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
/// the byte limit does not reach answer with their watermarks and no batch; so do those that need the disk once
/// `patience.closing` is cancelled.
pub async fn read_all(budget: &ReadBudget, wanted: Vec<Wanted>, bytes_max: usize, patience: Patience<'_>) -> Vec<Got> {
    let mut allowance = Allowance { left: bytes_max.max(1), anything: false };
    let mut got = Vec::with_capacity(wanted.len());
    let mut disk: Vec<(Pending, DiskRead)> = Vec::new();
    for Wanted { place, partition, from, bytes_max, scope } in wanted {
        let limit = bytes_max.clamp(1, allowance.left.max(1));
        let mut read = match partition.read(from, limit, scope) {
            Ok(read) => read,
            Err(error) => {
                got.push(Got { place, result: Err(error) });
                continue;
            }
        };
        match std::mem::replace(&mut read.found, Found::Nothing) {
            Found::Nothing => got.push(nothing(place, &read, from)),
            Found::InMemory { chunks, next } => {
                if allowance.take(length(&chunks)) {
                    got.push(Got { place, result: Ok(ReadOut { fetched: read.answer(chunks), next }) });
                } else {
                    got.push(nothing(place, &read, from));
                }
            }
            Found::OnDisk(disk_read) => disk.push((Pending { place, partition, from, read }, disk_read)),
        }
    }
    if !disk.is_empty() {
        got.extend(read_disk(budget, disk, allowance, patience).await);
    }
    got
}

/// What an answer may still grow by. Its first batches come whatever their size.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    left: usize,
    anything: bool,
}

impl Allowance {
    fn is_used_up(&self) -> bool {
        self.anything && self.left == 0
    }

    /// Whether `bytes` more may join the answer.
    fn take(&mut self, bytes: usize) -> bool {
        if self.anything && bytes > self.left {
            return false;
        }
        self.left = self.left.saturating_sub(bytes);
        self.anything = true;
        true
    }
}

fn length(chunks: &[Bytes]) -> usize {
    chunks.iter().map(Bytes::len).sum()
}

fn nothing(place: usize, read: &PartitionRead, from: Offset) -> Got {
    Got { place, result: Ok(ReadOut { fetched: read.answer(Vec::new()), next: from }) }
}

async fn read_disk(
    budget: &ReadBudget,
    disk: Vec<(Pending, DiskRead)>,
    allowance: Allowance,
    patience: Patience<'_>,
) -> Vec<Got> {
    let mut permit = match budget.acquire(most(&disk, allowance), patience).await {
        Room::Granted(permit) => permit,
        Room::Closing => return disk.iter().map(|(asked, _)| nothing(asked.place, &asked.read, asked.from)).collect(),
        Room::Late => {
            let late = || ErrorBody::new(ErrorCode::Overloaded, "other reads from disk use up their memory: try again");
            return disk.iter().map(|(asked, _)| Got { place: asked.place, result: Err(late()) }).collect();
        }
    };
    let places: Vec<usize> = disk.iter().map(|(pending, _)| pending.place).collect();
    let reading = blocking::spawn(move || run(disk, allowance));
    match reading.await {
        Ok(done) => {
            budget.settle(&mut permit, done.iter().map(|(_, result)| brought(result)).sum());
            let permit = Arc::new(permit);
            done.into_iter().map(|(pending, result)| answer(pending, result, &permit)).collect()
        }
        Err(error) => {
            places.into_iter().map(|place| Got { place, result: Err(refusal::blocking_failed(&error)) }).collect()
        }
    }
}

/// What the disk gave for one partition; `None` when the answer had no room for it.
type FromDisk = Result<Option<(Vec<Bytes>, Offset)>, ReadError>;

/// Reads one partition after the other until the answer is full, blocking.
fn run(disk: Vec<(Pending, DiskRead)>, mut allowance: Allowance) -> Vec<(Pending, FromDisk)> {
    disk.into_iter()
        .map(|(pending, read)| {
            if allowance.is_used_up() {
                return (pending, Ok(None));
            }
            let found = read.run().map(|(chunks, next)| allowance.take(length(&chunks)).then(|| (unpin(chunks), next)));
            (pending, found)
        })
        .collect()
}

/// The most that `run` brings: what the answer may still take, and the first batch above it.
fn most(disk: &[(Pending, DiskRead)], allowance: Allowance) -> usize {
    let batch = disk.iter().map(|(pending, _)| pending.partition.role().settings.batch_bytes_max).max().unwrap_or(0);
    allowance.left.saturating_add(usize::try_from(batch).unwrap_or(usize::MAX))
}

fn brought(result: &FromDisk) -> usize {
    match result {
        Ok(Some((chunks, _))) => length(chunks),
        Ok(None) | Err(_) => 0,
    }
}

fn answer(pending: Pending, result: FromDisk, permit: &Arc<OwnedSemaphorePermit>) -> Got {
    let Pending { place, partition, from, read } = pending;
    match result {
        Ok(Some((chunks, next))) => {
            let chunks = chunks.into_iter();
            let chunks =
                chunks.map(|bytes| Bytes::from_owner(Budgeted { bytes, _permit: Arc::clone(permit) })).collect();
            Got { place, result: Ok(ReadOut { fetched: read.answer(chunks), next }) }
        }
        Ok(None) => nothing(place, &read, from),
        Err(error) => Got { place, result: Err(refusal::read(&partition, from, &error)) },
    }
}

/// Copies few bytes out of the extents they were read with: a slice of one batch would keep the whole extent, which is
/// not charged. Above the size of an extent, what is kept too much is at most the two at the ends.
fn unpin(chunks: Vec<Bytes>) -> Vec<Bytes> {
    if length(&chunks) > COPIED_BYTES_MAX {
        return chunks;
    }
    chunks.iter().map(|chunk| Bytes::copy_from_slice(chunk)).collect()
}

#[cfg(test)]
mod tests;
