//! The `streambus` binary as scripts see it: arguments and standard input in, two streams and an exit code out.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

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
}

impl Broker {
    /// Starts a broker on `directory` and waits until it says that it is ready.
    pub(crate) fn start(directory: &Path) -> Self {
        let directory = directory.to_str().unwrap();
        let args = ["server", "--data-dir", directory, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        let child = command(&args).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        // Owned at once, so that a broker that does not become ready is ended too.
        let mut broker = Self { child, address: String::new() };
        let mut lines = BufReader::new(broker.child.stderr.take().unwrap()).lines();
        let mut seen = Vec::new();
        while broker.address.is_empty() {
            let Some(Ok(line)) = lines.next() else { panic!("the broker did not become ready:\n{}", seen.join("\n")) };
            if let Some((_, rest)) = line.split_once("is ready after") {
                let address = rest.split("clients ").nth(1).and_then(|rest| rest.split(',').next());
                broker.address = address.unwrap().to_owned();
            }
            seen.push(line);
        }
        // Whatever it logs from here on must not fill the pipe and stop it; the reader ends with the broker.
        std::thread::Builder::new().spawn(move || lines.for_each(drop)).unwrap();
        broker
    }

    /// Runs a client command against this broker.
    pub(crate) fn run(&self, args: &[&str], input: &str) -> Ended {
        let mut all = vec!["-b", self.address.as_str()];
        all.extend_from_slice(args);
        streambus(&all, input)
    }

    /// Asks the broker to stop and returns its exit code.
    pub(crate) fn terminate(mut self) -> i32 {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
