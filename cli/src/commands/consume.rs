//! `streambus consume TOPIC`: records to standard output, by a format or as JSON lines.
//!
//! Records of one partition come in their order; partitions interleave as they arrive.

use std::collections::BTreeMap;
use std::str::FromStr;

use clap::Args;
use streambus_client::{Client, ConsumedRecord, Consumer, Start, TopicPartition};
use streambus_protocol::api::offsets::OffsetQuery;
use streambus_protocol::ids::TopicName;
use streambus_protocol::timestamp::Timestamp;

use crate::args::Global;
use crate::failure::{Exit, Failure};
use crate::format::print::{RecordView, print_json};
use crate::format::template::Template;
use crate::output::{Output, OutputMode};
use crate::progress::{Counts, Progress, line};
use crate::{clock, instant, session, terminal};

/// Records asked for at a time.
const POLL_RECORDS: usize = 10_000;
/// How long a request for records may wait: the time after which what is buffered is looked at again.
const POLL_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

/// Options of `consume`.
#[derive(Debug, Args)]
pub struct ConsumeArgs {
    /// The topics
    #[arg(required = true, value_name = "TOPIC")]
    pub topics: Vec<String>,
    /// How a record is printed: %k key, %v value, %t topic, %p partition, %o offset, %T time, %h headers, %K %V lengths;
    /// %v{hex} %v{base64} %T{iso}; \n \t \\ [default: '%v\n', or JSON with -o json]
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Stop at what is the end of each partition when the command starts, instead of waiting for more
    #[arg(short, long)]
    pub exit_at_end: bool,
    /// Stop after this many records
    #[arg(short = 'n', long, value_name = "N")]
    pub count: Option<u64>,
    /// Where to start: beginning, end, an offset N or offset:N, -N (N before the end of each partition), time:T or an
    /// age such as 1h
    #[arg(long, default_value = "beginning", allow_hyphen_values = true, value_name = "START")]
    pub from: StartAt,
    /// Stop before the first record at or after this time, or at offset:N
    #[arg(long, value_name = "STOP")]
    pub until: Option<StopAt>,
    /// Only this partition; repeatable
    #[arg(short, long, value_name = "P")]
    pub partition: Vec<u32>,
    /// Where this machine stands: read from a replica in sync in that rack, if there is one, instead of the leader
    #[arg(long, value_name = "RACK")]
    pub rack: Option<String>,
}

/// Where to start in each partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// The first record that is still there.
    Beginning,
    /// Only what arrives from now on.
    End,
    /// An offset.
    Offset(u64),
    /// This many offsets before the end.
    Last(u64),
    /// A time, as written.
    Time(String),
}

impl FromStr for StartAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let help =
            || "write beginning, end, an offset, -N for the last N, time:2026-11-20T08:00Z, or an age such as 1h";
        match text {
            "beginning" | "earliest" | "start" => return Ok(Self::Beginning),
            "end" | "latest" => return Ok(Self::End),
            _ => {}
        }
        if let Some(offset) = text.strip_prefix("offset:") {
            return offset.parse().map(Self::Offset).map_err(|_| help().to_owned());
        }
        if let Some(time) = text.strip_prefix("time:") {
            instant::parse(time, 0).map_err(|error| error.to_string())?;
            return Ok(Self::Time(time.to_owned()));
        }
        if let Ok(offset) = text.parse() {
            return Ok(Self::Offset(offset));
        }
        if let Some(Ok(count)) = text.strip_prefix('-').map(str::parse) {
            return Ok(Self::Last(count));
        }
        instant::parse(text, 0).map(|_| Self::Time(text.to_owned())).map_err(|_| help().to_owned())
    }
}

/// Where to stop in each partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopAt {
    /// Before this offset.
    Offset(u64),
    /// Before the first record at or after this time, as written.
    Time(String),
}

impl FromStr for StopAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(offset) = text.strip_prefix("offset:") {
            return offset.parse().map(Self::Offset).map_err(|_| "write offset:N".to_owned());
        }
        let time = text.strip_prefix("time:").unwrap_or(text);
        instant::parse(time, 0).map_err(|error| error.to_string())?;
        Ok(Self::Time(time.to_owned()))
    }
}

/// How records are written.
enum Form {
    Template(Template),
    Json,
}

/// Prints records until the end that was asked for.
pub fn run(global: &Global, args: &ConsumeArgs) -> Result<Exit, Failure> {
    let form = match (&args.format, global.output) {
        (None, Some(mode)) if mode.is_json() => Form::Json,
        (Some(_), Some(mode)) if mode.is_json() => {
            return Err(Failure::usage("-f and -o json say two different things").next("leave one of them out"));
        }
        (Some(format), _) => Form::Template(template(format)?),
        (None, Some(OutputMode::Wide)) => Form::Template(template("%t/%p %o %T{iso} %k => %v\\n")?),
        (None, Some(OutputMode::Name)) => Form::Template(template("%t/%p/%o\\n")?),
        (None, _) => Form::Template(template("%v\\n")?),
    };
    session::block_on(consume(global, args, &form))
}

fn template(format: &str) -> Result<Template, Failure> {
    Template::parse(format).map_err(|error| Failure::usage(error.to_string()))
}

async fn consume(global: &Global, args: &ConsumeArgs, form: &Form) -> Result<Exit, Failure> {
    if args.count == Some(0) {
        return Ok(Exit::Ok);
    }
    let now = clock::now_ms();
    let mut config = session::client_config(global);
    if let Some(rack) = &args.rack {
        config = config.rack(rack);
    }
    let client = session::connect_with(global, config).await?;
    for topic in &args.topics {
        session::check_partitions(&client, topic, &args.partition).await?;
    }
    let mut builder = client.consumer(args.topics.iter().map(String::as_str)).from(match &args.from {
        StartAt::Beginning => Start::Earliest,
        StartAt::End => Start::Latest,
        StartAt::Offset(offset) => Start::Offset(*offset),
        StartAt::Last(count) => Start::Tail(*count),
        StartAt::Time(text) => Start::Time(Timestamp::from_millis(time(text, now)?)),
    });
    if !args.partition.is_empty() {
        builder = builder.partitions(args.partition.iter().copied());
    }
    if args.exit_at_end {
        builder = builder.until_end();
    }
    let mut consumer = builder.start().await.map_err(|error| session::from_client(&error))?;
    let mut limits = match &args.until {
        None => None,
        Some(until) => Some(Limits::find(&client, args, until, now).await?),
    };
    if let Some(limits) = &mut limits {
        limits.drop_reached(&consumer);
    }
    let mut printer = Printer::new(global, form);
    let mut left = args.count.unwrap_or(u64::MAX);
    'records: while !limits.as_ref().is_some_and(Limits::all_reached) {
        let batch = consumer.next_batch(POLL_RECORDS, POLL_WAIT).await.map_err(|error| session::from_client(&error))?;
        for record in batch {
            if limits.as_mut().is_some_and(|limits| !limits.admit(&record)) {
                continue;
            }
            printer.print(&record)?;
            left -= 1;
            if left == 0 {
                break 'records;
            }
        }
        // What has come is shown before more is waited for.
        printer.flush()?;
        if args.exit_at_end && consumer.is_ended() {
            break;
        }
    }
    printer.finish(global)
}

fn time(text: &str, now_ms: i64) -> Result<i64, Failure> {
    instant::parse(text, now_ms).map_err(|error| Failure::usage(error.to_string()))
}

/// Where each partition ends. Records come in runs of one partition, so the last answer is kept.
struct Limits {
    open: BTreeMap<TopicPartition, u64>,
    last: Option<(TopicPartition, u64)>,
}

impl Limits {
    /// The offsets at which `until` says to stop.
    async fn find(client: &Client, args: &ConsumeArgs, until: &StopAt, now_ms: i64) -> Result<Self, Failure> {
        let mut open = BTreeMap::new();
        let query = match until {
            StopAt::Offset(_) => OffsetQuery::Latest,
            StopAt::Time(text) => {
                let millis = time(text, now_ms)?;
                if millis > now_ms {
                    return Err(Failure::usage(format!("--until {text} is in the future"))
                        .next("name a time that has passed, or use -e, -n or no end"));
                }
                // Without such a record the answer is the end of the log, which is the right place to stop too.
                OffsetQuery::At(Timestamp::from_millis(millis))
            }
        };
        for topic in &args.topics {
            let name = TopicName::new(topic).map_err(|error| Failure::usage(error.to_string()))?;
            for found in session::offsets(client, topic, &args.partition, query).await? {
                let end = match until {
                    StopAt::Offset(offset) => *offset,
                    StopAt::Time(_) => found.offset,
                };
                open.insert(TopicPartition { topic: name.clone(), partition: found.partition }, end);
            }
        }
        Ok(Self { open, last: None })
    }

    /// A partition that starts at or behind its end gets no record that would say so.
    fn drop_reached(&mut self, consumer: &Consumer) {
        self.open.retain(|at, end| consumer.position(at).is_some_and(|position| position < *end));
    }

    /// True when `record` lies before its partition's end. Notes when the end is reached.
    fn admit(&mut self, record: &ConsumedRecord) -> bool {
        let is_last = |at: &TopicPartition| at.partition == record.partition && at.topic == record.topic;
        let end = match &self.last {
            Some((at, end)) if is_last(at) => *end,
            _ => {
                let at = TopicPartition { topic: record.topic.clone(), partition: record.partition };
                // A partition that is not open has reached its end.
                let end = self.open.get(&at).copied().unwrap_or(0);
                self.last = Some((at, end));
                end
            }
        };
        if record.offset.saturating_add(1) >= end
            && let Some((at, _)) = &self.last
        {
            self.open.remove(at);
        }
        record.offset < end
    }

    fn all_reached(&self) -> bool {
        self.open.is_empty()
    }
}

/// Writes records and counts them.
struct Printer<'a> {
    form: &'a Form,
    output: Output,
    line: Vec<u8>,
    progress: Progress,
    counts: Counts,
}

impl<'a> Printer<'a> {
    fn new(global: &Global, form: &'a Form) -> Self {
        // On a terminal the records themselves show that something happens.
        let quiet = global.quiet || terminal::stdout_is_terminal();
        Self {
            form,
            output: Output::stdout(),
            line: Vec::with_capacity(64 * 1024),
            progress: Progress::start(quiet, None),
            counts: Counts::default(),
        }
    }

    fn print(&mut self, record: &ConsumedRecord) -> Result<(), Failure> {
        // Almost no record has headers, and an empty vector takes no memory.
        let headers: Vec<(&[u8], Option<&[u8]>)> =
            record.headers.iter().map(|header| (header.key.as_ref(), header.value.as_deref())).collect();
        let view = RecordView {
            topic: record.topic.as_str(),
            partition: record.partition,
            offset: record.offset,
            timestamp: record.timestamp.as_millis(),
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
        };
        match self.form {
            Form::Template(template) => template.print(&view, &mut self.line),
            Form::Json => print_json(&view, &mut self.line),
        }
        self.counts.records += 1;
        let bytes =
            record.key.as_ref().map_or(0, |key| key.len()) + record.value.as_ref().map_or(0, |value| value.len());
        self.counts.payload_bytes += u64::try_from(bytes).unwrap_or(0);
        if self.line.len() >= 48 * 1024 {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), Failure> {
        self.output.bytes(&self.line)?;
        self.line.clear();
        if self.progress.is_due() {
            self.progress.draw(&self.counts);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.write()?;
        self.output.finish()
    }

    fn finish(mut self, global: &Global) -> Result<Exit, Failure> {
        self.flush()?;
        let elapsed = self.progress.elapsed();
        self.progress.clear();
        if global.verbose > 0 {
            terminal::note(&format!("received {}", line(&self.counts, elapsed)));
        }
        Ok(Exit::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_read_as_people_write_them() {
        for (text, start) in [
            ("beginning", StartAt::Beginning),
            ("end", StartAt::End),
            ("offset:7", StartAt::Offset(7)),
            ("7", StartAt::Offset(7)),
            ("-5", StartAt::Last(5)),
            ("1h", StartAt::Time("1h".into())),
            ("-1h", StartAt::Time("-1h".into())),
            ("time:2026-11-21", StartAt::Time("2026-11-21".into())),
            ("time:1700000000000", StartAt::Time("1700000000000".into())),
        ] {
            assert_eq!(text.parse(), Ok(start), "{text}");
        }
        for bad in ["", "begining", "offset:x", "time:soon", "--5"] {
            assert!(bad.parse::<StartAt>().is_err(), "{bad}");
        }
    }

    #[test]
    fn stops_are_offsets_or_times() {
        assert_eq!("offset:7".parse(), Ok(StopAt::Offset(7)));
        assert_eq!("time:now".parse(), Ok(StopAt::Time("now".into())));
        assert!("7x".parse::<StopAt>().is_err());
    }
}
