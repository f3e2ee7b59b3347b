//! The README is true: its commands run as they stand, and its Rust example is compiled and run.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use streambus_tests::process::{Broker, binary, get};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace").to_owned()
}

fn readme() -> String {
    std::fs::read_to_string(repository().join("README.md")).expect("a README")
}

/// The fenced blocks of `language` in the README.
fn blocks(language: &str) -> Vec<String> {
    let text = readme();
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect()
}

/// Runs README commands in bash, with `streambus` and `curl` meaning this test's broker. Returns standard output.
fn run(broker: &Broker, data: &Path, commands: &str) -> String {
    run_in(&repository(), broker, data, commands)
}

/// The same, started in `folder`.
fn run_in(folder: &Path, broker: &Broker, data: &Path, commands: &str) -> String {
    let script = format!(
        "set -euo pipefail\nstreambus() {{ {} -b {} \"$@\"; }}\n{}",
        binary().display(),
        broker.clients,
        commands.replace("localhost:8080", &broker.http.to_string()).replace("./data", &data.display().to_string()),
    );
    let output = Command::new("bash").args(["-c", &script]).current_dir(folder).output().expect("bash runs");
    assert!(output.status.success(), "{commands}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_commands_of_the_readme_do_what_it_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut broker = Broker::start(folder.path());
    let shell = blocks("sh");
    let first = shell.iter().find(|block| block.contains("topic create orders")).expect("the first five minutes");
    let consumed = run(&broker, folder.path(), first);
    let of = |key: &str| -> Vec<&str> {
        consumed.lines().filter(|line| line.split_whitespace().nth(2) == Some(key)).collect()
    };
    assert_eq!(of("ada").len(), 2, "{consumed}");
    assert_eq!(of("bob").len(), 1, "{consumed}");
    assert!(of("ada")[0].ends_with("{\"item\":1}") && of("ada")[1].ends_with("{\"item\":3}"), "{consumed}");

    let inspect = shell.iter().find(|block| block.contains("cluster health")).expect("the commands that look");
    let (offline, online): (Vec<&str>, Vec<&str>) = inspect.lines().partition(|line| line.contains("log verify"));
    run(&broker, folder.path(), &online.join("\n"));
    let (status, _) = get(broker.http, "/health/ready").expect("an answer");
    assert_eq!(status, 200);

    let example = binary().with_file_name("examples").join("orders");
    assert!(example.exists(), "{} is missing: `cargo test --workspace` builds it", example.display());
    let output = Command::new(example).arg(broker.clients.to_string()).output().expect("the example runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("item\\\":4"), "{output:?}");

    assert!(broker.terminate(), "the drain ends with exit code 0");
    run(&broker, folder.path(), &offline.join("\n"));
}

#[test]
fn the_rust_example_of_the_readme_is_the_one_that_runs() {
    let example = std::fs::read_to_string(repository().join("client/examples/orders.rs")).expect("the example");
    let (_, code) = example.split_once("\n\n").expect("a contract, then code");
    assert_eq!(blocks("rust"), [code], "copy client/examples/orders.rs, without its first lines, into README.md");
}

/// A folder whose history is told: this repository, or a small one made in `scratch` where the sources came without theirs.
fn history_folder(scratch: &Path) -> PathBuf {
    let has_history = |folder: &Path| {
        let asked = Command::new("git").args(["rev-parse", "--verify", "HEAD"]).current_dir(folder).output();
        asked.is_ok_and(|output| output.status.success())
    };
    if has_history(&repository()) {
        return repository();
    }
    eprintln!("{} is no clone with a history: a small one is made", repository().display());
    let script = "git init --quiet .\n\
        for n in $(seq 60); do\n\
            export GIT_AUTHOR_DATE=\"2026-01-01T$((n % 24)):00:00Z\" GIT_COMMITTER_DATE=\"2026-01-01T00:00:00Z\"\n\
            git -c user.name=somebody -c user.email=somebody@example.org commit --quiet --allow-empty \\\n\
                --author \"author $((n % 5)) <author@example.org>\" --message \"change $n\"\n\
        done";
    let made = Command::new("bash").args(["-euc", script]).current_dir(scratch).output().expect("bash runs");
    assert!(made.status.success() && has_history(scratch), "{}", String::from_utf8_lossy(&made.stderr));
    scratch.to_owned()
}

/// Lines of the second load, at least.
const LOAD_LINES: usize = 6_000;
/// Lines that are given to the producer and not yet acknowledged, at most: few enough that their bytes fit into a pipe,
/// so that neither side ever waits for the other with both hands full.
const LOAD_WINDOW: usize = 400;
/// Acknowledged lines after which the broker is killed.
const LOAD_KILL_AT: usize = 2_000;

/// A running `streambus produce -o json`, fed as its acknowledgements come back.
struct Load {
    child: Child,
    input: ChildStdin,
    positions: Lines<BufReader<ChildStdout>>,
    lines: Vec<String>,
    given: usize,
    acknowledged: Vec<serde_json::Value>,
}

impl Load {
    fn start(broker: &Broker, topic: &str, lines: Vec<String>) -> Self {
        let mut child = Command::new(binary())
            .args(["-b", &broker.clients.to_string(), "produce", topic, "-f", "%k\\t%v\\n", "-o", "json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the producer starts");
        let input = child.stdin.take().expect("standard input is piped");
        let positions = BufReader::new(child.stdout.take().expect("standard output is piped")).lines();
        Self { child, input, positions, lines, given: 0, acknowledged: Vec::new() }
    }

    /// Gives as many lines as the window allows.
    fn fill(&mut self) {
        let until = self.lines.len().min(self.acknowledged.len() + LOAD_WINDOW);
        let text: String = self.lines[self.given..until].iter().map(|line| format!("{line}\n")).collect();
        self.input.write_all(text.as_bytes()).expect("the producer takes its input");
        self.given = until;
    }

    /// Goes on until `count` lines are acknowledged, and leaves a full window of lines with the producer.
    fn acknowledged_to(&mut self, count: usize) {
        self.fill();
        while self.acknowledged.len() < count {
            let line = self.positions.next().expect("the producer ended early").expect("standard output can be read");
            self.acknowledged.push(serde_json::from_str(&line).expect("a position in JSON"));
            // Half a window at a time, and not line by line, so that batches hold many records.
            if self.given - self.acknowledged.len() <= LOAD_WINDOW / 2 {
                self.fill();
            }
        }
        self.fill();
    }

    /// Ends the input. The lines and their positions, in the order of the input.
    fn finish(mut self) -> (Vec<String>, Vec<serde_json::Value>) {
        self.acknowledged_to(self.lines.len());
        drop(self.input);
        assert!(self.positions.next().is_none(), "more positions than lines");
        assert!(self.child.wait().expect("the producer can be waited for").success());
        (self.lines, self.acknowledged)
    }
}

/// The main job on real input: a history, one commit a line, goes in by the README's own line. Then a second load of it is
/// running when the broker is killed.
///
/// Catches: an acknowledgement before the record is where a start finds it, a recovery that cuts acknowledged records or
/// gives their offsets to others, a retry over the restart that is stored twice or overtakes its predecessor.
#[test]
fn a_history_comes_back_byte_for_byte_also_after_kill_nine_in_the_middle_of_a_load() {
    let folder = tempfile::tempdir().expect("a folder");
    let scratch = folder.path().join("history");
    std::fs::create_dir(&scratch).expect("a folder");
    let history = history_folder(&scratch);
    let mut broker = Broker::start(&folder.path().join("data"));
    let shell = blocks("sh");
    let block = shell.iter().find(|block| block.contains("git log")).expect("the block that loads the history");
    let (log, _) = block.split_once(" | streambus").expect("git log into streambus");
    let run = |broker: &Broker, commands: &str| run_in(&history, broker, folder.path(), commands);

    run(&broker, "streambus topic create history --partitions 3");
    run(&broker, block);
    let first = run(&broker, log);
    assert!(first.lines().count() > 0, "there is no history");
    let consume = "streambus consume history -e -f '%k\\t%v\\n'";
    assert_eq!(by_key(&run(&broker, consume)), by_key(&first));

    // The hour of a commit as key: more keys than a small project has authors. Each line says which one it is.
    let commits = run(&broker, "git log --reverse --date=format:%H --format='%ad %H'");
    let commits: Vec<(&str, &str)> = commits.lines().filter_map(|line| line.split_once(' ')).collect();
    let lines = (0..LOAD_LINES.max(commits.len() * 2)).zip(commits.iter().cycle());
    let lines =
        lines.map(|(n, (hour, commit))| format!("at {hour}\t{{\"line\":{n},\"commit\":\"{commit}\"}}")).collect();
    let mut load = Load::start(&broker, "history", lines);
    load.acknowledged_to(LOAD_KILL_AT);
    assert!(load.given < load.lines.len() / 2, "the broker must be killed in the middle of the load");
    broker.kill_nine();
    let broker = broker.restart();
    let (lines, positions) = load.finish();

    let second = lines.join("\n");
    let stored = run(&broker, "streambus consume history -e -o json");
    let stored: Vec<serde_json::Value> = stored.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let place = |at: &serde_json::Value| {
        let number = |key: &str| at[key].as_u64().unwrap_or_else(|| panic!("no {key} in {at}"));
        (number("partition"), number("offset"))
    };
    let held: BTreeMap<(u64, u64), String> = stored.iter().map(|record| (place(record), line_of(record))).collect();
    assert_eq!(held.len(), stored.len(), "an offset was handed out twice");
    for (line, position) in lines.iter().zip(&positions) {
        assert_eq!(held.get(&place(position)), Some(line), "acknowledged at {position}");
    }
    // Everything, in the order of each key, and nothing twice.
    assert_eq!(by_key(&run(&broker, consume)), by_key(&format!("{first}{second}")));
}

/// A record of `consume -o json` as the line it was.
fn line_of(record: &serde_json::Value) -> String {
    format!("{}\t{}", record["key"].as_str().unwrap_or_default(), record["value"].as_str().unwrap_or_default())
}

/// Lines grouped by key, each group in order: order is promised within a partition, hence per key.
fn by_key(text: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut groups = BTreeMap::<&str, Vec<&str>>::new();
    for line in text.lines() {
        let (key, value) = line.split_once('\t').unwrap_or_else(|| panic!("no key in {line:?}"));
        groups.entry(key).or_default().push(value);
    }
    groups
}
