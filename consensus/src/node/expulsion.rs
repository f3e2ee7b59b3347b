//! What a node does that has heard no controller for a session: it asks whether it is still a member.
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
use super::settle::{HELLO_TTL, described};
use crate::error::StartError;
use crate::hello::{Hello, HelloAnswer, Introduction, Place, Wish};
use crate::rpc::{decode, encode};

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

    /// Asks every peer whether this node was removed, and ends it if one says so.
    pub(super) async fn end_if_removed(&self) {
        let peers: BTreeMap<BrokerId, (String, u16)> = self.config.peer_addresses();
        let me = self.config.broker_id;
        let asked = peers.iter().filter(|(broker, _)| **broker != me).map(|(broker, (host, port))| async move {
            let hello = Hello {
                from: me,
                to: *broker,
                founders: self.config.peer_addresses().into_keys().collect(),
                // The log is not in question: its end is above every other.
                disk: Some(described(&self.identity, u64::MAX)),
                wish: Wish::Nothing,
            };
            let sent = self.transport.hello(host.clone(), *port, Bytes::from(encode(&hello)), HELLO_TTL);
            let answer = tokio::time::timeout(HELLO_TTL, sent).await.ok()?.ok()?;
            let introduction = decode::<HelloAnswer>(&answer).ok()?.ok()?;
            matches!(introduction, Introduction { place: Place::Removed, .. }).then_some(introduction.broker)
        });
        if let Some(told_by) = join_all(asked).await.into_iter().flatten().next() {
            let removed = StartError::Removed { raft: self.identity.raft_id, told_by };
            self.ended.send_replace(Some(removed.to_string()));
        }
    }
}
