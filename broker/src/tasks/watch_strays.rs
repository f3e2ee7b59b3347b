//! Tells health and the log which logs are in quarantine, why, and what to do about them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use streambus_protocol::ids::PartitionId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::{Component, Lifecycle, Problem};
use crate::metrics::snapshot::StraysSnapshot;
use crate::partition::quarantine::Stray;

/// Logs named in one report; more are counted.
const NAMED_MAX: usize = 3;

type Strays = BTreeMap<PartitionId, Stray>;

/// Reports what is in quarantine now and whenever that changes, until `stop`.
pub(crate) async fn run(mut strays: watch::Receiver<Strays>, lifecycle: Lifecycle, stop: CancellationToken) {
    let mut known = Strays::new();
    strays.mark_changed();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = strays.changed() => if changed.is_err() { return },
        }
        let now = strays.borrow_and_update().clone();
        for (id, stray) in now.iter().filter(|(id, stray)| known.get(id) != Some(stray)) {
            let (records, bytes) = (stray.log.records, stray.log.bytes);
            tracing::warn!(
                partition = %id, records, bytes, reason = %stray.doubt,
                "a log that this broker is not known to hold is kept as it is and not served"
            );
        }
        match problem(&now) {
            Some(problem) => lifecycle.report(problem),
            None if !known.is_empty() => {
                tracing::info!("every log on this disk is known again");
                lifecycle.clear(Component::Strays);
            }
            None => {}
        }
        known = now;
    }
}

/// What a scrape shows of them.
pub(crate) fn snapshot(strays: &Strays) -> StraysSnapshot {
    let bytes = strays.values().fold(0, |sum: u64, stray| sum.saturating_add(stray.log.bytes));
    StraysSnapshot { logs: u64::try_from(strays.len()).unwrap_or(u64::MAX), bytes }
}

fn problem(strays: &Strays) -> Option<Problem> {
    let StraysSnapshot { logs, bytes } = snapshot(strays);
    if logs == 0 {
        return None;
    }
    let named: Vec<String> =
        strays.iter().take(NAMED_MAX).map(|(id, stray)| format!("{id}: {}", stray.doubt)).collect();
    let mut message = format!(
        "{logs} log(s) of {bytes} bytes are on this disk that this broker is not known to hold; they are kept and not served: {}",
        named.join("; ")
    );
    let more = strays.len().saturating_sub(NAMED_MAX);
    if more > 0 {
        let _infallible = write!(message, "; and {more} more");
    }
    message.push_str(match strays.values().all(|stray| stray.doubt.is_passing()) {
        true => ". They go by themselves once the other replicas are in sync",
        false => {
            ". Look whether the metadata was set back, or whether this is the right disk; with the broker stopped, `streambus \
             log dump` shows what they hold; `streambus cluster discard` removes one that nobody needs"
        }
    });
    Some(Problem { component: Component::Strays, message, blocks_ready: false })
}

#[cfg(test)]
mod tests {
    use streambus_protocol::epoch::LeaderEpoch;
    use streambus_protocol::ids::{PartitionIndex, TopicId};
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::partition::fate::{Doubt, HeldLog};

    fn stray(index: u32, doubt: Doubt) -> (PartitionId, Stray) {
        let id = PartitionId { topic: TopicId::from_bytes([1; 16]), partition: PartitionIndex::new(index) };
        (id, Stray { log: HeldLog { id, newest_epoch: Some(LeaderEpoch::new(3)), records: 5, bytes: 100 }, doubt })
    }

    // Catches a report without the place, the size or the remedy, one that grows with the disk, and one that has an operator
    // remove what passes by itself.
    #[test]
    fn a_report_names_place_size_reason_and_remedy_and_is_bounded() {
        assert_eq!(problem(&Strays::new()), None);
        let lost = Strays::from([stray(4, Doubt::UnknownTopic)]);
        assert_eq!(snapshot(&lost), StraysSnapshot { logs: 1, bytes: 100 });
        let said = problem(&lost).expect("a problem");
        assert!(!said.blocks_ready, "what is served is served");
        for part in ["1 log(s) of 100 bytes", "/4: ", "neither its topic nor a deletion", "log dump", "cluster discard"]
        {
            assert!(said.message.contains(part), "{part:?} is missing: {}", said.message);
        }
        let passing = problem(&Strays::from([stray(4, Doubt::TooFewCopies)])).expect("a problem").message;
        assert!(passing.contains("by themselves") && !passing.contains("discard"), "{passing}");
        let many: Strays = (0..100).map(|index| stray(index, Doubt::UnknownTopic)).collect();
        let many = problem(&many).expect("a problem").message;
        assert!(many.len() < 2_000 && many.contains("and 97 more"), "{many}");
    }

    // Catches a report that is never made, never taken back, or only made of what is there at the start.
    #[tokio::test]
    async fn health_follows_the_quarantine() {
        let lifecycle = Lifecycle::new();
        let (say, strays) = watch::channel(Strays::new());
        let stop = CancellationToken::new();
        let watching = TaskTracker::new().spawn(run(strays, lifecycle.clone(), stop.clone()));
        let reported = async |wanted: bool| {
            let is_so = async {
                while lifecycle.problems().iter().any(|problem| problem.component == Component::Strays) != wanted {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(30), is_so).await.expect("health does not hear of it");
        };
        say.send_replace(Strays::from([stray(1, Doubt::UnknownTopic)]));
        reported(true).await;
        say.send_replace(Strays::new());
        reported(false).await;
        stop.cancel();
        watching.await.expect("it ends");
    }
}
