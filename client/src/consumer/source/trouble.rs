//! What goes wrong with a partition, and what is done about it: wait and try again, go elsewhere, or tell the application.

use std::sync::Arc;

use streambus_protocol::api::offsets::OffsetQuery;
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::offset::Offset;
use tokio::time::Instant;

use crate::consumer::feed::FeedError;
use crate::consumer::source::lineage::Lineage;
use crate::consumer::source::{Delivered, Done, Ends, Mode, Nearness, SlotState, Source};
use crate::consumer::start::OutOfRange;
use crate::engine::wants_new_metadata;
use crate::error::Error;
use crate::op::Scope;

/// How many times in a row a partition's bytes may be corrupt, or damaged on the broker's disk, before the application is
/// told: a broken replica may be repaired or replaced meanwhile.
const CORRUPT_TRIES: u32 = 3;
/// How many times in a row an offset may be beyond the end before the application is told.
const BEYOND_TRIES: u32 = 3;

impl Source {
    pub(super) fn corrupt(&mut self, tag: u64, place: usize, reason: String) {
        if self.mode == Mode::Subscribe {
            self.close(tag);
        }
        let Some(slot) = self.slots.get_mut(place) else { return };
        if slot.leave_near(Instant::now()) {
            tracing::warn!(at = %slot.at, reason, "a batch of a near replica is corrupt: reading from the leader");
            return;
        }
        slot.corrupt += 1;
        let error = Error::CorruptBatch { at: slot.at.clone(), offset: slot.next.get(), reason };
        if slot.corrupt >= CORRUPT_TRIES {
            return self.stop(place, error);
        }
        tracing::warn!(%error, "reading again");
        slot.failures = slot.failures.saturating_add(1);
        slot.state = SlotState::Waiting(Instant::now() + self.engine.pause(slot.failures));
    }

    /// The broker ended one partition's part of a feed.
    pub(super) fn refused(&mut self, tag: u64, place: usize, body: ErrorBody) {
        if let Some(feed) = self.feeds.get_mut(&tag) {
            feed.forget(place);
            if feed.is_empty() {
                self.close(tag);
            }
        }
        let Some(slot) = self.slots.get_mut(place) else { return };
        if body.code == ErrorCode::NearerReplica
            && let Some(hint) = body.leader
        {
            // Under the epoch that this client knows: a newer one is learnt from whom it is sent to.
            slot.place = Nearness::Near(hint.leader, slot.led);
            slot.state = SlotState::Waiting(Instant::now());
            return;
        }
        // Whatever a follower says: only the leader's word counts.
        if slot.leave_near(Instant::now()) {
            tracing::debug!(at = %slot.at, error = %body, "reading from the leader again");
            return;
        }
        if body.code == ErrorCode::OffsetOutOfRange {
            return self.find_range(place);
        }
        if let Some(hint) = body.leader
            && let Some(topic) = slot.topic
            && self.engine.metadata.learn(&slot.at.topic, topic, slot.at.partition, hint)
            && hint.leader_epoch > slot.led
        {
            // It is known where to go, and only newer epochs lead here: no pause is needed.
            slot.state = SlotState::Waiting(Instant::now());
            return;
        }
        let damaged = body.code == ErrorCode::StorageDamaged;
        // The cluster has the partition, as far as this client knows: the broker has not heard of it yet.
        let unheard_of = body.code == ErrorCode::UnknownPartition;
        let error = Error::from_partition_body(body, slot.at.clone());
        if damaged {
            slot.corrupt += 1;
            if slot.corrupt >= CORRUPT_TRIES {
                return self.stop(place, error);
            }
        }
        if unheard_of {
            self.refresh();
            return self.wait(place, &error);
        }
        self.slot_failed(place, error);
    }

    /// Waits and tries again, or tells the application.
    pub(super) fn slot_failed(&mut self, place: usize, error: Error) {
        if wants_new_metadata(&error) {
            self.refresh();
        }
        if error.is_retriable() {
            self.wait(place, &error);
        } else {
            self.stop(place, error);
        }
    }

    fn wait(&mut self, place: usize, error: &Error) {
        let Some(slot) = self.slots.get_mut(place) else { return };
        tracing::debug!(at = %slot.at, %error, "reading interrupted");
        slot.failures = slot.failures.saturating_add(1);
        slot.state = SlotState::Waiting(Instant::now() + self.engine.quick_pause(slot.failures));
    }

    pub(super) fn stop(&mut self, place: usize, error: Error) {
        if let Some(slot) = self.slots.get_mut(place) {
            slot.state = SlotState::Stopped;
            let _ = self.output.send(Delivered::Failed { slot: place, generation: slot.generation, error });
        }
    }

    /// Finds out what offsets there are, for an error that helps.
    fn find_range(&mut self, place: usize) {
        let Some(slot) = self.slots.get_mut(place) else { return };
        slot.state = SlotState::Stopped;
        let (engine, at, generation) = (Arc::clone(&self.engine), slot.at.clone(), slot.generation);
        self.jobs.push(Box::pin(async move {
            let scope = Scope::background("list_offsets", engine.config.request_timeout);
            let wanted = [(at.clone(), OffsetQuery::Earliest), (at, OffsetQuery::Latest)];
            // One partition twice in one request is not allowed.
            let first = engine.list_offsets(&scope, &wanted[..1]).await;
            let second = engine.list_offsets(&scope, &wanted[1..]).await;
            let offset = |found: &[streambus_protocol::api::offsets::OffsetFound]| {
                found.first().map_or(Offset::ZERO, |found| found.offset)
            };
            let outcome = match (first, second) {
                (Ok(first), Ok(second)) => Ok(Ends { log_start: offset(&first), high_watermark: offset(&second) }),
                (Err(error), _) | (_, Err(error)) => Err(error),
            };
            Done::OutOfRange { slot: place, generation, outcome }
        }));
    }

    pub(super) fn out_of_range(&mut self, place: usize, generation: u64, outcome: Result<Ends, Error>) {
        let Some(slot) = self.slots.get_mut(place).filter(|slot| slot.generation == generation) else { return };
        match outcome {
            Ok(ends) if ends.log_start <= slot.next && slot.next <= ends.high_watermark => {
                if slot.next == ends.log_start {
                    // The last batch that was read is deleted.
                    slot.lineage.trust(slot.led);
                }
                // It is in range by now: a leader that was behind has caught up.
                self.retry_range(place);
            }
            Ok(ends) if slot.next > ends.high_watermark && slot.beyond + 1 < BEYOND_TRIES => {
                // The broker may have been asked in the moment it took over, or lost, the leadership.
                slot.beyond += 1;
                self.refresh();
                self.retry_range(place);
            }
            Ok(ends) => match self.out_of_range {
                OutOfRange::Fail => {
                    let error = Error::OffsetOutOfRange {
                        at: slot.at.clone(),
                        offset: slot.next.get(),
                        earliest: ends.log_start.get(),
                        latest: ends.high_watermark.get(),
                    };
                    self.stop(place, error);
                }
                OutOfRange::Earliest => self.reset(place, ends.log_start, ends),
                OutOfRange::Latest => self.reset(place, ends.high_watermark, ends),
            },
            Err(error) => self.slot_failed(place, error),
        }
    }

    /// A whole feed has ended.
    pub(super) fn feed_failed(&mut self, tag: u64, error: &FeedError) {
        self.feeds.remove(&tag);
        let FeedError::Call(error) = error;
        for place in 0..self.slots.len() {
            let Some(slot) = self.slots.get_mut(place).filter(|slot| slot.state == SlotState::Fed(tag)) else {
                continue;
            };
            if !slot.leave_near(Instant::now()) {
                self.slot_failed(place, error.clone());
            }
        }
    }

    fn retry_range(&mut self, place: usize) {
        let Some(slot) = self.slots.get_mut(place) else { return };
        slot.failures = slot.failures.saturating_add(1);
        slot.state = SlotState::Waiting(Instant::now() + self.engine.quick_pause(slot.failures));
    }

    /// Goes on elsewhere, as the application wants it, and tells it.
    fn reset(&mut self, place: usize, to: Offset, ends: Ends) {
        let Some(slot) = self.slots.get_mut(place) else { return };
        tracing::warn!(
            at = %slot.at, offset = %slot.next, %to,
            "the offset is not in the log, reading goes on elsewhere"
        );
        (slot.next, slot.beyond, slot.failures) = (to, 0, 0);
        slot.lineage = Lineage::default();
        slot.state = SlotState::Waiting(Instant::now());
        let _ = self.output.send(Delivered::Moved { slot: place, generation: slot.generation, to, ends });
    }
}
