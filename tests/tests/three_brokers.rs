//! What `make cluster` and `make demo` start, after their build: three brokers that are ready, a story that comes to its
//! verdict, and no process left behind by either.

use std::io::{BufRead as _, BufReader, Lines, Read as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use streambus_tests::cluster::own_address;
use streambus_tests::process::{binary, get};

/// One cluster at a time: six brokers are too many for a small machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Command lines of the running processes that name `folder`, which no other test has.
fn processes_of(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("a list of processes");
    let lines = entries.filter_map(|entry| {
        // A process that has ended meanwhile has no command line any more.
        let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(&*folder.to_string_lossy())).collect()
}

fn assert_nobody_is_left(folder: &Path) {
    let left = processes_of(folder);
    assert!(left.is_empty(), "{left:?}");
}

/// The number before `word` in `text`.
fn number_before(text: &str, word: &str) -> u64 {
    let (before, _) = text.split_once(word).unwrap_or_else(|| panic!("no {word:?} in\n{text}"));
    let number = before.split_whitespace().next_back().and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("no number before {word:?} in\n{text}"))
}

/// Catches: a story that stops before its verdict, kills nobody, or tells of a fail-over that nobody saw; brokers and
/// folders that it leaves behind.
#[test]
fn the_demo_comes_to_its_verdict_and_leaves_nothing() {
    let _turn = turn();
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_streambus-demo"))
        .env("TMPDIR", folder.path())
        .env("STREAMBUS_DEMO_RATE", "300")
        .env("STREAMBUS_DEMO_SECONDS", "1")
        .env_remove("STREAMBUS_LEDGER")
        .stdin(Stdio::null())
        .output()
        .expect("the demo starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{told}", output.status);
    let (story, verdict) = told.split_once("VERDICT: ").unwrap_or_else(|| panic!("no verdict:\n{told}"));
    for broker in 1..=3 {
        assert!(story.contains(&format!("broker {broker}: clients ")), "{story}");
    }
    let (before, after) = story.split_once(" dies:").unwrap_or_else(|| panic!("nobody dies:\n{story}"));
    for partition in 0..6 {
        assert!(after.contains(&format!("partition {partition} acknowledges again after ")), "{story}");
    }
    assert!(after.contains("it holds everything again, in sync"), "{story}");
    let (by_then, acknowledged) = (
        number_before(before, " records acknowledged so far"),
        number_before(verdict, " records acknowledged, every one read back once, in order"),
    );
    assert!(by_then > 0 && acknowledged > by_then, "{by_then}, then {acknowledged}:\n{told}");
    assert_eq!(number_before(verdict, " refused"), 0, "{verdict}");
    assert!(number_before(verdict, " ms. Longest silence") > 0, "a leader that dies costs some time: {verdict}");

    assert_nobody_is_left(folder.path());
    let left: Vec<PathBuf> =
        std::fs::read_dir(folder.path()).expect("listed").map(|e| e.expect("entry").path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A running `scripts/cluster.sh`.
struct Script {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Script {
    fn start(host: &str, data: &Path) -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace");
        let mut child = Command::new("bash")
            .arg(repository.join("scripts/cluster.sh"))
            .args([&binary(), data])
            .arg(host)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the script starts");
        let lines = BufReader::new(child.stdout.take().expect("standard output is piped")).lines();
        Self { child, lines }
    }

    /// What it says until it has nothing more to say: three brokers are ready then.
    fn until_ready(&mut self) -> Vec<String> {
        let mut said: Vec<String> = Vec::new();
        while !said.last().is_some_and(|line| line.starts_with("Ctrl-C")) {
            let line = self.lines.next().unwrap_or_else(|| panic!("the script ended:\n{}", said.join("\n")));
            said.push(line.expect("standard output can be read"));
        }
        said
    }

    /// Asks it to end, as Ctrl-C does, and waits for that.
    fn stop(&mut self) -> ExitStatus {
        // Not SIGINT: a test that runs in the background has it ignored, and so has what it starts.
        let sent = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(sent.success(), "the script can be signalled");
        self.child.wait().expect("the script can be waited for")
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // Its brokers end with it only when it is asked, and it may have ended already.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}

/// Runs lines as they would be typed; standard output when all of them succeed.
fn typed(lines: &[String]) -> String {
    let output = Command::new("bash").args(["-euo", "pipefail", "-c", &lines.join("\n")]).output().expect("bash runs");
    assert!(output.status.success(), "{lines:?}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Catches: a script that says ready too early, lines to try that do not work, brokers that outlive the script or end
/// without their drain, and a second start that is another cluster.
#[test]
fn the_script_starts_three_brokers_that_do_what_it_prints_and_ends_them() {
    let _turn = turn();
    let folder = tempfile::tempdir().expect("a folder");
    let host = own_address().to_string();
    let mut script = Script::start(&host, folder.path());
    let said = script.until_ready();
    for port in 8080..8083 {
        let address = format!("{host}:{port}").parse().expect("an address");
        let (status, body) = get(address, "/health/ready").expect("an answer");
        assert_eq!(status, 200, "port {port}: {body}");
    }
    let to_try: Vec<String> = said.iter().filter_map(|line| line.strip_prefix("  ")).map(str::to_owned).collect();
    let (brokers, rest) = to_try.split_first().expect("lines to try");
    let own = |line: &str| typed(&[brokers.clone(), format!("{} {line}", binary().display())]);
    let shown: serde_json::Value = serde_json::from_str(&own("cluster brokers -o json")).expect("JSON");
    let states: Vec<_> = shown.as_array().expect("a list").iter().map(|broker| broker["state"].as_str()).collect();
    assert_eq!(states, [Some("ready"); 3], "{shown}");

    let kill = rest.iter().position(|line| line.starts_with("kill -9")).expect("a line that kills a broker");
    let all = |lines: &[String]| typed(&[std::slice::from_ref(brokers), lines].concat());
    let before = all(&rest[..kill]);
    assert!(before.contains("ada\t{\"item\":1}"), "{before}");
    assert_eq!(processes_of(folder.path()).iter().filter(|line| line.contains(" server ")).count(), 3);
    // One is dead. Whether the cluster is well is what `cluster health` answers, and its exit code.
    let may_be_unwell = |line: &String| line.replace("cluster health", "cluster health || true");
    let after = all(&rest[kill..].iter().map(may_be_unwell).collect::<Vec<_>>());
    assert!(after.contains("Healthy") && after.contains("BROKER"), "{after}");
    assert!(own("consume orders -e -f '%k %v\\n'").contains("ada {\"item\":1}"), "the others carry on");
    assert!(script.stop().success());
    assert_nobody_is_left(folder.path());

    let mut again = Script::start(&host, folder.path());
    again.until_ready();
    assert!(own("consume orders -e -f '%k %v\\n'").contains("ada {\"item\":1}"), "the same cluster");
    assert!(again.stop().success());
    assert_nobody_is_left(folder.path());
}

/// Catches: a script that waits for ever for brokers of which one cannot start, or that leaves the others running.
#[test]
fn the_script_ends_with_the_reason_when_a_broker_does_not_start() {
    let _turn = turn();
    let folder = tempfile::tempdir().expect("a folder");
    let host = own_address().to_string();
    let taken = TcpListener::bind(format!("{host}:9194")).expect("the address of the third broker");
    let mut script = Script::start(&host, folder.path());
    assert!(script.lines.next().is_none(), "it says that they are ready");
    let status = script.child.wait().expect("the script can be waited for");
    assert_eq!(status.code(), Some(1));
    let mut why = String::new();
    let mut stderr = script.child.stderr.take().expect("standard error is piped");
    stderr.read_to_string(&mut why).expect("standard error can be read");
    assert!(why.contains(&format!("{host}:9194")), "it names the address: {why}");
    assert_nobody_is_left(folder.path());
    drop(taken);
}
