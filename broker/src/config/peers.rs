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

/// The text is no list of peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a list of peers")]
pub struct NotPeers;

impl FromStr for Peers {
    type Err = NotPeers;

    /// Refuses a broker or an address that comes twice, port 0, an address that means every interface, and more than
    /// [`PEERS_MAX`].
    fn from_str(text: &str) -> Result<Self, NotPeers> {
        let mut peers = BTreeMap::new();
        for entry in text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
            let (broker, address) = entry.split_once('@').ok_or(NotPeers)?;
            let address: HostPort = address.parse().map_err(|_| NotPeers)?;
            let broker = broker.parse().ok().filter(|broker| *broker != u32::MAX).ok_or(NotPeers)?;
            let is_known = peers.values().any(|known| *known == address);
            if address.port == 0 || address.is_unspecified() || is_known {
                return Err(NotPeers);
            }
            if peers.insert(BrokerId::new(broker), address).is_some() || peers.len() > PEERS_MAX {
                return Err(NotPeers);
            }
        }
        Ok(Self(peers))
    }
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
        for text in [
            "localhost:9094",
            "1@",
            "1@a",
            "x@a:1",
            "-1@a:1",
            "4294967295@a:1",
            "1@a:1,1@b:1",
            "1@a:1,2@a:1",
            "1@a:0",
            "1@0.0.0.0:9094",
            "1@a:1,",
            "1@a:1,2@b:1,3@c:1,4@d:1,5@e:1,6@f:1,7@g:1,8@h:1,9@i:1,10@j:1",
        ] {
            assert_eq!(text.parse::<Peers>(), Err(NotPeers), "{text}");
        }
    }
}
