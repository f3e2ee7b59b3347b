//! What an operator does by hand, as he does it: leaders sent elsewhere by the command line, the three brokers of
//! `make cluster` with the lines that it prints, the story of `make demo`.

use std::io::{BufRead as _, BufReader, Lines};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use streambus_tests::cluster::{Cluster, Options};
use streambus_tests::load::LoadOptions;
use streambus_tests::patience::wait_for;
use streambus_tests::process::binary;
use streambus_tests::run::Run;

/// How long one command may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs `streambus ARGUMENTS --output json`, which must succeed.
fn told(run: &Run, arguments: &[&str]) -> Value {
    let said = run.cluster.command_well(LIMIT, &[arguments, &["--output", "json"]].concat());
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

// Catches a command that says another leader than there is, that moves nobody, or that moves one at the price of a record.
#[test]
fn a_leader_goes_where_the_command_line_sends_it_and_home_again() {
    let run = Run::start("leaders moved by the command line", &Options::default(), &LoadOptions::default());
    run.wait_in_sync();
    let partition = || told(&run, &["topic", "describe", "proof"])["partitions"][0].clone();
    // Any broker answers from what it knows: asked until it knows of that election.
    let since = |elected: &Value| {
        let known = wait_for(LIMIT, || {
            let partition = partition();
            (number(&partition["leader_epoch"]) >= number(&elected["leader_epoch"])).then_some(partition)
        });
        known.unwrap_or_else(|| panic!("nobody knows of {elected}"))
    };
    let before = partition();
    let replicas: Vec<u64> = before["replicas"].as_array().expect("a list").iter().map(number).collect();
    let leads = number(&before["leader"]);
    let elsewhere = *replicas[1..].iter().find(|replica| **replica != leads).expect("three replicas");

    let to = elsewhere.to_string();
    let moved = told(&run, &["topic", "transfer-leader", "proof", "--partition", "0", "--to", &to]);
    assert_eq!((number(&moved["leader"]), number(&moved["partition"])), (elsewhere, 0), "{moved}");
    assert!(number(&moved["leader_epoch"]) > number(&before["leader_epoch"]), "{moved} after {before}");
    let after = since(&moved);
    // Leaders are sent home by and by: then it is a later epoch.
    let is_later = number(&after["leader_epoch"]) > number(&moved["leader_epoch"]);
    assert!(is_later || number(&after["leader"]) == elsewhere, "{after} after {moved}");
    run.wait_acks(200);

    let home = ["topic", "transfer-leader", "proof", "--partition", "0"];
    let moved = told(&run, &home);
    assert_eq!((number(&moved["leader"]), number(&since(&moved)["leader"])), (replicas[0], replicas[0]), "{moved}");
    let said = run.cluster.command_well(LIMIT, &home);
    assert!(said.out.starts_with(&format!("proof/0 is led by broker {} in epoch ", replicas[0])), "{said:?}");
    // Not a replica, and nothing moves.
    let refused = run.cluster.command(LIMIT, &["topic", "transfer-leader", "proof", "--partition", "0", "--to", "9"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.err.contains("topic describe proof"), "it says where to look: {refused:?}");
    assert_eq!(number(&partition()["leader"]), replicas[0]);
    run.wait_acks(200);
    run.finish();
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace").to_owned()
}

/// The running script. Told to stop when dropped, because its brokers would outlive it otherwise.
struct Script {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Script {
    fn start(data: &Path, host: &str) -> Self {
        let mut command = Command::new("bash");
        command.arg(repository().join("scripts/cluster.sh")).arg(binary()).arg(data).arg(host);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("bash runs");
        let lines = BufReader::new(child.stdout.take().expect("standard output is piped")).lines();
        Self { child, lines }
    }

    /// What it prints, to the line with `last` in it.
    fn says_until(&mut self, last: &str) -> Vec<String> {
        let mut said: Vec<String> = Vec::new();
        while !said.last().is_some_and(|line| line.contains(last)) {
            let line = self.lines.next().unwrap_or_else(|| panic!("it ended without {last:?}: {said:#?}"));
            said.push(line.expect("text"));
        }
        said
    }

    /// SIGTERM; its exit code.
    fn stop(&mut self) -> Option<i32> {
        let sent = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(sent.success(), "the script can be signalled");
        self.child.wait().expect("it can be waited for").code()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}

/// Runs lines in a shell; standard output and the exit code.
fn shell(lines: &[String]) -> (String, Option<i32>) {
    let text = format!("set -euo pipefail\n{}", lines.join("\n"));
    let output = Command::new("bash").args(["-c", &text]).stdin(Stdio::null()).output().expect("bash runs");
    eprintln!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    (String::from_utf8(output.stdout).expect("text"), output.status.code())
}

// Catches a script that starts no cluster, lines to try that do not work as they stand, and brokers that are left behind.
#[test]
fn the_three_brokers_of_make_cluster_do_what_the_printed_lines_say() {
    // Not started: an address, a folder and the turn are taken from it.
    let place = Cluster::prepare(&Options { brokers: 1, ..Options::default() });
    let host = place.client_address(1).ip().to_string();
    let mut script = Script::start(&place.folder().join("script"), &host);
    let said = script.says_until("Ctrl-C here stops all three");
    let to_try: Vec<String> = said.iter().filter(|line| line.starts_with("  ")).cloned().collect();
    let kill = to_try.iter().position(|line| line.contains("kill -9")).expect("a line that kills one");
    let (before, after) = to_try.split_at(kill);

    let (printed, code) = shell(before);
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("ada\t{\"item\":1}"), "what was produced is consumed: {printed}");
    let brokers: Vec<String> = before.iter().filter(|line| line.contains("export ")).cloned().collect();
    let (_, code) = shell(&after[..1]);
    assert_eq!(code, Some(0), "broker 1 is killed");
    // The others carry on, and take records again.
    let again = before.iter().filter(|line| line.contains(" produce ") || line.contains(" consume ")).cloned();
    let (printed, code) = shell(&brokers.iter().cloned().chain(again).collect::<Vec<_>>());
    assert_eq!((printed.matches("ada\t{\"item\":1}").count(), code), (2, Some(0)), "{printed}");
    for line in &after[1..] {
        let (printed, code) = shell(&[brokers.clone(), vec![line.clone()]].concat());
        // Health says with its exit code that a broker is missing.
        let wanted: &[i32] = if line.contains("health") { &[0, 7] } else { &[0] };
        assert!(code.is_some_and(|code| wanted.contains(&code)), "{line} ended with {code:?}: {printed}");
        assert!(!printed.is_empty(), "{line} says nothing");
    }

    assert_eq!(script.stop(), Some(0));
    for port in 9092..9095 {
        assert!(TcpStream::connect((host.as_str(), port)).is_err(), "a broker was left behind on port {port}");
    }
}

// Catches a story of `make demo` that does not come to its end.
#[test]
fn the_demo_comes_to_its_verdict() {
    let _turn = Cluster::prepare(&Options { brokers: 1, ..Options::default() });
    let mut demo = Command::new(env!("CARGO_BIN_EXE_streambus-demo"));
    // What it tells is no run of a soak.
    let told = demo.env_remove("STREAMBUS_LEDGER").stdin(Stdio::null()).output().expect("the demo runs");
    let told = (told.status.success(), String::from_utf8_lossy(&told.stderr).into_owned());
    assert!(told.0 && told.1.contains("VERDICT: "), "{}", told.1);
}
