//! Fetch.

use std::sync::Arc;

use streambus_protocol::api::fetch::FetchRequest;
use streambus_protocol::frame::Frame;

use crate::native::call::Call;
use crate::native::session::{Handled, Session};
use crate::net::writer::Reply;

pub(super) fn fetch(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (request, call) = call.decode::<FetchRequest>(frame)?;
    let services = Arc::clone(session.door.services());
    let closing = session.closing.clone();
    let deadline = call.deadline();
    Ok(Handled::Later(Box::pin(async move {
        let response = services.fetch.fetch_until(request, deadline, &closing).await;
        call.answer(&response)
    })))
}
