//! What an operator types: the one binary's other commands, run against the cluster.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStderr, Stdio};
use std::time::Duration;

use super::Cluster;
use crate::patience::wait_for;
use crate::process::binary;

/// What a command said when it had ended.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit code; the numbers are a contract with scripts.
    pub code: i32,
    /// What it wrote to standard output.
    pub out: String,
    /// What it wrote to standard error: notes, progress, failures.
    pub err: String,
}

/// A command that runs. Killed when dropped.
#[derive(Debug)]
pub struct Command {
    words: String,
    child: Child,
    notes: BufReader<ChildStderr>,
    /// What was read of standard error already.
    heard: String,
}

impl Cluster {
    /// Starts `streambus ARGUMENTS` with the addresses of all brokers of the cluster, unless they name `--brokers`.
    pub fn begin(&self, arguments: &[&str]) -> Command {
        let words = arguments.join(" ");
        self.recorder.fault(format!("streambus {words}"));
        let all = ["--brokers".to_owned(), self.client_addresses().join(",")];
        let mut child = std::process::Command::new(binary())
            .args(all.iter().filter(|_| !arguments.contains(&"--brokers")))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let notes = BufReader::new(child.stderr.take().expect("standard error is piped"));
        Command { words, child, notes, heard: String::new() }
    }

    /// Runs `streambus ARGUMENTS` to its end, within `limit`.
    pub fn command(&self, limit: Duration, arguments: &[&str]) -> Said {
        let said = self.begin(arguments).wait(limit);
        self.recorder.fault(format!("  it ended with {}: {}{}", said.code, said.out, said.err.trim_end()));
        said
    }

    /// Runs `streambus ARGUMENTS`, which must succeed.
    pub fn command_well(&self, limit: Duration, arguments: &[&str]) -> Said {
        let said = self.command(limit, arguments);
        assert_eq!(said.code, 0, "`streambus {}` failed: {}{}", arguments.join(" "), said.out, said.err);
        said
    }
}

impl Command {
    /// True while it has not ended.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("the process can be waited for").is_none()
    }

    /// The next line of its standard error, as soon as it is written; `None` when the command has ended.
    pub fn next_note(&mut self) -> Option<String> {
        let mut line = String::new();
        self.notes.read_line(&mut line).expect("what it says is text");
        self.heard.push_str(&line);
        (!line.is_empty()).then(|| line.trim_end().to_owned())
    }

    /// Waits until it ends. What it writes must fit a pipe: a few lines.
    pub fn wait(mut self, limit: Duration) -> Said {
        let ended = wait_for(limit, || (!self.runs()).then_some(()));
        assert!(ended.is_some(), "`streambus {}` does not end within {limit:?}", self.words);
        let code = self.child.wait().expect("it has ended").code().unwrap_or(-1);
        let (mut out, mut err) = (String::new(), std::mem::take(&mut self.heard));
        if let Some(stdout) = self.child.stdout.as_mut() {
            stdout.read_to_string(&mut out).expect("what it said is text");
        }
        self.notes.read_to_string(&mut err).expect("what it said is text");
        Said { code, out, err }
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
