//! Metadata, ClusterDescribe, Health: answered from memory, an overview after the controller was asked whether that has all,
//! and metadata at once, but for topics that are not known here.

use std::sync::Arc;

use streambus_protocol::api::ApiKey;
use streambus_protocol::api::cluster::ClusterDescribeRequest;
use streambus_protocol::api::metadata::MetadataRequest;
use streambus_protocol::api::session::{ErrorBody, HealthRequest};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::frame::Frame;

use crate::native::call::Call;
use crate::native::session::{Handled, Session};
use crate::net::writer::Reply;

pub(super) fn metadata(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (request, call) = call.decode::<MetadataRequest>(frame)?;
    let services = session.door.services();
    if services.cluster.knows_all(&request) {
        return Ok(call.finish(services.cluster.metadata_here(&request)).into());
    }
    let (services, deadline) = (Arc::clone(services), call.deadline());
    Ok(Handled::Later(Box::pin(async move { call.finish(services.cluster.metadata(&request, deadline).await) })))
}

pub(super) fn describe(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (ClusterDescribeRequest {}, call) = call.decode(frame)?;
    let (services, deadline) = (Arc::clone(session.door.services()), call.deadline());
    Ok(Handled::Later(Box::pin(async move { call.finish(services.cluster.describe(deadline).await) })))
}

pub(super) fn health(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (HealthRequest {}, call) = call.decode(frame)?;
    Ok(call.answer(&session.door.services().cluster.health()).into())
}

/// An API between brokers; the session refuses those before they come here.
pub(super) fn not_for_clients(call: Call, api: ApiKey) -> Result<Handled, Reply> {
    Ok(call.refuse(&ErrorBody::new(ErrorCode::ClusterListenerOnly, api.as_str())).into())
}

/// A second handshake; the session refuses it before it comes here.
pub(super) fn handshake_again(call: Call) -> Result<Handled, Reply> {
    Ok(call.refuse(&ErrorBody::new(ErrorCode::InvalidRequest, "the handshake is done already")).into())
}
