//! A cluster of real `streambus server` processes on this machine, each with its own data directory, log file and
//! loopback address, and everything that can be done to them: killed, paused, stopped, wiped, cut off.
//!
//! Faults of the network need a [`Network`] that has them; asking for one on another fails the test, so no fault is ever
//! skipped in silence.

mod command;
mod disks;
mod links;
mod namespaces;
mod network;
mod node;
mod origin;
mod packets;
mod tun;
mod weather;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use crate::event::What;
use crate::patience::wait_for;
use crate::process::{Program, get_within};
use crate::recorder::Recorder;
pub use command::{Command, Said};
pub use disks::{Disks, FirstToGo};
use links::Links;
use namespaces::Namespaces;
pub use network::Network;
use node::{Addresses, Node};
pub use weather::Weather;

/// How long brokers may take to become ready, or to stop, before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One cluster at a time in a test process: measured times mean little when clusters compete for two cores.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The network as it was built.
#[derive(Debug)]
enum Wiring {
    Direct,
    Proxied(Links),
    Namespaces(Namespaces),
}

/// What a cluster is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many brokers found it.
    pub brokers: u32,
    /// How many more there may be: prepared, in nobody's `--peers`, not started before [`Cluster::join`].
    pub spares: u32,
    /// The first one's number.
    pub first_id: u32,
    /// How they reach each other.
    pub network: Network,
    /// Settings of every broker, as `--set` takes them.
    pub settings: Vec<String>,
    /// Whether each broker stands in a rack of its own, that of [`rack_of`].
    pub has_racks: bool,
    /// What their data lies on.
    pub disks: Disks,
    /// What they run.
    pub program: Program,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            brokers: 3,
            spares: 0,
            first_id: 1,
            network: Network::Direct,
            settings: Vec::new(),
            has_racks: false,
            disks: Disks::default(),
            program: Program::Shipped,
        }
    }
}

impl Options {
    /// The same with more settings, as `--set` takes them.
    #[must_use]
    pub fn with(mut self, settings: &[&str]) -> Self {
        self.settings.extend(settings.iter().map(|setting| (*setting).to_owned()));
        self
    }

    /// The same with the smallest segments there are, so that they are sealed often and small disks hold several.
    #[must_use]
    pub fn with_small_segments(self) -> Self {
        self.with(&["storage.segment_bytes=40MiB", "storage.commit_queue_bytes=8MiB", "storage.spare_segments=1"])
    }

    /// The same with little room kept free, so that a disk of less than a GiB does not count as full.
    #[must_use]
    pub fn with_small_reserve(self) -> Self {
        self.with(&["storage.disk_reserve_bytes=16MiB", "storage.disk_reserve_percent=1%"])
    }
}

/// A running cluster. Its processes are killed when it is dropped; its folder is kept when the test fails.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    /// Brokers that are no part of the cluster: not yet, or no more.
    outside: Vec<Node>,
    /// Those that everybody's `--peers` names.
    founders: Vec<u32>,
    /// Where the others dial each broker: its own address, or its proxy's.
    doors: BTreeMap<u32, SocketAddr>,
    /// Where brokers will be from their next start on, when that is elsewhere.
    moving: BTreeMap<u32, Addresses>,
    wiring: Wiring,
    settings: Vec<String>,
    has_racks: bool,
    recorder: Recorder,
    folder: Option<TempDir>,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Starts a cluster and waits until every broker is ready.
    pub fn start(options: &Options) -> Self {
        let mut cluster = Self::prepare(options);
        for id in cluster.ids() {
            cluster.start_broker(id);
        }
        for id in cluster.ids() {
            cluster.wait_ready(id);
        }
        cluster
    }

    /// A cluster whose brokers are not started yet.
    pub fn prepare(options: &Options) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::Builder::new().prefix("streambus-cluster-").tempdir().expect("a folder");
        let running = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let host = own_network(running);
        let count = options.brokers + options.spares;
        let ids: Vec<u32> = (0..count).map(|at| options.first_id + at).collect();
        let namespaces = (options.network == Network::Namespaces).then(|| Namespaces::new(running, &ids));
        let mut nodes: Vec<Node> = ids
            .iter()
            .map(|id| {
                let data = folder.path().join(format!("broker-{id}"));
                let log = folder.path().join(format!("broker-{id}.log"));
                let addresses = match &namespaces {
                    Some(namespaces) => Addresses::of(namespaces.address(*id)),
                    None => Addresses::on(host(1 + id)),
                };
                let mut node = Node::new(*id, addresses, data, log);
                disks::equip(&mut node, folder.path(), options.disks);
                node.program = options.program;
                node
            })
            .collect();
        let mut doors: BTreeMap<u32, SocketAddr> = nodes.iter().map(|node| (node.id, node.addresses.cluster)).collect();
        let wiring = match (options.network, namespaces) {
            (Network::Direct, _) => Wiring::Direct,
            (Network::Proxied, _) => {
                for (id, door) in &mut doors {
                    *door = Addresses::on(host(101 + id)).cluster;
                }
                let carried: Vec<_> =
                    nodes.iter().map(|node| (node.id, doors[&node.id], node.addresses.cluster)).collect();
                Wiring::Proxied(Links::new(&carried))
            }
            (Network::Namespaces, namespaces) => Wiring::Namespaces(namespaces.expect("just built")),
        };
        let outside = nodes.split_off(options.brokers as usize);
        let founders = nodes.iter().map(|node| node.id).collect();
        Self {
            nodes,
            outside,
            founders,
            doors,
            moving: BTreeMap::new(),
            wiring,
            settings: options.settings.clone(),
            has_racks: options.has_racks,
            recorder: Recorder::new(),
            folder: Some(folder),
            _turn: turn,
        }
    }

    /// The numbers of the brokers that belong to the cluster, running or not.
    pub fn ids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    /// The numbers of those that can join.
    pub fn spares(&self) -> Vec<u32> {
        self.outside.iter().map(|node| node.id).collect()
    }

    /// Starts a broker that is no part of the cluster and counts it as one from now on; it is not ready yet.
    pub fn join(&mut self, id: u32) -> u64 {
        let at =
            self.outside.iter().position(|node| node.id == id).unwrap_or_else(|| panic!("broker {id} is no spare"));
        let node = self.outside.remove(at);
        self.nodes.push(node);
        let at_us = self.recorder.fault(format!("broker {id} joins"));
        self.start_broker(id);
        at_us
    }

    /// Counts a stopped broker as no part of the cluster any more.
    pub fn retire(&mut self, id: u32) {
        assert!(self.pid(id).is_none(), "broker {id} still runs");
        let at = self.nodes.iter().position(|node| node.id == id).unwrap_or_else(|| panic!("there is no broker {id}"));
        let node = self.nodes.remove(at);
        self.outside.push(node);
    }

    /// The run's memory: faults are recorded here by themselves.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Where clients may connect, all brokers.
    pub fn client_addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.addresses.clients.to_string()).collect()
    }

    /// Where clients connect to one broker.
    pub fn client_address(&self, id: u32) -> SocketAddr {
        self.node(id).addresses.clients
    }

    /// Where the other brokers connect to one broker, not through a proxy.
    pub fn cluster_address(&self, id: u32) -> SocketAddr {
        self.node(id).addresses.cluster
    }

    /// Where probes of one broker answer.
    pub fn http_address(&self, id: u32) -> SocketAddr {
        self.node(id).addresses.http
    }

    /// The `--peers` of every broker.
    pub fn peers(&self) -> String {
        self.founders.iter().map(|id| format!("{id}@{}", self.doors[id])).collect::<Vec<_>>().join(",")
    }

    /// One broker's data directory.
    pub fn data(&self, id: u32) -> &Path {
        &self.node(id).data
    }

    /// The cluster's folder: data directories, logs, and what a failed run leaves.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("kept until the drop").path()
    }

    /// What one broker logged, in all its lives.
    pub fn log(&self, id: u32) -> String {
        self.node(id).log_text()
    }

    /// The process id of a running broker.
    pub fn pid(&self, id: u32) -> Option<u32> {
        self.node(id).pid()
    }

    /// From now on everybody's `--peers` says another address of a broker, which goes on where it is and is there from its
    /// next start on.
    pub fn move_at_next_start(&mut self, id: u32) -> u64 {
        assert!(matches!(self.wiring, Wiring::Direct), "what stands between the brokers stays where it is");
        let addresses = Addresses::on(own_address());
        self.doors.insert(id, addresses.cluster);
        self.moving.insert(id, addresses);
        self.recorder.fault(format!("broker {id} will be at {} from its next start on", addresses.cluster))
    }

    /// Starts a stopped broker; it is not ready yet.
    pub fn start_broker(&mut self, id: u32) {
        if let Some(addresses) = self.moving.remove(&id) {
            self.node_mut(id).addresses = addresses;
        }
        let arguments = self.arguments(id);
        self.start_with(id, &arguments);
    }

    /// Starts a broker as a cluster of one: without `--peers`.
    pub fn start_alone(&mut self, id: u32) {
        let arguments = self.set_arguments();
        self.start_with(id, &arguments);
    }

    fn start_with(&mut self, id: u32, arguments: &[String]) {
        self.recorder.record(What::Started { broker: id });
        let entry = match &self.wiring {
            Wiring::Namespaces(namespaces) => namespaces.entry(id).to_vec(),
            Wiring::Direct | Wiring::Proxied(_) => Vec::new(),
        };
        let pid = self.node_mut(id).start(&entry, arguments);
        if let Wiring::Proxied(links) = &mut self.wiring {
            links.started(id, pid);
        }
    }

    /// Starts one more process that claims to be broker `id` of this cluster, on `data` and addresses of its own.
    pub fn start_impostor(&self, id: u32, data: &Path) -> Impostor {
        let addresses = Addresses::on(own_address());
        let log = self.folder().join(format!("impostor-{id}.log"));
        let mut node = Node::new(id, addresses, data.to_owned(), log);
        let mut arguments = vec!["--cluster-listen".to_owned(), addresses.cluster.to_string()];
        arguments.extend(["--peers".to_owned(), self.peers()]);
        self.recorder.fault(format!("another process claims to be broker {id}"));
        node.start(&[], &arguments);
        Impostor { node }
    }

    /// Waits until a broker is ready; fails the test with the end of its log when it does not become so.
    pub fn wait_ready(&mut self, id: u32) {
        self.try_ready(id, PATIENCE).unwrap_or_else(|why| panic!("{why}"));
    }

    /// Waits until a broker is ready.
    ///
    /// # Errors
    ///
    /// Why it is not, with the end of its log.
    pub fn try_ready(&mut self, id: u32, patience: Duration) -> Result<(), String> {
        let mut died = false;
        let node = self.node_mut(id);
        let ready = wait_for(patience, || {
            died = node.has_died();
            (died || node.is_ready()).then_some(())
        });
        let why = if died { "ended" } else { "is not ready" };
        let is_ready = ready.is_some() && !died;
        if let Some(term) = self.node(id).opened_term() {
            self.recorder.record(What::Opened { broker: id, term });
        }
        is_ready.then_some(()).ok_or_else(|| format!("broker {id} {why}; its log ends\n{}", self.log_end(id)))
    }

    /// True when the broker says that it is ready, within two seconds.
    pub fn is_ready(&self, id: u32) -> bool {
        self.node(id).is_ready()
    }

    /// One page of a broker's HTTP listener.
    pub fn page(&self, id: u32, path: &str) -> Option<String> {
        get_within(self.node(id).addresses.http, path, Duration::from_secs(2)).ok().map(|(_, body)| body)
    }

    /// The value of one series of a broker's metrics, named with its labels; `None` while it does not answer, or without
    /// such a series.
    pub fn metric(&self, id: u32, series: &str) -> Option<f64> {
        let page = self.page(id, "/metrics")?;
        let values = page.lines().filter_map(|line| line.rsplit_once(' '));
        values.filter(|(name, _)| *name == series).find_map(|(_, value)| value.parse().ok())
    }

    /// SIGKILL. Returns when it happened, on the recorder's clock.
    pub fn kill_nine(&mut self, id: u32) -> u64 {
        let at_us = self.recorder.fault(format!("kill -9 of broker {id}"));
        self.node_mut(id).kill_nine();
        if let Wiring::Proxied(links) = &mut self.wiring {
            links.stopped(id);
        }
        at_us
    }

    /// SIGKILL of every broker that runs, as close together as this process can.
    pub fn kill_all(&mut self) -> u64 {
        let at_us = self.recorder.fault("kill -9 of every broker");
        for id in self.ids() {
            if self.pid(id).is_some() {
                self.node(id).signal("KILL");
            }
        }
        for id in self.ids() {
            if self.pid(id).is_some() {
                self.wait_exit(id);
            }
        }
        at_us
    }

    /// SIGTERM, and waits for the drain.
    pub fn terminate(&mut self, id: u32) -> ExitStatus {
        self.ask_to_stop(id);
        self.wait_exit(id)
    }

    /// SIGTERM. Returns when it was sent, on the recorder's clock.
    pub fn ask_to_stop(&self, id: u32) -> u64 {
        let at_us = self.recorder.fault(format!("SIGTERM to broker {id}"));
        self.node(id).signal("TERM");
        at_us
    }

    /// SIGTERM, and waits for the drain; SIGKILL when it does not come.
    ///
    /// # Errors
    ///
    /// How it ended instead of in order.
    pub fn try_terminate(&mut self, id: u32, patience: Duration) -> Result<(), String> {
        if self.pid(id).is_none() {
            return Err("it was not running".to_owned());
        }
        if self.node_mut(id).has_died() {
            let ended = self.node_mut(id).wait_exit(patience);
            return Err(format!("it had ended by itself: {ended:?}; its log ends\n{}", self.log_end(id)));
        }
        self.ask_to_stop(id);
        match self.node_mut(id).wait_exit(patience) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("it ended with {status}; its log ends\n{}", self.log_end(id))),
            None => {
                self.kill_nine(id);
                Err(format!("its drain took more than {patience:?}; its log ends\n{}", self.log_end(id)))
            }
        }
    }

    /// True when a broker's process has ended by itself.
    pub fn has_ended(&mut self, id: u32) -> bool {
        self.node_mut(id).has_died()
    }

    /// Waits until a broker's process ends by itself.
    pub fn wait_exit(&mut self, id: u32) -> ExitStatus {
        let status = self.node_mut(id).wait_exit(PATIENCE);
        let status = status.unwrap_or_else(|| panic!("broker {id} does not end; its log ends\n{}", self.log_end(id)));
        if let Wiring::Proxied(links) = &mut self.wiring {
            links.stopped(id);
        }
        status
    }

    /// SIGSTOP: the process stands still, its connections stay.
    pub fn pause(&self, id: u32) -> u64 {
        let at_us = self.recorder.fault(format!("SIGSTOP of broker {id}"));
        self.node(id).signal("STOP");
        at_us
    }

    /// SIGCONT.
    pub fn resume(&self, id: u32) -> u64 {
        let at_us = self.recorder.fault(format!("SIGCONT of broker {id}"));
        self.node(id).signal("CONT");
        at_us
    }

    /// Empties the data directory of a stopped broker.
    pub fn wipe(&mut self, id: u32) {
        assert!(self.pid(id).is_none(), "broker {id} still runs");
        self.recorder.fault(format!("the disk of broker {id} is emptied"));
        self.recorder.record(What::Wiped { broker: id });
        std::fs::remove_dir_all(&self.node(id).data).expect("the data directory can be removed");
    }

    /// The last lines that a broker logged.
    pub fn log_end(&self, id: u32) -> String {
        let text = self.log(id);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_END_LINES)..].join("\n")
    }

    /// Arguments besides the addresses. A cluster of one is started as the single broker that it is.
    fn arguments(&self, id: u32) -> Vec<String> {
        let mut arguments = self.set_arguments();
        if self.has_racks {
            arguments.extend(["--rack".to_owned(), rack_of(id)]);
        }
        if self.founders.len() > 1 {
            let listen = self.node(id).addresses.cluster.to_string();
            arguments.extend(["--cluster-listen".to_owned(), listen, "--peers".to_owned(), self.peers()]);
            if matches!(self.wiring, Wiring::Proxied(_)) {
                arguments.extend(["--set".to_owned(), format!("cluster.advertise={}", self.doors[&id])]);
            }
        }
        arguments
    }

    fn set_arguments(&self) -> Vec<String> {
        self.settings.iter().flat_map(|setting| ["--set".to_owned(), setting.clone()]).collect()
    }

    /// One of all brokers, those outside the cluster too.
    fn node(&self, id: u32) -> &Node {
        let mut all = self.nodes.iter().chain(&self.outside);
        all.find(|node| node.id == id).unwrap_or_else(|| panic!("there is no broker {id}"))
    }

    fn node_mut(&mut self, id: u32) -> &mut Node {
        let mut all = self.nodes.iter_mut().chain(&mut self.outside);
        all.find(|node| node.id == id).unwrap_or_else(|| panic!("there is no broker {id}"))
    }
}

/// A process that claims to be a broker which it is not. Killed when dropped.
#[derive(Debug)]
pub struct Impostor {
    node: Node,
}

impl Impostor {
    /// True when it says that it serves.
    pub fn is_ready(&self) -> bool {
        self.node.is_ready()
    }

    /// Waits until it ends by itself; `None` when `limit` passes.
    pub fn wait_exit(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.node.wait_exit(limit)
    }

    /// SIGKILL.
    pub fn kill_nine(&mut self) {
        self.node.kill_nine();
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.node.log_text()
    }
}

/// Lines of a broker's log that a failure shows.
const LOG_END_LINES: usize = 40;

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.clear();
        self.outside.clear();
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            let kept: PathBuf = folder.keep();
            let history = kept.join("history.jsonl");
            match self.recorder.write_to(&history) {
                Ok(()) => eprintln!("logs, data and history are kept in {}", kept.display()),
                Err(error) => eprintln!("logs and data are kept in {}; no history: {error}", kept.display()),
            }
        }
    }
}

/// The rack of one broker, where each has one of its own.
pub fn rack_of(id: u32) -> String {
    format!("rack-{id}")
}

/// Counts the networks that this process has taken.
static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// A loopback address for brokers that the test itself does not start.
pub fn own_address() -> Ipv4Addr {
    own_network(CLUSTERS.fetch_add(1, Ordering::Relaxed))(1)
}

/// Loopback addresses that no other process of this machine is likely to use: all of 127/8 is this machine. From the
/// process id and a running number; the last byte is the host.
fn own_network(running: u32) -> impl Fn(u32) -> Ipv4Addr {
    let mixed = (std::process::id().wrapping_mul(0x9E37_79B1) ^ running.wrapping_mul(0x85EB_CA6B)).to_be_bytes();
    move |host| {
        let last = u8::try_from(host).expect("few hosts");
        // Never 127.0, where everybody else is.
        Ipv4Addr::new(127, mixed[0] | 1, mixed[1], last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cluster_has_a_network_of_its_own() {
        let (one, other) = (own_network(1), own_network(2));
        assert_ne!(one(1), other(1));
        assert!(one(1).is_loopback() && one(3).is_loopback());
        assert_ne!(one(1), one(2));
    }
}
