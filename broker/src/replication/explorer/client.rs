//! The client: one idempotent producer that keeps at it, and others that do not care.

use streambus_protocol::ids::BrokerId;

use super::lineage::Lineage;
use super::world::{WINDOW, Waiting, World};

impl World {
    pub(super) fn produce(&mut self, id: BrokerId) {
        let replica = &self.replicas[&id];
        let Some(leader_epoch) = replica.leads().filter(|_| replica.is_up) else { return };
        let life = replica.life;
        if self.random.chance(25) {
            self.next_noise += 1;
            let value = self.next_noise;
            let _place = self.replica(id).produce(value, false);
            self.note(format!("broker {id} appends {value}, which nobody waits for"));
            return;
        }
        let Some(first) = self.lineages.of(leader_epoch).map(Lineage::next_value) else { return };
        for value in first..first + WINDOW {
            if let Some(next) = self.replica(id).produce(value, true) {
                self.next_value = self.next_value.max(value + 1);
                self.note(format!("broker {id} has record {value} at {} in epoch {leader_epoch}", next - 1));
                self.waiting.push(Waiting { broker: id, life, leader_epoch, value, next });
            }
        }
    }

    /// Acknowledges what is committed, as the leader that appended it sees it.
    pub(super) fn acknowledge(&mut self) -> Result<(), String> {
        let mut acknowledged = Vec::new();
        let replicas = &self.replicas;
        self.waiting.retain(|waiting| {
            let replica = &replicas[&waiting.broker];
            let leads = replica.is_up && replica.life == waiting.life && replica.leads() == Some(waiting.leader_epoch);
            let is_committed = leads && replica.high_watermark >= waiting.next;
            if is_committed {
                acknowledged.push(*waiting);
            }
            leads && !is_committed
        });
        for Waiting { value, next, leader_epoch, .. } in acknowledged {
            if let Some(lineage) = self.lineages.of_mut(leader_epoch) {
                self.acknowledged += usize::from(lineage.promise(next - 1, value)?);
            }
        }
        Ok(())
    }
}
