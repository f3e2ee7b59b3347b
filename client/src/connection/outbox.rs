//! What one connection has yet to write: encoded frames, and sources that make a frame at the moment it can be written.
//!
//! The queue itself has no limit because everything in it has one: requests hold an in-flight permit, a source is in it
//! at most once, and one-way messages are as few as the subscriptions that send them.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use streambus_protocol::api::produce::ProduceRequest;
use streambus_protocol::frame::EncodedFrame;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::connection::in_flight::Callback;

/// Makes produce requests on demand. Binding the content late lets records collect while the transport is busy, and
/// spares a hop: whoever enqueues a record wakes the writer, nobody in between.
pub(crate) trait FrameSource: Send + Sync {
    /// The next request of at most about `bytes_max`, or `None` when there is nothing to send now; then the source must
    /// be armed again when there is.
    fn pull(self: Arc<Self>, bytes_max: usize) -> Option<Pulled>;

    /// The connection has ended: nothing will be pulled any more.
    fn disconnected(self: Arc<Self>);
}

/// A request that a source made.
pub(crate) struct Pulled {
    /// The request.
    pub(crate) request: ProduceRequest,
    /// When its answer must be there.
    pub(crate) deadline: Instant,
    /// Where the answer goes; none for a request that has no answer.
    pub(crate) reply: Option<Callback>,
}

/// One thing to write.
pub(crate) enum Outgoing {
    /// One frame.
    Frame(EncodedFrame),
    /// A source to ask.
    Source(Arc<dyn FrameSource>),
}

/// The queue of one connection.
#[derive(Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Outgoing>,
    closed: bool,
}

impl Outbox {
    /// Queues `item` and wakes the writer; hands it back when the connection has ended.
    pub(crate) fn push(&self, item: Outgoing) -> Result<(), Outgoing> {
        {
            let mut queue = self.queue.lock();
            if queue.closed {
                return Err(item);
            }
            queue.waiting.push_back(item);
        }
        self.filled.notify_one();
        Ok(())
    }

    /// The next thing to write.
    pub(crate) fn pop(&self) -> Option<Outgoing> {
        self.queue.lock().waiting.pop_front()
    }

    /// Resolves when something was queued since the last time. One waiter at a time: the writer.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Refuses everything from now on and returns what was left.
    pub(crate) fn close(&self) -> VecDeque<Outgoing> {
        let mut queue = self.queue.lock();
        queue.closed = true;
        std::mem::take(&mut queue.waiting)
    }
}
