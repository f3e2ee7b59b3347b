//! The writing task of a connection: writes what is queued, many frames in one system call, and asks sources for frames
//! only when they can be written at once.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use streambus_protocol::api::{ApiKey, encode_request};
use streambus_protocol::frame::EncodedFrame;
use streambus_protocol::ids::CorrelationId;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::connection::call_error::CallError;
use crate::connection::connector::TransportWriter;
use crate::connection::in_flight::Reply;
use crate::connection::outbox::{FrameSource, Outgoing, Pulled};
use crate::connection::{Shared, millis_for_answer};

/// Bytes collected for one round of writing: more would only delay what is queued behind.
const ROUND_BYTES: usize = 1024 * 1024;
/// Slices handed to one vectored write; Linux takes at most 1024.
const SLICES_MAX: usize = 64;

/// Writes until the connection ends; returns why.
pub(super) async fn run(shared: &Arc<Shared>, mut transport: TransportWriter) -> CallError {
    let mut round = Round::default();
    let mut sources: VecDeque<Arc<dyn FrameSource>> = VecDeque::new();
    let outcome = loop {
        collect(shared, &mut round, &mut sources);
        let step = if round.chunks.is_empty() {
            wait(shared, !sources.is_empty()).await
        } else {
            // A broker that stopped reading must not keep this task when the reader has given the connection up.
            tokio::select! {
                written = round.write(&mut transport) => written,
                () = shared.ended.cancelled() => Ok(()),
            }
        };
        if let Err(source) = step {
            break CallError::Io { source: Arc::new(source), sent: true };
        }
        if shared.ended.is_cancelled() {
            break CallError::Closed;
        }
    };
    // Those that wait for a permit are not in the outbox: they are told here.
    shared.end(outcome.clone());
    sources.into_iter().for_each(FrameSource::disconnected);
    outcome
}

/// Fills the round from the outbox and the sources.
fn collect(shared: &Shared, round: &mut Round, sources: &mut VecDeque<Arc<dyn FrameSource>>) {
    while round.bytes < ROUND_BYTES {
        match shared.outbox.pop() {
            Some(Outgoing::Frame(frame)) => round.push(frame),
            Some(Outgoing::Source(source)) => sources.push_back(source),
            None => break,
        }
    }
    while round.bytes < ROUND_BYTES {
        let Some(source) = sources.pop_front() else { break };
        let Ok(permit) = Arc::clone(&shared.permits).try_acquire_owned() else {
            sources.push_front(source);
            break;
        };
        if let Some(pulled) = Arc::clone(&source).pull(shared.frame_bytes_max) {
            emit(shared, round, pulled, permit);
            sources.push_back(source);
        }
    }
}

fn emit(shared: &Shared, round: &mut Round, pulled: Pulled, permit: OwnedSemaphorePermit) {
    let Pulled { request, deadline, reply } = pulled;
    let correlation = match reply {
        None => Ok(CorrelationId::new(0)),
        Some(reply) => shared.in_flight.lock().insert(ApiKey::Produce, deadline, Reply::Callback(reply), Some(permit)),
    };
    match correlation {
        Ok(correlation) => {
            let frame = encode_request(&request, correlation, millis_for_answer(deadline, Instant::now()));
            round.push(frame);
        }
        Err((reason, reply)) => reply.give(Err(super::before_sending(reason))),
    }
}

/// Waits for something to write; with sources waiting, a free permit will do.
async fn wait(shared: &Shared, starved: bool) -> io::Result<()> {
    tokio::select! {
        () = shared.outbox.filled() => {}
        () = shared.ended.cancelled() => {}
        _permit = Arc::clone(&shared.permits).acquire_owned(), if starved => {}
    }
    Ok(())
}

#[derive(Default)]
struct Round {
    chunks: VecDeque<Bytes>,
    bytes: usize,
}

impl Round {
    fn push(&mut self, frame: EncodedFrame) {
        for chunk in frame.into_chunks() {
            self.bytes += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    async fn write(&mut self, transport: &mut TransportWriter) -> io::Result<()> {
        let vectored = transport.is_write_vectored();
        while !self.chunks.is_empty() {
            let written = if vectored {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let mut used = 0;
                for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
                    *slice = IoSlice::new(chunk);
                    used += 1;
                }
                transport.write_vectored(slices.get(..used).unwrap_or_default()).await?
            } else {
                let first = self.chunks.front().map(|chunk| &chunk[..]).unwrap_or_default();
                transport.write(first).await?
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.advance(written);
        }
        self.bytes = 0;
        transport.flush().await
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(chunk) = self.chunks.front_mut() {
            if chunk.len() > written {
                chunk.advance(written);
                return;
            }
            written -= chunk.len();
            self.chunks.pop_front();
        }
    }
}
