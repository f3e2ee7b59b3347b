//! Starts, kills and stops the real `streambus` binary, each with its own data directory and ports of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use streambus_planted::Defect;

/// By it `streambus-planted` is told what to plant.
pub const PLANTED_VARIABLE: &str = "STREAMBUS_PLANTED_BUG";
/// How long a broker may take until it is ready, or to stop, before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which build brokers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The one binary.
    Shipped,
    /// `streambus-planted` with this mistake, or with none.
    Planted(Option<Defect>),
}

impl Program {
    /// Where it is.
    pub fn path(self) -> PathBuf {
        match self {
            Self::Shipped => binary(),
            Self::Planted(_) => planted_binary(),
        }
    }

    /// What its environment says besides.
    pub fn environment(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Shipped | Self::Planted(None) => None,
            Self::Planted(Some(defect)) => Some((PLANTED_VARIABLE, defect.name())),
        }
    }
}

/// The binary under test: `STREAMBUS_BIN`, else the one that was built beside this program or this test.
///
/// Panics with the command that builds it when it is not there.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("STREAMBUS_BIN") {
        return path.into();
    }
    built("streambus", "cargo build --release -p streambus-cli")
}

/// The one that makes mistakes on purpose: `STREAMBUS_PLANTED_BIN`, else the one that was built beside this test.
///
/// Panics with the command that builds it when it is not there.
pub fn planted_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("STREAMBUS_PLANTED_BIN") {
        return path.into();
    }
    built("streambus-planted", "make planted")
}

fn built(name: &str, command: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a program knows its own path");
    // A program lies in target/PROFILE, a test in target/PROFILE/deps.
    let beside = this.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    beside.unwrap_or_else(|| panic!("no {name} beside {}: run `{command}` first", this.display()))
}

/// A running broker process. Killed when dropped.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    /// Where clients connect.
    pub clients: SocketAddr,
    /// Where probes and metrics answer.
    pub http: SocketAddr,
    data: PathBuf,
}

impl Broker {
    /// Starts a broker on `data` with ports chosen by the system and waits until it is ready.
    pub fn start(data: &Path) -> Self {
        Self::start_with(data, "127.0.0.1:0", "127.0.0.1:0", &[])
    }

    /// Starts a broker with further arguments.
    pub fn start_with(data: &Path, listen: &str, http: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(binary())
            .arg("server")
            .arg("--data-dir")
            .arg(data)
            .args(["--listen", listen, "--http", http])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let (clients, http) = addresses(&mut child);
        Self { child, clients, http, data: data.to_owned() }
    }

    /// SIGKILL, then waits until the process is gone.
    pub fn kill_nine(&mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process can be waited for");
    }

    /// Starts the killed broker again on the same data and the same ports.
    pub fn restart(self) -> Self {
        let (data, clients, http) = (self.data.clone(), self.clients.to_string(), self.http.to_string());
        drop(self);
        Self::start_with(&data, &clients, &http, &[])
    }

    /// SIGTERM, then waits for the drain; true when the process exits with 0.
    pub fn terminate(&mut self) -> bool {
        let sent = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(sent.success(), "the process can be signalled");
        self.child.wait().expect("the process can be waited for").success()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Already gone after kill_nine or terminate: killing again reports an error that means nothing here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the ready line from the broker's standard error: `... clients HOST:PORT, HTTP HOST:PORT`. What follows it is
/// forwarded to the test's own output, because a full pipe would stop the broker.
fn addresses(child: &mut Child) -> (SocketAddr, SocketAddr) {
    let stderr = child.stderr.take().expect("standard error is piped");
    let mut lines = BufReader::new(stderr);
    let mut seen = String::new();
    loop {
        let mut line = String::new();
        let read = lines.read_line(&mut line).expect("standard error can be read");
        assert!(read > 0, "the broker ended before it was ready; it printed:\n{seen}");
        let after = |word: &str| {
            let mut words = line.split_whitespace();
            let address = words.find(|w| *w == word).and_then(|_| words.next())?;
            address.trim_end_matches(',').parse().ok()
        };
        if let (Some(clients), Some(http)) = (after("clients"), after("HTTP")) {
            forward(lines);
            return (clients, http);
        }
        seen.push_str(&line);
    }
}

#[expect(clippy::disallowed_methods, reason = "it ends by itself with the pipe, when the broker does")]
fn forward(lines: BufReader<impl Read + Send + 'static>) {
    std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            eprintln!("{line}");
        }
    });
}

/// One HTTP GET; returns the status code and the body.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    get_within(address, path, PATIENCE)
}

/// One HTTP GET of a broker that may stand still: connecting and each read take at most `limit`.
pub fn get_within(address: SocketAddr, path: &str, limit: Duration) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    status.map(|status| (status, body)).ok_or_else(|| std::io::Error::other(format!("no HTTP answer: {answer:?}")))
}
