//! Building on a bare machine, as far as a test can tell without one: what `make` calls the compiler, and which Rust is
//! installed where there is none. Everything runs with a PATH of the test's own.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace").to_owned()
}

/// Where this machine has a program.
fn found(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").expect("a PATH");
    std::env::split_paths(&path).chain(["/sbin".into()]).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// A machine with few programs: those of this one that are named, and scripts.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new(programs: &[&str]) -> Self {
        let machine = Self { folder: tempfile::tempdir().expect("a folder") };
        for folder in ["bin", "later"] {
            std::fs::create_dir(machine.folder.path().join(folder)).expect("a folder");
        }
        for (program, file) in programs.iter().filter_map(|program| Some((program, found(program)?))) {
            symlink(file, machine.place("bin").join(program)).expect("a link");
        }
        machine
    }

    /// `bin` is on the PATH; from `later` an installation takes.
    fn place(&self, folder: &str) -> PathBuf {
        self.folder.path().join(folder)
    }

    fn script(&self, folder: &str, name: &str, text: &str) {
        let file = self.place(folder).join(name);
        let shell = found("bash").expect("bash");
        std::fs::write(&file, format!("#!{}\n{text}\n", shell.display())).expect("a script");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("a script that runs");
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(found(program).unwrap_or_else(|| panic!("this machine has no {program}")));
        command.args(arguments).current_dir(repository());
        command.env_clear().env("PATH", self.place("bin")).env("HOME", self.folder.path());
        command.output().expect("it runs")
    }
}

// Catches a compiler's name that is decided before `deps` has installed ccache: `make run` and the `make test` after it
// would use two, and RocksDB be compiled twice.
#[test]
fn the_compiler_is_called_the_same_before_and_after_ccache_was_installed() {
    let machine = Machine::new(&["bash", "ln", "make"]);
    let rules = machine.place("probe.mk");
    let text = format!(
        "include Makefile\n.PHONY: before arrive after\nbefore:\n\t@echo \"$$CC, $$CXX\"\narrive: before\n\
         \t@ln -s \"$$(command -v bash)\" {}/ccache\nafter: arrive\n\t@echo \"$$CC, $$CXX\"\n",
        machine.place("bin").display()
    );
    std::fs::write(&rules, text).expect("rules");
    let output = machine.run("make", &["--no-print-directory", "-f", rules.to_str().expect("a path"), "after"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "clang, clang++\nccache clang, ccache clang++\n");
}

/// Runs the installation on a machine without Rust whose packages are of these versions. What was installed is in the
/// second part, one call a line.
fn install_rust(rustup: &str, cargo_web: &str) -> (Output, String) {
    let tools =
        ["bash", "env", "awk", "sort", "head", "id", "cat", "ln", "make", "git", "curl", "clang++", "ccache", "ld"];
    let machine = Machine::new(&[&tools[..], &["mkfs.ext4", "mount"]].concat());
    let (bin, later, log) = (machine.place("bin"), machine.place("later"), machine.place("log"));
    let (bin, later) = (bin.display(), later.display());
    let take_rust = format!("ln -s {later}/cargo {later}/rustc {bin}/");
    machine.script("later", "cargo", "exit 0");
    machine.script("later", "rustc", "echo 'rustc 1.96.0 (built by somebody)'");
    machine.script("later", "rustup", &format!("[ \"$*\" = 'default stable' ] && {take_rust}"));
    machine.script("bin", "sudo", "exec \"$@\"");
    machine.script(
        "bin",
        "apt-cache",
        &format!("case $2 in rustup) v='{rustup}';; cargo-web) v='{cargo_web}';; *) v='(none)';; esac; echo \"  Candidate: $v\""),
    );
    machine.script(
        "bin",
        "apt-get",
        &format!(
            "echo \"$*\" >>{}\ncase \" $* \" in\n*' install '*' cargo-web '*) {take_rust};;\n\
             *' install '*' rustup '*) ln -s {later}/rustup {bin}/;;\nesac",
            log.display()
        ),
    );
    let script = repository().join("scripts/install-deps.sh");
    let output = machine.run("bash", &[script.to_str().expect("a path")]);
    (output, std::fs::read_to_string(log).unwrap_or_default())
}

// Catches an installation that ends with an error on a bare Debian 12, which has no rustup.
#[test]
fn rust_is_installed_from_what_the_release_packages() {
    let (output, installed) = install_rust("(none)", "1.96.0+dfsg1-1~deb12u2");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(installed.contains(" rustc-web cargo-web ") && !installed.contains("rustup"), "{installed}");

    let (output, installed) = install_rust("1.27.1-4", "(none)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(installed.contains(" rustup") && !installed.contains("-web"), "{installed}");
}

// Catches a Rust that is too old to build this, installed all the same, and an end that does not say what to do.
#[test]
fn without_a_rust_that_is_new_enough_the_installation_says_what_to_do() {
    for cargo_web in ["1.85.0+dfsg3-1~deb12u3", "(none)"] {
        let (output, installed) = install_rust("(none)", cargo_web);
        assert_eq!(output.status.code(), Some(1));
        assert!(!installed.contains("-web") && !installed.contains("rustup"), "{installed}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("security updates") && said.contains("rustup's own installer"), "{said}");
    }
}
