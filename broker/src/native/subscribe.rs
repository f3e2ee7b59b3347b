//! Subscribe, Credit, Unsubscribe.

use std::sync::Arc;

use futures::stream;
use futures::stream::StreamExt;
use streambus_protocol::api::encode_push;
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::api::subscribe::{CreditRequest, SubscribeRequest, UnsubscribeRequest, UnsubscribeResponse};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::frame::Frame;
use streambus_protocol::limits::SUBSCRIPTIONS_PER_CONNECTION_MAX;

use crate::native::call::Call;
use crate::native::session::{Handled, Session};
use crate::net::door::After;
use crate::net::writer::{Reply, Work};
use crate::service::subscribe::SubscriptionControl;

pub(super) fn subscribe(session: &mut Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (request, call) = call.decode::<SubscribeRequest>(frame)?;
    let id = request.subscription;
    // An entry that nobody else holds belongs to a stream that has ended.
    session.subscriptions.retain(|_, control| Arc::strong_count(control) > 1);
    if session.subscriptions.contains_key(&id) {
        let error = ErrorBody::new(
            ErrorCode::InvalidSubscription,
            format!("subscription {id} is open on this connection: choose another number, or end it first"),
        );
        return Err(call.refuse(&error));
    }
    if session.subscriptions.len() >= SUBSCRIPTIONS_PER_CONNECTION_MAX {
        let error = ErrorBody::new(
            ErrorCode::InvalidSubscription,
            format!(
                "a connection may have {SUBSCRIPTIONS_PER_CONNECTION_MAX} subscriptions: use fewer, with more partitions"
            ),
        );
        return Err(call.refuse(&error));
    }
    let control = SubscriptionControl::new(request.credit_bytes);
    let (response, subscription) =
        session.door.services().subscribe.open(request, Arc::clone(&control), session.closing.clone());
    session.subscriptions.insert(id, control);
    let correlation = call.correlation();
    let activity = session.activity.clone();
    let reply = call.answer(&response);
    // The answer first: pushes of a subscription follow it.
    if session.hand_over(Work::Reply(reply)) == After::Stop {
        return Ok(Handled::Close);
    }
    let pushes = stream::unfold((subscription, activity), move |(mut subscription, activity)| async move {
        let push = subscription.next().await?;
        Some((encode_push(&push, correlation), (subscription, activity)))
    });
    match session.hand_over(Work::Pushes(pushes.boxed())) {
        After::Stop => Ok(Handled::Close),
        After::Read | After::HandshakeCompleted => Ok(Handled::Unanswered),
    }
}

pub(super) fn credit(session: &Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (request, call) = call.decode::<CreditRequest>(frame)?;
    // An unknown subscription may just have ended.
    if let Some(control) = session.subscriptions.get(&request.subscription) {
        control.add_credit(request.add_bytes);
    }
    call.leave_unanswered(Ok(()));
    Ok(Handled::Unanswered)
}

pub(super) fn unsubscribe(session: &mut Session, call: Call, frame: Frame) -> Result<Handled, Reply> {
    let (request, call) = call.decode::<UnsubscribeRequest>(frame)?;
    match session.subscriptions.remove(&request.subscription) {
        Some(control) => {
            control.close();
            Ok(call.answer(&UnsubscribeResponse {}).into())
        }
        None => {
            let id = request.subscription;
            let error = ErrorBody::new(
                ErrorCode::InvalidSubscription,
                format!("subscription {id} is not open on this connection"),
            );
            Err(call.refuse(&error))
        }
    }
}
