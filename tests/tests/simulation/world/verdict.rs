//! The verdict: what clients saw, and what is on the disks when everything is over.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use streambus_tests::checker::{check_controllers, check_metadata_logs, check_replicas, check_run};
use streambus_tests::dump::LogDump;

use super::{MIN_ISR, World};
use crate::machine::host;

impl World<'_> {
    pub(super) fn judge(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.panicked.load(Ordering::Relaxed) {
            problems.push("something panicked: see the trace".to_owned());
        }
        let Some((read, watermarks)) = self.progress.lock().read.take() else { return problems };
        problems.extend(check_run(&self.trace.events(), &read, MIN_ISR).iter().map(ToString::to_string));
        let mut replicas: BTreeMap<String, BTreeMap<u32, LogDump>> = BTreeMap::new();
        let (mut ends, mut metadata) = (BTreeMap::new(), BTreeMap::new());
        for (id, machine) in &self.machines {
            machine.lose_process();
            self.sim.crash(host(*id));
            match machine.held_metadata() {
                Ok(held) => drop(metadata.insert(*id, held)),
                Err(problem) => problems.push(format!("the metadata on the disk of broker {id}: {problem}")),
            }
            match machine.dump() {
                Ok(logs) => {
                    for (partition, log) in logs {
                        ends.insert(partition.to_string(), watermarks.get(partition.partition.get() as usize).copied());
                        replicas.entry(partition.to_string()).or_default().insert(*id, log);
                    }
                }
                Err(problem) => problems.push(format!("the disk of broker {id}: {problem}")),
            }
        }
        problems.extend(check_metadata_logs(&metadata).iter().map(ToString::to_string));
        let controllers = check_controllers(&self.trace.events(), &metadata);
        problems.extend(controllers.iter().map(ToString::to_string));
        if replicas.len() != self.partitions as usize {
            problems.push(format!("{} logs on the disks for {} partitions", replicas.len(), self.partitions));
        }
        for (log, replicas) in &replicas {
            if replicas.len() != self.machines.len() {
                problems.push(format!("{log} is on {} disks only", replicas.len()));
            }
            let watermark = ends.get(log).copied().flatten().unwrap_or(0);
            problems.extend(check_replicas(log, watermark, replicas).iter().map(ToString::to_string));
        }
        problems
    }
}
