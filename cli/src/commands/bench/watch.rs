//! The progress line of a benchmark: drawn from a rough tally while the workload runs, only when somebody watches, so
//! that nothing else runs beside what is measured.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use streambus_bench::tally::{Count, Stage, Tally};

use crate::progress::{Counts, Progress};
use crate::terminal;

/// How often the tally is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Runs `work` to its end, with a progress line for each of its stages when standard error is a terminal.
pub(super) async fn watched<T>(quiet: bool, tally: &Tally, work: impl Future<Output = T>) -> T {
    if quiet || !terminal::stderr_is_terminal() {
        return work.await;
    }
    let mut work = pin!(work);
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    let mut stage = Stage::Preparing;
    let mut progress = None;
    loop {
        tokio::select! {
            biased;
            outcome = &mut work => {
                clear(progress);
                return outcome;
            }
            _ = looks.tick() => {
                let count = tally.now();
                if count.stage != stage {
                    clear(progress.take());
                    stage = count.stage;
                    progress = title(stage).map(|title| {
                        Progress::titled(quiet, title, (count.total > 0).then_some(count.total))
                    });
                }
                if let Some(progress) = &mut progress {
                    progress.draw(&shown(&count));
                }
            }
        }
    }
}

fn clear(progress: Option<Progress>) {
    if let Some(mut progress) = progress {
        progress.clear();
    }
}

/// What a stage is called; preparing takes no time worth a line.
const fn title(stage: Stage) -> Option<&'static str> {
    match stage {
        Stage::Preparing => None,
        Stage::Sending => Some("sending"),
        Stage::Reading => Some("reading"),
        Stage::Checking => Some("reading back"),
    }
}

/// The bar's length is the records', because the bytes that are left are not known of every workload.
fn shown(count: &Count) -> Counts {
    Counts {
        records: count.records,
        payload_bytes: count.records.saturating_mul(count.record_bytes),
        input_bytes: count.records,
        errors: count.errors,
        p99: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: a bar that counts bytes against a total of records, and so is full after its first hundredth.
    #[test]
    fn the_bar_counts_records_and_the_line_bytes() {
        let count = Count { stage: Stage::Sending, total: 1_000, records: 250, record_bytes: 100, errors: 1 };
        let counts = shown(&count);
        assert_eq!((counts.input_bytes, counts.records, counts.payload_bytes, counts.errors), (250, 250, 25_000, 1));
    }
}
