//! `streambus tail TOPIC`: consume from the end on.

use clap::Args;

use super::consume::{self, ConsumeArgs, StartAt};
use crate::args::Global;
use crate::failure::{Exit, Failure};

/// Options of `tail`.
#[derive(Debug, Args)]
pub struct TailArgs {
    /// The topics
    #[arg(required = true)]
    pub topics: Vec<String>,
    /// How a record is printed, as in consume
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Start this many records before the end of each partition
    #[arg(short = 'n', long, default_value_t = 0, value_name = "N")]
    pub lines: u64,
    /// Only this partition; repeatable
    #[arg(short, long, value_name = "P")]
    pub partition: Vec<u32>,
}

/// Prints what arrives.
pub fn run(global: &Global, args: &TailArgs) -> Result<Exit, Failure> {
    let consume = ConsumeArgs {
        topics: args.topics.clone(),
        format: args.format.clone(),
        exit_at_end: false,
        count: None,
        from: if args.lines == 0 { StartAt::End } else { StartAt::Last(args.lines) },
        until: None,
        partition: args.partition.clone(),
        rack: None,
    };
    consume::run(global, &consume)
}
