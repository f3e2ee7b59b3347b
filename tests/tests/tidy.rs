//! Policy as a test: the rules of the house that a machine can check. Each failure says which file, which rule and
//! how to mend it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Lines a source file may have before its tests; a longer one holds a noun that wants its own file.
const FILE_LINES_MAX: usize = 600;

/// Columns a comment may have, a table's rows apart: rustfmt breaks code and leaves comments as they are.
const COMMENT_COLUMNS_MAX: usize = 128;

/// Which crates of this workspace each crate may depend on (tests of a crate may use more). Imports point only down.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("planted", &[]),
    ("protocol", &[]),
    ("rocksfiles", &[]),
    ("storage", &["planted", "protocol", "rocksfiles"]),
    ("consensus", &["planted", "protocol", "rocksfiles"]),
    ("broker", &["planted", "protocol", "storage", "consensus"]),
    ("client", &["protocol"]),
    ("bench", &["protocol", "storage", "client"]),
    ("cli", &["planted", "protocol", "storage", "consensus", "broker", "client", "bench"]),
    ("tests", &["planted", "protocol", "storage", "consensus", "broker", "client", "bench"]),
];

/// Crates that only the named folders may depend on.
const RESERVED: &[(&str, &[&str])] = &[
    ("openraft", &["consensus"]),
    ("rocksdb", &["storage", "consensus"]),
    ("hyper", &["broker"]),
    ("prometheus", &["broker"]),
    ("tracing-subscriber", &["broker", "cli"]),
];

/// Text that must not stand in a source file, and why.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("todo", "!("), "finish it or leave it out"),
    (concat!("unimplemented", "!("), "finish it or leave it out"),
    (concat!("FIX", "ME"), "mend it now, or file it"),
    (concat!("thread::", "sleep("), "wait for the event itself"),
    (concat!("#[ig", "nore"), "a test that never runs proves nothing; put long ones behind an environment variable"),
];

/// Files that may hold a forbidden text, with the reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[(
    "bench/src/stopwatch.rs",
    concat!("thread::", "sleep("),
    "an open-loop load is paced by time; the runtime's timers are too coarse for it",
)];

/// What whole brokers must not call, because a simulation can neither order nor see it, with what there is instead and the
/// files that may: the adapters.
const NOT_SIMULATED: &[(&str, &str, &[&str])] = &[
    (concat!("spawn_", "blocking"), "streambus_consensus::blocking::spawn", &["consensus/src/blocking.rs"]),
    (
        concat!("tokio::", "net"),
        "net::network::Network and net::socket",
        &["broker/src/net/network.rs", "broker/src/net/socket.rs", "broker/src/http/server.rs"],
    ),
    (concat!("std::", "net::Tcp"), "net::network::Network and net::socket", &[]),
];

/// Module names that say nothing.
const VAGUE_NAMES: &[&str] = &["common", "core", "util", "utils", "helper", "helpers", "misc", "manager"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace").to_owned()
}

fn files_below(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.is_dir() {
            if name != "target" && !name.starts_with("data") && name != ".git" && name != "fuzz" {
                files_below(&path, extension, found);
            }
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut paths = Vec::new();
    for (folder, _) in MAY_IMPORT {
        files_below(&root.join(folder), "rs", &mut paths);
    }
    assert!(paths.len() > 20, "the walk found only {} sources: it is broken", paths.len());
    paths
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a readable source");
            let name = path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
            (name, text)
        })
        .collect()
}

fn manifest(folder: &str) -> toml_edit::DocumentMut {
    let path = root().join(folder).join("Cargo.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn dependencies(folder: &str) -> Vec<String> {
    let document = manifest(folder);
    document
        .get("dependencies")
        .and_then(|item| item.as_table_like())
        .map(|table| table.iter().map(|(name, _)| name.to_owned()).collect())
        .unwrap_or_default()
}

fn report(problems: Vec<String>) {
    assert!(problems.is_empty(), "{} problem(s):\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn imports_point_only_down() {
    let mut problems = Vec::new();
    for (folder, allowed) in MAY_IMPORT {
        for dependency in dependencies(folder) {
            if let Some(other) = dependency.strip_prefix("streambus-")
                && !allowed.contains(&other)
            {
                problems.push(format!("{folder}/Cargo.toml depends on {other}: only {allowed:?} are below it"));
            }
            for (name, owners) in RESERVED {
                if dependency == *name && !owners.contains(folder) {
                    problems.push(format!("{folder}/Cargo.toml names {name}: only {owners:?} may"));
                }
            }
        }
    }
    report(problems);
}

#[test]
fn the_protocol_knows_no_runtime() {
    for forbidden in ["tokio", "tokio-util", "hyper", "socket2", "rand"] {
        assert!(!dependencies("protocol").iter().any(|d| d == forbidden), "protocol is sans-I/O: remove {forbidden}");
    }
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    let mut problems = Vec::new();
    for (folder, _) in MAY_IMPORT {
        let inherits = manifest(folder).get("lints").and_then(|l| l.get("workspace")).and_then(|w| w.as_bool());
        if inherits != Some(true) {
            problems.push(format!("{folder}/Cargo.toml: add [lints] workspace = true"));
        }
    }
    report(problems);
}

/// Bytes of wires, disks and configurations come from elsewhere: what they lack is an error, and no panic without a word.
#[test]
fn libraries_do_not_unwrap() {
    let rule = "#![cfg_attr(not(test), deny(clippy::unwrap_used";
    let mut problems = Vec::new();
    for (folder, _) in MAY_IMPORT.iter().filter(|(folder, _)| *folder != "tests") {
        let text = std::fs::read_to_string(root().join(folder).join("src/lib.rs")).expect("a library");
        if !text.lines().any(|line| line.starts_with(rule)) {
            problems.push(format!("{folder}/src/lib.rs: add {rule}))]"));
        }
    }
    report(problems);
}

#[test]
fn every_file_says_what_it_is_and_stays_small() {
    let mut problems = Vec::new();
    for (name, text) in sources() {
        if !text.starts_with("//!") {
            problems.push(format!("{name}: begin with a //! contract"));
        }
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        if lines > FILE_LINES_MAX && !name.contains("/tests/") {
            problems.push(format!(
                "{name}: {lines} lines before its tests, {FILE_LINES_MAX} are allowed: which noun wants its own file?"
            ));
        }
    }
    report(problems);
}

#[test]
fn comments_are_broken_into_lines() {
    let mut problems = Vec::new();
    for (name, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let Some(comment) = line.trim_start().strip_prefix("//") else { continue };
            let is_row = comment.trim_start_matches(['/', '!']).trim_start().starts_with('|');
            let columns = line.chars().count();
            if columns > COMMENT_COLUMNS_MAX && !is_row {
                problems.push(format!("{name}:{}: {columns} columns: break the comment at 120", number + 1));
            }
        }
    }
    report(problems);
}

#[test]
fn no_source_holds_a_forbidden_text() {
    let mut problems = Vec::new();
    for (name, text) in sources() {
        for (line, content) in text.lines().enumerate() {
            for (forbidden, why) in FORBIDDEN {
                let excepted = EXCEPTIONS.iter().any(|(file, what, _)| *file == name && what == forbidden);
                if content.contains(forbidden) && !excepted {
                    problems.push(format!("{name}:{}: {forbidden:?}: {why}", line + 1));
                }
            }
        }
    }
    report(problems);
}

/// Whole brokers run in a simulation: what they do goes through what the simulation stands in for.
#[test]
fn brokers_block_and_connect_through_their_adapters_only() {
    let mut problems = Vec::new();
    for (name, text) in sources() {
        let is_simulated = name.starts_with("broker/src/") || name.starts_with("consensus/src/");
        if !is_simulated || name.ends_with("tests.rs") || name.contains("/tests/") {
            continue;
        }
        let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for (forbidden, instead, adapters) in NOT_SIMULATED {
                if line.contains(forbidden) && !adapters.contains(&name.as_str()) {
                    problems.push(format!("{name}:{}: {forbidden:?}: use {instead}", number + 1));
                }
            }
        }
    }
    report(problems);
}

/// A timer in a test is a sleep under another name, unless the test's clock is paused: then it costs no time and
/// decides nothing by luck.
#[test]
fn tests_wait_for_events_not_for_time() {
    let timer = concat!("time::", "sleep(");
    let mut problems = Vec::new();
    for (name, text) in sources() {
        let in_tests = name.contains("/tests/") || name.starts_with("tests/");
        let paused = text.contains("start_paused") || name.starts_with("client/tests/support/");
        if in_tests && text.contains(timer) && !paused {
            problems.push(format!("{name}: {timer:?}: wait for the event itself, or pause the clock"));
        }
    }
    report(problems);
}

#[test]
fn modules_have_names_that_say_something() {
    let mut problems = Vec::new();
    for (name, _) in sources() {
        let path = Path::new(&name);
        for part in path.components().filter_map(|c| c.as_os_str().to_str()) {
            let stem = part.strip_suffix(".rs").unwrap_or(part);
            if VAGUE_NAMES.contains(&stem) {
                problems.push(format!("{name}: '{stem}' names nothing; call it by its noun"));
            }
        }
    }
    report(problems);
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    let root = root();
    let mut documents = Vec::new();
    files_below(&root, "md", &mut documents);
    assert!(documents.len() >= 5, "the walk found only {} documents: it is broken", documents.len());
    let mut problems = Vec::new();
    for document in documents {
        let text = std::fs::read_to_string(&document).expect("a readable document");
        let folder = document.parent().expect("a file has a folder");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") || file.contains(' ') {
                continue;
            }
            if !folder.join(file).exists() {
                problems.push(format!("{}: link to {file} leads nowhere", document.display()));
            }
        }
    }
    report(problems);
}

#[test]
fn decisions_are_numbered_once_and_in_order() {
    let mut numbers: BTreeMap<u32, String> = BTreeMap::new();
    for entry in std::fs::read_dir(root().join("docs/adr")).expect("docs/adr exists") {
        let name = entry.expect("a readable folder").file_name().to_string_lossy().into_owned();
        let number: u32 = name
            .get(..4)
            .and_then(|n| n.parse().ok())
            .unwrap_or_else(|| panic!("docs/adr/{name}: call it NNNN-title.md"));
        if let Some(other) = numbers.insert(number, name.clone()) {
            panic!("docs/adr: {name} and {other} share a number");
        }
    }
    let expected: Vec<u32> = (1..=numbers.len() as u32).collect();
    assert_eq!(numbers.keys().copied().collect::<Vec<_>>(), expected, "decisions are numbered from 1 without a gap");
}

#[test]
fn every_makefile_target_is_listed_by_help() {
    let text = std::fs::read_to_string(root().join("Makefile")).expect("a Makefile");
    let declared = text.lines().filter_map(|line| line.strip_prefix(".PHONY: "));
    let mut problems = Vec::new();
    for target in declared {
        if !text.lines().any(|line| line.starts_with(&format!("{target}:")) && line.contains(" ## ")) {
            problems.push(format!("Makefile: {target} has no '## ' text, so `make help` hides it"));
        }
    }
    report(problems);
}
