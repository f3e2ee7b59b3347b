//! Carries the packets between network namespaces: one TUN device for each host, and for each ordered pair of hosts a
//! link that can be cut and has a [`Weather`]. What becomes of a packet is drawn from the run's seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Weather, tun};
use crate::setting;

/// The largest packet that an interface of a usual size sends, and more.
const PACKET_BYTES_MAX: usize = 65_536;
/// How much longer an overtaken packet takes.
const OVERTAKEN_BY: Duration = Duration::from_millis(3);
/// What waits longer than this for a slow link is lost, as in a full queue.
const QUEUED_MAX: Duration = Duration::from_millis(500);
/// Packets on their way on all links; more are lost.
const ON_THEIR_WAY_MAX: usize = 16_384;

/// One ordered pair of hosts.
#[derive(Debug)]
struct Link {
    open: bool,
    weather: Weather,
    random: StdRng,
    /// When a limited link has sent everything before.
    sent: Duration,
    /// When the last packet that was not overtaken arrives.
    last: Duration,
}

impl Link {
    fn new(seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { open: true, weather: Weather::default(), random, sent: Duration::ZERO, last: Duration::ZERO }
    }

    /// When the copies of a packet arrive that was sent at `now`; nothing arrives of one that is lost.
    fn fate(&mut self, now: Duration, bytes: usize) -> Vec<Duration> {
        let weather = self.weather;
        let mut hits = |per_mille: u16| per_mille > 0 && self.random.random_range(0..1_000) < per_mille;
        let (lost, doubled, overtaken) = (hits(weather.lost), hits(weather.doubled), hits(weather.overtaken));
        if !self.open || lost || self.sent.saturating_sub(now) > QUEUED_MAX {
            return Vec::new();
        }
        self.sent = self.sent.max(now) + weather.sending_time(bytes);
        let late = weather.jitter.mul_f64(self.random.random());
        let mut at = (self.sent + weather.delay + late).max(self.last);
        if overtaken {
            at += OVERTAKEN_BY;
        } else {
            self.last = at;
        }
        vec![at; if doubled { 2 } else { 1 }]
    }
}

/// A host's device.
#[derive(Debug)]
struct Port {
    address: Ipv4Addr,
    device: AsyncFd<File>,
}

#[derive(Debug)]
struct Hosts {
    ports: BTreeMap<u32, Port>,
    links: Mutex<BTreeMap<(u32, u32), Link>>,
    started: Instant,
}

/// Every host and link of one network.
#[derive(Debug)]
pub(super) struct Carrier {
    hosts: Arc<Hosts>,
    /// Carries as long as it exists.
    _runtime: Runtime,
}

impl Carrier {
    /// Starts to carry between hosts: number, address, device.
    pub(super) fn new(hosts: Vec<(u32, Ipv4Addr, File)>) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let _entered = runtime.enter();
        let port =
            |address, device| Port { address, device: tun::watched(device).expect("a device can be waited for") };
        let ports: BTreeMap<u32, Port> =
            hosts.into_iter().map(|(host, address, device)| (host, port(address, device))).collect();
        let pairs = ports.keys().flat_map(|from| ports.keys().map(move |to| (*from, *to)));
        let seed = |(from, to): (u32, u32)| setting::seed() ^ u64::from(from) << 40 ^ u64::from(to) << 20;
        let links = pairs.map(|pair| (pair, Link::new(seed(pair)))).collect();
        let hosts = Arc::new(Hosts { ports, links: Mutex::new(links), started: Instant::now() });
        let (later, waiting) = mpsc::channel(ON_THEIR_WAY_MAX);
        runtime.handle().spawn(deliver_later(hosts.clone(), waiting));
        for host in hosts.ports.keys() {
            runtime.handle().spawn(carry(hosts.clone(), *host, later.clone()));
        }
        drop(_entered);
        Self { hosts, _runtime: runtime }
    }

    /// Stops or lets pass everything that `from` sends to `to`. What is on its way arrives.
    pub(super) fn set_open(&self, from: u32, to: u32, open: bool) {
        self.change(|pair, link| {
            if pair == (from, to) {
                link.open = open;
            }
        });
    }

    /// What everything suffers that `from` sends to `to`.
    pub(super) fn set_weather(&self, from: u32, to: u32, weather: Weather) {
        self.change(|pair, link| {
            if pair == (from, to) {
                link.weather = weather;
            }
        });
    }

    /// Makes every link whole.
    pub(super) fn heal(&self) {
        self.change(|_, link| (link.open, link.weather) = (true, Weather::default()));
    }

    fn change(&self, mut how: impl FnMut((u32, u32), &mut Link)) {
        let mut links = self.hosts.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.iter_mut().for_each(|(pair, link)| how(*pair, link));
    }
}

/// A packet on its way: when it arrives, a number that keeps those of one moment in order, to whom, its bytes.
type Late = (Duration, u64, u32, Vec<u8>);

/// Reads what `host` sends, for ever.
async fn carry(hosts: Arc<Hosts>, host: u32, later: mpsc::Sender<Late>) {
    let device = &hosts.ports[&host].device;
    let mut packet = vec![0; PACKET_BYTES_MAX];
    let mut number = 0;
    loop {
        let read = device.async_io(Interest::READABLE, |mut file| file.read(&mut packet)).await;
        // An interface that is not up yet says so; the next packet comes when it is.
        let Ok(length) = read else { continue };
        let Some(to) = hosts.target(&packet[..length]) else { continue };
        let now = hosts.started.elapsed();
        for at in hosts.fate((host, to), now, length) {
            if at <= now {
                hosts.deliver(to, &packet[..length]);
            } else {
                number += 1;
                // Too many are on their way: lost, as on any network.
                let _lost = later.try_send((at, number, to, packet[..length].to_vec()));
            }
        }
    }
}

async fn deliver_later(hosts: Arc<Hosts>, mut waiting: mpsc::Receiver<Late>) {
    let mut due: BinaryHeap<Reverse<Late>> = BinaryHeap::new();
    loop {
        let next = due.peek().map(|Reverse((at, ..))| hosts.started + *at);
        tokio::select! {
            biased;
            late = waiting.recv() => match late {
                Some(late) => due.push(Reverse(late)),
                None => return,
            },
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                if let Some(Reverse((_, _, to, packet))) = due.pop() {
                    hosts.deliver(to, &packet);
                }
            }
        }
    }
}

impl Hosts {
    /// The host whose address an IPv4 packet bears (RFC 791: version in the first half byte, target in bytes 16 to 20).
    fn target(&self, packet: &[u8]) -> Option<u32> {
        let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
        let address = Ipv4Addr::from(address);
        let is_four = packet.first().is_some_and(|first| first >> 4 == 4);
        self.ports.iter().find(|(_, port)| is_four && port.address == address).map(|(host, _)| *host)
    }

    fn fate(&self, pair: (u32, u32), now: Duration, bytes: usize) -> Vec<Duration> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.get_mut(&pair).map_or_else(Vec::new, |link| link.fate(now, bytes))
    }

    fn deliver(&self, to: u32, packet: &[u8]) {
        // What a host does not take now is lost: its interface is down, or its queue is full.
        let _lost = self.ports[&to].device.get_ref().write(packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn link(weather: Weather) -> Link {
        Link { weather, ..Link::new(1) }
    }

    #[test]
    fn a_clear_sky_carries_everything_at_once_and_a_cut_nothing() {
        let mut link = link(Weather::default());
        assert_eq!(link.fate(5 * MS, 1_500), [5 * MS]);
        link.open = false;
        assert!(link.fate(6 * MS, 1_500).is_empty());
    }

    #[test]
    fn about_as_many_are_lost_and_doubled_as_asked_for() {
        let mut link = link(Weather { lost: 100, doubled: 200, ..Weather::default() });
        let fates: Vec<usize> = (0..10_000).map(|at| link.fate(at * MS, 100).len()).collect();
        let count = |copies| fates.iter().filter(|fate| **fate == copies).count();
        assert!((800..1_200).contains(&count(0)), "lost: {}", count(0));
        assert!((1_500..2_100).contains(&count(2)), "doubled: {}", count(2));
    }

    #[test]
    fn jitter_keeps_the_order_and_overtaking_does_not() {
        let weather = Weather { delay: 10 * MS, jitter: 40 * MS, ..Weather::default() };
        let mut steady = link(weather);
        let arrivals: Vec<_> = (0..1_000).map(|at| steady.fate(at * MS, 100)[0]).collect();
        assert!(arrivals.is_sorted());
        assert!(arrivals.iter().zip(0..).all(|(arrival, at)| *arrival >= at * MS + 10 * MS));
        let mut unsteady = link(Weather { overtaken: 100, ..weather });
        let arrivals: Vec<_> = (0..1_000).map(|at| unsteady.fate(at * MS, 100)[0]).collect();
        assert!(!arrivals.is_sorted());
    }

    #[test]
    fn a_narrow_link_spaces_packets_and_drops_what_waits_too_long() {
        let mut link = link(Weather { bytes_per_second: Some(100_000), ..Weather::default() });
        assert_eq!(link.fate(MS, 1_000), [11 * MS]);
        assert_eq!(link.fate(MS, 1_000), [21 * MS]);
        let lost = (0..100).filter(|_| link.fate(MS, 1_000).is_empty()).count();
        assert!((40..60).contains(&lost), "{lost}");
    }
}
