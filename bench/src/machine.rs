//! The conditions under which micro rows are measured: a number of another machine, kernel or disk is another number.
//!
//! [`Machine::look`] is the adapter that asks the kernel through `/proc`; everything else is pure. What the kernel does
//! not tell is written as `unknown`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::stopwatch;

const UNKNOWN: &str = "unknown";

/// A machine at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's model, as it calls itself.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Memory, bytes; 0 when unknown.
    pub memory_bytes: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The file system under the measured directory, with its device.
    pub file_system: String,
    /// Runnable tasks on average over the last minute, before the measurement began.
    pub load_average: String,
    /// When the measurement began, in UTC.
    pub date: String,
    /// What was built; told by whoever started the measurement.
    pub commit: String,
}

impl Machine {
    /// Looks at this machine and at the file system that `directory` is on.
    pub fn look(directory: &Path, commit: Option<&str>) -> Self {
        let told = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let place = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
        Self {
            cpu: value_of(&told("/proc/cpuinfo"), "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory_bytes(&told("/proc/meminfo")).unwrap_or(0),
            kernel: first_word(&told("/proc/sys/kernel/osrelease")).unwrap_or_else(unknown),
            file_system: file_system(&told("/proc/self/mountinfo"), &place).unwrap_or_else(unknown),
            load_average: first_word(&told("/proc/loadavg")).unwrap_or_else(unknown),
            date: utc(stopwatch::unix_seconds()),
            commit: commit.map_or_else(unknown, str::to_owned),
        }
    }

    /// The head of a table of rows; `disk` says how the disk is written.
    pub fn text(&self, disk: &str) -> String {
        let memory = self.memory_bytes >> 20;
        let lines = [
            ("machine", format!("{}, {} core(s), {memory} MiB", self.cpu, self.cores)),
            ("kernel", format!("{}, load average {}", self.kernel, self.load_average)),
            ("disk", format!("{}, {disk}", self.file_system)),
            ("measured", format!("{}, commit {}", self.date, self.commit)),
        ];
        lines.iter().fold(String::new(), |mut text, (name, value)| {
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, "{name:<12}{value}");
            text
        })
    }
}

fn unknown() -> String {
    UNKNOWN.to_owned()
}

fn first_word(text: &str) -> Option<String> {
    text.split_whitespace().next().map(str::to_owned)
}

/// The value of the first line `name : value`.
fn value_of(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let kibibytes: u64 = value_of(meminfo, "MemTotal")?.strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The type and the device of the mount that `place` is on: of the longest mount point above it, the last one mounted.
/// The format is proc(5)'s: the fifth field is the mount point, type and device follow a lone dash.
fn file_system(mountinfo: &str, place: &Path) -> Option<String> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let point = Path::new(mount.split(' ').nth(4)?);
        let mut source = source.split(' ');
        let (kind, device) = (source.next()?, source.next()?);
        place.starts_with(point).then(|| (point.components().count(), format!("{kind} on {device}")))
    });
    // The maximum of equals is the last.
    mounts.max_by_key(|(depth, _)| *depth).map(|(_, shown)| shown)
}

/// A moment as `2026-11-22 00:45 UTC`. The calendar is H. Hinnant's `civil_from_days`: years begin in March, so that the
/// leap day is the last of its year.
fn utc(unix_seconds: u64) -> String {
    let (days, seconds) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3_600, seconds / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: leap days and turns of the year that are a day off.
    #[test]
    fn moments_have_the_date_of_the_calendar() {
        for (seconds, shown) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (951_868_800, "2000-03-01 00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59 UTC"),
            (1_735_689_600, "2025-01-01 00:00 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(utc(seconds), shown);
        }
    }

    /// Catches: the root's file system named for a directory that lies on another mount, and `/database` taken for a
    /// folder of the mount `/data`.
    #[test]
    fn a_directory_is_on_the_longest_mount_above_it() {
        let mounts = "21 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                      30 21 0:25 / /tmp rw shared:5 - tmpfs tmpfs rw\n\
                      31 21 0:26 / /data rw - xfs /dev/vdb rw\n";
        let on = |place: &str| file_system(mounts, Path::new(place));
        assert_eq!(on("/data/broker").as_deref(), Some("xfs on /dev/vdb"));
        assert_eq!(on("/database").as_deref(), Some("ext4 on /dev/vda"));
        assert_eq!(on("/tmp").as_deref(), Some("tmpfs on tmpfs"));
        assert_eq!(file_system("garbage", Path::new("/")), None);
    }

    #[test]
    fn the_kernels_lines_are_read_by_name() {
        assert_eq!(value_of("a\t: b\nmodel name\t: X 3: Y\n", "model name").as_deref(), Some("X 3: Y"));
        assert_eq!(memory_bytes("MemTotal:       2 kB\n"), Some(2_048));
        assert_eq!(memory_bytes("MemFree: 2 kB\n"), None);
    }

    #[test]
    fn the_head_names_machine_kernel_disk_date_and_commit() {
        let machine = Machine {
            cpu: "Model".into(),
            cores: 2,
            memory_bytes: 1 << 30,
            kernel: "6.18".into(),
            file_system: "ext4 on /dev/vda".into(),
            load_average: "0.10".into(),
            date: "today".into(),
            commit: "abc".into(),
        };
        let text = machine.text("O_DIRECT|O_DSYNC");
        for part in ["Model, 2 core(s), 1024 MiB", "6.18", "ext4 on /dev/vda, O_DIRECT|O_DSYNC", "today, commit abc"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
