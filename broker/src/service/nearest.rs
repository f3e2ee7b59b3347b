//! Which replica a consumer reads from (KIP-392): the leader, or one in sync that stands where the consumer does.
//!
//! A consumer that names its rack is sent by the leader to a replica in sync there. That replica answers as long as it
//! cannot be far behind: the metadata counts it as in sync, so that nothing is committed without it; its broker is in
//! contact with the controller; and it has heard its leader a moment ago, so that it was told what is committed. It serves
//! what lies below the watermark it knows, and leaves every question that only the leader can answer to the leader.

use std::sync::Arc;
use std::time::Duration;

use streambus_protocol::api::session::{ErrorBody, LeaderHint};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, PartitionIndex, TopicId};
use streambus_protocol::offset::Offset;

use crate::cluster::contact::Contact;
use crate::partition::Partition;
use crate::partition::read::ReadScope;
use crate::partition::registry::Registry;
use crate::partition::role::Leadership;
use crate::service::directory::Directory;

/// A partition that may be read here, and how.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// The partition.
    pub(crate) partition: Arc<Partition>,
    /// The leadership in which it is read.
    pub(crate) epoch: LeaderEpoch,
    /// How far.
    pub(crate) scope: ReadScope,
}

impl Directory {
    /// The partition, to be read by a consumer that stands in `rack`, if it said so, and knows `epoch`.
    ///
    /// # Errors
    /// As [`Directory::partition`], and those of [`Partition::lead`].
    pub(crate) fn reading(
        &self,
        topic: TopicId,
        partition: PartitionIndex,
        epoch: LeaderEpoch,
        rack: Option<&str>,
    ) -> Result<Reading, ErrorBody> {
        let partition = self.partition(topic, partition)?;
        let role = partition.role();
        if rack.is_some()
            && let Leadership::There(leader) = role.leadership
            && may_answer_for(leader, &partition, self.broker(), self.contact(), (self.registry(), self.now()))
        {
            role.check_epoch(epoch)?;
            return Ok(Reading { partition, epoch: role.leader_epoch, scope: ReadScope::Followed });
        }
        let epoch = partition.lead(epoch)?.epoch();
        Ok(Reading { partition, epoch, scope: ReadScope::Committed })
    }

    /// The refusal for a consumer in `rack` that is better served by another replica, where `reading` is the leader's: it
    /// names a replica in sync that stands there and has what lies below `from`.
    pub(crate) fn nearer(&self, reading: &Reading, from: Offset, rack: Option<&str>) -> Option<ErrorBody> {
        let rack = rack.filter(|_| reading.scope == ReadScope::Committed)?;
        let image = self.image();
        let stands_there = |broker: BrokerId| {
            let known = image.brokers.get(&broker);
            known.is_some_and(|broker| broker.rack.as_deref() == Some(rack) && broker.standing().is_eligible())
        };
        if stands_there(self.broker()) {
            return None;
        }
        let standings = reading.partition.standings(self.now());
        let near = standings.iter().filter(|replica| replica.in_sync && replica.log_end >= from);
        // Whoever is furthest has least to wait for.
        let nearest = near.filter(|replica| stands_there(replica.broker)).max_by_key(|replica| replica.durable_end)?;
        let hint = LeaderHint { leader: nearest.broker, leader_epoch: reading.epoch };
        let text = format!("broker {} in rack '{rack}' has a replica in sync: read there", nearest.broker);
        Some(ErrorBody::new(ErrorCode::NearerReplica, text).with_leader(Some(hint)))
    }
}

/// True while what `broker`, which follows `leader`, knows to be committed is committed, and is what was a moment ago.
fn may_answer_for(
    leader: BrokerId,
    partition: &Partition,
    broker: BrokerId,
    contact: &Contact,
    (registry, now): (&Registry, Duration),
) -> bool {
    partition.role().in_sync.contains(&broker)
        && !contact.is_lost()
        && registry.is_heard(leader, now)
        && partition.follows_soundly(leader)
}

#[cfg(test)]
mod tests {
    use streambus_protocol::timestamp::Timestamp;
    use streambus_protocol::topic_config::Durability;
    use streambus_storage::clock::{Clock, ManualClock};
    use streambus_storage::config::StoreConfig;

    use super::*;
    use crate::partition::fixture;
    use crate::partition::role::Role;
    use crate::replication::follower_state::{Answer, Asked, LeaderEnds};

    // Catches a follower that answers readers out of sync, cut off from the controller or from its leader, or before its
    // leader has said that the logs match.
    #[test]
    fn a_follower_answers_while_nothing_can_be_committed_behind_its_back() {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(10)));
        let (session, moment) = (Duration::from_secs(3), Duration::from_secs(2));
        let contact = Contact::new(Arc::clone(&clock) as Arc<dyn Clock>, session);
        let registry = Registry::new();
        let store = fixture::store(StoreConfig::default());
        let partition = fixture::partition(&store, 0, Durability::Sync);
        let (me, leader) = (BrokerId::new(1), BrokerId::new(2));
        let role = |in_sync: &[BrokerId], epoch| Role {
            leadership: Leadership::There(leader),
            leader_epoch: LeaderEpoch::new(epoch),
            replicas: vec![me, leader],
            in_sync: in_sync.to_vec(),
            ..Role::clone(&partition.role())
        };
        let matches = |epoch| {
            let leader_epoch = LeaderEpoch::new(epoch);
            let ends = LeaderEnds { log_start: Offset::ZERO, high_watermark: Offset::ZERO, log_end: Offset::ZERO };
            let asked = Asked { leader_epoch, fetch_offset: partition.log().log_end() };
            let answer = Answer { leader_epoch, diverging: None, ends: Ok(ends) };
            partition.take_answer(leader, asked, &answer, &[]).expect("taken");
        };
        let may = |contact: &Contact| may_answer_for(leader, &partition, me, contact, (&registry, clock.monotonic()));
        partition.set_role(role(&[me, leader], 2), Duration::ZERO);
        registry.note_heard(leader, clock.monotonic() + moment);
        assert!(!may(&contact), "its leader has said nothing of this partition");
        matches(2);
        assert!(may(&contact));
        clock.advance(moment);
        assert!(!may(&contact), "its leader is silent");
        registry.note_heard(leader, clock.monotonic() + moment);
        assert!(may(&contact));
        clock.advance(session - moment);
        assert!(!may(&contact), "it may have been taken out of sync without hearing of it");
        assert!(may(&Contact::alone()));
        partition.set_role(role(&[leader], 2), Duration::ZERO);
        assert!(!may(&Contact::alone()), "commits do not wait for it");
        partition.set_role(role(&[me, leader], 3), Duration::ZERO);
        assert!(!may(&Contact::alone()), "of this leadership it has heard nothing");
        matches(3);
        assert!(may(&Contact::alone()));
    }
}
