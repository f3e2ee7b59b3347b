//! Everything that happened in a run, one line each with its simulated time: what the same seed must repeat to the byte.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use streambus_protocol::timestamp::Timestamp;
use streambus_storage::clock::Clock;
use streambus_tests::event::{Event, What};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata, Subscriber};

/// When simulated time begins on the wall clocks of the hosts, in milliseconds since 1970.
const EPOCH_MS: i64 = 1_800_000_000_000;

/// The run's memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace {
    now_us: Arc<AtomicU64>,
    lines: Arc<Mutex<Vec<String>>>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Trace {
    /// Moves simulated time on.
    pub(crate) fn advance_to(&self, elapsed: Duration) {
        self.now_us.store(u64::try_from(elapsed.as_micros()).expect("a short run"), Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> Duration {
        Duration::from_micros(self.now_us())
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.now_us.load(Ordering::Relaxed)
    }

    pub(crate) fn line(&self, who: &str, what: &str) {
        let now = self.now_us();
        self.lines.lock().push(format!("{:>4}.{:03} {who} {what}", now / 1_000_000, now / 1_000 % 1_000));
    }

    /// Remembers `what` for the verdict too.
    pub(crate) fn event(&self, who: &str, what: What) {
        self.line(who, &format!("{what:?}"));
        self.events.lock().push(Event { at_us: self.now_us(), what });
    }

    /// Tells the checker, and not the reader, that a fault is still at work: for it a fault is a moment.
    pub(crate) fn note_unsettled(&self) {
        let at_us = self.now_us();
        let mut events = self.events.lock();
        if !events.last().is_some_and(|event| matches!(event.what, What::Fault { .. })) {
            events.push(Event { at_us, what: What::Fault { what: String::new() } });
        }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().clone()
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().clone()
    }
}

/// A host's clocks: simulated time, and a wall clock that is wrong by an amount of its own.
#[derive(Debug)]
pub(crate) struct HostClock {
    pub(crate) trace: Trace,
    pub(crate) skew_ms: Arc<std::sync::atomic::AtomicI64>,
}

impl Clock for HostClock {
    fn now(&self) -> Timestamp {
        let now_ms = i64::try_from(self.trace.now().as_millis()).expect("a short run");
        Timestamp::from_millis(EPOCH_MS + now_ms + self.skew_ms.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        self.trace.now()
    }
}

/// Puts what the brokers log into the trace. Turmoil says by a span which host runs.
pub(crate) struct LogLines {
    trace: Trace,
    spans: Mutex<BTreeMap<u64, String>>,
    entered: Mutex<Vec<u64>>,
    next: AtomicU64,
}

impl LogLines {
    pub(crate) fn new(trace: Trace) -> Self {
        Self { trace, spans: Mutex::default(), entered: Mutex::default(), next: AtomicU64::new(1) }
    }
}

/// The fields of an event as text.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let end = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            "name" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        end.expect("a string takes everything");
    }
}

impl Subscriber for LogLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_ours = metadata.target().starts_with("streambus_") && *metadata.level() <= Level::DEBUG;
        is_ours || (metadata.is_span() && metadata.name() == "node")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut text = Text::default();
        span.record(&mut text);
        self.spans.lock().insert(id, text.0);
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let spans = self.spans.lock();
        let host = self.entered.lock().last().and_then(|id| spans.get(id).cloned()).unwrap_or_default();
        drop(spans);
        self.trace.line(&host, &format!("{} {}:{}", event.metadata().level(), event.metadata().target(), text.0));
    }

    fn enter(&self, span: &Id) {
        self.entered.lock().push(span.into_u64());
    }

    fn exit(&self, _: &Id) {
        self.entered.lock().pop();
    }

    fn try_close(&self, span: Id) -> bool {
        self.spans.lock().remove(&span.into_u64());
        true
    }
}
