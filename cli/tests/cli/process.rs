//! The `streambus` binary as scripts see it: arguments and standard input in, two streams and an exit code out.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streambus"));
    // A variable of whoever runs the tests must not change what they see.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("STREAMBUS")) {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command to its end.
pub(crate) fn streambus(args: &[&str], input: &str) -> Ended {
    let mut child = command(args).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that does not read its input has closed it.
    let _closed = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A running `streambus server` on ports of its own choice.
pub(crate) struct Broker {
    child: Child,
    /// Where clients connect.
    pub(crate) address: String,
    /// What it says after its start, line by line.
    said: mpsc::Receiver<String>,
}

impl Broker {
    /// Starts a broker on `directory` and waits until it says that it is ready.
    pub(crate) fn start(directory: &Path) -> Self {
        let directory = directory.to_str().unwrap();
        let args = ["server", "--data-dir", directory, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        Self::spawn(&args, &[], "is ready after").0
    }

    /// A broker that is told everything by these arguments of `server` and these variables.
    pub(crate) fn told(args: &[&str], variables: &[(&str, String)]) -> Self {
        Self::spawn(&[&["server"], args].concat(), variables, "is ready after").0
    }

    /// As [`Broker::start`], with a configuration file.
    pub(crate) fn configured(directory: &Path, file: &Path) -> Self {
        let (directory, file) = (directory.to_str().unwrap(), file.to_str().unwrap());
        let addresses = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        let args = [&["server", "--data-dir", directory, "--config", file][..], &addresses].concat();
        Self::spawn(&args, &[], "is ready after").0
    }

    /// Starts `streambus dev` and waits until it has said everything; returns where it keeps its data.
    pub(crate) fn dev() -> (Self, PathBuf) {
        let (broker, last) = Self::spawn(&["dev", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"], &[], "data in ");
        let directory = last.strip_prefix("data in ").and_then(|rest| rest.split(',').next()).unwrap();
        (broker, PathBuf::from(directory))
    }

    /// Starts a broker and reads what it says until a line has `last` in it, which is returned.
    fn spawn(args: &[&str], variables: &[(&str, String)], last: &str) -> (Self, String) {
        let variables = variables.iter().map(|(name, value)| (name, value));
        let child = command(args).envs(variables).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        // Owned at once, so that a broker that does not become ready is ended too.
        let (saying, said) = mpsc::channel();
        let mut broker = Self { child, address: String::new(), said };
        let mut lines = BufReader::new(broker.child.stderr.take().unwrap()).lines();
        let mut seen = Vec::new();
        let last = loop {
            let Some(Ok(line)) = lines.next() else { panic!("the broker did not become ready:\n{}", seen.join("\n")) };
            if let Some((_, rest)) = line.split_once("is ready after") {
                let address = rest.split("clients ").nth(1).and_then(|rest| rest.split(',').next());
                broker.address = address.unwrap().to_owned();
            }
            if line.contains(last) {
                break line;
            }
            seen.push(line);
        };
        // Whatever it logs from here on must not fill the pipe and stop it; the reader ends with the broker.
        let keep = move || lines.map_while(Result::ok).try_for_each(|line| saying.send(line));
        std::thread::Builder::new().spawn(keep).unwrap();
        (broker, last)
    }

    /// Starts a command against this broker that does not end by itself.
    pub(crate) fn follow(&self, args: &[&str]) -> Following {
        let mut all = vec!["-b", self.address.as_str()];
        all.extend_from_slice(args);
        let mut child = command(&all).stdin(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Following { child, lines }
    }

    /// Runs a client command against this broker.
    pub(crate) fn run(&self, args: &[&str], input: &str) -> Ended {
        let mut all = vec!["-b", self.address.as_str()];
        all.extend_from_slice(args);
        streambus(&all, input)
    }

    /// Asks the broker to read its configuration again.
    pub(crate) fn hang_up(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    }

    /// What it says from now on, to the line with `last` in it.
    pub(crate) fn says_until(&self, last: &str) -> Vec<String> {
        let mut seen: Vec<String> = Vec::new();
        while !seen.last().is_some_and(|line| line.contains(last)) {
            let line = self.said.recv_timeout(Duration::from_secs(60));
            seen.push(line.unwrap_or_else(|_| panic!("no line with {last:?}:\n{}", seen.join("\n"))));
        }
        seen
    }

    /// Asks the broker to stop and returns its exit code.
    pub(crate) fn terminate(mut self) -> i32 {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

/// A command that goes on until it is ended.
pub(crate) struct Following {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Following {
    /// The next line of its standard output.
    pub(crate) fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }

    /// Ends it; returns its exit code and what it still had to say. Not by SIGINT: a shell's background jobs ignore that.
    pub(crate) fn interrupt(mut self) -> (Option<i32>, Vec<String>) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let rest = self.lines.by_ref().map(Result::unwrap).collect();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
