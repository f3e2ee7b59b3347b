//! Produce and InitProducer. A produce is placed while its frame is handled, so that the order of a connection's
//! frames is the order of their records; only the wait for the disk is left for later.

use std::sync::Arc;

use streambus_protocol::api::produce::{Acks, InitProducerRequest, ProduceRequest};
use streambus_protocol::frame::Frame;

use crate::native::call::Call;
use crate::native::session::{Handled, Session};
use crate::net::writer::Reply;

pub(super) fn produce(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (request, call) = call.decode::<ProduceRequest>(frame)?;
    let placed = session.door.services().produce.place(request);
    match placed.acks() {
        Acks::None => match placed.first_refusal() {
            None => {
                call.leave_unanswered(Ok(()));
                Ok(Handled::Unanswered)
            }
            Some(error) => {
                tracing::debug!(%error, "closing a connection: a produce that is not answered was refused");
                call.leave_unanswered(Err(error.code));
                Ok(Handled::Close)
            }
        },
        Acks::Leader | Acks::All => {
            let deadline = call.deadline();
            Ok(Handled::Later(Box::pin(async move { call.answer(&placed.complete(deadline).await) })))
        }
    }
}

pub(super) fn init_producer(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (request, call) = call.decode::<InitProducerRequest>(frame)?;
    let services = Arc::clone(session.door.services());
    let deadline = call.deadline();
    Ok(Handled::Later(Box::pin(async move { call.finish(services.producer_ids.init(request, deadline).await) })))
}
