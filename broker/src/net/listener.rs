//! The accept loop of a listener.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::net::admission::ConnectionRefused;
use crate::net::connection::{self, ConnectionContext};
use crate::net::network::Listener;
use crate::net::socket::{Silence, Socket};

/// How long to pause when the process has no file descriptor left: trying again at once would burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A peer that vanished without a word is noticed after this long, also under a subscription that pushes nothing.
const SILENCE: Silence = Silence {
    unconfirmed_max: None,
    tested_after: Duration::from_secs(60),
    tested_every: Duration::from_secs(15),
    tests: None,
};

/// Accepts until the broker drains; each connection runs on `tracker` and ends at the latest when `abort` is cancelled.
pub(crate) async fn accept_loop(
    listener: Listener,
    context: Arc<ConnectionContext>,
    tracker: TaskTracker,
    abort: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = context.draining.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => admit(socket, peer, &context, &tracker, &abort),
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; is the limit of open files reached?");
                tokio::select! {
                    () = context.draining.cancelled() => return,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
}

fn admit(
    socket: Socket,
    peer: SocketAddr,
    context: &Arc<ConnectionContext>,
    tracker: &TaskTracker,
    abort: &CancellationToken,
) {
    let permit = match context.admission.admit_connection(peer.ip()) {
        Ok(permit) => permit,
        Err(refused) => {
            context.door.metrics().connection_refused(refused);
            match refused {
                ConnectionRefused::Total => {
                    tracing::warn!(%peer, "refused a connection: the broker's limit is reached")
                }
                ConnectionRefused::PerAddress => {
                    tracing::debug!(%peer, "refused a connection: its address has too many")
                }
            }
            return;
        }
    };
    if let Err(error) = socket.tune(SILENCE) {
        tracing::debug!(%peer, %error, "cannot set options of a connection");
    }
    let context = Arc::clone(context);
    let abort = abort.clone();
    tracker.spawn(async move {
        tokio::select! {
            () = connection::serve(socket, peer, permit, &context) => {}
            () = abort.cancelled() => {}
        }
    });
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
