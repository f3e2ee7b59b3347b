//! ElectLeader, Reassign, DrainBroker, RemoveBroker: all answered when the metadata group has answered.

use std::sync::Arc;

use futures::FutureExt;
use streambus_protocol::frame::Frame;

use crate::native::call::Call;
use crate::native::session::{Handled, Session};
use crate::net::writer::Reply;

pub(super) fn elect(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (request, call) = call.decode(frame)?;
    let services = Arc::clone(session.door.services());
    let deadline = call.deadline();
    Ok(Handled::Later(async move { call.finish(services.assignment.elect(request, deadline).await) }.boxed()))
}

pub(super) fn reassign(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (request, call) = call.decode(frame)?;
    let services = Arc::clone(session.door.services());
    let deadline = call.deadline();
    Ok(Handled::Later(async move { call.finish(services.assignment.reassign(request, deadline).await) }.boxed()))
}

pub(super) fn drain(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (request, call) = call.decode(frame)?;
    let services = Arc::clone(session.door.services());
    let deadline = call.deadline();
    Ok(Handled::Later(async move { call.finish(services.assignment.drain(request, deadline).await) }.boxed()))
}

pub(super) fn remove(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (request, call) = call.decode(frame)?;
    let services = Arc::clone(session.door.services());
    let deadline = call.deadline();
    Ok(Handled::Later(async move { call.finish(services.assignment.remove(request, deadline).await) }.boxed()))
}
