//! What the process is asked by signals.

use std::io::{self, IsTerminal};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// To stop.
    Stop,
    /// To read the configuration again.
    Reload,
}

/// SIGINT, SIGTERM and SIGHUP.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    had_terminal: bool,
}

impl Signals {
    /// From now on these signals are answered here.
    pub(super) fn listen() -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::failed(format!("listening for signals failed: {error}"));
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            hang_up: signal(SignalKind::hangup()).map_err(failed)?,
            had_terminal: io::stdin().is_terminal(),
        })
    }

    /// The next thing asked for.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hang_up.recv() => hang_up_means(self.had_terminal, io::stdin().is_terminal()),
        }
    }

    /// Waits until it is asked to stop. There is nothing to reload then: what else is asked is left alone.
    pub(super) async fn stop(&mut self) {
        while self.next().await != Asked::Stop {}
    }
}

/// The terminal that closes sends the same signal as an administrator: a broker that was started in one ends with it and
/// does not live on unseen.
fn hang_up_means(had_terminal: bool, has_terminal: bool) -> Asked {
    if had_terminal && !has_terminal { Asked::Stop } else { Asked::Reload }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_the_own_terminal_stops() {
        assert_eq!(hang_up_means(true, false), Asked::Stop);
        for (had, has) in [(true, true), (false, false), (false, true)] {
            assert_eq!(hang_up_means(had, has), Asked::Reload, "had {had}, has {has}");
        }
    }
}
