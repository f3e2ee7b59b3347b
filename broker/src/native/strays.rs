//! ListStrays, answered at once from memory, and DiscardStray, answered when the log is gone.

use std::sync::Arc;

use futures::FutureExt;
use streambus_protocol::frame::Frame;

use crate::native::call::Call;
use crate::native::session::{Handled, Session};
use crate::net::writer::Reply;

pub(super) fn list(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (request, call) = call.decode(frame)?;
    Ok(call.finish(session.door.services().strays.list(request)).into())
}

pub(super) fn discard(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (request, call) = call.decode(frame)?;
    let services = Arc::clone(session.door.services());
    let deadline = call.deadline();
    Ok(Handled::Later(async move { call.finish(services.strays.discard(request, deadline).await) }.boxed()))
}
