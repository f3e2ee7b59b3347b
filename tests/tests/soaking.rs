//! The soak, without a soak: `scripts/soak.sh` over programs that only pretend. What is run, in which order, side by side, and
//! what becomes of the rows and of failures.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const HEADER: &str = "| day | commit | run | seed | steps | acknowledged | unknown | violations |\n";

/// What each pretended test does: it says that it was run, and then its `case`.
const CLUSTER: &str = r#"#!/usr/bin/env bash
case $1 in --list) cat "$PRETENDED/list"; exit ;; esac
test=$2
echo "$test $STREAMBUS_SEED ${STREAMBUS_NETWORK:-}" >>"$PRETENDED/runs"
row() { echo "| $STREAMBUS_LEDGER_RUN | ${1:-${test#*::}} | $STREAMBUS_SEED | 1 | 2 | 0 | 0 |" >>"$STREAMBUS_LEDGER"; }
soak=$(dirname "$0")
case $test in
    meets::left) timeout 60 bash -c 'echo >"$PRETENDED/meeting"' && row ;;
    meets::right) timeout 60 cat "$PRETENDED/meeting" && row ;;
    fails::*) exit 3 ;;
    waits::*) timeout 60 bash -c 'until [ -e "$1/failed-1" ]; do sleep 0.05; done' . "$soak" && row ;;
    silent::*) echo "nothing to judge" ;;
    *) row "${test#*::}${STREAMBUS_NETWORK:+ ($STREAMBUS_NETWORK)}" ;;
esac
"#;

/// A soak with programs of its own, and a ledger.
struct Soak {
    folder: tempfile::TempDir,
}

impl Soak {
    /// Of these cluster tests, as user `user`.
    fn of(tests: &[&str], user: u32) -> Self {
        let soak = Self { folder: tempfile::tempdir().expect("a folder") };
        for folder in ["bin", "target/release", "temporary"] {
            std::fs::create_dir_all(soak.place(folder)).expect("a folder");
        }
        let listed: String = tests.iter().map(|test| [*test, ": test\n"].concat()).collect();
        std::fs::write(soak.place("list"), listed).expect("the list");
        std::fs::write(soak.place("runs"), "").expect("no runs");
        std::fs::write(soak.place("ledger.md"), HEADER).expect("the ledger");
        soak.program("cluster", CLUSTER);
        soak.program("target/release/streambus", "#!/usr/bin/env bash\n");
        let cargo = "#!/usr/bin/env bash\n[ \"$1\" = build ] || echo \"     Running it ($PRETENDED/cluster)\" >&2\n";
        soak.program("bin/cargo", cargo);
        soak.program("bin/git", "#!/usr/bin/env bash\n[ \"$1\" = status ] || echo abc1234\n");
        soak.program("bin/id", &format!("#!/usr/bin/env bash\necho {user}\n"));
        let made = Command::new("mkfifo").arg(soak.place("meeting")).status().expect("mkfifo");
        assert!(made.success());
        soak
    }

    fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn program(&self, name: &str, text: &str) {
        let file = self.place(name);
        std::fs::write(&file, text).expect("a program");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("a program that runs");
    }

    /// Spreads the tests from seed 5 on.
    fn spread(&self, settings: &[(&str, &str)]) -> Output {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace");
        let others = std::env::var_os("PATH").expect("a PATH");
        let path = std::env::join_paths([self.place("bin")].into_iter().chain(std::env::split_paths(&others)));
        let mut command = Command::new("bash");
        command.arg(repository.join("scripts/soak.sh")).args(["30", "1", "5"]);
        for name in ["JOBS", "ONLY", "ROUNDS", "GO_ON", "FAULT_CYCLES", "STREAMBUS_NETWORK"] {
            command.env_remove(name);
        }
        command.env("PATH", path.expect("a PATH")).env("PRETENDED", self.folder.path()).env("PARTS", "spread");
        command.env("LEDGER", self.place("ledger.md")).env("CARGO_TARGET_DIR", self.place("target"));
        command.env("TMPDIR", self.place("temporary")).envs(settings.iter().copied());
        command.output().expect("it runs")
    }

    /// Test, seed and network of each run, in the order they began.
    fn runs(&self) -> Vec<String> {
        let runs = std::fs::read_to_string(self.place("runs")).expect("the runs");
        runs.lines().map(|run| run.trim_end().to_owned()).collect()
    }

    /// Name and seed of each row, in the order of their names.
    fn rows(&self) -> Vec<String> {
        let ledger = std::fs::read_to_string(self.place("ledger.md")).expect("the ledger");
        let rows = ledger.strip_prefix(HEADER).expect("what was there stays");
        let cells = |row: &str| row.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        let mut rows: Vec<String> = rows.lines().map(|row| cells(row)[3..5].join(" ")).collect();
        rows.sort_unstable();
        rows
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

// Catches JOBS that run one after the other, a run whose row is lost or told twice, and JOBS that is no number.
#[test]
fn runs_stand_side_by_side_and_each_has_its_row() {
    let soak = Soak::of(&["meets::left", "meets::right"], 1000);
    let output = soak.spread(&[("JOBS", "2"), ("ROUNDS", "2")]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(soak.rows(), ["left 5", "right 5"]);
    let refused = soak.spread(&[("JOBS", "many")]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
}

// Catches a soak that repeats what was run often, or with the same seed, and one that goes on for ever with a test that leaves
// no row.
#[test]
fn what_has_the_fewest_seeds_is_next_and_what_leaves_no_row_is_run_once() {
    let soak = Soak::of(&["t::one", "silent::test", "t::two"], 1000);
    std::fs::write(soak.place("target/soak-names"), "t::one\tone\nt::two\ttwo\n").expect("names");
    let earlier = |seed| format!("| 2026-01-01 | abc1234 | two | {seed} | 1 | 2 | 0 | 0 |\n");
    std::fs::write(soak.place("ledger.md"), [HEADER, &earlier(5), &earlier(6)].concat()).expect("the ledger");
    let output = soak.spread(&[("ROUNDS", "5")]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(soak.runs(), ["t::one 5", "silent::test 5", "t::one 6", "t::one 7", "t::two 7"]);
    let silent = Soak::of(&["silent::test"], 1000);
    let output = silent.spread(&[("JOBS", "2")]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(silent.runs().len() <= 2 && silent.rows().is_empty(), "{:?}", silent.runs());
}

// Catches a failure after which new runs begin, one that takes the rows of the others with it, one that is not told, and
// GO_ON that does nothing else than repeat what failed.
#[test]
fn a_failure_ends_the_soak_after_those_under_way_and_with_go_on_only_its_result() {
    let tests = ["fails::at_once", "waits::for_that", "t::later"];
    let soak = Soak::of(&tests, 1000);
    let output = soak.spread(&[("JOBS", "2"), ("ROUNDS", "3")]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(soak.rows(), ["fails::at_once 5", "for_that 5"], "{}", said(&output));
    assert!(said(&output).contains("repeat it: STREAMBUS_SEED=5 "), "{}", said(&output));
    let soak = Soak::of(&tests, 1000);
    let output = soak.spread(&[("JOBS", "2"), ("ROUNDS", "4"), ("GO_ON", "1")]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let later = soak.runs().iter().filter(|run| run.starts_with("t::later")).count();
    assert!((1..=2).contains(&later) && soak.rows().contains(&"for_that 5".to_owned()), "{:?}", soak.runs());
}

// Catches cuts of links that are only ever soaked through proxies, and namespaces asked of somebody who may not make them.
#[test]
fn as_root_cut_links_are_soaked_in_namespaces_as_well() {
    let tests = ["network::a_cut", "network::both", "one::clients_cut"];
    let root = Soak::of(&tests, 0);
    let output = root.spread(&[("ROUNDS", "5"), ("JOBS", "1")]);
    assert!(output.status.success(), "{}", said(&output));
    let in_namespaces = ["a_cut (namespaces) 5", "a_cut 5", "both 5", "clients_cut (namespaces) 5", "clients_cut 5"];
    assert_eq!(root.rows(), in_namespaces);
    let somebody = Soak::of(&tests, 1000);
    let output = somebody.spread(&[("ROUNDS", "3")]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(somebody.rows(), ["a_cut 5", "both 5", "clients_cut 5"]);
}
