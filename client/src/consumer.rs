//! Reading records: a plain reader that keeps its own place. (Groups, which share partitions and remember places, are
//! another matter.)

mod builder;
mod feed;
mod loan;
mod source;
mod start;

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use streambus_protocol::batch::{PlacedBatch, Records};
use streambus_protocol::offset::Offset;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::consumer::loan::Loan;
use crate::consumer::source::{Command, Delivered, Ends};
use crate::error::{Error, TopicPartition};
use crate::op::Op;
use crate::record::ConsumedRecord;

pub use builder::ConsumerBuilder;
pub use start::{OutOfRange, Seek, Start};

/// How far a consumer is in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionProgress {
    /// The partition.
    pub at: TopicPartition,
    /// The offset of the next record that the application gets.
    pub position: u64,
    /// The first offset that was not committed when the broker was last heard; none before that.
    pub high_watermark: Option<u64>,
    /// True when nothing more comes: the end of a read that ends was reached.
    pub ended: bool,
}

impl PartitionProgress {
    /// Records between the position and the high watermark; none before the broker was heard.
    pub fn lag(&self) -> Option<u64> {
        self.high_watermark.map(|end| end.saturating_sub(self.position))
    }
}

/// Reads records. Also a [`Stream`] of `Result<ConsumedRecord, Error>`.
///
/// A lost connection, a leader that moves or a broker that restarts is no error here: reading goes on at the next offset,
/// without a gap and without a duplicate. An error about one partition (an offset that retention has deleted, a corrupt
/// batch, a deleted topic) is returned once; that partition then rests until [`Consumer::seek`], the others go on.
///
/// Dropping a consumer ends its subscriptions in the background.
pub struct Consumer {
    client: Client,
    slots: Vec<Slot>,
    commands: mpsc::UnboundedSender<Command>,
    delivered: mpsc::UnboundedReceiver<Delivered>,
    current: Option<Current>,
    /// Met by `next_batch` after its first record; for the next call.
    postponed: Option<Error>,
    expanded_bytes_max: usize,
}

struct Slot {
    at: TopicPartition,
    position: Offset,
    /// Grows with every seek, pause and resume: what was delivered before is void.
    generation: u64,
    ends: Option<Ends>,
    /// Where a read that ends does so.
    end: Option<Offset>,
    state: Reading,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    On,
    Paused,
    /// Failed: rests until the application seeks.
    Resting,
    Ended,
}

/// The delivery that records are taken from.
struct Current {
    slot: usize,
    generation: u64,
    batches: std::vec::IntoIter<PlacedBatch>,
    open: Option<(Records, Offset)>,
    /// Given back when the last record was taken.
    _loan: Loan,
}

impl Consumer {
    fn new(
        client: Client,
        start: Vec<(TopicPartition, Offset)>,
        ends: Option<Vec<Offset>>,
        commands: mpsc::UnboundedSender<Command>,
        delivered: mpsc::UnboundedReceiver<Delivered>,
        expanded_bytes_max: usize,
    ) -> Self {
        let mut ends = ends.map(Vec::into_iter);
        let slots = start
            .into_iter()
            .map(|(at, position)| {
                let end = ends.as_mut().and_then(Iterator::next);
                Slot { at, position, generation: 0, ends: None, end, state: Reading::On }
            })
            .collect();
        let mut consumer =
            Self { client, slots, commands, delivered, current: None, postponed: None, expanded_bytes_max };
        for slot in 0..consumer.slots.len() {
            consumer.end_if_reached(slot);
        }
        consumer
    }

    /// The next record; `None` when a read that ends has ended, or the client was closed. Waits for as long as it takes,
    /// or as long as the context allows.
    ///
    /// Cancel-safe: dropped before it returns, no record is lost.
    ///
    /// # Errors
    ///
    /// [`Error::OffsetOutOfRange`], [`Error::CorruptBatch`], [`Error::UnknownTopic`] about one partition, once.
    pub async fn next(&mut self) -> Result<Option<ConsumedRecord>, Error> {
        let ctx = self.client.context().clone();
        if ctx.deadline().is_none() && !ctx.has_cancel() {
            return std::future::poll_fn(|cx| self.poll_record(cx)).await.transpose();
        }
        let next = Op::new("next", &ctx, None, |_| async {
            std::future::poll_fn(|cx| self.poll_record(cx)).await.transpose()
        });
        next.await
    }

    /// Up to `max` records: waits at most `wait` for the first, and for none after it. Empty when none came in time, or
    /// when a read that ends has ended, see [`Consumer::is_ended`].
    ///
    /// Cancel-safe: dropped before it returns, no record is lost.
    ///
    /// # Errors
    ///
    /// As [`Consumer::next`]; an error that comes after a record is kept for the next call.
    pub async fn next_batch(&mut self, max: usize, wait: Duration) -> Result<Vec<ConsumedRecord>, Error> {
        let mut batch = Vec::new();
        if max == 0 {
            return Ok(batch);
        }
        match tokio::time::timeout(wait, self.next()).await {
            Ok(Ok(Some(record))) => batch.push(record),
            Ok(Ok(None)) | Err(_) => return Ok(batch),
            Ok(Err(error)) => return Err(error),
        }
        // No await from here on: nothing taken can be lost.
        while batch.len() < max {
            match self.try_next() {
                Ok(Some(record)) => batch.push(record),
                Ok(None) => break,
                Err(failure) => {
                    self.postponed = Some(failure.error);
                    break;
                }
            }
        }
        Ok(batch)
    }

    /// True when nothing will come any more: every partition of a read that ends is at its end.
    pub fn is_ended(&self) -> bool {
        self.slots.iter().all(|slot| slot.state == Reading::Ended)
    }

    /// Goes on from `to` in every partition, paused ones included, which stay paused.
    ///
    /// Dropped before it is done, either every partition goes on from there or none.
    ///
    /// # Errors
    ///
    /// As [`crate::Admin::list_offsets`].
    pub async fn seek(&mut self, to: Seek) -> Result<(), Error> {
        let all = (0..self.slots.len()).collect();
        self.seek_slots(all, to).await
    }

    /// Goes on from `to` in one partition, as [`Consumer::seek`].
    ///
    /// # Errors
    ///
    /// As [`Consumer::seek`], and [`Error::UnknownPartition`] when this consumer does not read it.
    pub async fn seek_partition(&mut self, at: &TopicPartition, to: Seek) -> Result<(), Error> {
        let slot = self.find(at)?;
        self.seek_slots(vec![slot], to).await
    }

    async fn seek_slots(&mut self, places: Vec<usize>, to: Seek) -> Result<(), Error> {
        let partitions: Vec<_> =
            places.iter().filter_map(|place| self.slots.get(*place)).map(|slot| slot.at.clone()).collect();
        let engine = std::sync::Arc::clone(self.client.engine());
        let timeout = engine.config.request_timeout;
        let ctx = self.client.context().clone();
        let offsets = Op::new("seek", &ctx, Some(timeout), |scope| async move {
            start::resolve(&engine, &scope, to.into(), &partitions).await
        })
        .await?;
        for (place, offset) in places.into_iter().zip(offsets) {
            if let Some(slot) = self.slots.get_mut(place) {
                slot.position = offset;
                if slot.state != Reading::Paused {
                    slot.state = Reading::On;
                }
            }
            self.restart(place);
            self.end_if_reached(place);
        }
        Ok(())
    }

    /// Reads no more from these partitions until [`Consumer::resume`]; what is buffered of them is dropped and read anew
    /// then.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPartition`] when this consumer does not read one of them; then none is paused.
    pub fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), Error> {
        self.switch(partitions, Reading::On, Reading::Paused)
    }

    /// Goes on reading paused partitions, from where they were.
    ///
    /// # Errors
    ///
    /// As [`Consumer::pause`].
    pub fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), Error> {
        self.switch(partitions, Reading::Paused, Reading::On)
    }

    fn switch(&mut self, partitions: &[TopicPartition], from: Reading, to: Reading) -> Result<(), Error> {
        let places = partitions.iter().map(|at| self.find(at)).collect::<Result<Vec<_>, _>>()?;
        for place in places {
            if let Some(slot) = self.slots.get_mut(place).filter(|slot| slot.state == from) {
                slot.state = to;
                self.restart(place);
            }
        }
        Ok(())
    }

    /// How far it is in each partition.
    pub fn progress(&self) -> Vec<PartitionProgress> {
        let progress = |slot: &Slot| PartitionProgress {
            at: slot.at.clone(),
            position: slot.position.get(),
            high_watermark: slot.ends.map(|ends| ends.high_watermark.get()),
            ended: slot.state == Reading::Ended,
        };
        self.slots.iter().map(progress).collect()
    }

    /// The offset of the next record of one partition; none when this consumer does not read it.
    pub fn position(&self, at: &TopicPartition) -> Option<u64> {
        self.slots.iter().find(|slot| slot.at == *at).map(|slot| slot.position.get())
    }

    /// Records between position and high watermark over all partitions, as far as the brokers have been heard.
    pub fn lag(&self) -> u64 {
        self.progress().iter().filter_map(PartitionProgress::lag).fold(0, u64::saturating_add)
    }

    /// Turns the consumer into a channel of at most `capacity` records, as Go ranges over one, and a handle that stops it.
    /// The channel ends when the consumer does; when its receiver is dropped, the consumer is closed.
    pub fn into_channel(mut self, capacity: usize) -> (mpsc::Receiver<Result<ConsumedRecord, Error>>, ConsumerHandle) {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        let (stop, stopped) = (CancellationToken::new(), CancellationToken::new());
        let handle = ConsumerHandle { stop: stop.clone(), stopped: stopped.clone() };
        let tasks = self.client.engine().tasks.clone();
        tasks.spawn(async move {
            let _done = stopped.drop_guard();
            loop {
                let item = tokio::select! {
                    () = stop.cancelled() => return,
                    () = sender.closed() => return,
                    item = self.next() => item,
                };
                let Some(item) = item.transpose() else { return };
                // A context that is over ends the stream too: it would fail for ever.
                let last = matches!(item, Err(Error::Timeout { .. } | Error::Cancelled { .. } | Error::Closed));
                if sender.send(item).await.is_err() || last {
                    return;
                }
            }
        });
        (receiver, handle)
    }

    /// Ends the consumer. Its subscriptions end in the background.
    #[expect(clippy::unused_async, reason = "closing a group member will wait for the broker; the signature is ready")]
    pub async fn close(self) -> Result<(), Error> {
        drop(self);
        Ok(())
    }

    fn find(&self, at: &TopicPartition) -> Result<usize, Error> {
        let place = self.slots.iter().position(|slot| slot.at == *at);
        place.ok_or_else(|| Error::UnknownPartition { at: at.clone() })
    }

    /// Makes what was delivered of a partition void and tells the source where to go on, if at all.
    fn restart(&mut self, place: usize) {
        let Some(slot) = self.slots.get_mut(place) else { return };
        slot.generation += 1;
        let generation = slot.generation;
        let command = match slot.state {
            Reading::On => Command::Read { slot: place, offset: slot.position, generation },
            Reading::Paused | Reading::Resting | Reading::Ended => Command::Stop { slot: place, generation },
        };
        // Without a source the client is closed; the next read says so.
        let _ = self.commands.send(command);
    }

    fn end_if_reached(&mut self, place: usize) {
        let Some(slot) = self.slots.get_mut(place) else { return };
        if slot.state == Reading::On && slot.end.is_some_and(|end| slot.position >= end) {
            slot.state = Reading::Ended;
            self.restart(place);
        }
    }

    /// What is there without waiting.
    fn try_next(&mut self) -> Result<Option<ConsumedRecord>, Failure> {
        loop {
            if let Some(record) = self.take()? {
                return Ok(Some(record));
            }
            match self.delivered.try_recv() {
                Ok(delivered) => self.accept(delivered)?,
                Err(_) => return Ok(None),
            }
        }
    }

    fn poll_record(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<ConsumedRecord, Error>>> {
        if let Some(error) = self.postponed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            match self.take() {
                Ok(Some(record)) => return Poll::Ready(Some(Ok(record))),
                Ok(None) => {}
                Err(failure) => return Poll::Ready(Some(Err(failure.error))),
            }
            if self.is_ended() {
                return Poll::Ready(None);
            }
            match self.delivered.poll_recv(cx) {
                Poll::Ready(Some(delivered)) => {
                    if let Err(failure) = self.accept(delivered) {
                        return Poll::Ready(Some(Err(failure.error)));
                    }
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn accept(&mut self, delivered: Delivered) -> Result<(), Failure> {
        match delivered {
            Delivered::Batches { slot, generation, batches, ends, loan } => {
                if let Some(known) = self.slots.get_mut(slot).filter(|known| known.generation == generation) {
                    known.ends = Some(ends);
                    self.current =
                        Some(Current { slot, generation, batches: batches.into_iter(), open: None, _loan: loan });
                }
            }
            Delivered::Ends { slot, generation, ends } => {
                if let Some(known) = self.slots.get_mut(slot).filter(|known| known.generation == generation) {
                    known.ends = Some(ends);
                }
            }
            Delivered::Moved { slot, generation, to, ends } => {
                if let Some(known) = self.slots.get_mut(slot).filter(|known| known.generation == generation) {
                    (known.position, known.ends) = (to, Some(ends));
                }
            }
            Delivered::Added { at, from } => {
                let state = Reading::On;
                self.slots.push(Slot { at, position: from, generation: 0, ends: None, end: None, state });
            }
            Delivered::Failed { slot, generation, error } => {
                if let Some(known) = self.slots.get_mut(slot).filter(|known| known.generation == generation) {
                    known.state = Reading::Resting;
                    return Err(Failure { slot, error });
                }
            }
        }
        Ok(())
    }

    /// The next record of the current delivery.
    fn take(&mut self) -> Result<Option<ConsumedRecord>, Failure> {
        loop {
            let Some(current) = &mut self.current else { return Ok(None) };
            let place = current.slot;
            let Some(slot) = self.slots.get_mut(place).filter(|slot| slot.generation == current.generation) else {
                self.current = None;
                continue;
            };
            let corrupt = |slot: &Slot, reason: String| Failure {
                slot: place,
                error: Error::CorruptBatch { at: slot.at.clone(), offset: slot.position.get(), reason },
            };
            let Some((records, next)) = &mut current.open else {
                match current.batches.next() {
                    None => self.current = None,
                    Some(batch) if batch.is_control() => slot.position = slot.position.max(batch.next_offset()),
                    Some(batch) => match batch.records(self.expanded_bytes_max) {
                        Ok(records) => current.open = Some((records, batch.next_offset())),
                        Err(error) => {
                            let failure = corrupt(slot, error.to_string());
                            return Err(self.rest(failure));
                        }
                    },
                }
                self.end_if_reached(place);
                continue;
            };
            match records.next() {
                Some(Ok(stored)) if stored.offset < slot.position => {}
                Some(Ok(stored)) => {
                    let after = stored.offset.next().unwrap_or(Offset::MAX);
                    let beyond = slot.end.is_some_and(|end| stored.offset >= end);
                    slot.position = after;
                    if beyond {
                        slot.position = slot.end.unwrap_or(after);
                        self.end_if_reached(place);
                        continue;
                    }
                    let record = ConsumedRecord {
                        topic: slot.at.topic.clone(),
                        partition: slot.at.partition,
                        offset: stored.offset.get(),
                        timestamp: stored.record.timestamp,
                        key: stored.record.key,
                        value: stored.record.value,
                        headers: stored.record.headers,
                    };
                    if slot.end.is_some() {
                        self.end_if_reached(place);
                    }
                    return Ok(Some(record));
                }
                Some(Err(error)) => {
                    let failure = corrupt(slot, error.to_string());
                    return Err(self.rest(failure));
                }
                None => {
                    // Compaction may have removed the last records: the batch still covers their offsets.
                    slot.position = slot.position.max(*next);
                    current.open = None;
                    self.end_if_reached(place);
                }
            }
        }
    }

    /// The partition rests from here on.
    fn rest(&mut self, failure: Failure) -> Failure {
        if let Some(slot) = self.slots.get_mut(failure.slot) {
            slot.state = Reading::Resting;
        }
        self.restart(failure.slot);
        failure
    }
}

/// A failure of one partition.
struct Failure {
    slot: usize,
    error: Error,
}

impl Stream for Consumer {
    type Item = Result<ConsumedRecord, Error>;

    /// Obeys no context: whoever drives a stream stops it by dropping it.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_record(cx)
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("progress", &self.progress()).finish_non_exhaustive()
    }
}

/// Stops a consumer that was turned into a channel.
#[derive(Debug)]
pub struct ConsumerHandle {
    stop: CancellationToken,
    stopped: CancellationToken,
}

impl ConsumerHandle {
    /// Stops the consumer and waits until no record follows.
    pub async fn close(self) {
        self.stop.cancel();
        self.stopped.cancelled().await;
    }
}
