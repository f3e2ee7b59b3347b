//! The adapter to the kernel's accounting: CPU time and resident memory of a process.

use std::fs;

/// Kernel clock ticks a second in `/proc/*/stat`; the kernel's interface fixes it (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process has used so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// User and system time of all its threads, seconds.
    pub cpu_seconds: f64,
    /// Resident memory now, bytes.
    pub resident_bytes: u64,
    /// The most resident memory since the process started, bytes.
    pub peak_resident_bytes: u64,
}

/// Usage of this process; `None` where there is no `/proc`.
pub fn of_self() -> Option<Usage> {
    read("self")
}

/// Usage of process `pid`; `None` when there is no such process.
pub fn of_process(pid: u32) -> Option<Usage> {
    read(&pid.to_string())
}

fn read(who: &str) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{who}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{who}/status")).ok()?;
    Some(Usage {
        cpu_seconds: cpu_seconds(&stat)?,
        resident_bytes: status_bytes(&status, "VmRSS:")?,
        peak_resident_bytes: status_bytes(&status, "VmHWM:")?,
    })
}

/// Fields 14 and 15 of proc(5)'s `stat`; the name in field 2 may hold blanks and parentheses.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / TICKS_PER_SECOND)
}

fn status_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        let status = "Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t   1024 kB\n";
        assert_eq!(status_bytes(status, "VmRSS:"), Some(1_048_576));
        assert_eq!(status_bytes(status, "VmHWM:"), Some(2_097_152));
        assert_eq!(cpu_seconds("garbage"), None);
    }

    #[test]
    fn this_process_is_accounted() {
        assert!(of_self().is_some_and(|usage| usage.peak_resident_bytes >= usage.resident_bytes));
    }
}
