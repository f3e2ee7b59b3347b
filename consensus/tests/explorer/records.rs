//! What the replicas of one partition hold, as counts of records. Leaders see the metadata at once here; what happens
//! when they see it late is the business of the replication explorer.

use std::collections::BTreeMap;

use streambus_consensus::image::PartitionImage;
use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch};
use streambus_protocol::ids::BrokerId;
use streambus_protocol::topic_config::TopicConfig;

/// What the leader remembers of a follower's last fetch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) life: BrokerEpoch,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) length: u64,
}

/// One partition's records.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    pub(crate) length: BTreeMap<BrokerId, u64>,
    pub(crate) seen: BTreeMap<BrokerId, Seen>,
    /// Records that were acknowledged: with enough replicas in sync, all of them had these.
    pub(crate) committed: u64,
}

impl Records {
    pub(crate) fn of(&self, broker: BrokerId) -> u64 {
        self.length.get(&broker).copied().unwrap_or(0)
    }

    /// The leader appends, or only a follower copies: exactly what the leader has, tails of other leaders are cut.
    pub(crate) fn copy(&mut self, leader: BrokerId, follower: BrokerId, life: BrokerEpoch, leader_epoch: LeaderEpoch) {
        let length = self.of(leader);
        self.length.insert(follower, length);
        self.seen.insert(follower, Seen { life, leader_epoch, length });
    }

    /// The high watermark moves over what all in-sync replicas have, if they are enough.
    pub(crate) fn commit(&mut self, partition: &PartitionImage, settings: &TopicConfig) {
        if partition.leader.is_some() && partition.isr.len() >= partition.in_sync_min(settings) {
            let held = partition.isr.iter().map(|broker| self.of(*broker)).min().unwrap_or(0);
            self.committed = self.committed.max(held);
        }
    }

    /// True when the leader may ask for this follower to be in sync (I2), as far as it has seen.
    pub(crate) fn is_caught_up(&self, follower: BrokerId, leader_epoch: LeaderEpoch) -> bool {
        let caught_up = |seen: &Seen| seen.leader_epoch == leader_epoch && seen.length >= self.committed;
        self.seen.get(&follower).is_some_and(caught_up)
    }
}
