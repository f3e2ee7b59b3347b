//! The replica that is asked for what this disk has lost: its batches, and which of their records it knows to be deleted.
//!
//! A log that is compacted drops a tombstone when its time is over. A replica that was compacted less far may still have
//! the record below, and the tombstone. To put the record alone in place would bring it back for ever. So before batches of
//! such a log are taken, all that the source has above them is read for their keys. The source may be compacted meanwhile,
//! and batches that were read before that may hold what has left it together with its tombstone. Those that count are read
//! last: what is still there then has had its tombstone above it all the time.

use std::time::Duration;

use bytes::Bytes;
use streambus_consensus::blocking;
use streambus_protocol::api::repair::ReplicaRepairRequest;
use streambus_protocol::batch::{PlacedBatch, batches};
use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::BrokerId;
use streambus_protocol::offset::Offset;
use streambus_storage::cleaner::deletions::Deletions;
use tokio::task::JoinError;

use crate::replication::peer_link::{LinkError, PeerLink};
use crate::replication::repair_state::{Ask, Refusal};

/// A replica that has not answered for so long does not help now.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// What is taken from a source for one range.
#[derive(Debug)]
pub(super) struct Given {
    /// Whole batches, the first holding the first offset wanted.
    pub(super) chunks: Vec<Bytes>,
    /// Bytes of them.
    pub(super) bytes: usize,
    /// What the source knows to be deleted.
    pub(super) deletions: Deletions,
}

/// One replica, asked for one range.
pub(super) struct RepairSource<'a> {
    pub(super) link: &'a dyn PeerLink,
    /// This broker and the epoch of its registration.
    pub(super) asker: (BrokerId, BrokerEpoch),
    pub(super) ask: &'a Ask,
    pub(super) bytes_max: u32,
    /// Nobody else could help: what it cannot tell is not waited for.
    pub(super) is_last_resort: bool,
}

impl RepairSource<'_> {
    /// Batches from the beginning of the range, as many as come at once. When this log may lack tombstones below
    /// `may_lack_below`, what the source has up to there is read first.
    pub(super) async fn take(&self, may_lack_below: Option<Offset>) -> Result<Given, Refusal> {
        let range = self.ask.range;
        let Some(may_lack_below) = may_lack_below else {
            let chunks = self.read(range.base, range.next).await?;
            let bytes = chunks.iter().map(Bytes::len).sum();
            return Ok(Given { chunks, bytes, deletions: Deletions::default() });
        };
        let first = self.read(range.base, range.next).await?;
        let (mut deletions, seen_end) =
            blocking_on(first, |first| (Deletions::for_keys_of(&first), end_of(&first))).await?;
        let Some(seen_end) = seen_end else { return Err(nothing_there(range.base)) };
        let mut cursor = seen_end;
        while cursor < may_lack_below && !deletions.is_empty() {
            let chunks = match self.read(cursor, may_lack_below).await {
                Ok(chunks) => chunks,
                Err(Refusal::Gone(text)) if self.is_last_resort => {
                    // What deletes a record may be there, or not: in doubt the record comes back.
                    tracing::warn!(
                        partition = %self.ask.id, source = %self.ask.source, offset = %cursor, why = text,
                        "what is repaired may bring back deleted records: the replica it comes from has lost batches too"
                    );
                    break;
                }
                // It has what is wanted, and may be asked again: it says only that others are better.
                Err(Refusal::Gone(text) | Refusal::Later(text)) => return Err(Refusal::Later(text)),
            };
            let noted = blocking_on(chunks, move |found| {
                deletions.note(&found);
                (deletions, end_of(&found))
            });
            let (noted, end) = noted.await?;
            deletions = noted;
            cursor = end.filter(|end| *end > cursor).ok_or_else(|| nothing_there(cursor))?;
        }
        let last = self.read(range.base, seen_end).await?;
        // Of what lies behind nobody has looked for the keys.
        let within = move |found: Vec<PlacedBatch>| -> Vec<Bytes> {
            let within = found.into_iter().map(|batch| batch.placeholder_within(range.base, seen_end));
            within.take_while(|batch| batch.next_offset() <= seen_end).map(PlacedBatch::into_bytes).collect()
        };
        let chunks = blocking_on(last, within).await?;
        if chunks.is_empty() {
            return Err(nothing_there(range.base));
        }
        let bytes = chunks.iter().map(Bytes::len).sum();
        Ok(Given { chunks, bytes, deletions })
    }

    /// Committed batches in `from..to`, the first holding `from`.
    async fn read(&self, from: Offset, to: Offset) -> Result<Vec<Bytes>, Refusal> {
        let (broker, broker_epoch) = self.asker;
        let request = ReplicaRepairRequest {
            broker,
            broker_epoch,
            topic: self.ask.id.topic,
            partition: self.ask.id.partition,
            leader_epoch: self.ask.leader_epoch,
            from,
            to,
            bytes_max: self.bytes_max,
        };
        let answer = self.link.repair(self.ask.source, request, ANSWER_PATIENCE).await;
        let answer = answer.map_err(|error| refused(&error))?;
        Ok(answer.batches.chunks().to_vec())
    }
}

/// What `work` makes of the batches in `chunks`, done where blocking is allowed: they may have to be expanded.
async fn blocking_on<T: Send + 'static>(
    chunks: Vec<Bytes>,
    work: impl FnOnce(Vec<PlacedBatch>) -> T + Send + 'static,
) -> Result<T, Refusal> {
    let done = blocking::spawn(move || {
        let found: Result<Vec<PlacedBatch>, _> = chunks.into_iter().flat_map(batches).collect();
        found.map(work)
    });
    joined(done.await)?.map_err(|error| Refusal::Later(format!("it sent what does not verify: {error}")))
}

/// What a blocking task returned; a panic in it goes on here.
pub(super) fn joined<T>(outcome: Result<T, JoinError>) -> Result<T, Refusal> {
    match outcome {
        Ok(done) => Ok(done),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(Refusal::Later(error.to_string())),
    }
}

fn end_of(found: &[PlacedBatch]) -> Option<Offset> {
    found.last().map(PlacedBatch::next_offset)
}

fn nothing_there(at: Offset) -> Refusal {
    Refusal::Later(format!("it sent nothing for offset {at}"))
}

fn refused(error: &LinkError) -> Refusal {
    let text = error.to_string();
    match error {
        LinkError::Refused(body) if matches!(body.code, ErrorCode::StorageDamaged | ErrorCode::OffsetOutOfRange) => {
            Refusal::Gone(text)
        }
        LinkError::Refused(_) | LinkError::Unreachable(_) => Refusal::Later(text),
    }
}
