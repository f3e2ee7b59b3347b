//! The network between the brokers, and everything that can be done to it while they run.

use super::links::Links;
use super::namespaces::{CLIENTS, Namespaces};
use super::{Cluster, Weather, Wiring};

/// How the brokers reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Straight, as in production.
    Direct,
    /// Through proxies that can cut, delay and reset each direction of each link. Works everywhere.
    Proxied,
    /// Each broker in a network namespace, every packet carried by this process: packets can be lost, late, doubled and
    /// out of order, and clients can be cut off too. Needs root and `/dev/net/tun`.
    Namespaces,
}

impl Network {
    /// A network that can be cut: `STREAMBUS_NETWORK`, `proxied` when it is not set, or `namespaces`.
    pub fn that_can_be_cut() -> Self {
        match std::env::var("STREAMBUS_NETWORK").as_deref() {
            Err(_) | Ok("proxied") => Self::Proxied,
            Ok("namespaces") => Self::Namespaces,
            Ok(other) => panic!("STREAMBUS_NETWORK={other}: say proxied or namespaces"),
        }
    }

    /// A network of packets where this machine has one; otherwise `test` is told as not run, and why. With
    /// `STREAMBUS_NETWORK=namespaces` it must have one.
    pub fn of_packets(test: &str) -> Option<Self> {
        if Self::that_can_be_cut() == Self::Namespaces {
            return Some(Self::Namespaces);
        }
        match Namespaces::are_possible() {
            Ok(()) => Some(Self::Namespaces),
            Err(why) => {
                eprintln!("{test}: NOT RUN, it needs network namespaces: {why}");
                None
            }
        }
    }
}

impl Cluster {
    /// Cuts one direction: `to` hears nothing more of `from`.
    pub fn cut(&self, from: u32, to: u32) -> u64 {
        self.set_open(from, to, false);
        self.recorder.fault(format!("broker {to} no longer hears broker {from}"))
    }

    /// Cuts a broker off from all others, both ways. Clients still reach it.
    pub fn isolate(&self, id: u32) -> u64 {
        for other in self.others(id) {
            self.set_open(id, other, false);
            self.set_open(other, id, false);
        }
        self.recorder.fault(format!("broker {id} is cut off, both ways"))
    }

    /// A broker hears nobody, but all hear it.
    pub fn deafen(&self, id: u32) -> u64 {
        for other in self.others(id) {
            self.set_open(other, id, false);
        }
        self.recorder.fault(format!("broker {id} hears nobody and is heard"))
    }

    /// Nobody hears a broker, but it hears all.
    pub fn mute(&self, id: u32) -> u64 {
        for other in self.others(id) {
            self.set_open(id, other, false);
        }
        self.recorder.fault(format!("nobody hears broker {id}, which hears all"))
    }

    /// Cuts a broker off from the clients, both ways; the other brokers reach it. Needs [`Network::Namespaces`].
    pub fn hide_from_clients(&self, id: u32) -> u64 {
        let Wiring::Namespaces(namespaces) = &self.wiring else {
            panic!("clients can be cut off only with Network::Namespaces")
        };
        namespaces.set_open(id, CLIENTS, false);
        namespaces.set_open(CLIENTS, id, false);
        self.recorder.fault(format!("clients no longer reach broker {id}"))
    }

    /// What everything between a broker and all others suffers from now on.
    pub fn weather_around(&self, id: u32, weather: Weather) -> u64 {
        for other in self.others(id) {
            self.set_weather(id, other, weather);
            self.set_weather(other, id, weather);
        }
        self.recorder.fault(format!("between broker {id} and the others: {weather}"))
    }

    /// What everything between any two brokers suffers from now on.
    pub fn weather_everywhere(&self, weather: Weather) -> u64 {
        let ids = self.ids();
        for (from, to) in ids.iter().flat_map(|from| ids.iter().map(move |to| (*from, *to))) {
            if from != to {
                self.set_weather(from, to, weather);
            }
        }
        self.recorder.fault(format!("between all brokers: {weather}"))
    }

    /// What everything between a broker and the clients suffers from now on. Needs [`Network::Namespaces`].
    pub fn weather_for_clients(&self, id: u32, weather: Weather) -> u64 {
        let Wiring::Namespaces(namespaces) = &self.wiring else {
            panic!("packets of clients are in reach only with Network::Namespaces")
        };
        namespaces.set_weather(id, CLIENTS, weather);
        namespaces.set_weather(CLIENTS, id, weather);
        self.recorder.fault(format!("between broker {id} and the clients: {weather}"))
    }

    /// Breaks every connection between a broker and all others; they may dial again.
    pub fn reset(&self, id: u32) -> u64 {
        for other in self.others(id) {
            self.links().reset(id, other);
        }
        self.recorder.fault(format!("connections from and to broker {id} are reset"))
    }

    /// Makes the network whole.
    pub fn heal(&self) -> u64 {
        match &self.wiring {
            Wiring::Direct => {}
            Wiring::Proxied(links) => links.heal(),
            Wiring::Namespaces(namespaces) => namespaces.heal(),
        }
        self.recorder.fault("the network is whole")
    }

    fn set_open(&self, from: u32, to: u32, open: bool) {
        match &self.wiring {
            Wiring::Direct => panic!("a direct network cannot be cut"),
            Wiring::Proxied(links) => links.set_open(from, to, open),
            Wiring::Namespaces(namespaces) => namespaces.set_open(from, to, open),
        }
    }

    fn links(&self) -> &Links {
        match &self.wiring {
            Wiring::Proxied(links) => links,
            Wiring::Direct | Wiring::Namespaces(_) => panic!("this fault of the network needs Network::Proxied"),
        }
    }

    fn set_weather(&self, from: u32, to: u32, weather: Weather) {
        match &self.wiring {
            Wiring::Direct => panic!("a direct network has no weather"),
            Wiring::Proxied(links) => links.set_weather(from, to, weather),
            Wiring::Namespaces(namespaces) => namespaces.set_weather(from, to, weather),
        }
    }

    /// All but one, those outside the cluster too.
    fn others(&self, id: u32) -> Vec<u32> {
        self.ids().into_iter().chain(self.spares()).filter(|other| *other != id).collect()
    }
}
