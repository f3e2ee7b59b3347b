//! Asks several places until one answers: the next one when those before have failed, or have kept it waiting.

use std::future::Future;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};

/// Makes `attempt` at the `places` in order. A place that takes longer than `stagger` gets company; the first success
/// wins and the other attempts are dropped. When all fail, the error is that of the place that failed last; `None` when
/// there is no place.
pub(crate) async fn race<P, T, E, F, Fut>(places: Vec<P>, stagger: Duration, attempt: F) -> Option<Result<T, E>>
where
    F: Fn(P) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let mut places = places.into_iter();
    let mut running: FuturesUnordered<Fut> = places.next().map(&attempt).into_iter().collect();
    let mut last = None;
    loop {
        let outcome = if places.len() > 0 {
            tokio::select! {
                biased;
                outcome = running.next() => outcome,
                () = tokio::time::sleep(stagger) => {
                    running.extend(places.next().map(&attempt));
                    continue;
                }
            }
        } else {
            running.next().await
        };
        match outcome {
            Some(Ok(value)) => return Some(Ok(value)),
            Some(Err(error)) => {
                last = Some(Err(error));
                running.extend(places.next().map(&attempt));
            }
            None => return last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    const STAGGER: Duration = Duration::from_millis(200);

    /// Places that answer after some milliseconds, well or badly.
    async fn run(places: &[(u64, bool)]) -> (Option<Result<usize, usize>>, Duration) {
        let began = Instant::now();
        let numbered = places.iter().copied().enumerate().collect();
        let outcome = race(numbered, STAGGER, |(number, (millis, well)): (usize, (u64, bool))| async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            if well { Ok(number) } else { Err(number) }
        });
        (outcome.await, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_success_wins_and_silence_costs_one_stagger() {
        let ms = Duration::from_millis;
        assert_eq!(run(&[]).await.0, None);
        assert_eq!(run(&[(50, true), (0, true)]).await, (Some(Ok(0)), ms(50)), "company only for who is slow");
        assert_eq!(run(&[(0, false), (0, false), (10, true)]).await, (Some(Ok(2)), ms(10)), "a refusal costs no time");
        assert_eq!(run(&[(60_000, true), (60_000, true), (5, true)]).await, (Some(Ok(2)), ms(405)));
        assert_eq!(run(&[(300, true), (600, true)]).await, (Some(Ok(0)), ms(300)), "the slow one may still win");
        assert_eq!(run(&[(300, false), (20, false)]).await, (Some(Err(0)), ms(300)), "all are heard");
    }
}
