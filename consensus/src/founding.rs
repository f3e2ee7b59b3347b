//! How an empty disk finds its cluster: founds it, follows the founder, or joins. Pure decisions.
//!
//! The rule that everything here serves: a founder's Raft id is used only by a disk that was formatted before any node
//! of the cluster could vote. The first founder (the lowest broker id) alone knows when that is: until it
//! initialises the cluster it says "founding", and only an empty disk that hears this from it formats itself as a founder.
//! An empty disk that meets an initialised cluster may have been anything before, so it joins under a new Raft id.

pub(crate) mod occupied;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use streambus_protocol::ids::{BrokerId, ClusterId};

use crate::hello::Standing;

/// What a starting node waits for, for people who wait with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartPhase {
    /// Reads its disk.
    Opening,
    /// Wants to found a cluster and has not heard from all founders.
    WaitingForFounders {
        /// Those that have not answered, or are not ready.
        missing: Vec<BrokerId>,
    },
    /// Its disk is empty and only the first founder can say whether a cluster is being founded.
    WaitingForFirstFounder {
        /// The founder with the lowest broker id.
        first: BrokerId,
    },
    /// Its disk was a cluster of its own, and the peers have not said yet that they are in no other.
    WaitingForPeersOfLoneDisk {
        /// Those that have not answered.
        silent: Vec<BrokerId>,
    },
    /// Joins a cluster that exists.
    Joining {
        /// What the cluster answered last.
        problem: Option<String>,
    },
    /// Waits until a majority of the cluster's voters has a controller that this node hears.
    WaitingForQuorum {
        /// The configured peers that do not answer.
        unreachable: Vec<BrokerId>,
    },
    /// Started.
    Running,
}

impl fmt::Display for StartPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |brokers: &[BrokerId]| {
            let names: Vec<String> = brokers.iter().map(ToString::to_string).collect();
            names.join(", ")
        };
        match self {
            Self::Opening => write!(f, "opening the metadata directory"),
            Self::WaitingForFounders { missing } => {
                write!(f, "founding the cluster: waiting for broker(s) {}", list(missing))
            }
            Self::WaitingForFirstFounder { first } => write!(
                f,
                "this disk is empty: waiting for broker {first}, the first of the configured peers, or for any member \
                 of a cluster that exists"
            ),
            Self::WaitingForPeersOfLoneDisk { silent } => write!(
                f,
                "this disk was a cluster of one: waiting for broker(s) {} to say that they are in no other cluster",
                list(silent)
            ),
            Self::Joining { problem: None } => write!(f, "joining the cluster"),
            Self::Joining { problem: Some(problem) } => write!(f, "joining the cluster: {problem}"),
            Self::WaitingForQuorum { unreachable } if unreachable.is_empty() => {
                write!(f, "waiting for a controller that a quorum of peers elects")
            }
            Self::WaitingForQuorum { unreachable } => {
                write!(f, "waiting for a quorum of peers: broker(s) {} do not answer", list(unreachable))
            }
            Self::Running => write!(f, "running"),
        }
    }
}

/// Why a founder must not go on. An operator has to look.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoundingRefused {
    /// The configured peers do not belong together.
    #[error(
        "broker {one} belongs to cluster {first}, broker {other} to cluster {second}: the configured peers belong to \
         different clusters; correct the peers"
    )]
    TwoClusters {
        /// A peer.
        one: BrokerId,
        /// Its cluster.
        first: ClusterId,
        /// Another peer.
        other: BrokerId,
        /// Its cluster.
        second: ClusterId,
    },
    /// This disk is formatted for a cluster that has no entry here but has members elsewhere.
    #[error(
        "broker {member} is a running member of cluster {cluster}, but this disk, which was to found that cluster, \
         holds nothing of its log: the log was lost, and this disk must not vote; empty the metadata directory, so \
         that it joins as a new one"
    )]
    LogLost {
        /// The peer that has the log.
        member: BrokerId,
        /// The cluster.
        cluster: ClusterId,
    },
}

/// What a disk does whose cluster has no other node, although the broker has peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LoneDisk {
    Wait(StartPhase),
    /// Goes on as the cluster that the peers join, or have joined.
    Lead,
    /// Nobody can say that the peers are not another cluster.
    Refuse {
        silent: Vec<BrokerId>,
    },
}

/// What a starting node knows about its peers.
#[derive(Debug)]
pub(crate) struct Census<'a> {
    pub(crate) me: BrokerId,
    pub(crate) founders: &'a BTreeSet<BrokerId>,
    /// What peers said of their disks, in this life of the process and most recently.
    pub(crate) heard: &'a BTreeMap<BrokerId, Standing>,
    /// How long it has been so: for founders, that a majority of them is there (see [`Company`]); for a lone disk, that it
    /// asks.
    pub(crate) waited: Duration,
    pub(crate) patience: Duration,
}

/// Since when a majority of the founders is there. The patience that founders have with the others counts from then, once for
/// all that is done meanwhile: whoever has waited for it alone has not waited for those who come after the second.
#[derive(Debug, Default)]
pub(crate) struct Company {
    since: Option<Duration>,
}

impl Company {
    /// Notes at `now` what was `heard`, and says for how long a majority has been there without a gap.
    pub(crate) fn look(
        &mut self,
        me: BrokerId,
        founders: &BTreeSet<BrokerId>,
        heard: &BTreeMap<BrokerId, Standing>,
        now: Duration,
    ) -> Duration {
        let is_there = |founder: &&BrokerId| {
            **founder == me || heard.get(founder).is_some_and(|s| !matches!(s, Standing::Opening))
        };
        if founders.iter().filter(is_there).count() <= founders.len() / 2 {
            self.since = None;
            return Duration::ZERO;
        }
        now.saturating_sub(*self.since.get_or_insert(now))
    }
}

/// What an empty disk does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EmptyDisk {
    Wait(StartPhase),
    /// First founder: draw a cluster id and format.
    Draw,
    /// First founder: format with the id that the other founders have, who wait for it.
    Adopt(ClusterId),
    /// Other founder: format with the first founder's id.
    Follow(ClusterId),
    /// Ask the cluster for a Raft id.
    Join(ClusterId),
}

/// What the first founder does next, once its disk is formatted and has no entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FirstFounder {
    Wait(StartPhase),
    /// Write the first entry.
    Initialise,
}

impl Census<'_> {
    /// What an empty disk does.
    pub(crate) fn empty_disk(&self) -> Result<EmptyDisk, FoundingRefused> {
        if let Some(cluster) = self.one_cluster(|s| matches!(s, Standing::Member(_)))? {
            return Ok(EmptyDisk::Join(cluster));
        }
        let first = self.first();
        if !self.founders.contains(&self.me) || self.heard.values().any(|s| matches!(s, Standing::Joining(_))) {
            // A cluster exists or will; its members have to be heard first.
            return Ok(EmptyDisk::Wait(StartPhase::WaitingForFounders { missing: self.missing(|_| false) }));
        }
        if self.me != first {
            return Ok(match self.heard.get(&first) {
                Some(Standing::Founding(cluster)) => EmptyDisk::Follow(*cluster),
                _ => EmptyDisk::Wait(StartPhase::WaitingForFirstFounder { first }),
            });
        }
        let told = |s: &Standing| !matches!(s, Standing::Opening);
        let wait = EmptyDisk::Wait(StartPhase::WaitingForFounders { missing: self.missing(told) });
        let all = self.missing(told).is_empty();
        // Others are formatted and this disk is not: it was emptied while founding. Whether its former life had
        // initialised the cluster with somebody is known only when nobody is left to be asked.
        if let Some(cluster) = self.one_cluster(|s| matches!(s, Standing::Formatted(_)))? {
            return Ok(if all { EmptyDisk::Adopt(cluster) } else { wait });
        }
        Ok(if all || self.majority_after_patience(told) { EmptyDisk::Draw } else { wait })
    }

    /// What the first founder does whose disk belongs to `cluster` and has no entry yet.
    pub(crate) fn first_founder(&self, cluster: ClusterId) -> Result<FirstFounder, FoundingRefused> {
        for (broker, standing) in self.heard {
            match standing {
                Standing::Member(found) if *found == cluster => {
                    return Err(FoundingRefused::LogLost { member: *broker, cluster });
                }
                other if other.cluster().is_some_and(|found| found != cluster) => {
                    let second = other.cluster().unwrap_or(cluster);
                    return Err(FoundingRefused::TwoClusters { one: self.me, first: cluster, other: *broker, second });
                }
                _ => {}
            }
        }
        let ready = |s: &Standing| matches!(s, Standing::Formatted(_));
        let missing = self.missing(ready);
        if missing.is_empty() || self.majority_after_patience(ready) {
            return Ok(FirstFounder::Initialise);
        }
        Ok(FirstFounder::Wait(StartPhase::WaitingForFounders { missing }))
    }

    /// The cluster the peers are in, when it is not `cluster` and nobody is in that one.
    pub(crate) fn other_cluster(&self, cluster: ClusterId) -> Option<ClusterId> {
        let mut clusters = self.heard.values().filter_map(|standing| standing.cluster());
        if clusters.clone().any(|found| found == cluster) { None } else { clusters.next() }
    }

    /// What a disk does that is the only node of `cluster`. It needs nobody to be its controller, so that it belongs
    /// with the configured peers has to be known before: they are in its cluster, or all of them are in none.
    ///
    /// # Errors
    /// The cluster that a peer is in instead.
    pub(crate) fn lone_disk(&self, cluster: ClusterId) -> Result<LoneDisk, ClusterId> {
        let clusters: BTreeSet<ClusterId> = self.heard.values().filter_map(|standing| standing.cluster()).collect();
        if let Some(other) = clusters.iter().find(|found| **found != cluster) {
            return Err(*other);
        }
        let silent = self.missing(|standing| !matches!(standing, Standing::Opening));
        Ok(if silent.is_empty() || !clusters.is_empty() {
            LoneDisk::Lead
        } else if self.waited >= self.patience {
            LoneDisk::Refuse { silent }
        } else {
            LoneDisk::Wait(StartPhase::WaitingForPeersOfLoneDisk { silent })
        })
    }

    /// The founder with the lowest broker id.
    pub(crate) fn first(&self) -> BrokerId {
        self.founders.first().copied().unwrap_or(self.me)
    }

    fn missing(&self, is_there: impl Fn(&Standing) -> bool) -> Vec<BrokerId> {
        let is_missing = |founder: &BrokerId| *founder != self.me && !self.heard.get(founder).is_some_and(&is_there);
        self.founders.iter().copied().filter(is_missing).collect()
    }

    fn majority_after_patience(&self, is_there: impl Fn(&Standing) -> bool) -> bool {
        let there = self.founders.len() - self.missing(is_there).len();
        there > self.founders.len() / 2 && self.waited >= self.patience
    }

    /// The cluster of all peers whose standing is `of_interest`; refuses two.
    fn one_cluster(&self, of_interest: impl Fn(&Standing) -> bool) -> Result<Option<ClusterId>, FoundingRefused> {
        let mut found: Option<(BrokerId, ClusterId)> = None;
        for (broker, standing) in self.heard.iter().filter(|(_, standing)| of_interest(standing)) {
            let Some(cluster) = standing.cluster() else { continue };
            match found {
                None => found = Some((*broker, cluster)),
                Some((one, first)) if first != cluster => {
                    return Err(FoundingRefused::TwoClusters { one, first, other: *broker, second: cluster });
                }
                Some(_) => {}
            }
        }
        Ok(found.map(|(_, cluster)| cluster))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn id(n: u32) -> BrokerId {
        BrokerId::new(n)
    }

    fn cluster(n: u8) -> ClusterId {
        ClusterId::from_bytes([n; 16])
    }

    fn ask<T>(me: u32, heard: &[(u32, Standing)], waited: Duration, decide: impl Fn(&Census<'_>) -> T) -> T {
        let founders = (1..=3).map(id).collect();
        let heard = heard.iter().map(|(n, standing)| (id(*n), *standing)).collect();
        decide(&Census { me: id(me), founders: &founders, heard: &heard, waited, patience: PATIENCE })
    }

    fn empty(me: u32, heard: &[(u32, Standing)], waited: Duration) -> Result<EmptyDisk, FoundingRefused> {
        ask(me, heard, waited, |census| census.empty_disk())
    }

    /// Catches: founding alone, founding with a minority, founding early, or never with one founder away.
    #[test]
    fn first_founder_draws_only_with_all_or_with_a_majority_after_a_while() {
        use Standing::{Empty, Opening};
        let waits = |heard: &[(u32, Standing)], waited| matches!(empty(1, heard, waited), Ok(EmptyDisk::Wait(_)));
        assert!(waits(&[], PATIENCE));
        assert!(waits(&[(2, Empty)], Duration::ZERO));
        assert!(waits(&[(2, Empty), (3, Opening)], Duration::ZERO));
        assert!(waits(&[(2, Opening)], PATIENCE));
        assert_eq!(empty(1, &[(2, Empty)], PATIENCE), Ok(EmptyDisk::Draw));
        assert_eq!(empty(1, &[(2, Empty), (3, Empty)], Duration::ZERO), Ok(EmptyDisk::Draw));
        assert!(matches!(empty(2, &[(1, Empty), (3, Empty)], PATIENCE), Ok(EmptyDisk::Wait(_))), "not its business");
    }

    /// Catches: a second founder that comes late, with whom the cluster is founded at once although the third is on its way;
    /// a wait that begins anew with each step of founding, or goes on while too few are there.
    #[test]
    fn patience_counts_from_when_a_majority_is_there() {
        let founders: BTreeSet<BrokerId> = (1..=3).map(id).collect();
        let mut company = Company::default();
        let mut look = |heard: &[(u32, Standing)], now: u64| {
            let heard = heard.iter().map(|(n, standing)| (id(*n), *standing)).collect();
            company.look(id(1), &founders, &heard, Duration::from_secs(now))
        };
        let second = |standing| [(2, standing)];
        assert_eq!(look(&[], 60), Duration::ZERO);
        assert_eq!(look(&second(Standing::Opening), 61), Duration::ZERO, "it does not know yet what it is");
        assert_eq!(look(&second(Standing::Empty), 62), Duration::ZERO);
        assert_eq!(look(&second(Standing::Empty), 66), Duration::from_secs(4));
        assert_eq!(look(&second(Standing::Formatted(cluster(1))), 72), PATIENCE, "also while it is being founded");
        assert_eq!(look(&[(3, Standing::Empty)], 73), Duration::from_secs(11), "a majority, whoever");
        assert_eq!(look(&[], 74), Duration::ZERO);
        assert_eq!(look(&second(Standing::Empty), 75), Duration::ZERO, "from the start");
    }

    /// Catches: an emptied disk that votes again under its founder's id, or founds a second cluster beside its own.
    #[test]
    fn empty_disk_that_meets_a_cluster_joins_it() {
        let member = Standing::Member(cluster(1));
        for me in 1..=4 {
            let other = if me == 2 { 3 } else { 2 };
            let heard = [(other, member)];
            assert_eq!(empty(me, &heard, PATIENCE), Ok(EmptyDisk::Join(cluster(1))), "broker {me}");
        }
        // The first founder is still founding in its own eyes; a member knows better.
        let heard = [(1, Standing::Founding(cluster(1))), (3, member)];
        assert_eq!(empty(2, &heard, Duration::ZERO), Ok(EmptyDisk::Join(cluster(1))));
        let heard = [(2, member), (3, Standing::Member(cluster(2)))];
        assert!(matches!(empty(1, &heard, PATIENCE), Err(FoundingRefused::TwoClusters { .. })));
        let heard = [(2, Standing::Joining(cluster(1))), (3, Standing::Empty)];
        assert!(matches!(empty(1, &heard, PATIENCE), Ok(EmptyDisk::Wait(_))), "a joining disk proves a cluster");
    }

    /// Catches: a founder that takes the word of another than the first for "nobody has voted yet".
    #[test]
    fn founders_follow_the_first_alone() {
        assert_eq!(empty(3, &[(1, Standing::Founding(cluster(1)))], Duration::ZERO), Ok(EmptyDisk::Follow(cluster(1))));
        let wait = Ok(EmptyDisk::Wait(StartPhase::WaitingForFirstFounder { first: id(1) }));
        assert_eq!(empty(3, &[(2, Standing::Formatted(cluster(1)))], PATIENCE), wait);
        assert_eq!(empty(3, &[(1, Standing::Formatted(cluster(1)))], PATIENCE), wait);
        assert!(matches!(empty(4, &[(1, Standing::Founding(cluster(1)))], PATIENCE), Ok(EmptyDisk::Wait(_))));
    }

    /// Catches: a first founder that was emptied while founding and draws a second id, or takes up the first one
    /// although a peer that does not answer may be a member already.
    #[test]
    fn emptied_first_founder_takes_up_the_id_only_when_all_are_heard() {
        let formatted = Standing::Formatted(cluster(1));
        assert!(matches!(empty(1, &[(2, formatted)], PATIENCE), Ok(EmptyDisk::Wait(_))));
        let both = [(2, formatted), (3, Standing::Empty)];
        assert_eq!(empty(1, &both, Duration::ZERO), Ok(EmptyDisk::Adopt(cluster(1))));
        let torn = [(2, formatted), (3, Standing::Formatted(cluster(2)))];
        assert!(matches!(empty(1, &torn, PATIENCE), Err(FoundingRefused::TwoClusters { .. })));
    }

    /// Catches: a former cluster of one that serves beside the cluster it was given as peers, or without having asked.
    #[test]
    fn lone_disk_leads_only_peers_that_are_in_no_other_cluster() {
        let (mine, other) = (cluster(1), cluster(2));
        let decide = |heard: &[(u32, Standing)], waited| ask(1, heard, waited, |c| c.lone_disk(mine));
        let waits = |heard: &[(u32, Standing)]| matches!(decide(heard, Duration::ZERO), Ok(LoneDisk::Wait(_)));
        assert!(waits(&[]) && waits(&[(2, Standing::Empty)]));
        assert!(waits(&[(2, Standing::Empty), (3, Standing::Opening)]));
        assert_eq!(decide(&[], PATIENCE), Ok(LoneDisk::Refuse { silent: vec![id(2), id(3)] }));
        assert_eq!(decide(&[(2, Standing::Empty)], PATIENCE), Ok(LoneDisk::Refuse { silent: vec![id(3)] }));
        let empty = [(2, Standing::Empty), (3, Standing::Empty)];
        assert_eq!(decide(&empty, Duration::ZERO), Ok(LoneDisk::Lead));
        assert_eq!(decide(&[(3, Standing::Joining(mine))], Duration::ZERO), Ok(LoneDisk::Lead));
        for standing in [Standing::Member(other), Standing::Founding(other), Standing::Joining(other)] {
            assert_eq!(decide(&[(2, Standing::Empty), (3, standing)], PATIENCE), Err(other));
            assert_eq!(decide(&[(2, Standing::Member(mine)), (3, standing)], PATIENCE), Err(other));
        }
        let alone = BTreeSet::from([id(1)]);
        let heard = BTreeMap::new();
        let census = Census { me: id(1), founders: &alone, heard: &heard, waited: Duration::ZERO, patience: PATIENCE };
        assert_eq!(census.lone_disk(mine), Ok(LoneDisk::Lead), "it has no peers but itself");
    }

    /// Catches: a member that is refused because somebody put a foreign disk under one of its peers.
    #[test]
    fn other_cluster_is_one_that_nobody_speaks_against() {
        let (mine, other) = (cluster(1), Standing::Member(cluster(2)));
        let decide = |heard: &[(u32, Standing)]| ask(1, heard, PATIENCE, |c| c.other_cluster(mine));
        assert_eq!(decide(&[]), None);
        assert_eq!(decide(&[(2, Standing::Opening), (3, Standing::Empty)]), None);
        assert_eq!(decide(&[(2, other), (3, Standing::Opening)]), Some(cluster(2)));
        assert_eq!(decide(&[(2, other), (3, Standing::Member(mine))]), None);
    }

    /// Catches: initialising with founders that have no disk yet, or a lost log taken for a founding that goes on.
    #[test]
    fn first_founder_initialises_with_formatted_founders() {
        let decide = |heard: &[(u32, Standing)], waited| ask(1, heard, waited, |c| c.first_founder(cluster(1)));
        let formatted = Standing::Formatted(cluster(1));
        assert!(matches!(decide(&[(2, formatted), (3, Standing::Empty)], Duration::ZERO), Ok(FirstFounder::Wait(_))));
        assert_eq!(decide(&[(2, formatted), (3, formatted)], Duration::ZERO), Ok(FirstFounder::Initialise));
        assert_eq!(decide(&[(2, formatted)], PATIENCE), Ok(FirstFounder::Initialise));
        assert!(matches!(decide(&[], PATIENCE), Ok(FirstFounder::Wait(_))));
        let lost = decide(&[(2, Standing::Member(cluster(1))), (3, formatted)], PATIENCE);
        assert!(matches!(lost, Err(FoundingRefused::LogLost { .. })));
        let other = decide(&[(2, Standing::Formatted(cluster(2))), (3, formatted)], PATIENCE);
        assert!(matches!(other, Err(FoundingRefused::TwoClusters { .. })));
    }
}
