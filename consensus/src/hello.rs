//! What brokers ask one another before they know anything: who are you, and does your disk belong to a cluster?
//!
//! A hello needs no Raft id on either side and changes nothing, except for a request to join, which is answered with
//! the Raft id that the cluster gave to the asking disk.

use std::collections::BTreeSet;
use std::fmt;

use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::{BrokerId, ClusterId, DirectoryId};

use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::limits::{BROKERS_MAX, HOST_BYTES_MAX};
use crate::rpc::{Message, read_text, write_text};
use crate::types::RaftId;

const VERSION: u8 = 1;

/// A question to whoever listens at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) from: BrokerId,
    /// Who should be there.
    pub(crate) to: BrokerId,
    /// The founders in the asker's configuration.
    pub(crate) founders: BTreeSet<BrokerId>,
    /// The asker's disk, once it is formatted.
    pub(crate) disk: Option<Disk>,
    pub(crate) wish: Wish,
}

/// A formatted disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) cluster: ClusterId,
    pub(crate) raft: RaftId,
    pub(crate) directory: DirectoryId,
    /// Index of the last entry in its log; zero before the first.
    pub(crate) last: u64,
}

/// What the asker wants besides an introduction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Nothing,
    /// A Raft id for an empty disk.
    Join {
        cluster: ClusterId,
        directory: DirectoryId,
        host: String,
        port: u16,
    },
}

/// The answer, or why there is none.
pub(crate) type HelloAnswer = Result<Introduction, String>;

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Introduction {
    pub(crate) broker: BrokerId,
    pub(crate) standing: Standing,
    pub(crate) place: Place,
    /// The answer to a request to join.
    pub(crate) joined: Option<Joined>,
}

/// What a broker's disk is to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The disk has not been looked at yet.
    Opening,
    /// Nothing is on it: no promise was ever made by it.
    Empty,
    /// The first founder's disk: formatted, and certainly no node of this cluster has voted yet.
    Founding(ClusterId),
    /// Another founder's disk: formatted, and without a vote or an entry.
    Formatted(ClusterId),
    /// The disk of a node that joins and has no entry yet. The cluster exists.
    Joining(ClusterId),
    /// The cluster is initialised: this node has its log, or is about to write its first entry.
    Member(ClusterId),
}

/// What the answering node knows about the asker's Raft id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Unknown,
    Member,
    /// It was a member and is none any more: it can never be one again.
    Removed,
    /// It confirmed entries to this node, which is the controller, that its disk does not have any more.
    LogLost,
}

/// The answer to a request to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// The disk's Raft id, for ever.
    As(RaftId),
    /// Not now: no controller, for one.
    NotNow(String),
    /// The broker is in service with another disk: it is this one's former life, not fenced yet, or another process.
    Taken(Holder),
}

/// Who serves under a broker id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Its registration: one life of it.
    pub(crate) epoch: BrokerEpoch,
    /// The disk of its records.
    pub(crate) directory: DirectoryId,
    /// Where other brokers reach it.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The term of the controller that keeps it in service.
    pub(crate) term: u64,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the broker at {}:{} with directory {}", self.host, self.port, self.directory)
    }
}

impl Standing {
    /// The cluster the disk belongs to.
    pub(crate) fn cluster(self) -> Option<ClusterId> {
        match self {
            Self::Opening | Self::Empty => None,
            Self::Founding(c) | Self::Formatted(c) | Self::Joining(c) | Self::Member(c) => Some(c),
        }
    }
}

impl Message for Hello {
    fn write(&self, out: &mut Encoder) {
        out.u8(VERSION);
        out.u32(self.from.get());
        out.u32(self.to.get());
        out.count(self.founders.len());
        for founder in &self.founders {
            out.u32(founder.get());
        }
        out.option(self.disk, |out, disk| {
            out.raw(disk.cluster.as_bytes());
            out.u64(disk.raft.get());
            out.raw(disk.directory.as_bytes());
            out.u64(disk.last);
        });
        match &self.wish {
            Wish::Nothing => out.u8(0),
            Wish::Join { cluster, directory, host, port } => {
                out.u8(1);
                out.raw(cluster.as_bytes());
                out.raw(directory.as_bytes());
                out.text(host);
                out.u16(*port);
            }
        }
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let version = input.u8()?;
        if version != VERSION {
            return Err(DecodeError::NewerVersion { what: "hello", found: version, newest: VERSION });
        }
        let (from, to) = (BrokerId::new(input.u32()?), BrokerId::new(input.u32()?));
        let count = input.count("founders", 4, BROKERS_MAX)?;
        let founders = (0..count).map(|_| Ok(BrokerId::new(input.u32()?))).collect::<Result<_, DecodeError>>()?;
        let disk = input.option(|input| {
            Ok(Disk {
                cluster: ClusterId::from_bytes(input.array()?),
                raft: RaftId::new(input.u64()?),
                directory: DirectoryId::from_bytes(input.array()?),
                last: input.u64()?,
            })
        })?;
        let wish = match input.u8()? {
            0 => Wish::Nothing,
            1 => Wish::Join {
                cluster: ClusterId::from_bytes(input.array()?),
                directory: DirectoryId::from_bytes(input.array()?),
                host: input.text("host", HOST_BYTES_MAX)?.to_owned(),
                port: input.u16()?,
            },
            other => return Err(DecodeError::Invalid { what: "wish", found: other.to_string() }),
        };
        Ok(Self { from, to, founders, disk, wish })
    }
}

impl Message for HelloAnswer {
    fn write(&self, out: &mut Encoder) {
        match self {
            Err(reason) => {
                out.u8(0);
                write_text(out, reason);
            }
            Ok(introduction) => {
                out.u8(1);
                introduction.write(out);
            }
        }
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        match input.u8()? {
            0 => Ok(Err(read_text(input)?)),
            1 => Introduction::read(input).map(Ok),
            other => Err(DecodeError::Invalid { what: "hello answer", found: other.to_string() }),
        }
    }
}

impl Message for Introduction {
    fn write(&self, out: &mut Encoder) {
        out.u32(self.broker.get());
        out.u8(match self.standing {
            Standing::Opening => 0,
            Standing::Empty => 1,
            Standing::Founding(_) => 2,
            Standing::Formatted(_) => 3,
            Standing::Joining(_) => 4,
            Standing::Member(_) => 5,
        });
        if let Some(cluster) = self.standing.cluster() {
            out.raw(cluster.as_bytes());
        }
        out.u8(match self.place {
            Place::Unknown => 0,
            Place::Member => 1,
            Place::Removed => 2,
            Place::LogLost => 3,
        });
        out.option(self.joined.as_ref(), |out, joined| match joined {
            Joined::As(raft) => {
                out.u8(0);
                out.u64(raft.get());
            }
            Joined::NotNow(reason) => {
                out.u8(1);
                write_text(out, reason);
            }
            Joined::Taken(holder) => {
                out.u8(2);
                out.u64(holder.epoch.get());
                out.raw(holder.directory.as_bytes());
                out.text(&holder.host);
                out.u16(holder.port);
                out.u64(holder.term);
            }
        });
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let broker = BrokerId::new(input.u32()?);
        let kind = input.u8()?;
        let mut cluster = || Ok::<_, DecodeError>(ClusterId::from_bytes(input.array()?));
        let standing = match kind {
            0 => Standing::Opening,
            1 => Standing::Empty,
            2 => Standing::Founding(cluster()?),
            3 => Standing::Formatted(cluster()?),
            4 => Standing::Joining(cluster()?),
            5 => Standing::Member(cluster()?),
            other => return Err(DecodeError::Invalid { what: "standing", found: other.to_string() }),
        };
        let place = match input.u8()? {
            0 => Place::Unknown,
            1 => Place::Member,
            2 => Place::Removed,
            3 => Place::LogLost,
            other => return Err(DecodeError::Invalid { what: "place", found: other.to_string() }),
        };
        let joined = input.option(|input| match input.u8()? {
            0 => Ok(Joined::As(RaftId::new(input.u64()?))),
            1 => Ok(Joined::NotNow(read_text(input)?)),
            2 => Ok(Joined::Taken(Holder {
                epoch: BrokerEpoch::new(input.u64()?),
                directory: DirectoryId::from_bytes(input.array()?),
                host: input.text("host", HOST_BYTES_MAX)?.to_owned(),
                port: input.u16()?,
                term: input.u64()?,
            })),
            other => Err(DecodeError::Invalid { what: "join answer", found: other.to_string() }),
        })?;
        Ok(Self { broker, standing, place, joined })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::MESSAGE_TEXT_BYTES_MAX;
    use crate::rpc::{decode, encode};

    /// Catches: a field that is lost or read in another order, a text too long for its reader.
    #[test]
    fn messages_survive_the_wire() {
        let cluster = ClusterId::from_bytes([7; 16]);
        let directory = DirectoryId::from_bytes([8; 16]);
        let hello = Hello {
            from: BrokerId::new(3),
            to: BrokerId::new(1),
            founders: (1..=3).map(BrokerId::new).collect(),
            disk: Some(Disk { cluster, raft: RaftId::new(3), directory, last: 9 }),
            wish: Wish::Join { cluster, directory, host: "h".to_owned(), port: 9093 },
        };
        assert_eq!(decode::<Hello>(&encode(&hello)).unwrap(), hello);
        for standing in [
            Standing::Opening,
            Standing::Empty,
            Standing::Founding(cluster),
            Standing::Formatted(cluster),
            Standing::Joining(cluster),
            Standing::Member(cluster),
        ] {
            for place in [Place::Unknown, Place::Member, Place::Removed, Place::LogLost] {
                let holder = Holder { epoch: BrokerEpoch::new(4), directory, host: "h".to_owned(), port: 5, term: 6 };
                for joined in
                    [Joined::As(RaftId::new(1 << 20)), Joined::NotNow("later".to_owned()), Joined::Taken(holder)]
                {
                    let joined = Some(joined);
                    let answer: HelloAnswer = Ok(Introduction { broker: BrokerId::new(1), standing, place, joined });
                    assert_eq!(decode::<HelloAnswer>(&encode(&answer)).unwrap(), answer);
                }
            }
        }
        let long: HelloAnswer = Err("ä".repeat(MESSAGE_TEXT_BYTES_MAX));
        assert_eq!(decode::<HelloAnswer>(&encode(&long)).unwrap().unwrap_err().len(), MESSAGE_TEXT_BYTES_MAX);
    }

    proptest! {
        /// Catches: a panic or an unbounded allocation on a hostile hello: it comes from anybody who can connect.
        #[test]
        fn hostile_hellos_never_panic(bytes in proptest::collection::vec(0u8..6, 0..120)) {
            if let Ok(hello) = decode::<Hello>(&bytes) {
                prop_assert!(encode(&hello).len() <= bytes.len());
            }
            if let Ok(answer) = decode::<HelloAnswer>(&bytes) {
                prop_assert_eq!(encode(&answer).len(), bytes.len());
            }
        }
    }
}
