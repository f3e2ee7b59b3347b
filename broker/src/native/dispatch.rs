//! Every API and who handles it.

use streambus_protocol::api::ApiKey;
use streambus_protocol::frame::Frame;

use crate::native::call::Call;
use crate::native::session::{Handled, Session};
use crate::native::{assignment, cluster, fetch, offsets, produce, strays, subscribe, topics};

/// Hands a request to its handler. The session has said hello; the version is one that is served.
pub(super) fn dispatch(session: &mut Session, api: ApiKey, call: Call, frame: Frame) -> Handled {
    let handled = match api {
        ApiKey::Produce => produce::produce(session, call, frame),
        ApiKey::InitProducer => produce::init_producer(session, call, frame),
        ApiKey::Fetch => fetch::fetch(session, call, frame),
        ApiKey::Subscribe => subscribe::subscribe(session, call, frame),
        ApiKey::Credit => subscribe::credit(session, call, frame),
        ApiKey::Unsubscribe => subscribe::unsubscribe(session, call, frame),
        ApiKey::ListOffsets => offsets::list(session, call, frame),
        ApiKey::Metadata => cluster::metadata(session, call, frame),
        ApiKey::ClusterDescribe => cluster::describe(session, call, frame),
        ApiKey::Health => cluster::health(session, call, frame),
        ApiKey::CreateTopic => topics::create(session, call, frame),
        ApiKey::DeleteTopic => topics::delete(session, call, frame),
        ApiKey::ListTopics => topics::list(session, call, frame),
        ApiKey::DescribeTopic => topics::describe(session, call, frame),
        ApiKey::AddPartitions => topics::add_partitions(session, call, frame),
        ApiKey::AlterTopic => topics::alter(session, call, frame),
        ApiKey::TrimLog => topics::trim(session, call, frame),
        ApiKey::Handshake => cluster::handshake_again(call),
        ApiKey::ElectLeader => assignment::elect(session, call, frame),
        ApiKey::Reassign => assignment::reassign(session, call, frame),
        ApiKey::DrainBroker => assignment::drain(session, call, frame),
        ApiKey::RemoveBroker => assignment::remove(session, call, frame),
        ApiKey::ListStrays => strays::list(session, call, frame),
        ApiKey::DiscardStray => strays::discard(session, call, frame),
        ApiKey::PeerHandshake
        | ApiKey::RaftHello
        | ApiKey::RaftCall
        | ApiKey::RaftSnapshot
        | ApiKey::RaftForward
        | ApiKey::ReplicaFetch
        | ApiKey::ReplicaProgress
        | ApiKey::ReplicaState
        | ApiKey::ReplicaRepair => cluster::not_for_clients(call, api),
    };
    // A request that cannot be read is answered like any other.
    handled.unwrap_or_else(Handled::Now)
}
