//! One lane to one broker: a queue, and a task that dials when there is something to send.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use streambus_protocol::api::peer::PeerLane;
use streambus_protocol::ids::BrokerId;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::book::PeerBook;
use crate::cluster::connection::{self, Lost, Outgoing};
use crate::cluster::dial::{DialError, Dialed, Dialler};

/// Pauses between failed attempts to connect: the first and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Told when a connection that was up breaks.
pub(crate) type OnDisconnect = Arc<dyn Fn(BrokerId, PeerLane) + Send + Sync>;

/// The task behind one lane to one broker.
pub(crate) struct Link {
    pub(crate) broker: BrokerId,
    pub(crate) lane: PeerLane,
    pub(crate) dialler: Dialler,
    pub(crate) book: PeerBook,
    pub(crate) generation: Arc<AtomicU64>,
    /// Told when a caller gave up.
    pub(crate) given_up: Arc<Notify>,
    pub(crate) on_disconnect: OnDisconnect,
    pub(crate) closing: CancellationToken,
}

impl Link {
    /// Sends what arrives on `queue`, until it is closed or the broker stops. What is queued while there is no connection
    /// waits for the next one; its callers' time limits bound the wait.
    pub(crate) async fn run(self, mut queue: mpsc::Receiver<Outgoing>) {
        let mut attempt = 0_usize;
        loop {
            let first = tokio::select! {
                biased;
                () = self.closing.cancelled() => break,
                request = queue.recv() => match request {
                    Some(request) => request,
                    None => break,
                },
            };
            let dialed = tokio::select! {
                biased;
                () = self.closing.cancelled() => {
                    first.fail(Lost::NotSent("this broker is stopping".into()));
                    break;
                }
                dialed = self.dial(attempt) => dialed,
            };
            match dialed {
                Ok(dialed) => {
                    attempt = 0;
                    self.serve(dialed, first, &mut queue).await;
                }
                Err(why) => {
                    attempt = attempt.saturating_add(1);
                    tracing::debug!(
                        broker = %self.broker, lane = self.lane.as_str(), why = &*why, attempt,
                        "no connection"
                    );
                    first.fail(Lost::NotSent(Arc::clone(&why)));
                    while let Ok(request) = queue.try_recv() {
                        request.fail(Lost::NotSent(Arc::clone(&why)));
                    }
                    let pause = PAUSE_MIN.saturating_mul(1 << attempt.min(8)).min(PAUSE_MAX);
                    tokio::select! {
                        biased;
                        () = self.closing.cancelled() => break,
                        () = tokio::time::sleep_until(Instant::now() + pause) => {}
                    }
                }
            }
        }
        queue.close();
        while let Ok(request) = queue.try_recv() {
            request.fail(Lost::NotSent("this broker is stopping".into()));
        }
    }

    /// Tries the addresses in turn, one each time.
    async fn dial(&self, attempt: usize) -> Result<Dialed, Arc<str>> {
        let addresses = self.book.addresses(self.broker);
        let Some(address) = attempt.checked_rem(addresses.len()).and_then(|index| addresses.get(index)) else {
            return Err(format!("nothing says where broker {} is", self.broker).into());
        };
        let dialed = self.dialler.dial(address, Some(self.broker), self.lane, self.closing.child_token()).await;
        dialed.map_err(|error| {
            if matches!(error, DialError::Refused { .. }) {
                tracing::warn!(broker = %self.broker, %error, "a broker refuses this one's connections");
            }
            error.to_string().into()
        })
    }

    async fn serve(&self, dialed: Dialed, first: Outgoing, queue: &mut mpsc::Receiver<Outgoing>) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        tracing::debug!(
            broker = %self.broker,
            lane = self.lane.as_str(),
            version = dialed.peer.software_version,
            "connected to a broker"
        );
        let ended = tokio::select! {
            biased;
            () = self.closing.cancelled() => None,
            ended = connection::serve(dialed, first, queue, &self.given_up) => ended,
        };
        if let Some(why) = ended {
            tracing::debug!(broker = %self.broker, lane = self.lane.as_str(), why, "lost the connection to a broker");
            (self.on_disconnect)(self.broker, self.lane);
        }
    }
}
