//! One broker process of a cluster: started, killed, paused and stopped by signals, its log kept in a file.

use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::loop_disk::LoopDisk;
use crate::patience::wait_for;
use crate::process::{Program, get_within};
use crate::shim::Shim;

/// Where one broker listens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) clients: SocketAddr,
    pub(super) cluster: SocketAddr,
    pub(super) http: SocketAddr,
}

impl Addresses {
    /// Ports that are free now on `host`, a loopback address that nobody else uses: they stay free while the broker is
    /// down.
    pub(super) fn on(host: Ipv4Addr) -> Self {
        let held: Vec<TcpListener> =
            (0..3).map(|_| TcpListener::bind((host, 0)).expect("a loopback address has free ports")).collect();
        let at = |index: usize| held[index].local_addr().expect("a bound socket has an address");
        Self { clients: at(0), cluster: at(1), http: at(2) }
    }

    /// The usual ports on `host`, which nobody else can have.
    pub(super) fn of(host: Ipv4Addr) -> Self {
        let at = |port| SocketAddr::from((host, port));
        Self { clients: at(9092), cluster: at(9192), http: at(8080) }
    }
}

/// A broker of a cluster, running or not.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: u32,
    pub(super) addresses: Addresses,
    pub(super) data: PathBuf,
    pub(super) log: PathBuf,
    pub(super) program: Program,
    child: Option<Child>,
    /// Between the process and the C library, when faults inside it are wanted.
    pub(super) shim: Option<Shim>,
    /// Under the data directory, when it is one of its own. Behind `child`: a process ends before its disk goes.
    pub(super) disk: Option<LoopDisk>,
    /// Under its metadata alone, when that lies apart.
    pub(super) metadata_disk: Option<LoopDisk>,
}

impl Node {
    pub(super) fn new(id: u32, addresses: Addresses, data: PathBuf, log: PathBuf) -> Self {
        let (child, shim, disk, metadata_disk) = (None, None, None, None);
        Self { id, addresses, data, log, program: Program::Shipped, child, shim, disk, metadata_disk }
    }

    /// Starts the process, with `entry` in front of the program; returns its id. It is not ready yet.
    pub(super) fn start(&mut self, entry: &[String], arguments: &[String]) -> u32 {
        assert!(self.child.is_none(), "broker {} runs already", self.id);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log file");
        let mut words = entry.iter().map(Into::into).chain([self.program.path().into_os_string()]);
        let mut command = Command::new(words.next().expect("the program at least"));
        command.args(words);
        // A variable of whoever runs the tests must not change what they see.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("STREAMBUS__")) {
            command.env_remove(name);
        }
        if let Some(shim) = &self.shim {
            command.envs(shim.environment());
        }
        command.envs(self.program.environment());
        let child = command
            .arg("server")
            .args(["--broker-id", &self.id.to_string()])
            .arg("--data-dir")
            .arg(&self.data)
            .args(["--listen", &self.addresses.clients.to_string(), "--http", &self.addresses.http.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        let id = child.id();
        self.child = Some(child);
        id
    }

    /// The process id, while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// True when `/health/ready` says so within two seconds.
    pub(super) fn is_ready(&self) -> bool {
        let answer = get_within(self.addresses.http, "/health/ready", Duration::from_secs(2));
        answer.is_ok_and(|(status, _)| status == 200)
    }

    /// SIGKILL, and waits until the process is gone.
    pub(super) fn kill_nine(&mut self) {
        let mut child = self.child.take().expect("a running broker");
        child.kill().expect("the process can be killed");
        child.wait().expect("the process can be waited for");
    }

    /// Sends a signal by its name.
    pub(super) fn signal(&self, name: &str) {
        let pid = self.pid().expect("a running broker").to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().expect("kill runs");
        assert!(sent.success(), "broker {} can be signalled", self.id);
    }

    /// Waits until the process ends by itself; `None` when `limit` passes.
    pub(super) fn wait_exit(&mut self, limit: Duration) -> Option<ExitStatus> {
        let child = self.child.as_mut().expect("a running broker");
        let status = wait_for(limit, || child.try_wait().expect("the process can be waited for"))?;
        self.child = None;
        Some(status)
    }

    /// True when the process has ended without being asked; its log says why.
    pub(super) fn has_died(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("the process can be waited for").is_some())
    }

    /// The term of the vote that its last process found on the disk, once it has said so.
    pub(super) fn opened_term(&self) -> Option<u64> {
        let log = self.log_text();
        let line = log.lines().rfind(|line| line.contains("the metadata's log is open"))?;
        line.split_whitespace().find_map(|word| word.strip_prefix("term="))?.parse().ok()
    }

    /// What the process wrote, in all its lives.
    pub(super) fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }
}
