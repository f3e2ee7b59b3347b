//! `streambus produce TOPIC`: standard input to records.
//!
//! Three stages, each bounded: a blocking reader splits the input, this task enqueues, a reporter awaits the
//! acknowledgements in the order of the input. The client's retries carry a running command through broker restarts.

mod record_maker;
mod reporter;

use clap::{Args, ValueEnum};
use streambus_client::{Acks, Compression, Delivery, Error, Partitioner, Producer, ProducerConfig};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};

use self::record_maker::RecordMaker;
use self::reporter::Reporter;
use crate::args::{Global, bytes, duration, key_value};
use crate::clock::Elapsed;
use crate::failure::{Exit, Failure};
use crate::format::input::{InputError, InputReader};
use crate::format::plan::{InputPlan, InputRecord};
use crate::{session, terminal};

/// Records that travel together between the stages.
const CHUNK_RECORDS: usize = 256;
/// Chunks between two stages: enough to keep both busy, small against the client's own buffer.
const CHUNKS_QUEUED: usize = 16;
/// Failures that are told one by one; the rest is counted.
const FAILURES_TOLD: u64 = 10;

/// When a record counts as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AcksArg {
    /// On the disk of every in-sync replica.
    All,
    /// On the leader's disk.
    Leader,
    /// Nobody is asked.
    None,
}

/// Compression of batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompressionArg {
    /// As they are.
    None,
    /// Small and slow.
    Gzip,
    /// Fast.
    Snappy,
    /// Fast.
    Lz4,
    /// Small and fast.
    Zstd,
}

/// Which partition a record goes to when none is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PartitionerArg {
    /// By murmur2 of the key, as Kafka clients do; records without a key stay together for a batch.
    Murmur2,
    /// By a consistent-hash ring, for topics whose partition count will grow.
    Ring,
}

/// Options of `produce`.
#[derive(Debug, Args)]
pub struct ProduceArgs {
    /// The topic; not needed when the format has %t
    pub topic: Option<String>,
    /// How a record is written: %k key, %v value, %t topic, %p partition, %T time, %h headers, %K %V lengths. The last
    /// literal ends a record
    #[arg(short, long, default_value = "%v\\n", value_name = "FORMAT")]
    pub format: String,
    /// When a record counts as sent
    #[arg(long, value_enum, default_value = "all")]
    pub acks: AcksArg,
    /// Compression of batches
    #[arg(short = 'z', long, value_enum, default_value = "none")]
    pub compression: CompressionArg,
    /// A key for every record that has none of its own
    #[arg(short, long)]
    pub key: Option<String>,
    /// Send every record to this partition
    #[arg(short, long)]
    pub partition: Option<u32>,
    /// Which partition a record goes to when none is named
    #[arg(long, value_enum, default_value = "murmur2")]
    pub partitioner: PartitionerArg,
    /// A header for every record; repeatable
    #[arg(short = 'H', long, value_parser = key_value, value_name = "NAME=VALUE")]
    pub header: Vec<(String, String)>,
    /// Send an empty key or value as none
    #[arg(short = 'Z', long)]
    pub null_empty: bool,
    /// Count records that do not fit the format and go on, instead of stopping at the first
    #[arg(long)]
    pub skip_bad: bool,
    /// The largest batch [default: the client's]
    #[arg(long, value_parser = bytes, value_name = "BYTES")]
    pub batch_bytes: Option<u64>,
    /// Wait this long for more records before sending a batch [default: never wait]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub linger: Option<std::time::Duration>,
    /// How long a record is tried before it is given up [default: the client's, 2m]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub delivery_timeout: Option<std::time::Duration>,
}

/// The producer's settings that the options ask for.
pub fn producer_config(
    acks: AcksArg,
    compression: CompressionArg,
    batch_bytes: Option<u64>,
    linger: Option<std::time::Duration>,
) -> ProducerConfig {
    let mut config = ProducerConfig::default().acks(match acks {
        AcksArg::All => Acks::All,
        AcksArg::Leader => Acks::Leader,
        AcksArg::None => Acks::None,
    });
    config = config.compression(match compression {
        CompressionArg::None => Compression::None,
        CompressionArg::Gzip => Compression::Gzip,
        CompressionArg::Snappy => Compression::Snappy,
        CompressionArg::Lz4 => Compression::Lz4,
        CompressionArg::Zstd => Compression::Zstd,
    });
    if let Some(bytes) = batch_bytes {
        config = config.batch_bytes(usize::try_from(bytes).unwrap_or(usize::MAX));
    }
    if let Some(linger) = linger {
        config = config.linger(linger);
    }
    config
}

/// What the reader hands on.
struct InputChunk {
    records: Vec<(u64, InputRecord)>,
    bytes_read: u64,
}

/// What the enqueuer hands on.
struct SentChunk {
    deliveries: Vec<(u64, usize, Result<Delivery, Error>)>,
    enqueued: Elapsed,
    bytes_read: u64,
}

/// How reading the input ended.
#[derive(Default)]
struct InputEnd {
    skipped: u64,
    failure: Option<Failure>,
}

/// Sends standard input.
pub fn run(global: &Global, args: &ProduceArgs) -> Result<Exit, Failure> {
    let plan = InputPlan::new(&args.format, args.null_empty).map_err(|error| Failure::usage(error.to_string()))?;
    session::block_on(produce(global, args, plan))
}

async fn produce(global: &Global, args: &ProduceArgs, plan: InputPlan) -> Result<Exit, Failure> {
    let mut config = session::client_config(global);
    if let Some(timeout) = args.delivery_timeout {
        config = config.delivery_timeout(timeout);
    }
    let client = session::connect_with(global, config).await?;
    if let Some(topic) = &args.topic {
        // A mistyped name is told before the first byte of input is taken.
        if let Err(error) = client.admin().describe_topic(topic).await {
            return Err(session::about_topic(&client, topic, error).await);
        }
    } else if !args.format.contains("%t") {
        return Err(Failure::usage("no topic: name one, or put %t into the format"));
    }
    let settings = producer_config(args.acks, args.compression, args.batch_bytes, args.linger).partitioner(match args
        .partitioner
    {
        PartitionerArg::Murmur2 => Partitioner::Murmur2,
        PartitionerArg::Ring => Partitioner::Ring,
    });
    let producer = client.producer_with(settings).map_err(|error| session::from_client(&error))?;
    if terminal::stdin_is_terminal() && !global.quiet {
        terminal::note("reading records from the terminal; end with Ctrl-D");
    }

    let maker = RecordMaker::new(args)?;
    let (input_sender, input) = mpsc::channel::<InputChunk>(CHUNKS_QUEUED);
    let skip_bad = args.skip_bad;
    let quiet = global.quiet;
    let reading = spawn_blocking(move || read_input(plan, skip_bad, quiet, &input_sender));
    let (sent_sender, sent) = mpsc::channel::<SentChunk>(CHUNKS_QUEUED);
    let mut tasks = JoinSet::new();
    let (stop, mut stopped) = watch::channel(false);
    tasks.spawn(Reporter::new(global, args, stop).run(sent));

    let stopped_at = enqueue(&producer, &maker, input, sent_sender, &mut stopped).await;
    let ended = match stopped_at {
        // The reader may be waiting for input that never comes.
        Some(_) => InputEnd::default(),
        None => match reading.await {
            Ok(ended) => ended,
            Err(error) => return Err(Failure::failed(format!("the reader of the input failed: {error}"))),
        },
    };
    let report = match tasks.join_next().await {
        Some(Ok(report)) => report,
        Some(Err(error)) => return Err(Failure::failed(format!("the reporter failed: {error}"))),
        None => return Err(Failure::failed("the reporter was lost")),
    };
    let closed = producer.close().await;
    report?.finish(global, ended, stopped_at, closed)
}

/// The first stage: splits standard input until its end, a bad record, or until nobody wants more.
fn read_input(plan: InputPlan, skip_bad: bool, quiet: bool, sender: &mpsc::Sender<InputChunk>) -> InputEnd {
    let mut end = InputEnd::default();
    let source = match terminal::stdin_unbuffered() {
        Ok(source) => source,
        Err(error) => {
            end.failure = Some(Failure::failed(format!("opening standard input failed: {error}")));
            return end;
        }
    };
    let mut reader = InputReader::new(source, plan);
    let mut records = Vec::with_capacity(CHUNK_RECORDS);
    loop {
        // Whoever types or pipes slowly sees each record sent before the next is waited for.
        if !records.is_empty() && (records.len() == CHUNK_RECORDS || reader.must_wait()) {
            let chunk = std::mem::replace(&mut records, Vec::with_capacity(CHUNK_RECORDS));
            if sender.blocking_send(InputChunk { records: chunk, bytes_read: reader.bytes_read() }).is_err() {
                return end;
            }
        }
        match reader.next_record() {
            Ok(Some(record)) => records.push((reader.number(), record)),
            Ok(None) => break,
            Err(InputError::Bad { unit, number, problem, can_continue: true }) if skip_bad => {
                end.skipped += 1;
                if end.skipped <= FAILURES_TOLD && !quiet {
                    terminal::note(&format!("skipped {unit} {number}: {problem}"));
                }
            }
            Err(error) => {
                let bad = matches!(error, InputError::Bad { can_continue: true, .. });
                let failure = Failure::failed(error.to_string()).at("standard input");
                end.failure = Some(if bad { failure.next("fix it, or repeat with --skip-bad") } else { failure });
                break;
            }
        }
    }
    if !records.is_empty() {
        // A receiver that has gone has told its own reason.
        let _nobody_wants_more = sender.blocking_send(InputChunk { records, bytes_read: reader.bytes_read() });
    }
    end
}

/// The second stage. Returns the number of the record at which it stopped early, if it did.
async fn enqueue(
    producer: &Producer,
    maker: &RecordMaker,
    mut input: mpsc::Receiver<InputChunk>,
    sent: mpsc::Sender<SentChunk>,
    stopped: &mut watch::Receiver<bool>,
) -> Option<u64> {
    let mut last = 0;
    loop {
        let chunk = tokio::select! {
            biased;
            // A reporter that has gone counts as a stop too.
            _ = stopped.changed() => return Some(last),
            chunk = input.recv() => chunk,
        };
        // No chunk is the end of the input.
        let chunk = chunk?;
        let enqueued = Elapsed::start();
        let mut deliveries = Vec::with_capacity(chunk.records.len());
        for (number, record) in chunk.records {
            let payload = record.key.as_ref().map_or(0, |key| key.len()) + record.value.as_ref().map_or(0, |v| v.len());
            let outcome = match maker.make(record) {
                Ok(record) => producer.enqueue(record).await,
                Err(error) => Err(error),
            };
            deliveries.push((number, payload, outcome));
        }
        last = deliveries.last().map_or(last, |(number, ..)| *number);
        if sent.send(SentChunk { deliveries, enqueued, bytes_read: chunk.bytes_read }).await.is_err() {
            return Some(last);
        }
    }
}
