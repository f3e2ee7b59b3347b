//! What one direction of a link does to what it carries.

use std::fmt;
use std::time::Duration;

/// The state of one direction of a link. The default is a clear sky: everything arrives at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Packets of a thousand that are lost.
    pub lost: u16,
    /// Packets of a thousand that arrive twice.
    pub doubled: u16,
    /// Packets of a thousand that later ones overtake.
    pub overtaken: u16,
    /// How long everything is on its way.
    pub delay: Duration,
    /// How much longer at most, drawn for each packet; the order is kept.
    pub jitter: Duration,
    /// How much passes; nothing limits it when absent.
    pub bytes_per_second: Option<u64>,
}

impl Weather {
    /// True when it needs a network of packets: a stream has none that could be lost.
    pub(super) fn is_of_packets(&self) -> bool {
        self.lost > 0 || self.doubled > 0 || self.overtaken > 0
    }

    /// How long `bytes` keep the link busy.
    pub(super) fn sending_time(&self, bytes: usize) -> Duration {
        match self.bytes_per_second {
            Some(rate) => Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / rate.max(1)),
            None => Duration::ZERO,
        }
    }
}

impl fmt::Display for Weather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return f.write_str("nothing in the way");
        }
        let mut parts = Vec::new();
        for (count, what) in [(self.lost, "lost"), (self.doubled, "doubled"), (self.overtaken, "overtaken")] {
            if count > 0 {
                parts.push(format!("{count} of 1000 packets {what}"));
            }
        }
        if !self.delay.is_zero() || !self.jitter.is_zero() {
            parts.push(format!("{} to {} ms late", self.delay.as_millis(), (self.delay + self.jitter).as_millis()));
        }
        if let Some(rate) = self.bytes_per_second {
            parts.push(format!("{rate} bytes a second"));
        }
        f.write_str(&parts.join(", "))
    }
}
