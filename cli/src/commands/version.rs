//! `streambus version`.

use serde::Serialize;

use crate::args::Global;
use crate::failure::{Exit, Failure};
use crate::output::{Output, Present};

/// What this program says it is.
#[cfg(not(feature = "planted-bugs"))]
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What this program says it is: nobody shall take it for the product.
#[cfg(feature = "planted-bugs")]
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "+planted-bugs");

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
        vec![Version { name: "streambus", version: VERSION, target }]
    }

    fn is_list(&self) -> bool {
        false
    }

    fn text(&self, wide: bool) -> String {
        let target = if wide { format!(" {}-{}", std::env::consts::ARCH, std::env::consts::OS) } else { String::new() };
        format!("streambus {}{target}\n", VERSION)
    }

    fn names(&self) -> Vec<String> {
        vec![VERSION.to_owned()]
    }
}

/// Prints the version.
pub fn run(global: &Global) -> Result<Exit, Failure> {
    Output::stdout().present(&Shown, global.output)?;
    Ok(Exit::Ok)
}
