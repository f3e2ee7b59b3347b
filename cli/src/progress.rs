//! A progress line for people: only when one watches standard error, and never in the way of data.

use std::fmt::Write as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::clock::Elapsed;
use crate::terminal;

/// The least time between two drawings.
const REDRAW_INTERVAL: Duration = Duration::from_millis(100);

/// Counts of a transfer so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Records acknowledged or received.
    pub records: u64,
    /// Bytes of keys and values in them.
    pub payload_bytes: u64,
    /// Bytes of input read.
    pub input_bytes: u64,
    /// Records that failed.
    pub errors: u64,
    /// The 99th percentile of acknowledgement time, when it is measured.
    pub p99: Option<Duration>,
}

/// A progress line; does nothing when nobody watches.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    started: Elapsed,
    drawn: Duration,
}

impl Progress {
    /// Starts a line. `total_bytes` is the size of the input when it is known: then there is a bar and an ETA.
    pub fn start(quiet: bool, total_bytes: Option<u64>) -> Self {
        Self::titled(quiet, "", total_bytes)
    }

    /// Starts a line that says what is going on; `total` is where [`Counts::input_bytes`] will end, when it is known.
    pub fn titled(quiet: bool, title: &'static str, total: Option<u64>) -> Self {
        let started = Elapsed::start();
        let bar = (!quiet && terminal::stderr_is_terminal()).then(|| {
            let bar = match total {
                Some(total) => ProgressBar::new(total),
                None => ProgressBar::no_length(),
            };
            bar.set_draw_target(ProgressDrawTarget::stderr());
            let template = match (title, total) {
                ("", Some(_)) => "[{bar:20.=>-}] {percent:>3}%  {msg}  ETA {eta}",
                ("", None) => "{spinner} {msg}",
                (_, Some(_)) => "{prefix} [{bar:20.=>-}] {percent:>3}%  {msg}  ETA {eta}",
                (_, None) => "{spinner} {prefix}  {msg}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=>-"));
            }
            bar.set_prefix(title);
            bar
        });
        Self { bar, started, drawn: Duration::ZERO }
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.get()
    }

    /// True when it is time to draw again and somebody watches; cheap enough for every few hundred records.
    pub fn is_due(&self) -> bool {
        self.bar.is_some() && self.started.get().saturating_sub(self.drawn) >= REDRAW_INTERVAL
    }

    /// Draws `counts`.
    pub fn draw(&mut self, counts: &Counts) {
        self.drawn = self.started.get();
        if let Some(bar) = &self.bar {
            bar.set_message(line(counts, self.drawn));
            bar.set_position(counts.input_bytes);
        }
    }

    /// Removes the line, so that what follows starts on a clean one.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// One line that says how far something is. On a terminal it is drawn over; elsewhere a line is written whenever it
/// changes, so that a log shows the progress too.
#[derive(Debug)]
pub struct Status {
    quiet: bool,
    bar: Option<ProgressBar>,
    shown: String,
}

impl Status {
    /// Says nothing when `quiet`.
    pub fn start(quiet: bool) -> Self {
        let bar = (!quiet && terminal::stderr_is_terminal()).then(|| {
            let bar = ProgressBar::no_length();
            bar.set_draw_target(ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { quiet, bar, shown: String::new() }
    }

    /// Shows `text`.
    pub fn show(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(text.to_owned());
                bar.tick();
            }
            None if !self.quiet && self.shown != text => terminal::note(text),
            None => {}
        }
        text.clone_into(&mut self.shown);
    }

    /// Removes the line, so that what follows starts on a clean one.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// `records  rec/s  MB/s  p99  errors`, as the progress line and the summary show it.
pub fn line(counts: &Counts, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let mut text = format!(
        "{} records  {} rec/s  {:.1} MB/s",
        crate::table::grouped(counts.records),
        rate_shown(counts.records as f64 / seconds),
        counts.payload_bytes as f64 / 1e6 / seconds,
    );
    if let Some(p99) = counts.p99 {
        let _infallible = write!(text, "  p99 {:.1} ms", p99.as_secs_f64() * 1e3);
    }
    let _infallible = write!(text, "  errors {}", counts.errors);
    text
}

fn rate_shown(per_second: f64) -> String {
    if per_second >= 1e6 {
        format!("{:.2}M", per_second / 1e6)
    } else if per_second >= 1e4 {
        format!("{:.1}k", per_second / 1e3)
    } else {
        format!("{per_second:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_rate_latency_and_errors() {
        let counts = Counts {
            records: 620_118,
            payload_bytes: 620_118_000,
            input_bytes: 0,
            errors: 2,
            p99: Some(Duration::from_micros(6_100)),
        };
        assert_eq!(
            line(&counts, Duration::from_secs(10)),
            "620,118 records  62.0k rec/s  62.0 MB/s  p99 6.1 ms  errors 2"
        );
    }
}
