//! The cluster's state at a glance, and moving its work between brokers.

use super::messages;
use super::metadata::BrokerEndpoint;
use crate::codec::{DecodeError, Field, Reader, Writer, field_struct};
use crate::epoch::{BrokerEpoch, LeaderEpoch};
use crate::ids::{BrokerId, ClusterId, PartitionIndex, TopicName};

field_struct! {
    /// Asks for the cluster's state.
    pub struct ClusterDescribeRequest {}
}

field_struct! {
    /// The cluster's state as this broker knows it.
    pub struct ClusterDescribeResponse {
        /// The cluster.
        pub cluster_id: ClusterId,
        /// The broker that decides about metadata, if this one hears it now.
        pub controller: Option<BrokerId>,
        /// The Raft term of the metadata.
        pub metadata_term: u64,
        /// The Raft log index applied here.
        pub metadata_index: u64,
        /// For how many milliseconds this broker has heard no controller that a majority answers; absent while it hears
        /// one. Everything here is as old.
        pub without_quorum_ms: Option<u64>,
        /// Voters that did not answer this broker while it heard no controller.
        pub silent: Vec<BrokerId>,
        /// Every registered broker.
        pub brokers: Vec<BrokerDescription>,
        /// How many topics there are.
        pub topics: u32,
        /// How many partitions they have together.
        pub partitions: u32,
        /// Partitions that have no leader.
        pub leaderless: u32,
        /// Partitions with fewer replicas in sync than assigned.
        pub under_replicated: u32,
        /// Partitions with fewer replicas in sync than `min.insync.replicas`.
        pub under_min_isr: u32,
        /// Partitions that are being moved to other brokers.
        pub reassigning: u32,
    }
}

field_struct! {
    /// One broker.
    pub struct BrokerDescription {
        /// Who it is and where clients reach it.
        pub endpoint: BrokerEndpoint,
        /// The host name or address where other brokers reach it; empty for a broker without a cluster listener.
        pub cluster_host: String,
        /// The port where other brokers reach it; 0 for a broker without a cluster listener.
        pub cluster_port: u16,
        /// The epoch of its registration.
        pub epoch: BrokerEpoch,
        /// True while it takes no part: it has not been heard of in time, or has not caught up since its start.
        pub fenced: bool,
        /// True while it hands over what it leads, to stop.
        pub in_controlled_shutdown: bool,
        /// True while everything is moved off it.
        pub draining: bool,
        /// True when its vote counts in the metadata group.
        pub is_voter: bool,
        /// Metadata entries it lacks, where the asked broker knows: the controller knows of all.
        pub metadata_lag: Option<u64>,
        /// What it is doing, in one word.
        pub state: String,
        /// Its version.
        pub version: String,
        /// Partitions it leads.
        pub leaders: u32,
        /// Partitions it holds, or is about to hold.
        pub replicas: u32,
        /// Partitions that are being moved off it or to it.
        pub reassigning: u32,
        /// Bytes its data takes, as it said some seconds ago; zero when it has not been heard.
        pub disk_used_bytes: u64,
        /// Bytes left on its disk, as it said some seconds ago; zero when it has not been heard.
        pub disk_free_bytes: u64,
    }
}

field_struct! {
    /// Gives a partition another leader.
    pub struct ElectLeaderRequest {
        /// The topic's name.
        pub topic: TopicName,
        /// The partition.
        pub partition: PartitionIndex,
        /// Whom to give it to.
        pub choice: LeaderChoice,
    }
}

/// Who is to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaderChoice {
    /// The first replica of the assignment.
    Preferred,
    /// This one.
    Broker(BrokerId),
    /// Whichever replica is alive, even one that lacks acknowledged records: those are lost.
    Unclean,
}

impl Field for LeaderChoice {
    const BYTES_MIN: usize = 1;

    fn write(&self, w: &mut Writer<'_>) {
        match self {
            Self::Preferred => w.u8(0),
            Self::Broker(broker) => {
                w.u8(1);
                broker.write(w);
            }
            Self::Unclean => w.u8(2),
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.u8()? {
            0 => Ok(Self::Preferred),
            1 => Ok(Self::Broker(Field::read(r)?)),
            2 => Ok(Self::Unclean),
            other => Err(DecodeError::Invalid { field: "choice of a leader", value: u64::from(other) }),
        }
    }
}

field_struct! {
    /// Who leads now.
    #[derive(Copy)]
    pub struct ElectLeaderResponse {
        /// The leader.
        pub leader: BrokerId,
        /// The epoch of its leadership.
        pub leader_epoch: LeaderEpoch,
    }
}

field_struct! {
    /// Moves a partition to other brokers, or stops moving it.
    pub struct ReassignRequest {
        /// The topic's name.
        pub topic: TopicName,
        /// The partition.
        pub partition: PartitionIndex,
        /// Who shall hold it, the preferred leader first; `None` returns to the brokers that held it before.
        pub replicas: Option<Vec<BrokerId>>,
        /// Bytes per second that the move may send to the new ones, zero for no limit; `None` for what their leader is set
        /// to (`replication.catch_up_rate`).
        pub throttle: Option<u64>,
    }
}

field_struct! {
    /// The move has begun, or is undone.
    pub struct ReassignResponse {
        /// Who holds the partition for now.
        pub replicas: Vec<BrokerId>,
        /// Which of them are new; when all are in sync, those that leave are dropped.
        pub adding: Vec<BrokerId>,
        /// Which of them leave.
        pub removing: Vec<BrokerId>,
    }
}

field_struct! {
    /// Moves everything off a broker, or lets it take part again. Asking again tells the progress.
    #[derive(Copy)]
    pub struct DrainBrokerRequest {
        /// The broker.
        pub broker: BrokerId,
        /// True to drain, false to let it take part again.
        pub draining: bool,
    }
}

field_struct! {
    /// How far draining is.
    #[derive(Copy)]
    pub struct DrainBrokerResponse {
        /// Partitions it still leads.
        pub leaders_left: u32,
        /// Partitions it still holds.
        pub replicas_left: u32,
        /// Which of those are being moved now.
        pub moving: u32,
        /// Record bytes that the brokers which take over still lack, as far as leaders say.
        pub bytes_left: u64,
        /// Partitions it still holds of which no leader said how much that is.
        pub unmeasured: u32,
    }
}

field_struct! {
    /// Forgets a broker. It must be fenced and hold nothing.
    #[derive(Copy)]
    pub struct RemoveBrokerRequest {
        /// The broker.
        pub broker: BrokerId,
    }
}

field_struct! {
    /// The broker is forgotten.
    #[derive(Copy)]
    pub struct RemoveBrokerResponse {}
}

messages! {
    ElectLeader: ElectLeaderRequest => ElectLeaderResponse;
    Reassign: ReassignRequest => ReassignResponse;
    DrainBroker: DrainBrokerRequest => DrainBrokerResponse;
    RemoveBroker: RemoveBrokerRequest => RemoveBrokerResponse;
    ClusterDescribe: ClusterDescribeRequest => ClusterDescribeResponse;
}
