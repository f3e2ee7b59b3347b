//! What is done to the disks and clocks of a cluster's brokers.

use std::path::Path;
use std::time::Duration;

use super::Cluster;
use super::node::Node;
use crate::loop_disk::{LoopDisk, cut_power};
use crate::shim::{Rule, Shim};

/// What the brokers' data lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disks {
    /// Folders of one file system.
    Folders,
    /// The same, with the [`Shim`] in every broker: calls can be made to fail, the wall clock can be shifted.
    Shimmed,
    /// A file system of its own for each, of so many bytes. Ask [`crate::loop_disk::available`] first.
    Loops(u64),
    /// Both.
    ShimmedLoops(u64),
}

/// In which order a power cut ends a broker, microseconds to milliseconds apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstToGo {
    /// The disk: the process sees its writes fail for a moment.
    Disk,
    /// The process: the disk keeps for a moment what was not synced.
    Process,
}

/// Gives a broker that has not started what its data shall lie on.
pub(super) fn equip(node: &mut Node, folder: &Path, disks: Disks) {
    if let Disks::Loops(bytes) | Disks::ShimmedLoops(bytes) = disks {
        let disk = LoopDisk::new(folder, &format!("disk-{}", node.id), bytes);
        node.data = disk.data();
        node.disk = Some(disk);
    }
    if let Disks::Shimmed | Disks::ShimmedLoops(_) = disks {
        node.shim = Some(Shim::build(folder, node.id));
    }
}

impl Cluster {
    /// Cuts the power of these brokers at once: their processes and everything unsynced are gone. Returns when, on the
    /// recorder's clock; the brokers may be started again.
    pub fn cut_power(&mut self, ids: &[u32], first: FirstToGo) -> u64 {
        let at_us = self.recorder.fault(format!("power cut of brokers {ids:?}, {first:?} first"));
        if first == FirstToGo::Disk {
            self.cut_disks(ids);
        }
        for id in ids {
            self.node(*id).signal("KILL");
        }
        for id in ids {
            self.wait_exit(*id);
        }
        if first == FirstToGo::Process {
            self.cut_disks(ids);
        }
        for id in ids {
            self.disk_mut(*id).restore();
        }
        at_us
    }

    fn cut_disks(&self, ids: &[u32]) {
        let disks: Vec<&LoopDisk> = ids.iter().map(|id| self.disk(*id)).collect();
        cut_power(self.folder(), &disks);
    }

    /// Fills a broker's disk but for `left` bytes.
    pub fn fill_disk(&self, id: u32, left: u64) -> u64 {
        self.disk(id).fill(left);
        self.recorder.fault(format!("the disk of broker {id} is full but for {left} bytes"))
    }

    /// Takes back [`Self::fill_disk`].
    pub fn empty_disk(&self, id: u32) -> u64 {
        self.disk(id).empty();
        self.recorder.fault(format!("the disk of broker {id} has room again"))
    }

    /// From now on these calls of a broker fail.
    pub fn fail_calls(&self, id: u32, slot: u64, rule: &Rule) -> u64 {
        self.shim(id).arm(slot, rule);
        self.recorder.fault(format!("broker {id}: {rule:?}"))
    }

    /// How many calls rule `slot` of a broker made fail.
    pub fn failed_calls(&self, id: u32, slot: u64) -> u32 {
        self.shim(id).failed(slot)
    }

    /// No call of a broker fails any more.
    pub fn spare_calls(&self, id: u32) -> u64 {
        self.shim(id).disarm();
        self.recorder.fault(format!("broker {id}: no call fails any more"))
    }

    /// Sets a broker's wall clock this far ahead of the others', or behind them.
    pub fn shift_wall_clock(&self, id: u32, by: Duration, is_ahead: bool) -> u64 {
        self.shim(id).shift_wall_clock(by, is_ahead);
        let way = if is_ahead { "ahead" } else { "behind" };
        self.recorder.fault(format!("the wall clock of broker {id} is {} s {way}", by.as_secs()))
    }

    /// A broker that starts after this writes through the page cache and syncs.
    pub fn refuse_direct_io(&self, id: u32) -> u64 {
        self.shim(id).refuse_direct();
        self.recorder.fault(format!("broker {id} is refused direct I/O"))
    }

    fn shim(&self, id: u32) -> &Shim {
        self.node(id).shim.as_ref().expect("this fault needs Disks::Shimmed or Disks::ShimmedLoops")
    }

    fn disk(&self, id: u32) -> &LoopDisk {
        self.node(id).disk.as_ref().expect("this fault needs Disks::Loops or Disks::ShimmedLoops")
    }

    fn disk_mut(&mut self, id: u32) -> &mut LoopDisk {
        self.node_mut(id).disk.as_mut().expect("this fault needs Disks::Loops or Disks::ShimmedLoops")
    }
}
