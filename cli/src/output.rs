//! Standard output as a contract: data only, in the mode that was asked for, and a quiet end when nobody reads.

use std::io::{self, BufWriter, Stdout, Write};

use clap::ValueEnum;
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::table::Table;

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputMode {
    /// For people: aligned columns, or a command's plain form.
    Table,
    /// For people, with every column.
    Wide,
    /// One JSON document on one line; record streams are one document a line.
    Json,
    /// One JSON document a line for each item.
    Jsonl,
    /// Names only, one a line.
    Name,
}

impl OutputMode {
    /// True for both JSON modes.
    pub fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::Jsonl)
    }
}

/// A result that can be written in every mode.
pub trait Present {
    /// The JSON form.
    type Item: Serialize;
    /// Items, one for each thing; a single thing has one.
    fn items(&self) -> Vec<Self::Item>;
    /// True when `-o json` writes an array of the items; false when there is exactly one thing.
    fn is_list(&self) -> bool;
    /// The text for people.
    fn text(&self, wide: bool) -> String;
    /// One name for each item.
    fn names(&self) -> Vec<String>;
}

/// Buffered standard output.
#[derive(Debug)]
pub struct Output {
    writer: BufWriter<Stdout>,
}

impl Output {
    /// Standard output for this command, which is its only writer.
    pub fn stdout() -> Self {
        Self { writer: BufWriter::with_capacity(256 * 1024, io::stdout()) }
    }

    /// Writes bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.writer.write_all(bytes).map_err(refused)
    }

    /// Writes text as it is.
    pub fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())
    }

    /// Writes a table.
    pub fn table(&mut self, table: &Table) -> Result<(), Failure> {
        self.text(&table.render())
    }

    /// Writes one JSON document and a line feed.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.writer, value).map_err(|error| refused(error.into()))?;
        self.bytes(b"\n")
    }

    /// Writes `result` in `mode` and flushes.
    pub fn present(&mut self, result: &impl Present, mode: Option<OutputMode>) -> Result<(), Failure> {
        match mode.unwrap_or(OutputMode::Table) {
            OutputMode::Table => self.text(&result.text(false))?,
            OutputMode::Wide => self.text(&result.text(true))?,
            OutputMode::Json if result.is_list() => self.json(&result.items())?,
            OutputMode::Json | OutputMode::Jsonl => {
                for item in result.items() {
                    self.json(&item)?;
                }
            }
            OutputMode::Name => {
                for name in result.names() {
                    self.text(&name)?;
                    self.bytes(b"\n")?;
                }
            }
        }
        self.finish()
    }

    /// Hands everything to the reader.
    pub fn finish(&mut self) -> Result<(), Failure> {
        self.writer.flush().map_err(refused)
    }
}

/// A reader that closed its end has what it wanted: the command ends quietly and well. Anything else is a failure.
fn refused(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::quiet(Exit::Ok);
    }
    Failure::failed(format!("writing standard output failed: {error}"))
}
