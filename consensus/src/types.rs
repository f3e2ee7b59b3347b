//! The one binding of openraft to our types. No other module spells out an openraft type parameter.

use std::fmt;

use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};
use streambus_protocol::ids::BrokerId;

use crate::command::Command;
use crate::outcome::Reply;
use crate::snapshot::SnapshotFile;
use crate::state_machine::StateMachine;

/// A Raft node: one disk, for ever. A disk that was emptied or replaced gets a new id, because an id whose log went
/// back would break the quorum argument. Not to be confused with the stable [`BrokerId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RaftId(u64);

impl RaftId {
    /// The node that founds a cluster alone. Ids below [`RaftId::JOINED_MIN`] are for the founders.
    pub const FOUNDER: Self = Self(1);
    /// The smallest id of a node that joined later: this plus the log index of its committed join entry.
    pub const JOINED_MIN: Self = Self(1 << 20);

    /// In an identity file: the cluster has not given this disk an id yet. No node ever has it.
    pub(crate) const NONE_YET: Self = Self(u64::MAX);

    /// Wraps a plain number.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The id of a founder that founds with others; none when the broker id is in the range of joined nodes.
    pub fn of_founder(broker: BrokerId) -> Option<Self> {
        let id = Self(u64::from(broker.get()));
        (id < Self::JOINED_MIN).then_some(id)
    }

    /// The plain number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a Raft node is reached, and for which broker it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftNode {
    /// The broker whose disk this is.
    pub broker: BrokerId,
    /// Host name or address of its cluster listener.
    pub host: String,
    /// Port of its cluster listener.
    pub port: u16,
}

impl fmt::Display for RaftNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broker {} at {}:{}", self.broker, self.host, self.port)
    }
}

openraft::declare_raft_types!(
    /// The types openraft works with. Standard leader ids with the node inside, so a log id names its controller.
    pub TypeConfig:
        D = Command,
        R = Reply,
        NodeId = RaftId,
        Node = RaftNode,
);

pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;
pub(crate) type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, RaftId>;
pub(crate) type LogId = LogIdOf<TypeConfig>;
pub(crate) type Vote = VoteOf<TypeConfig>;
pub(crate) type Entry = EntryOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<RaftId, RaftNode>;
pub(crate) type StoredMembership = StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = SnapshotOf<TypeConfig, SnapshotFile>;

#[cfg(test)]
mod for_the_conformance_suite {
    use super::*;

    impl From<u64> for RaftId {
        fn from(value: u64) -> Self {
            Self(value)
        }
    }

    impl Default for RaftNode {
        fn default() -> Self {
            Self { broker: BrokerId::new(0), host: String::new(), port: 0 }
        }
    }
}
