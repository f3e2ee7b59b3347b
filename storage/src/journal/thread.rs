//! The one adapter that starts the commit thread, and the only place where the journal measures idleness.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use streambus_planted::{Defect, is_planted};

use super::committer::{Committer, Step};
use crate::latch::LatchedOperation;

/// How long [`Defect::AckBeforeSync`] keeps from the disk what it says is there.
const PLANTED_LATENESS: Duration = Duration::from_millis(50);

/// Silence between two portions of zeros ahead of the commits: while they are written a commit would wait.
const ZERO_PAUSE: Duration = Duration::from_millis(4);
/// Without so long a silence, a portion comes after so many commits, when none waits: the smallest of them fill a quarter of
/// one meanwhile, so that the zeros get ahead, and few commits wait for them.
const COMMITS_A_PORTION: u32 = 16;

/// The running commit thread. Its owner joins it.
#[derive(Debug)]
pub(crate) struct CommitThread(JoinHandle<()>);

impl CommitThread {
    pub(crate) fn start(committer: Committer) -> io::Result<Self> {
        let run = move || guarded(committer);
        Builder::new().name("journal-commit".to_owned()).spawn(run).map(Self)
    }

    /// Waits for the thread's end, which closing the journal has asked for.
    pub(crate) fn join(self) {
        // The last owner of the journal may be an observer's callback; a thread cannot wait for itself.
        if self.0.thread().id() == std::thread::current().id() {
            return;
        }
        if self.0.join().is_err() {
            tracing::error!("the commit thread ended by a panic outside its guard");
        }
    }
}

/// Runs the loop; a panic in it (a failed assertion, or the observer's) counts as lost durability, so that nobody
/// waits for ever.
fn guarded(mut committer: Committer) {
    if catch_unwind(AssertUnwindSafe(|| run(&mut committer))).is_err() {
        let error = io::Error::other("the commit thread panicked");
        committer.shared().latch.trip(LatchedOperation::Write, "journal", &error);
        // Stops the intake and tells the observer, whose own panic then ends the thread.
        committer.step();
    }
}

fn run(committer: &mut Committer) {
    let idle = Duration::from_millis(u64::from(committer.shared().config.idle_marker_ms));
    // Since the last work; known only as the sum of the waits.
    let mut quiet = Duration::ZERO;
    let mut commits = 0_u32;
    loop {
        if is_planted(Defect::AckBeforeSync) {
            // A killed process loses nothing that it has written: what it acknowledges too early must not be written yet.
            std::thread::park_timeout(PLANTED_LATENESS);
        }
        match committer.step() {
            Step::Committed => {
                quiet = Duration::ZERO;
                commits = commits.saturating_add(1);
            }
            Step::Prepared => quiet = Duration::ZERO,
            Step::Stopped => {
                if committer.wants_marker() {
                    committer.mark();
                }
                return;
            }
            Step::Idle if commits >= COMMITS_A_PORTION && committer.wants_zeros() => {
                commits = 0;
                committer.zero_ahead();
            }
            Step::Idle => {
                let marker = committer.wants_marker().then(|| idle.saturating_sub(quiet));
                let zeros = committer.wants_zeros().then_some(ZERO_PAUSE);
                let timeout = match (marker, zeros) {
                    (Some(marker), Some(zeros)) => Some(marker.min(zeros)),
                    (marker, zeros) => marker.or(zeros),
                };
                if committer.shared().park(timeout) {
                    continue;
                }
                quiet += timeout.unwrap_or_default();
                if committer.wants_marker() && quiet >= idle {
                    committer.mark();
                } else {
                    committer.zero_ahead();
                }
            }
        }
    }
}
