//! The settings as documents: `docs/configuration.md` and a commented file with every default.

use std::fmt::Write as _;

use super::BrokerConfig;
use super::layer::sections;
use super::setting::{Kind, Reload, Setting};
use super::table::SETTINGS;

/// The text of `docs/configuration.md`.
pub fn markdown() -> String {
    let defaults = BrokerConfig::default();
    let mut text = INTRODUCTION.to_owned();
    for section in sections() {
        let _ = writeln!(text, "\n## `[{section}]`");
        for setting in in_section(section) {
            let _ = writeln!(text, "\n### `{}`\n\n{}\n", setting.key, setting.doc);
            let default = setting.kind.show_toml(&defaults);
            let _ = writeln!(text, "- default `{default}`, range: {}", setting.kind.range());
            let _ = writeln!(text, "- environment `{}`, flag {}", setting.env_name(), flag_text(setting));
            let reload = match setting.reload {
                Reload::Restart => "at the next start",
                Reload::Live => "at once when the configuration is read again (SIGHUP), or at the next start",
            };
            let _ = writeln!(text, "- takes effect {reload}");
        }
    }
    text
}

/// A configuration file that says what every setting does and sets each to its default, commented out.
pub fn commented_file() -> String {
    let defaults = BrokerConfig::default();
    let mut text = String::from("# StreamBus. Every setting with its default; remove a `#` to change one.\n");
    for section in sections() {
        let _ = writeln!(text, "\n[{section}]");
        for setting in in_section(section) {
            for line in wrapped(setting.doc, 100) {
                let _ = writeln!(text, "# {line}");
            }
            let _ = writeln!(text, "# {} ({})", unit_text(&setting.kind), setting.kind.range());
            let name = setting.key.split_once('.').map_or(setting.key, |(_, name)| name);
            let _ = writeln!(text, "#{name} = {}", setting.kind.show_toml(&defaults));
        }
    }
    text
}

const INTRODUCTION: &str = "# Configuration

This page is generated from the table of settings in `broker/src/config/table.rs`; a test compares them.

Every setting has one name. `limits.connections` is

- in a TOML file: `connections = 10000` under `[limits]`,
- in the environment: `STREAMBUS__LIMITS__CONNECTIONS=10000`,
- as a flag of `streambus server`: `--set limits.connections=10000`; the common ones have a short flag too.

A stronger source wins: flags, then the environment, then files, then the defaults below. Files are `--config FILE`, then
`conf.d/*.toml` beside it by name, then the `*.toml` of `--config-dir DIR` by name; a later file wins over an earlier one.
`streambus config show --effective` prints what is in force and where each value came from; `streambus config lint` checks
without starting.

A running broker reads its files again on SIGHUP (`kill -HUP`): it logs what changed, takes over at once what says so below,
and names what waits for the next start. When there is a mistake it keeps everything as it was and logs all mistakes. Flags
stay those it was started with, and so does the environment.

Quantities are written with their unit, in quotes in a file: `\"64MiB\"` (B, KiB, MiB, GiB, TiB), `\"30s\"` (ms, s, m, h,
d), `\"4MiB/s\"`, `\"5%\"`. A number without a unit is refused where one matters, and so are unknown keys and unknown
`STREAMBUS__` variables. All errors are printed at once, and nothing is started.
";

fn in_section(section: &str) -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(move |setting| setting.key.split('.').next() == Some(section))
}

fn flag_text(setting: &Setting) -> String {
    match setting.flag {
        Some(flag) => format!("`--{flag}`"),
        None => format!("`--set {}=...`", setting.key),
    }
}

fn unit_text(kind: &Kind) -> &'static str {
    match kind {
        Kind::Bytes { .. } => "size",
        Kind::Rate { .. } => "size per second",
        Kind::Time { .. } => "time",
        Kind::Count { .. } | Kind::Broker { .. } => "number",
        Kind::Percent { .. } => "percent",
        Kind::Address { .. } | Kind::OptionalAddress { .. } => "address",
        Kind::Peers { .. } => "list",
        Kind::Path { .. } => "path",
        Kind::Text { .. } => "text",
        Kind::Choice { .. } => "one of",
    }
}

/// Lines of at most `width` characters, broken between words.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
