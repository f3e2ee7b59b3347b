//! What differs between two images. A subscriber keeps the last image it acted on and compares it with the newest,
//! so a slow one skips states in between and still ends up right.
//!
//! Skipping has a price: a replica that was removed and added again may show no change. Compare leader epochs, which
//! grow in that case, rather than replica lists.

use std::collections::BTreeSet;
use std::sync::Arc;

use streambus_protocol::ids::{BrokerId, PartitionId, PartitionIndex};

use crate::image::{ClusterImage, PartitionImage, TopicImage};
use crate::types::RaftId;

/// The difference from one image to a later one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterDelta {
    /// Brokers that registered, changed or vanished.
    pub brokers: BTreeSet<BrokerId>,
    /// Raft nodes that joined, changed or vanished.
    pub nodes: BTreeSet<RaftId>,
    /// Topics that exist in the later image only.
    pub created: Vec<Arc<TopicImage>>,
    /// Topics that exist in the earlier image only.
    pub deleted: Vec<Arc<TopicImage>>,
    /// Topics in both whose configuration differs, as in the later image.
    pub reconfigured: Vec<Arc<TopicImage>>,
    /// Partitions of topics in both that were added or changed.
    pub partitions: Vec<PartitionChange>,
}

/// One partition that was added to an existing topic, or changed.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionChange {
    /// Which.
    pub id: PartitionId,
    /// Its earlier state; none when it was added.
    pub before: Option<Arc<PartitionImage>>,
    /// Its later state.
    pub after: Arc<PartitionImage>,
}

impl ClusterDelta {
    /// Compares two images. What is shared between them is not looked into.
    pub fn between(before: &ClusterImage, after: &ClusterImage) -> Self {
        let mut delta = Self::default();
        for (id, broker) in &after.brokers {
            if before.brokers.get(id) != Some(broker) {
                delta.brokers.insert(*id);
            }
        }
        delta.brokers.extend(before.brokers.keys().filter(|id| !after.brokers.contains_key(id)));
        for (id, node) in &after.nodes {
            if before.nodes.get(id) != Some(node) {
                delta.nodes.insert(*id);
            }
        }
        delta.nodes.extend(before.nodes.keys().filter(|id| !after.nodes.contains_key(id)));
        if Arc::ptr_eq(&before.topics, &after.topics) {
            return delta;
        }
        for (id, topic) in before.topics.iter() {
            if !after.topics.contains_key(id) {
                delta.deleted.push(Arc::clone(topic));
            }
        }
        for (id, topic) in after.topics.iter() {
            match before.topics.get(id) {
                None => delta.created.push(Arc::clone(topic)),
                Some(old) if Arc::ptr_eq(old, topic) => {}
                Some(old) => delta.compare_topics(old, topic),
            }
        }
        delta
    }

    /// True when the two images say the same.
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }

    fn compare_topics(&mut self, before: &TopicImage, after: &Arc<TopicImage>) {
        if before.config_version != after.config_version {
            self.reconfigured.push(Arc::clone(after));
        }
        for (index, partition) in (0..).zip(&after.partitions) {
            let id = PartitionId { topic: after.id, partition: PartitionIndex::new(index) };
            let old = before.partition(id.partition);
            if old.is_none_or(|old| !Arc::ptr_eq(old, partition) && old != partition) {
                self.partitions.push(PartitionChange { id, before: old.cloned(), after: Arc::clone(partition) });
            }
        }
    }
}
