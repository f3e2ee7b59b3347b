//! What every part of one producer shares: rules, the memory budget, and the way to the producer's own task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use streambus_protocol::api::session::LeaderHint;
use tokio::sync::{Semaphore, TryAcquireError, mpsc};
use tokio::time::Instant;

use crate::engine::Engine;
use crate::error::Error;
use crate::producer::config::ProducerConfig;
use crate::producer::partition::Partition;
use crate::producer::partition_state::{Identity, Rules};
use crate::producer::sink::Sink;

/// What the producer's task is asked to do. The queue has no limit of its own: each event stands for a batch, a broker or
/// a partition, and those are bounded by the buffer and the cluster.
pub(crate) enum Event {
    /// Look at the partition again at that time.
    Alarm { partition: Arc<Partition>, at: Instant },
    /// The partition wants an identity newer than `old`.
    Renew { partition: Arc<Partition>, old: Option<Identity> },
    /// The sink has something to send and no connection.
    Connect(Arc<Sink>),
    /// A broker that does not lead the partition says who does.
    Follow { partition: Arc<Partition>, hint: LeaderHint },
    /// The picture of the cluster is out of date.
    Refresh,
    /// No record will come any more.
    Close,
}

/// Shared by a producer's partitions, sinks and task.
pub(crate) struct Shared {
    pub(crate) engine: Arc<Engine>,
    pub(crate) config: ProducerConfig,
    pub(crate) rules: Arc<Rules>,
    budget: Semaphore,
    events: mpsc::UnboundedSender<Event>,
    refresh_wanted: AtomicBool,
}

impl Shared {
    pub(crate) fn new(engine: Arc<Engine>, config: ProducerConfig, events: mpsc::UnboundedSender<Event>) -> Self {
        let stamps = config.stamps();
        let rules = Arc::new(Rules {
            batch_bytes: config.batch_bytes,
            record_bytes_max: config.record_bytes_max.max(config.batch_bytes),
            // Without sequence numbers, two in flight could change places in a retry.
            in_flight_max: if stamps { config.batches_in_flight_max } else { 1 },
            compression: config.compression,
            linger: config.linger,
            delivery_timeout: engine.config.delivery_timeout,
            stamps,
        });
        let budget = Semaphore::new(config.buffer_bytes);
        Self { engine, config, rules, budget, events, refresh_wanted: AtomicBool::new(false) }
    }

    /// Sends an event. After the task has ended there is nobody to act, and nothing left to act on.
    pub(crate) fn send(&self, event: Event) {
        let _ = self.events.send(event);
    }

    /// Asks for a newer picture of the cluster, once until it is there.
    pub(crate) fn want_metadata(&self) {
        if !self.refresh_wanted.swap(true, Ordering::AcqRel) {
            self.send(Event::Refresh);
        }
    }

    /// The picture is new: the next wish counts again.
    pub(crate) fn metadata_refreshed(&self) {
        self.refresh_wanted.store(false, Ordering::Release);
    }

    /// Takes `bytes` of the buffer if they are free; the taker gives them back through [`Shared::release`].
    pub(crate) fn try_reserve(&self, bytes: usize) -> Result<(), Error> {
        match self.budget.try_acquire_many(self.permits(bytes)?) {
            Ok(permit) => {
                permit.forget();
                Ok(())
            }
            Err(TryAcquireError::NoPermits) => Err(Error::BufferFull),
            Err(TryAcquireError::Closed) => Err(Error::Closed),
        }
    }

    /// Waits until `bytes` of the buffer are free and takes them. First come, first served. Cancel-safe.
    pub(crate) async fn reserve(&self, bytes: usize) -> Result<(), Error> {
        match self.budget.acquire_many(self.permits(bytes)?).await {
            Ok(permit) => {
                permit.forget();
                Ok(())
            }
            Err(_closed) => Err(Error::Closed),
        }
    }

    fn permits(&self, bytes: usize) -> Result<u32, Error> {
        let max = self.config.record_bytes_max;
        match u32::try_from(bytes) {
            Ok(permits) if bytes <= max => Ok(permits),
            _ => Err(Error::RecordTooLarge { size: bytes, max }),
        }
    }

    /// Gives `bytes` of the buffer back.
    pub(crate) fn release(&self, bytes: usize) {
        self.budget.add_permits(bytes);
    }

    /// Lets nobody in any more, also those who wait.
    pub(crate) fn close_budget(&self) {
        self.budget.close();
    }

    /// Bytes of the buffer that are free.
    pub(crate) fn free_bytes(&self) -> usize {
        self.budget.available_permits()
    }
}
