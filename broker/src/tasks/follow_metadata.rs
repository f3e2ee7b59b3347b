//! Keeps the partitions here equal to what the metadata says, and lets go of what it proves to be superfluous.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use streambus_consensus::image::ClusterImage;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::lifecycle::{Component, Lifecycle, Problem};
use crate::partition::discard::Ask;
use crate::partition::reconcile::Reconciler;

/// Between attempts while the store refuses, or no quorum answers.
const RETRY: Duration = Duration::from_secs(1);

/// What is done next.
enum Next {
    /// Take up and give up roles, by the newest image.
    Reach(Arc<ClusterImage>),
    /// Decide about logs without a role, by an image that is confirmed.
    Sweep(Arc<ClusterImage>),
    /// Remove a log in quarantine, if it is one, by an operator's word.
    Discard(Ask),
}

/// What has failed and is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Failing {
    Reach,
    Sweep,
}

/// Acts on the image of now and on every later one, the newest first, until `stop`. While one waits for the disk, what newer
/// ones end is ended all the same.
///
/// `confirm` answers with the newest image once a quorum has said that it holds everything acknowledged before; none when
/// there is no quorum. Only by such an image is anything deleted, and nothing else waits for it. What operators have `asked`
/// brings its own.
pub(crate) async fn run<F>(
    mut reconciler: Reconciler,
    mut images: watch::Receiver<Arc<ClusterImage>>,
    confirm: impl Fn() -> F + Sync,
    mut asked: mpsc::Receiver<Ask>,
    lifecycle: Lifecycle,
    stop: CancellationToken,
) where
    F: Future<Output = Option<Arc<ClusterImage>>> + Send,
{
    let mut failing = BTreeSet::new();
    let step_down = reconciler.step_down();
    let mut confirming: Option<BoxFuture<'_, Arc<ClusterImage>>> = None;
    // What an earlier life has left on the disk is looked at also if nothing changes.
    images.mark_changed();
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = images.changed() => match changed {
                Ok(()) => Next::Reach(Arc::clone(&images.borrow_and_update())),
                Err(_) => return,
            },
            confirmed = answer_of(&mut confirming) => Next::Sweep(confirmed),
            Some(ask) = asked.recv() => Next::Discard(ask),
            () = tokio::time::sleep(RETRY), if failing.contains(&Failing::Reach) => {
                Next::Reach(Arc::clone(&images.borrow_and_update()))
            }
        };
        let (step, pause) = match &next {
            Next::Reach(_) => (Some(Failing::Reach), Duration::ZERO),
            Next::Sweep(_) => (Some(Failing::Sweep), RETRY),
            // Whoever asked hears of it, and asks again.
            Next::Discard(_) => (None, RETRY),
        };
        let mut has_newer = false;
        let outcome = {
            let mut working = pin!(async {
                match next {
                    Next::Reach(image) => reconciler.reach(image).await,
                    Next::Sweep(confirmed) => reconciler.sweep(&confirmed).await,
                    Next::Discard(ask) => {
                        reconciler.answer(ask).await;
                        Ok(())
                    }
                }
            });
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    outcome = &mut working => break outcome,
                    changed = images.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        has_newer = true;
                        let newer = Arc::clone(&images.borrow_and_update());
                        step_down.look(&newer);
                    }
                }
            }
        };
        if has_newer {
            images.mark_changed();
        }
        let Some(step) = step else { continue };
        if step == Failing::Sweep || confirming.is_none() {
            // Also after a failure: what is to be opened may need the space.
            confirming = match reconciler.is_undecided() {
                true => Some(Box::pin(confirmed_after(pause, &confirm))),
                false => None,
            };
        }
        match outcome {
            Ok(()) => {
                if failing.remove(&step) && failing.is_empty() {
                    tracing::info!("the partitions here are what the metadata says again");
                    lifecycle.clear(Component::Metadata);
                }
            }
            Err(error) => {
                if failing.insert(step) {
                    tracing::error!(%error, "a change of the metadata could not be followed; trying again");
                }
                let message = format!("a change could not be followed: {error}");
                lifecycle.report(Problem { component: Component::Metadata, message, blocks_ready: false });
            }
        }
    }
}

/// An image that `confirm` answers with, asked for after `pause` and until there is one.
async fn confirmed_after<F>(pause: Duration, confirm: &(impl Fn() -> F + Sync)) -> Arc<ClusterImage>
where
    F: Future<Output = Option<Arc<ClusterImage>>> + Send,
{
    let mut pause = pause;
    loop {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        if let Some(image) = confirm().await {
            return image;
        }
        pause = RETRY;
    }
}

/// What `asked` comes to; never, when nothing is asked.
async fn answer_of<T>(asked: &mut Option<BoxFuture<'_, T>>) -> T {
    match asked {
        Some(asked) => asked.await,
        None => std::future::pending().await,
    }
}
