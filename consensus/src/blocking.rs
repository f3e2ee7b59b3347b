//! Work that blocks (adapter): handed to the runtime's threads for it, or done at once by a thread that says so.
//!
//! A simulation runs whole brokers on one thread, because threads would make a run differ from its repetition. Like
//! tokio's timers, which a test pauses for everything on its runtime, this is a property of where the code runs and not
//! of the code.

use std::cell::Cell;
use std::future::ready;
use std::marker::PhantomData;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

thread_local! {
    static AT_ONCE: Cell<bool> = const { Cell::new(false) };
}

/// Does `work` where blocking is allowed. It is not given up when the handle is dropped.
pub fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    if AT_ONCE.get() {
        let done = work();
        // Handed over by a task, so that whoever waits is resumed as it would be by a thread: later, by the scheduler.
        return Handle::current().spawn(ready(done));
    }
    tokio::task::spawn_blocking(work)
}

/// While it lives, blocking work of its thread is done at once, on this thread. For simulations.
#[derive(Debug)]
pub struct AtOnce {
    before: bool,
    /// It belongs to its thread.
    _not_send: PhantomData<*const ()>,
}

impl AtOnce {
    /// From now on, on this thread.
    pub fn on_this_thread() -> Self {
        Self { before: AT_ONCE.replace(true), _not_send: PhantomData }
    }
}

impl Drop for AtOnce {
    fn drop(&mut self) {
        AT_ONCE.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Catches: blocking work on a worker of the runtime, or on a thread of its own in a simulation.
    #[tokio::test]
    async fn work_is_done_elsewhere_unless_this_thread_does_it_at_once() {
        let here = thread::current().id();
        let place = || thread::current().id();
        assert_ne!(spawn(place).await.unwrap(), here);
        let at_once = AtOnce::on_this_thread();
        assert_eq!(spawn(place).await.unwrap(), here);
        drop(at_once);
        assert_ne!(spawn(place).await.unwrap(), here);
    }
}
