//! Reading as a stream: batches are pushed as soon as they are committed, as far as the subscriber's credit goes.
//!
//! A subscription is a state machine that its connection polls: it sleeps on the high watermarks of its partitions,
//! on its credit and on the metadata, never on a timer. Credit counts record bytes; a push is made while it is above
//! zero and may overdraw it by one push.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use futures::FutureExt;
use streambus_protocol::api::fetch::FetchOutcome;
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::api::subscribe::{
    PushedBatches, SubscribePartition, SubscribeRequest, SubscribeResponse, Watermarks,
};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::offset::Offset;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::metrics::BrokerMetrics;
use crate::partition::fetch_wait::WaitSet;
use crate::partition::read::{Found, ReadScope};
use crate::service::directory::Directory;
use crate::service::nearest::Reading;
use crate::service::reader::{Got, Patience, ReadBudget, Wanted, read_all};

/// Record bytes of one push, one batch apart.
const PUSH_BYTES_MAX: usize = 512 * 1024;
/// Record bytes of one partition in one push, one batch apart: a busy partition does not fill every push.
const PUSH_PARTITION_BYTES_MAX: usize = 256 * 1024;
/// Partitions read for one push.
const PUSH_PARTITIONS_MAX: usize = 256;

/// Opens subscriptions.
#[derive(Debug)]
pub struct SubscribeService {
    directory: Directory,
    budget: ReadBudget,
    metrics: Arc<BrokerMetrics>,
}

/// The subscriber's side of a subscription: what it may still be sent, and whether it wants more.
#[derive(Debug)]
pub struct SubscriptionControl {
    credit_bytes: AtomicI64,
    closed: AtomicBool,
    changed: Notify,
}

impl SubscriptionControl {
    /// A subscription that may be sent `credit_bytes`.
    pub fn new(credit_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            credit_bytes: AtomicI64::new(signed(credit_bytes)),
            closed: AtomicBool::new(false),
            changed: Notify::new(),
        })
    }

    /// Lets `bytes` more be sent.
    pub fn add_credit(&self, bytes: u64) {
        let _previous = self
            .credit_bytes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |credit| Some(credit.saturating_add(signed(bytes))));
        self.changed.notify_one();
    }

    /// Ends the subscription: nothing is pushed after what is being encoded now.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn credit(&self) -> usize {
        usize::try_from(self.credit_bytes.load(Ordering::Acquire)).unwrap_or(0)
    }

    fn take_credit(&self, bytes: usize) {
        self.credit_bytes.fetch_sub(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::AcqRel);
    }
}

fn signed(bytes: u64) -> i64 {
    // Half the range, so that additions saturate long before they wrap.
    i64::try_from(bytes).unwrap_or(i64::MAX).min(i64::MAX / 2)
}

/// One stream of one connection.
#[derive(Debug)]
pub struct Subscription {
    id: u32,
    rack: Option<String>,
    service: Arc<SubscribeService>,
    control: Arc<SubscriptionControl>,
    closing: CancellationToken,
    streams: Vec<Option<Stream>>,
    /// Places with something to read, the longest waiting first.
    ready: VecDeque<usize>,
    waits: WaitSet,
    changes: watch::Receiver<u64>,
    /// Refusals to be pushed: each ends a partition's part of the stream.
    ended: Vec<FetchOutcome>,
}

#[derive(Debug)]
struct Stream {
    asked: SubscribePartition,
    /// With the epoch in which it was opened: a new leadership ends it, so that the client asks anew with what it knows.
    reading: Reading,
    next: Offset,
}

impl SubscribeService {
    /// A service over the partitions of `directory`.
    pub fn new(directory: Directory, budget: ReadBudget, metrics: Arc<BrokerMetrics>) -> Arc<Self> {
        Arc::new(Self { directory, budget, metrics })
    }

    /// Opens a subscription. Partitions that cannot be streamed are refused in the answer and are not part of it.
    pub fn open(
        self: &Arc<Self>,
        request: SubscribeRequest,
        control: Arc<SubscriptionControl>,
        closing: CancellationToken,
    ) -> (SubscribeResponse, Subscription) {
        let mut subscription = Subscription {
            id: request.subscription,
            rack: request.rack,
            service: Arc::clone(self),
            control,
            closing,
            streams: Vec::new(),
            ready: VecDeque::new(),
            waits: WaitSet::new(),
            // Subscribed before the partitions are looked up: a change in between is not missed.
            changes: self.directory.registry().watch_changes(),
            ended: Vec::new(),
        };
        let mut seen = HashSet::new();
        let mut partitions = Vec::with_capacity(request.partitions.len());
        for asked in request.partitions {
            let opened = if seen.insert((asked.topic, asked.partition)) {
                self.open_stream(asked, subscription.rack.as_deref())
            } else {
                Err(ErrorBody::new(ErrorCode::InvalidRequest, "the partition is named twice in one subscription"))
            };
            let result = opened.map(|(stream, watermarks)| {
                subscription.ready.push_back(subscription.streams.len());
                subscription.streams.push(Some(stream));
                watermarks
            });
            partitions.push((asked.topic, asked.partition, result));
        }
        (SubscribeResponse { partitions }, subscription)
    }

    fn open_stream(&self, asked: SubscribePartition, rack: Option<&str>) -> Result<(Stream, Watermarks), ErrorBody> {
        let reading = self.directory.reading(asked.topic, asked.partition, asked.leader_epoch, rack)?;
        // A read of one byte checks the offset; what it finds in memory is only referenced.
        let read = reading.partition.read(asked.offset, 1, reading.scope)?;
        if let Some(elsewhere) = self.directory.nearer(&reading, asked.offset, rack) {
            return Err(elsewhere);
        }
        debug_assert!(!matches!(&read.found, Found::InMemory { chunks, .. } if chunks.is_empty()));
        let watermarks = Watermarks { log_start: read.log_start, high_watermark: read.high_watermark };
        Ok((Stream { asked, reading, next: asked.offset }, watermarks))
    }
}

impl Subscription {
    /// The next push; `None` once the subscription is closed, its connection is closing, or no partition is left.
    pub async fn next(&mut self) -> Option<PushedBatches> {
        loop {
            if self.control.is_closed() || self.closing.is_cancelled() {
                return None;
            }
            if !self.ended.is_empty() {
                return Some(PushedBatches { subscription: self.id, partitions: std::mem::take(&mut self.ended) });
            }
            if self.streams.iter().all(Option::is_none) {
                return None;
            }
            let credit = self.control.credit();
            if credit > 0 && !self.ready.is_empty() {
                if let Some(push) = self.read(credit).await {
                    return Some(push);
                }
                continue;
            }
            let control = Arc::clone(&self.control);
            tokio::select! {
                biased;
                place = self.waits.next() => self.wake(place),
                () = control.changed.notified() => {}
                _ = self.changes.changed() => self.end_what_moved(),
                () = self.closing.cancelled() => return None,
            }
        }
    }

    /// Marks `place` as ready, and every other that is by now.
    fn wake(&mut self, place: usize) {
        self.ready.push_back(place);
        while let Some(also) = self.waits.next().now_or_never() {
            self.ready.push_back(also);
        }
    }

    async fn read(&mut self, credit: usize) -> Option<PushedBatches> {
        if self.service.directory.has_lost_contact() {
            self.end_what_moved();
        }
        let bytes_max = credit.min(PUSH_BYTES_MAX);
        let count = self.ready.len().min(PUSH_PARTITIONS_MAX);
        let mut wanted = Vec::with_capacity(count);
        for place in self.ready.drain(..count) {
            if let Some(Some(stream)) = self.streams.get(place) {
                wanted.push(Wanted {
                    place,
                    partition: Arc::clone(&stream.reading.partition),
                    from: stream.next,
                    bytes_max: PUSH_PARTITION_BYTES_MAX,
                    scope: stream.reading.scope,
                });
            }
        }
        let mut partitions = Vec::new();
        let (mut bytes, mut near_bytes) = (0, 0);
        let patience = Patience { deadline: None, closing: &self.closing };
        for Got { place, result } in read_all(&self.service.budget, wanted, bytes_max, patience).await {
            let Some(slot) = self.streams.get_mut(place) else { continue };
            let Some(stream) = slot else { continue };
            let outcome =
                |result| FetchOutcome { topic: stream.asked.topic, partition: stream.asked.partition, result };
            match result {
                Ok(out) => {
                    let is_caught_up = out.next >= out.fetched.high_watermark;
                    let is_pushed = !out.fetched.batches.is_empty();
                    bytes += out.fetched.batches.len();
                    if stream.reading.scope == ReadScope::Followed {
                        near_bytes += out.fetched.batches.len();
                    }
                    let next = out.next;
                    if is_pushed {
                        partitions.push(outcome(Ok(out.fetched)));
                    }
                    assert!(next >= stream.next, "a stream only goes forward");
                    stream.next = next;
                    if is_caught_up {
                        self.waits.add(place, Arc::clone(&stream.reading.partition), next);
                    } else {
                        self.ready.push_back(place);
                    }
                }
                Err(error) => {
                    partitions.push(outcome(Err(error)));
                    *slot = None;
                }
            }
        }
        if partitions.is_empty() {
            return None;
        }
        self.control.take_credit(bytes);
        self.service.metrics.fetched(bytes, near_bytes);
        Some(PushedBatches { subscription: self.id, partitions })
    }

    /// Ends the streams whose partition was deleted or whose leadership changed.
    fn end_what_moved(&mut self) {
        drop(self.changes.borrow_and_update());
        for slot in &mut self.streams {
            let Some(stream) = slot else { continue };
            let (topic, partition) = (stream.asked.topic, stream.asked.partition);
            let rack = self.rack.as_deref();
            if let Err(error) = self.service.directory.reading(topic, partition, stream.reading.epoch, rack) {
                self.ended.push(FetchOutcome { topic, partition, result: Err(error) });
                *slot = None;
            }
        }
    }
}
