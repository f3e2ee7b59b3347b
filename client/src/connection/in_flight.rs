//! The requests of one connection that wait for an answer. Pure: time is an argument, no I/O.
//!
//! A request whose caller has gone, or whose time is over, keeps its place until the answer comes, so that a late answer
//! is told from one that nobody asked for. A broker that owes an answer for too long is given up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use streambus_protocol::api::ApiKey;
use streambus_protocol::frame::Frame;
use streambus_protocol::ids::CorrelationId;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;

use crate::connection::call_error::CallError;

/// What a request ends with.
pub(crate) type Outcome = Result<Frame, CallError>;

/// Where the answer goes.
pub(crate) enum Reply {
    /// To a caller that waits.
    Caller(oneshot::Sender<Outcome>),
    /// To code that runs on the connection's reader: it must be short and must not block.
    Callback(Callback),
    /// To the opener of a subscription; pushes under the same correlation follow.
    Subscription(oneshot::Sender<Outcome>, PushSender),
}

/// Code to run with the outcome. It runs exactly once: dropped without an outcome, with one that says so, because what
/// waits for it (a producer's batch) would wait for ever.
pub(crate) struct Callback(Option<Box<dyn FnOnce(Outcome) + Send>>);

impl Callback {
    pub(crate) fn new(run: impl FnOnce(Outcome) + Send + 'static) -> Self {
        Self(Some(Box::new(run)))
    }

    fn run(mut self, outcome: Outcome) {
        if let Some(run) = self.0.take() {
            run(outcome);
        }
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        if let Some(run) = self.0.take() {
            run(Err(CallError::io(std::io::ErrorKind::BrokenPipe, "the request was dropped", true)));
        }
    }
}

/// What [`InFlight::expire`] found.
pub(crate) struct Expired {
    /// The replies whose time is over, to be told so.
    pub(crate) late: Vec<Reply>,
    /// How long an answer has been owed, when that is too long: the connection is sick.
    pub(crate) owed: Option<Duration>,
}

/// Where the pushes of one subscription go, and how much may still come.
#[derive(Clone, Debug)]
pub(crate) struct PushSender {
    /// Names the subscription to its receiver.
    pub(crate) tag: u64,
    /// Unbounded, because the credit bounds it: what exceeds the credit breaks the protocol.
    pub(crate) to: mpsc::UnboundedSender<Push>,
    /// Bytes the broker may still send.
    pub(crate) credit: Arc<AtomicI64>,
    /// How far below zero one push may take the credit: one frame.
    pub(crate) overdraft: i64,
}

/// Something that came for a subscription.
#[derive(Debug)]
pub(crate) struct Push {
    /// The subscription's tag.
    pub(crate) tag: u64,
    /// A pushed frame, or why there will be no more.
    pub(crate) content: Outcome,
}

struct Entry {
    api: ApiKey,
    place: Place,
    /// Freed when the entry goes: what bounds the table.
    _permit: Option<OwnedSemaphorePermit>,
}

enum Place {
    /// Waits for its answer until `deadline`.
    Waiting { reply: Reply, deadline: Instant },
    /// Nobody waits any more; the answer is owed since `since`.
    Abandoned { since: Instant },
    /// A subscription that was opened.
    Open { pushes: PushSender },
}

/// The table.
pub(crate) struct InFlight {
    entries: HashMap<u32, Entry>,
    next: u32,
    /// How long an answer may be owed before the broker is given up.
    grace: Duration,
    /// Set once, when the connection ends: nothing enters any more.
    ended: Option<CallError>,
}

impl InFlight {
    pub(crate) fn new(grace: Duration) -> Self {
        Self { entries: HashMap::new(), next: 1, grace, ended: None }
    }

    /// Takes in a request; the correlation id is one that is not in use. Fails when the connection has ended.
    pub(crate) fn insert(
        &mut self,
        api: ApiKey,
        deadline: Instant,
        reply: Reply,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<CorrelationId, (CallError, Reply)> {
        if let Some(reason) = &self.ended {
            return Err((reason.clone(), reply));
        }
        while self.entries.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let correlation = self.next;
        self.next = self.next.wrapping_add(1);
        self.entries.insert(correlation, Entry { api, place: Place::Waiting { reply, deadline }, _permit: permit });
        Ok(CorrelationId::new(correlation))
    }

    /// The answer to `correlation` has come. `Ok(None)`: nobody waits for it. `Err`: nobody ever asked.
    pub(crate) fn answered(&mut self, correlation: CorrelationId, api: u8) -> Result<Option<Reply>, String> {
        let key = correlation.get();
        let Some(entry) = self.entries.remove(&key) else {
            return Err(format!("an answer to request {key}, which was never sent or already answered"));
        };
        if entry.api.to_wire() != api {
            return Err(format!("request {key} asked {:?} and was answered as API {api}", entry.api));
        }
        match entry.place {
            Place::Waiting { reply: Reply::Subscription(opened, pushes), .. } => {
                // Opened or refused, the caller reads which; it closes the place when refused.
                let open = Entry { api: entry.api, place: Place::Open { pushes: pushes.clone() }, _permit: None };
                self.entries.insert(key, open);
                Ok(Some(Reply::Subscription(opened, pushes)))
            }
            Place::Waiting { reply, .. } => Ok(Some(reply)),
            Place::Abandoned { .. } => Ok(None),
            Place::Open { .. } => Err(format!("subscription {key} was answered twice")),
        }
    }

    /// A push of `bytes` has come for `correlation`. `Ok(None)`: the subscription was closed on this side.
    pub(crate) fn pushed(&self, correlation: CorrelationId, bytes: usize) -> Result<Option<PushSender>, String> {
        let key = correlation.get();
        match self.entries.get(&key).map(|entry| &entry.place) {
            Some(Place::Open { pushes }) => {
                let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
                let left = pushes.credit.fetch_sub(bytes, Ordering::AcqRel).saturating_sub(bytes);
                if left < -pushes.overdraft {
                    return Err(format!("subscription {key} was sent {} bytes more than its credit", -left));
                }
                Ok(Some(pushes.clone()))
            }
            // A push may cross our unsubscribe on the wire: ids of closed subscriptions are not an offence.
            None | Some(Place::Abandoned { .. }) => Ok(None),
            Some(Place::Waiting { .. }) => Err(format!("a push for request {key}, which is no open subscription")),
        }
    }

    /// The caller of `correlation` has gone: the answer, when it comes, is dropped.
    pub(crate) fn abandon(&mut self, correlation: CorrelationId, now: Instant) {
        let key = correlation.get();
        if let Some(entry) = self.entries.get_mut(&key) {
            match entry.place {
                Place::Waiting { .. } => entry.place = Place::Abandoned { since: now },
                Place::Abandoned { .. } => {}
                Place::Open { .. } => {
                    self.entries.remove(&key);
                }
            }
        }
    }

    /// The request under `correlation` was never sent: its place is free at once.
    pub(crate) fn withdraw(&mut self, correlation: CorrelationId) {
        self.entries.remove(&correlation.get());
    }

    /// Takes out the replies whose time is over at `now`, and says whether the connection is sick.
    pub(crate) fn expire(&mut self, now: Instant) -> Expired {
        let mut expired = Expired { late: Vec::new(), owed: None };
        for entry in self.entries.values_mut() {
            match &entry.place {
                Place::Waiting { deadline, .. } if *deadline <= now => {
                    let abandoned = Place::Abandoned { since: now };
                    if let Place::Waiting { reply, .. } = std::mem::replace(&mut entry.place, abandoned) {
                        expired.late.push(reply);
                    }
                }
                Place::Abandoned { since } => {
                    let owed = now.saturating_duration_since(*since);
                    if owed > self.grace {
                        expired.owed = expired.owed.max(Some(owed));
                    }
                }
                Place::Waiting { .. } | Place::Open { .. } => {}
            }
        }
        expired
    }

    /// The connection has ended: everything that waits is returned, nothing enters any more.
    pub(crate) fn end(&mut self, reason: CallError) -> Vec<Reply> {
        self.ended.get_or_insert(reason);
        let mut replies = Vec::new();
        for (_, entry) in self.entries.drain() {
            match entry.place {
                Place::Waiting { reply, .. } => replies.push(reply),
                Place::Open { pushes } => replies.push(Reply::Callback(Callback::new(move |outcome| {
                    // A consumer that has gone needs no news.
                    let _ = pushes.to.send(Push { tag: pushes.tag, content: outcome });
                }))),
                Place::Abandoned { .. } => {}
            }
        }
        replies
    }

    /// Why the connection ended, once it has.
    pub(crate) fn ended(&self) -> Option<&CallError> {
        self.ended.as_ref()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }
}

impl Reply {
    /// Hands over the outcome. A caller that has gone is no error: its page says what it left behind.
    pub(crate) fn give(self, outcome: Outcome) {
        match self {
            Self::Caller(caller) | Self::Subscription(caller, _) => {
                let _ = caller.send(outcome);
            }
            Self::Callback(callback) => callback.run(outcome),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> InFlight {
        InFlight::new(Duration::from_secs(5))
    }

    fn wait_in(table: &mut InFlight, deadline: Instant) -> (CorrelationId, oneshot::Receiver<Outcome>) {
        let (sender, receiver) = oneshot::channel();
        let Ok(id) = table.insert(ApiKey::Metadata, deadline, Reply::Caller(sender), None) else {
            panic!("the table is open")
        };
        (id, receiver)
    }

    #[test]
    fn ids_in_use_are_skipped_when_the_counter_wraps() {
        let (mut table, now) = (table(), Instant::now());
        let (first, _keep) = wait_in(&mut table, now);
        table.next = u32::MAX;
        let (last, _keep2) = wait_in(&mut table, now);
        assert_eq!(last.get(), u32::MAX);
        let (zero, _keep3) = wait_in(&mut table, now);
        let (next, _keep4) = wait_in(&mut table, now);
        assert_eq!(zero.get(), 0);
        assert_ne!(next, first, "the first request still waits under its id");
    }

    #[test]
    fn a_late_answer_is_dropped_quietly_and_an_unasked_one_is_an_offence() {
        let (mut table, now) = (table(), Instant::now());
        let (id, _receiver) = wait_in(&mut table, now);
        assert_eq!(table.expire(now).late.len(), 1);
        assert!(matches!(table.answered(id, ApiKey::Metadata.to_wire()), Ok(None)));
        assert!(table.answered(id, ApiKey::Metadata.to_wire()).is_err(), "answered twice");
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn an_answer_of_another_api_is_an_offence() {
        let (mut table, now) = (table(), Instant::now());
        let (id, _receiver) = wait_in(&mut table, now);
        assert!(table.answered(id, ApiKey::Produce.to_wire()).is_err());
    }

    #[test]
    fn a_broker_that_owes_an_answer_too_long_is_sick() {
        let (mut table, now) = (table(), Instant::now());
        let (id, _receiver) = wait_in(&mut table, now + Duration::from_secs(1));
        table.abandon(id, now);
        assert!(table.expire(now + Duration::from_secs(5)).owed.is_none());
        assert!(table.expire(now + Duration::from_secs(6)).owed.is_some());
    }

    /// Catches a late request that is forgotten because another one shows that the connection is sick.
    #[test]
    fn every_late_request_is_told_also_on_a_sick_connection() {
        let (mut table, now) = (table(), Instant::now());
        for _ in 0..8 {
            let (id, _) = wait_in(&mut table, now);
            table.abandon(id, now);
        }
        let waiting: Vec<_> = (0..8).map(|_| wait_in(&mut table, now + Duration::from_secs(6)).1).collect();
        let expired = table.expire(now + Duration::from_secs(6));
        assert_eq!(expired.late.len(), waiting.len());
        assert!(expired.owed.is_some());
    }

    #[test]
    fn a_callback_that_is_dropped_runs_all_the_same() {
        let (sender, receiver) = oneshot::channel();
        drop(Reply::Callback(Callback::new(|outcome| {
            let _ = sender.send(outcome);
        })));
        assert!(matches!(receiver.blocking_recv(), Ok(Err(CallError::Io { sent: true, .. }))));
    }

    #[test]
    fn ending_returns_everything_that_waits_and_admits_nothing_more() {
        let (mut table, now) = (table(), Instant::now());
        let (_id, receiver) = wait_in(&mut table, now);
        for reply in table.end(CallError::Closed) {
            reply.give(Err(CallError::Closed));
        }
        assert!(matches!(receiver.blocking_recv(), Ok(Err(CallError::Closed))));
        let (sender, _) = oneshot::channel();
        assert!(table.insert(ApiKey::Metadata, now, Reply::Caller(sender), None).is_err());
    }

    #[test]
    fn pushes_beyond_the_credit_and_one_frame_are_an_offence() {
        let (mut table, now) = (table(), Instant::now());
        let (opened, _) = oneshot::channel();
        let (to, _receiver) = mpsc::unbounded_channel();
        let pushes = PushSender { tag: 7, to, credit: Arc::new(AtomicI64::new(100)), overdraft: 50 };
        let Ok(id) = table.insert(ApiKey::Subscribe, now, Reply::Subscription(opened, pushes), None) else {
            panic!("the table is open")
        };
        assert!(table.pushed(id, 1).is_err(), "not opened yet");
        assert!(matches!(table.answered(id, ApiKey::Subscribe.to_wire()), Ok(Some(_))));
        assert!(matches!(table.pushed(id, 120), Ok(Some(_))), "the last push may overdraw");
        assert!(table.pushed(id, 31).is_err());
        table.abandon(id, now);
        assert!(matches!(table.pushed(id, 1), Ok(None)), "it crossed our unsubscribe");
    }
}
