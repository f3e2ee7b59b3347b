//! What makes the metadata log durable: one thread (adapter: it owns it), or in a simulation one task.
//!
//! Writers hand over a callback after they have written. It takes all callbacks that wait, syncs once, then
//! completes them in the order they came: one sync covers every write before it. The first sync that fails is the
//! last one tried: after a failed sync the kernel may have dropped the pages, and a second one would lie. From then
//! on every callback gets the error, so nothing is ever promised again.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use openraft::storage::IOFlushed;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::database::MemoryHandle;
use crate::types::TypeConfig;

type Callback = IOFlushed<TypeConfig>;

/// Handle of the flusher. Dropping it finishes what was submitted; a thread is joined.
pub(crate) struct Flusher {
    // Unbounded, but what it holds is bounded by openraft: one small callback per write that is in flight.
    queue: Option<Queue>,
    thread: Option<JoinHandle<()>>,
}

enum Queue {
    Thread(Sender<Callback>),
    Task(mpsc::UnboundedSender<Callback>),
}

impl Flusher {
    /// Starts the thread around `sync`, which makes durable everything written before it is called.
    pub(crate) fn start(sync: impl FnMut() -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let (queue, submitted) = channel();
        let thread =
            std::thread::Builder::new().name("raft-flusher".to_owned()).spawn(move || run(&submitted, sync))?;
        Ok(Self { queue: Some(Queue::Thread(queue)), thread: Some(thread) })
    }

    /// The same as a task, for a database whose syncs take time and no thread. `sync` ends a sync that began when as many
    /// batches as it is told had been written.
    pub(crate) fn start_task(database: MemoryHandle, sync: impl FnMut(u64) -> io::Result<()> + Send + 'static) -> Self {
        let (queue, submitted) = mpsc::unbounded_channel();
        // It ends with the queue, like the thread.
        drop(Handle::current().spawn(run_task(submitted, database, sync)));
        Self { queue: Some(Queue::Task(queue)), thread: None }
    }

    /// Completes `callback` once everything written so far is durable.
    pub(crate) fn submit(&self, callback: Callback) {
        let unsent = match &self.queue {
            Some(Queue::Thread(queue)) => queue.send(callback).err().map(|e| e.0),
            Some(Queue::Task(queue)) => queue.send(callback).err().map(|e| e.0),
            None => Some(callback),
        };
        if let Some(callback) = unsent {
            callback.io_completed(Err(io::Error::other("the flusher has stopped")));
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.queue = None;
        let joined = self.thread.take().map(JoinHandle::join);
        if matches!(joined, Some(Err(_))) {
            tracing::error!("the metadata flusher panicked");
        }
    }
}

fn run(submitted: &Receiver<Callback>, mut sync: impl FnMut() -> io::Result<()>) {
    let mut failure: Option<String> = None;
    let mut waiting = Vec::new();
    while let Ok(first) = submitted.recv() {
        waiting.push(first);
        waiting.extend(submitted.try_iter());
        let synced = if failure.is_none() { sync() } else { Ok(()) };
        if let Err(e) = synced {
            tracing::error!(error = %e, "syncing the metadata log failed; it takes no more writes");
            failure = Some(e.to_string());
        }
        for callback in waiting.drain(..) {
            callback.io_completed(match &failure {
                None => Ok(()),
                Some(reason) => Err(io::Error::other(format!("syncing the metadata log failed: {reason}"))),
            });
        }
    }
}

async fn run_task(
    mut submitted: mpsc::UnboundedReceiver<Callback>,
    database: MemoryHandle,
    mut sync: impl FnMut(u64) -> io::Result<()>,
) {
    let mut waiting = Vec::new();
    while submitted.recv_many(&mut waiting, usize::MAX).await > 0 {
        let covered = database.written();
        tokio::time::sleep(database.sync_takes()).await;
        let synced = sync(covered);
        for callback in waiting.drain(..) {
            callback.io_completed(match &synced {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::other(error.to_string())),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use openraft::type_config::TypeConfigExt;

    use super::*;

    /// Catches: a sync per write (no group commit), or a callback completed before the sync that covers it.
    #[tokio::test]
    async fn one_sync_covers_all_that_waits() {
        let (may_sync, gate) = channel::<()>();
        let syncs = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&syncs);
        let flusher = Flusher::start(move || {
            counter.fetch_add(1, Ordering::SeqCst);
            gate.recv().map_err(io::Error::other)
        })
        .unwrap();
        let mut done = Vec::new();
        for _ in 0..50 {
            let (tx, rx) = TypeConfig::oneshot();
            flusher.submit(IOFlushed::signal(tx));
            done.push(rx);
        }
        // The first sync may have started with any number of callbacks; the rest all join the second.
        may_sync.send(()).unwrap();
        may_sync.send(()).unwrap();
        for rx in done {
            rx.await.unwrap().unwrap();
        }
        assert!((1..=2).contains(&syncs.load(Ordering::SeqCst)), "{syncs:?} syncs");
    }

    /// Catches: retrying a sync that failed, or promising anything after it.
    #[tokio::test]
    async fn failed_sync_is_final() {
        let syncs = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&syncs);
        let flusher = Flusher::start(move || match counter.fetch_add(1, Ordering::SeqCst) {
            0 => Err(io::Error::other("disk says no")),
            _ => Ok(()),
        })
        .unwrap();
        for _ in 0..3 {
            let (tx, rx) = TypeConfig::oneshot();
            flusher.submit(IOFlushed::signal(tx));
            let error = rx.await.unwrap().unwrap_err();
            assert!(error.to_string().contains("disk says no"), "{error}");
        }
        assert_eq!(syncs.load(Ordering::SeqCst), 1);
    }
}
