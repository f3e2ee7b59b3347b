//! Frames taken apart and put together again.

use bytes::BytesMut;
use streambus_protocol::api::cluster::{
    ClusterDescribeRequest, DrainBrokerRequest, ElectLeaderRequest, ReassignRequest, RemoveBrokerRequest,
};
use streambus_protocol::api::fetch::FetchRequest;
use streambus_protocol::api::metadata::MetadataRequest;
use streambus_protocol::api::offsets::ListOffsetsRequest;
use streambus_protocol::api::peer::{
    PeerHandshakeRequest, RaftCallRequest, RaftForwardRequest, RaftHelloRequest, RaftSnapshotRequest,
};
use streambus_protocol::api::produce::{InitProducerRequest, ProduceRequest};
use streambus_protocol::api::repair::ReplicaRepairRequest;
use streambus_protocol::api::replica::{ReplicaFetchRequest, ReplicaProgressRequest, ReplicaStateRequest};
use streambus_protocol::api::session::{HandshakeRequest, HealthRequest};
use streambus_protocol::api::strays::{DiscardStrayRequest, ListStraysRequest};
use streambus_protocol::api::subscribe::{CreditRequest, PushedBatches, SubscribeRequest, UnsubscribeRequest};
use streambus_protocol::api::topics::{
    AddPartitionsRequest, AlterTopicRequest, CreateTopicRequest, DeleteTopicRequest, DescribeTopicRequest,
    ListTopicsRequest, TrimLogRequest,
};
use streambus_protocol::api::{
    ApiKey, Message, decode_body, decode_error, encode_error, encode_push, encode_request, encode_response,
};
use streambus_protocol::frame::{Flags, Frame, FrameDecoder};

/// Reads a frame as the message its header says. Fails as the crate does; `None` for an API that does not exist. What was
/// read is encoded again, so that a property can compare.
pub(crate) fn read_any(frame: Frame) -> Option<Result<Vec<u8>, streambus_protocol::codec::DecodeError>> {
    use streambus_protocol::api::Request;

    fn request<M: Request>(frame: Frame) -> Result<Vec<u8>, streambus_protocol::codec::DecodeError> {
        let (correlation, timeout_ms) = (frame.header.correlation, frame.header.timeout_ms);
        decode_body::<M>(frame).map(|message| joined(encode_request(&message, correlation, timeout_ms)))
    }
    fn response<M: Message>(frame: Frame) -> Result<Vec<u8>, streambus_protocol::codec::DecodeError> {
        let correlation = frame.header.correlation;
        decode_body::<M>(frame).map(|message| joined(encode_response(&message, correlation)))
    }
    fn either<M: Request>(frame: Frame) -> Result<Vec<u8>, streambus_protocol::codec::DecodeError> {
        if frame.header.flags == Flags::REQUEST { request::<M>(frame) } else { response::<M::Response>(frame) }
    }

    let api = ApiKey::from_wire(frame.header.api)?;
    let correlation = frame.header.correlation;
    if frame.header.flags.contains(Flags::ERROR) {
        return Some(decode_error(&frame).map(|error| joined(encode_error(api.to_wire(), correlation, &error))));
    }
    if frame.header.flags == Flags::PUSH {
        return Some(decode_body::<PushedBatches>(frame).map(|message| joined(encode_push(&message, correlation))));
    }
    Some(match api {
        ApiKey::Handshake => either::<HandshakeRequest>(frame),
        ApiKey::Metadata => either::<MetadataRequest>(frame),
        ApiKey::CreateTopic => either::<CreateTopicRequest>(frame),
        ApiKey::DeleteTopic => either::<DeleteTopicRequest>(frame),
        ApiKey::ListTopics => either::<ListTopicsRequest>(frame),
        ApiKey::DescribeTopic => either::<DescribeTopicRequest>(frame),
        ApiKey::AddPartitions => either::<AddPartitionsRequest>(frame),
        ApiKey::AlterTopic => either::<AlterTopicRequest>(frame),
        ApiKey::Produce => either::<ProduceRequest>(frame),
        ApiKey::Fetch => either::<FetchRequest>(frame),
        ApiKey::Subscribe => either::<SubscribeRequest>(frame),
        ApiKey::Credit => either::<CreditRequest>(frame),
        ApiKey::Unsubscribe => either::<UnsubscribeRequest>(frame),
        ApiKey::ListOffsets => either::<ListOffsetsRequest>(frame),
        ApiKey::ClusterDescribe => either::<ClusterDescribeRequest>(frame),
        ApiKey::Health => either::<HealthRequest>(frame),
        ApiKey::InitProducer => either::<InitProducerRequest>(frame),
        ApiKey::TrimLog => either::<TrimLogRequest>(frame),
        ApiKey::ElectLeader => either::<ElectLeaderRequest>(frame),
        ApiKey::Reassign => either::<ReassignRequest>(frame),
        ApiKey::DrainBroker => either::<DrainBrokerRequest>(frame),
        ApiKey::RemoveBroker => either::<RemoveBrokerRequest>(frame),
        ApiKey::ListStrays => either::<ListStraysRequest>(frame),
        ApiKey::DiscardStray => either::<DiscardStrayRequest>(frame),
        ApiKey::PeerHandshake => either::<PeerHandshakeRequest>(frame),
        ApiKey::RaftHello => either::<RaftHelloRequest>(frame),
        ApiKey::RaftCall => either::<RaftCallRequest>(frame),
        ApiKey::RaftSnapshot => either::<RaftSnapshotRequest>(frame),
        ApiKey::RaftForward => either::<RaftForwardRequest>(frame),
        ApiKey::ReplicaFetch => either::<ReplicaFetchRequest>(frame),
        ApiKey::ReplicaProgress => either::<ReplicaProgressRequest>(frame),
        ApiKey::ReplicaState => either::<ReplicaStateRequest>(frame),
        ApiKey::ReplicaRepair => either::<ReplicaRepairRequest>(frame),
    })
}

/// The frame's chunks in one piece.
pub(crate) fn joined(frame: streambus_protocol::frame::EncodedFrame) -> Vec<u8> {
    frame.into_chunks().flatten().collect()
}

/// The one frame in `bytes`.
pub(crate) fn frame(bytes: &[u8]) -> Frame {
    let mut buffer = BytesMut::from(bytes);
    let frame = FrameDecoder::new(usize::MAX).decode(&mut buffer).expect("a valid frame").expect("a whole frame");
    assert!(buffer.is_empty(), "one frame and nothing more");
    frame
}
