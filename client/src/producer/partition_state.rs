//! What one partition's producer does next: which batch takes a record, which batch is sent, what a failure means for it
//! and for those behind it. Pure: time is an argument, no lock, no channel.
//!
//! ```text
//!   in_flight: sent, in the order of their sequence numbers          waiting: not sent, no sequence number yet
//!   +--------+--------+--------+                                     +--------+--------+
//!   | 0..9   | 9..14  | 14..30 |  <- at most five, KIP-98            | sealed | open   |  <- records are added here
//!   +--------+--------+--------+                                     +--------+--------+
//!     Sent     Again    Sent       an Again is sent again, same bytes, before anything that waits
//! ```
//!
//! Nothing is stored twice: a batch whose fate is unknown is only ever sent again under its own sequence number. Nothing
//! is reordered: what waits is sent only when nothing has to be sent again. When a sequence number was used and its batch
//! is given up, the numbers have a gap: the partition then *renews*, that is, it settles what is in flight, takes a newer
//! producer epoch, and starts again from zero.
//!
//! A batch that is given up in doubt may be stored yet: by an attempt that is still on its way, or in the log of a replica
//! that leads next. What was sent behind it may be stored there too. So when a leader misses it, that says nothing about
//! earlier attempts at the next one: if that is in doubt, it is given up as well, and never sent under another number.
//!
//! When the partition *moves* (another leader, another epoch of the same one, another topic under the same name), what
//! was sent to the old place and has no answer is sent again to the new one, in order and one at a time until something
//! is acknowledged: a leader that lost the producer's past would take any sequence number as its first. An answer to an
//! attempt that was overtaken by a later one counts only if it says that the batch is stored.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use streambus_protocol::batch::{BatchBuilder, BatchOptions, ProducerStamp, PushError};
use streambus_protocol::compression::Compression;
use streambus_protocol::error_code::{Applied, ErrorCode};
use streambus_protocol::ids::{ProducerEpoch, ProducerId, Sequence};
use streambus_protocol::record::Record;
use tokio::time::Instant;

use crate::error::Error;
use crate::producer::batch::{Batch, Content, Recipe};
use crate::producer::completion::BatchCompletion;

/// Batches that are sent whatever their size, per partition: one being written to disk and one ready behind it.
const EAGER_BATCHES: usize = 2;
/// Beyond those, a batch is worth a request of its own only from this size on; below, it collects until one is answered.
const WORTHWHILE_BYTES: usize = 32 * 1024;

/// What does not change while the producer lives.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) batch_bytes: usize,
    pub(crate) record_bytes_max: usize,
    pub(crate) in_flight_max: usize,
    pub(crate) compression: Compression,
    pub(crate) linger: Duration,
    pub(crate) delivery_timeout: Duration,
    /// Batches carry a stamp.
    pub(crate) stamps: bool,
}

/// A producer's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: ProducerId,
    pub(crate) epoch: ProducerEpoch,
}

#[derive(Debug)]
struct Flight {
    batch: Batch,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Sent then; an answer is awaited.
    Sent(Instant),
    /// To be sent again, not before this.
    Again(Instant),
}

/// Whether something can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sendable {
    /// Now.
    Now,
    /// Then, if nothing happens before.
    At(Instant),
    /// Not until something happens.
    No,
}

/// A batch to be sent.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) id: u64,
    pub(crate) recipe: Recipe,
    pub(crate) deadline: Instant,
    /// How often it was sent, this time included.
    pub(crate) attempt: u32,
}

/// Where a record went.
#[derive(Debug)]
pub(crate) struct Pushed {
    pub(crate) completion: Arc<BatchCompletion>,
    pub(crate) index: u32,
    /// What can be sent may have changed: a batch was opened, or became worth a request.
    pub(crate) news: bool,
}

/// A batch with its outcome.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) batch: Batch,
    pub(crate) error: Error,
}

/// The state.
#[derive(Debug)]
pub(crate) struct PartitionState {
    rules: Arc<Rules>,
    identity: Option<Identity>,
    next_sequence: Sequence,
    in_flight: VecDeque<Flight>,
    waiting: VecDeque<Batch>,
    /// The present leader has acknowledged something of this identity. Before, one batch at a time: a broker that does not
    /// know the identity takes any sequence number as its first, so a second batch could be stored before the first.
    established: bool,
    /// The sequence has a gap: nothing that waits is sent before a newer identity is adopted.
    renewing: bool,
    /// What left the gap may be stored yet.
    gap_in_doubt: bool,
    /// Set once, by [`PartitionState::abort`]: nothing is taken any more.
    ended: Option<Error>,
    next_id: u64,
}

impl PartitionState {
    pub(crate) fn new(rules: Arc<Rules>, identity: Option<Identity>) -> Self {
        let next_sequence = Sequence::new(0);
        Self {
            rules,
            identity,
            next_sequence,
            in_flight: VecDeque::new(),
            waiting: VecDeque::new(),
            established: false,
            renewing: false,
            gap_in_doubt: false,
            ended: None,
            next_id: 0,
        }
    }

    /// Adds a record, which takes `charged_bytes` of the buffer. A new batch gets the completion that `complete` makes.
    pub(crate) fn push(
        &mut self,
        record: &Record,
        charged_bytes: usize,
        now: impl FnOnce() -> Instant,
        complete: impl FnOnce() -> Arc<BatchCompletion>,
    ) -> Result<Pushed, Error> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        if let Some(batch) = self.waiting.back_mut()
            && let Content::Open(builder) = &mut batch.content
        {
            match builder.push(record) {
                Ok(()) => {
                    let index = batch.records;
                    batch.records += 1;
                    let before = batch.charged_bytes;
                    batch.charged_bytes += charged_bytes;
                    let news = before < WORTHWHILE_BYTES && batch.charged_bytes >= WORTHWHILE_BYTES;
                    return Ok(Pushed { completion: Arc::clone(&batch.completion), index, news });
                }
                // It may still fit into a batch of its own.
                Err(PushError::BatchFull | PushError::RecordTooLarge { .. }) => {}
                Err(error) => return Err(refused(error)),
            }
        }
        let (builder, alone) = self.first_of_batch(record)?;
        if let Some(full) = self.waiting.back_mut() {
            full.content.seal();
        }
        let now = now();
        let completion = complete();
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.push_back(Batch {
            id,
            content: if alone { Content::Sealed(builder) } else { Content::Open(builder) },
            records: 1,
            charged_bytes,
            completion: Arc::clone(&completion),
            opened: now,
            ripe: now + self.rules.linger,
            deadline: now + self.rules.delivery_timeout,
            attempts: 0,
            doubt: false,
            last_error: None,
        });
        Ok(Pushed { completion, index: 0, news: true })
    }

    /// A builder that holds `record`, and whether nothing may join it: a record larger than a batch travels alone.
    fn first_of_batch(&self, record: &Record) -> Result<(BatchBuilder, bool), Error> {
        let options = BatchOptions { compression: self.rules.compression, producer: None, is_control: false };
        let mut builder = BatchBuilder::with_bytes_max(options, self.rules.batch_bytes);
        if builder.push(record).is_ok() {
            return Ok((builder, false));
        }
        let mut builder = BatchBuilder::with_bytes_max(options, self.rules.record_bytes_max);
        builder.push(record).map_err(refused)?;
        Ok((builder, true))
    }

    /// Whether [`PartitionState::take`] would return a batch at `now`.
    pub(crate) fn sendable(&self, now: Instant) -> Sendable {
        if let Some(again) = self.first_again() {
            if !self.established && self.in_flight.iter().any(Flight::is_sent) {
                return Sendable::No;
            }
            return if again <= now { Sendable::Now } else { Sendable::At(again) };
        }
        let Some(first) = self.waiting.front() else { return Sendable::No };
        let has_identity = self.identity.is_some() || !self.rules.stamps;
        let limit = if self.established || !self.rules.stamps { self.rules.in_flight_max } else { 1 };
        if self.renewing || !has_identity {
            return Sendable::No;
        }
        if let Some(oldest) = self.in_flight.front() {
            // Not the number in flight counts but the distance to the oldest: those between may be acknowledged while it
            // is retried, and the broker recognises only the last five.
            let distance = first.id.saturating_sub(oldest.batch.id);
            if usize::try_from(distance).unwrap_or(usize::MAX) >= limit {
                return Sendable::No;
            }
        }
        let full = !matches!(first.content, Content::Open(_));
        if !full && self.in_flight.len() >= EAGER_BATCHES && first.charged_bytes < WORTHWHILE_BYTES {
            return Sendable::No;
        }
        if full || first.ripe <= now { Sendable::Now } else { Sendable::At(first.ripe) }
    }

    /// When the first batch that must be sent again may be.
    fn first_again(&self) -> Option<Instant> {
        self.in_flight.iter().find_map(|flight| match flight.progress {
            Progress::Again(at) => Some(at),
            Progress::Sent(_) => None,
        })
    }

    /// The batch to be sent at `now`, if there is one. Its bytes, once built, are given to [`PartitionState::built`].
    pub(crate) fn take(&mut self, now: Instant) -> Option<Parcel> {
        if self.sendable(now) != Sendable::Now {
            return None;
        }
        if let Some(flight) = self.in_flight.iter_mut().find(|flight| !flight.is_sent()) {
            flight.progress = Progress::Sent(now);
            flight.batch.attempts = flight.batch.attempts.saturating_add(1);
            flight.batch.completion.attempted();
            let Batch { id, deadline, attempts: attempt, .. } = flight.batch;
            let Content::Built(bytes) = &flight.batch.content else { return None };
            return Some(Parcel { id, recipe: Recipe::Ready(bytes.clone()), deadline, attempt });
        }
        let mut batch = self.waiting.pop_front()?;
        let stamp = self.stamp(batch.records);
        let recipe = match std::mem::replace(&mut batch.content, Content::Building) {
            Content::Open(mut builder) | Content::Sealed(mut builder) => {
                if let Some(stamp) = stamp {
                    builder.set_producer(stamp);
                }
                Recipe::Build(builder)
            }
            Content::Stale(bytes) | Content::Built(bytes) => Recipe::Restamp(bytes, stamp),
            // Only what is in flight is being built.
            Content::Building => return None,
        };
        batch.attempts = batch.attempts.saturating_add(1);
        batch.completion.attempted();
        let parcel = Parcel { id: batch.id, recipe, deadline: batch.deadline, attempt: batch.attempts };
        debug_assert!(self.in_flight.back().is_none_or(|last| last.batch.id < batch.id), "order is kept");
        self.in_flight.push_back(Flight { batch, progress: Progress::Sent(now) });
        debug_assert!(self.in_flight.len() <= self.rules.in_flight_max);
        Some(parcel)
    }

    /// The stamp for the next batch, of `records`.
    fn stamp(&mut self, records: u32) -> Option<ProducerStamp> {
        let identity = self.identity.filter(|_| self.rules.stamps)?;
        let base_sequence = self.next_sequence;
        self.next_sequence = after(base_sequence, records);
        Some(ProducerStamp { id: identity.id, epoch: identity.epoch, base_sequence })
    }

    /// The bytes of batch `id`, kept for retries.
    pub(crate) fn built(&mut self, id: u64, bytes: Bytes) {
        if let Some(flight) = self.flight(id) {
            flight.batch.content = Content::Built(bytes);
        }
    }

    /// Batch `id` was stored by its attempt number `attempt`, or needs no answer. `None` when it has an outcome already.
    pub(crate) fn acknowledged(&mut self, id: u64, attempt: u32) -> Option<Batch> {
        // An attempt that was overtaken went to another leader, which tells nothing of what the present one knows.
        self.established |= self.flight(id)?.awaits(attempt);
        self.remove(id)
    }

    fn remove(&mut self, id: u64) -> Option<Batch> {
        let place = self.in_flight.iter().position(|flight| flight.batch.id == id)?;
        self.in_flight.remove(place).map(|flight| flight.batch)
    }

    /// The attempt number `attempt` to send batch `id` failed at `now`; `pause` says how long to wait after so many
    /// attempts. Returns what is given up for it. An attempt that was overtaken by a later one changes nothing.
    pub(crate) fn failed(
        &mut self,
        id: u64,
        attempt: u32,
        error: Error,
        now: Instant,
        pause: impl FnOnce(u32) -> Duration,
    ) -> Vec<Ended> {
        let (stamps, gap_in_doubt) = (self.rules.stamps, self.gap_in_doubt);
        let first = self.in_flight.front().map(|flight| flight.batch.id);
        let Some(flight) = self.flight(id).filter(|flight| flight.awaits(attempt)) else { return Vec::new() };
        let out_of_order = stamps && error.code() == Some(ErrorCode::OutOfOrderSequence);
        // The first in flight is missed where what was before it is missed; earlier attempts may be where that is not.
        let is_cut_off = out_of_order && first == Some(id) && gap_in_doubt && flight.batch.doubt;
        // What was before it is nowhere, or is missed although it was acknowledged: the broker has lost the sequence.
        let is_nowhere = out_of_order && first == Some(id) && !is_cut_off;
        flight.batch.doubt = !is_nowhere && (flight.batch.doubt || error.applied() == Applied::Unknown);
        flight.batch.last_error = Some(error.clone());
        flight.batch.completion.attempt_failed(&error);
        let again = now + pause(flight.batch.attempts);
        // A partition that this producer knows to exist is one that the broker has not heard of yet.
        let unheard_of = error.code() == Some(ErrorCode::UnknownPartition);
        let retriable = (out_of_order && !is_cut_off) || unheard_of || error.is_retriable();
        let goes_on = retriable && again < flight.batch.deadline;
        if goes_on {
            flight.progress = Progress::Again(again);
        }
        if is_nowhere {
            // Nor is anything that follows, because a sequence has no holes; without that, only the first would ever be asked
            // for again.
            let rest = self.in_flight.iter_mut().filter(|flight| !flight.is_sent());
            rest.for_each(|flight| flight.batch.doubt = false);
            self.renewing = true;
        }
        if goes_on {
            self.step_back();
            return Vec::new();
        }
        let Some(flight) = self.flight(id) else { return Vec::new() };
        let error = match (retriable, flight.batch.doubt && error.applied() == Applied::No) {
            (true, _) => given_up(&flight.batch, now),
            // An earlier attempt may have been stored.
            (false, true) => with_unknown_outcome(&flight.batch, &error, now),
            (false, false) => error,
        };
        let ended = self.remove(id).map(|batch| Ended { batch, error });
        self.renewing |= stamps;
        self.gap_in_doubt |= stamps && ended.as_ref().is_some_and(|ended| ended.batch.doubt);
        self.step_back();
        ended.into_iter().collect()
    }

    /// Batches go elsewhere from `now` on; to a topic created anew if `recreated`, which knows nothing of this producer.
    pub(crate) fn moved(&mut self, now: Instant, recreated: bool) {
        self.established = false;
        for flight in &mut self.in_flight {
            // Its answer may never come, and the old leader may have stored it before it lost its leadership.
            flight.batch.doubt |= flight.is_sent();
            flight.progress = Progress::Again(now);
        }
        self.renewing |= recreated && self.rules.stamps;
        self.step_back();
    }

    /// True when something has to be sent again, or was sent before `then` and is not answered.
    pub(crate) fn is_stuck(&self, then: Instant) -> bool {
        self.in_flight.iter().any(|flight| match flight.progress {
            Progress::Sent(at) => at <= then,
            Progress::Again(_) => true,
        })
    }

    /// Gives up what is past its time at `now`. A batch that is being sent is left: its answer, or the end of its
    /// request, is about to come.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Ended> {
        let mut ended = Vec::new();
        let in_flight = std::mem::take(&mut self.in_flight);
        for flight in in_flight {
            if !flight.is_sent() && flight.batch.deadline <= now {
                let error = given_up(&flight.batch, now);
                self.renewing |= self.rules.stamps;
                self.gap_in_doubt |= self.rules.stamps && flight.batch.doubt;
                ended.push(Ended { batch: flight.batch, error });
            } else {
                self.in_flight.push_back(flight);
            }
        }
        while let Some(batch) = self.waiting.pop_front() {
            if batch.deadline > now {
                self.waiting.push_front(batch);
                break;
            }
            let error = given_up(&batch, now);
            ended.push(Ended { batch, error });
        }
        self.step_back();
        ended
    }

    /// Gives up everything, because of `error`, which every later record gets too.
    pub(crate) fn abort(&mut self, error: &Error, now: Instant) -> Vec<Ended> {
        let flights = std::mem::take(&mut self.in_flight).into_iter().map(|flight| {
            let unknown = flight.batch.doubt || flight.is_sent();
            let error = if unknown { with_unknown_outcome(&flight.batch, error, now) } else { error.clone() };
            Ended { batch: flight.batch, error }
        });
        let waiting = std::mem::take(&mut self.waiting).into_iter().map(|b| Ended { batch: b, error: error.clone() });
        let ended = flights.chain(waiting).collect();
        self.ended = Some(error.clone());
        ended
    }

    /// While renewing: what was certainly not stored waits again, to be sent under the new identity.
    fn step_back(&mut self) {
        if !self.renewing {
            return;
        }
        while let Some(last) = self.in_flight.back()
            && !last.is_sent()
            && !last.batch.doubt
            && let Some(Flight { mut batch, .. }) = self.in_flight.pop_back()
        {
            batch.content = match batch.content {
                Content::Built(bytes) => Content::Stale(bytes),
                other => other,
            };
            self.waiting.push_front(batch);
        }
    }

    /// The identity that must be replaced before anything that waits can be sent, once nothing is in flight.
    pub(crate) fn wants_newer_than(&self) -> Option<Option<Identity>> {
        let wanting = self.rules.stamps && (self.renewing || self.identity.is_none());
        (wanting && self.in_flight.is_empty()).then_some(self.identity)
    }

    /// Takes `identity`, if one is wanted and this one is newer.
    pub(crate) fn adopt(&mut self, identity: Identity) -> bool {
        let Some(old) = self.wants_newer_than() else { return false };
        if old == Some(identity) {
            return false;
        }
        self.identity = Some(identity);
        self.next_sequence = Sequence::new(0);
        self.established = false;
        self.renewing = false;
        self.gap_in_doubt = false;
        true
    }

    /// Makes everything that waits ripe, and returns the completions of everything that has no outcome yet.
    pub(crate) fn flush(&mut self, now: Instant) -> Vec<Arc<BatchCompletion>> {
        for batch in &mut self.waiting {
            batch.ripe = batch.ripe.min(now);
        }
        let flights = self.in_flight.iter().map(|flight| &flight.batch);
        flights.chain(&self.waiting).map(|batch| Arc::clone(&batch.completion)).collect()
    }

    /// True when nothing awaits an outcome.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.waiting.is_empty()
    }

    fn flight(&mut self, id: u64) -> Option<&mut Flight> {
        self.in_flight.iter_mut().find(|flight| flight.batch.id == id)
    }
}

impl Flight {
    fn is_sent(&self) -> bool {
        matches!(self.progress, Progress::Sent(_))
    }

    /// True when the answer to attempt number `attempt` is what it waits for.
    fn awaits(&self, attempt: u32) -> bool {
        self.is_sent() && self.batch.attempts == attempt
    }
}

impl Content {
    fn seal(&mut self) {
        *self = match std::mem::replace(self, Self::Building) {
            Self::Open(builder) => Self::Sealed(builder),
            other => other,
        };
    }
}

/// The sequence number after a batch that starts at `base`: after `i32::MAX` comes 0 (KIP-98).
fn after(base: Sequence, records: u32) -> Sequence {
    let next = (i64::from(base.get()) + i64::from(records)) & i64::from(i32::MAX);
    Sequence::new(i32::try_from(next).unwrap_or(0))
}

/// The error for a batch whose time is over.
fn given_up(batch: &Batch, now: Instant) -> Error {
    Error::Timeout {
        op: "produce",
        after: now.saturating_duration_since(batch.opened),
        attempts: batch.attempts,
        last: batch.last_error.clone().map(Box::new),
        outcome: if batch.doubt { Applied::Unknown } else { Applied::No },
    }
}

/// `cause` for a batch that may have been stored.
fn with_unknown_outcome(batch: &Batch, cause: &Error, now: Instant) -> Error {
    match cause {
        Error::Closed => Error::Cancelled { op: "produce", outcome: Applied::Unknown },
        other => Error::Timeout {
            op: "produce",
            after: now.saturating_duration_since(batch.opened),
            attempts: batch.attempts,
            last: Some(Box::new(other.clone())),
            outcome: Applied::Unknown,
        },
    }
}

fn refused(error: PushError) -> Error {
    match error {
        PushError::RecordTooLarge { bytes, max } => Error::RecordTooLarge { size: bytes, max },
        other => Error::Invalid { what: other.to_string() },
    }
}

#[cfg(test)]
#[path = "partition_state_tests.rs"]
mod tests;
