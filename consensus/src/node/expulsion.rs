//! What a node does that hears no controller: it asks whether it is still a member, and notes who does not answer.
//!
//! Nobody tells a node that it was removed, and its messages are refused from then on. One that was cut off or stood still
//! meanwhile would wait for a controller for ever, or take itself for one. At a start the same question is asked first.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::future::join_all;
use openraft::async_runtime::watch::WatchReceiver;
use streambus_protocol::ids::BrokerId;
use tokio::time::Instant;

use super::Inner;
use super::settle::described;
use crate::error::StartError;
use crate::hello::{Hello, HelloAnswer, Introduction, Place, Wish};
use crate::rpc::{decode, encode};
use crate::types::RaftNode;

impl Inner {
    /// True while this node hears a controller, or is one that a majority answers.
    pub(super) fn is_in_touch(&self) -> bool {
        let leads = self.raft.server_metrics().borrow_watched().state.is_leader();
        if leads {
            return self.is_followed();
        }
        let silence = self.peers.heard.silence(Instant::now());
        silence.is_some_and(|silence| silence <= self.config.tuning.election_max * 2)
    }

    /// Every voter that this node knows of, and every configured peer.
    fn elders(&self) -> BTreeMap<BrokerId, (String, u16)> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let located = membership.voter_ids().filter_map(|id| membership.get_node(&id)).map(|node| {
            let RaftNode { broker, host, port } = self.addresses.locate(node);
            (broker, (host, port))
        });
        let mut elders = self.config.peer_addresses();
        elders.extend(located);
        elders.remove(&self.config.broker_id);
        elders
    }

    /// Asks every voter and peer whether this node was removed, and ends it if one says so.
    pub(super) async fn end_if_removed(&self) {
        let elders = self.elders();
        let me = self.config.broker_id;
        let ttl = self.config.tuning.round_trip.question();
        let asked = elders.iter().map(|(broker, (host, port))| async move {
            let hello = Hello {
                from: me,
                to: *broker,
                founders: self.config.peer_addresses().into_keys().collect(),
                // The log is not in question: its end is above every other.
                disk: Some(described(&self.identity, u64::MAX)),
                wish: Wish::Nothing,
            };
            let sent = self.transport.hello(host.clone(), *port, Bytes::from(encode(&hello)), ttl);
            let answer = tokio::time::timeout(ttl, sent).await.ok().and_then(Result::ok);
            let introduction = answer.map(|answer| decode::<HelloAnswer>(&answer).ok().and_then(Result::ok));
            (*broker, introduction)
        });
        let answers = join_all(asked).await;
        *self.silent.lock() =
            answers.iter().filter(|(_, answer)| answer.is_none()).map(|(broker, _)| *broker).collect();
        let removed_by = answers.into_iter().find_map(|(_, introduction)| {
            let introduction = introduction??;
            matches!(introduction, Introduction { place: Place::Removed, .. }).then_some(introduction.broker)
        });
        if let Some(told_by) = removed_by {
            let removed = StartError::Removed { raft: self.identity.raft_id, told_by };
            self.ended.send_replace(Some(removed.to_string()));
        }
    }
}
