//! The founders of a cluster as people write them: `1@host:9094,2@host:9094,3@host:9094`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use streambus_protocol::ids::BrokerId;

use super::address::HostPort;

/// Founders at most: each votes on every change of the metadata.
pub const PEERS_MAX: usize = 9;

/// Brokers and where their cluster listeners are. Empty for a broker on its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers(BTreeMap<BrokerId, HostPort>);

impl Peers {
    /// True for a broker on its own.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Where a broker is.
    pub fn get(&self, broker: BrokerId) -> Option<&HostPort> {
        self.0.get(&broker)
    }

    /// Every broker, by number.
    pub fn iter(&self) -> impl Iterator<Item = (BrokerId, &HostPort)> {
        self.0.iter().map(|(broker, address)| (*broker, address))
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (broker, address)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{broker}@{address}")?;
        }
        Ok(())
    }
}

/// Why a text is no list of peers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPeers {
    /// An entry is not `id@host:port`.
    #[error("'{entry}' is not id@host:port")]
    NotAPeer {
        /// What is written there.
        entry: String,
    },
    /// A broker comes twice: the group would count it as two voters.
    #[error("broker {0} comes twice")]
    TwiceTheBroker(BrokerId),
    /// Two brokers share an address.
    #[error("brokers {first} and {second} have the same address {address}")]
    TwiceTheAddress {
        /// Who has it.
        first: BrokerId,
        /// Who has it too.
        second: BrokerId,
        /// The address.
        address: HostPort,
    },
    /// Nobody can connect to it: port 0, or every interface.
    #[error("broker {broker} cannot be reached at {address}: name a host and a port that the others can connect to")]
    NowhereToConnect {
        /// Whose address.
        broker: BrokerId,
        /// The address.
        address: HostPort,
    },
    /// More founders than may vote.
    #[error("there are more than {PEERS_MAX} brokers: name the founders only, others join through them")]
    TooMany,
}

impl FromStr for Peers {
    type Err = NotPeers;

    /// Refuses a broker or an address that comes twice, port 0, an address that means every interface, and more than
    /// [`PEERS_MAX`].
    fn from_str(text: &str) -> Result<Self, NotPeers> {
        let mut peers = BTreeMap::new();
        for entry in text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
            let (broker, address) = peer(entry).ok_or_else(|| NotPeers::NotAPeer { entry: entry.to_owned() })?;
            if address.port == 0 || address.is_unspecified() {
                return Err(NotPeers::NowhereToConnect { broker, address });
            }
            if peers.contains_key(&broker) {
                return Err(NotPeers::TwiceTheBroker(broker));
            }
            if let Some((first, _)) = peers.iter().find(|(_, known)| **known == address) {
                return Err(NotPeers::TwiceTheAddress { first: *first, second: broker, address });
            }
            peers.insert(broker, address);
            if peers.len() > PEERS_MAX {
                return Err(NotPeers::TooMany);
            }
        }
        Ok(Self(peers))
    }
}

/// `id@host:port`; the largest number means "no broker" on the wire.
fn peer(entry: &str) -> Option<(BrokerId, HostPort)> {
    let (broker, address) = entry.split_once('@')?;
    let broker = broker.parse().ok().filter(|broker| *broker != u32::MAX)?;
    Some((BrokerId::new(broker), address.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_survives_parsing_and_printing() {
        for text in ["", "1@localhost:9094", "1@127.0.0.1:1,2@streambus-1.streambus:9094,30@[::1]:3"] {
            assert_eq!(text.parse::<Peers>().map(|peers| peers.to_string()).as_deref(), Ok(text));
        }
        assert_eq!("2@b:2 , 1@a:1".parse::<Peers>().map(|peers| peers.to_string()).as_deref(), Ok("1@a:1,2@b:2"));
    }

    // Catches two founders under one number or at one address: the group would count one voter twice.
    #[test]
    fn what_names_no_set_of_brokers_is_refused() {
        let many = "1@a:1,2@b:1,3@c:1,4@d:1,5@e:1,6@f:1,7@g:1,8@h:1,9@i:1,10@j:1";
        for (text, reason) in [
            ("localhost:9094", "'localhost:9094' is not id@host:port"),
            ("1@", "'1@' is not id@host:port"),
            ("1@a", "'1@a' is not id@host:port"),
            ("x@a:1", "'x@a:1' is not id@host:port"),
            ("-1@a:1", "'-1@a:1' is not id@host:port"),
            ("4294967295@a:1", "'4294967295@a:1' is not id@host:port"),
            ("1@a:1,", "'' is not id@host:port"),
            ("1@a:1,1@b:1", "broker 1 comes twice"),
            ("1@a:1,2@a:1", "brokers 1 and 2 have the same address a:1"),
            ("1@a:0", "broker 1 cannot be reached at a:0: name a host and a port that the others can connect to"),
            (
                "1@0.0.0.0:9094",
                "broker 1 cannot be reached at 0.0.0.0:9094: name a host and a port that the others can connect to",
            ),
            (many, "there are more than 9 brokers: name the founders only, others join through them"),
        ] {
            let refused = text.parse::<Peers>().map_err(|error| error.to_string());
            assert_eq!(refused, Err(reason.to_owned()), "{text}");
        }
    }
}
