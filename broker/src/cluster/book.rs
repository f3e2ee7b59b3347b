//! Where other brokers are reached: as they registered, as the metadata group knows them, as configured.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use streambus_protocol::ids::BrokerId;

use crate::config::address::HostPort;

/// The addresses of the other brokers' cluster listeners. Cheap to clone; all clones are one book.
#[derive(Clone, Debug, Default)]
pub struct PeerBook {
    pages: Arc<Mutex<Pages>>,
}

#[derive(Debug, Default)]
struct Pages {
    registered: BTreeMap<BrokerId, HostPort>,
    members: BTreeMap<BrokerId, HostPort>,
    configured: BTreeMap<BrokerId, HostPort>,
}

impl PeerBook {
    /// A book with the configured addresses.
    pub fn new(configured: BTreeMap<BrokerId, HostPort>) -> Self {
        Self { pages: Arc::new(Mutex::new(Pages { configured, ..Pages::default() })) }
    }

    /// Replaces the addresses that brokers registered with.
    pub fn set_registered(&self, registered: BTreeMap<BrokerId, HostPort>) {
        self.pages.lock().registered = registered;
    }

    /// Notes where the metadata group reaches a broker.
    pub(crate) fn note_member(&self, broker: BrokerId, address: HostPort) {
        let mut pages = self.pages.lock();
        if pages.members.get(&broker) != Some(&address) {
            pages.members.insert(broker, address);
        }
    }

    /// Where to try, best first. A registration is the newest word a broker has said about itself, but this broker may
    /// not have seen the newest.
    pub(crate) fn addresses(&self, broker: BrokerId) -> Vec<HostPort> {
        let pages = self.pages.lock();
        let mut addresses: Vec<HostPort> = Vec::new();
        for page in [&pages.registered, &pages.members, &pages.configured] {
            if let Some(address) = page.get(&broker).filter(|address| !addresses.contains(address)) {
                addresses.push(address.clone());
            }
        }
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> HostPort {
        HostPort { host: "b".to_owned(), port }
    }

    // Catches a broker that moved and is only looked for where it was.
    #[test]
    fn the_newest_word_comes_first_and_no_address_twice() {
        let two = BrokerId::new(2);
        let book = PeerBook::new(BTreeMap::from([(two, address(1))]));
        book.note_member(two, address(1));
        assert_eq!(book.addresses(two), [address(1)]);
        book.set_registered(BTreeMap::from([(two, address(3))]));
        book.note_member(two, address(2));
        assert_eq!(book.addresses(two), [address(3), address(2), address(1)]);
        assert!(book.addresses(BrokerId::new(9)).is_empty());
    }
}
