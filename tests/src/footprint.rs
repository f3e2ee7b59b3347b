//! What a running process has come to use, as the kernel counts it.

use serde::{Deserialize, Serialize};

/// Memory, threads and descriptors of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// The most memory it ever held, KiB.
    pub resident_peak_kib: u64,
    /// Threads now.
    pub threads: u64,
    /// Open descriptors now.
    pub descriptors: u64,
}

impl Footprint {
    /// That of `pid`; `None` when there is no such process any more.
    pub fn of(pid: u32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
        Some(Self {
            resident_peak_kib: field(&status, "VmHWM:")?,
            threads: field(&status, "Threads:")?,
            descriptors: u64::try_from(descriptors).ok()?,
        })
    }
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_measured_and_one_that_is_not_there_is_not() {
        let used = Footprint::of(std::process::id()).expect("this process");
        assert!(used.resident_peak_kib > 100 && used.threads >= 1 && used.descriptors >= 3, "{used:?}");
        assert_eq!(Footprint::of(u32::MAX), None);
    }
}
