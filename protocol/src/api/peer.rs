//! Between brokers, on the cluster listener only: who connects, and the metadata group's own messages as opaque bytes.

use bytes::Bytes;

use super::messages;
use crate::codec::{DecodeError, Field, Reader, Writer, field_struct};
use crate::epoch::BrokerEpoch;
use crate::ids::{BrokerId, ClusterId};

/// Traffic between two brokers that must not wait for other traffic: each lane has a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PeerLane {
    /// Entries of the metadata log, and votes.
    Log = 0,
    /// Heartbeats of the metadata's leader: a large append in front of one would cost it its lease.
    Heartbeat = 1,
    /// Snapshots of the metadata: long, and nobody waits for them.
    Snapshot = 2,
    /// Record batches, from a leader to its follower.
    Replication = 3,
    /// What one broker asks of another on behalf of somebody: proposals, broker heartbeats, descriptions, hellos.
    Forward = 4,
}

impl PeerLane {
    /// Every lane, in numeric order.
    pub const ALL: &[Self] = &[Self::Log, Self::Heartbeat, Self::Snapshot, Self::Replication, Self::Forward];

    /// The wire's number.
    pub const fn to_wire(self) -> u8 {
        self as u8
    }

    /// Reads the wire's number.
    pub const fn from_wire(lane: u8) -> Option<Self> {
        match lane {
            0 => Some(Self::Log),
            1 => Some(Self::Heartbeat),
            2 => Some(Self::Snapshot),
            3 => Some(Self::Replication),
            4 => Some(Self::Forward),
            _ => None,
        }
    }

    /// The lane's stable name, for logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Heartbeat => "heartbeat",
            Self::Snapshot => "snapshot",
            Self::Replication => "replication",
            Self::Forward => "forward",
        }
    }
}

impl Field for PeerLane {
    const BYTES_MIN: usize = 1;

    fn write(&self, w: &mut Writer<'_>) {
        w.u8(self.to_wire());
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let lane = r.u8()?;
        Self::from_wire(lane).ok_or(DecodeError::Invalid { field: "lane", value: u64::from(lane) })
    }
}

field_struct! {
    /// The first request of a connection between brokers.
    pub struct PeerHandshakeRequest {
        /// The caller's cluster; `None` while it belongs to none.
        pub cluster_id: Option<ClusterId>,
        /// The caller.
        pub broker_id: BrokerId,
        /// Whom it means to reach; another broker refuses with `WRONG_BROKER`. `None` when it only knows an address.
        pub expected: Option<BrokerId>,
        /// What the connection is for.
        pub lane: PeerLane,
        /// The caller's node in the metadata group, once it has one.
        pub raft_id: Option<u64>,
        /// The epoch of the caller's registration, once it has one.
        pub broker_epoch: Option<BrokerEpoch>,
        /// The caller's version.
        pub software_version: String,
    }
}

field_struct! {
    /// Who answered.
    pub struct PeerHandshakeResponse {
        /// Its cluster; `None` while it belongs to none.
        pub cluster_id: Option<ClusterId>,
        /// The broker.
        pub broker_id: BrokerId,
        /// Its node in the metadata group, once it has one.
        pub raft_id: Option<u64>,
        /// Its version.
        pub software_version: String,
        /// The largest frame it takes from now on, header included.
        pub frame_bytes_max: u32,
    }
}

field_struct! {
    /// A broker that belongs to no cluster yet says who it is and asks what there is.
    pub struct RaftHelloRequest {
        /// The metadata layer's question.
        pub bytes: Bytes,
    }
}

field_struct! {
    /// What there is.
    pub struct RaftHelloResponse {
        /// The metadata layer's answer.
        pub bytes: Bytes,
    }
}

field_struct! {
    /// One request of the metadata group's consensus.
    pub struct RaftCallRequest {
        /// Which kind, as the metadata layer numbers them.
        pub rpc: u8,
        /// The request.
        pub bytes: Bytes,
    }
}

field_struct! {
    /// Its answer.
    pub struct RaftCallResponse {
        /// The answer.
        pub bytes: Bytes,
    }
}

field_struct! {
    /// One step of sending a snapshot. The steps of one transfer follow one another on one connection.
    pub struct RaftSnapshotRequest {
        /// The sender's number for the transfer; a new one abandons the one before.
        pub transfer: u32,
        /// The step.
        pub step: SnapshotStep,
    }
}

/// What a step of a snapshot's transfer brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotStep {
    /// Starts the transfer.
    Begin {
        /// What the snapshot is, in the metadata layer's bytes.
        header: Bytes,
    },
    /// Brings the bytes that follow those before.
    Chunk {
        /// How many bytes came before.
        position: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Ends the transfer and installs the snapshot.
    Finish {
        /// How many bytes it has.
        bytes_total: u64,
    },
}

impl Field for SnapshotStep {
    const BYTES_MIN: usize = 1 + Bytes::BYTES_MIN;

    fn write(&self, w: &mut Writer<'_>) {
        match self {
            Self::Begin { header } => {
                w.u8(0);
                header.write(w);
            }
            Self::Chunk { position, bytes } => {
                w.u8(1);
                w.u64(*position);
                bytes.write(w);
            }
            Self::Finish { bytes_total } => {
                w.u8(2);
                w.u64(*bytes_total);
            }
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.u8()? {
            0 => Ok(Self::Begin { header: Field::read(r)? }),
            1 => Ok(Self::Chunk { position: r.u64()?, bytes: Field::read(r)? }),
            2 => Ok(Self::Finish { bytes_total: r.u64()? }),
            other => Err(DecodeError::Invalid { field: "step of a snapshot", value: u64::from(other) }),
        }
    }
}

field_struct! {
    /// The step is done.
    pub struct RaftSnapshotResponse {
        /// The metadata layer's answer to the last step; empty before.
        pub bytes: Bytes,
    }
}

field_struct! {
    /// Something that only the metadata's leader can do, passed on to it.
    pub struct RaftForwardRequest {
        /// The metadata layer's request.
        pub bytes: Bytes,
    }
}

field_struct! {
    /// What the leader said.
    pub struct RaftForwardResponse {
        /// The metadata layer's answer.
        pub bytes: Bytes,
    }
}

messages! {
    PeerHandshake: PeerHandshakeRequest => PeerHandshakeResponse;
    RaftHello: RaftHelloRequest => RaftHelloResponse;
    RaftCall: RaftCallRequest => RaftCallResponse;
    RaftSnapshot: RaftSnapshotRequest => RaftSnapshotResponse;
    RaftForward: RaftForwardRequest => RaftForwardResponse;
}
