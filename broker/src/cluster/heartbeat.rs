//! Says to the controller that this broker is there, and hears what the controller makes of it.
//!
//! A broker whose data directory is read-only says that it wants to stop, and goes on: whatever it leads is then led by
//! others, nobody waits for its copy, and it is not let in again before it registers anew, which only a restart does. One
//! whose disk stands still, without an error, lets its session run out instead ([`still_disk`](super::still_disk)).

use std::sync::Arc;
use std::time::Duration;

use streambus_consensus::blocking;
use streambus_consensus::controller::liveness::{Heartbeat, Wants};
use streambus_consensus::heartbeat::{HeartbeatAnswer, HeartbeatError};
use streambus_consensus::node::MetadataNode;
use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::DirectoryId;
use streambus_storage::clock::Clock;
use streambus_storage::store::{Store, StoreStatus};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::contact::{Contact, Unsettled};
use crate::cluster::disks::ClusterDisks;
use crate::cluster::local::LocalBroker;
use crate::cluster::still_disk::{self, StillDisk};
use crate::lifecycle::{Component, Lifecycle, Problem};
use crate::partition::registry::Registry;
use crate::replication::registration::Registration;

/// Between heartbeats while one was not heard, or while this broker waits to be let in or out.
const EAGER: Duration = Duration::from_millis(50);
/// Between two looks at the disk's fill, and at everybody else's.
const DISK_EVERY: Duration = Duration::from_secs(2);

/// What the heartbeats of this broker need and tell.
pub(crate) struct Heartbeats {
    pub(crate) metadata: MetadataNode,
    /// The disk of the records, and whether recovery found all of them.
    pub(crate) disk: (DirectoryId, bool),
    pub(crate) local: LocalBroker,
    /// Told of a new registration, like `local`: fetches and proposals name it.
    pub(crate) replication: Registration,
    pub(crate) store: Store,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) clock: Arc<dyn Clock>,
    /// Between two of them.
    pub(crate) interval: Duration,
    /// Silence that the controller bears.
    pub(crate) session: Duration,
    /// Renewed by answers that were acted on; it decides whether what this broker leads may be served.
    pub(crate) contact: Contact,
    /// Says how far the metadata was acted on, and is told when contact is lost, for whoever waits on a partition.
    pub(crate) partitions: Arc<Registry>,
    /// Told what the controller says of everybody's disks.
    pub(crate) disks: ClusterDisks,
    /// What this broker wants; changed once, when it is to stop.
    pub(crate) wants: watch::Receiver<Wants>,
    /// The controller's last answer.
    pub(crate) answers: watch::Sender<Option<HeartbeatAnswer>>,
}

/// The disk's fill, asked for beside the heartbeats: a disk that hangs must not silence them.
#[derive(Default)]
struct DiskGauge {
    asked: Option<JoinHandle<StoreStatus>>,
    asked_at: Option<Duration>,
    used_bytes: u64,
    free_bytes: u64,
}

impl DiskGauge {
    async fn refresh(&mut self, store: &Store, now: Duration) {
        if let Some(asked) = self.asked.take_if(|asked| asked.is_finished())
            && let Ok(status) = asked.await
        {
            (self.used_bytes, self.free_bytes) = (status.used_bytes, status.free_bytes);
        }
        let is_due = self.asked_at.is_none_or(|at| now.saturating_sub(at) >= DISK_EVERY);
        if self.asked.is_none() && is_due {
            let store = store.clone();
            self.asked = Some(blocking::spawn(move || store.status()));
            self.asked_at = Some(now);
        }
    }
}

/// Sends heartbeats in the life `epoch` until `stop`.
pub(crate) async fn run(mut task: Heartbeats, mut epoch: BrokerEpoch, stop: CancellationToken) {
    let mut disk = DiskGauge::default();
    let mut still_disk = StillDisk::default();
    let mut disks_at: Option<Duration> = None;
    let mut heard_at = task.clock.monotonic();
    let mut reported = None;
    let mut has_served = false;
    let mut had_contact = true;
    let mut unsettled = Unsettled::default();
    let mut stepped_down = task.partitions.watch_stepped_down();
    loop {
        disk.refresh(&task.store, task.clock.monotonic()).await;
        let asked = *task.wants.borrow_and_update();
        let lost = task.store.read_only();
        let wants = if lost.is_some() { Wants::ShutDown } else { asked };
        let unanswered = task.clock.monotonic().saturating_sub(heard_at);
        let stood_still = still_disk.look(task.store.commit_progress(), task.clock.monotonic());
        let wants_disks = disks_at.is_none_or(|at| task.clock.monotonic().saturating_sub(at) >= DISK_EVERY);
        let beat = Heartbeat {
            broker: task.local.id(),
            epoch,
            applied: task.metadata.image().applied,
            wants,
            unanswered: unanswered.max(stood_still),
            disk_used_bytes: disk.used_bytes,
            disk_free_bytes: disk.free_bytes,
            problem: task.lifecycle.problems().into_iter().find(|p| p.blocks_ready).map(|p| p.message),
            wants_disks,
        };
        let sent = task.clock.monotonic();
        let answer = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            answer = task.metadata.heartbeat(beat) => answer,
        };
        let now = task.clock.monotonic();
        let pause = match &answer {
            Ok(answer) => {
                heard_at = now;
                unsettled.note(sent, answer);
                if wants_disks {
                    disks_at = Some(now);
                    task.disks.heard(&answer.disks);
                }
                if answer.unknown_registration {
                    epoch = register_again(&task, epoch).await;
                }
                // A controller that heard how long there was none does not count that heartbeat for much.
                let is_eager = answer.fenced || asked == Wants::ShutDown || unanswered > task.interval * 2;
                if is_eager { EAGER } else { task.interval }
            }
            Err(_) => EAGER,
        };
        unsettled.settle(*stepped_down.borrow_and_update(), &task.contact);
        let has_contact = !task.contact.is_lost();
        if had_contact && !has_contact {
            task.partitions.announce_change();
        }
        had_contact = has_contact;
        // A life that starts is fenced until its first heartbeat was heard: that is no problem.
        has_served |= answer.as_ref().is_ok_and(|answer| !answer.fenced);
        let problem = match lost {
            Some(reason) if asked == Wants::Serve => Some(format!("others lead what this broker led: {reason}")),
            None if asked == Wants::Serve && !stood_still.is_zero() => Some(stands_still(task.session)),
            _ => problem(&answer, asked, now.saturating_sub(heard_at), task.session)
                .filter(|_| has_served || answer.is_err()),
        };
        if problem != reported {
            tell(&task.lifecycle, problem.as_deref());
            reported = problem;
        }
        if let Ok(answer) = answer {
            task.answers.send_replace(Some(answer));
        }
        let again_at = Instant::now() + pause;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = other_wish(&mut task.wants) => break,
                Ok(()) = stepped_down.changed(), if unsettled.wants().is_some() => {
                    unsettled.settle(*stepped_down.borrow_and_update(), &task.contact);
                }
                () = tokio::time::sleep_until(again_at) => break,
            }
        }
    }
}

/// Waits until this broker wants something else: for ever once nobody is left who could want it, which is so from when it has
/// handed over until it is stopped.
async fn other_wish(wants: &mut watch::Receiver<Wants>) {
    if wants.changed().await.is_err() {
        std::future::pending().await
    }
}

/// The controller does not know this life: it was removed, or the controller knows less than the one before it did and
/// will know again. Registering is idempotent, so it settles both.
async fn register_again(task: &Heartbeats, epoch: BrokerEpoch) -> BrokerEpoch {
    let (directory, is_intact) = task.disk;
    match task.metadata.register_disk(directory, is_intact).await {
        Ok(new) => {
            if new != epoch {
                tracing::warn!(
                    was = %epoch, epoch = %new,
                    "this broker was forgotten by the cluster and registered anew"
                );
                task.local.registered(new);
                task.replication.set(new);
            }
            new
        }
        Err(error) => {
            tracing::warn!(%error, "the controller does not know this broker, and it could not register anew");
            epoch
        }
    }
}

fn problem(
    answer: &Result<HeartbeatAnswer, HeartbeatError>,
    wants: Wants,
    silence: Duration,
    session: Duration,
) -> Option<String> {
    match answer {
        _ if wants == Wants::ShutDown => None,
        Ok(answer) if answer.fenced => {
            Some(format!("the controller (broker {}) lets this broker take no part yet", answer.controller))
        }
        Ok(_) => None,
        Err(error) if silence >= session => Some(format!(
            "{error}: what this broker leads may be led by others by now; are most of the metadata group's voters up?"
        )),
        Err(_) => None,
    }
}

/// What is said of a disk that stands still: the same for as long as it does.
fn stands_still(session: Duration) -> String {
    format!(
        "the disk stands still: nothing that waits for it has got there for more than {:?}; {session:?} \
         (cluster.session_timeout) after that others lead what they hold too, until it moves again: look at the disk",
        still_disk::PATIENCE
    )
}

fn tell(lifecycle: &Lifecycle, problem: Option<&str>) {
    match problem {
        Some(message) => {
            tracing::warn!(message, "this broker takes no part in the cluster");
            let message = message.to_owned();
            lifecycle.report(Problem { component: Component::Cluster, message, blocks_ready: false });
        }
        None => {
            tracing::info!("this broker takes part in the cluster");
            lifecycle.clear(Component::Cluster);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    /// Catches: a broker that has handed over and, until it is stopped, sends one heartbeat after the other without a pause.
    #[test]
    fn a_wish_that_nobody_can_have_any_more_is_waited_for() {
        let (wishes, mut wanted) = watch::channel(Wants::Serve);
        wishes.send_replace(Wants::ShutDown);
        assert!(other_wish(&mut wanted).now_or_never().is_some());
        drop(wishes);
        assert!(other_wish(&mut wanted).now_or_never().is_none());
    }
}
