//! The last stage of producing: acknowledgements in the order of the input, positions, counts, the summary.

use streambus_bench::latency::Latencies;
use streambus_client::{Delivery, Error, Position};
use tokio::sync::{mpsc, watch};

use super::{FAILURES_TOLD, InputEnd, ProduceArgs, SentChunk};
use crate::args::Global;
use crate::failure::{Exit, Failure};
use crate::format::print::{print_signed, print_unsigned};
use crate::output::{Output, OutputMode};
use crate::progress::{Counts, Progress, line};
use crate::{session, terminal};

/// Awaits the acknowledgements in the order of the input, prints and counts.
pub(super) struct Reporter {
    positions: Positions,
    output: Output,
    progress: Progress,
    latencies: Latencies,
    counts: Counts,
    unknown: u64,
    unit: &'static str,
    quiet: bool,
    /// Raised when every later record would fare as badly, so that nothing more is read.
    stop: watch::Sender<bool>,
    line: Vec<u8>,
}

/// How positions are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Positions {
    Silent,
    Text,
    Json,
}

impl Reporter {
    pub(super) fn new(global: &Global, args: &ProduceArgs, stop: watch::Sender<bool>) -> Self {
        let positions = match global.output {
            Some(mode) if mode.is_json() => Positions::Json,
            Some(OutputMode::Wide | OutputMode::Name) => Positions::Text,
            _ if global.verbose > 0 => Positions::Text,
            _ => Positions::Silent,
        };
        Self {
            positions,
            output: Output::stdout(),
            progress: Progress::start(global.quiet, terminal::stdin_file_bytes()),
            latencies: Latencies::new(),
            counts: Counts::default(),
            unknown: 0,
            unit: if args.format.ends_with("\\n") { "line" } else { "record" },
            quiet: global.quiet,
            stop,
            line: Vec::new(),
        }
    }

    pub(super) async fn run(mut self, mut sent: mpsc::Receiver<SentChunk>) -> Result<Self, Failure> {
        while let Some(chunk) = sent.recv().await {
            for (number, payload, outcome) in chunk.deliveries {
                let outcome = match outcome {
                    Ok(delivery) => self.wait_for(delivery).await?,
                    Err(error) => Err(error),
                };
                match outcome {
                    Ok(position) => {
                        self.counts.records += 1;
                        self.counts.payload_bytes += u64::try_from(payload).unwrap_or(0);
                        self.print(&position)?;
                    }
                    Err(error) => self.count_failure(number, &error),
                }
            }
            self.latencies.record(chunk.enqueued.get());
            self.counts.input_bytes = chunk.bytes_read;
            if self.progress.is_due() {
                self.counts.p99 = Some(self.latencies.at(0.99));
                self.progress.draw(&self.counts);
            }
            if sent.is_empty() {
                self.output.finish()?;
            }
        }
        self.output.finish()?;
        Ok(self)
    }

    /// Awaits one acknowledgement. Positions that are known already must not wait in a buffer meanwhile.
    async fn wait_for(&mut self, delivery: Delivery) -> Result<Result<Position, Error>, Failure> {
        let mut delivery = std::pin::pin!(delivery);
        tokio::select! {
            biased;
            outcome = &mut delivery => return Ok(outcome),
            () = std::future::ready(()) => {}
        }
        if self.positions != Positions::Silent {
            self.output.finish()?;
        }
        Ok(delivery.await)
    }

    fn print(&mut self, position: &Position) -> Result<(), Failure> {
        let line = &mut self.line;
        line.clear();
        match self.positions {
            Positions::Silent => return Ok(()),
            Positions::Text => {
                line.extend_from_slice(position.topic.as_str().as_bytes());
                line.push(b' ');
                print_unsigned(u64::from(position.partition), line);
                line.push(b' ');
                match position.offset {
                    Position::OFFSET_UNKNOWN => line.push(b'-'),
                    offset => print_unsigned(offset, line),
                }
            }
            Positions::Json => {
                // A topic's name needs no escaping: letters, digits, '.', '_' and '-'.
                line.extend_from_slice(b"{\"topic\":\"");
                line.extend_from_slice(position.topic.as_str().as_bytes());
                line.extend_from_slice(b"\",\"partition\":");
                print_unsigned(u64::from(position.partition), line);
                line.extend_from_slice(b",\"offset\":");
                match position.offset {
                    Position::OFFSET_UNKNOWN => line.extend_from_slice(b"null"),
                    offset => print_unsigned(offset, line),
                }
                line.extend_from_slice(b",\"timestamp\":");
                print_signed(position.timestamp.as_millis(), line);
                line.extend_from_slice(b",\"replicas\":");
                print_unsigned(u64::from(position.receipt.replicas), line);
                line.extend_from_slice(b",\"durable\":");
                print_unsigned(u64::from(position.receipt.durable), line);
                line.push(b'}');
            }
        }
        line.push(b'\n');
        self.output.bytes(&self.line)
    }

    fn count_failure(&mut self, number: u64, error: &Error) {
        self.counts.errors += 1;
        self.unknown += u64::from(error.is_outcome_unknown());
        if self.counts.errors <= FAILURES_TOLD {
            self.progress.clear();
            terminal::note(&format!("{} {number} was not sent: {error}", self.unit));
        }
        // What is wrong with one record says nothing about the next; anything else would hit them all.
        if !matches!(error, Error::RecordTooLarge { .. } | Error::Invalid { .. } | Error::UnknownPartition { .. }) {
            self.stop.send_replace(true);
        }
    }

    /// The summary, and how it ends.
    pub(super) fn finish(
        mut self,
        global: &Global,
        ended: InputEnd,
        stopped_at: Option<u64>,
        closed: Result<(), Error>,
    ) -> Result<Exit, Failure> {
        let elapsed = self.progress.elapsed();
        self.progress.clear();
        if self.latencies.percentiles().count > 0 {
            self.counts.p99 = Some(self.latencies.at(0.99));
        }
        let interesting =
            terminal::stderr_is_terminal() || global.verbose > 0 || self.counts.errors > 0 || ended.skipped > 0;
        if !self.quiet && interesting {
            let skipped = if ended.skipped > 0 { format!("  skipped {}", ended.skipped) } else { String::new() };
            terminal::note(&format!("sent {}{skipped}", line(&self.counts, elapsed)));
        }
        if self.counts.errors > 0 {
            let mut what = format!(
                "{} record(s) were not acknowledged: {} failed, {} unknown (they may have been stored)",
                self.counts.errors,
                self.counts.errors - self.unknown,
                self.unknown
            );
            if let Some(number) = stopped_at {
                what.push_str(&format!("; nothing after {} {number} was sent", self.unit));
            }
            return Err(Failure::failed(what));
        }
        if let Some(failure) = ended.failure {
            let sent = self.counts.records;
            return Err(Failure {
                what: format!("{} ({sent} record(s) before it were sent)", failure.what),
                ..failure
            });
        }
        closed.map_err(|error| session::from_client(&error))?;
        Ok(Exit::Ok)
    }
}
