//! Every API and who handles it.

use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::api::{ApiKey, Listener};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::frame::Frame;

use crate::native::call::Call;
use crate::native::session::{Handled, Session};
use crate::native::{cluster, fetch, offsets, produce, subscribe, topics};

/// True for the APIs that clients are told of.
pub(super) fn serves(api: ApiKey) -> bool {
    let moves_work = matches!(api, ApiKey::ElectLeader | ApiKey::Reassign | ApiKey::DrainBroker | ApiKey::RemoveBroker);
    api.listener() == Listener::Client && !moves_work
}

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
        ApiKey::ElectLeader | ApiKey::Reassign | ApiKey::DrainBroker | ApiKey::RemoveBroker => {
            let name = api.as_str();
            let error =
                ErrorBody::new(ErrorCode::UnsupportedApi, format!("{name}: there is no other broker to move to"));
            Ok(call.refuse(&error).into())
        }
        ApiKey::PeerHandshake
        | ApiKey::RaftHello
        | ApiKey::RaftCall
        | ApiKey::RaftSnapshot
        | ApiKey::RaftForward
        | ApiKey::ReplicaFetch
        | ApiKey::ReplicaProgress
        | ApiKey::ReplicaState => cluster::not_for_clients(call, api),
    };
    // A request that cannot be read is answered like any other.
    handled.unwrap_or_else(Handled::Now)
}
