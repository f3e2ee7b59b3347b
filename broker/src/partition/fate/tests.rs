//! What becomes of a log, by each kind of metadata.

use std::collections::BTreeMap;

use streambus_consensus::command::{Assignment, Command};
use streambus_protocol::ids::{PartitionIndex, TopicId, TopicName};
use streambus_protocol::timestamp::Timestamp;

use super::*;
use crate::partition::fixture::Metadata;

const ONE: BrokerId = BrokerId::new(1);
const TWO: BrokerId = BrokerId::new(2);
const THREE: BrokerId = BrokerId::new(3);
const BROKERS: [BrokerId; 3] = [ONE, TWO, THREE];

fn log(id: PartitionId, newest_epoch: Option<u32>) -> HeldLog {
    HeldLog { id, newest_epoch: newest_epoch.map(LeaderEpoch::new), records: 5, bytes: 500 }
}

/// The present life of `broker`.
fn life(metadata: &Metadata, broker: BrokerId) -> Life {
    Life { broker, epoch: metadata.image().brokers[&broker].epoch }
}

/// Three brokers, and a topic on the first two.
fn world() -> (Metadata, PartitionId) {
    let mut metadata = Metadata::founded();
    for broker in BROKERS {
        metadata.start(broker);
    }
    let id = metadata.create_topic(1, "t", &[ONE, TWO]);
    (metadata, id)
}

// Catches a log that is kept although its topic is known to be deleted, and one that is deleted because nothing is known.
#[test]
fn only_the_record_of_its_deletion_deletes_a_log_of_no_topic() {
    let (mut metadata, id) = world();
    let decide = |metadata: &Metadata, id| fate(&log(id, Some(0)), &metadata.image(), life(metadata, ONE));
    assert_eq!(decide(&metadata, id), Fate::Keep);
    let unknown = PartitionId { topic: TopicId::from_bytes([9; 16]), ..id };
    assert_eq!(decide(&metadata, unknown), Fate::Quarantine(Doubt::UnknownTopic));
    let beyond = PartitionId { partition: PartitionIndex::new(1), ..id };
    assert_eq!(decide(&metadata, beyond), Fate::Quarantine(Doubt::UnknownPartition));
    metadata.apply(&Command::DeleteTopic { id: id.topic });
    let again = metadata.create_topic(2, "t", &[ONE, TWO]);
    assert_eq!(decide(&metadata, id), Fate::Delete(Gone::TopicDeleted));
    assert_eq!(decide(&metadata, again), Fate::Keep, "the name says nothing");
}

// Catches deleting by metadata that may be older than the log: empty, or of before this process registered.
#[test]
fn metadata_from_before_this_life_deletes_nothing() {
    let (mut metadata, id) = world();
    let mut images = vec![std::sync::Arc::new(ClusterImage::empty()), metadata.image()];
    metadata.apply(&Command::DeleteTopic { id: id.topic });
    images.push(metadata.image());
    let former = life(&metadata, ONE).epoch;
    metadata.restart(ONE, former);
    let me = life(&metadata, ONE);
    for image in images {
        assert_eq!(fate(&log(id, Some(0)), &image, me), Fate::Quarantine(Doubt::Unconfirmed), "{}", image.applied);
    }
    assert_eq!(fate(&log(id, Some(0)), &metadata.image(), me), Fate::Delete(Gone::TopicDeleted));
}

// Catches the only complete copy of a partition that goes while it moves, or while those that took over have failed.
#[test]
fn a_replica_that_moved_away_goes_once_the_others_are_complete_and_not_before() {
    let (mut metadata, id) = world();
    let decide = |metadata: &Metadata, broker| fate(&log(id, Some(0)), &metadata.image(), life(metadata, broker));
    assert_eq!(decide(&metadata, THREE), Fate::Quarantine(Doubt::NewerThanMetadata { known: LeaderEpoch::ZERO }));
    metadata.apply(&Command::Reassign { id, replicas: vec![TWO, THREE], throttle: None });
    for broker in BROKERS {
        assert_eq!(decide(&metadata, broker), Fate::Keep, "it moves");
    }
    metadata.set_in_sync(id, &BROKERS);
    assert_eq!(decide(&metadata, ONE), Fate::Delete(Gone::MovedAway));
    assert_eq!((decide(&metadata, TWO), decide(&metadata, THREE)), (Fate::Keep, Fate::Keep));
    let epoch = life(&metadata, THREE).epoch;
    metadata.apply(&Command::FenceBroker { broker: THREE, epoch });
    assert_eq!(decide(&metadata, ONE), Fate::Quarantine(Doubt::TooFewCopies), "two have to be in sync");
    metadata.apply(&Command::UnfenceBroker { broker: THREE, epoch });
    metadata.set_in_sync(id, &[TWO, THREE]);
    assert_eq!(decide(&metadata, ONE), Fate::Delete(Gone::MovedAway));
}

// Catches a replica that was added, given up, and stays for ever.
#[test]
fn what_a_cancelled_move_has_copied_goes() {
    let (mut metadata, id) = world();
    metadata.apply(&Command::Reassign { id, replicas: vec![ONE, TWO, THREE], throttle: None });
    metadata.apply(&Command::CancelReassign { id });
    let decided = fate(&log(id, Some(0)), &metadata.image(), life(&metadata, THREE));
    assert_eq!(decided, Fate::Delete(Gone::MovedAway));
}

// Catches the loss of everything after the metadata was set back to before a move: the old places are empty by then, and the
// new ones would take their logs for left over.
#[test]
fn metadata_that_was_set_back_does_not_delete_what_moved_since() {
    let (metadata, id) = world();
    let (image, me) = (metadata.image(), life(&metadata, THREE));
    let known = LeaderEpoch::ZERO;
    for newest in [0, 1, 7] {
        let decided = fate(&log(id, Some(newest)), &image, me);
        assert_eq!(decided, Fate::Quarantine(Doubt::NewerThanMetadata { known }), "copied in epoch {newest}");
    }
    assert_eq!(fate(&log(id, None), &image, me), Fate::Quarantine(Doubt::Undated));
    let empty = HeldLog { records: 0, ..log(id, None) };
    assert_eq!(fate(&empty, &image, me), Fate::Delete(Gone::MovedAway), "there is nothing to lose");
}

// Catches an old copy that goes while nobody leads the partition that it is of, or while an unclean leader is all there is:
// whatever else is lost then, it is the best there is.
#[test]
fn an_old_copy_stays_while_nobody_leads_or_the_leader_recovers() {
    let (mut metadata, _) = world();
    let topic = TopicId::from_bytes([5; 16]);
    let id = PartitionId { topic, partition: PartitionIndex::new(0) };
    metadata.apply(&Command::CreateTopic {
        name: TopicName::new("few").expect("a name"),
        id: topic,
        partitions: vec![Assignment { replicas: vec![ONE, TWO] }],
        config: BTreeMap::from([("unclean.leader.election.enable".to_owned(), "true".to_owned())]),
        at: Timestamp::from_millis(1),
    });
    metadata.set_in_sync(id, &[ONE]);
    metadata.apply(&Command::Reassign { id, replicas: vec![THREE, TWO], throttle: None });
    metadata.set_in_sync(id, &[ONE, THREE]);
    let decide = |metadata: &Metadata| fate(&log(id, Some(0)), &metadata.image(), life(metadata, ONE));
    assert_eq!(decide(&metadata), Fate::Delete(Gone::MovedAway), "one has to be in sync, and is");

    let [two, three] = [TWO, THREE].map(|broker| life(&metadata, broker).epoch);
    metadata.apply(&Command::FenceBroker { broker: TWO, epoch: two });
    metadata.apply(&Command::FenceBroker { broker: THREE, epoch: three });
    let state = |metadata: &Metadata| PartitionImage::clone(metadata.image().partition(id).expect("a partition"));
    assert_eq!((state(&metadata).leader, state(&metadata).isr), (None, vec![THREE]));
    assert_eq!(decide(&metadata), Fate::Quarantine(Doubt::TooFewCopies), "nobody leads");

    metadata.apply(&Command::UnfenceBroker { broker: TWO, epoch: two });
    assert_eq!((state(&metadata).leader, state(&metadata).recovering), (Some(TWO), true));
    assert_eq!(decide(&metadata), Fate::Quarantine(Doubt::TooFewCopies), "it may lack what was acknowledged");
}
