//! Keeps the partitions here equal to what the metadata says.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use streambus_consensus::image::ClusterImage;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::{Component, Lifecycle, Problem};
use crate::partition::reconcile::Reconciler;

/// Between attempts while the store refuses.
const RETRY: Duration = Duration::from_secs(1);

/// Acts on every image, the newest first, until `stop`. While one waits for the disk, what newer ones end is ended all the
/// same.
pub(crate) async fn run(
    mut reconciler: Reconciler,
    mut images: watch::Receiver<Arc<ClusterImage>>,
    lifecycle: Lifecycle,
    stop: CancellationToken,
) {
    let mut failed = false;
    let step_down = reconciler.step_down();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = images.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if failed => {}
        }
        let image = Arc::clone(&images.borrow_and_update());
        let mut reaching = pin!(reconciler.reach(image));
        let mut has_newer = false;
        let reached = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                reached = &mut reaching => break reached,
                changed = images.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    has_newer = true;
                    let newer = Arc::clone(&images.borrow_and_update());
                    step_down.look(&newer);
                }
            }
        };
        if has_newer {
            images.mark_changed();
        }
        match reached {
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
