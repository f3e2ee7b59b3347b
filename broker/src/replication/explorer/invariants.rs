//! What must hold after every step, within each lineage. The names are those of the TLA+ models of KIP-966.

use streambus_protocol::ids::BrokerId;

use super::lineage::Lineage;
use super::model_log::Entry;
use super::replica::{Part, Replica};
use super::world::World;

impl World {
    /// Every invariant, the plainest first.
    pub(super) fn check_invariants(&mut self) -> Result<(), String> {
        self.check_log_matching()?;
        self.check_consistent_read()?;
        self.check_no_committed_record_lost_globally()?;
        self.check_leader_completeness()?;
        self.check_leader_candidate_completeness()?;
        self.check_replication_quorum_superset()?;
        self.lineages.begun().try_for_each(Lineage::check_no_duplicates_and_no_gaps)
    }

    /// LogMatching: two logs that agree on a record's epoch at an offset agree on everything up to it.
    fn check_log_matching(&self) -> Result<(), String> {
        let logs: Vec<_> = self.replicas.values().collect();
        for (place, a) in logs.iter().enumerate() {
            for b in logs.iter().skip(place + 1) {
                let pairs = || a.log.entries().iter().zip(b.log.entries()).enumerate();
                let last_same = pairs().filter(|(_, (x, y))| x.epoch == y.epoch).map(|(at, _)| at).next_back();
                let first_different = pairs().find(|(_, (x, y))| x != y).map(|(at, _)| at);
                if let (Some(same), Some(different)) = (last_same, first_different)
                    && different <= same
                {
                    return Err(format!(
                        "LogMatching: brokers {} and {} have the same epoch at {same} and differ at {different}",
                        a.id, b.id
                    ));
                }
            }
        }
        Ok(())
    }

    /// ConsistentRead: what anybody could read below a watermark, at a leader, a former leader that does not know it or a
    /// follower, is the same for ever, but for what an unclean election gives up.
    fn check_consistent_read(&mut self) -> Result<(), String> {
        for replica in self.replicas.values().filter(|replica| replica.is_up) {
            if matches!(replica.part, Part::Idle) {
                continue;
            }
            let readable = replica.log.entries().get(..replica.high_watermark).ok_or_else(|| {
                format!(
                    "broker {}: watermark {} above the log end {}",
                    replica.id,
                    replica.high_watermark,
                    replica.log.len()
                )
            })?;
            // What is to be cut for an unclean election is shown to nobody.
            let Some(epoch) = replica.reads_in() else { continue };
            // Before anybody leads in it, a lineage shows nothing.
            let Some(lineage) = self.lineages.of_mut(epoch) else { continue };
            for (at, entry) in readable.iter().enumerate() {
                lineage.show(at, *entry).map_err(|broken| format!("broker {}: {broken}", replica.id))?;
            }
        }
        self.lineages.begun().try_for_each(Lineage::check_promises)
    }

    /// NoCommittedRecordLostGlobally: some disk has it. Of earlier lineages only what the latest one began with.
    fn check_no_committed_record_lost_globally(&self) -> Result<(), String> {
        let disks: Vec<_> = self.replicas.values().map(Replica::on_disk).collect();
        let Some(lineage) = self.lineages.begun().next_back() else { return Ok(()) };
        let is_lost = |at: usize, entry: &Entry| disks.iter().all(|disk| disk.get(at) != Some(entry));
        match lineage.visible.iter().find(|(at, entry)| is_lost(**at, entry)) {
            Some((at, entry)) => Err(format!("NoCommittedRecordLostGlobally: {entry:?} at {at} is on no disk")),
            None => Ok(()),
        }
    }

    /// LeaderCompleteness: the leader of the latest epoch has everything that is committed in its lineage.
    fn check_leader_completeness(&self) -> Result<(), String> {
        let state = self.state();
        let leader = state.leader.map(|leader| &self.replicas[&leader]);
        let Some(leader) = leader.filter(|leader| leader.is_up && leader.leads() == Some(state.leader_epoch)) else {
            return Ok(());
        };
        let Some(lineage) = self.lineages.of(state.leader_epoch) else {
            return Err(format!("broker {} leads in a lineage that has not begun", leader.id));
        };
        let missing = lineage.missing_in(leader.log.entries());
        match missing {
            Some((at, entry)) => {
                Err(format!("LeaderCompleteness: broker {} leads without {entry:?} at {at}", leader.id))
            }
            None => Ok(()),
        }
    }

    /// LeaderCandidateCompleteness: whoever the controller may elect without asking has everything on disk.
    fn check_leader_candidate_completeness(&self) -> Result<(), String> {
        let state = self.state();
        // Before anybody has led in it, nothing is committed in a lineage.
        let Some(lineage) = self.lineages.of(state.leader_epoch) else { return Ok(()) };
        for id in state.isr.iter().chain(&state.elr) {
            // A disk that was lost a moment ago: its broker says so before it can lead.
            if !self.has_own_disk(*id) {
                continue;
            }
            if let Some((at, entry)) = lineage.missing_in(self.replicas[id].on_disk()) {
                return Err(format!(
                    "LeaderCandidateCompleteness: broker {id} may lead without {entry:?} at {at} on disk"
                ));
            }
        }
        Ok(())
    }

    /// ReplicationQuorumSuperset: the leader waits for everybody whom the controller counts as in sync (rule I3).
    fn check_replication_quorum_superset(&self) -> Result<(), String> {
        let state = self.state();
        let leader = state.leader.map(|leader| &self.replicas[&leader]);
        let Some((leader, Part::Leading(leading))) = leader.map(|leader| (leader, &leader.part)) else { return Ok(()) };
        if leading.state.leader_epoch() != state.leader_epoch || !leader.is_up {
            return Ok(());
        }
        let waits_for = |id: &BrokerId| *id == leader.id || leading.state.in_sync().is_in_maximal(*id);
        match state.isr.iter().find(|id| !waits_for(id)) {
            Some(id) => Err(format!("ReplicationQuorumSuperset: broker {} does not wait for broker {id}", leader.id)),
            None => Ok(()),
        }
    }
}

impl Replica {
    /// What no power cut can take.
    fn on_disk(&self) -> &[Entry] {
        self.log.entries().get(..self.log.durable_len()).unwrap_or_default()
    }
}
