//! The help of every command is a contract: a changed or vanished option shows up here as a difference to review.
//!
//! `STREAMBUS_UPDATE_GOLDEN=1 cargo test -p streambus-cli --test cli` writes the file anew.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use streambus_cli::args::Cli;

fn render(path: &str, command: &mut Command, text: &mut String) {
    let help = command.render_long_help().to_string();
    writeln!(text, "===== {path}\n{}\n", help.trim_end()).unwrap();
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names {
        if let Some(sub) = command.find_subcommand_mut(&name) {
            render(&format!("{path} {name}"), sub, text);
        }
    }
}

#[test]
fn help_is_as_committed() {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut text = String::new();
    render("streambus", &mut command, &mut text);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help.txt");
    if std::env::var_os("STREAMBUS_UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&golden).unwrap_or_default();
    let difference = text.lines().zip(committed.lines()).find(|(now, then)| now != then);
    assert!(
        text == committed,
        "help differs from tests/golden/help.txt, first at {difference:?}; if that is wanted, run with \
         STREAMBUS_UPDATE_GOLDEN=1 and commit the file"
    );
}
