//! Keeps the partitions here equal to what the metadata says.

use std::sync::Arc;
use std::time::Duration;

use streambus_consensus::image::ClusterImage;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::{Component, Lifecycle, Problem};
use crate::partition::reconcile::Reconciler;

/// Between attempts while the store refuses.
const RETRY: Duration = Duration::from_secs(1);

/// Acts on every image, the newest first, until `stop`.
pub(crate) async fn run(
    mut reconciler: Reconciler,
    mut images: watch::Receiver<Arc<ClusterImage>>,
    lifecycle: Lifecycle,
    stop: CancellationToken,
) {
    let mut failed = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = images.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if failed => {}
        }
        let image = Arc::clone(&images.borrow_and_update());
        match reconciler.reach(image).await {
            Ok(()) if failed => {
                tracing::info!("the partitions here are what the metadata says again");
                lifecycle.clear(Component::Metadata);
                failed = false;
            }
            Ok(()) => {}
            Err(error) => {
                if !failed {
                    tracing::error!(%error, "a change of the metadata could not be followed; trying again");
                }
                let message = format!("a change could not be followed: {error}");
                lifecycle.report(Problem { component: Component::Metadata, message, blocks_ready: false });
                failed = true;
            }
        }
    }
}
