//! Waiting for something that another process does and cannot announce: asked again and again, with a deadline that
//! fails the test and says what did not come.

use std::time::Duration;

use crate::clock::Stopwatch;

/// How long between two questions.
const PAUSE: Duration = Duration::from_millis(5);

/// Asks until `ask` has an answer, and returns it; `None` when `limit` passed without one.
pub fn wait_for<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let clock = Stopwatch::start();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if clock.elapsed() >= limit {
            return None;
        }
        std::thread::park_timeout(PAUSE);
    }
}

/// The same on a runtime.
pub async fn wait_for_async<T, F>(limit: Duration, mut ask: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Option<T>>,
{
    let clock = Stopwatch::start();
    let mut pause = tokio::time::interval(PAUSE * 10);
    loop {
        pause.tick().await;
        if let Some(answer) = ask().await {
            return Some(answer);
        }
        if clock.elapsed() >= limit {
            return None;
        }
    }
}
