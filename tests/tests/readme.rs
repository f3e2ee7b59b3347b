//! The README is true: its commands run as they stand, and its Rust example is compiled and run.

use std::path::{Path, PathBuf};
use std::process::Command;

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
    let script = format!(
        "set -euo pipefail\nstreambus() {{ {} -b {} \"$@\"; }}\n{}",
        binary().display(),
        broker.clients,
        commands.replace("localhost:8080", &broker.http.to_string()).replace("./data", &data.display().to_string()),
    );
    let output = Command::new("bash").args(["-c", &script]).current_dir(repository()).output().expect("bash runs");
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

/// The main job on real input: this repository's history, one commit a line, the author as key.
#[test]
fn the_history_of_this_repository_comes_back_byte_for_byte_also_after_kill_nine() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut broker = Broker::start(&folder.path().join("data"));
    let history = folder.path().join("history.tsv");
    let log =
        format!("git log --reverse --format='%an%x09{{\"commit\":\"%H\",\"at\":\"%aI\"}}' > {}", history.display());
    run(&broker, folder.path(), &log);
    let sent = std::fs::read_to_string(&history).expect("the history");
    assert!(sent.lines().count() > 0, "this checkout has no history");

    run(&broker, folder.path(), "streambus topic create history --partitions 3");
    let produce = format!("streambus produce history -f '%k\\t%v\\n' < {}", history.display());
    run(&broker, folder.path(), &produce);
    let consume = "streambus consume history -e -f '%k\\t%v\\n'";
    assert_eq!(by_key(&run(&broker, folder.path(), consume)), by_key(&sent));

    broker.kill_nine();
    let broker = broker.restart();
    assert_eq!(by_key(&run(&broker, folder.path(), consume)), by_key(&sent));
}

/// Lines grouped by key, each group in order: order is promised within a partition, hence per key.
fn by_key(text: &str) -> std::collections::BTreeMap<&str, Vec<&str>> {
    let mut groups = std::collections::BTreeMap::<&str, Vec<&str>>::new();
    for line in text.lines() {
        let (key, value) = line.split_once('\t').unwrap_or_else(|| panic!("no key in {line:?}"));
        groups.entry(key).or_default().push(value);
    }
    groups
}
