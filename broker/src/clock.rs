//! Time as this crate sees it: the injected clock for what is recorded, and deadlines for what is waited for.
//!
//! Record times, retention and scrub take the clock that the server was started with (`streambus_storage::clock`).
//! Waiting runs on tokio's timer, which a test may pause; this file is the adapter that reads it.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// The instant after which a caller no longer waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline `wait` from now.
    pub fn after(wait: Duration) -> Self {
        Self(Instant::now() + wait)
    }

    /// Wraps an instant of tokio's timer.
    pub const fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// The instant of tokio's timer.
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// True once the instant has passed.
    pub fn has_passed(self) -> bool {
        Instant::now() >= self.0
    }

    /// The time left, zero once it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// The earlier of the two.
    pub fn earlier(self, other: Self) -> Self {
        self.min(other)
    }

    /// Waits for `future` until the deadline; `None` when it passed first. Dropping the returned future drops
    /// `future`, so the caller's work must be safe to abandon.
    pub async fn limit<F: Future>(self, future: F) -> Option<F::Output> {
        tokio::time::timeout_at(self.0, future).await.ok()
    }
}
