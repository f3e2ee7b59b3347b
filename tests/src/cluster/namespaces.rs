//! The network between the brokers as the kernel makes it: each broker in a network namespace of its own, all joined by
//! one that routes. A cut drops packets in silence, a lost SYN included, and TCP notices when it notices. Needs root and
//! `ip` (iproute2), no other tool.
//!
//! This process reaches every broker over one link that is added to its own namespace, and removed at the end.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// The namespaces of one cluster. Removed when dropped.
#[derive(Debug)]
pub(super) struct Namespaces {
    /// Begins every name, so that runs side by side do not meet.
    name: String,
    /// The first three bytes of every address, in the range that is set aside for measurements (RFC 2544).
    net: [u8; 3],
    brokers: Vec<u32>,
    cuts: Mutex<BTreeSet<(u32, u32)>>,
}

/// Stands for this process where a broker's number is asked for.
pub(super) const CLIENTS: u32 = u32::MAX;

impl Namespaces {
    /// Builds the network. Panics with the reason when this machine does not allow it: a fault that was asked for is never
    /// skipped.
    pub(super) fn new(running: u32, brokers: &[u32]) -> Self {
        let mixed = (std::process::id().wrapping_mul(0x9E37_79B1) ^ running.wrapping_mul(0x85EB_CA6B)).to_be_bytes();
        let this = Self {
            name: format!("sb{}{running}", std::process::id()),
            net: [198, 18 + (mixed[1] & 1), mixed[0]],
            brokers: brokers.to_vec(),
            cuts: Mutex::default(),
        };
        this.build();
        this
    }

    fn build(&self) {
        let (router, host) = (self.router(), format!("{}h", self.name));
        ip(&["netns", "add", &router], "");
        ip(&["link", "add", &host, "type", "veth", "peer", "name", "host", "netns", &router], "");
        let mut routes = String::from("link set lo up\n");
        routes += &format!("addr add {}/30 dev host\nlink set host up\n", self.at(2));
        for broker in &self.brokers {
            let (space, near) = (self.space(*broker), format!("b{broker}"));
            ip(&["netns", "add", &space], "");
            ip(&["-n", &router, "link", "add", &near, "type", "veth", "peer", "name", "eth0", "netns", &space], "");
            let (gateway, address) = (self.gateway(*broker), self.address(*broker));
            routes += &format!("addr add {gateway}/30 dev {near}\nlink set {near} up\n");
            let inside = format!(
                "link set lo up\naddr add {address}/30 dev eth0\nlink set eth0 up\nroute add default via {gateway}\n"
            );
            ip(&["-n", &space, "-batch", "-"], &inside);
        }
        ip(&["-n", &router, "-batch", "-"], &routes);
        let forward = ["netns", "exec", &router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"];
        ip(&forward, "");
        let outside = format!(
            "addr add {}/30 dev {host}\nlink set {host} up\nroute add {}/24 via {}\n",
            self.at(1),
            self.at(0),
            self.at(2)
        );
        ip(&["-batch", "-"], &outside);
    }

    /// A broker's own address.
    pub(super) fn address(&self, broker: u32) -> Ipv4Addr {
        if broker == CLIENTS { self.at(1) } else { self.at(4 * last_byte(broker) + 2) }
    }

    /// What a program of `broker` is started with in front.
    pub(super) fn entry(&self, broker: u32) -> [String; 4] {
        ["ip".to_owned(), "netns".to_owned(), "exec".to_owned(), self.space(broker)]
    }

    /// Drops, or lets pass, every packet from `from` to `to`.
    pub(super) fn set_open(&self, from: u32, to: u32, open: bool) {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = if open { cuts.remove(&(from, to)) } else { cuts.insert((from, to)) };
        if changed {
            let verb = if open { "del" } else { "add" };
            let (source, target) = (self.address(from).to_string(), self.address(to).to_string());
            ip(&["-n", &self.router(), "rule", verb, "from", &source, "to", &target, "prio", "100", "blackhole"], "");
        }
    }

    /// Lets every packet pass.
    pub(super) fn heal(&self) {
        let cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (from, to) in cuts {
            self.set_open(from, to, true);
        }
    }

    fn router(&self) -> String {
        format!("{}r", self.name)
    }

    fn space(&self, broker: u32) -> String {
        format!("{}b{broker}", self.name)
    }

    fn gateway(&self, broker: u32) -> Ipv4Addr {
        self.at(4 * last_byte(broker) + 1)
    }

    fn at(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(self.net[0], self.net[1], self.net[2], last)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        let spaces = self.brokers.iter().map(|broker| self.space(*broker)).chain([self.router()]);
        for space in spaces {
            // The links go with it. One that is not there was not built.
            let _removed = Command::new("ip").args(["netns", "del", &space]).stderr(Stdio::null()).status();
        }
    }
}

fn last_byte(broker: u32) -> u8 {
    u8::try_from(broker).ok().filter(|broker| *broker < 60).map(|broker| broker + 1).expect("few brokers")
}

/// Runs `ip`; panics with what it says when it fails.
fn ip(arguments: &[&str], input: &str) {
    let child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a network of namespaces needs `ip` (package iproute2)");
    let mut child = child;
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("ip reads its input");
    let output = child.wait_with_output().expect("ip ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "a network of namespaces needs root: ip {} said: {said}", arguments.join(" "));
}
