//! Notices when the metadata node dies: without it a broker must not go on, because nobody could tell it what it leads.

use streambus_consensus::node::MetadataNode;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::{Lifecycle, State};

/// Fails the broker when its metadata node stops by itself.
pub(crate) async fn run(metadata: MetadataNode, lifecycle: Lifecycle, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        reason = metadata.stopped() => {
            tracing::error!(reason, "the metadata node stopped: this broker cannot go on");
            // A broker that is stopping anyway keeps its state.
            let _ending = lifecycle.set(State::Failed(format!("the metadata node stopped: {reason}")));
        }
    }
}
