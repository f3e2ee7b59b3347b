//! One partition of a producer: its state under a lock, where its leader is, and the way back to the buffer's budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;
use streambus_protocol::api::produce::Produced;
use streambus_protocol::api::session::LeaderHint;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::ids::{PartitionIndex, TopicId};
use streambus_protocol::record::Record as WireRecord;
use tokio::time::Instant;

use crate::engine::wants_new_metadata;
use crate::error::{Error, TopicPartition};
use crate::producer::batch::Batch;
use crate::producer::completion::{BatchCompletion, BatchOutcome, Delivery};
use crate::producer::partition_state::{Ended, Identity, Parcel, PartitionState, Sendable};
use crate::producer::shared::{Event, Shared};
use crate::producer::sink::Sink;

/// One partition.
pub(crate) struct Partition {
    pub(crate) at: Arc<TopicPartition>,
    pub(crate) index: PartitionIndex,
    state: Mutex<Inner>,
    /// True while it stands in its sink's queue.
    queued: AtomicBool,
    /// Where records without a key go now; moves on when this partition sends a batch.
    sticky: Arc<AtomicU32>,
    shared: Arc<Shared>,
}

struct Inner {
    machine: PartitionState,
    home: Home,
}

/// Where batches go.
#[derive(Clone)]
pub(crate) struct Home {
    pub(crate) topic: TopicId,
    pub(crate) leader_epoch: LeaderEpoch,
    /// None while there is no leader.
    pub(crate) sink: Option<Arc<Sink>>,
}

impl Partition {
    pub(crate) fn new(
        at: Arc<TopicPartition>,
        home: Home,
        identity: Option<Identity>,
        sticky: Arc<AtomicU32>,
        shared: Arc<Shared>,
    ) -> Arc<Self> {
        let machine = PartitionState::new(Arc::clone(&shared.rules), identity);
        let index = PartitionIndex::new(at.partition);
        let state = Mutex::new(Inner { machine, home });
        Arc::new(Self { at, index, state, queued: AtomicBool::new(false), sticky, shared })
    }

    /// Adds a record, whose `charged_bytes` the caller has taken from the budget, and gets it under way.
    pub(crate) fn push(self: &Arc<Self>, record: &WireRecord, charged_bytes: usize) -> Result<Delivery, Error> {
        let complete = || Arc::new(BatchCompletion::new(Arc::clone(&self.at)));
        let pushed = self.state.lock().machine.push(record, charged_bytes, Instant::now, complete)?;
        if pushed.news {
            self.progress();
        }
        Ok(Delivery::new(pushed.completion, pushed.index, record.timestamp))
    }

    /// Puts the partition where it must be: in its sink's queue, on the alarm clock, or at the door of whoever hands out
    /// identities.
    pub(crate) fn progress(self: &Arc<Self>) {
        let now = Instant::now();
        let (sendable, sink, wants) = {
            let inner = self.state.lock();
            (inner.machine.sendable(now), inner.home.sink.clone(), inner.machine.wants_newer_than())
        };
        if let Some(old) = wants {
            self.shared.send(Event::Renew { partition: Arc::clone(self), old });
        }
        match (sendable, sink) {
            (Sendable::Now, Some(sink)) => {
                if !self.queued.swap(true, Ordering::AcqRel) {
                    self.stand_at(&sink);
                }
            }
            (Sendable::Now, None) => self.shared.want_metadata(),
            (Sendable::At(at), _) => self.shared.send(Event::Alarm { partition: Arc::clone(self), at }),
            (Sendable::No, _) => {}
        }
    }

    /// Stands in the queue of `sink`, where its leader was a moment ago. When the leader has moved since, whoever moved it
    /// has looked for the partition there too early: a broker that is gone would keep it until it is back.
    fn stand_at(self: &Arc<Self>, sink: &Arc<Sink>) {
        sink.offer(Arc::clone(self));
        let is_home = self.home().sink.is_some_and(|home| Arc::ptr_eq(&home, sink));
        if !is_home && sink.forget(self) {
            self.progress();
        }
    }

    /// It has left its sink's queue.
    pub(crate) fn dequeued(&self) {
        self.queued.store(false, Ordering::Release);
    }

    /// The next batch for `sink` with where it goes, if there is one and the leader is still there.
    pub(crate) fn take(&self, sink: &Sink, now: Instant) -> Option<(Parcel, Home)> {
        let mut inner = self.state.lock();
        let home = inner.home.clone();
        home.sink.as_ref().filter(|own| own.broker == sink.broker)?;
        let parcel = inner.machine.take(now)?;
        drop(inner);
        if parcel.attempt == 1 && self.sticky.load(Ordering::Relaxed) == self.at.partition {
            // Somebody else may move it on at the same moment: then it moves two places, which harms nobody.
            self.sticky.fetch_add(1, Ordering::Relaxed);
        }
        Some((parcel, home))
    }

    /// The bytes of batch `id`.
    pub(crate) fn built(&self, id: u64, bytes: bytes::Bytes) {
        self.state.lock().machine.built(id, bytes);
    }

    /// Batch `id` was stored by its attempt number `attempt`, or needs no answer.
    pub(crate) fn acknowledged(self: &Arc<Self>, id: u64, attempt: u32, produced: Option<Produced>) {
        let batch = self.state.lock().machine.acknowledged(id, attempt);
        if let Some(batch) = batch {
            self.settle(&batch, Ok(produced));
        }
        self.progress();
    }

    /// The attempt number `attempt` to send batch `id` failed; `hint` says who leads instead, if the broker knew.
    pub(crate) fn failed(self: &Arc<Self>, id: u64, attempt: u32, error: Error, hint: Option<LeaderHint>) {
        tracing::debug!(at = %self.at, %error, "a batch was not acknowledged");
        let is_outdated = wants_new_metadata(&error);
        let pause = |attempts| self.shared.engine.quick_pause(attempts);
        let ended = self.state.lock().machine.failed(id, attempt, error, Instant::now(), pause);
        // Only now: a move leaves whatever has no answer yet in doubt.
        match hint.filter(|hint| hint.leader_epoch > self.home().leader_epoch) {
            Some(hint) => self.shared.send(Event::Follow { partition: Arc::clone(self), hint }),
            None if is_outdated => self.shared.want_metadata(),
            None => {}
        }
        self.end(ended);
        self.progress();
    }

    /// Gives up what is past its time.
    pub(crate) fn expire(self: &Arc<Self>, now: Instant) {
        let ended = self.state.lock().machine.expire(now);
        if !ended.is_empty() {
            self.end(ended);
            self.progress();
        }
    }

    /// Gives up everything because of `error`.
    pub(crate) fn abort(&self, error: &Error) {
        let ended = self.state.lock().machine.abort(error, Instant::now());
        self.end(ended);
    }

    /// Takes a newer identity, if it wants one.
    pub(crate) fn adopt(self: &Arc<Self>, identity: Identity) {
        if self.state.lock().machine.adopt(identity) {
            self.progress();
        }
    }

    /// Moves to a new home: another leader, or a topic created anew under the same name. News that are older than what is
    /// known, from a broker that lags behind, change nothing.
    pub(crate) fn move_to(self: &Arc<Self>, home: Home) {
        let old = {
            let mut inner = self.state.lock();
            let recreated = home.topic != inner.home.topic;
            if !recreated && home.leader_epoch < inner.home.leader_epoch {
                return;
            }
            let place = |home: &Home| home.sink.as_ref().map(|sink| sink.broker);
            let moved = home.leader_epoch != inner.home.leader_epoch || place(&home) != place(&inner.home);
            if recreated || moved {
                inner.machine.moved(Instant::now(), recreated);
            }
            std::mem::replace(&mut inner.home, home.clone())
        };
        let same = match (&old.sink, &home.sink) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if !same && let Some(sink) = old.sink {
            sink.forget(self);
        }
        self.progress();
    }

    /// Where its batches go.
    pub(crate) fn home(&self) -> Home {
        self.state.lock().home.clone()
    }

    /// True when something has to be sent again, or was sent before `then` and is not answered.
    pub(crate) fn is_stuck(&self, then: Instant) -> bool {
        self.state.lock().machine.is_stuck(then)
    }

    /// True when there is a leader to send to.
    pub(crate) fn has_leader(&self) -> bool {
        self.state.lock().home.sink.is_some()
    }

    /// Makes everything that waits ripe; returns what has no outcome yet.
    pub(crate) fn flush(self: &Arc<Self>) -> Vec<Arc<BatchCompletion>> {
        let pending = self.state.lock().machine.flush(Instant::now());
        if !pending.is_empty() {
            self.progress();
        }
        pending
    }

    /// True when nothing awaits an outcome.
    pub(crate) fn is_idle(&self) -> bool {
        self.state.lock().machine.is_idle()
    }

    fn end(&self, ended: Vec<Ended>) {
        for Ended { batch, error } in ended {
            self.settle(&batch, Err(error));
        }
    }

    fn settle(&self, batch: &Batch, outcome: BatchOutcome) {
        self.shared.release(batch.charged_bytes);
        batch.completion.settle(outcome);
    }
}

#[cfg(test)]
mod tests {
    use streambus_protocol::ids::{BrokerId, ProducerEpoch, ProducerId, TopicName};
    use streambus_protocol::timestamp::Timestamp;
    use tokio::sync::mpsc;

    use super::*;
    use crate::config::Config;
    use crate::engine::Engine;
    use crate::environment::Environment;
    use crate::producer::config::ProducerConfig;

    // Catches a partition that nobody sends anything of until a broker is back that does not lead it any more: its leader
    // moved between the look at where it is and the place in that broker's queue.
    #[tokio::test]
    async fn whoever_queues_where_the_leader_was_goes_where_it_is() {
        let engine = Arc::new(Engine::new(Config::new(["b:1"]), Environment::system()));
        let (events, _received) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(engine, ProducerConfig::default(), events));
        let [old, new] = [1, 2].map(|broker| Sink::new(BrokerId::new(broker), Arc::clone(&shared)));
        let home = |epoch: u32, sink: &Arc<Sink>| Home {
            topic: TopicId::from_bytes([1; 16]),
            leader_epoch: LeaderEpoch::new(epoch),
            sink: Some(Arc::clone(sink)),
        };
        let at = Arc::new(TopicPartition { topic: TopicName::new("t").expect("a name"), partition: 0 });
        let identity = Identity { id: ProducerId::new(7), epoch: ProducerEpoch::new(0) };
        let sticky = Arc::new(AtomicU32::new(0));
        let partition = Partition::new(at, home(1, &old), Some(identity), sticky, Arc::clone(&shared));
        let pushed = partition.push(&WireRecord::new("v", Timestamp::from_millis(1)), 1).map(drop);
        assert!(pushed.is_ok() && old.wants_connection(), "it stands at its leader's");
        // As between the mark and the queue.
        assert!(old.forget(&partition));
        partition.queued.store(true, Ordering::Release);
        partition.move_to(home(2, &new));
        assert!(!new.wants_connection(), "marked as queued");
        partition.stand_at(&old);
        assert!(!old.wants_connection(), "nobody leads it there");
        assert!(new.wants_connection(), "it stands nowhere");
    }
}
