//! `streambus config show` and `streambus config lint`.

use clap::{Args, Subcommand};
use serde::Serialize;
use streambus_broker::config::{Row, reference};

use super::server::{self, Sources};
use crate::args::Global;
use crate::failure::{Exit, Failure};
use crate::output::{Output, Present};
use crate::table::{Column, Table};
use crate::terminal;

/// What to do with a configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show the settings in force and where each comes from
    Show(ShowArgs),
    /// Check files, environment and settings, and report every mistake
    Lint(Sources),
    /// Print a configuration file with every setting, its default and what it does, in comments
    Default,
}

/// Options of `config show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Show every setting, not only those that differ from their defaults
    #[arg(long)]
    pub effective: bool,
    /// Where it comes from.
    #[command(flatten)]
    pub sources: Sources,
}

#[derive(Serialize)]
struct Item {
    key: &'static str,
    value: String,
    default: String,
    origin: String,
}

struct Rows(Vec<Row>);

impl Present for Rows {
    type Item = Item;

    fn items(&self) -> Vec<Item> {
        let item = |row: &Row| Item {
            key: row.key,
            value: row.value.clone(),
            default: row.default.clone(),
            origin: row.origin.to_string(),
        };
        self.0.iter().map(item).collect()
    }

    fn is_list(&self) -> bool {
        true
    }

    fn text(&self, wide: bool) -> String {
        let mut columns = vec![Column::Text("SETTING"), Column::Text("VALUE"), Column::Text("ORIGIN")];
        if wide {
            columns.push(Column::Text("DEFAULT"));
        }
        let mut table = Table::new(&columns);
        for item in self.items() {
            let mut row = vec![item.key.to_owned(), item.value, item.origin];
            if wide {
                row.push(item.default);
            }
            table.row(row);
        }
        table.render()
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|row| row.key.to_owned()).collect()
    }
}

/// Shows or checks.
pub fn run(global: &Global, command: &ConfigCommand) -> Result<Exit, Failure> {
    match command {
        ConfigCommand::Show(args) => {
            let effective = server::load(&args.sources, args.sources.set.clone())?;
            let mut rows = effective.rows();
            rows.retain(|row| args.effective || row.value != row.default);
            if rows.is_empty() && !global.quiet {
                terminal::note("every setting has its default; --effective shows them");
            }
            Output::stdout().present(&Rows(rows), global.output)?;
        }
        ConfigCommand::Lint(sources) => {
            let effective = server::load(sources, sources.set.clone())?;
            for warning in effective.warnings() {
                terminal::note(&format!("warning: {warning}"));
            }
            if !global.quiet {
                terminal::note("the configuration is valid");
            }
        }
        ConfigCommand::Default => {
            let mut output = Output::stdout();
            output.text(&reference::commented_file())?;
            output.finish()?;
        }
    }
    Ok(Exit::Ok)
}
