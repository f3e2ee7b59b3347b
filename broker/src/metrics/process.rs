//! What the operating system says about this process. An adapter: it reads `/proc/self`, and nothing elsewhere.

use std::fs;

/// What could be read; `None` where this system does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessSnapshot {
    /// Memory in RAM, in bytes.
    pub resident_bytes: Option<u64>,
    /// File descriptors open.
    pub open_fds: Option<u64>,
    /// File descriptors allowed.
    pub max_fds: Option<u64>,
    /// Processor time used since the start, user and system, in seconds.
    pub cpu_seconds: Option<f64>,
    /// Threads.
    pub threads: Option<u64>,
}

/// Reads the state now. It takes some tens of microseconds, more with many file descriptors.
pub fn read() -> ProcessSnapshot {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let open_fds = fs::read_dir("/proc/self/fd").ok().and_then(|entries| u64::try_from(entries.count()).ok());
    ProcessSnapshot {
        resident_bytes: status_number(&status, "VmRSS:").map(|kib| kib.saturating_mul(1024)),
        threads: status_number(&status, "Threads:"),
        // The directory that lists the descriptors is itself one of them.
        open_fds: open_fds.map(|n| n.saturating_sub(1)),
        max_fds: max_fds(&limits),
        cpu_seconds: cpu_seconds(&stat),
    }
}

fn status_number(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

fn max_fds(limits: &str) -> Option<u64> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

/// Fields 14 and 15 of `stat`, in hundredths of a second (the kernel's `USER_HZ`, 100 on every Linux platform we run
/// on). The command in field 2 may hold spaces and parentheses, so counting starts behind the last one.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_understood() {
        let status = "Name:\tx\nVmRSS:\t   12345 kB\nThreads:\t7\n";
        assert_eq!((status_number(status, "VmRSS:"), status_number(status, "Threads:")), (Some(12345), Some(7)));
        assert_eq!(max_fds("Max open files            1024                 4096                 files \n"), Some(1024));
        let stat = "12 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
    }

    #[test]
    fn nonsense_is_none_not_a_number() {
        assert_eq!(
            (status_number("", "VmRSS:"), max_fds("Max open files unlimited"), cpu_seconds("1 (x")),
            (None, None, None)
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_and_descriptors() {
        let now = read();
        assert!(now.resident_bytes.is_some_and(|bytes| bytes > 1 << 20), "{now:?}");
        assert!(now.open_fds.is_some_and(|n| n >= 3) && now.threads.is_some_and(|n| n >= 1), "{now:?}");
    }
}
