//! `streambus version`.

use serde::Serialize;

use crate::args::Global;
use crate::failure::{Exit, Failure};
use crate::output::{Output, Present};

#[derive(Serialize)]
struct Version {
    name: &'static str,
    version: &'static str,
    target: String,
}

struct Shown;

impl Present for Shown {
    type Item = Version;

    fn items(&self) -> Vec<Version> {
        let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        vec![Version { name: "streambus", version: env!("CARGO_PKG_VERSION"), target }]
    }

    fn is_list(&self) -> bool {
        false
    }

    fn text(&self, wide: bool) -> String {
        let target = if wide { format!(" {}-{}", std::env::consts::ARCH, std::env::consts::OS) } else { String::new() };
        format!("streambus {}{target}\n", env!("CARGO_PKG_VERSION"))
    }

    fn names(&self) -> Vec<String> {
        vec![env!("CARGO_PKG_VERSION").to_owned()]
    }
}

/// Prints the version.
pub fn run(global: &Global) -> Result<Exit, Failure> {
    Output::stdout().present(&Shown, global.output)?;
    Ok(Exit::Ok)
}
