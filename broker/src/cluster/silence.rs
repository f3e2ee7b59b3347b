//! How long a connection has kept its callers waiting without a single byte. Pure.
//!
//! A connection of which only one direction passes stays open for ever: what is sent is confirmed by the other machine,
//! or by whatever stands between. Only a new connection, which needs both directions, can tell; and it mends the case in
//! which something in between has forgotten the old one.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A connection with a request that was given up is broken off when nothing at all has come for this long since it, or an
/// earlier one, was sent: as long as for bytes that the other machine does not confirm.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(3);

/// One connection's silence. `arrived` is how many bytes have come on it in all.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    /// When the first request was sent that nothing has come after, and what had come by then.
    asked: Mutex<Option<(Instant, u64)>>,
}

impl Silence {
    /// A request goes out that wants an answer.
    pub(crate) fn ask(&self, arrived: u64, now: Instant) {
        let mut asked = self.asked.lock();
        if asked.is_none_or(|(_, before)| before != arrived) {
            *asked = Some((now, arrived));
        }
    }

    /// True when a request has been out for [`SILENCE_MAX`] and nothing has come since. To be asked when a caller gave up:
    /// one that is patient may know why.
    pub(crate) fn is_too_long(&self, arrived: u64, now: Instant) -> bool {
        let asked = *self.asked.lock();
        asked.is_some_and(|(at, before)| before == arrived && now.saturating_duration_since(at) >= SILENCE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Catches a slow answer, or one large answer on its way, that is taken for a dead connection, and a dead connection
    // that later requests keep alive.
    #[test]
    fn only_a_request_after_which_nothing_came_counts() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let silence = Silence::default();
        assert!(!silence.is_too_long(0, at(60_000)), "nothing was asked");
        silence.ask(10, at(0));
        silence.ask(10, at(2_900));
        assert!(!silence.is_too_long(10, at(2_999)));
        assert!(silence.is_too_long(10, at(3_000)), "the first one counts");
        assert!(!silence.is_too_long(11, at(60_000)), "a byte has come");
        silence.ask(11, at(60_000));
        assert!(!silence.is_too_long(11, at(62_999)));
        assert!(silence.is_too_long(11, at(63_000)));
    }
}
