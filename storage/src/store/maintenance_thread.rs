//! The adapter that runs maintenance on its one thread, asleep while there is nothing to do.

use std::io;
use std::sync::{Arc, Weak};
use std::thread::{Builder, JoinHandle};

use super::inner::StoreInner;

/// Starts the thread. It keeps no store alive: it ends when told by
/// [`CommitSink::stop`](super::commit_sink::CommitSink::stop), which the store's drop calls.
pub(super) fn start(store: &Arc<StoreInner>) -> io::Result<JoinHandle<()>> {
    let (sink, store) = (store.sink.clone(), Arc::downgrade(store));
    Builder::new().name("storage-index".to_owned()).spawn(move || {
        while sink.wait() {
            let Some(store) = Weak::upgrade(&store) else { return };
            store.maintain();
        }
    })
}
