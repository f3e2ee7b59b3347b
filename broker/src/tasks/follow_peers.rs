//! Keeps the addresses of the other brokers equal to what they registered with.

use std::collections::BTreeMap;
use std::sync::Arc;

use streambus_consensus::image::ClusterImage;
use streambus_protocol::ids::BrokerId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cluster::book::PeerBook;
use crate::config::address::HostPort;

/// Acts on every image until `stop`.
pub(crate) async fn run(book: PeerBook, mut images: watch::Receiver<Arc<ClusterImage>>, stop: CancellationToken) {
    let mut known: BTreeMap<BrokerId, HostPort> = BTreeMap::new();
    loop {
        let registered = addresses(&images.borrow_and_update());
        if registered != known {
            book.set_registered(registered.clone());
            known = registered;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = images.changed() => if changed.is_err() { return },
        }
    }
}

fn addresses(image: &ClusterImage) -> BTreeMap<BrokerId, HostPort> {
    let reached = image.brokers.iter().filter(|(_, broker)| broker.cluster.port != 0);
    reached.map(|(id, b)| (*id, HostPort { host: b.cluster.host.clone(), port: b.cluster.port })).collect()
}
