//! Topics that were deleted, as far back as the limit goes.
//!
//! Two uses. A broker that was down may delete the log of a topic only if the metadata says that it was deleted; a
//! topic that the metadata does not know is no reason. And a creation that is tried again after an unknown outcome
//! must not bring back a topic that was created and deleted meanwhile. Both are matters of seconds to days; the oldest
//! records are dropped, after which a log stays as a stray and its broker says so.

use std::collections::BTreeMap;

use streambus_protocol::ids::{TopicId, TopicName};

use crate::limits::DELETED_TOPICS_MAX;

/// The record. Ordered by the log index of the deletion, so that the oldest is dropped first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DeletedTopics {
    by_index: BTreeMap<u64, DeletedTopic>,
    indexes: BTreeMap<TopicId, u64>,
}

/// One deleted topic.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeletedTopic {
    pub(crate) id: TopicId,
    pub(crate) name: TopicName,
}

impl DeletedTopics {
    pub(crate) fn get(&self, id: TopicId) -> Option<&DeletedTopic> {
        self.indexes.get(&id).and_then(|index| self.by_index.get(index))
    }

    pub(crate) fn at(&self, index: u64) -> Option<&DeletedTopic> {
        self.by_index.get(&index)
    }

    pub(crate) fn indexes(&self) -> impl Iterator<Item = u64> {
        self.by_index.keys().copied()
    }

    /// Adds what the entry at `index` deleted, and returns the index of the record that was dropped for it. An id
    /// that was forgotten, created and deleted again has one record, the newest.
    pub(crate) fn add(&mut self, index: u64, topic: DeletedTopic) -> Option<u64> {
        if let Some(former) = self.indexes.insert(topic.id, index) {
            self.by_index.remove(&former);
        }
        self.by_index.insert(index, topic);
        if self.by_index.len() <= DELETED_TOPICS_MAX {
            return None;
        }
        let (oldest, dropped) = self.by_index.pop_first()?;
        self.indexes.remove(&dropped.id);
        Some(oldest)
    }
}
