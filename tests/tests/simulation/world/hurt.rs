//! What the driver does to the cluster, and what it takes back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use streambus_tests::event::What;

use super::{CLIENTS, Emptied, STOP_PATIENCE, SUPERVISED_AFTER, Stopping, TICK, UNCONFIRMED_MAX, World};
use crate::disks::DiskError;
use crate::fault::{Due, Fault};
use crate::machine::{Machine, PLANNED_MAX, host};
use crate::network::Machine as MachineState;
use crate::plant::Plant;

impl World<'_> {
    /// In every other run the power of one broker goes while it writes a snapshot of the metadata, whatever else comes.
    pub(super) fn maybe_plan_torn_snapshot(&mut self) {
        // A generator of its own: these draws are nobody else's.
        let mut random = StdRng::seed_from_u64(self.setup.seed.rotate_left(32));
        if random.random_bool(0.5)
            && let Some(id) = self.brokers().choose(&mut random)
        {
            self.fault(format!("power of broker {id} will go in a snapshot of the metadata"));
            self.machines[id].disks().snapshots.plan_power_cut();
        }
    }

    pub(super) fn fault(&mut self, what: String) {
        self.faults += 1;
        self.trace.event("driver", What::Fault { what });
    }

    fn later(&mut self, after: Duration, due: Due) {
        self.due.push((self.sim.elapsed() + after, due));
    }

    pub(super) fn duration(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        Duration::from_millis(self.random.random_range(from_ms..=to_ms))
    }

    /// The brokers that are part of the cluster, or are about to be.
    fn brokers(&self) -> Vec<u32> {
        self.machines.keys().copied().collect()
    }

    pub(super) fn broker(&mut self) -> u32 {
        *self.brokers().choose(&mut self.random).expect("three at least")
    }

    fn hosts(&self) -> Vec<String> {
        self.machines.keys().map(|id| host(*id)).chain(CLIENTS.map(str::to_owned)).collect()
    }

    /// Two hosts of which one is a broker.
    fn pair(&mut self) -> (String, String) {
        let one = host(self.broker());
        loop {
            let other = self.hosts().choose(&mut self.random).expect("hosts").clone();
            if other != one {
                return (one, other);
            }
        }
    }

    pub(super) fn hurt(&mut self, kind: Fault) {
        match kind {
            Fault::Kill => {
                let (id, back) = (self.broker(), self.duration(50, 4_000));
                if !self.down.contains(&id) {
                    self.fault(format!("broker {id} is killed, back in {back:?}"));
                    self.lose_process(id, back);
                }
            }
            Fault::PowerCut => {
                let (id, back) = (self.broker(), self.duration(300, 6_000));
                if !self.down.contains(&id) {
                    self.fault(format!("power of broker {id} is cut, back in {back:?}"));
                    self.lose_power(id, back);
                }
            }
            Fault::PowerCutInAWrite => {
                let (id, nth) = (self.broker(), self.random.random_range(1..=PLANNED_MAX));
                if !self.down.contains(&id) {
                    self.fault(format!("power of broker {id} will go in change {nth} of its disk, and in a snapshot"));
                    self.machines[&id].disks().plan_power_cut(nth);
                    // Whichever comes first; the other one after that.
                    self.machines[&id].disks().snapshots.plan_power_cut();
                }
            }
            Fault::PowerCutOfAll => {
                self.fault("power of every broker is cut".to_owned());
                for id in self.brokers() {
                    let back = self.duration(500, 3_000);
                    if !self.down.contains(&id) {
                        self.lose_power(id, back);
                    }
                }
            }
            Fault::Cut => {
                let ((one, other), time) = (self.pair(), self.duration(100, 8_000));
                self.fault(format!("{one} and {other} are cut off from each other for {time:?}"));
                self.block(&one, &other, time);
                self.block(&other, &one, time);
            }
            Fault::CutOneWay => {
                let ((mut from, mut to), time) = (self.pair(), self.duration(100, 8_000));
                if self.random.random_bool(0.5) {
                    std::mem::swap(&mut from, &mut to);
                }
                self.fault(format!("nothing from {from} reaches {to} for {time:?}"));
                self.block(&from, &to, time);
            }
            Fault::Isolation => {
                let (me, time) = (host(self.broker()), self.duration(500, 8_000));
                self.fault(format!("{me} is cut off from everybody for {time:?}"));
                for other in self.hosts().into_iter().filter(|other| *other != me) {
                    self.block(&me, &other, time);
                    self.block(&other, &me, time);
                }
            }
            Fault::Freeze => {
                let ((one, other), time) = (self.pair(), self.duration(20, 2_500));
                let pair = (one.clone(), other.clone());
                if !self.is_blocked(&one, &other) && self.held.insert(pair) {
                    self.fault(format!("what {one} and {other} send is lost and sent again for {time:?}"));
                    self.sim.hold(one.as_str(), other.as_str());
                    self.later(time, Due::Release(one, other));
                }
            }
            Fault::SlowLink => {
                let ((one, other), time) = (self.pair(), self.duration(500, 6_000));
                let latency = self.duration(20, 400);
                self.fault(format!("{one} and {other} are up to {latency:?} apart for {time:?}"));
                self.sim.set_link_max_message_latency(one.as_str(), other.as_str(), latency);
                self.later(time, Due::QuickLink(one, other));
            }
            Fault::SlowDisk => {
                let (id, time, longest) = (self.broker(), self.duration(300, 5_000), self.duration(20, 1_500));
                self.fault(format!("the disk of broker {id} takes up to {longest:?} a commit for {time:?}"));
                let longest = u64::try_from(longest.as_millis()).expect("short");
                self.machines[&id].commit_ms_max.store(longest, Ordering::Relaxed);
                self.later(time, Due::QuickDisk(id));
            }
            Fault::ClockJump => {
                let (id, jump) = (self.broker(), self.random.random_range(-3_600_000_i64..=3_600_000));
                self.fault(format!("the wall clock of broker {id} jumps by {jump} ms"));
                self.machines[&id].skew_ms.fetch_add(jump, Ordering::Relaxed);
            }
            Fault::OrderlyRestart => {
                let (id, back) = (self.broker(), self.duration(50, 4_000));
                if self.is_running(id) {
                    let is_calm = self.is_calm();
                    self.ask_to_stop(id, back, is_calm);
                }
            }
            Fault::DiskError => {
                let kind = *DiskError::ALL.choose(&mut self.random).expect("three");
                let (id, nth, time) = (self.broker(), self.random.random_range(1..=4), self.duration(1_000, 6_000));
                let is_planted = self.plant == Plant::UnnoticedWriteErrors;
                for id in self.brokers().into_iter().filter(|other| *other == id || is_planted) {
                    self.fault(format!("{kind:?} {nth} of the disk of broker {id} fails, new process in {time:?}"));
                    self.machines[&id].disks().plan_error(kind, nth);
                    self.later(time, Due::SoundDisk(id));
                }
            }
            Fault::FullDisk => {
                let (id, time) = (self.broker(), self.duration(500, 6_000));
                self.fault(format!("the disk of broker {id} is full for {time:?}"));
                self.machines[&id].disks().set_full(true);
                self.later(time, Due::RoomOnDisk(id));
            }
            Fault::EmptiedDisk => {
                if self.emptied == Emptied::NotYet {
                    self.emptied = Emptied::Wanted;
                }
            }
            Fault::Replacement => self.want_replacement(),
        }
    }

    pub(super) fn end(&mut self, due: Due) {
        match due {
            Due::Start(id) => {
                let me = host(id);
                if self.dark.remove(&id) {
                    for other in self.hosts().into_iter().filter(|other| *other != me) {
                        self.wires.break_lines(&me, &other);
                        self.unblock(&me, &other);
                        self.unblock(&other, &me);
                    }
                }
                self.fault(format!("broker {id} starts again"));
                self.machines[&id].restart();
                self.down.remove(&id);
                self.wires.set_machine(&me, MachineState::Serving);
                self.sim.bounce(me);
            }
            Due::Unblock(from, to) => {
                self.wires.break_lines(&from, &to);
                self.unblock(&from, &to);
            }
            Due::BreakLines(one, other) => self.wires.break_lines(&one, &other),
            Due::Release(one, other) => {
                if self.held.remove(&(one.clone(), other.clone())) {
                    self.sim.release(one, other);
                }
            }
            Due::QuickLink(one, other) => {
                self.sim.set_link_max_message_latency(one, other, Duration::from_millis(8));
            }
            Due::SoundDisk(id) => {
                self.machines[&id].disks().forget_errors();
                if self.is_running(id) {
                    let back = self.duration(50, 2_000);
                    self.ask_to_stop(id, back, false);
                }
            }
            Due::RoomOnDisk(id) => self.machines[&id].disks().set_full(false),
            Due::QuickDisk(id) => self.machines[&id].commit_ms_max.store(4, Ordering::Relaxed),
        }
    }

    /// True when no fault is at work and the cluster has got over every earlier one.
    fn is_calm(&self) -> bool {
        let is_over = self.due.is_empty() && self.held.is_empty() && self.sim.elapsed() >= self.unsettled_until;
        is_over
            && !self.is_replacing()
            && self.is_in_sync()
            && self.machines.values().all(|machine| !machine.disks().has_plan())
    }

    /// True while broker `id` has a process that nobody has asked to stop.
    fn is_running(&self, id: u32) -> bool {
        !self.down.contains(&id) && !self.stopping.contains_key(&id)
    }

    /// `must_hand_over` unless another fault comes before it has stopped.
    fn ask_to_stop(&mut self, id: u32, back: Duration, must_hand_over: bool) {
        self.fault(format!("broker {id} is asked to stop"));
        self.machines[&id].ask_to_stop();
        let (until, faults) = (self.sim.elapsed() + STOP_PATIENCE, self.faults);
        self.stopping.insert(id, Stopping { until, back, calm_after: must_hand_over.then_some(faults) });
    }

    /// Takes away the processes that have ended by themselves, asked or not; refuses one that was asked and does not end, or
    /// that still leads although nothing kept it from handing over.
    pub(super) fn take_stopped(&mut self) -> Result<(), String> {
        let now = self.sim.elapsed();
        if let Some(id) = self.stopping.iter().find_map(|(id, stopping)| (now > stopping.until).then_some(*id)) {
            return Err(format!("broker {id} has not stopped {STOP_PATIENCE:?} after it was asked to"));
        }
        let is_over =
            |(id, machine): (&u32, &Machine)| (!self.down.contains(id) && machine.has_stopped()).then_some(*id);
        let stopped: Vec<u32> = self.machines.iter().filter_map(is_over).collect();
        for id in stopped {
            let (back, must_have_handed_over) = match self.stopping.remove(&id) {
                Some(stopping) => (stopping.back, stopping.calm_after == Some(self.faults)),
                None => (SUPERVISED_AFTER, false),
            };
            self.fault(format!("broker {id} has stopped, back in {back:?}"));
            self.lose_process(id, back);
            if must_have_handed_over && !self.is_led_by_others(id) {
                return Err(format!("broker {id} has stopped in a cluster that was well without handing over"));
            }
        }
        Ok(())
    }

    /// True when some other broker knows that broker `id` leads nothing.
    fn is_led_by_others(&self, id: u32) -> bool {
        let others = self.machines.iter().filter(|(other, _)| **other != id);
        others.filter_map(|(_, machine)| machine.image.lock().clone()).any(|image| {
            image.partitions().all(|(_, _, partition)| partition.leader.is_some_and(|leader| leader.get() != id))
        })
    }

    /// Empties one broker's disks, if that is wanted and every other broker has all that is acknowledged; with luck in the
    /// same moment as the power of all goes, so that nobody is there who knows that one of them has lost everything.
    pub(super) fn empty_if_wanted(&mut self) {
        if self.emptied != Emptied::Wanted || !self.is_in_sync() {
            return;
        }
        self.emptied = Emptied::Done;
        self.want_no_replacement();
        let (id, is_alone) = (self.broker(), self.random.random_bool(0.5));
        let is_alone = is_alone && self.plant != Plant::UnnoticedLossOfRecords;
        let others = if is_alone { "" } else { ", and power of every broker is cut" };
        self.fault(format!("the disks of broker {id} are emptied{others}"));
        for dark in self.brokers().into_iter().filter(|dark| *dark == id || !is_alone) {
            let back = self.duration(300, 6_000);
            self.lose_power(dark, back);
        }
        self.machines[&id].empty_disks();
    }

    /// The process is gone, the machine and its disks are there.
    fn lose_process(&mut self, id: u32, back: Duration) {
        self.down.insert(id);
        self.stopping.remove(&id);
        self.machines[&id].lose_process();
        self.sim.crash(host(id));
        self.wires.set_machine(&host(id), MachineState::WithoutProcess);
        self.later(back, Due::Start(id));
    }

    /// Nobody answers where broker `id` was, and nothing that it did not make durable need be there when it is back.
    pub(super) fn lose_power(&mut self, id: u32, back: Duration) {
        let me = host(id);
        self.down.insert(id);
        self.stopping.remove(&id);
        self.dark.insert(id);
        for other in self.hosts().into_iter().filter(|other| *other != me) {
            self.block_now(&me, &other);
            self.block_now(&other, &me);
            self.later(UNCONFIRMED_MAX.min(back), Due::BreakLines(me.clone(), other));
        }
        self.wires.set_machine(&me, MachineState::Dark);
        self.machines[&id].lose_power();
        self.sim.crash(me);
        self.later(back, Due::Start(id));
    }

    fn block(&mut self, from: &str, to: &str, time: Duration) {
        self.block_now(from, to);
        self.later(UNCONFIRMED_MAX.min(time), Due::BreakLines(from.to_owned(), to.to_owned()));
        self.later(time, Due::Unblock(from.to_owned(), to.to_owned()));
    }

    fn block_now(&mut self, from: &str, to: &str) {
        // Turmoil knows one state of a link: what was held back arrives before the cut.
        for (one, other) in [(from, to), (to, from)] {
            if self.held.remove(&(one.to_owned(), other.to_owned())) {
                self.sim.release(one, other);
            }
        }
        if self.wires.block(from, to) {
            self.sim.partition_oneway(from, to);
        }
    }

    fn unblock(&mut self, from: &str, to: &str) {
        if self.wires.unblock(from, to) {
            self.sim.repair_oneway(from, to);
        }
    }

    fn is_blocked(&self, one: &str, other: &str) -> bool {
        self.wires.is_cut(one, other)
    }

    /// Ends every fault now.
    pub(super) fn heal(&mut self) {
        self.emptied = Emptied::Done;
        self.want_no_replacement();
        for id in self.brokers() {
            self.machines[&id].disks().snapshots.forget_plan();
            if self.machines[&id].disks().has_plan() {
                if !self.down.contains(&id) {
                    self.lose_power(id, TICK);
                }
                self.machines[&id].disks().use_up_plan();
            }
        }
        self.fault("everything is healed".to_owned());
        for (_, due) in std::mem::take(&mut self.due) {
            self.end(due);
        }
    }
}
