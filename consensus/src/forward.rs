//! What a broker hands to the controller, as bytes.
//!
//! The answer to a proposal keeps its three ways apart: appended and committed at an index, certainly not appended,
//! unknown. What applying it answered is not sent: the proposer's own state machine says it.

use std::time::Duration;

use crate::command::Command;
use crate::controller::liveness::Heartbeat;
use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::error::{NotApplied, UnknownOutcome};
use crate::heartbeat::HeartbeatAnswer;
use crate::limits::COMMAND_BYTES_MAX;
use crate::raft_codec::{read_node, write_node};
use crate::rpc::{Message, read_text, write_text};
use crate::types::RaftId;

/// A request to the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Forward {
    /// Append this, and say where, within the time given.
    Propose { command: Command, patience: Duration },
    /// Up to where does a reader have to wait, to see everything acknowledged so far?
    ReadIndex(Confirmation),
    /// A broker is alive.
    Heartbeat(Heartbeat),
}

/// How a controller makes sure that it still is one before it answers a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirmation {
    /// It asks a quorum. Holds whatever the clocks do: for decisions that cannot be taken back.
    Quorum,
    /// A quorum has answered it less than a lease ago, by its monotonic clock. Costs nothing, and may be from before for less
    /// than a lease ([`MetadataNode::lease_read_within`](crate::node::MetadataNode::lease_read_within)): for lists and
    /// overviews.
    Lease,
}

/// The controller's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Forwarded {
    /// Committed at this index.
    Committed { index: u64 },
    /// The command was certainly not appended; for other requests: this node is not the controller.
    NotApplied(NotApplied),
    /// The command may have been appended.
    Unknown(UnknownOutcome),
    /// A reader waits until it has applied this index.
    ReadIndex { index: u64 },
    /// The controller has heard the broker.
    Heard(HeartbeatAnswer),
}

impl Message for Forward {
    fn write(&self, out: &mut Encoder) {
        match self {
            Self::Propose { command, patience } => {
                out.u8(1);
                out.u32(millis(*patience));
                out.block(&command.encode());
            }
            Self::ReadIndex(Confirmation::Quorum) => out.u8(2),
            Self::ReadIndex(Confirmation::Lease) => out.u8(4),
            Self::Heartbeat(beat) => {
                out.u8(3);
                beat.write(out);
            }
        }
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        match input.u8()? {
            1 => {
                let patience = Duration::from_millis(u64::from(input.u32()?));
                let command = Command::decode(input.block("command", COMMAND_BYTES_MAX)?)?;
                Ok(Self::Propose { command, patience })
            }
            2 => Ok(Self::ReadIndex(Confirmation::Quorum)),
            4 => Ok(Self::ReadIndex(Confirmation::Lease)),
            3 => Ok(Self::Heartbeat(Heartbeat::read(input)?)),
            other => Err(DecodeError::Invalid { what: "forwarded request", found: other.to_string() }),
        }
    }
}

impl Message for Forwarded {
    fn write(&self, out: &mut Encoder) {
        match self {
            Self::Committed { index } => {
                out.u8(1);
                out.u64(*index);
            }
            Self::NotApplied(NotApplied::OtherController { id, node }) => {
                out.u8(2);
                out.u64(id.get());
                write_node(out, node);
            }
            Self::NotApplied(NotApplied::NoController) => out.u8(3),
            Self::NotApplied(NotApplied::Malformed(text)) => {
                out.u8(4);
                write_text(out, text);
            }
            Self::Unknown(UnknownOutcome::Deadline(after)) => {
                out.u8(5);
                out.u32(millis(*after));
            }
            Self::Unknown(UnknownOutcome::ControllerChanged) => out.u8(6),
            Self::Unknown(UnknownOutcome::Stopped(text)) => {
                out.u8(7);
                write_text(out, text);
            }
            Self::Unknown(UnknownOutcome::Exchange(text)) => {
                out.u8(8);
                write_text(out, text);
            }
            Self::Unknown(UnknownOutcome::Overtaken) => out.u8(9),
            Self::ReadIndex { index } => {
                out.u8(10);
                out.u64(*index);
            }
            Self::Heard(answer) => {
                out.u8(11);
                answer.write(out);
            }
        }
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let kind = input.u8()?;
        Ok(match kind {
            1 => Self::Committed { index: input.u64()? },
            2 => {
                let id = RaftId::new(input.u64()?);
                Self::NotApplied(NotApplied::OtherController { id, node: read_node(input)? })
            }
            3 => Self::NotApplied(NotApplied::NoController),
            4 => Self::NotApplied(NotApplied::Malformed(read_text(input)?)),
            5 => Self::Unknown(UnknownOutcome::Deadline(Duration::from_millis(u64::from(input.u32()?)))),
            6 => Self::Unknown(UnknownOutcome::ControllerChanged),
            7 => Self::Unknown(UnknownOutcome::Stopped(read_text(input)?)),
            8 => Self::Unknown(UnknownOutcome::Exchange(read_text(input)?)),
            9 => Self::Unknown(UnknownOutcome::Overtaken),
            10 => Self::ReadIndex { index: input.u64()? },
            11 => Self::Heard(HeartbeatAnswer::read(input)?),
            other => return Err(DecodeError::Invalid { what: "forwarded answer", found: other.to_string() }),
        })
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use streambus_protocol::epoch::BrokerEpoch;
    use streambus_protocol::ids::BrokerId;

    use super::*;
    use crate::controller::liveness::{BrokerDisk, Wants};
    use crate::heartbeat::ShutdownProgress;
    use crate::rpc::{decode, encode};
    use crate::types::RaftNode;

    /// Catches: a field that is lost or read in another order, two answers that look alike on the wire.
    #[test]
    fn messages_survive_the_wire() {
        let beat = Heartbeat {
            broker: BrokerId::new(2),
            epoch: BrokerEpoch::new(3),
            applied: 4,
            wants: Wants::ShutDown,
            unanswered: Duration::from_millis(70),
            disk_used_bytes: 5,
            disk_free_bytes: 6,
            problem: Some("slow".to_owned()),
            wants_disks: true,
        };
        let requests = [
            Forward::Propose {
                command: Command::RemoveNode { raft_id: RaftId::new(9) },
                patience: Duration::from_millis(1500),
            },
            Forward::ReadIndex(Confirmation::Quorum),
            Forward::ReadIndex(Confirmation::Lease),
            Forward::Heartbeat(beat),
        ];
        for request in requests {
            assert_eq!(decode::<Forward>(&encode(&request)).unwrap(), request);
        }
        let node = RaftNode { broker: BrokerId::new(1), host: "h".to_owned(), port: 2 };
        let heard = |shutdown| {
            Forwarded::Heard(HeartbeatAnswer {
                fenced: true,
                shutdown,
                unknown_registration: false,
                controller: BrokerId::new(7),
                applied: 8,
                quorum_silence: Duration::from_millis(90),
                disks: vec![BrokerDisk { broker: BrokerId::new(6), used_bytes: 5, free_bytes: 4 }],
            })
        };
        let answers = [
            Forwarded::Committed { index: 7 },
            Forwarded::NotApplied(NotApplied::OtherController { id: RaftId::new(3), node }),
            Forwarded::NotApplied(NotApplied::NoController),
            Forwarded::NotApplied(NotApplied::Malformed("m".to_owned())),
            Forwarded::Unknown(UnknownOutcome::Deadline(Duration::from_millis(20))),
            Forwarded::Unknown(UnknownOutcome::ControllerChanged),
            Forwarded::Unknown(UnknownOutcome::Stopped("s".to_owned())),
            Forwarded::Unknown(UnknownOutcome::Exchange("e".to_owned())),
            Forwarded::Unknown(UnknownOutcome::Overtaken),
            Forwarded::ReadIndex { index: 8 },
            heard(ShutdownProgress::NotWanted),
            heard(ShutdownProgress::Wait),
            heard(ShutdownProgress::MayStop),
        ];
        for answer in answers {
            assert_eq!(decode::<Forwarded>(&encode(&answer)).unwrap(), answer);
        }
    }

    proptest! {
        /// Catches: a panic or an unbounded allocation on a hostile message.
        #[test]
        fn hostile_messages_never_panic(bytes in proptest::collection::vec(0u8..14, 0..80)) {
            if let Ok(request) = decode::<Forward>(&bytes) {
                prop_assert!(!encode(&request).is_empty());
            }
            if let Ok(answer) = decode::<Forwarded>(&bytes) {
                prop_assert_eq!(encode(&answer).len(), bytes.len());
            }
        }
    }
}
