//! `streambus log verify DIR` and `streambus log dump DIR`: a stopped broker's data directory, read and never written.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use streambus_consensus::inspect::{self as metadata, MetadataReport};
use streambus_storage::inspect::{self, DumpError, InspectError, VerifyReport};

use crate::args::Global;
use crate::failure::{Exit, Failure};
use crate::output::{Output, Present};
use crate::table::{bytes_shown, grouped};

/// What is proven, and what is not.
const VERIFY: &str = "\
Check every checksum of what a broker relies on; exit code 1 and the damaged ranges when anything is wrong

Proven are:
  - the identities of the directory and of the metadata, and the checkpoints
  - every commit, entry and batch of every journal segment
  - the index: its manifest, every block of its tables, and that what it names lies where it says
  - the cluster's metadata: every record of its logs and manifest, every block of its tables, Raft's vote
    and log, every row of the state, and its snapshots

Not looked at are spare segments, which hold nothing yet; RocksDB's files LOCK, LOG, OPTIONS and IDENTITY,
which decide nothing; and files of others. Nothing is written: a read-only mount or a full disk will do.";

/// What to do with a data directory.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Check every checksum of what a broker relies on; exit code 1 and the damaged ranges when anything is wrong
    #[command(long_about = VERIFY)]
    Verify(DirectoryArgs),
    /// Print one line for each entry of the journal
    Dump(DirectoryArgs),
}

/// The data directory.
#[derive(Debug, Args)]
pub struct DirectoryArgs {
    /// The data directory of a broker that is not running
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// What storage keeps, and the metadata, if there is any.
#[derive(Clone, Copy, Serialize)]
struct Verified<'a> {
    #[serde(flatten)]
    data: &'a VerifyReport,
    metadata: Option<&'a MetadataReport>,
}

impl<'a> Present for Verified<'a> {
    type Item = Self;

    fn items(&self) -> Vec<Self::Item> {
        vec![*self]
    }

    fn is_list(&self) -> bool {
        false
    }

    fn text(&self, wide: bool) -> String {
        let r = self.data;
        let verdict = if r.ok { "OK" } else { "DAMAGED" };
        let mut text = format!(
            "{verdict}: {} in {} segments read, {} commits, {} entries, {} batches of {} logs\n",
            bytes_shown(r.bytes),
            r.segments,
            grouped(r.commits),
            grouped(r.entries),
            grouped(r.batches),
            r.logs
        );
        if wide {
            // Writing to a String cannot fail.
            let _infallible =
                writeln!(text, "directory {}, {} index extents compared", r.directory, grouped(r.extents));
        }
        match self.metadata {
            Some(metadata) => {
                let _infallible = writeln!(
                    text,
                    "metadata: {} log entries, {} rows, {} tables, {} snapshots",
                    grouped(metadata.entries),
                    grouped(metadata.rows),
                    grouped(metadata.tables),
                    grouped(metadata.snapshots)
                );
            }
            None => text.push_str("metadata: there is none in this directory\n"),
        }
        if r.torn_tail_bytes > 0 {
            let _infallible = writeln!(
                text,
                "{} of a commit that was in flight at the end: never acknowledged, dropped at the next start",
                bytes_shown(r.torn_tail_bytes)
            );
        }
        if r.repaired > 0 {
            let _infallible = writeln!(
                text,
                "{} damaged batches were copied anew from another replica and are served from that copy",
                grouped(r.repaired)
            );
        }
        for damage in &r.damaged {
            let range = match (damage.position, damage.length) {
                (Some(position), Some(length)) => format!(" bytes {position}..{}", position.saturating_add(length)),
                (Some(position), None) => format!(" from byte {position}"),
                _ => String::new(),
            };
            let log = damage.log.as_ref().map(|log| format!(" ({log})")).unwrap_or_default();
            let _infallible = writeln!(text, "{}{range}{log}: {}", damage.file, damage.what);
        }
        if r.damaged_unlisted > 0 {
            let _infallible = writeln!(text, "and {} more", r.damaged_unlisted);
        }
        for damage in self.metadata.iter().flat_map(|metadata| &metadata.damaged) {
            let place = damage.position.map(|position| format!(" from byte {position}")).unwrap_or_default();
            let _infallible = writeln!(text, "{}{place}: {}; {}", damage.file, damage.what, damage.remedy);
        }
        text
    }

    fn names(&self) -> Vec<String> {
        let metadata = self.metadata.iter().flat_map(|metadata| &metadata.damaged);
        let data = self.data.damaged.iter().map(|damage| damage.file.clone());
        data.chain(metadata.map(|damage| damage.file.clone())).collect()
    }
}

/// Verifies or dumps.
pub fn run(global: &Global, command: &LogCommand) -> Result<Exit, Failure> {
    match command {
        LogCommand::Verify(args) => {
            let mut data = inspect::verify_dir(&args.directory).map_err(|error| refused(&error, args))?;
            let metadata = metadata::verify_dir(&args.directory);
            // The verdict is on the whole directory.
            data.ok &= metadata.as_ref().is_none_or(|metadata| metadata.ok);
            Output::stdout().present(&Verified { data: &data, metadata: metadata.as_ref() }, global.output)?;
            Ok(if data.ok { Exit::Ok } else { Exit::Failed })
        }
        LogCommand::Dump(args) => {
            let mut stdout = io::BufWriter::with_capacity(64 * 1024, io::stdout());
            match inspect::dump_dir(&args.directory, &mut stdout) {
                Ok(()) => {}
                Err(DumpError::Inspect(error)) => return Err(refused(&error, args)),
                // A reader that has gone has seen what it wanted.
                Err(DumpError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Ok),
                Err(error) => return Err(Failure::failed(error.to_string())),
            }
            io::Write::flush(&mut stdout).map_err(|error| Failure::failed(error.to_string()))?;
            Ok(Exit::Ok)
        }
    }
}

fn refused(error: &InspectError, args: &DirectoryArgs) -> Failure {
    Failure::failed(error.to_string())
        .at(args.directory.display().to_string())
        .next("name a data directory whose broker is stopped")
}
