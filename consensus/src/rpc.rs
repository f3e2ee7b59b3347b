//! The bytes of the messages between metadata nodes.
//!
//! A request starts with who sends it, to whom, in which cluster: an address may by now belong to another node, and
//! a vote that reaches the wrong disk must not count. All lengths are bounded before anything is allocated.

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use streambus_protocol::ids::ClusterId;

use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::limits::{MESSAGE_TEXT_BYTES_MAX, PEER_MESSAGE_BYTES_MAX};
use crate::raft_codec::{
    LOG_ID_BYTES, read_entry, read_opt_log_id, read_stored_membership, read_vote, write_entry, write_opt_log_id,
    write_stored_membership, write_vote,
};
use crate::types::{RaftId, SnapshotMeta, TypeConfig, Vote};

/// A kind of request between metadata nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Rpc {
    /// Entries, or a heartbeat.
    Append = 1,
    /// A candidate asks for a vote.
    Vote = 2,
    /// A node asks whether it would get a vote.
    PreVote = 3,
    /// The header that goes with a snapshot.
    Snapshot = 4,
    /// The leader asks a follower to take over.
    TransferLeader = 5,
}

impl Rpc {
    /// Reads the wire's number.
    pub const fn from_wire(kind: u8) -> Option<Self> {
        match kind {
            1 => Some(Self::Append),
            2 => Some(Self::Vote),
            3 => Some(Self::PreVote),
            4 => Some(Self::Snapshot),
            5 => Some(Self::TransferLeader),
            _ => None,
        }
    }
}

/// Who speaks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) cluster: ClusterId,
    pub(crate) from: RaftId,
    pub(crate) to: RaftId,
}

/// A message of ours: written into an encoder, read back within bounds.
pub(crate) trait Message: Sized {
    fn write(&self, out: &mut Encoder);
    fn read(input: &mut Decoder<'_>) -> Result<Self, DecodeError>;
}

pub(crate) fn encode_request(route: Route, message: &impl Message) -> Vec<u8> {
    let mut out = Encoder::new();
    out.raw(route.cluster.as_bytes());
    out.u64(route.from.get());
    out.u64(route.to.get());
    message.write(&mut out);
    out.finish()
}

/// The route of a request, and its message's bytes.
pub(crate) fn decode_route(bytes: &[u8]) -> Result<(Route, &[u8]), DecodeError> {
    if bytes.len() > PEER_MESSAGE_BYTES_MAX {
        let (found, max) = (bytes.len() as u64, PEER_MESSAGE_BYTES_MAX as u64);
        return Err(DecodeError::AboveLimit { what: "peer message bytes", found, max });
    }
    let mut input = Decoder::new(bytes);
    let cluster = ClusterId::from_bytes(input.array()?);
    let from = RaftId::new(input.u64()?);
    let to = RaftId::new(input.u64()?);
    Ok((Route { cluster, from, to }, input.rest()))
}

pub(crate) fn encode<M: Message>(message: &M) -> Vec<u8> {
    let mut out = Encoder::new();
    message.write(&mut out);
    out.finish()
}

pub(crate) fn decode<M: Message>(bytes: &[u8]) -> Result<M, DecodeError> {
    let mut input = Decoder::new(bytes);
    let message = M::read(&mut input)?;
    input.finish()?;
    Ok(message)
}

/// Texts are for people: a long one is cut rather than refused by its reader.
pub(crate) fn write_text(out: &mut Encoder, text: &str) {
    let mut end = text.len().min(MESSAGE_TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.text(text.get(..end).unwrap_or_default());
}

/// Reads what [`write_text`] wrote.
pub(crate) fn read_text(input: &mut Decoder<'_>) -> Result<String, DecodeError> {
    Ok(input.text("text", MESSAGE_TEXT_BYTES_MAX)?.to_owned())
}

impl Message for AppendEntriesRequest<TypeConfig> {
    fn write(&self, out: &mut Encoder) {
        write_vote(out, &self.vote);
        write_opt_log_id(out, self.prev_log_id.as_ref());
        write_opt_log_id(out, self.leader_commit.as_ref());
        out.count(self.entries.len());
        for entry in &self.entries {
            write_entry(out, entry);
        }
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let vote = read_vote(input)?;
        let prev_log_id = read_opt_log_id(input)?;
        let leader_commit = read_opt_log_id(input)?;
        let count = input.count("entries", LOG_ID_BYTES + 1, PEER_MESSAGE_BYTES_MAX)?;
        let entries = (0..count).map(|_| read_entry(input)).collect::<Result<_, _>>()?;
        Ok(Self { vote, prev_log_id, entries, leader_commit })
    }
}

impl Message for AppendEntriesResponse<TypeConfig> {
    fn write(&self, out: &mut Encoder) {
        match self {
            Self::Success => out.u8(0),
            Self::PartialSuccess(matched) => {
                out.u8(1);
                write_opt_log_id(out, matched.as_ref());
            }
            Self::Conflict => out.u8(2),
            Self::HigherVote(vote) => {
                out.u8(3);
                write_vote(out, vote);
            }
        }
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        match input.u8()? {
            0 => Ok(Self::Success),
            1 => Ok(Self::PartialSuccess(read_opt_log_id(input)?)),
            2 => Ok(Self::Conflict),
            3 => Ok(Self::HigherVote(read_vote(input)?)),
            other => Err(DecodeError::Invalid { what: "append response", found: other.to_string() }),
        }
    }
}

impl Message for VoteRequest<TypeConfig> {
    fn write(&self, out: &mut Encoder) {
        write_vote(out, &self.vote);
        write_opt_log_id(out, self.last_log_id.as_ref());
        out.bool(self.leadership_transfer);
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let mut request = Self::new(read_vote(input)?, read_opt_log_id(input)?);
        request.leadership_transfer = input.bool()?;
        Ok(request)
    }
}

impl Message for VoteResponse<TypeConfig> {
    fn write(&self, out: &mut Encoder) {
        write_vote(out, &self.vote);
        write_opt_log_id(out, self.last_log_id.as_ref());
        out.bool(self.vote_granted);
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let vote = read_vote(input)?;
        let last_log_id = read_opt_log_id(input)?;
        Ok(Self { vote, vote_granted: input.bool()?, last_log_id })
    }
}

/// What goes ahead of a snapshot's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotHeader {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
}

impl Message for SnapshotHeader {
    fn write(&self, out: &mut Encoder) {
        write_vote(out, &self.vote);
        write_opt_log_id(out, self.meta.last_log_id.as_ref());
        write_stored_membership(out, &self.meta.last_membership);
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let vote = read_vote(input)?;
        let last_log_id = read_opt_log_id(input)?;
        let last_membership = read_stored_membership(input)?;
        Ok(Self { vote, meta: SnapshotMeta { last_log_id, last_membership } })
    }
}

impl Message for SnapshotResponse<TypeConfig> {
    fn write(&self, out: &mut Encoder) {
        write_vote(out, &self.vote);
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self::new(read_vote(input)?))
    }
}

impl Message for TransferLeaderRequest<TypeConfig> {
    fn write(&self, out: &mut Encoder) {
        write_vote(out, self.from_leader());
        out.u64(self.to_node_id().get());
        write_opt_log_id(out, self.last_log_id());
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let from = read_vote(input)?;
        let to = RaftId::new(input.u64()?);
        Ok(Self::new(from, to, read_opt_log_id(input)?))
    }
}

impl Message for TransferLeaderResponse<TypeConfig> {
    fn write(&self, out: &mut Encoder) {
        match self {
            Ok(()) => out.u8(0),
            Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                out.u8(1);
                write_vote(out, expected);
                write_vote(out, actual);
            }
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                out.u8(2);
                write_opt_log_id(out, expected.as_ref());
                write_opt_log_id(out, actual.as_ref());
            }
        }
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match input.u8()? {
            0 => Ok(()),
            1 => Err(TransferLeaderError::VoteChanged { expected: read_vote(input)?, actual: read_vote(input)? }),
            2 => Err(TransferLeaderError::LogNotFlushed {
                expected: read_opt_log_id(input)?,
                actual: read_opt_log_id(input)?,
            }),
            other => return Err(DecodeError::Invalid { what: "transfer response", found: other.to_string() }),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refuse<M: Message>(bytes: &[u8]) {
        if let Ok(message) = decode::<M>(bytes) {
            assert_eq!(encode(&message).len(), bytes.len());
        }
    }

    proptest! {
        /// Catches: a panic, an unbounded allocation, or bytes that are ignored, on a hostile message.
        #[test]
        fn hostile_messages_never_panic(bytes in proptest::collection::vec(0u8..4, 0..120)) {
            refuse::<AppendEntriesRequest<TypeConfig>>(&bytes);
            refuse::<AppendEntriesResponse<TypeConfig>>(&bytes);
            refuse::<VoteRequest<TypeConfig>>(&bytes);
            refuse::<VoteResponse<TypeConfig>>(&bytes);
            refuse::<SnapshotHeader>(&bytes);
            refuse::<TransferLeaderRequest<TypeConfig>>(&bytes);
            refuse::<TransferLeaderResponse<TypeConfig>>(&bytes);
        }
    }

    /// Catches: a pre-vote or vote flag that is lost on the wire, or fields in another order than they are read.
    #[test]
    fn vote_request_survives_the_wire() {
        let vote = Vote::new(7, RaftId::new(3));
        let mut request = VoteRequest::<TypeConfig>::new(vote, None);
        request.leadership_transfer = true;
        let route = Route { cluster: ClusterId::from_bytes([5; 16]), from: RaftId::new(3), to: RaftId::new(4) };
        let bytes = encode_request(route, &request);
        let (found, body) = decode_route(&bytes).unwrap();
        assert_eq!(found, route);
        assert_eq!(decode::<VoteRequest<TypeConfig>>(body).unwrap(), request);
    }
}
