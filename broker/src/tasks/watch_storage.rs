//! Tells health what is wrong with the data directory.

use std::time::Duration;

use streambus_consensus::blocking;
use streambus_storage::store::Store;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::{Component, Lifecycle, Problem};

const INTERVAL: Duration = Duration::from_millis(500);

/// Looks at the store's status until `stop`.
pub(crate) async fn run(store: Store, lifecycle: Lifecycle, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reported: Option<Problem> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let asked = store.clone();
        let Ok(problem) = blocking::spawn(move || problem(&asked)).await else {
            tracing::error!("watching the data directory stopped: it panicked");
            return;
        };
        if problem == reported {
            continue;
        }
        match &problem {
            Some(problem) => {
                if problem.blocks_ready {
                    tracing::error!(problem = problem.message, "the data directory takes no more writes");
                } else {
                    tracing::warn!(problem = problem.message, "the data directory needs a look");
                }
                lifecycle.report(problem.clone());
            }
            None => {
                tracing::info!("the data directory is well again");
                lifecycle.clear(Component::Storage);
            }
        }
        reported = problem;
    }
}

fn problem(store: &Store) -> Option<Problem> {
    let status = store.status();
    let problem = |message, blocks_ready| Some(Problem { component: Component::Storage, message, blocks_ready });
    if let Some(reason) = status.read_only {
        return problem(
            format!("read-only since a write or sync failed ({reason}): reads go on; replace the disk and restart"),
            true,
        );
    }
    if !status.panicked.is_empty() {
        return problem(
            format!("{} panicked: restart the broker, and report the defect with its log", status.panicked.join(", ")),
            false,
        );
    }
    if status.full {
        return problem(
            format!("{} bytes are free: writes are refused until retention or somebody makes room", status.free_bytes),
            false,
        );
    }
    if !status.damaged.is_empty() {
        return problem(
            format!(
                "{} stored ranges fail their checksums and are not served; what another replica has is copied from it",
                status.damaged.len()
            ),
            false,
        );
    }
    None
}
