//! The topic APIs: create, delete, list, describe, add partitions, alter, trim.

use std::sync::Arc;

use streambus_protocol::api::topics::{
    AddPartitionsRequest, AlterTopicRequest, CreateTopicRequest, DeleteTopicRequest, DescribeTopicRequest,
    ListTopicsRequest, TrimLogRequest,
};
use streambus_protocol::frame::Frame;

use crate::native::call::Call;
use crate::native::session::{Handled, Session};
use crate::net::writer::Reply;

pub(super) fn create(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (request, call) = call.decode::<CreateTopicRequest>(frame)?;
    let (services, deadline) = (Arc::clone(session.door.services()), call.deadline());
    Ok(Handled::Later(Box::pin(async move { call.finish(services.topics.create(request, deadline).await) })))
}

pub(super) fn delete(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (request, call) = call.decode::<DeleteTopicRequest>(frame)?;
    let (services, deadline) = (Arc::clone(session.door.services()), call.deadline());
    Ok(Handled::Later(Box::pin(async move { call.finish(services.topics.delete(request, deadline).await) })))
}

pub(super) fn list(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (ListTopicsRequest {}, call) = call.decode(frame)?;
    let (services, deadline) = (Arc::clone(session.door.services()), call.deadline());
    Ok(Handled::Later(Box::pin(async move { call.answer(&services.topics.list(deadline).await) })))
}

pub(super) fn describe(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (request, call) = call.decode::<DescribeTopicRequest>(frame)?;
    let (services, deadline) = (Arc::clone(session.door.services()), call.deadline());
    Ok(Handled::Later(Box::pin(async move { call.finish(services.topics.describe_fully(&request, deadline).await) })))
}

pub(super) fn add_partitions(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (request, call) = call.decode::<AddPartitionsRequest>(frame)?;
    let (services, deadline) = (Arc::clone(session.door.services()), call.deadline());
    Ok(Handled::Later(Box::pin(async move { call.finish(services.topics.add_partitions(request, deadline).await) })))
}

pub(super) fn alter(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (request, call) = call.decode::<AlterTopicRequest>(frame)?;
    let (services, deadline) = (Arc::clone(session.door.services()), call.deadline());
    Ok(Handled::Later(Box::pin(async move { call.finish(services.topics.alter(request, deadline).await) })))
}

pub(super) fn trim(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (request, call) = call.decode::<TrimLogRequest>(frame)?;
    let (services, deadline) = (Arc::clone(session.door.services()), call.deadline());
    Ok(Handled::Later(Box::pin(async move { call.finish(services.topics.trim(request, deadline).await) })))
}
