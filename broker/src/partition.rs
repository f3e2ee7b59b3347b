//! The partitions this broker holds: who leads each, how records get in and how they get out.

pub mod append;
pub mod discard;
pub mod fate;
pub mod fetch_wait;
#[cfg(test)]
pub(crate) mod fixture;
pub mod follow;
pub mod lead;
pub mod quarantine;
pub mod read;
pub mod reconcile;
pub mod registry;
pub mod repair;
pub mod role;
pub mod standing;
pub mod step_down;
pub mod trim;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use streambus_planted::{Defect, is_planted};
use streambus_protocol::api::session::{ErrorBody, LeaderHint};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, PartitionId, TopicName};
use streambus_protocol::offset::Offset;
use streambus_protocol::topic_config::Durability;
use streambus_storage::partition_log::{Agreed, PartitionLog};
use tokio::sync::watch;

use crate::partition::lead::Leading;
use crate::partition::repair::Prospect;
use crate::partition::role::{LeaderToken, Leadership, Role};
use crate::partition::standing::{Committed, Standing};
use crate::replication::follower_state::{FollowerState, may_lose_committed};
use crate::replication::leader_state::LeaderState;

/// One partition: its log and this broker's part in it.
///
/// Lock order: `append_lock`, `part`, then the log's own. What the log tells its watchers it tells without a lock of ours.
pub struct Partition {
    id: PartitionId,
    topic: TopicName,
    log: PartitionLog,
    owner: Owner,
    role: ArcSwap<Role>,
    /// Held from the check of the role to the change of the log, and while the role changes: check and use cannot drift
    /// apart.
    append_lock: Mutex<()>,
    part: Mutex<Part>,
    standing: watch::Sender<Standing>,
    /// What becomes of the damage of its disk.
    prospect: Mutex<Prospect>,
    /// An answer of some leader has shown the log to be a prefix of that leader's.
    was_compared: AtomicBool,
}

/// Whose partition it is, and what that broker demands of followers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// This broker.
    pub broker: BrokerId,
    /// A follower that has not had everything for this long leaves the in-sync set.
    pub lag_limit: Duration,
}

/// The state that goes with the role.
#[derive(Debug)]
enum Part {
    /// No other broker holds it: what is on this disk is committed.
    Alone,
    /// Leads others.
    Leading(Leading),
    /// Copies from a leader.
    Following(BrokerId, FollowerState),
    /// Waits for a leader, or is about to lead.
    Idle,
}

impl Partition {
    /// A partition over `log`, with the part that the metadata gives this broker at `now`.
    pub fn new(id: PartitionId, topic: TopicName, log: PartitionLog, owner: Owner, role: Role, now: Duration) -> Self {
        // What an earlier process recorded is a lower bound: the other replicas will say the rest (rule H3).
        let standing = Standing {
            high_watermark: log.committed(),
            leads: None,
            has_enough_in_sync: false,
            committed: Committed::default(),
            followers_start: None,
            version: 0,
        };
        let idle = Role { leadership: Leadership::Nobody, ..role.clone() };
        let partition = Self {
            id,
            topic,
            log,
            owner,
            role: ArcSwap::from_pointee(idle),
            append_lock: Mutex::new(()),
            part: Mutex::new(Part::Idle),
            standing: watch::Sender::new(standing),
            prospect: Mutex::default(),
            was_compared: AtomicBool::new(false),
        };
        partition.set_role(role, now);
        partition
    }

    /// Its identity.
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// Its topic's name.
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Its log.
    pub fn log(&self) -> &PartitionLog {
        &self.log
    }

    /// This broker's part in it now.
    pub fn role(&self) -> Arc<Role> {
        self.role.load_full()
    }

    /// The proof that this broker leads, as [`Role::lead`], for a request that names `epoch`. A request of an earlier
    /// leadership hears the present one, so that it need not ask for the metadata.
    ///
    /// # Errors
    /// Those of [`Role::lead`].
    pub fn lead(&self, epoch: LeaderEpoch) -> Result<LeaderToken, ErrorBody> {
        self.lead_as(&self.role.load(), epoch)
    }

    fn lead_as(&self, role: &Role, epoch: LeaderEpoch) -> Result<LeaderToken, ErrorBody> {
        role.lead(epoch).map_err(|refusal| match refusal.code {
            ErrorCode::FencedLeaderEpoch => {
                refusal.with_leader(Some(LeaderHint { leader: self.owner.broker, leader_epoch: role.leader_epoch }))
            }
            _ => refusal,
        })
    }

    /// Stops to follow, before a new leadership of this broker is written to the log: no record of the former leader may
    /// come after that. The next [`Partition::set_role`] ends the pause.
    pub fn pause_following(&self) {
        let _no_append = self.append_lock.lock();
        let mut part = self.part.lock();
        if matches!(*part, Part::Following(..)) {
            *part = Part::Idle;
        }
    }

    /// Takes a new part at `now`. Appends that checked the old one have been placed when this returns. A new leadership
    /// must be on disk, with the log end it begins at, before this is called (rule E2).
    pub fn set_role(&self, role: Role, now: Duration) {
        let _no_append = self.append_lock.lock();
        let mut part = self.part.lock();
        let high_watermark = self.high_watermark();
        let former = std::mem::replace(&mut *part, Part::Idle);
        *part = self.part_for(&role, former, high_watermark, now);
        // Before the role, so that no reader sees the watermark go back; after it, so that no waiter misses the role.
        self.publish(&part, &role, high_watermark);
        self.role.store(Arc::new(role));
        self.standing.send_modify(|standing| standing.version = standing.version.wrapping_add(1));
    }

    /// Gives the partition up for good: this broker holds it no more, or it is deleted. Whoever waits for a commit learns at
    /// once that nothing more is committed here, and an answer of a leader that is on its way finds no follower.
    pub fn resign(&self, leadership: Leadership, leader_epoch: LeaderEpoch) {
        debug_assert!(leadership != Leadership::Here, "nobody resigns and leads");
        let _no_append = self.append_lock.lock();
        let mut part = self.part.lock();
        let high_watermark = self.high_watermark();
        *part = Part::Idle;
        let role = Role { leadership, leader_epoch, ..Role::clone(&self.role.load()) };
        self.publish(&part, &role, high_watermark);
        self.role.store(Arc::new(role));
        self.standing.send_modify(|standing| standing.version = standing.version.wrapping_add(1));
    }

    fn part_for(&self, role: &Role, former: Part, high_watermark: Offset, now: Duration) -> Part {
        let high_watermark = if is_planted(Defect::TruncateToWatermark) {
            self.cut_at_watermark(role, &former, high_watermark)
        } else {
            high_watermark
        };
        match (role.leadership, former) {
            (Leadership::Here, _) if !role.is_replicated() => Part::Alone,
            (Leadership::Here, Part::Leading(mut leading)) if leading.state.leader_epoch() == role.leader_epoch => {
                leading.state.on_metadata(role.leader_view(), now);
                leading.state.advance(self.leader_log(), now);
                Part::Leading(leading)
            }
            (Leadership::Here, former) => {
                let end = self.log.log_end();
                // What an only replica has taken is acknowledged by its own disk, also when others are added meanwhile, in
                // the same leadership: whoever joins has all of that, as if the leadership began behind it.
                let was_alone = matches!(former, Part::Alone);
                let latest = self.log.latest_epoch().filter(|_| !was_alone);
                let began = latest.filter(|latest| latest.epoch == role.leader_epoch);
                let epoch_start = began.map_or(end, |epoch| epoch.start);
                let view = role.leader_view();
                let Owner { broker, lag_limit } = self.owner;
                let (log, known) = (self.leader_log(), high_watermark.min(end));
                if role.unclean_epoch == Some(role.leader_epoch) {
                    tracing::warn!(
                        partition = %self.id, topic = %self.topic, epoch = %role.leader_epoch, log_end = %epoch_start,
                        "leads by an unclean election: acknowledged records that only others have are given up"
                    );
                }
                let mut state = LeaderState::new(broker, view, epoch_start, (known, log), lag_limit, now);
                state.advance(log, now);
                Part::Leading(Leading::new(state))
            }
            (Leadership::There(leader), former) => {
                let latest = self.log.latest_epoch().map(|latest| latest.epoch);
                let unclean = role.settings.durability == Durability::Async
                    || may_lose_committed(role.recovering, role.unclean_epoch, latest);
                match former {
                    Part::Following(same, mut state) if same == leader && state.leader_epoch() == role.leader_epoch => {
                        if unclean {
                            state.on_unclean_election();
                        }
                        Part::Following(leader, state)
                    }
                    Part::Following(_, state) => {
                        let unclean = unclean || state.is_unclean();
                        Part::Following(leader, FollowerState::new(role.leader_epoch, high_watermark, unclean))
                    }
                    Part::Alone | Part::Leading(_) | Part::Idle => {
                        Part::Following(leader, FollowerState::new(role.leader_epoch, high_watermark, unclean))
                    }
                }
            }
            (Leadership::Nobody, _) => Part::Idle,
        }
    }

    /// The mistake of [`Defect::TruncateToWatermark`]. Returns the watermark, which a failed cut leaves as it is.
    fn cut_at_watermark(&self, role: &Role, former: &Part, high_watermark: Offset) -> Offset {
        let goes_on = matches!(former, Part::Following(_, state) if state.leader_epoch() == role.leader_epoch);
        if matches!(role.leadership, Leadership::There(_)) && !goes_on {
            match self.log.truncate(high_watermark) {
                Ok((end, _durable)) => return high_watermark.min(end),
                Err(error) => tracing::error!(partition = %self.id, %error, "the planted cut at the watermark failed"),
            }
        }
        high_watermark
    }

    /// The end of what is committed, as far as this broker knows: consumers see only what lies below it.
    pub fn high_watermark(&self) -> Offset {
        let role = self.role.load();
        if role.is_replicated() {
            return self.standing.borrow().high_watermark;
        }
        // A log that was begun anew a moment ago is not on disk yet where it starts.
        let log_start = self.log.log_start();
        self.log.durable_end().max(log_start)
    }

    /// False while this broker leads and its watermark may lag the true one (rule H3): nobody may learn the latest offset
    /// from it then.
    pub fn is_watermark_settled(&self) -> bool {
        match &*self.part.lock() {
            Part::Leading(leading) => leading.state.is_watermark_settled(),
            Part::Alone | Part::Following(..) | Part::Idle => true,
        }
    }

    /// Changes whenever the high watermark of a replicated partition, or who may move it, may have changed.
    pub(crate) fn watch_standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Tells waiters what `part` has come to.
    fn publish(&self, part: &Part, role: &Role, high_watermark: Offset) {
        let (high_watermark, leads) = match part {
            Part::Leading(leading) => (leading.state.high_watermark(), Some(leading.state.leader_epoch())),
            Part::Following(_, state) => (state.high_watermark(), None),
            Part::Alone => (high_watermark, Some(role.leader_epoch)),
            Part::Idle => (high_watermark, None),
        };
        let has_enough_in_sync = match part {
            Part::Leading(leading) => leading.state.has_enough_in_sync(),
            Part::Alone | Part::Following(..) | Part::Idle => role.has_enough_in_sync(),
        };
        let committed = match part {
            Part::Leading(leading) => Committed::of(&leading.state),
            Part::Alone | Part::Following(..) | Part::Idle => Committed::default(),
        };
        let followers_start = match part {
            Part::Leading(leading) => leading.state.followers_start(),
            Part::Alone | Part::Following(..) | Part::Idle => None,
        };
        // Retention takes nothing that is not committed (rule H5). Nor does compaction: a newer record that is undone later
        // must not have taken the place of an older one.
        match role.is_replicated() {
            true => self.log.set_committed(high_watermark),
            false => {
                self.log.set_protect(None);
                self.log.set_agreed(Agreed::Synced);
            }
        }
        self.standing.send_if_modified(|standing| {
            let next = Standing { high_watermark, leads, has_enough_in_sync, committed, followers_start, ..*standing };
            std::mem::replace(standing, next) != next
        });
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition").field("id", &self.id).field("topic", &self.topic).finish_non_exhaustive()
    }
}
