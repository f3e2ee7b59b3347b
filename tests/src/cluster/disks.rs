//! What is done to the disks and clocks of a cluster's brokers.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use super::Cluster;
use super::node::Node;
use crate::loop_disk::{self, LoopDisk, cut_power};
use crate::shim::{Rule, Shim};

/// What the brokers' data lies on: folders of one file system, as production has it, unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disks {
    loop_bytes: Option<u64>,
    metadata_bytes: Option<u64>,
    shim: Option<WriteThrough>,
}

/// How a broker with the shim may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteThrough {
    AsItLikes,
    /// `O_DIRECT` is refused.
    PageCache,
}

impl Disks {
    /// A file system of its own for each broker, of so many bytes: its power can be cut, it can be full. Ask
    /// [`crate::loop_disk::available`] first.
    pub fn loops(self, bytes: u64) -> Self {
        Self { loop_bytes: Some(bytes), ..self }
    }

    /// [`Self::loops`] where this machine has them; otherwise a power cut is a kill.
    pub fn loops_if_possible(self, bytes: u64) -> Self {
        if loop_disk::missing().is_none() { self.loops(bytes) } else { self }
    }

    /// A file system of its own for each broker's metadata, of so many bytes, on which no space can be reserved ahead. Ask
    /// [`crate::loop_disk::available`] first.
    pub fn metadata_apart(self, bytes: u64) -> Self {
        Self { metadata_bytes: Some(bytes), ..self }
    }

    /// The [`Shim`] in every broker: calls can be made to fail, the wall clock can be shifted.
    pub fn shimmed(self) -> Self {
        Self { shim: Some(WriteThrough::AsItLikes), ..self }
    }

    /// The same, and `O_DIRECT` is refused, so that brokers write to the page cache and sync.
    pub fn shimmed_page_cache(self) -> Self {
        Self { shim: Some(WriteThrough::PageCache), ..self }
    }
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
    if let Some(bytes) = disks.loop_bytes {
        let disk = LoopDisk::new(folder, &format!("disk-{}", node.id), bytes);
        node.data = disk.data();
        node.disk = Some(disk);
    }
    if let Some(bytes) = disks.metadata_bytes {
        let disk = LoopDisk::without_reservations(folder, &format!("metadata-{}", node.id), bytes);
        std::fs::create_dir_all(&node.data).expect("a data directory");
        std::fs::create_dir(disk.data()).expect("an empty disk takes a directory");
        symlink(disk.data(), node.data.join("metadata")).expect("a link to the metadata's disk");
        node.metadata_disk = Some(disk);
    }
    if let Some(how) = disks.shim {
        let shim = Shim::build(folder, node.id);
        if how == WriteThrough::PageCache {
            shim.refuse_direct();
        }
        node.shim = Some(shim);
    }
}

impl Cluster {
    /// Cuts the power of these brokers at once: their processes, those that still run, and everything unsynced are gone.
    /// Returns when, on the recorder's clock; the brokers may be started again.
    pub fn cut_power(&mut self, ids: &[u32], first: FirstToGo) -> u64 {
        let at_us = self.recorder.fault(format!("power cut of brokers {ids:?}, {first:?} first"));
        if first == FirstToGo::Disk {
            self.cut_disks(ids);
        }
        let running: Vec<u32> = ids.iter().copied().filter(|id| self.pid(*id).is_some()).collect();
        for id in &running {
            self.node(*id).signal("KILL");
        }
        for id in &running {
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

    /// Cuts the power of one broker whose disk is its own; kills the process of another, if it still runs.
    pub fn cut_power_or_kill(&mut self, id: u32) -> u64 {
        match self.node(id).disk {
            Some(_) => self.cut_power(&[id], FirstToGo::Process),
            None if self.pid(id).is_some() => self.kill_nine(id),
            None => self.recorder().now_us(),
        }
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

    /// Takes every byte that is left on the disk of a broker's metadata.
    pub fn fill_metadata_disk(&self, id: u32) -> u64 {
        self.metadata_disk(id).fill_up();
        self.recorder.fault(format!("the metadata disk of broker {id} is full to the last byte"))
    }

    /// Takes back [`Self::fill_metadata_disk`].
    pub fn empty_metadata_disk(&self, id: u32) -> u64 {
        self.metadata_disk(id).empty();
        self.recorder.fault(format!("the metadata disk of broker {id} has room again"))
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

    fn shim(&self, id: u32) -> &Shim {
        self.node(id).shim.as_ref().expect("this fault needs Disks::shimmed")
    }

    fn disk(&self, id: u32) -> &LoopDisk {
        self.node(id).disk.as_ref().expect("this fault needs Disks::loops")
    }

    fn metadata_disk(&self, id: u32) -> &LoopDisk {
        self.node(id).metadata_disk.as_ref().expect("this fault needs Disks::metadata_apart")
    }

    fn disk_mut(&mut self, id: u32) -> &mut LoopDisk {
        self.node_mut(id).disk.as_mut().expect("this fault needs Disks::loops")
    }
}
