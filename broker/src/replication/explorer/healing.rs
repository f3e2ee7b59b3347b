//! The phase without faults, in which everything must become well.

use std::time::Duration;

use super::model_log::Entry;
use super::world::World;

/// Rounds without faults within which everything must be well.
const HEAL_ROUNDS: usize = 300;

impl World {
    /// The phase without faults: everything must become well within a bounded number of rounds.
    pub(super) fn heal(&mut self) -> Result<(), String> {
        self.note("no more faults".to_owned());
        let goal = self.acknowledged.len() + 5;
        for _ in 0..HEAL_ROUNDS {
            self.now += Duration::from_millis(100);
            for id in self.ids() {
                self.start(id);
                // A life that began to shut down ends.
                let stopping = self.image().brokers.get(&id).is_some_and(|broker| broker.in_controlled_shutdown);
                if stopping && self.replicas[&id].epoch.is_some() {
                    self.crash(id);
                    self.start(id);
                }
                if self.replicas[&id].epoch.is_none() {
                    // Its former life is known to be gone.
                    self.fence(id);
                    self.register(id);
                }
                self.unfence(id);
                self.see_latest(id);
                self.sync(id, usize::MAX);
                self.fetch(id);
                self.produce(id);
                self.propose(id);
            }
            while !self.messages.is_empty() {
                self.deliver(0)?;
            }
            self.check()?;
            if self.is_well() && self.acknowledged.len() >= goal {
                return Ok(());
            }
        }
        let logs: Vec<_> = self.replicas.values().map(|r| (r.id.get(), r.log.len(), r.high_watermark)).collect();
        Err(format!("must heal, but after {HEAL_ROUNDS} rounds: {:?}, logs {logs:?}", self.state()))
    }

    fn is_well(&self) -> bool {
        let mut logs = self.replicas.values().map(|replica| replica.log.entries());
        let first = logs.next().unwrap_or_default();
        // The rounds go on writing: followers are at most a round behind.
        let nearly = |log: &[Entry]| {
            let shorter = log.len().min(first.len());
            log[..shorter] == first[..shorter] && log.len().abs_diff(first.len()) <= 12
        };
        self.state().isr.len() == 3 && logs.all(nearly)
    }
}
