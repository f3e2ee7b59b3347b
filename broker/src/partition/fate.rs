//! What becomes of a log on this disk: the metadata wants it, proves that nobody needs it, or says too little. Pure.
//!
//! A log goes for two reasons only, and each is something that the metadata *knows*:
//! - its topic was deleted: the record of the deletion is the proof, however long ago this broker last ran;
//! - its partition is on other brokers: a replica leaves only when every one that was added is in sync and enough of those
//!   that stay are (rules R2 and R3, `consensus/src/cluster_state/transition.rs` and `moves.rs`), so what is committed is on
//!   their disks. It goes only while enough are in sync: if they fail together, this old copy is the best there is.
//!
//! What the metadata does not know stays. Nothing is decided by an image from before this broker registered: whatever lies
//! on this disk was put there by earlier metadata, which the image with this life's registration includes, unless the
//! metadata itself was set back to an earlier state. Then a log knows a leadership that its metadata does not: a replica that
//! goes makes the leader epoch grow (rule E1), so a log that was given up has older epochs only.

use std::fmt;

use streambus_consensus::image::{ClusterImage, PartitionImage, TopicImage};
use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch};
use streambus_protocol::ids::{BrokerId, PartitionId};
use streambus_storage::partition_log::PartitionLog;

/// Whose disk it is: this process as the metadata knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// This broker.
    pub broker: BrokerId,
    /// Its registration.
    pub epoch: BrokerEpoch,
}

/// A log as it lies on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldLog {
    /// Whose it is.
    pub id: PartitionId,
    /// The newest leadership in it; none when it has never had a record, or damage took what it knew.
    pub newest_epoch: Option<LeaderEpoch>,
    /// Offsets from its start to its end.
    pub records: u64,
    /// Bytes of its batches.
    pub bytes: u64,
}

/// What becomes of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// This broker is to hold it.
    Keep,
    /// Nobody needs it here.
    Delete(Gone),
    /// It stays as it is, is not served, and an operator hears of it.
    Quarantine(Doubt),
}

/// Why nobody needs a log here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Its topic was deleted.
    TopicDeleted,
    /// Its partition is on other brokers, enough of which are in sync.
    MovedAway,
}

/// Why a log stays that this broker is not known to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The metadata here does not hold this broker's registration: it may be older than the log.
    Unconfirmed,
    /// No such topic, and no record of its deletion.
    UnknownTopic,
    /// The topic has fewer partitions.
    UnknownPartition,
    /// The partition is on other brokers, and too few of them are in sync now.
    TooFewCopies,
    /// The partition is on other brokers in a leadership that is no newer than the log's.
    NewerThanMetadata {
        /// The partition's leadership.
        known: LeaderEpoch,
    },
    /// It has records of which it does not know who wrote them, so that they cannot be compared with the metadata.
    Undated,
}

impl HeldLog {
    /// `log` as it is now.
    pub fn of(log: &PartitionLog) -> Self {
        Self {
            id: log.partition(),
            newest_epoch: log.latest_epoch().map(|latest| latest.epoch),
            records: log.log_start().distance_to(log.log_end()).unwrap_or(0),
            bytes: log.size_bytes(),
        }
    }
}

impl Doubt {
    /// True when later metadata may say more.
    pub fn is_passing(self) -> bool {
        match self {
            Self::Unconfirmed | Self::TooFewCopies => true,
            Self::UnknownTopic | Self::UnknownPartition | Self::NewerThanMetadata { .. } | Self::Undated => false,
        }
    }
}

/// What becomes of `log` on the disk of `me`, by `image`.
pub fn fate(log: &HeldLog, image: &ClusterImage, me: Life) -> Fate {
    if image.brokers.get(&me.broker).is_none_or(|registered| registered.epoch < me.epoch) {
        return Fate::Quarantine(Doubt::Unconfirmed);
    }
    let Some(topic) = image.topic_by_id(log.id.topic) else {
        return match image.is_deleted(log.id.topic) {
            true => Fate::Delete(Gone::TopicDeleted),
            false => Fate::Quarantine(Doubt::UnknownTopic),
        };
    };
    match topic.partition(log.id.partition) {
        None => Fate::Quarantine(Doubt::UnknownPartition),
        // While it moves, those that come and those that go are replicas, too.
        Some(state) if state.replicas.contains(&me.broker) => Fate::Keep,
        Some(state) => elsewhere(log, topic, state),
    }
}

/// What becomes of a log whose partition is on other brokers.
fn elsewhere(log: &HeldLog, topic: &TopicImage, state: &PartitionImage) -> Fate {
    match log.newest_epoch {
        Some(newest) if newest >= state.leader_epoch => {
            return Fate::Quarantine(Doubt::NewerThanMetadata { known: state.leader_epoch });
        }
        None if log.records > 0 => return Fate::Quarantine(Doubt::Undated),
        Some(_) | None => {}
    }
    let is_complete_elsewhere =
        state.leader.is_some() && !state.recovering && state.isr.len() >= state.in_sync_min(&topic.settings);
    match is_complete_elsewhere {
        true => Fate::Delete(Gone::MovedAway),
        false => Fate::Quarantine(Doubt::TooFewCopies),
    }
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TopicDeleted => "its topic was deleted",
            Self::MovedAway => "its partition is complete on other brokers",
        })
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unconfirmed => f.write_str("the metadata here is older than this broker's registration"),
            Self::UnknownTopic => f.write_str("the metadata knows neither its topic nor a deletion of it"),
            Self::UnknownPartition => f.write_str("its topic has no such partition"),
            Self::TooFewCopies => f.write_str("its partition is on other brokers, of which too few are in sync"),
            Self::NewerThanMetadata { known } => {
                write!(f, "it is newer than the metadata, which knows its partition up to leader epoch {known}")
            }
            Self::Undated => f.write_str("it does not know who wrote its records"),
        }
    }
}

#[cfg(test)]
mod tests;
