//! A context: a deadline, a cancel signal and a trace parent that travel with a call, as in Go.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use futures::future::select_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A deadline, a cancel signal and a trace parent. Cheap to clone; a clone shares the cancel signal.
#[derive(Clone, Default)]
pub struct Ctx {
    deadline: Option<Instant>,
    /// Every signal that ends the call: a call under two contexts obeys both.
    cancels: Vec<CancellationToken>,
    trace_parent: Option<String>,
}

impl Ctx {
    /// Neither deadline nor cancel signal nor trace.
    pub fn background() -> Self {
        Self::default()
    }

    /// A context whose calls must be done `timeout` from now. Needs a running tokio runtime's clock.
    pub fn with_timeout(timeout: Duration) -> Self {
        Self::background().timeout(timeout)
    }

    /// A context whose calls must be done at `deadline`.
    pub fn with_deadline(deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..Self::default() }
    }

    /// The same context with the earlier of its own deadline and `timeout` from now.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.deadline = earlier(self.deadline, Instant::now().checked_add(timeout));
        self
    }

    /// The same context with a cancel signal of its own, and the handle that gives it. Cancelling the parent cancels
    /// this one too; the other way round it does not.
    pub fn cancellable(mut self) -> (Self, Cancel) {
        let token = CancellationToken::new();
        self.cancels.push(token.clone());
        (self, Cancel(token))
    }

    /// The same context with a W3C `traceparent` value; records sent under it carry it as a header.
    pub fn trace_parent(mut self, value: impl Into<String>) -> Self {
        self.trace_parent = Some(value.into());
        self
    }

    /// When calls under this context must be done, if ever.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// True once the cancel signal was given.
    pub fn is_cancelled(&self) -> bool {
        self.cancels.iter().any(CancellationToken::is_cancelled)
    }

    /// Resolves when the cancel signal is given; never, when there is none.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + use<> {
        let tokens = self.cancels.clone();
        async move {
            if tokens.is_empty() {
                return std::future::pending().await;
            }
            select_all(tokens.into_iter().map(|token| Box::pin(token.cancelled_owned()))).await;
        }
    }

    /// The trace parent, if there is one.
    pub(crate) fn trace(&self) -> Option<&str> {
        self.trace_parent.as_deref()
    }

    pub(crate) fn has_cancel(&self) -> bool {
        !self.cancels.is_empty()
    }

    /// Both contexts at once: the earlier deadline, every cancel signal, and `other`'s trace where it has one.
    pub(crate) fn narrowed_by(&self, other: &Self) -> Self {
        Self {
            deadline: earlier(self.deadline, other.deadline),
            cancels: self.cancels.iter().chain(&other.cancels).cloned().collect(),
            trace_parent: other.trace_parent.clone().or_else(|| self.trace_parent.clone()),
        }
    }
}

impl fmt::Debug for Ctx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ctx")
            .field("deadline", &self.deadline)
            .field("cancelled", &self.is_cancelled())
            .field("trace_parent", &self.trace_parent)
            .finish()
    }
}

/// Gives a context's cancel signal. Dropping it does not cancel.
#[derive(Clone, Debug)]
pub struct Cancel(CancellationToken);

impl Cancel {
    /// Cancels every call under the context. What a cancelled call leaves behind, the call's page says.
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_earlier_deadline_wins_whoever_set_it() {
        let now = Instant::now();
        let long = Ctx::with_timeout(Duration::from_secs(9));
        let short = Ctx::with_timeout(Duration::from_secs(1));
        assert_eq!(long.narrowed_by(&short).deadline(), Some(now + Duration::from_secs(1)));
        assert_eq!(short.narrowed_by(&long).deadline(), Some(now + Duration::from_secs(1)));
        assert_eq!(Ctx::background().narrowed_by(&long).deadline(), long.deadline());
    }

    #[tokio::test(start_paused = true)]
    async fn cancelling_the_parent_cancels_the_child_and_not_the_other_way_round() {
        let (parent, cancel_parent) = Ctx::background().cancellable();
        let (child, cancel_child) = parent.clone().cancellable();
        cancel_child.cancel();
        assert!(child.is_cancelled() && !parent.is_cancelled());
        let (other, _) = parent.clone().cancellable();
        cancel_parent.cancel();
        assert!(other.is_cancelled());
        other.cancelled().await;
    }
}
