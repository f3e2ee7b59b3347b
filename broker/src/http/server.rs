//! The accept loop and its connections: an adapter over tokio's sockets and hyper's HTTP/1.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::HttpState;
use super::exchange;
use super::stall::StallLimit;
use crate::clock::Deadline;
use crate::net::network::Listener;
use crate::net::socket::Socket;

/// The head of a request and everything hyper buffers for a connection.
const HEAD_BYTES_MAX: usize = 32 * 1024;
const HEADERS_MAX: usize = 64;
/// A peer that takes nothing of its answer for this long is cut.
const WRITE_STALL: Duration = Duration::from_secs(10);
/// How long accepting pauses when the process has no file descriptor left: the next try would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `listener`, one of the machine's, until `shutdown` is cancelled; then takes no new connection, answers what
/// has begun, closes what idles, and returns. What is still there after the request timeout is cut: a peer that reads
/// slowly does not stall, and could make a stop wait for ever.
pub async fn serve(listener: Listener, state: Arc<HttpState>, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(usize::try_from(state.config.connections).unwrap_or(Semaphore::MAX_PERMITS)));
    let connections = TaskTracker::new();
    let abort = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((Socket::Tcp(stream), peer)) => match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => {
                    let connection = connection(stream, place, Arc::clone(&state), shutdown.clone());
                    let abort = abort.clone();
                    connections.spawn(async move {
                        tokio::select! {
                            biased;
                            () = abort.cancelled() => {}
                            () = connection => {}
                        }
                    });
                }
                Err(_) => tracing::debug!(%peer, "refused an HTTP connection: `http.connections` are open"),
            },
            Ok((Socket::Supplied(..), peer)) => {
                tracing::debug!(%peer, "HTTP is served on the machine's own sockets only");
            }
            Err(error) if is_about_the_peer(&error) => tracing::debug!(%error, "an HTTP connection failed in accept"),
            Err(error) => {
                tracing::warn!(%error, "accepting HTTP connections fails");
                tokio::select! {
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    () = shutdown.cancelled() => break,
                }
            }
        }
    }
    drop(listener);
    connections.close();
    if Deadline::after(state.config.request_timeout).limit(connections.wait()).await.is_none() {
        tracing::warn!(connections = connections.len(), "cutting off HTTP clients that are still there");
        abort.cancel();
        connections.wait().await;
    }
}

fn is_about_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// One connection from accept to close. `_place` is free again when it ends, however it ends.
async fn connection(
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    state: Arc<HttpState>,
    shutdown: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "an HTTP connection keeps its small writes waiting");
    }
    let header_timeout = state.config.header_timeout;
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(exchange::answer(&state, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(StallLimit::new(TokioIo::new(stream), WRITE_STALL), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Peers that vanish, stall or send no HTTP: nothing a human here could act on.
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}
