//! Reading on demand, with a long poll: answer as soon as there is enough, or with what there is when the wait ends.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use streambus_protocol::api::fetch::{FetchOutcome, FetchPartition, FetchRequest, FetchResponse};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{PartitionIndex, TopicId};
use streambus_protocol::limits::FETCH_WAIT_MS_MAX;
use streambus_protocol::offset::Offset;
use streambus_storage::epoch_cache::EpochEnd;
use tokio_util::sync::CancellationToken;

use crate::clock::Deadline;
use crate::metrics::BrokerMetrics;
use crate::partition::fetch_wait::WaitSet;
use crate::partition::read::ReadScope;
use crate::service::directory::Directory;
use crate::service::nearest::Reading;
use crate::service::reader::{Got, Patience, ReadBudget, Wanted, read_all};

/// Reads committed batches.
#[derive(Debug)]
pub struct FetchService {
    directory: Directory,
    budget: ReadBudget,
    response_bytes_max: usize,
    metrics: Arc<BrokerMetrics>,
    /// Where the next fetch starts in its list, so that a busy first partition does not starve the others.
    rotation: AtomicUsize,
    /// Never cancelled: for callers with no connection of their own.
    never: CancellationToken,
}

/// A partition of the request, found or refused.
type Target = Result<Reading, ErrorBody>;

impl FetchService {
    /// A service whose answers have at most `response_bytes_max` record bytes, one batch apart.
    pub fn new(
        directory: Directory,
        budget: ReadBudget,
        response_bytes_max: usize,
        metrics: Arc<BrokerMetrics>,
    ) -> Self {
        Self {
            directory,
            budget,
            response_bytes_max,
            metrics,
            rotation: AtomicUsize::new(0),
            never: CancellationToken::new(),
        }
    }

    /// Answers when `bytes_min` bytes are there, a partition has an error, or the request's wait or `deadline` ends.
    pub async fn fetch(&self, request: FetchRequest, deadline: Deadline) -> FetchResponse {
        self.fetch_until(request, deadline, &self.never).await
    }

    /// As [`FetchService::fetch`], answering at once with what there is when `closing` is cancelled.
    pub async fn fetch_until(
        &self,
        request: FetchRequest,
        deadline: Deadline,
        closing: &CancellationToken,
    ) -> FetchResponse {
        if let Some(refused) = refuse_repeated(&request) {
            return refused;
        }
        let bytes_max = bytes(request.bytes_max).clamp(1, self.response_bytes_max);
        let bytes_min = bytes(request.bytes_min).min(bytes_max);
        // The clock is read only by a fetch that may wait.
        let until = (request.wait_ms > 0)
            .then(|| Duration::from_millis(u64::from(request.wait_ms.min(FETCH_WAIT_MS_MAX))))
            .map(|wait| Deadline::after(wait).earlier(deadline));
        let mut changes = self.directory.registry().watch_changes();
        loop {
            drop(changes.borrow_and_update());
            let rack = request.rack.as_deref();
            let targets: Vec<Target> = request.partitions.iter().map(|wanted| self.target(wanted, rack)).collect();
            let patience = Patience { deadline: Some(deadline), closing };
            let outcome = self.read(&request.partitions, &targets, bytes_max, patience).await;
            let enough = outcome.failed || outcome.bytes >= bytes_min || closing.is_cancelled();
            let Some(until) = until.filter(|until| !enough && !until.has_passed()) else {
                self.metrics.fetched(outcome.bytes, outcome.near_bytes(&targets));
                return outcome.response(request.partitions);
            };
            let mut waits = WaitSet::new();
            for (place, target) in targets.into_iter().enumerate() {
                if let (Ok(reading), Some(seen)) = (target, outcome.seen_to(place)) {
                    waits.add(place, reading.partition, seen);
                }
            }
            // What was read is read again after the wait: a parked fetch must not hold the budget of others.
            drop(outcome);
            tokio::select! {
                biased;
                _ = until.limit(waits.next()) => {}
                _ = changes.changed() => {}
                () = closing.cancelled() => {}
            }
        }
    }

    /// Whether the log that this broker leads has in front of `at` what a reader got there, written under leader epoch
    /// `written`. Offset and leader epoch together name a record for ever, and epochs only rise along a log, so that where
    /// the epoch ends here tells (KIP-320).
    ///
    /// # Errors
    /// `OFFSET_OUT_OF_RANGE` when it has something else there, with the offset up to which it may be the same;
    /// `UNKNOWN_LEADER_EPOCH` when this broker has not heard of that leadership; those of [`Directory::partition`].
    pub fn goes_on(
        &self,
        topic: TopicId,
        partition: PartitionIndex,
        at: Offset,
        written: LeaderEpoch,
    ) -> Result<(), ErrorBody> {
        let partition = self.directory.partition(topic, partition)?;
        let log = partition.log();
        if log.latest_epoch().is_some_and(|latest| latest.epoch < written) {
            let text = format!("leader epoch {written} is not known here yet: try again shortly");
            return Err(ErrorBody::new(ErrorCode::UnknownLeaderEpoch, text));
        }
        match log.end_offset_for(written) {
            // Nothing of it is left, or it never had an epoch: there is nothing to compare.
            EpochEnd::Undefined => Ok(()),
            EpochEnd::Ended { epoch, end } if epoch == written && at <= end => Ok(()),
            EpochEnd::Ended { end, .. } => {
                let same = end.min(at);
                let text = format!(
                    "what was read up to offset {at} under leader epoch {written} is not in this log any more: a replica that                      lacked it was made the leader. It is the same up to offset {same} at most: read on from there, or from                      an earlier offset with the epoch of the record in front of it"
                );
                Err(ErrorBody::new(ErrorCode::OffsetOutOfRange, text))
            }
        }
    }

    fn target(&self, wanted: &FetchPartition, rack: Option<&str>) -> Target {
        let reading = self.directory.reading(wanted.topic, wanted.partition, wanted.leader_epoch, rack)?;
        match self.directory.nearer(&reading, wanted.offset, rack) {
            None => Ok(reading),
            Some(elsewhere) => Err(elsewhere),
        }
    }

    async fn read(
        &self,
        asked: &[FetchPartition],
        targets: &[Target],
        bytes_max: usize,
        patience: Patience<'_>,
    ) -> Outcome {
        let mut outcome = Outcome { got: Vec::with_capacity(asked.len()), bytes: 0, failed: false };
        outcome.got.resize_with(asked.len(), || None);
        let start = self.rotation.fetch_add(1, Ordering::Relaxed) % asked.len().max(1);
        let mut wanted = Vec::with_capacity(asked.len());
        for place in (start..asked.len()).chain(0..start) {
            let (Some(ask), Some(target)) = (asked.get(place), targets.get(place)) else { continue };
            match target {
                Ok(reading) => wanted.push(Wanted {
                    place,
                    partition: Arc::clone(&reading.partition),
                    from: ask.offset,
                    bytes_max: bytes(ask.bytes_max),
                    scope: reading.scope,
                }),
                Err(error) => outcome.add(Got { place, result: Err(error.clone()) }),
            }
        }
        for got in read_all(&self.budget, wanted, bytes_max, patience).await {
            outcome.add(got);
        }
        outcome
    }
}

/// What a request found so far.
struct Outcome {
    /// By place in the request.
    got: Vec<Option<Got>>,
    bytes: usize,
    failed: bool,
}

impl Outcome {
    fn add(&mut self, got: Got) {
        match &got.result {
            Ok(out) => self.bytes += out.fetched.batches.len(),
            Err(_) => self.failed = true,
        }
        let place = got.place;
        if let Some(slot) = self.got.get_mut(place) {
            *slot = Some(got);
        }
    }

    /// Those of its bytes that are of partitions which this broker follows.
    fn near_bytes(&self, targets: &[Target]) -> usize {
        let near = targets.iter().zip(&self.got).filter_map(|(target, got)| {
            target.as_ref().ok().filter(|reading| reading.scope == ReadScope::Followed)?;
            got.as_ref()?.result.as_ref().ok().map(|out| out.fetched.batches.len())
        });
        near.sum()
    }

    /// The offset below which everything committed was seen: the wait is for more than that.
    fn seen_to(&self, place: usize) -> Option<Offset> {
        let out = self.got.get(place)?.as_ref()?.result.as_ref().ok()?;
        Some(out.fetched.high_watermark.max(out.next))
    }

    fn response(self, asked: Vec<FetchPartition>) -> FetchResponse {
        let partitions = asked
            .into_iter()
            .zip(self.got)
            .filter_map(|(ask, got)| {
                // Every place was read or refused above.
                debug_assert!(got.is_some());
                let result = got?.result.map(|out| out.fetched);
                Some(FetchOutcome { topic: ask.topic, partition: ask.partition, result })
            })
            .collect();
        FetchResponse { partitions }
    }
}

fn bytes(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Each partition brings at least one batch, whatever the limits: named often, it would bring that batch as often.
fn refuse_repeated(request: &FetchRequest) -> Option<FetchResponse> {
    let mut seen = HashSet::new();
    if request.partitions.len() <= 1 || request.partitions.iter().all(|p| seen.insert((p.topic, p.partition))) {
        return None;
    }
    let refused =
        || ErrorBody::new(ErrorCode::InvalidRequest, "a fetch names each partition once: leave out the repeats");
    let outcome = |p: &FetchPartition| FetchOutcome { topic: p.topic, partition: p.partition, result: Err(refused()) };
    Some(FetchResponse { partitions: request.partitions.iter().map(outcome).collect() })
}
