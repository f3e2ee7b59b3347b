//! One source at a time: a file, the environment or the flags become assignments of raw values to settings.

use std::path::Path;

use toml_edit::{ImDocument, Item, TableLike, Value};

use super::error::{ConfigError, Problem};
use super::origin::{FilePlace, Origin};
use super::setting::{Raw, Setting};
use super::suggestion::nearest;
use super::table::SETTINGS;

/// What our environment variables start with. `STREAMBUS_X` with one underscore belongs to the command line tool.
pub(super) const ENV_PREFIX: &str = "STREAMBUS__";

/// A source says that a setting shall have a value.
#[derive(Debug)]
pub(super) struct Assignment {
    pub(super) setting: &'static Setting,
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// Reads a TOML file of sections. A file that does not parse yields one problem and no assignment.
pub(super) fn from_file(path: &Path, text: &str, into: &mut Vec<Assignment>, problems: &mut Vec<ConfigError>) {
    let place = |span: Option<std::ops::Range<usize>>| {
        Origin::File(FilePlace::new(path, text, span.unwrap_or(text.len()..text.len())))
    };
    let document = match ImDocument::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let message = format!("not valid TOML: {}", error.message().lines().collect::<Vec<_>>().join(", "));
            problems.push(ConfigError::new(None, Problem::Syntax { message }, place(error.span())));
            return;
        }
    };
    for (name, item) in document.as_table().iter() {
        let key_place = place(key_span(document.as_table(), name));
        let Some(section) = sections().find(|section| *section == name) else {
            problems.push(ConfigError::new(None, unknown_top(name, item), key_place));
            continue;
        };
        let Some(table) = item.as_table_like() else {
            problems.push(ConfigError::new(None, Problem::NotASection { section: section.to_owned() }, key_place));
            continue;
        };
        for (name, item) in table.iter() {
            let key = format!("{section}.{name}");
            match SETTINGS.iter().find(|setting| setting.key == key) {
                Some(setting) => {
                    let origin = place(item.span().or_else(|| key_span(table, name)));
                    into.push(Assignment { setting, raw: raw(item), origin });
                }
                None => {
                    let suggestion = suggest_key(section, name);
                    let problem = Problem::UnknownKey { key: name.to_owned(), suggestion };
                    problems.push(ConfigError::new(None, problem, place(key_span(table, name))));
                }
            }
        }
    }
}

/// Reads the variables that start with our prefix, in the order given.
pub(super) fn from_env(env: &[(String, String)], into: &mut Vec<Assignment>, problems: &mut Vec<ConfigError>) {
    for (name, value) in env.iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)) {
        let origin = Origin::Env(name.clone());
        match SETTINGS.iter().find(|setting| setting.env_name() == *name) {
            Some(setting) => into.push(Assignment { setting, raw: Raw::Untyped(value.clone()), origin }),
            None => {
                let names: Vec<String> = SETTINGS.iter().map(Setting::env_name).collect();
                let suggestion = nearest(name, names.iter().map(String::as_str)).map(str::to_owned);
                problems.push(ConfigError::new(None, Problem::UnknownVariable { suggestion }, origin));
            }
        }
    }
}

/// Reads flags by their short name or whole key, in the order given: a later one wins.
pub(super) fn from_flags(flags: &[(String, String)], into: &mut Vec<Assignment>, problems: &mut Vec<ConfigError>) {
    for (name, value) in flags {
        let origin = Origin::Flag(name.clone());
        match SETTINGS.iter().find(|setting| setting.key == name || setting.flag == Some(name)) {
            Some(setting) => into.push(Assignment { setting, raw: Raw::Untyped(value.clone()), origin }),
            None => {
                let names = SETTINGS.iter().flat_map(|setting| [Some(setting.key), setting.flag]).flatten();
                let suggestion = nearest(name, names).map(str::to_owned);
                let problem = Problem::UnknownFlag { name: name.clone(), suggestion };
                problems.push(ConfigError::new(None, problem, origin));
            }
        }
    }
}

/// The sections of the table, each once, in its order.
pub(super) fn sections() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    SETTINGS.iter().filter_map(move |setting| {
        let section = setting.key.split('.').next().unwrap_or_default();
        let is_new = section != last;
        last = section;
        is_new.then_some(section)
    })
}

fn key_span(table: &dyn TableLike, name: &str) -> Option<std::ops::Range<usize>> {
    table.get_key_value(name).and_then(|(key, _)| key.span())
}

/// A name at the top of a file is a section or a mistake: a mistyped section, or a setting without its section.
fn unknown_top(name: &str, item: &Item) -> Problem {
    if item.is_table_like() {
        let suggestion = nearest(name, sections()).map(str::to_owned);
        Problem::UnknownSection { section: name.to_owned(), suggestion }
    } else {
        Problem::UnknownKey { key: name.to_owned(), suggestion: suggest_key("", name) }
    }
}

/// First a neighbour in the same section, then the same or a similar name in another one.
fn suggest_key(section: &str, name: &str) -> Option<String> {
    let split = |key: &'static str| key.split_once('.').unwrap_or(("", key));
    let in_section = SETTINGS.iter().map(|s| split(s.key)).filter(|(other, _)| *other == section).map(|(_, name)| name);
    if let Some(found) = nearest(name, in_section.clone()) {
        return Some(found.to_owned());
    }
    // `retention_hours` is far from `retention_interval` in letters, but the first word says what was meant.
    let first_word = |name: &str| name.split('_').next().unwrap_or_default().to_owned();
    if let Some(found) = in_section.clone().find(|known| first_word(known) == first_word(name)) {
        return Some(found.to_owned());
    }
    let found = nearest(name, SETTINGS.iter().map(|s| split(s.key).1))?;
    SETTINGS.iter().map(|s| s.key).find(|key| split(key).1 == found).map(str::to_owned)
}

fn raw(item: &Item) -> Raw {
    match item {
        Item::Value(Value::String(text)) => Raw::Text(text.value().clone()),
        Item::Value(Value::Integer(number)) => Raw::Integer(*number.value()),
        Item::Value(Value::Float(_)) => Raw::Other("a number with a fraction"),
        Item::Value(Value::Boolean(_)) => Raw::Other("true or false"),
        Item::Value(Value::Datetime(_)) => Raw::Other("a date"),
        Item::Value(Value::Array(_)) | Item::ArrayOfTables(_) => Raw::Other("a list"),
        Item::Value(Value::InlineTable(_)) | Item::Table(_) => Raw::Other("a section"),
        Item::None => Raw::Other("nothing"),
    }
}
