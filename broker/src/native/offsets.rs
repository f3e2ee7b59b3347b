//! ListOffsets.

use std::sync::Arc;

use streambus_protocol::api::offsets::ListOffsetsRequest;
use streambus_protocol::frame::Frame;

use crate::native::call::Call;
use crate::native::session::{Handled, Session};
use crate::net::writer::Reply;

pub(super) fn list(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (request, call) = call.decode::<ListOffsetsRequest>(frame)?;
    let services = Arc::clone(session.door.services());
    let deadline = call.deadline();
    Ok(Handled::Later(Box::pin(async move { call.answer(&services.offsets.list(request, deadline).await) })))
}
