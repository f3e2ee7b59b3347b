//! The closed list of APIs, and how a message becomes a frame and back.
//!
//! Each API has a request and, unless it is one-way, a response; `Subscribe` also has a push. All have version 1 today.
//! Numbers from 64 on are served between brokers, on the cluster listener, and nowhere else.

pub mod cluster;
pub mod fetch;
pub mod metadata;
pub mod offsets;
pub mod peer;
pub mod produce;
pub mod repair;
pub mod replica;
pub mod session;
pub mod strays;
pub mod subscribe;
pub mod topics;

use bytes::BytesMut;

use crate::codec::{DecodeError, Field, Reader, Writer};
use crate::error_code::ErrorCode;
use crate::frame::{EncodedFrame, Flags, Frame, FrameHeader, seal};
use crate::ids::CorrelationId;
use crate::limits::{FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES};
use crate::payload::Payload;
use session::ErrorBody;

macro_rules! api_keys {
    ($($(#[$meta:meta])* $name:ident = $key:literal, $text:literal, $versions:expr;)*) => {
        /// An API's number on the wire. Numbers are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum ApiKey {
            $($(#[$meta])* $name = $key,)*
        }

        impl ApiKey {
            /// Every API, in numeric order.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Reads the wire's number; `None` for one this version does not know.
            pub const fn from_wire(key: u8) -> Option<Self> {
                match key {
                    $($key => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The API's stable name, for logs and metric labels.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The versions this crate reads and writes.
            #[inline]
            pub const fn versions(self) -> VersionRange {
                match self {
                    $(Self::$name => $versions,)*
                }
            }
        }
    };
}

/// Versions of one API, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    /// The smallest version.
    pub min: u8,
    /// The largest version, the one requests are written in.
    pub max: u8,
}

impl VersionRange {
    /// True when `version` is one of them.
    #[inline]
    pub const fn contains(self, version: u8) -> bool {
        self.min <= version && version <= self.max
    }
}

const V1: VersionRange = VersionRange { min: 1, max: 1 };

api_keys! {
    /// The first request of every connection.
    Handshake = 0, "handshake", V1;
    /// Where brokers, topics and leaders are.
    Metadata = 1, "metadata", V1;
    /// Creates a topic.
    CreateTopic = 2, "create_topic", V1;
    /// Deletes a topic.
    DeleteTopic = 3, "delete_topic", V1;
    /// Lists topics.
    ListTopics = 4, "list_topics", V1;
    /// Describes one topic down to its partitions' logs.
    DescribeTopic = 5, "describe_topic", V1;
    /// Adds partitions to a topic.
    AddPartitions = 6, "add_partitions", V1;
    /// Changes a topic's configuration.
    AlterTopic = 7, "alter_topic", V1;
    /// Appends record batches.
    Produce = 8, "produce", V1;
    /// Reads record batches.
    Fetch = 9, "fetch", V1;
    /// Starts a stream of record batches.
    Subscribe = 10, "subscribe", V1;
    /// Lets a stream go on; one-way.
    Credit = 11, "credit", V1;
    /// Ends a stream.
    Unsubscribe = 12, "unsubscribe", V1;
    /// Finds offsets by position or time.
    ListOffsets = 13, "list_offsets", V1;
    /// Describes the cluster's state.
    ClusterDescribe = 14, "cluster_describe", V1;
    /// Asks how the broker is.
    Health = 15, "health", V1;
    /// Gets an identity for idempotent producing.
    InitProducer = 16, "init_producer", V1;
    /// Deletes the oldest records of a partition.
    TrimLog = 17, "trim_log", V1;
    /// Gives a partition another leader.
    ElectLeader = 18, "elect_leader", V1;
    /// Moves a partition to other brokers, or stops moving it.
    Reassign = 19, "reassign", V1;
    /// Moves everything off a broker, or lets it take part again.
    DrainBroker = 20, "drain_broker", V1;
    /// Forgets a broker that is gone for good.
    RemoveBroker = 21, "remove_broker", V1;
    /// Lists the logs that a broker has in quarantine.
    ListStrays = 22, "list_strays", V1;
    /// Removes one log that a broker has in quarantine.
    DiscardStray = 23, "discard_stray", V1;
    /// The first request of every connection between brokers.
    PeerHandshake = 64, "peer_handshake", V1;
    /// A broker without a cluster asks what there is.
    RaftHello = 65, "raft_hello", V1;
    /// A request of the metadata group's consensus.
    RaftCall = 66, "raft_call", V1;
    /// A step of sending a metadata snapshot.
    RaftSnapshot = 67, "raft_snapshot", V1;
    /// Something for the metadata's leader, passed on.
    RaftForward = 68, "raft_forward", V1;
    /// A follower copies record batches from a leader.
    ReplicaFetch = 69, "replica_fetch", V1;
    /// A follower says what it has on stable storage; one-way.
    ReplicaProgress = 70, "replica_progress", V1;
    /// Asks a leader how its followers stand.
    ReplicaState = 71, "replica_state", V1;
    /// A replica whose disk has lost batches reads them from another one.
    ReplicaRepair = 72, "replica_repair", V1;
}

/// Where a broker takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// The port that clients connect to.
    Client,
    /// The port that other brokers connect to.
    Cluster,
}

/// The first number of the APIs between brokers.
const PEER_API_MIN: u8 = 64;

impl ApiKey {
    /// The wire's number.
    #[inline]
    pub const fn to_wire(self) -> u8 {
        self as u8
    }

    /// The one listener that serves it.
    #[inline]
    pub const fn listener(self) -> Listener {
        if self.to_wire() < PEER_API_MIN { Listener::Client } else { Listener::Cluster }
    }
}

/// Something a frame can hold.
pub trait Message: Sized {
    /// The API it belongs to.
    const API: ApiKey;

    /// About how many bytes the body takes. When it is exact, encoding allocates once; too small a number only costs
    /// time.
    fn body_bytes_hint(&self) -> usize {
        128
    }

    /// Writes the body.
    fn encode(&self, w: &mut Writer<'_>);

    /// The record bytes that follow the body, without a copy.
    fn payload(&self) -> Payload {
        Payload::None
    }

    /// Reads the body and takes its record bytes off the front of `payload`. What remains in either is the caller's to
    /// refuse.
    fn decode(r: &mut Reader<'_>, payload: &mut BytesMut) -> Result<Self, DecodeError>;
}

/// A message that a client sends. A one-way request has a response type too, without fields and never sent.
pub trait Request: Message {
    /// What the broker answers.
    type Response: Message;
}

/// Implements [`Message`] for structures that are only fields, and pairs requests with responses.
macro_rules! messages {
    ($($api:ident: $request:ident => $response:ident;)*) => {
        $($crate::api::field_message!($api, $request);
        $crate::api::field_message!($api, $response);

        impl $crate::api::Request for $request {
            type Response = $response;
        })*
    };
}
pub(crate) use messages;

macro_rules! field_message {
    ($api:ident, $message:ident) => {
        impl $crate::api::Message for $message {
            const API: $crate::api::ApiKey = $crate::api::ApiKey::$api;

            #[inline]
            fn encode(&self, w: &mut $crate::codec::Writer<'_>) {
                $crate::codec::Field::write(self, w);
            }

            #[inline]
            fn decode(
                r: &mut $crate::codec::Reader<'_>,
                _: &mut bytes::BytesMut,
            ) -> Result<Self, $crate::codec::DecodeError> {
                $crate::codec::Field::read(r)
            }
        }
    };
}
pub(crate) use field_message;

/// A request's frame. `timeout_ms` is the time left until the caller gives up, 0 for the broker's default.
#[inline]
pub fn encode_request<M: Request>(message: &M, correlation: CorrelationId, timeout_ms: u32) -> EncodedFrame {
    encode(message, header::<M>(Flags::REQUEST, correlation, timeout_ms))
}

/// Appends a request's header and body to `buffer` and returns the record bytes that must follow them. With a buffer
/// that is reused, encoding allocates nothing.
#[inline]
pub fn encode_request_into<M: Request>(
    message: &M,
    correlation: CorrelationId,
    timeout_ms: u32,
    buffer: &mut BytesMut,
) -> Payload {
    encode_into(message, header::<M>(Flags::REQUEST, correlation, timeout_ms), buffer)
}

/// A response's frame. A body over [`FRAME_BODY_BYTES_MAX`] would make the receiver close the connection, so an error
/// that says so is sent in its place.
pub fn encode_response<M: Message>(message: &M, correlation: CorrelationId) -> EncodedFrame {
    let frame = encode(message, header::<M>(Flags::RESPONSE, correlation, 0));
    let body = frame.head.len() - FRAME_HEADER_BYTES;
    if body <= FRAME_BODY_BYTES_MAX {
        return frame;
    }
    let message = format!("the answer has {body} bytes, the limit is {FRAME_BODY_BYTES_MAX}: ask for fewer topics");
    encode_error(M::API.to_wire(), correlation, &ErrorBody::new(ErrorCode::RequestTooLarge, message))
}

/// The frame of a message that the broker sends of its own accord, under the correlation of the request that asked for
/// the stream.
pub fn encode_push<M: Message>(message: &M, correlation: CorrelationId) -> EncodedFrame {
    encode(message, header::<M>(Flags::PUSH, correlation, 0))
}

/// An error response's frame. `api` is the request's own number, known or not.
pub fn encode_error(api: u8, correlation: CorrelationId, error: &ErrorBody) -> EncodedFrame {
    let version = ApiKey::from_wire(api).map_or(V1.max, |key| key.versions().max);
    let flags = Flags::RESPONSE.union(Flags::ERROR);
    let mut buffer = BytesMut::with_capacity(FRAME_HEADER_BYTES + 12 + error.message.len());
    buffer.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    error.write(&mut Writer::new(&mut buffer));
    seal(&mut buffer, 0, FrameHeader { api, version, flags, correlation, timeout_ms: 0 }, 0);
    EncodedFrame { head: buffer.freeze(), payload: Payload::None }
}

/// Reads the message of a frame. Refuses another API's frame, an unknown version, and bytes that no field claims.
///
/// Whether it is a request, a response or a push is in the header's flags, for the caller to have looked at.
#[inline]
pub fn decode_body<M: Message>(mut frame: Frame) -> Result<M, DecodeError> {
    let FrameHeader { api, version, .. } = frame.header;
    if api != M::API.to_wire() {
        return Err(DecodeError::WrongApi { found: api, expected: M::API.to_wire() });
    }
    if !M::API.versions().contains(version) {
        return Err(DecodeError::UnsupportedVersion { api, version });
    }
    let mut reader = Reader::new(&frame.body);
    let message = M::decode(&mut reader, &mut frame.payload)?;
    reader.finish()?;
    match frame.payload.len() {
        0 => Ok(message),
        bytes => Err(DecodeError::TrailingPayload { bytes }),
    }
}

/// Reads a response's frame: the message, or the error it was answered with.
pub fn decode_response<M: Message>(frame: Frame) -> Result<Result<M, ErrorBody>, DecodeError> {
    if frame.header.flags.contains(Flags::ERROR) { decode_error(&frame).map(Err) } else { decode_body(frame).map(Ok) }
}

/// Reads the error of a frame flagged so.
pub fn decode_error(frame: &Frame) -> Result<ErrorBody, DecodeError> {
    let mut reader = Reader::new(&frame.body);
    let error = ErrorBody::read(&mut reader)?;
    reader.finish()?;
    match frame.payload.len() {
        0 => Ok(error),
        bytes => Err(DecodeError::TrailingPayload { bytes }),
    }
}

#[inline]
const fn header<M: Message>(flags: Flags, correlation: CorrelationId, timeout_ms: u32) -> FrameHeader {
    FrameHeader { api: M::API.to_wire(), version: M::API.versions().max, flags, correlation, timeout_ms }
}

#[inline]
fn encode<M: Message>(message: &M, header: FrameHeader) -> EncodedFrame {
    // A buffer that is full when it is frozen needs no second allocation for its reference count.
    let mut buffer = BytesMut::with_capacity(FRAME_HEADER_BYTES + message.body_bytes_hint());
    let payload = encode_into(message, header, &mut buffer);
    EncodedFrame { head: buffer.freeze(), payload }
}

#[inline]
fn encode_into<M: Message>(message: &M, header: FrameHeader, buffer: &mut BytesMut) -> Payload {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    message.encode(&mut Writer::new(buffer));
    let payload = message.payload();
    seal(buffer, start, header, payload.len());
    payload
}
