//! The reading task of a connection: cuts frames, hands answers and pushes to whom they belong, ends requests whose time
//! is over, and asks a silent broker for a sign of life.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use streambus_protocol::api::session::HealthRequest;
use streambus_protocol::api::{ApiKey, decode_error, encode_request};
use streambus_protocol::frame::{Flags, Frame, FrameDecoder};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, MissedTickBehavior};

use crate::connection::call_error::CallError;
use crate::connection::connector::TransportReader;
use crate::connection::in_flight::{Callback, Push, Reply};
use crate::connection::outbox::Outgoing;
use crate::connection::{ConnectionSettings, Shared, millis_until};

/// The reading half with what it has read so far.
pub(super) struct Reader {
    transport: TransportReader,
    decoder: FrameDecoder,
    buffer: BytesMut,
}

impl Reader {
    pub(super) fn new(transport: TransportReader, decoder: FrameDecoder, buffer: BytesMut) -> Self {
        Self { transport, decoder, buffer }
    }

    /// Reads until the connection ends; returns why.
    pub(super) async fn run(mut self, shared: &Shared) -> CallError {
        let mut pulse = Pulse::new(&shared.settings, Instant::now());
        let mut tick = tokio::time::interval(pulse.period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            loop {
                let next = match self.decoder.decode(&mut self.buffer) {
                    Ok(Some(frame)) => dispatch(shared, frame),
                    Ok(None) => break,
                    Err(error) => Err(CallError::Protocol(error.to_string())),
                };
                if let Err(reason) = next {
                    return reason;
                }
            }
            self.buffer.reserve(self.decoder.read_reserve(&self.buffer));
            tokio::select! {
                biased;
                () = shared.ended.cancelled() => return CallError::Closed,
                read = self.transport.read_buf(&mut self.buffer) => match read {
                    Ok(0) => return CallError::io(io::ErrorKind::UnexpectedEof, "closed by the broker", true),
                    Ok(_) => pulse.heard = Instant::now(),
                    Err(source) => return CallError::Io { source: Arc::new(source), sent: true },
                },
                now = tick.tick() => if let Err(reason) = check(shared, &mut pulse, now) {
                    return reason;
                },
            }
        }
    }
}

/// Hands one frame to whom it belongs.
fn dispatch(shared: &Shared, frame: Frame) -> Result<(), CallError> {
    let header = frame.header;
    if header.flags.contains(Flags::PUSH) {
        let to =
            shared.in_flight.lock().pushed(header.correlation, frame.payload.len()).map_err(CallError::Protocol)?;
        if let Some(pushes) = to {
            // A consumer that has gone needs no data.
            let _ = pushes.to.send(Push { tag: pushes.tag, content: Ok(frame) });
        }
        return Ok(());
    }
    if !header.flags.contains(Flags::RESPONSE) {
        return Err(CallError::Protocol("a request from a broker".to_owned()));
    }
    // Bound first: the lock must not be held while the reply runs.
    let answered = shared.in_flight.lock().answered(header.correlation, header.api);
    match answered {
        Ok(Some(reply)) => {
            reply.give(Ok(frame));
            Ok(())
        }
        Ok(None) => Ok(()),
        Err(reason) if header.flags.contains(Flags::ERROR) => match decode_error(&frame) {
            // How a broker says why it closes, for instance after a one-way request that it refused.
            Ok(body) => Err(CallError::Protocol(format!("the broker gave up the connection: {body}"))),
            Err(_) => Err(CallError::Protocol(reason)),
        },
        Err(reason) => Err(CallError::Protocol(reason)),
    }
}

/// When the broker was last heard, and whether it was asked for a sign of life.
struct Pulse {
    period: Duration,
    heard: Instant,
    asked: Option<Instant>,
}

impl Pulse {
    fn new(settings: &ConnectionSettings, now: Instant) -> Self {
        let finest = settings.ping_timeout.min(settings.ping_interval).min(settings.request_timeout) / 4;
        Self { period: finest.clamp(Duration::from_millis(10), Duration::from_millis(250)), heard: now, asked: None }
    }
}

/// The periodic duties.
fn check(shared: &Shared, pulse: &mut Pulse, now: Instant) -> Result<(), CallError> {
    let expired = shared.in_flight.lock().expire(now);
    expired.late.into_iter().for_each(|reply| reply.give(Err(CallError::TimedOut)));
    if let Some(owed) = expired.owed {
        let text = format!("an answer is owed for {owed:?}");
        return Err(CallError::io(io::ErrorKind::TimedOut, &text, true));
    }
    let settings = &shared.settings;
    let waits = pulse.asked.filter(|asked| pulse.heard < *asked);
    let overdue = waits.is_some_and(|asked| now.saturating_duration_since(asked) >= settings.ping_timeout / 3);
    shared.suspect.store(overdue, Ordering::Relaxed);
    match pulse.asked {
        Some(asked) if pulse.heard >= asked => pulse.asked = None,
        Some(asked) if now.saturating_duration_since(asked) >= settings.ping_timeout => {
            return Err(CallError::io(io::ErrorKind::TimedOut, "no sign of life from the broker", true));
        }
        Some(_) => {}
        None if now.saturating_duration_since(pulse.heard) >= settings.ping_interval => {
            ask_for_sign_of_life(shared, now);
            pulse.asked = Some(now);
        }
        None => {}
    }
    Ok(())
}

/// Sends a health request past the in-flight limit: a full pipeline must not hide a dead broker. Any byte that comes
/// back counts as the sign, so the answer itself is dropped.
fn ask_for_sign_of_life(shared: &Shared, now: Instant) {
    let deadline = now + shared.settings.ping_timeout;
    let reply = Reply::Callback(Callback::new(|_outcome| {}));
    if let Ok(correlation) = shared.in_flight.lock().insert(ApiKey::Health, deadline, reply, None) {
        let frame = encode_request(&HealthRequest {}, correlation, millis_until(deadline, now));
        // An ended connection needs no sign of life.
        let _ = shared.outbox.push(Outgoing::Frame(frame));
    }
}
