//! Moving a partition to other brokers (KIP-455).
//!
//! R1: while it moves, the replicas are the target ones and then those that will go; the in-sync set is left to the
//! leader. The transition completes the move by itself. R3: nothing that is given up at once, by a cancel or by another
//! target, may leave too few replicas in sync and alive. A limit of its own goes with the move: another request for the
//! same target sets another limit.

use streambus_protocol::ids::{BrokerId, PartitionId};

use super::transition::{Moving, Transition, select};
use super::{ClusterState, Touched};
use crate::election::Standing;
use crate::image::{PartitionImage, TopicImage};
use crate::limits::REPLICAS_MAX;
use crate::outcome::{AssignmentProblem, Outcome, RefusedReason};

impl ClusterState {
    pub(super) fn reassign(
        &mut self,
        id: PartitionId,
        target: &[BrokerId],
        throttle: Option<u64>,
        touched: &mut Touched,
    ) -> Result<Outcome, RefusedReason> {
        let (_, partition) = self.moved_partition(id)?;
        let original = original_replicas(partition);
        let invalid = |problem| RefusedReason::InvalidAssignment { partition: id.partition.get(), problem };
        self.check_target(target, &partition.replicas, &original).map_err(invalid)?;
        let adding = select(target, |broker| !original.contains(&broker));
        let removing = select(&original, |broker| !target.contains(&broker));
        self.move_partition(id, target, Moving { adding, removing, throttle }, touched)
    }

    pub(super) fn cancel_reassign(&mut self, id: PartitionId, touched: &mut Touched) -> Result<Outcome, RefusedReason> {
        let (_, partition) = self.moved_partition(id)?;
        if !partition.is_moving() {
            return Ok(Outcome::Reassigned { adding: Vec::new(), removing: Vec::new() });
        }
        let original = original_replicas(partition);
        self.move_partition(id, &original, Moving::default(), touched)
    }

    fn move_partition(
        &mut self,
        id: PartitionId,
        target: &[BrokerId],
        moving: Moving,
        touched: &mut Touched,
    ) -> Result<Outcome, RefusedReason> {
        let (topic, partition) = self.moved_partition(id)?;
        let change = Transition::new(partition, &topic.settings).assigned(target, moving);
        self.check_what_stays(id, topic, partition, change.replicas())?;
        let next = change.finish(|broker| self.standing(broker))?;
        let now = next.as_ref().unwrap_or(partition);
        let outcome = Outcome::Reassigned { adding: now.adding.clone(), removing: now.removing.clone() };
        if let Some(next) = next {
            self.change_partitions(vec![(id, next)], touched);
        }
        Ok(outcome)
    }

    fn moved_partition(&self, id: PartitionId) -> Result<(&TopicImage, &PartitionImage), RefusedReason> {
        let topic = self.topic(id.topic)?;
        Ok((topic, topic.partition(id.partition).ok_or(RefusedReason::UnknownPartition(id))?))
    }

    /// R3, for replicas that go at once: those of a move that is given up.
    fn check_what_stays(
        &self,
        id: PartitionId,
        topic: &TopicImage,
        before: &PartitionImage,
        replicas: &[BrokerId],
    ) -> Result<(), RefusedReason> {
        // When nobody is complete, what the last known ones hold is all there is.
        let nobody = before.isr.is_empty() && before.elr.is_empty();
        let last_known = if nobody { before.last_known_elr.as_slice() } else { &[] };
        let complete = || before.isr.iter().chain(&before.elr).chain(last_known);
        if complete().all(|broker| replicas.contains(broker)) {
            return Ok(());
        }
        let after = PartitionImage { replicas: replicas.to_vec(), ..PartitionImage::default() };
        let enough = after.in_sync_min(&topic.settings);
        let stays = |broker: &&BrokerId| replicas.contains(broker);
        let in_sync = before.isr.iter().filter(stays).filter(|b| self.standing(**b).is_eligible()).count();
        let needed = enough.min(before.isr.len().max(1));
        // L1: those out of sync that are complete count towards what must not be lost, though not towards writes.
        let keeps_enough = complete().filter(stays).count() >= enough.min(complete().count());
        if in_sync >= needed && keeps_enough {
            return Ok(());
        }
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Err(RefusedReason::TooFewInSync { id, in_sync: number(in_sync), needed: number(enough) })
    }

    fn check_target(
        &self,
        target: &[BrokerId],
        present: &[BrokerId],
        original: &[BrokerId],
    ) -> Result<(), AssignmentProblem> {
        if target.is_empty() {
            return Err(AssignmentProblem::Empty);
        }
        if target.len() + original.iter().filter(|broker| !target.contains(broker)).count() > REPLICAS_MAX {
            return Err(AssignmentProblem::TooMany);
        }
        for (position, broker) in target.iter().enumerate() {
            if target.iter().take(position).any(|earlier| earlier == broker) {
                return Err(AssignmentProblem::Repeated(*broker));
            }
            let registered = self.broker(*broker).ok_or(AssignmentProblem::UnknownBroker(*broker))?;
            if present.contains(broker) {
                continue;
            }
            match registered.standing() {
                Standing::Fenced | Standing::Stopping => return Err(AssignmentProblem::Fenced(*broker)),
                Standing::Draining => return Err(AssignmentProblem::Draining(*broker)),
                Standing::Serving => {}
            }
        }
        Ok(())
    }
}

/// The replicas from before the move.
fn original_replicas(partition: &PartitionImage) -> Vec<BrokerId> {
    select(&partition.replicas, |broker| !partition.adding.contains(&broker))
}
