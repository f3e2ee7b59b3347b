//! A network of packets: each broker in a network namespace of its own, every packet carried by this process. A cut drops
//! packets in silence, a lost SYN included, and TCP notices when it notices. Needs root, `/dev/net/tun` and `ip`
//! (iproute2), no other tool.
//!
//! This process reaches every broker over one more interface, in its own namespace; all are gone at the end.

use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use super::packets::Carrier;
use super::{Weather, tun};

/// The namespaces of one cluster. Removed when dropped.
#[derive(Debug)]
pub(super) struct Namespaces {
    names: Names,
    brokers: Vec<u32>,
    carrier: Carrier,
}

/// Stands for this process where a broker's number is asked for.
pub(super) const CLIENTS: u32 = u32::MAX;

/// What everything is called and numbered.
#[derive(Debug)]
struct Names {
    /// Begins every name, so that runs side by side do not meet.
    prefix: String,
    /// The first three bytes of every address, in the range that is set aside for measurements (RFC 2544).
    net: [u8; 3],
}

impl Namespaces {
    /// Whether this machine lets this process build one; if not, why.
    pub(super) fn are_possible() -> Result<(), String> {
        let name = format!("sb{}p", std::process::id());
        tun::open(&name).map_err(|error| format!("/dev/net/tun: {error}"))?;
        try_ip(&["netns", "add", &name], "")?;
        try_ip(&["netns", "del", &name], "")
    }

    /// Builds the network. Panics with the reason when this machine does not allow it: a fault that was asked for is never
    /// skipped.
    pub(super) fn new(running: u32, brokers: &[u32]) -> Self {
        let prefix = format!("sb{}{running}", std::process::id());
        let mixed = (std::process::id().wrapping_mul(0x9E37_79B1) ^ running.wrapping_mul(0x85EB_CA6B)).to_be_bytes();
        let (names, outside) = Names::claim(prefix, u16::from_be_bytes([mixed[0], mixed[1]]));
        let mut hosts = vec![(CLIENTS, names.address(CLIENTS), outside)];
        hosts.extend(brokers.iter().map(|broker| (*broker, names.address(*broker), names.inside(*broker))));
        Self { carrier: Carrier::new(hosts), names, brokers: brokers.to_vec() }
    }

    /// A broker's own address.
    pub(super) fn address(&self, broker: u32) -> Ipv4Addr {
        self.names.address(broker)
    }

    /// What a program of `broker` is started with in front.
    pub(super) fn entry(&self, broker: u32) -> [String; 4] {
        ["ip".to_owned(), "netns".to_owned(), "exec".to_owned(), self.names.space(broker)]
    }

    /// Drops, or lets pass, every packet from `from` to `to`.
    pub(super) fn set_open(&self, from: u32, to: u32, open: bool) {
        self.carrier.set_open(from, to, open);
    }

    /// What every packet from `from` to `to` suffers.
    pub(super) fn set_weather(&self, from: u32, to: u32, weather: Weather) {
        self.carrier.set_weather(from, to, weather);
    }

    /// Lets every packet pass.
    pub(super) fn heal(&self) {
        self.carrier.heal();
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for broker in &self.brokers {
            // Its device goes with it. One that is not there was not built.
            let _removed =
                Command::new("ip").args(["netns", "del", &self.names.space(*broker)]).stderr(Stdio::null()).status();
        }
    }
}

/// Networks there are to choose from.
const NETS: u16 = 512;

impl Names {
    /// This process's own interface, with the first network from number `first` on that no other run has. The kernel
    /// decides: it refuses a second route to the same network, and takes a route away with its interface.
    fn claim(prefix: String, first: u16) -> (Self, File) {
        let name = format!("{prefix}h");
        let device = device(&name);
        ip(&["-batch", "-"], &format!("link set {name} txqueuelen 5000\nlink set {name} up\n"));
        let free = (0..NETS).map(|more| first.wrapping_add(more) % NETS).find_map(|number| {
            let [upper, lower] = number.to_be_bytes();
            let net = [198, 18 + upper, lower];
            let route = format!("{}.{}.{}.0/24", net[0], net[1], net[2]);
            try_ip(&["route", "add", &route, "dev", &name], "").ok().map(|()| net)
        });
        let names = Self { prefix, net: free.expect("one of all networks has no other route") };
        let address = names.address(CLIENTS);
        ip(&["addr", "add", &format!("{address}/24"), "dev", &name, "noprefixroute"], "");
        (names, device)
    }

    /// A broker's namespace and the one interface in it.
    fn inside(&self, broker: u32) -> File {
        let space = self.space(broker);
        ip(&["netns", "add", &space], "");
        let device = device(&space);
        ip(&["link", "set", &space, "netns", &space], "");
        ip(&["-n", &space, "-batch", "-"], &format!("link set lo up\n{}", self.configured(&space, broker)));
        device
    }

    fn configured(&self, interface: &str, host: u32) -> String {
        let address = self.address(host);
        format!(
            "link set {interface} txqueuelen 5000\naddr add {address}/24 dev {interface}\nlink set {interface} up\n"
        )
    }

    fn address(&self, host: u32) -> Ipv4Addr {
        let last = if host == CLIENTS { 1 } else { last_byte(host) };
        Ipv4Addr::new(self.net[0], self.net[1], self.net[2], last)
    }

    /// A broker's namespace; its interface is called the same.
    fn space(&self, broker: u32) -> String {
        format!("{}b{broker}", self.prefix)
    }
}

fn last_byte(broker: u32) -> u8 {
    u8::try_from(broker).ok().filter(|broker| *broker < 60).map(|broker| broker + 2).expect("few brokers")
}

fn device(name: &str) -> File {
    tun::open(name).unwrap_or_else(|error| panic!("a network of namespaces needs root and /dev/net/tun: {error}"))
}

/// Runs `ip`; panics with what it says when it fails.
fn ip(arguments: &[&str], input: &str) {
    try_ip(arguments, input).unwrap_or_else(|said| panic!("a network of namespaces needs root: {said}"));
}

fn try_ip(arguments: &[&str], input: &str) -> Result<(), String> {
    let child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("`ip` (package iproute2): {error}"));
    let mut child = child?;
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("ip reads its input");
    let output = child.wait_with_output().expect("ip ends");
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("ip {} said: {said}", arguments.join(" "))) }
}
