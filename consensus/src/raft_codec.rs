//! openraft's positions, votes, memberships and entries as bytes of ours.

use std::collections::{BTreeMap, BTreeSet};

use openraft::EntryPayload;
use streambus_protocol::ids::BrokerId;

use crate::command::Command;
use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::limits::{COMMAND_BYTES_MAX, HOST_BYTES_MAX, RAFT_NODES_MAX};
use crate::types::{Entry, LeaderId, LogId, Membership, RaftId, RaftNode, StoredMembership, Vote};

/// Bytes of an encoded log id: term, node, index.
pub(crate) const LOG_ID_BYTES: usize = 24;

pub(crate) fn write_log_id(encoder: &mut Encoder, id: &LogId) {
    encoder.u64(id.leader_id.term);
    encoder.u64(id.leader_id.node_id.get());
    encoder.u64(id.index);
}

pub(crate) fn read_log_id(decoder: &mut Decoder<'_>) -> Result<LogId, DecodeError> {
    let term = decoder.u64()?;
    let node_id = RaftId::new(decoder.u64()?);
    let index = decoder.u64()?;
    Ok(LogId { leader_id: LeaderId { term, node_id }, index })
}

pub(crate) fn write_opt_log_id(encoder: &mut Encoder, id: Option<&LogId>) {
    encoder.option(id, write_log_id);
}

pub(crate) fn read_opt_log_id(decoder: &mut Decoder<'_>) -> Result<Option<LogId>, DecodeError> {
    decoder.option(read_log_id)
}

pub(crate) fn write_vote(encoder: &mut Encoder, vote: &Vote) {
    encoder.u64(vote.leader_id.term);
    encoder.u64(vote.leader_id.node_id.get());
    encoder.bool(vote.committed);
}

pub(crate) fn read_vote(decoder: &mut Decoder<'_>) -> Result<Vote, DecodeError> {
    let term = decoder.u64()?;
    let node_id = RaftId::new(decoder.u64()?);
    let committed = decoder.bool()?;
    Ok(Vote { leader_id: LeaderId { term, node_id }, committed })
}

pub(crate) fn write_node(encoder: &mut Encoder, node: &RaftNode) {
    encoder.u32(node.broker.get());
    encoder.text(&node.host);
    encoder.u16(node.port);
}

pub(crate) fn read_node(decoder: &mut Decoder<'_>) -> Result<RaftNode, DecodeError> {
    let broker = BrokerId::new(decoder.u32()?);
    let host = decoder.text("host", HOST_BYTES_MAX)?.to_owned();
    let port = decoder.u16()?;
    Ok(RaftNode { broker, host, port })
}

pub(crate) fn write_membership(encoder: &mut Encoder, membership: &Membership) {
    let configs = membership.get_joint_config();
    encoder.count(configs.len());
    for config in configs {
        encoder.count(config.len());
        for id in config {
            encoder.u64(id.get());
        }
    }
    let nodes: Vec<_> = membership.nodes().collect();
    encoder.count(nodes.len());
    for (id, node) in nodes {
        encoder.u64(id.get());
        write_node(encoder, node);
    }
}

pub(crate) fn read_membership(decoder: &mut Decoder<'_>) -> Result<Membership, DecodeError> {
    // A joint configuration has two; more than a few is no membership of ours.
    let mut configs = Vec::new();
    for _ in 0..decoder.count("voter sets", 4, 8)? {
        let mut voters = BTreeSet::new();
        for _ in 0..decoder.count("voters", 8, RAFT_NODES_MAX)? {
            voters.insert(RaftId::new(decoder.u64()?));
        }
        configs.push(voters);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..decoder.count("raft nodes", 18, RAFT_NODES_MAX)? {
        let id = RaftId::new(decoder.u64()?);
        nodes.insert(id, read_node(decoder)?);
    }
    Membership::new(configs, nodes).map_err(|e| DecodeError::Invalid { what: "raft membership", found: e.to_string() })
}

pub(crate) fn write_stored_membership(encoder: &mut Encoder, stored: &StoredMembership) {
    write_opt_log_id(encoder, stored.log_id().as_ref());
    write_membership(encoder, stored.membership());
}

pub(crate) fn read_stored_membership(decoder: &mut Decoder<'_>) -> Result<StoredMembership, DecodeError> {
    let log_id = read_opt_log_id(decoder)?;
    Ok(StoredMembership::new(log_id, read_membership(decoder)?))
}

pub(crate) fn write_entry(encoder: &mut Encoder, entry: &Entry) {
    write_log_id(encoder, &entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => encoder.u8(0),
        EntryPayload::Normal(command) => {
            encoder.u8(1);
            encoder.block(&command.encode());
        }
        EntryPayload::Membership(membership) => {
            encoder.u8(2);
            write_membership(encoder, membership);
        }
    }
}

pub(crate) fn read_entry(decoder: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    let log_id = read_log_id(decoder)?;
    let payload = match decoder.u8()? {
        0 => EntryPayload::Blank,
        1 => EntryPayload::Normal(Command::decode(decoder.block("command", COMMAND_BYTES_MAX)?)?),
        2 => EntryPayload::Membership(read_membership(decoder)?),
        other => return Err(DecodeError::Invalid { what: "entry payload", found: other.to_string() }),
    };
    Ok(Entry { log_id, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: an accidental change of the entry format, which would make existing logs unreadable.
    #[test]
    fn entry_bytes_are_golden() {
        let log_id = LogId { leader_id: LeaderId { term: 3, node_id: RaftId::new(7) }, index: 0x0102 };
        let nodes =
            BTreeMap::from([(RaftId::new(7), RaftNode { broker: BrokerId::new(9), host: "h".into(), port: 80 })]);
        let membership = Membership::new(vec![BTreeSet::from([RaftId::new(7)])], nodes).unwrap();
        let entry = Entry { log_id, payload: EntryPayload::Membership(membership) };
        let mut encoder = Encoder::new();
        write_entry(&mut encoder, &entry);
        let bytes = encoder.finish();
        let golden: Vec<u8> = [
            &[3, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 2][..],
            &[1, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, b'h', 80, 0],
        ]
        .concat();
        assert_eq!(bytes, golden);
        let mut decoder = Decoder::new(&bytes);
        assert_eq!(read_entry(&mut decoder).unwrap(), entry);
        decoder.finish().unwrap();
    }

    /// Catches: a membership whose voter has no address, which openraft would panic on later.
    #[test]
    fn membership_without_its_voters_node_is_refused() {
        let mut encoder = Encoder::new();
        encoder.count(1);
        encoder.count(1);
        encoder.u64(5);
        encoder.count(0);
        assert!(read_membership(&mut Decoder::new(&encoder.finish())).is_err());
    }
}
