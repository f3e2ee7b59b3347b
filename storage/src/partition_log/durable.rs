//! A change's own promise: resolves once its journal entry is on stable storage, or says that it never will.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::error::DurabilityLost;
use crate::journal::Lsn;

type Outcome = Result<(), DurabilityLost>;

/// Resolves when a change is on stable storage. Dropping it changes nothing about the change.
#[derive(Debug)]
pub struct Durable(Inner);

#[derive(Debug)]
enum Inner {
    Known(Outcome),
    Waiting(oneshot::Receiver<Outcome>),
}

impl Durable {
    /// One that has resolved: an `async` log's, or a change that was not needed.
    pub(crate) fn at_once() -> Self {
        Self(Inner::Known(Ok(())))
    }

    /// The outcome when it is known already.
    pub fn now(&mut self) -> Option<Result<(), DurabilityLost>> {
        if let Inner::Waiting(receiver) = &mut self.0 {
            let outcome = match receiver.try_recv() {
                Ok(outcome) => outcome,
                Err(oneshot::error::TryRecvError::Empty) => return None,
                Err(oneshot::error::TryRecvError::Closed) => Err(DurabilityLost::Closed),
            };
            self.0 = Inner::Known(outcome);
        }
        match &self.0 {
            Inner::Known(outcome) => Some(outcome.clone()),
            Inner::Waiting(_) => None,
        }
    }
}

impl Future for Durable {
    type Output = Result<(), DurabilityLost>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Inner::Known(outcome) => Poll::Ready(outcome.clone()),
            // The sender goes without an answer only when its store is gone.
            Inner::Waiting(receiver) => {
                Pin::new(receiver).poll(context).map(|answer| answer.unwrap_or(Err(DurabilityLost::Closed)))
            }
        }
    }
}

/// The promises of one log that are still open, in journal order.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    queue: VecDeque<(Lsn, oneshot::Sender<Outcome>)>,
}

impl Waiters {
    /// Opens a promise for the entry `lsn`, which must be above every open one.
    pub(crate) fn wait_for(&mut self, lsn: Lsn) -> Durable {
        debug_assert!(self.queue.back().is_none_or(|(last, _)| *last < lsn));
        let (sender, receiver) = oneshot::channel();
        self.queue.push_back((lsn, sender));
        Durable(Inner::Waiting(receiver))
    }

    /// Keeps every promise up to `lsn`.
    pub(crate) fn committed(&mut self, lsn: Lsn) {
        while let Some((first, _)) = self.queue.front()
            && *first <= lsn
        {
            if let Some((_, sender)) = self.queue.pop_front() {
                // Nobody listens when the caller gave up waiting: that is its right.
                let _ = sender.send(Ok(()));
            }
        }
        if self.queue.is_empty() {
            // An idle log keeps no buffer.
            self.queue = VecDeque::new();
        }
    }

    /// Breaks the promise of the entry `lsn`, if it is open.
    pub(crate) fn fail_one(&mut self, lsn: Lsn, reason: &DurabilityLost) {
        if let Ok(at) = self.queue.binary_search_by_key(&lsn, |(waiting, _)| *waiting)
            && let Some((_, sender)) = self.queue.remove(at)
        {
            let _ = sender.send(Err(reason.clone()));
        }
    }

    /// Breaks every open promise.
    pub(crate) fn fail(&mut self, reason: &DurabilityLost) {
        for (_, sender) in std::mem::take(&mut self.queue) {
            let _ = sender.send(Err(reason.clone()));
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.queue.capacity() * size_of::<(Lsn, oneshot::Sender<Outcome>)>()
    }
}
