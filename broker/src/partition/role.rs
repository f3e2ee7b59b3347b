//! This broker's part in a partition, as the cluster metadata says.

use std::collections::BTreeMap;

use streambus_consensus::image::{ClusterImage, PartitionImage, TopicImage};
use streambus_planted::{Defect, is_planted};
use streambus_protocol::api::session::{ErrorBody, LeaderHint};
use streambus_protocol::epoch::{LeaderEpoch, PartitionEpoch};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::BrokerId;
use streambus_protocol::topic_config::TopicConfig;

use crate::replication::in_sync::PartitionVersion;
use crate::replication::leader_state::{LeaderView, Registered};

/// A partition's state in one version of the metadata, seen from this broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Role {
    /// Who leads.
    pub leadership: Leadership,
    /// Grows with each change of leadership.
    pub leader_epoch: LeaderEpoch,
    /// Grows with each change of this state.
    pub partition_epoch: PartitionEpoch,
    /// Every broker that holds the partition.
    pub replicas: Vec<BrokerId>,
    /// Those that hold all that is committed.
    pub in_sync: Vec<BrokerId>,
    /// Those that left the in-sync set with everything committed (KIP-966).
    pub eligible: Vec<BrokerId>,
    /// True from an unclean election until the in-sync set grows again.
    pub recovering: bool,
    /// The last leadership that began with an unclean election.
    pub unclean_epoch: Option<LeaderEpoch>,
    /// The limit of the move that is under way, if it has one of its own.
    pub move_limit: Option<MoveLimit>,
    /// Those of the replicas that are registered.
    pub registered: BTreeMap<BrokerId, Registered>,
    /// The topic's settings.
    pub settings: TopicConfig,
}

/// What a move may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveLimit {
    /// Whom it adds.
    pub adding: Vec<BrokerId>,
    /// What they may be sent in a second, all together; zero for no limit.
    pub bytes_per_second: u64,
}

/// Who leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// This broker.
    Here,
    /// Another broker.
    There(BrokerId),
    /// Nobody now.
    Nobody,
}

/// The proof that this broker leads a partition in an epoch; appending asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct LeaderToken {
    epoch: LeaderEpoch,
}

impl LeaderToken {
    /// The epoch that is written into the batches.
    pub fn epoch(self) -> LeaderEpoch {
        self.epoch
    }
}

impl Leadership {
    /// That of a partition led by `leader`, seen from `broker`.
    pub fn of(broker: BrokerId, leader: Option<BrokerId>) -> Self {
        match leader {
            Some(leader) if leader == broker => Self::Here,
            Some(leader) => Self::There(leader),
            None => Self::Nobody,
        }
    }
}

impl Role {
    /// The part of `broker`, one of its replicas, in a partition of `topic` whose state is `state` in `image`.
    pub fn of(broker: BrokerId, image: &ClusterImage, topic: &TopicImage, state: &PartitionImage) -> Self {
        let registered = |id: &BrokerId| {
            let broker = image.brokers.get(id)?;
            Some((*id, Registered { epoch: broker.epoch, may_join: broker.standing().is_eligible() }))
        };
        Self {
            leadership: Leadership::of(broker, state.leader),
            leader_epoch: state.leader_epoch,
            partition_epoch: state.partition_epoch,
            replicas: state.replicas.clone(),
            in_sync: state.isr.clone(),
            eligible: state.elr.clone(),
            recovering: state.recovering,
            unclean_epoch: state.unclean_epoch,
            move_limit: state
                .throttle
                .map(|bytes_per_second| MoveLimit { adding: state.adding.clone(), bytes_per_second }),
            registered: state.replicas.iter().filter_map(registered).collect(),
            settings: topic.settings.clone(),
        }
    }

    /// The proof that this broker leads, for a request that names `epoch`.
    ///
    /// # Errors
    /// `NOT_LEADER`, `LEADER_NOT_AVAILABLE`, or one of the two epoch errors of KIP-320.
    pub fn lead(&self, epoch: LeaderEpoch) -> Result<LeaderToken, ErrorBody> {
        match self.leadership {
            Leadership::Here => {}
            Leadership::There(leader) => {
                return Err(ErrorBody::new(
                    ErrorCode::NotLeader,
                    format!(
                        "broker {leader} leads this partition in epoch {}: refresh the metadata",
                        self.leader_epoch
                    ),
                )
                .with_leader(self.leader_hint()));
            }
            Leadership::Nobody => {
                return Err(ErrorBody::new(
                    ErrorCode::LeaderNotAvailable,
                    "this partition has no leader now: try again shortly",
                ));
            }
        }
        self.check_epoch(epoch)?;
        Ok(LeaderToken { epoch: self.leader_epoch })
    }

    /// Checks the epoch that a request names against the present one.
    ///
    /// # Errors
    /// One of the two epoch errors of KIP-320.
    pub fn check_epoch(&self, epoch: LeaderEpoch) -> Result<(), ErrorBody> {
        let current = self.leader_epoch;
        if epoch == LeaderEpoch::UNKNOWN || epoch == current {
            Ok(())
        } else if epoch < current {
            Err(ErrorBody::new(
                ErrorCode::FencedLeaderEpoch,
                format!("the request names leader epoch {epoch}, the current one is {current}: refresh the metadata"),
            ))
        } else {
            Err(ErrorBody::new(
                ErrorCode::UnknownLeaderEpoch,
                format!("the request names leader epoch {epoch}, this broker knows only {current}: try again shortly"),
            ))
        }
    }

    /// What `follower` may be sent in a second when no commit waits for it, if it is added by a move that has a limit of its
    /// own; zero for no limit.
    pub fn move_limit_for(&self, follower: BrokerId) -> Option<u64> {
        let limit = self.move_limit.as_ref().filter(|limit| limit.adding.contains(&follower))?;
        Some(limit.bytes_per_second)
    }

    /// The leader that requests should go to, when it is another broker.
    pub fn leader_hint(&self) -> Option<LeaderHint> {
        match self.leadership {
            Leadership::There(leader) => Some(LeaderHint { leader, leader_epoch: self.leader_epoch }),
            Leadership::Here | Leadership::Nobody => None,
        }
    }

    /// True when other brokers hold the partition too: what is committed is then a matter between them.
    pub fn is_replicated(&self) -> bool {
        self.replicas.len() > 1
    }

    /// The role as the leader's rules take it.
    pub fn leader_view(&self) -> LeaderView {
        LeaderView {
            version: PartitionVersion {
                leader_epoch: self.leader_epoch,
                partition_epoch: self.partition_epoch,
                isr: self.in_sync.clone(),
                recovering: self.recovering,
            },
            replicas: self.replicas.clone(),
            replicas_min: self.commit_replicas_min(),
            registered: self.registered.clone(),
        }
    }

    /// How many replicas must be in sync for anything to be committed: as the metadata group counts it
    /// ([`PartitionImage::in_sync_min`](streambus_consensus::image::PartitionImage::in_sync_min)), since which replicas
    /// are known to be complete rests on both counting alike.
    pub fn commit_replicas_min(&self) -> usize {
        if is_planted(Defect::WatermarkBelowMinIsr) {
            return 1;
        }
        usize::from(self.settings.min_insync_replicas).min(self.replicas.len()).max(1)
    }

    /// Whether as many replicas are in sync as the topic demands.
    pub fn has_enough_in_sync(&self) -> bool {
        self.in_sync.len() >= self.commit_replicas_min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(leadership: Leadership) -> Role {
        Role {
            leadership,
            leader_epoch: LeaderEpoch::new(5),
            partition_epoch: PartitionEpoch::ZERO,
            replicas: vec![BrokerId::new(1)],
            in_sync: vec![BrokerId::new(1)],
            eligible: Vec::new(),
            recovering: false,
            unclean_epoch: None,
            move_limit: None,
            registered: BTreeMap::new(),
            settings: TopicConfig::parse(&BTreeMap::new()).expect("the defaults"),
        }
    }

    // Catches a fence that lets a deposed leader's clients write.
    #[test]
    fn only_the_current_epoch_or_none_may_lead() {
        let here = role(Leadership::Here);
        assert_eq!(here.lead(LeaderEpoch::new(5)).expect("current").epoch(), LeaderEpoch::new(5));
        assert_eq!(here.lead(LeaderEpoch::UNKNOWN).expect("unknown").epoch(), LeaderEpoch::new(5));
        let code = |epoch| here.lead(LeaderEpoch::new(epoch)).expect_err("another epoch").code;
        assert_eq!(code(4), ErrorCode::FencedLeaderEpoch);
        assert_eq!(code(6), ErrorCode::UnknownLeaderEpoch);
    }

    #[test]
    fn others_do_not_lead() {
        let there = role(Leadership::There(BrokerId::new(2)));
        assert_eq!(there.lead(LeaderEpoch::UNKNOWN).expect_err("not here").code, ErrorCode::NotLeader);
        let nobody = role(Leadership::Nobody);
        assert_eq!(nobody.lead(LeaderEpoch::UNKNOWN).expect_err("nobody").code, ErrorCode::LeaderNotAvailable);
    }
}
