//! Which damage to repair next, from whom, and when to try again. Pure.
//!
//! Each damaged range asks the replicas in the order of their completeness. One that cannot help now is asked again after
//! a pause that doubles; meanwhile the others and the other ranges have their turn. A range is beyond repair while every
//! other replica has said that it has lost or given up the same; they are still asked, rarely.

use std::collections::BTreeMap;
use std::time::Duration;

use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::ids::{BrokerId, PartitionId};
use streambus_protocol::offset::Offset;
use streambus_storage::partition_log::DamagedOffsets;

use crate::partition::repair::{Damage, Prospect};

/// Pauses before the same replica is asked again for the same range: the first, and the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairPauses {
    /// After the first refusal; doubles.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

/// Why a replica did not help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not have the records any more: lost as well, or given up by retention.
    Gone(String),
    /// It may help later: it is not reachable, not that far, or what it sent did not fit.
    Later(String),
}

impl Refusal {
    /// What it said.
    pub fn text(&self) -> &str {
        match self {
            Self::Gone(text) | Self::Later(text) => text,
        }
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask this replica for this range.
    Ask(Ask),
    /// Nothing before this time.
    Wait(Duration),
    /// Nothing at all.
    Nothing,
}

/// One question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The partition.
    pub id: PartitionId,
    /// The leadership in which both must be.
    pub leader_epoch: LeaderEpoch,
    /// What is wanted.
    pub range: DamagedOffsets,
    /// Whom to ask.
    pub source: BrokerId,
}

/// A range that every other replica was asked for in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The partition.
    pub id: PartitionId,
    /// What is lost.
    pub range: DamagedOffsets,
    /// Whether the records are on no other disk either.
    pub is_beyond_repair: bool,
    /// What each replica said last.
    pub said: Vec<(BrokerId, Refusal)>,
}

/// What was tried for one range in one leadership.
#[derive(Debug)]
struct Tries {
    leader_epoch: LeaderEpoch,
    by_source: BTreeMap<BrokerId, Tried>,
}

#[derive(Debug)]
struct Tried {
    refusal: Refusal,
    failures: u32,
    again_at: Duration,
}

/// All damage of one broker.
#[derive(Debug)]
pub struct RepairState {
    pauses: RepairPauses,
    damage: BTreeMap<PartitionId, Damage>,
    tries: BTreeMap<(PartitionId, Offset), Tries>,
}

impl RepairState {
    /// Nothing is damaged.
    pub fn new(pauses: RepairPauses) -> Self {
        Self { pauses, damage: BTreeMap::new(), tries: BTreeMap::new() }
    }

    /// The damage of partition `id` is this now; returns true when that is news. What was tried in another leadership, or
    /// for a range that is no more, is forgotten.
    pub fn observe(&mut self, id: PartitionId, damage: Option<Damage>) -> bool {
        let is_news = self.damage.get(&id) != damage.as_ref();
        let current = |base: &Offset, tries: &Tries| {
            damage.as_ref().is_some_and(|damage| {
                damage.leader_epoch == tries.leader_epoch && damage.ranges.iter().any(|range| range.base == *base)
            })
        };
        self.tries.retain(|(of, base), tries| *of != id || current(base, tries));
        match damage {
            Some(damage) => self.damage.insert(id, damage),
            None => self.damage.remove(&id),
        };
        is_news
    }

    /// The partitions with damage.
    pub fn damaged(&self) -> Vec<PartitionId> {
        self.damage.keys().copied().collect()
    }

    /// What to do at `now`.
    pub fn next(&self, now: Duration) -> Next {
        let mut earliest: Option<Duration> = None;
        for damage in self.damage.values() {
            for range in &damage.ranges {
                let tries = self.tries.get(&(damage.id, range.base));
                let tried = |source: &BrokerId| tries.and_then(|tries| tries.by_source.get(source));
                let due = |source: &&BrokerId| tried(source).is_none_or(|tried| tried.again_at <= now);
                // The first of those that failed least.
                let source = damage.sources.iter().filter(due).min_by_key(|s| tried(s).map_or(0, |t| t.failures));
                if let Some(source) = source {
                    let (id, leader_epoch) = (damage.id, damage.leader_epoch);
                    return Next::Ask(Ask { id, leader_epoch, range: *range, source: *source });
                }
                let again = damage.sources.iter().filter_map(|source| Some(tried(source)?.again_at)).min();
                earliest = [earliest, again].into_iter().flatten().min();
            }
        }
        earliest.map_or(Next::Nothing, Next::Wait)
    }

    /// True when every other replica was asked for the range in vain.
    pub fn is_last_resort(&self, ask: &Ask) -> bool {
        let tries = self.tries.get(&(ask.id, ask.range.base));
        let was_asked = |source: &BrokerId| tries.is_some_and(|tries| tries.by_source.contains_key(source));
        let others = self.damage.get(&ask.id).into_iter().flat_map(|damage| &damage.sources);
        others.filter(|source| **source != ask.source).all(was_asked)
    }

    /// The replica that was asked did not help.
    pub fn on_refused(&mut self, ask: &Ask, refusal: Refusal, now: Duration) {
        let fresh = || Tries { leader_epoch: ask.leader_epoch, by_source: BTreeMap::new() };
        let tries = self.tries.entry((ask.id, ask.range.base)).or_insert_with(fresh);
        let failures = tries.by_source.get(&ask.source).map_or(0, |tried| tried.failures);
        let pause = self.pauses.min.saturating_mul(1 << failures.min(16)).min(self.pauses.max);
        let tried = Tried { refusal, failures: failures.saturating_add(1), again_at: now.saturating_add(pause) };
        tries.by_source.insert(ask.source, tried);
    }

    /// What becomes of the damage of partition `id`.
    pub fn prospect(&self, id: PartitionId) -> Prospect {
        let stuck = self.stuck_of(id);
        let ranges = self.damage.get(&id).map_or(0, |damage| damage.ranges.len());
        if stuck.is_empty() {
            Prospect::Open
        } else if stuck.len() == ranges && stuck.iter().all(|stuck| stuck.is_beyond_repair) {
            Prospect::Hopeless
        } else {
            Prospect::Delayed
        }
    }

    /// Every range that was asked for in vain.
    pub fn stuck(&self) -> Vec<Stuck> {
        self.damage.keys().flat_map(|id| self.stuck_of(*id)).collect()
    }

    fn stuck_of(&self, id: PartitionId) -> Vec<Stuck> {
        let Some(damage) = self.damage.get(&id) else { return Vec::new() };
        let stuck = |range: &DamagedOffsets| {
            let tries = self.tries.get(&(id, range.base))?;
            let said = |source: &BrokerId| Some((*source, tries.by_source.get(source)?.refusal.clone()));
            let said = damage.sources.iter().map(said).collect::<Option<Vec<_>>>()?;
            let is_beyond_repair = said.iter().all(|(_, refusal)| matches!(refusal, Refusal::Gone(_)));
            Some(Stuck { id, range: *range, is_beyond_repair, said })
        };
        damage.ranges.iter().filter_map(stuck).collect()
    }
}

#[cfg(test)]
mod tests;
