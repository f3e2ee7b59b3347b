//! A broker that joins while another one leaves for good.

use std::sync::atomic::Ordering;

use rand::Rng;

use super::{Emptied, NEWCOMER, World};
use crate::machine::{Machine, host};
use crate::network::Machine as MachineState;

/// How far the exchange of one broker for another is: one in a run, and none beside an emptied disk. What is left of the
/// voters would be less than a quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replacement {
    NotYet,
    /// As soon as every process runs.
    Wanted,
    /// This broker is being drained; once it is empty, its process ends; then it is forgotten.
    Leaving(u32),
    /// It is over, or must not begin.
    Over,
}

impl World<'_> {
    pub(super) fn want_replacement(&mut self) {
        if self.replacement == Replacement::NotYet && self.emptied != Emptied::Done {
            self.replacement = Replacement::Wanted;
        }
    }

    /// None begins any more.
    pub(super) fn want_no_replacement(&mut self) {
        if !self.is_replacing() {
            self.replacement = Replacement::Over;
        }
    }

    pub(super) fn is_replacing(&self) -> bool {
        matches!(self.replacement, Replacement::Leaving(_))
    }

    /// Takes the step that is due.
    pub(super) fn go_on_replacing(&mut self) {
        match self.replacement {
            Replacement::Wanted if self.down.is_empty() => self.begin_replacing(),
            Replacement::Leaving(id) => {
                let (is_drained, is_removed) = {
                    let progress = self.progress.lock();
                    (progress.is_drained, progress.is_removed)
                };
                if is_drained && self.machines.contains_key(&id) {
                    self.retire(id);
                }
                if is_removed {
                    self.fault(format!("broker {id} is forgotten"));
                    self.replacement = Replacement::Over;
                }
            }
            Replacement::NotYet | Replacement::Wanted | Replacement::Over => {}
        }
    }

    fn begin_replacing(&mut self) {
        let leaving = self.broker();
        self.emptied = Emptied::Done;
        self.replacement = Replacement::Leaving(leaving);
        self.fault(format!("broker {NEWCOMER} joins, broker {leaving} is to leave for good"));
        let machine = Machine::new(NEWCOMER, &self.setup);
        machine.skew_ms.store(self.random.random_range(-60_000..=60_000), Ordering::Relaxed);
        let started = machine.clone();
        self.sim.host(host(NEWCOMER), move || started.clone().run());
        self.machines.insert(NEWCOMER, machine);
        self.orders.send_replace(Some(leaving));
    }

    /// The process of broker `id` ends for good, in whatever state it is.
    fn retire(&mut self, id: u32) {
        self.fault(format!("broker {id} is empty, its process ends for good"));
        let Some(machine) = self.machines.remove(&id) else { return };
        machine.lose_process();
        self.sim.crash(host(id));
        if !self.dark.remove(&id) {
            self.wires.set_machine(&host(id), MachineState::WithoutProcess);
        }
        self.down.remove(&id);
        self.stopping.remove(&id);
        self.due.retain(|(_, due)| !due.is_of(id));
    }
}
