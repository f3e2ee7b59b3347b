//! The network between the brokers, where it can be cut: one TCP proxy in front of each broker's cluster listener, with
//! the proxies' addresses as `--peers`. Needs no privilege.
//!
//! Every connection is sorted by who dialled it, so each ordered pair of brokers is a link of its own. A cut link holds
//! bytes (and the end of a stream) and lets them go when it heals, as TCP does by sending again; a new connection over a
//! cut link is accepted and stays silent. What goes one way while the other is cut stops after a few chunks, as TCP does
//! without acknowledgements. What it cannot imitate: a lost SYN, packet loss with its congestion control,
//! and a kernel that gives up a connection by itself.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Weather;
use super::origin::Origins;
use crate::setting;

/// How one ordered pair of brokers is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    /// False: nothing passes.
    open: bool,
    /// Its delay is added to each chunk of up to 64 KiB, one after the other: a slow link as much as a long one.
    weather: Weather,
    /// Rises with each reset; connections made before are broken.
    resets: u64,
}

impl Link {
    /// Nothing in the way, for what was connected after so many resets.
    fn whole(resets: u64) -> Self {
        Self { open: true, weather: Weather::default(), resets }
    }
}

#[derive(Debug)]
struct Wires {
    links: BTreeMap<(u32, u32), watch::Sender<Link>>,
    /// Brokers by the id of their process.
    processes: Mutex<BTreeMap<u32, u32>>,
    origins: Origins,
}

#[derive(Debug)]
struct Door {
    /// Where the others dial.
    address: SocketAddr,
    /// Where the broker listens.
    target: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

/// Every link of one cluster.
#[derive(Debug)]
pub(super) struct Links {
    doors: BTreeMap<u32, Door>,
    wires: Arc<Wires>,
    runtime: Runtime,
}

impl Links {
    /// Proxies for brokers: id, where the others dial, where the broker listens. No door is open yet.
    pub(super) fn new(brokers: &[(u32, SocketAddr, SocketAddr)]) -> Self {
        let ids: Vec<u32> = brokers.iter().map(|(id, _, _)| *id).collect();
        let pairs = ids.iter().flat_map(|from| ids.iter().map(move |to| (*from, *to)));
        let links = pairs.map(|pair| (pair, watch::channel(Link::whole(0)).0)).collect();
        let doors = brokers
            .iter()
            .map(|(id, address, target)| (*id, Door { address: *address, target: *target, accepting: None }))
            .collect();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        Self { doors, wires: Arc::new(Wires { links, processes: Mutex::default(), origins: Origins::new() }), runtime }
    }

    /// The broker's process runs: its door opens, and what it dials is known to be its.
    pub(super) fn started(&mut self, broker: u32, process: u32) {
        self.processes(|known| {
            known.retain(|_, of| *of != broker);
            known.insert(process, broker);
        });
        let door = self.doors.get_mut(&broker).expect("a broker of this cluster");
        if door.accepting.is_some() {
            return;
        }
        let listener = std::net::TcpListener::bind(door.address).expect("its own loopback address has the port free");
        listener.set_nonblocking(true).expect("a socket can be non-blocking");
        let (wires, target, handle) = (self.wires.clone(), door.target, self.runtime.handle().clone());
        door.accepting = Some(self.runtime.handle().spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listening socket");
            while let Ok((stream, from)) = listener.accept().await {
                let (wires, at) = (wires.clone(), stream.local_addr());
                handle.spawn(async move {
                    let Ok(at) = at else { return };
                    match wires.broker_of(from, at).await {
                        Some(source) => wires.carry(source, broker, stream, target).await,
                        None => {
                            eprintln!("a connection to broker {broker} came from no broker of this cluster: closed")
                        }
                    }
                });
            }
        }));
    }

    /// The broker's process is gone: its port refuses connections, as the kernel would.
    pub(super) fn stopped(&mut self, broker: u32) {
        if let Some(accepting) = self.doors.get_mut(&broker).and_then(|door| door.accepting.take()) {
            accepting.abort();
            // The port is free when this returns, so that the next start can bind it.
            let _aborted = self.runtime.block_on(accepting);
        }
    }

    /// Stops or lets pass everything that `from` sends to `to`.
    pub(super) fn set_open(&self, from: u32, to: u32, open: bool) {
        self.change(from, to, |link| link.open = open);
    }

    /// What everything suffers that `from` sends to `to`. Panics for packets that shall be lost: streams have none.
    pub(super) fn set_weather(&self, from: u32, to: u32, weather: Weather) {
        assert!(!weather.is_of_packets(), "lost, doubled and overtaken packets need Network::Namespaces");
        self.change(from, to, |link| link.weather = weather);
    }

    /// Breaks every connection between two brokers; they may dial again.
    pub(super) fn reset(&self, one: u32, other: u32) {
        self.change(one, other, |link| link.resets += 1);
        self.change(other, one, |link| link.resets += 1);
    }

    /// Makes every link whole.
    pub(super) fn heal(&self) {
        for link in self.wires.links.values() {
            link.send_modify(|link| *link = Link::whole(link.resets));
        }
    }

    fn change(&self, from: u32, to: u32, how: impl FnOnce(&mut Link)) {
        self.wires.links.get(&(from, to)).expect("brokers of this cluster").send_modify(how);
    }

    fn processes(&self, how: impl FnOnce(&mut BTreeMap<u32, u32>)) {
        how(&mut self.wires.processes.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Chunks that pass while nothing comes back: the window that TCP opens a connection with.
const UNACKNOWLEDGED_MAX: u32 = 10;

/// One direction of one connection ended by force.
struct Broken;

impl Wires {
    async fn broker_of(&self, from: SocketAddr, at: SocketAddr) -> Option<u32> {
        let known = self.processes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let pids = known.keys().copied().collect();
        self.origins.owner(from, at, pids).await.and_then(|pid| known.get(&pid).copied())
    }

    async fn carry(&self, source: u32, broker: u32, dialled: TcpStream, target: SocketAddr) {
        let link = |from, to| self.links.get(&(from, to)).expect("brokers of this cluster").subscribe();
        let (mut there, mut back) = (link(source, broker), link(broker, source));
        // Taken before the broker can see the connection: whatever is reset after that is this connection too.
        let resets = (there.borrow().resets, back.borrow().resets);
        if wait_open(&mut there).await.is_err() || wait_open(&mut back).await.is_err() {
            return;
        }
        let Ok(onward) = TcpStream::connect(target).await else { return };
        // Small frames must not wait for a full segment; a socket that is gone already needs no option.
        let _no_delay = (dialled.set_nodelay(true), onward.set_nodelay(true));
        let (from_dialler, to_dialler) = dialled.into_split();
        let (from_broker, to_broker) = onward.into_split();
        // When either direction is broken, the other ends with it.
        let _broken = tokio::try_join!(
            pump(from_dialler, to_broker, there.clone(), back.clone(), resets.0),
            pump(from_broker, to_dialler, back, there, resets.1)
        );
    }
}

async fn wait_open(link: &mut watch::Receiver<Link>) -> Result<Link, Broken> {
    link.wait_for(|link| link.open).await.map(|link| *link).map_err(|_| Broken)
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut link: watch::Receiver<Link>,
    mut opposite: watch::Receiver<Link>,
    resets: u64,
) -> Result<(), Broken> {
    let mut chunk = vec![0; 64 * 1024];
    let mut random = StdRng::seed_from_u64(setting::seed());
    let mut unacknowledged = 0;
    loop {
        if opposite.borrow().open {
            unacknowledged = 0;
        } else if unacknowledged == UNACKNOWLEDGED_MAX {
            wait_open(&mut opposite).await?;
        }
        unacknowledged += 1;
        let state = wait_open(&mut link).await?;
        if state.resets != resets {
            return Err(Broken);
        }
        let length = tokio::select! {
            biased;
            _changed = link.wait_for(|now| *now != state) => continue,
            read = from.read(&mut chunk) => read.map_err(|_| Broken)?,
        };
        let late = state.weather.jitter.mul_f64(random.random()) + state.weather.sending_time(length);
        if !(state.weather.delay + late).is_zero() {
            tokio::time::sleep_until(Instant::now() + state.weather.delay + late).await;
        }
        // Cut while they were on their way: they arrive when the link heals.
        if wait_open(&mut link).await?.resets != resets {
            return Err(Broken);
        }
        if length == 0 {
            return to.shutdown().await.map_err(|_| Broken);
        }
        to.write_all(&chunk[..length]).await.map_err(|_| Broken)?;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{Ipv4Addr, TcpListener as Listener, TcpStream as Stream};
    use std::time::Duration;

    use super::*;

    /// A listener that stands for broker 2, its door, and this process as broker 1.
    fn pair() -> (Links, Listener, SocketAddr) {
        let broker = Listener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let door = Listener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port").local_addr().expect("bound");
        let target = broker.local_addr().expect("bound");
        let mut links = Links::new(&[(1, "127.0.0.1:1".parse().expect("an address"), target), (2, door, target)]);
        links.started(2, 0);
        links.processes(|known| {
            known.insert(std::process::id(), 1);
        });
        (links, broker, door)
    }

    fn connected(broker: &Listener, door: SocketAddr) -> (Stream, Stream) {
        let dialler = Stream::connect(door).expect("the door is open");
        let (accepted, _) = broker.accept().expect("it is carried on");
        for stream in [&dialler, &accepted] {
            stream.set_read_timeout(Some(Duration::from_secs(10))).expect("an option");
        }
        (dialler, accepted)
    }

    fn nothing_comes(stream: &mut Stream) {
        stream.set_read_timeout(Some(Duration::from_millis(50))).expect("an option");
        let error = stream.read(&mut [0; 1]).expect_err("the link is cut");
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("an option");
    }

    fn comes(stream: &mut Stream, expected: &[u8]) {
        let mut got = vec![0; expected.len()];
        stream.read_exact(&mut got).expect("it comes");
        assert_eq!(got, expected);
    }

    #[test]
    fn a_one_way_cut_stops_one_way_and_loses_nothing() {
        let (links, broker, door) = pair();
        let (mut dialler, mut accepted) = connected(&broker, door);
        links.set_open(1, 2, false);
        dialler.write_all(b"there").expect("the kernel takes it");
        accepted.write_all(b"back").expect("the kernel takes it");
        comes(&mut dialler, b"back");
        nothing_comes(&mut accepted);
        links.heal();
        comes(&mut accepted, b"there");
    }

    #[test]
    fn the_end_of_a_stream_does_not_pass_a_cut() {
        let (links, broker, door) = pair();
        let (dialler, mut accepted) = connected(&broker, door);
        links.set_open(1, 2, false);
        drop(dialler);
        nothing_comes(&mut accepted);
        links.heal();
        assert_eq!(accepted.read(&mut [0; 1]).expect("the end comes"), 0);
    }

    #[test]
    fn a_reset_breaks_what_is_connected_and_a_stopped_broker_refuses() {
        let (mut links, broker, door) = pair();
        let (mut dialler, _accepted) = connected(&broker, door);
        links.reset(1, 2);
        // An end or a reset, whichever the kernel makes of it.
        match dialler.read(&mut [0; 1]) {
            Ok(length) => assert_eq!(length, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        let (mut dialler, mut accepted) = connected(&broker, door);
        dialler.write_all(b"again").expect("a new connection is whole");
        comes(&mut accepted, b"again");
        links.stopped(2);
        assert_eq!(Stream::connect(door).expect_err("the port is closed").kind(), ErrorKind::ConnectionRefused);
    }
}
