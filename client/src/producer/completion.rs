//! How the records of one batch learn what became of them: one completion for the batch, and an index for each record,
//! so that acknowledging a thousand records costs one result and the wake-ups of those who wait.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use streambus_protocol::api::produce::{Produced, Receipt};
use streambus_protocol::timestamp::Timestamp;

use crate::error::{Error, TopicPartition};
use crate::record::Position;

/// What became of a batch: where it is, `None` when no broker was asked to say, or why it is nowhere.
pub(crate) type BatchOutcome = Result<Option<Produced>, Error>;

/// The shared fate of a batch's records.
#[derive(Debug)]
pub(crate) struct BatchCompletion {
    at: Arc<TopicPartition>,
    outcome: OnceLock<BatchOutcome>,
    waiting: Mutex<Vec<Waker>>,
    /// Attempts made, for whoever loses patience.
    attempts: AtomicU32,
    last_error: Mutex<Option<Error>>,
}

impl BatchCompletion {
    pub(crate) fn new(at: Arc<TopicPartition>) -> Self {
        Self {
            at,
            outcome: OnceLock::new(),
            waiting: Mutex::new(Vec::new()),
            attempts: AtomicU32::new(0),
            last_error: Mutex::new(None),
        }
    }

    /// Notes that an attempt to send the batch begins.
    pub(crate) fn attempted(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes how an attempt ended.
    pub(crate) fn attempt_failed(&self, error: &Error) {
        *self.last_error.lock() = Some(error.clone());
    }

    /// Attempts made so far, and how the last finished one failed.
    pub(crate) fn history(&self) -> (u32, Option<Error>) {
        (self.attempts.load(Ordering::Relaxed), self.last_error.lock().clone())
    }

    /// Settles the batch and wakes who waits. The first outcome stays.
    pub(crate) fn settle(&self, outcome: BatchOutcome) {
        // Under the lock, so that nobody registers between the outcome and the wake-ups.
        let waiting = {
            let mut waiting = self.waiting.lock();
            let _ = self.outcome.set(outcome);
            std::mem::take(&mut *waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// The outcome once there is one; else `cx`'s task is woken when there is. `slot` remembers the registration of one
    /// waiter between polls.
    fn poll(&self, cx: &mut Context<'_>, slot: &mut Option<usize>) -> Poll<&BatchOutcome> {
        if let Some(outcome) = self.outcome.get() {
            return Poll::Ready(outcome);
        }
        let mut waiting = self.waiting.lock();
        if let Some(outcome) = self.outcome.get() {
            return Poll::Ready(outcome);
        }
        match slot.and_then(|slot| waiting.get_mut(slot)) {
            Some(registered) => registered.clone_from(cx.waker()),
            None => {
                *slot = Some(waiting.len());
                waiting.push(cx.waker().clone());
            }
        }
        Poll::Pending
    }

    /// Waits for the outcome. Cancel-safe.
    pub(crate) async fn settled(&self) -> &BatchOutcome {
        let mut slot = None;
        std::future::poll_fn(|cx| self.poll(cx, &mut slot)).await
    }
}

/// What becomes of one enqueued record: a future of its [`Position`].
///
/// Dropping it recalls nothing: the record is sent all the same, and counts against the buffer until it is settled.
#[must_use = "a delivery that nobody awaits fails unnoticed"]
#[derive(Debug)]
pub struct Delivery {
    batch: Arc<BatchCompletion>,
    index: u32,
    timestamp: Timestamp,
    slot: Option<usize>,
}

impl Delivery {
    pub(crate) fn new(batch: Arc<BatchCompletion>, index: u32, timestamp: Timestamp) -> Self {
        Self { batch, index, timestamp, slot: None }
    }

    /// Where the record goes.
    pub fn partition(&self) -> &TopicPartition {
        &self.batch.at
    }

    /// The batch it is in.
    pub(crate) fn batch(&self) -> &Arc<BatchCompletion> {
        &self.batch
    }

    fn position(&self, produced: Option<&Produced>) -> Position {
        let (offset, timestamp, receipt) = match produced {
            None => (Position::OFFSET_UNKNOWN, self.timestamp, Receipt { replicas: 0, durable: 0 }),
            Some(produced) => {
                // A hostile broker's base offset near the end of the range must not overflow.
                let offset = produced.base_offset.checked_add(u64::from(self.index));
                let time = if produced.timestamp == Timestamp::NONE { self.timestamp } else { produced.timestamp };
                (offset.map_or(Position::OFFSET_UNKNOWN, |o| o.get()), time, produced.receipt)
            }
        };
        let TopicPartition { topic, partition } = &*self.batch.at;
        Position { topic: topic.clone(), partition: *partition, offset, timestamp, receipt }
    }
}

impl Future for Delivery {
    type Output = Result<Position, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        match this.batch.poll(cx, &mut this.slot) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(produced)) => Poll::Ready(Ok(this.position(produced.as_ref()))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;
    use streambus_protocol::ids::TopicName;
    use streambus_protocol::offset::Offset;

    fn completion() -> Arc<BatchCompletion> {
        let topic = TopicName::new("orders").expect("valid");
        Arc::new(BatchCompletion::new(Arc::new(TopicPartition { topic, partition: 3 })))
    }

    #[tokio::test(start_paused = true)]
    async fn every_record_gets_its_own_offset_whether_it_waited_or_came_late() {
        let batch = completion();
        let waiting: Vec<_> = (0..3).map(|i| Delivery::new(Arc::clone(&batch), i, Timestamp::from_millis(9))).collect();
        let late = Delivery::new(Arc::clone(&batch), 3, Timestamp::from_millis(9));
        let mut all = Box::pin(join_all(waiting));
        assert!(futures::poll!(all.as_mut()).is_pending());
        let receipt = Receipt { replicas: 3, durable: 2 };
        let base = Offset::new(40).expect("valid");
        batch.settle(Ok(Some(Produced { base_offset: base, timestamp: Timestamp::NONE, receipt })));
        batch.settle(Err(Error::Closed));
        let offsets: Vec<u64> = all.await.into_iter().map(|p| p.expect("first outcome stays").offset).collect();
        assert_eq!(offsets, [40, 41, 42]);
        let late = late.await.expect("settled");
        assert_eq!((late.offset, late.receipt.durable, late.timestamp.as_millis()), (43, 2, 9));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hostile_base_offset_does_not_overflow() {
        let batch = completion();
        let receipt = Receipt { replicas: 1, durable: 1 };
        batch.settle(Ok(Some(Produced { base_offset: Offset::MAX, timestamp: Timestamp::NONE, receipt })));
        let position = Delivery::new(batch, 7, Timestamp::NONE).await.expect("settled");
        assert_eq!(position.offset, Position::OFFSET_UNKNOWN);
    }
}
