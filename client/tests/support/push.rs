//! Subscriptions: pushes within a credit.

use std::sync::Arc;

use streambus_protocol::api::encode_push;
use streambus_protocol::api::subscribe::{PushedBatches, SubscribeRequest, SubscribeResponse, Watermarks};
use streambus_protocol::batch::PlacedBatch;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::ids::{CorrelationId, PartitionIndex, TopicId};
use tokio::sync::Notify;

use super::session::{Manner, Session, flatten};

/// A partition that is pushed: where it goes on, and the leadership it was asked for.
type Live = (TopicId, PartitionIndex, u64, LeaderEpoch);

impl Session {
    pub(super) fn subscribe(&self, request: SubscribeRequest, correlation: CorrelationId, flip: bool) {
        let mut live = Vec::new();
        let partitions = request
            .partitions
            .iter()
            .map(|p| {
                let outcome =
                    self.read(p.topic, p.partition, p.leader_epoch, p.offset.get(), 0).result.map(|fetched| {
                        live.push((p.topic, p.partition, p.offset.get(), p.leader_epoch));
                        Watermarks { log_start: fetched.log_start, high_watermark: fetched.high_watermark }
                    });
                (p.topic, p.partition, outcome)
            })
            .collect();
        let (more, end) = (Arc::new(Notify::new()), self.cut.child_token());
        let id = request.subscription;
        self.credits.lock().insert(id, (request.credit_bytes as i64, Arc::clone(&more), end.clone()));
        let session = self.with_out(self.out.clone());
        self.cluster.tasks.spawn(async move {
            // Without a pause before the first pushes: both often reach a client in one read.
            let manner = Manner { correlation, delay: None, flip: false };
            session.reply(&SubscribeResponse { partitions }, manner);
            end.run_until_cancelled(session.push(id, correlation, live, &more, flip)).await;
        });
    }

    async fn push(&self, id: u32, correlation: CorrelationId, mut live: Vec<Live>, more: &Notify, flip: bool) {
        loop {
            let appended = self.cluster.appended.notified();
            let mut idle = true;
            if self.is_hung() {
                appended.await;
                continue;
            }
            let mut ended = Vec::new();
            for (place, (topic, partition, next, epoch)) in live.iter_mut().enumerate() {
                if self.credits.lock().get(&id).is_none_or(|(credit, _, _)| *credit <= 0) {
                    continue;
                }
                let outcome = self.read(*topic, *partition, *epoch, *next, 1);
                let bytes = match &outcome.result {
                    Ok(fetched) if fetched.batches.is_empty() => continue,
                    Ok(fetched) => {
                        let last = fetched.batches.chunks().last().expect("one").clone();
                        *next = PlacedBatch::verify_stored(last).expect("stored").next_offset().get();
                        fetched.batches.len()
                    }
                    Err(_) => {
                        ended.push(place);
                        0
                    }
                };
                idle = false;
                if let Some((credit, _, _)) = self.credits.lock().get_mut(&id) {
                    *credit -= bytes as i64;
                }
                self.cluster.state.lock().pushed_bytes += bytes as u64;
                let pushed = PushedBatches { subscription: id, partitions: vec![outcome] };
                let mut frame = flatten(encode_push(&pushed, correlation));
                if flip && let Some(last) = frame.last_mut() {
                    *last ^= 1;
                }
                self.say(frame);
            }
            for place in ended.into_iter().rev() {
                live.remove(place);
            }
            if idle {
                tokio::select! { () = appended => {}, () = more.notified() => {} }
            } else {
                tokio::task::yield_now().await;
            }
        }
    }
}
