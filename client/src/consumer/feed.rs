//! One stream of batches from one broker: a subscription, or one fetch request.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use futures::future::BoxFuture;
use streambus_protocol::api::fetch::{FetchOutcome, FetchPartition, FetchRequest};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::api::subscribe::{SubscribePartition, SubscribeRequest, UnsubscribeRequest, Watermarks};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::frame::Frame;
use streambus_protocol::ids::{BrokerId, CorrelationId, PartitionId};
use streambus_protocol::limits::{BATCH_BYTES_MAX, FRAME_BYTES_MAX};
use streambus_protocol::offset::Offset;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::connection::Connection;
use crate::connection::in_flight::{Push, PushSender};
use crate::consumer::loan::Window;
use crate::consumer::source::Ends;
use crate::engine::Engine;
use crate::error::Error;

/// The least credit of a subscription, bytes: below, every batch would wait for a credit message.
const CREDIT_BYTES_MIN: usize = 64 * 1024;

/// A partition to be read, and from where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) slot: usize,
    pub(crate) id: PartitionId,
    pub(crate) offset: Offset,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) generation: u64,
}

/// Why a whole feed ended.
#[derive(Debug)]
pub(crate) enum FeedError {
    /// The connection or the request failed.
    Call(Error),
}

/// A stream.
pub(crate) struct Feed {
    began: Instant,
    wanted: Vec<Wanted>,
    /// Pushes that overtook the news that the subscription is open: only then is it known where their bytes are given
    /// back to. The credit bounds them.
    held: Vec<Frame>,
    state: Fed,
}

/// How far it is.
pub(crate) enum Fed {
    /// Being opened, or a fetch under way.
    Opening,
    /// Subscribed.
    Subscribed(Opened),
}

/// An open subscription.
pub(crate) struct Opened {
    connection: Connection,
    correlation: CorrelationId,
    subscription: u32,
    window: Arc<Window>,
    partitions: Vec<(PartitionId, Result<Watermarks, ErrorBody>)>,
}

impl Opened {
    /// Ends it on both sides. A broker that does not answer drops it with the connection.
    pub(crate) async fn close(self) {
        self.connection.unsubscribed(self.correlation);
        let request = UnsubscribeRequest { subscription: self.subscription };
        if let Err(error) = self.connection.call(&request, None).await {
            tracing::debug!(%error, "unsubscribing went unanswered");
        }
    }
}

impl Feed {
    pub(crate) fn opening(wanted: Vec<Wanted>) -> Self {
        Self { began: Instant::now(), wanted, held: Vec::new(), state: Fed::Opening }
    }

    /// Subscribes at `leader`, with `bytes` of credit.
    pub(crate) fn subscribe(
        engine: Arc<Engine>,
        leader: BrokerId,
        tag: u64,
        wanted: &[Wanted],
        bytes: usize,
        rack: Option<String>,
        to: mpsc::UnboundedSender<Push>,
    ) -> BoxFuture<'static, Result<Opened, FeedError>> {
        let partitions = wanted
            .iter()
            .map(|want| SubscribePartition {
                topic: want.id.topic,
                partition: want.id.partition,
                offset: want.offset,
                leader_epoch: want.leader_epoch,
            })
            .collect();
        let credit_bytes = u64::try_from(bytes.max(CREDIT_BYTES_MIN)).unwrap_or(u64::MAX);
        Box::pin(async move {
            let connection = engine.metadata.connect(leader).await.map_err(FeedError::Call)?;
            let subscription = connection.next_subscription();
            let credit = Arc::new(AtomicI64::new(i64::try_from(credit_bytes).unwrap_or(i64::MAX)));
            let overdraft = i64::try_from(FRAME_BYTES_MAX).unwrap_or(i64::MAX);
            let pushes = PushSender { tag, to, credit: Arc::clone(&credit), overdraft };
            let request = SubscribeRequest { subscription, credit_bytes, partitions, rack };
            let deadline = Instant::now() + engine.config.request_timeout;
            let (correlation, response) = connection
                .subscribe(&request, pushes, Some(deadline))
                .await
                .map_err(|error| FeedError::Call(error.into_error(connection.address(), false)))?;
            let window = Arc::new(Window::new(connection.clone(), subscription, credit, credit_bytes));
            let partitions = response
                .partitions
                .into_iter()
                .map(|(topic, partition, outcome)| (PartitionId { topic, partition }, outcome))
                .collect();
            Ok(Opened { connection, correlation, subscription, window, partitions })
        })
    }

    /// Fetches once from `leader`, at most about `bytes`, waiting up to `wait` for the first.
    pub(crate) fn fetch(
        engine: Arc<Engine>,
        leader: BrokerId,
        wanted: &[Wanted],
        bytes: usize,
        rack: Option<String>,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Vec<FetchOutcome>, FeedError>> {
        let bytes_max = u32::try_from(bytes.clamp(CREDIT_BYTES_MIN, BATCH_BYTES_MAX)).unwrap_or(u32::MAX);
        let partitions = wanted
            .iter()
            .map(|want| FetchPartition {
                topic: want.id.topic,
                partition: want.id.partition,
                offset: want.offset,
                bytes_max,
                leader_epoch: want.leader_epoch,
            })
            .collect();
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let request = FetchRequest { wait_ms, bytes_min: 1, bytes_max, partitions, rack };
        Box::pin(async move {
            let connection = engine.metadata.connect(leader).await.map_err(FeedError::Call)?;
            let deadline = Instant::now() + engine.config.request_timeout;
            let response = connection
                .call(&request, Some(deadline))
                .await
                .map_err(|error| FeedError::Call(error.into_error(connection.address(), false)))?;
            Ok(response.partitions)
        })
    }

    /// Takes over an open subscription; returns what the broker said about each partition.
    pub(crate) fn opened(&mut self, mut opened: Opened) -> Vec<(usize, Result<Ends, ErrorBody>)> {
        let outcomes = std::mem::take(&mut opened.partitions)
            .into_iter()
            .filter_map(|(id, outcome)| {
                let ends = outcome.map(|w| Ends { log_start: w.log_start, high_watermark: w.high_watermark });
                self.slot_of(id).map(|slot| (slot, ends))
            })
            .collect();
        self.state = Fed::Subscribed(opened);
        outcomes
    }

    /// Keeps a push until the feed is open.
    pub(crate) fn hold(&mut self, push: Frame) {
        self.held.push(push);
    }

    /// The pushes that were kept, in order.
    pub(crate) fn take_held(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.held)
    }

    /// True when no partition is part of it any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// The slot of a partition of this feed.
    pub(crate) fn slot_of(&self, id: PartitionId) -> Option<usize> {
        self.wanted.iter().find(|want| want.id == id).map(|want| want.slot)
    }

    /// True when nobody sought in the partition since it was asked for.
    pub(crate) fn is_current(&self, slot: usize, generations: &[u64]) -> bool {
        let asked = self.wanted.iter().find(|want| want.slot == slot).map(|want| want.generation);
        asked.is_some() && asked == generations.get(slot).copied()
    }

    /// The partition is not part of this feed any more.
    pub(crate) fn forget(&mut self, slot: usize) {
        self.wanted.retain(|want| want.slot != slot);
    }

    /// Where pushed bytes are given back to.
    pub(crate) fn window(&self) -> Option<Arc<Window>> {
        match &self.state {
            Fed::Subscribed(opened) => Some(Arc::clone(&opened.window)),
            Fed::Opening => None,
        }
    }

    /// True when the broker may be gone: it takes longer than `patience` to open the feed, or gives no sign of life.
    pub(crate) fn is_suspect(&self, now: Instant, patience: Duration) -> bool {
        match &self.state {
            Fed::Subscribed(opened) => opened.connection.is_suspect(),
            Fed::Opening => now.saturating_duration_since(self.began) >= patience,
        }
    }

    /// The broker broke the protocol on this feed.
    pub(crate) fn breach(&self, reason: String) {
        if let Fed::Subscribed(opened) = &self.state {
            opened.connection.breach(reason);
        }
    }

    /// The broker's address, as far as it is known.
    pub(crate) fn address(&self) -> String {
        match &self.state {
            Fed::Subscribed(opened) => opened.connection.address().to_owned(),
            Fed::Opening => "broker".to_owned(),
        }
    }

    pub(crate) fn into_state(self) -> Fed {
        self.state
    }
}
