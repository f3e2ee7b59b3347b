//! What is wrong with a configuration: every problem at once, each with its place, the line itself and a way out.

use std::fmt;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::origin::Origin;

/// All problems of one configuration, in the order of the sources. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The setting it is about, when there is one.
    pub key: Option<&'static str>,
    /// What is wrong.
    pub problem: Problem,
    /// Where.
    pub origin: Origin,
}

/// The kinds of problems.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant's sentence says what its fields are")]
pub enum Problem {
    /// The file is no TOML; the parser's words.
    Syntax { message: String },
    /// A name in a file that is no setting.
    UnknownKey { key: String, suggestion: Option<String> },
    /// A section in a file that does not exist.
    UnknownSection { section: String, suggestion: Option<String> },
    /// A variable with our prefix that is no setting.
    UnknownVariable { suggestion: Option<String> },
    /// A flag that is no setting.
    UnknownFlag { name: String, suggestion: Option<String> },
    /// A value where a section belongs.
    NotASection { section: String },
    /// A value of another type.
    WrongType { expected: &'static str, found: &'static str },
    /// A bare number where a unit matters.
    NoUnit { units: &'static str, example: String },
    /// A unit that does not exist here.
    UnknownUnit { unit: String, units: &'static str, suggestion: Option<&'static str> },
    /// A quantity without its number.
    NoNumber { units: &'static str, example: &'static str },
    /// A number that 64 bits do not hold.
    TooLarge,
    /// Text over its limit.
    TooLong { bytes: usize, max: usize },
    /// Text that does not parse as what it should be.
    Malformed { expected: &'static str },
    /// Text with a detail that cannot stand.
    Refused { reason: String, example: &'static str },
    /// A value outside its range.
    OutOfRange { range: String },
    /// None of the words.
    UnknownChoice { words: &'static [&'static str], suggestion: Option<String> },
    /// Two settings that contradict each other.
    Conflict { message: String, help: String },
}

impl ConfigErrors {
    pub(super) fn new(errors: Vec<ConfigError>) -> Self {
        assert!(!errors.is_empty(), "no error without a problem");
        Self { errors }
    }

    /// The problems, in the order of the sources.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.errors.iter()
    }
}

impl ConfigError {
    pub(super) fn new(key: Option<&'static str>, problem: Problem, origin: Origin) -> Self {
        Self { key, problem, origin }
    }

    /// What is wrong, in one sentence without the place.
    pub fn message(&self) -> String {
        let subject = self.key.map_or_else(|| "the value".to_owned(), |key| format!("`{key}`"));
        match &self.problem {
            Problem::Syntax { message } => message.clone(),
            Problem::UnknownKey { key, .. } => format!("unknown key `{key}`"),
            Problem::UnknownSection { section, .. } => format!("unknown section `{section}`"),
            Problem::UnknownVariable { .. } => "no setting has this environment variable".to_owned(),
            Problem::UnknownFlag { name, .. } => format!("no setting `{name}`"),
            Problem::NotASection { section } => format!("`{section}` is a section, not a value"),
            Problem::WrongType { expected, found } => format!("{subject} must be {expected}, not {found}"),
            Problem::NoUnit { .. } => format!("{subject} needs a unit"),
            Problem::UnknownUnit { unit, .. } => format!("{subject} has the unknown unit `{unit}`"),
            Problem::NoNumber { .. } => format!("{subject} must be a whole number and its unit"),
            Problem::TooLarge => format!("{subject} is too large"),
            Problem::TooLong { bytes, max } => format!("{subject} has {bytes} bytes, at most {max} are allowed"),
            Problem::Malformed { expected } => format!("{subject} must be {expected}"),
            Problem::Refused { reason, .. } => format!("{subject}: {reason}"),
            Problem::OutOfRange { range } => format!("{subject} is out of range: {range}"),
            Problem::UnknownChoice { words, .. } => format!("{subject} must be {}", words.join(" or ")),
            Problem::Conflict { message, .. } => message.clone(),
        }
    }

    /// The way out, when there is one to name.
    pub fn help(&self) -> Option<String> {
        let did_you_mean = |name: &str| format!("did you mean `{name}`?");
        match &self.problem {
            Problem::UnknownKey { suggestion, .. }
            | Problem::UnknownSection { suggestion, .. }
            | Problem::UnknownVariable { suggestion }
            | Problem::UnknownFlag { suggestion, .. }
            | Problem::UnknownChoice { suggestion, .. } => suggestion.as_deref().map(did_you_mean),
            Problem::NotASection { section } => {
                Some(format!("write `[{section}]` on a line of its own, and its settings below"))
            }
            Problem::NoUnit { units, example } => Some(format!("write \"{example}\" (units: {units})")),
            Problem::NoNumber { units, example } => Some(format!("for example \"{example}\" (units: {units})")),
            Problem::UnknownUnit { suggestion: Some(unit), .. } => Some(did_you_mean(unit)),
            Problem::UnknownUnit { units, .. } => Some(format!("units: {units}")),
            Problem::Conflict { help, .. } => Some(help.clone()),
            Problem::Refused { example, .. } => Some(format!("write it like \"{example}\"")),
            Problem::Syntax { .. }
            | Problem::WrongType { .. }
            | Problem::TooLarge
            | Problem::TooLong { .. }
            | Problem::Malformed { .. }
            | Problem::OutOfRange { .. } => None,
        }
    }
}

/// Several lines for people: what, where, the line itself, the way out.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.message())?;
        match &self.origin {
            Origin::File(place) => {
                let number = place.line.to_string();
                let margin = " ".repeat(number.len());
                writeln!(f, "{margin}--> {}:{}:{}", place.path.display(), place.line, place.column)?;
                writeln!(f, "{number} | {}", place.text)?;
                let indent: String =
                    place.text.chars().take(place.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
                write!(f, "{margin} | {indent}{}", "^".repeat(place.width))?;
            }
            Origin::Default | Origin::Env(_) | Origin::Flag(_) => write!(f, " --> {}", self.origin)?,
        }
        match self.help() {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

/// First how many there are, then each in a paragraph of its own.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errors.len() {
            1 => f.write_str("the configuration has a problem; none of it takes effect")?,
            n => write!(f, "the configuration has {n} problems; none of it takes effect")?,
        }
        self.errors.iter().try_for_each(|error| write!(f, "\n\n{error}"))
    }
}

/// `{"message", "key", "origin", "line", "help"}`; `line` is the file's line, null for other sources.
impl Serialize for ConfigError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("ConfigError", 5)?;
        fields.serialize_field("message", &self.message())?;
        fields.serialize_field("key", &self.key)?;
        fields.serialize_field("origin", &self.origin)?;
        let line = match &self.origin {
            Origin::File(place) => Some(place.text.as_str()),
            Origin::Default | Origin::Env(_) | Origin::Flag(_) => None,
        };
        fields.serialize_field("line", &line)?;
        fields.serialize_field("help", &self.help())?;
        fields.end()
    }
}

/// `{"errors": [...]}`.
impl Serialize for ConfigErrors {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("ConfigErrors", 1)?;
        fields.serialize_field("errors", &self.errors)?;
        fields.end()
    }
}
