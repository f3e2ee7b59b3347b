//! Faults inside one broker process: chosen writes, syncs and reads fail, the wall clock is shifted. A small library of C
//! (`tests/shim/faults.c`) stands between the broker and the C library; a control file that both map says what fails.
//!
//! It works on the binary that the tests build, which is linked dynamically. The monotonic clock is never touched.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// First bytes of a control file.
const MAGIC: u64 = 0x5342_5f46_4155_4c54;
/// Its size: the head and four rules.
const CONTROL_BYTES: usize = 64 + RULES as usize * RULE_BYTES as usize;
const WALL_SHIFT: u64 = 8;
const REFUSE_DIRECT: u64 = 16;
const RULES: u64 = 4;
const RULES_BEGIN: u64 = 64;
const RULE_BYTES: u64 = 512;
const RULE_CALLS: u64 = 4;
const RULE_ERROR: u64 = 8;
const RULE_FAILED: u64 = 12;
const RULE_PASS: u64 = 16;
const RULE_TORN: u64 = 20;
const RULE_PATH: u64 = 256;
const PATH_BYTES: usize = 256;

/// EIO of Linux.
pub const EIO: u32 = 5;
/// ENOSPC of Linux.
pub const ENOSPC: u32 = 28;

/// In the place of an error: the call is held until the rule is taken back, and then does what it was asked for.
const HELD: u32 = u32::MAX;

/// A kind of call that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `write` and its kin. A write to a file opened with `O_DSYNC`, as the journal is, is its sync too.
    Write,
    /// `fsync` and its kin.
    Sync,
    /// `read` and its kin.
    Read,
}

impl Call {
    const fn bit(self) -> u32 {
        match self {
            Self::Write => 1,
            Self::Sync => 2,
            Self::Read => 4,
        }
    }
}

/// Calls that shall fail.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Which kinds.
    pub calls: Vec<Call>,
    /// Text that the path of the file contains, such as `/journal-`.
    pub path: String,
    /// What they fail with; 0 for syncs that do nothing and succeed. See [`Rule::held`] too.
    pub error: u32,
    /// How many pass before the first that fails.
    pub pass: u32,
    /// How many fail; `u32::MAX` for all.
    pub count: u32,
    /// Bytes that a write leaves on the disk although it fails; 0 for none.
    pub torn: u32,
}

impl Rule {
    /// The next call of `kind` on a file whose path contains `path` fails with EIO, later ones succeed.
    pub fn once(kind: Call, path: &str) -> Self {
        Self { calls: vec![kind], path: path.to_owned(), error: EIO, pass: 0, count: 1, torn: 0 }
    }

    /// Syncs of files whose path contains `path` do nothing and say that they succeeded, as if the broker made none.
    pub fn unsynced(path: &str) -> Self {
        Self { error: 0, count: u32::MAX, ..Self::once(Call::Sync, path) }
    }

    /// Calls of `kind` on files whose path contains `path` do not return before the rule is taken back; then they do what they
    /// were asked for.
    pub fn held(kind: Call, path: &str) -> Self {
        Self { error: HELD, count: u32::MAX, ..Self::once(kind, path) }
    }
}

/// The shim of one broker, for all its lives.
#[derive(Debug)]
pub struct Shim {
    library: PathBuf,
    control: PathBuf,
    file: File,
}

impl Shim {
    /// Compiles the library into `folder` and writes a control file of no faults beside it.
    pub fn build(folder: &Path, broker: u32) -> Self {
        let library = folder.join("faults.so");
        if !library.exists() {
            compile("faults.c", &library, &["-shared", "-fPIC", "-ldl"]);
        }
        let control = folder.join(format!("faults-{broker}.control"));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&control).expect("a control file");
        let mut bytes = vec![0; CONTROL_BYTES];
        bytes[..8].copy_from_slice(&MAGIC.to_ne_bytes());
        file.write_all_at(&bytes, 0).expect("the control file can be written");
        Self { library, control, file }
    }

    /// What the broker's environment needs.
    pub fn environment(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("FAULT_SHIM_CONTROL", &self.control)]
    }

    /// Arms rule number `slot` (of four) from now on.
    pub fn arm(&self, slot: u64, rule: &Rule) {
        assert!(slot < RULES, "the shim has {RULES} rules");
        let begin = RULES_BEGIN + slot * RULE_BYTES;
        self.set(begin, 0);
        let mut path = [0; PATH_BYTES];
        assert!(rule.path.len() < PATH_BYTES, "a path of at most {PATH_BYTES} bytes");
        path[..rule.path.len()].copy_from_slice(rule.path.as_bytes());
        self.file.write_all_at(&path, begin + RULE_PATH).expect("the control file can be written");
        self.set(begin + RULE_CALLS, rule.calls.iter().fold(0, |bits, call| bits | call.bit()));
        self.set(begin + RULE_ERROR, rule.error);
        self.set(begin + RULE_FAILED, 0);
        self.set(begin + RULE_PASS, rule.pass);
        self.set(begin + RULE_TORN, rule.torn);
        // Last: this is what the library looks at first.
        self.set(begin, rule.count);
    }

    /// No rule fails anything any more.
    pub fn disarm(&self) {
        for slot in 0..RULES {
            self.set(RULES_BEGIN + slot * RULE_BYTES, 0);
        }
    }

    /// How many calls rule number `slot` made fail.
    pub fn failed(&self, slot: u64) -> u32 {
        let mut bytes = [0; 4];
        let at = RULES_BEGIN + slot * RULE_BYTES + RULE_FAILED;
        self.file.read_exact_at(&mut bytes, at).expect("the control file can be read");
        u32::from_ne_bytes(bytes)
    }

    /// Sets the wall clock this far ahead of the real one, or behind it.
    pub fn shift_wall_clock(&self, by: Duration, is_ahead: bool) {
        let nanos = i64::try_from(by.as_nanos()).expect("a shift of less than 292 years");
        let nanos = if is_ahead { nanos } else { -nanos };
        self.file.write_all_at(&nanos.to_ne_bytes(), WALL_SHIFT).expect("the control file can be written");
    }

    /// Files can no longer be opened with `O_DIRECT`, so that a broker that starts writes to the page cache and syncs.
    pub fn refuse_direct(&self) {
        self.set(REFUSE_DIRECT, 1);
    }

    fn set(&self, at: u64, value: u32) {
        self.file.write_all_at(&value.to_ne_bytes(), at).expect("the control file can be written");
    }
}

/// Compiles `source` of `tests/shim` to `target`. Panics with what the compiler says.
pub fn compile(source: &str, target: &Path, options: &[&str]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim").join(source);
    let output = Command::new("clang")
        .args(["-O2", "-Wall", "-Wextra", "-Werror"])
        .arg("-o")
        .arg(target)
        .arg(&path)
        .args(options)
        .output()
        .expect("clang runs: `make deps` installs it");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} does not compile: {said}", path.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a shimmed `dd` or `date` prints, and whether it succeeded.
    fn under(shim: &Shim, words: &[&str]) -> (bool, String) {
        let mut command = Command::new(words[0]);
        let output = command.args(&words[1..]).envs(shim.environment()).output().expect("it runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    #[test]
    fn a_chosen_sync_fails_once_and_only_on_the_chosen_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let shim = Shim::build(folder.path(), 1);
        let write = |name: &str| {
            let target = format!("of={}/{name}", folder.path().display());
            under(&shim, &["dd", "if=/dev/zero", &target, "bs=4096", "count=1", "conv=fsync"])
        };
        assert!(write("journal-1").0);
        shim.arm(0, &Rule::once(Call::Sync, "/journal-"));
        assert!(write("index").0, "another file is left alone");
        let (ended_well, said) = write("journal-2");
        assert!(!ended_well && said.contains("Input/output error"), "{said}");
        assert_eq!(shim.failed(0), 1);
        assert!(write("journal-2").0, "the next sync succeeds");
        shim.arm(1, &Rule { error: ENOSPC, pass: 1, torn: 0, ..Rule::once(Call::Write, "/spare-") });
        let (ended_well, said) = write("spare-1");
        assert!(ended_well, "the first write passes: {said}");
        let (ended_well, said) = write("spare-1");
        assert!(!ended_well && said.contains("No space left"), "{said}");
    }

    // Catches a disk that is said to stand still and fails, or that never moves again.
    #[test]
    fn a_held_sync_returns_when_the_rule_is_taken_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let shim = Shim::build(folder.path(), 1);
        shim.arm(0, &Rule::held(Call::Sync, "/journal-"));
        let target = format!("of={}/journal-1", folder.path().display());
        let mut command = Command::new("dd");
        command.args(["if=/dev/zero", &target, "bs=4096", "count=1", "conv=fsync"]).envs(shim.environment());
        let mut writer = command.spawn().expect("it runs");
        let is_held = crate::patience::wait_for(Duration::from_secs(10), || (shim.failed(0) > 0).then_some(()));
        assert!(is_held.is_some(), "no sync came");
        assert!(writer.try_wait().expect("it can be asked").is_none(), "the sync has returned");
        shim.disarm();
        assert!(writer.wait().expect("it ends").success(), "the sync that was held has failed");
    }

    #[test]
    fn the_wall_clock_jumps_both_ways() {
        let folder = tempfile::tempdir().expect("a folder");
        let shim = Shim::build(folder.path(), 1);
        let year = |shim: &Shim| -> i64 { under(shim, &["date", "+%Y"]).1.trim().parse().expect("a year") };
        let now = year(&shim);
        let ten_years = Duration::from_secs(3_653 * 86_400);
        shim.shift_wall_clock(ten_years, true);
        assert!((now + 9..=now + 11).contains(&year(&shim)));
        shim.shift_wall_clock(ten_years, false);
        assert!((now - 11..=now - 9).contains(&year(&shim)));
    }

    #[test]
    fn direct_io_can_be_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let shim = Shim::build(folder.path(), 1);
        let target = format!("of={}/file", folder.path().display());
        let direct = ["dd", "if=/dev/zero", &target, "bs=4096", "count=1", "oflag=direct"];
        shim.refuse_direct();
        let (ended_well, said) = under(&shim, &direct);
        assert!(!ended_well && said.contains("Invalid argument"), "{said}");
    }
}
