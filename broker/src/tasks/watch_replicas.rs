//! Tells health which replicas need an operator, and what to do about them; and takes back damage that may have been any
//! log's, once every log here has been compared with another replica.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use streambus_storage::store::Store;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::{Component, Lifecycle, Problem};
use crate::partition::Partition;
use crate::partition::registry::Registry;
use crate::replication::repair_state::Stuck;
use crate::replication::repairer::RepairBoard;

const INTERVAL: Duration = Duration::from_millis(500);
/// Replicas named in one report; more are counted.
const NAMED_MAX: usize = 3;

/// Looks at the replicas of `registry` until `stop`.
pub(crate) async fn run(
    registry: Arc<Registry>,
    repairs: RepairBoard,
    store: Store,
    lifecycle: Lifecycle,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reported: Option<Problem> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let partitions = registry.all();
        if store.has_unattributed_damage() && are_all_compared(&store, &registry) {
            tracing::info!("every log here has everything that is committed: damage of unknown logs has taken nothing");
            store.forget_unattributed_damage();
        }
        let problem = problem(&partitions, &repairs.stuck());
        if problem == reported {
            continue;
        }
        match &problem {
            Some(problem) => {
                tracing::warn!(problem = problem.message, "replicas need a look");
                lifecycle.report(problem.clone());
            }
            None => {
                tracing::info!("every replica here is well again");
                lifecycle.clear(Component::Replication);
            }
        }
        reported = problem;
    }
}

/// True when no log of this disk can lack anything that is committed: each was compared with a leader in this life and is
/// in sync now, and none has a hole.
fn are_all_compared(store: &Store, registry: &Registry) -> bool {
    store
        .log_ids()
        .into_iter()
        .all(|id| registry.get(id).is_some_and(|partition| partition.is_compared() && !partition.log().has_damage()))
}

fn problem(partitions: &[Arc<Partition>], stuck: &[Stuck]) -> Option<Problem> {
    let mut lines: Vec<String> = Vec::new();
    for partition in partitions {
        if let Some(alarm) = partition.alarm() {
            lines.push(format!("'{}' partition {}: {alarm}", partition.topic(), partition.id().partition));
        }
    }
    lines.extend(stuck.iter().map(describe));
    let more = lines.len().saturating_sub(NAMED_MAX);
    lines.truncate(NAMED_MAX);
    let mut message = lines.join("; ");
    if more > 0 {
        let _infallible = write!(message, "; and {more} more");
    }
    (!message.is_empty()).then_some(Problem { component: Component::Replication, message, blocks_ready: false })
}

fn describe(stuck: &Stuck) -> String {
    let said: Vec<String> = stuck.said.iter().map(|(broker, why)| format!("broker {broker}: {}", why.text())).collect();
    let (id, said) = (stuck.id, said.join(", "));
    let (base, next) = (stuck.range.base, stuck.range.next);
    match stuck.is_beyond_repair {
        true => format!(
            "offsets {base} up to {next} of {id} are lost on this disk and on every other replica ({said}): they stay \
             refused; let readers go on at {next}, or restore one broker's disk and it is repaired from there"
        ),
        false => format!(
            "offsets {base} up to {next} of {id} are lost on this disk and could not be read from another replica yet \
             ({said}): it is tried again; bring back a replica that has them"
        ),
    }
}

#[cfg(test)]
mod tests {
    use streambus_protocol::ids::{BrokerId, PartitionId, PartitionIndex, TopicId};
    use streambus_protocol::offset::Offset;
    use streambus_storage::partition_log::DamagedOffsets;

    use super::*;
    use crate::replication::repair_state::Refusal;

    // Catches a report without the place or the remedy, and one that grows with the damage.
    #[test]
    fn a_report_names_the_place_the_answers_and_the_remedy_and_is_bounded() {
        let at = |value| Offset::new(value).expect("small");
        let stuck = |base, is_beyond_repair| Stuck {
            id: PartitionId { topic: TopicId::from_bytes([1; 16]), partition: PartitionIndex::new(4) },
            range: DamagedOffsets { base: at(base), next: at(base + 10) },
            is_beyond_repair,
            said: vec![(BrokerId::new(2), Refusal::Gone("lost there too".to_owned()))],
        };
        assert_eq!(problem(&[], &[]), None);
        let gone = problem(&[], &[stuck(20, true)]).expect("a problem").message;
        for part in ["20 up to 30", "/4", "broker 2: lost there too", "every other replica", "go on at 30"] {
            assert!(gone.contains(part), "{part:?} is missing: {gone}");
        }
        let waiting = problem(&[], &[stuck(20, false)]).expect("a problem").message;
        assert!(waiting.contains("tried again"), "{waiting}");
        let many: Vec<_> = (0..100).map(|n| stuck(n * 20, true)).collect();
        let many = problem(&[], &many).expect("a problem").message;
        assert!(many.len() < 2_000 && many.ends_with("and 97 more"), "{many}");
    }
}
