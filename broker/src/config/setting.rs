//! One setting: what the table says about it, and how a written value becomes the typed field.

use std::path::PathBuf;
use std::time::Duration;

use streambus_protocol::ids::BrokerId;

use super::BrokerConfig;
use super::address::HostPort;
use super::error::Problem;
use super::peers::{NotPeers, PEERS_MAX, Peers};
use super::suggestion::nearest;
use super::unit::{self, UnitError};

/// One row of the table of settings.
#[derive(Debug)]
pub struct Setting {
    /// Section and name, joined by a dot.
    pub key: &'static str,
    /// What it may be, and the field it fills.
    pub kind: Kind,
    /// A flag shorter than the key, without dashes. The key itself always works as a flag too.
    pub flag: Option<&'static str>,
    /// When a change takes effect.
    pub reload: Reload,
    /// What it does and why one would change it, for the reference.
    pub doc: &'static str,
}

/// When a changed value takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// At the next start.
    Restart,
    /// At once, when the broker is told to read its configuration again (see [`super::live`]).
    Live,
}

type Slot<T> = fn(&mut BrokerConfig) -> &mut T;

/// The type of a setting: how it is written, its range, and the field it fills. Ranges include both ends.
#[derive(Debug)]
#[expect(missing_docs, reason = "each variant's sentence says what its fields are")]
pub enum Kind {
    /// A size, in bytes inside.
    Bytes { min: u64, max: u64, slot: Slot<u64> },
    /// A rate, in bytes per second inside.
    Rate { min: u64, max: u64, slot: Slot<u64> },
    /// A time span.
    Time { min: Duration, max: Duration, slot: Slot<Duration> },
    /// A bare number.
    Count { min: u32, max: u32, slot: Slot<u32> },
    /// A share, in percent inside.
    Percent { max: u8, slot: Slot<u8> },
    /// The broker's number.
    Broker { slot: Slot<BrokerId> },
    /// Where to listen.
    Address { slot: Slot<HostPort> },
    /// Where to connect; empty = none.
    OptionalAddress { slot: Slot<Option<HostPort>> },
    /// Brokers and their addresses; empty = none.
    Peers { slot: Slot<Peers> },
    /// A directory.
    Path { slot: Slot<PathBuf> },
    /// Text of at most `max` bytes that passes `check`; `check` answers what it expects instead.
    Text { max: usize, check: fn(&str) -> Result<(), &'static str>, slot: Slot<String> },
    /// One of a few words.
    Choice { words: &'static [&'static str], set: fn(&mut BrokerConfig, &str), get: fn(&BrokerConfig) -> &'static str },
}

/// A value as a source wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Raw {
    /// A string in a file.
    Text(String),
    /// A whole number in a file.
    Integer(i64),
    /// Anything else in a file; its name, for the message.
    Other(&'static str),
    /// The text of a variable or flag, whose type nobody has stated.
    Untyped(String),
}

impl Setting {
    /// The environment variable that sets this: `STREAMBUS__SECTION__NAME`.
    pub fn env_name(&self) -> String {
        format!("{}{}", super::layer::ENV_PREFIX, self.key.to_uppercase().replace('.', "__"))
    }

    /// The flag that sets this, without dashes: the short one, or else the key.
    pub fn flag_name(&self) -> &'static str {
        self.flag.unwrap_or(self.key)
    }
}

impl Kind {
    /// Parses `raw`, checks its range and puts it in its field. On an error `config` is unchanged.
    ///
    /// # Errors
    /// What is wrong with the value alone; fields that contradict each other are found later.
    pub fn assign(&self, raw: &Raw, config: &mut BrokerConfig) -> Result<(), Problem> {
        match self {
            Self::Bytes { min, max, slot } => {
                let bytes = quantity(raw, unit::SIZE_UNITS, "64MiB", unit::show_bytes, unit::parse_bytes)?;
                *slot(config) = self.ranged(bytes, *min, *max)?;
            }
            Self::Rate { min, max, slot } => {
                let rate = quantity(raw, unit::RATE_UNITS, "4MiB/s", unit::show_rate, unit::parse_rate)?;
                *slot(config) = self.ranged(rate, *min, *max)?;
            }
            Self::Time { min, max, slot } => {
                let show = |seconds: u64| format!("{seconds}s");
                let time = quantity(raw, unit::TIME_UNITS, "30s", show, unit::parse_duration)?;
                *slot(config) = self.ranged(time, *min, *max)?;
            }
            Self::Percent { max, slot } => {
                let percent = quantity(raw, "%", "5%", |n| format!("{n}%"), unit::parse_percent)?;
                let percent = u8::try_from(percent).map_err(|_| self.out_of_range())?;
                *slot(config) = self.ranged(percent, 0, *max)?;
            }
            Self::Count { min, max, slot } => *slot(config) = self.ranged(self.number(raw)?, *min, *max)?,
            Self::Broker { slot } => *slot(config) = BrokerId::new(self.ranged(self.number(raw)?, 0, BROKER_MAX)?),
            Self::Address { slot } => *slot(config) = address(text(raw, ADDRESS)?)?,
            Self::OptionalAddress { slot } => {
                let text = text(raw, ADDRESS)?;
                *slot(config) = if text.is_empty() { None } else { Some(address(text)?) };
            }
            Self::Peers { slot } => {
                let refused = |error: NotPeers| Problem::Refused { reason: error.to_string(), example: PEERS_EXAMPLE };
                *slot(config) = text(raw, PEERS)?.parse().map_err(refused)?;
            }
            Self::Path { slot } => {
                let text = text(raw, "a directory, such as \"./data\"")?;
                if text.is_empty() || text.contains('\0') {
                    return Err(Problem::Malformed { expected: "a directory, such as \"./data\"" });
                }
                *slot(config) = PathBuf::from(text);
            }
            Self::Text { max, check, slot } => {
                let text = text(raw, "text in quotes")?;
                if text.len() > *max {
                    return Err(Problem::TooLong { bytes: text.len(), max: *max });
                }
                check(text).map_err(|expected| Problem::Malformed { expected })?;
                *slot(config) = text.to_owned();
            }
            Self::Choice { words, set, .. } => {
                let text = text(raw, "text in quotes")?;
                if !words.contains(&text) {
                    return Err(Problem::UnknownChoice {
                        words,
                        suggestion: nearest(text, words.iter().copied()).map(str::to_owned),
                    });
                }
                set(config, text);
            }
        }
        Ok(())
    }

    /// The field's value in the spelling that [`Kind::assign`] reads from a variable or flag.
    pub fn show(&self, config: &BrokerConfig) -> String {
        // Slots hand out `&mut`, so that one function serves reading and writing; the copy is thrown away.
        let config = &mut config.clone();
        match self {
            Self::Bytes { slot, .. } => unit::show_bytes(*slot(config)),
            Self::Rate { slot, .. } => unit::show_rate(*slot(config)),
            Self::Time { slot, .. } => unit::show_duration(*slot(config)),
            Self::Percent { slot, .. } => format!("{}%", slot(config)),
            Self::Count { slot, .. } => slot(config).to_string(),
            Self::Broker { slot } => slot(config).to_string(),
            Self::Address { slot } => slot(config).to_string(),
            Self::OptionalAddress { slot } => slot(config).as_ref().map(ToString::to_string).unwrap_or_default(),
            Self::Peers { slot } => slot(config).to_string(),
            Self::Path { slot } => slot(config).display().to_string(),
            Self::Text { slot, .. } => slot(config).clone(),
            Self::Choice { get, .. } => get(config).to_owned(),
        }
    }

    /// The field's value as a TOML file spells it.
    pub fn show_toml(&self, config: &BrokerConfig) -> String {
        match self {
            Self::Count { .. } | Self::Broker { .. } => self.show(config),
            _ => toml_edit::Value::from(self.show(config)).to_string(),
        }
    }

    /// What may be written, for the reference.
    pub fn range(&self) -> String {
        match self {
            Self::Bytes { min, max, .. } => format!("{} to {}", unit::show_bytes(*min), unit::show_bytes(*max)),
            Self::Rate { min, max, .. } => format!("{} to {}", unit::show_rate(*min), unit::show_rate(*max)),
            Self::Time { min, max, .. } => format!("{} to {}", unit::show_duration(*min), unit::show_duration(*max)),
            Self::Count { min, max, .. } => format!("{min} to {max}"),
            Self::Percent { max, .. } => format!("0% to {max}%"),
            Self::Broker { .. } => format!("0 to {BROKER_MAX}"),
            Self::Address { .. } => "host:port".to_owned(),
            Self::OptionalAddress { .. } => "host:port, or empty".to_owned(),
            Self::Peers { .. } => format!("up to {PEERS_MAX} of id@host:port, or empty"),
            Self::Path { .. } => "a directory".to_owned(),
            Self::Text { max, .. } => format!("text of up to {max} bytes"),
            Self::Choice { words, .. } => words.join(" or "),
        }
    }

    fn out_of_range(&self) -> Problem {
        Problem::OutOfRange { range: self.range() }
    }

    fn ranged<T: PartialOrd>(&self, value: T, min: T, max: T) -> Result<T, Problem> {
        if value < min || value > max { Err(self.out_of_range()) } else { Ok(value) }
    }

    fn number(&self, raw: &Raw) -> Result<u32, Problem> {
        const EXPECTED: &str = "a whole number without quotes";
        let number = match raw {
            Raw::Integer(number) => *number,
            Raw::Untyped(text) => {
                let digits = text.trim().replace('_', "");
                if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(Problem::Malformed { expected: "a whole number" });
                }
                digits.parse().map_err(|_| self.out_of_range())?
            }
            Raw::Text(_) => return Err(Problem::WrongType { expected: EXPECTED, found: "a string" }),
            Raw::Other(found) => return Err(Problem::WrongType { expected: EXPECTED, found }),
        };
        u32::try_from(number).map_err(|_| self.out_of_range())
    }
}

/// The largest number means "no broker" on the wire.
const BROKER_MAX: u32 = u32::MAX - 1;
const PEERS: &str = "brokers and their addresses in one string, such as \"1@a:9094,2@b:9094,3@c:9094\"";
const PEERS_EXAMPLE: &str = "1@a:9094,2@b:9094,3@c:9094";
const ADDRESS: &str = "a host and a port, such as \"127.0.0.1:9092\" or \"[::1]:9092\"";

fn address(text: &str) -> Result<HostPort, Problem> {
    text.trim().parse().map_err(|_| Problem::Malformed { expected: ADDRESS })
}

fn text<'a>(raw: &'a Raw, expected: &'static str) -> Result<&'a str, Problem> {
    match raw {
        Raw::Text(text) | Raw::Untyped(text) => Ok(text),
        Raw::Integer(_) => Err(Problem::WrongType { expected, found: "a number" }),
        Raw::Other(found) => Err(Problem::WrongType { expected, found }),
    }
}

/// A number with a unit. `show` spells a bare number with the unit it probably lacked.
fn quantity<T>(
    raw: &Raw,
    units: &'static str,
    example: &'static str,
    show: fn(u64) -> String,
    parse: fn(&str) -> Result<T, UnitError>,
) -> Result<T, Problem> {
    let text = match raw {
        Raw::Text(text) | Raw::Untyped(text) => text,
        Raw::Integer(number) => {
            let example = u64::try_from(*number).map_or_else(|_| example.to_owned(), show);
            return Err(Problem::NoUnit { units, example });
        }
        Raw::Other(found) => {
            return Err(Problem::WrongType { expected: "a number and its unit, in quotes", found });
        }
    };
    parse(text).map_err(|error| match error {
        UnitError::NoUnit(number) => Problem::NoUnit { units, example: show(number) },
        UnitError::UnknownUnit { unit, meant } => Problem::UnknownUnit { unit, units, suggestion: meant },
        UnitError::NoNumber => Problem::NoNumber { units, example },
        UnitError::TooLarge => Problem::TooLarge,
    })
}
