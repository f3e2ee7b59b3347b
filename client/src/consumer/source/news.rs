//! What is new in the cluster: leaders that moved, brokers that fell silent, partitions that were added.

use std::sync::Arc;
use std::time::Duration;

use streambus_protocol::api::offsets::OffsetQuery;
use streambus_protocol::offset::Offset;
use tokio::time::Instant;

use crate::consumer::source::{Delivered, Done, Mode, Nearness, Slot, SlotState, Source};
use crate::consumer::start::ask;
use crate::engine::Engine;
use crate::error::{Error, TopicPartition};
use crate::op::Scope;

/// How long a broker may take to open a feed, beyond what the feed itself may wait, before others are asked who leads.
const PATIENCE: Duration = Duration::from_secs(1);

impl Source {
    /// Looks for trouble that nobody has told, and for what the picture of the cluster has that is new.
    pub(super) fn look(&mut self, now: Instant) {
        let patience = if self.mode == Mode::Fetch { self.wait + PATIENCE } else { PATIENCE };
        if self.feeds.values().any(|feed| feed.is_suspect(now, patience)) {
            self.refresh();
        }
        self.ask_who_is_near(now);
        self.follow();
    }

    /// A while after a near replica failed, its leader is asked again whether there is one.
    fn ask_who_is_near(&mut self, now: Instant) {
        let is_over = |slot: &Slot| match (slot.state, slot.place) {
            (SlotState::Fed(tag), Nearness::LeaderUntil(until)) => (until <= now).then_some(tag),
            _ => None,
        };
        // One that fetches asks with its next fetch.
        if self.mode == Mode::Subscribe
            && let Some(tag) = self.slots.iter().find_map(is_over)
        {
            self.close(tag);
        }
    }

    /// Leaves the leaders that lead no more, and finds where to begin in partitions that were added.
    pub(super) fn follow(&mut self) {
        let view = self.engine.metadata.view();
        let moved = |slot: &Slot| match (slot.state, view.topic(&slot.at.topic)) {
            (SlotState::Fed(tag), Some(Ok(topic))) => {
                let newer = topic.partition(slot.at.partition).is_ok_and(|seen| seen.leader_epoch > slot.led);
                (newer && slot.topic == Some(topic.id)).then_some(tag)
            }
            _ => None,
        };
        let mut outdated: Vec<u64> = self.slots.iter().filter_map(moved).collect();
        outdated.sort_unstable();
        outdated.dedup();
        for tag in outdated {
            self.close(tag);
        }
        for (name, known) in &mut self.followed {
            let Some(Ok(topic)) = view.topic(name) else { continue };
            // A topic created anew is another one: its reader is told that the old one is gone.
            let same =
                self.slots.iter().all(|slot| slot.at.topic != *name || slot.topic.is_none_or(|id| id == topic.id));
            let count = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
            for partition in (*known..count).filter(|_| same) {
                *known += 1;
                let at = TopicPartition { topic: name.clone(), partition };
                self.jobs.push(Box::pin(first_offset(Arc::clone(&self.engine), at)));
            }
        }
    }

    /// A partition that was added after the start begins at its first record, wherever the others began.
    pub(super) fn added(&mut self, at: TopicPartition, outcome: Result<Offset, Error>) {
        match outcome {
            Ok(from) => {
                tracing::debug!(%at, "a partition was added");
                self.slots.push(Slot::new(at.clone(), from, Instant::now()));
                let _ = self.output.send(Delivered::Added { at, from });
            }
            Err(error) if error.is_retriable() => {
                self.jobs.push(Box::pin(first_offset(Arc::clone(&self.engine), at)));
            }
            // The topic has gone: its other partitions say so.
            Err(error) => tracing::debug!(%at, %error, "a partition that was added has gone"),
        }
    }

    /// Asks who leads, unless that is being asked.
    pub(super) fn refresh(&mut self) {
        if std::mem::replace(&mut self.refreshing, true) {
            return;
        }
        let engine = Arc::clone(&self.engine);
        let seen = engine.metadata.view().version;
        // Somebody else who found the topic missing may have had it struck off.
        let read = self.slots.iter().filter(|slot| slot.state != SlotState::Stopped);
        engine.metadata.want(read.map(|slot| slot.at.topic.clone()));
        self.jobs.push(Box::pin(async move { Done::Refreshed(engine.metadata.newer_than(seen).await.map(|_| ())) }));
    }
}

async fn first_offset(engine: Arc<Engine>, at: TopicPartition) -> Done {
    let scope = Scope::background("list_offsets", engine.config.request_timeout);
    let found = ask(&engine, &scope, OffsetQuery::Earliest, std::slice::from_ref(&at)).await;
    let outcome = found.map(|offsets| offsets.first().copied().unwrap_or(Offset::ZERO));
    Done::Added { at, outcome }
}
