//! The one-way switch of an open metadata database: set by the first sync that failed, never reset.
//!
//! After a failed sync the system may forget what it could not write, and the next sync succeeds without it. Syncs therefore
//! take turns: who waited for one that failed fails with it, since its bytes may be among the lost ones, and nobody syncs or
//! writes after it. What is there stays readable.

use std::io;
use std::sync::OnceLock;

use parking_lot::Mutex;

/// Whether durability was lost. One per open database.
#[derive(Debug, Default)]
pub(super) struct SyncLatch {
    /// Held by the sync that runs. Writes never wait for it.
    turn: Mutex<()>,
    failed: OnceLock<FailedSync>,
}

/// The first sync that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "the metadata database takes no more writes since a sync of its log failed ({reason}): what it has confirmed is there, \
     what came later may be lost; mend the disk and start this broker again"
)]
struct FailedSync {
    kind: io::ErrorKind,
    reason: String,
}

impl FailedSync {
    fn refusal(&self) -> io::Error {
        io::Error::new(self.kind, self.clone())
    }
}

impl SyncLatch {
    /// Refuses once a sync has failed.
    pub(super) fn check(&self) -> io::Result<()> {
        self.failed.get().map_or(Ok(()), |failed| Err(failed.refusal()))
    }

    /// Runs `sync` when its turn has come, unless one failed before. Blocking.
    pub(super) fn sync(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _turn = self.turn.lock();
        self.check()?;
        sync().inspect_err(|error| {
            self.failed.get_or_init(|| FailedSync { kind: error.kind(), reason: error.to_string() });
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    fn refused_for(result: io::Result<()>, reason: &str) {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains(reason), "{error}");
    }

    /// Catches: a sync that was asked for while another failed and then succeeds, because the system has forgotten what was
    /// lost; and a write that waits for a sync.
    #[test]
    fn who_waits_for_a_sync_that_fails_fails_with_it() {
        let latch = SyncLatch::default();
        let (runs, running) = channel();
        let (outcome, failing) = channel::<io::Error>();
        let (asks, asking) = channel();
        thread::scope(|scope| {
            let latch = &latch;
            let first = scope.spawn(move || {
                latch.sync(|| {
                    runs.send(()).unwrap();
                    Err(failing.recv().unwrap())
                })
            });
            running.recv().unwrap();
            let second = scope.spawn(move || {
                asks.send(()).unwrap();
                latch.sync(|| panic!("a second sync after one that failed"))
            });
            asking.recv().unwrap();
            latch.check().unwrap();
            outcome.send(io::Error::new(io::ErrorKind::StorageFull, "no room for the first")).unwrap();
            refused_for(first.join().unwrap(), "no room for the first");
            refused_for(second.join().unwrap(), "no room for the first");
        });
        refused_for(latch.check(), "no room for the first");
        refused_for(latch.sync(|| Err(io::Error::other("the second"))), "no room for the first");
    }

    /// Catches: two syncs at a time, of which one fails while the other, which began earlier, reports success for bytes that
    /// only the failed one was to write.
    #[test]
    fn syncs_take_turns_and_each_runs() {
        let latch = SyncLatch::default();
        let running = Mutex::new(());
        let ran = Mutex::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let sync = || {
                            let _alone = running.try_lock().expect("no other sync runs");
                            *ran.lock() += 1;
                            Ok(())
                        };
                        latch.sync(sync).unwrap();
                    }
                });
            }
        });
        assert_eq!(*ran.lock(), 400);
    }
}
