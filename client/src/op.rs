//! A call that has not begun: a future that may still be given a shorter time or a context before it is awaited.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use streambus_protocol::error_code::Applied;
use tokio::time::{Instant, Sleep};

use crate::context::Ctx;
use crate::error::Error;
use crate::producer::completion::BatchCompletion;

/// A call: a future of `Result<T, Error>`.
///
/// Nothing happens before it is polled. Dropped before that, it leaves nothing behind; dropped later, a read leaves
/// nothing and a change may still be applied (the page of the method that returned it says which).
#[must_use = "a call does nothing until it is awaited"]
pub struct Op<'a, T> {
    state: State<'a, T>,
}

enum State<'a, T> {
    Idle(Idle<'a, T>),
    Running(Running<'a, T>),
    Done,
}

type Start<'a, T> = Box<dyn FnOnce(Scope) -> BoxFuture<'a, Result<T, Error>> + Send + 'a>;

struct Idle<'a, T> {
    name: &'static str,
    ctx: Ctx,
    default_timeout: Option<Duration>,
    start: Start<'a, T>,
}

struct Running<'a, T> {
    scope: Scope,
    call: BoxFuture<'a, Result<T, Error>>,
    expiry: Option<Pin<Box<Sleep>>>,
    cancelled: Option<BoxFuture<'static, ()>>,
}

impl<'a, T> Op<'a, T> {
    /// A call named `name` under `ctx`, ended after `default_timeout` unless the context says sooner.
    pub(crate) fn new<F, Fut>(name: &'static str, ctx: &Ctx, default_timeout: Option<Duration>, start: F) -> Self
    where
        F: FnOnce(Scope) -> Fut + Send + 'a,
        Fut: Future<Output = Result<T, Error>> + Send + 'a,
    {
        let start: Start<'a, T> = Box::new(move |scope| Box::pin(start(scope)));
        Self { state: State::Idle(Idle { name, ctx: ctx.clone(), default_timeout, start }) }
    }

    /// Gives the call at most `timeout` from its first poll, instead of the default of the configuration.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        if let State::Idle(idle) = &mut self.state {
            idle.default_timeout = Some(timeout);
        }
        self
    }

    /// Puts the call under `ctx` too: the earlier deadline counts, and the cancel signal.
    pub fn ctx(mut self, ctx: &Ctx) -> Self {
        if let State::Idle(idle) = &mut self.state {
            idle.ctx = idle.ctx.narrowed_by(ctx);
        }
        self
    }
}

impl<T> Future for Op<'_, T> {
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Every field is Unpin: the call itself is behind a box.
        let this = self.get_mut();
        if let State::Idle(_) = &this.state {
            let State::Idle(idle) = std::mem::replace(&mut this.state, State::Done) else { return Poll::Pending };
            this.state = State::Running(idle.run());
        }
        let State::Running(running) = &mut this.state else {
            return Poll::Ready(Err(Error::Invalid { what: "a call was polled after it had finished".to_owned() }));
        };
        let outcome = match running.poll(cx) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => return Poll::Pending,
        };
        this.state = State::Done;
        Poll::Ready(outcome)
    }
}

impl<'a, T> Idle<'a, T> {
    fn run(self) -> Running<'a, T> {
        let now = Instant::now();
        let own = self.default_timeout.and_then(|timeout| now.checked_add(timeout));
        let deadline = match (own, self.ctx.deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let cancelled: Option<BoxFuture<'static, ()>> =
            if self.ctx.has_cancel() { Some(Box::pin(self.ctx.cancelled())) } else { None };
        let scope = Scope { name: self.name, began: now, deadline, ctx: self.ctx, trail: Trail::default() };
        let expiry = deadline.map(|at| Box::pin(tokio::time::sleep_until(at)));
        Running { call: (self.start)(scope.clone()), scope, expiry, cancelled }
    }
}

impl<T> Running<'_, T> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, Error>> {
        if let Poll::Ready(outcome) = self.call.as_mut().poll(cx) {
            return Poll::Ready(outcome);
        }
        if let Some(cancelled) = &mut self.cancelled
            && cancelled.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(self.scope.cancelled()));
        }
        if let Some(expiry) = &mut self.expiry
            && expiry.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(self.scope.timed_out()));
        }
        Poll::Pending
    }
}

impl<T> fmt::Debug for Op<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            State::Idle(idle) => write!(f, "Op({}, not begun)", idle.name),
            State::Running(running) => write!(f, "Op({}, running)", running.scope.name),
            State::Done => f.write_str("Op(done)"),
        }
    }
}

/// What a running call knows about itself: its name, its time, and what it has been through.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    name: &'static str,
    began: Instant,
    deadline: Option<Instant>,
    ctx: Ctx,
    trail: Trail,
}

impl Scope {
    /// A scope outside any call: background work with a deadline of its own.
    pub(crate) fn background(name: &'static str, timeout: Duration) -> Self {
        let began = Instant::now();
        Self { name, began, deadline: began.checked_add(timeout), ctx: Ctx::background(), trail: Trail::default() }
    }

    /// The same call with at most `timeout` from now.
    pub(crate) fn within(&self, timeout: Duration) -> Self {
        let limit = Instant::now().checked_add(timeout);
        let deadline = match (self.deadline, limit) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Self { deadline, ..self.clone() }
    }

    /// When the call must be done.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The trace parent of the call's context.
    pub(crate) fn trace(&self) -> Option<&str> {
        self.ctx.trace()
    }

    /// Notes that an attempt began.
    pub(crate) fn attempt(&self) {
        let mut trail = self.trail.0.lock();
        trail.attempts = trail.attempts.saturating_add(1);
    }

    /// Notes that the attempt's request is about to leave: if it `mutates`, the outcome is unknown from here on.
    pub(crate) fn sent(&self, mutates: bool) {
        self.trail.0.lock().unfinished = mutates;
    }

    /// Notes how the attempt that was under way ended.
    pub(crate) fn attempt_failed(&self, error: &Error) {
        let mut trail = self.trail.0.lock();
        trail.unfinished = false;
        trail.doubt |= error.is_outcome_unknown();
        trail.last = Some(error.clone());
    }

    /// From here on the call's attempts are those of `batch`, and its outcome is unknown until the batch's is known.
    pub(crate) fn follow(&self, batch: &Arc<BatchCompletion>) {
        let mut trail = self.trail.0.lock();
        trail.unfinished = true;
        trail.batch = Some(Arc::clone(batch));
    }

    /// The error for a call whose time is over.
    pub(crate) fn timed_out(&self) -> Error {
        let trail = self.trail.0.lock();
        let (attempts, last) = match &trail.batch {
            Some(batch) => batch.history(),
            None => (trail.attempts, trail.last.clone()),
        };
        Error::Timeout {
            op: self.name,
            after: self.began.elapsed(),
            attempts,
            last: last.map(Box::new),
            outcome: trail.outcome(),
        }
    }

    /// The error for a call that was ended from outside.
    pub(crate) fn cancelled(&self) -> Error {
        Error::Cancelled { op: self.name, outcome: self.trail.0.lock().outcome() }
    }
}

#[derive(Clone, Debug, Default)]
struct Trail(Arc<Mutex<TrailState>>);

#[derive(Debug, Default)]
struct TrailState {
    attempts: u32,
    last: Option<Error>,
    batch: Option<Arc<BatchCompletion>>,
    /// A change is under way whose answer has not come.
    unfinished: bool,
    /// An earlier attempt ended without saying whether it was applied.
    doubt: bool,
}

impl TrailState {
    fn outcome(&self) -> Applied {
        if self.unfinished || self.doubt { Applied::Unknown } else { Applied::No }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn never(mutates: bool) -> Op<'static, ()> {
        Op::new("wait", &Ctx::background(), Some(Duration::from_secs(10)), move |scope| async move {
            scope.attempt();
            scope.sent(mutates);
            std::future::pending().await
        })
    }

    #[tokio::test(start_paused = true)]
    async fn the_shortest_of_default_call_and_context_counts() {
        let began = Instant::now();
        let error = never(false).timeout(Duration::from_secs(3)).await.expect_err("never ends");
        assert!(error.is_timeout());
        assert_eq!(began.elapsed(), Duration::from_secs(3));
        never(false)
            .timeout(Duration::from_secs(3))
            .ctx(&Ctx::with_timeout(Duration::from_secs(1)))
            .await
            .expect_err("x");
        assert_eq!(began.elapsed(), Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_under_way_is_of_unknown_outcome_and_a_read_is_not() {
        assert!(never(true).await.expect_err("timeout").is_outcome_unknown());
        assert!(!never(false).await.expect_err("timeout").is_outcome_unknown());
        let (ctx, cancel) = Ctx::background().cancellable();
        cancel.cancel();
        let error = never(true).ctx(&ctx).await.expect_err("cancelled");
        assert!(matches!(error, Error::Cancelled { op: "wait", outcome: Applied::Unknown }), "{error}");
    }
}
