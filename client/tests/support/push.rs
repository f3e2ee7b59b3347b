//! Subscriptions: pushes within a credit.

use std::sync::Arc;

use streambus_protocol::api::encode_push;
use streambus_protocol::api::subscribe::{PushedBatches, SubscribeRequest, SubscribeResponse, Watermarks};
use streambus_protocol::batch::PlacedBatch;
use streambus_protocol::ids::CorrelationId;
use tokio::sync::Notify;

use super::answers::Asked;
use super::session::{Manner, Session, flatten};

/// A partition that is pushed: where it goes on, and the leadership it was asked for.
type Live = Asked;

impl Session {
    pub(super) fn subscribe(&self, request: SubscribeRequest, correlation: CorrelationId, flip: bool) {
        let mut live = Vec::new();
        let partitions = request
            .partitions
            .iter()
            .map(|p| {
                let (topic, partition, epoch) = (p.topic, p.partition, p.leader_epoch);
                let asked = Asked { topic, partition, epoch, from: p.offset.get(), bytes_max: 1 };
                let outcome = self.read_in(request.rack.as_deref(), asked).result.map(|fetched| {
                    live.push(asked);
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
            let rack = request.rack.as_deref();
            end.run_until_cancelled(session.push((id, rack), correlation, live, &more, flip)).await;
        });
    }

    async fn push(
        &self,
        (id, rack): (u32, Option<&str>),
        correlation: CorrelationId,
        mut live: Vec<Live>,
        more: &Notify,
        flip: bool,
    ) {
        loop {
            let appended = self.cluster.appended.notified();
            let mut idle = true;
            if self.is_hung() {
                appended.await;
                continue;
            }
            let mut ended = Vec::new();
            for (place, asked) in live.iter_mut().enumerate() {
                if self.credits.lock().get(&id).is_none_or(|(credit, _, _)| *credit <= 0) {
                    continue;
                }
                // Where it stands no longer matters to the leader, once it streams.
                let is_near = self.cluster.is_near(self.broker);
                let outcome = self.read_in(rack.filter(|_| is_near), *asked);
                let bytes = match &outcome.result {
                    Ok(fetched) if fetched.batches.is_empty() => continue,
                    Ok(fetched) => {
                        let last = fetched.batches.chunks().last().expect("one").clone();
                        asked.from = PlacedBatch::verify_stored(last).expect("stored").next_offset().get();
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
