//! A topic's configuration: Kafka's key names, typed values, and every problem of a map at once.

mod problem;

use std::collections::BTreeMap;
use std::fmt;

use crate::batch::TimestampType;
use crate::limits::{BATCH_BYTES_MAX, BATCH_BYTES_MAX_DEFAULT};
pub use problem::ConfigProblem;

/// The default of `delete.retention.ms`: one day.
const DELETE_RETENTION_MS_DEFAULT: u64 = 24 * 60 * 60 * 1000;
/// The default of `retention.ms`: seven days.
const RETENTION_MS_DEFAULT: u64 = 7 * 24 * 60 * 60 * 1000;

/// How long records are kept. Without either bound they are kept for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Milliseconds since a record's time after which it may go; `None` for no bound.
    pub time_ms: Option<u64>,
    /// Bytes of one partition above which its oldest records may go; `None` for no bound.
    pub bytes: Option<u64>,
}

/// What an acknowledgement promises about the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// The batch is on stable storage.
    #[default]
    Sync,
    /// The batch is in memory and will be on stable storage within a bounded time.
    Async,
}

/// How old records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Cleanup {
    /// By age and size.
    #[default]
    Delete,
    /// Only the last record of each key stays.
    Compact,
    /// Both.
    CompactAndDelete,
}

impl Cleanup {
    /// True when records go by age and size.
    pub const fn deletes(self) -> bool {
        matches!(self, Self::Delete | Self::CompactAndDelete)
    }

    /// True when records give way to newer ones of their key.
    pub const fn compacts(self) -> bool {
        matches!(self, Self::Compact | Self::CompactAndDelete)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Compact => "compact",
            Self::CompactAndDelete => "compact,delete",
        }
    }
}

/// A share of a whole, exact to a millionth, written as a decimal fraction from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ratio(u32);

impl Ratio {
    const WHOLE: u32 = 1_000_000;
    /// One half.
    pub const HALF: Self = Self(Self::WHOLE / 2);

    /// The share in millionths, at most a million.
    pub const fn millionths(self) -> u32 {
        self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > 6 {
            return None;
        }
        let whole = whole.parse::<u32>().ok()?.checked_mul(Self::WHOLE)?;
        let millionths = whole.checked_add(format!("{fraction:0<6}").parse().ok()?)?;
        (millionths <= Self::WHOLE).then_some(Self(millionths))
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fraction = format!("{:06}", self.0 % Self::WHOLE);
        let fraction = fraction.trim_end_matches('0');
        write!(f, "{}.{}", self.0 / Self::WHOLE, if fraction.is_empty() { "0" } else { fraction })
    }
}

/// A topic's configuration in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// `retention.ms` and `retention.bytes`.
    pub retention: Retention,
    /// `durability`.
    pub durability: Durability,
    /// `max.message.bytes`: the largest record batch, in bytes.
    pub batch_bytes_max: u32,
    /// `min.insync.replicas`: the fewest replicas in sync for a batch to be accepted.
    pub min_insync_replicas: u16,
    /// `cleanup.policy`.
    pub cleanup: Cleanup,
    /// `delete.retention.ms`: how long a tombstone stays after compaction has met it, in milliseconds.
    pub delete_retention_ms: u64,
    /// `min.compaction.lag.ms`: a record younger than this many milliseconds is not compacted.
    pub min_compaction_lag_ms: u64,
    /// `min.cleanable.dirty.ratio`: the share of a log that must never have been compacted before that is worth while.
    pub min_dirty_ratio: Ratio,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `unclean.leader.election.enable`: whether a replica that lacks acknowledged records may lead.
    pub unclean_leader_election: bool,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            retention: Retention { time_ms: Some(RETENTION_MS_DEFAULT), bytes: None },
            durability: Durability::Sync,
            // Related to the ceiling at compile time in `limits`, and far below 32 bits.
            batch_bytes_max: BATCH_BYTES_MAX_DEFAULT as u32,
            min_insync_replicas: 1,
            cleanup: Cleanup::Delete,
            delete_retention_ms: DELETE_RETENTION_MS_DEFAULT,
            min_compaction_lag_ms: 0,
            min_dirty_ratio: Ratio::HALF,
            timestamp_type: TimestampType::CreateTime,
            unclean_leader_election: false,
        }
    }
}

/// The keys, one variant each, so that nothing that handles them can forget one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    CleanupPolicy,
    DeleteRetentionMs,
    Durability,
    MaxMessageBytes,
    TimestampType,
    MinCleanableDirtyRatio,
    MinCompactionLagMs,
    MinInsyncReplicas,
    RetentionBytes,
    RetentionMs,
    UncleanLeaderElection,
}

impl Key {
    /// Every key, in alphabetic order.
    const ALL: [Self; 11] = [
        Self::CleanupPolicy,
        Self::DeleteRetentionMs,
        Self::Durability,
        Self::MaxMessageBytes,
        Self::TimestampType,
        Self::MinCleanableDirtyRatio,
        Self::MinCompactionLagMs,
        Self::MinInsyncReplicas,
        Self::RetentionBytes,
        Self::RetentionMs,
        Self::UncleanLeaderElection,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::CleanupPolicy => "cleanup.policy",
            Self::DeleteRetentionMs => "delete.retention.ms",
            Self::Durability => "durability",
            Self::MaxMessageBytes => "max.message.bytes",
            Self::TimestampType => "message.timestamp.type",
            Self::MinCleanableDirtyRatio => "min.cleanable.dirty.ratio",
            Self::MinCompactionLagMs => "min.compaction.lag.ms",
            Self::MinInsyncReplicas => "min.insync.replicas",
            Self::RetentionBytes => "retention.bytes",
            Self::RetentionMs => "retention.ms",
            Self::UncleanLeaderElection => "unclean.leader.election.enable",
        }
    }

    /// Reads `value` into `config`, or says what is wrong with it.
    fn set(self, value: &str, config: &mut TopicConfig) -> Result<(), (String, Option<String>)> {
        match self {
            Self::CleanupPolicy => {
                config.cleanup = match value {
                    "delete,compact" => Cleanup::CompactAndDelete,
                    other => one_of(
                        other,
                        &[Cleanup::Delete, Cleanup::Compact, Cleanup::CompactAndDelete].map(|c| (c.as_str(), c)),
                    )?,
                };
            }
            Self::DeleteRetentionMs => config.delete_retention_ms = number(value, 0, i64::MAX.unsigned_abs())?,
            Self::MinCompactionLagMs => config.min_compaction_lag_ms = number(value, 0, i64::MAX.unsigned_abs())?,
            Self::MinCleanableDirtyRatio => {
                let problem = || -> (String, Option<String>) {
                    let shown = problem::excerpt(value);
                    (format!("'{shown}' is no fraction from 0 to 1 with at most six decimals"), None)
                };
                config.min_dirty_ratio = Ratio::parse(value).ok_or_else(problem)?;
            }
            Self::Durability => {
                config.durability = one_of(value, &[("sync", Durability::Sync), ("async", Durability::Async)])?;
            }
            Self::MaxMessageBytes => {
                config.batch_bytes_max = number(value, BATCH_BYTES_FLOOR, BATCH_BYTES_MAX as u32)?;
            }
            Self::TimestampType => {
                config.timestamp_type = one_of(
                    value,
                    &[("CreateTime", TimestampType::CreateTime), ("LogAppendTime", TimestampType::LogAppendTime)],
                )?;
            }
            Self::MinInsyncReplicas => config.min_insync_replicas = number(value, 1, u16::MAX)?,
            Self::RetentionBytes => config.retention.bytes = bound(value)?,
            Self::RetentionMs => config.retention.time_ms = bound(value)?,
            Self::UncleanLeaderElection => {
                config.unclean_leader_election = one_of(value, &[("true", true), ("false", false)])?;
            }
        }
        Ok(())
    }

    /// The value in force, as text that [`Key::set`] reads back.
    fn get(self, config: &TopicConfig) -> String {
        let bound = |bound: Option<u64>| bound.map_or("-1".into(), |value| value.to_string());
        match self {
            Self::CleanupPolicy => config.cleanup.as_str().into(),
            Self::DeleteRetentionMs => config.delete_retention_ms.to_string(),
            Self::MinCompactionLagMs => config.min_compaction_lag_ms.to_string(),
            Self::MinCleanableDirtyRatio => config.min_dirty_ratio.to_string(),
            Self::Durability => match config.durability {
                Durability::Sync => "sync".into(),
                Durability::Async => "async".into(),
            },
            Self::MaxMessageBytes => config.batch_bytes_max.to_string(),
            Self::TimestampType => match config.timestamp_type {
                TimestampType::CreateTime => "CreateTime".into(),
                TimestampType::LogAppendTime => "LogAppendTime".into(),
            },
            Self::MinInsyncReplicas => config.min_insync_replicas.to_string(),
            Self::RetentionBytes => bound(config.retention.bytes),
            Self::RetentionMs => bound(config.retention.time_ms),
            Self::UncleanLeaderElection => config.unclean_leader_election.to_string(),
        }
    }
}

/// A batch must at least fit its header and one small record.
const BATCH_BYTES_FLOOR: u32 = 128;

impl TopicConfig {
    /// Reads a map of what differs from the defaults. Returns every problem of it, not only the first.
    pub fn parse(map: &BTreeMap<String, String>) -> Result<Self, Vec<ConfigProblem>> {
        let mut config = Self::default();
        let mut problems = Vec::new();
        for (name, value) in map {
            let Some(key) = Key::ALL.into_iter().find(|key| key.as_str() == name) else {
                problems.push(problem::unknown_key(name, &Key::ALL.map(Key::as_str)));
                continue;
            };
            if let Err((problem, suggestion)) = key.set(value.trim(), &mut config) {
                problems.push(ConfigProblem { key: name.clone(), problem, suggestion });
            }
        }
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// Every key in alphabetic order, with its value in force and whether it is a default. Keys and values of `map` that
    /// [`TopicConfig::parse`] refuses are left out.
    pub fn entries(map: &BTreeMap<String, String>) -> Vec<(String, String, bool)> {
        let mut config = Self::default();
        let set: Vec<Key> = Key::ALL
            .into_iter()
            .filter(|key| map.get(key.as_str()).is_some_and(|value| key.set(value.trim(), &mut config).is_ok()))
            .collect();
        Key::ALL.into_iter().map(|key| (key.as_str().to_owned(), key.get(&config), !set.contains(&key))).collect()
    }

    /// Every key there is, in alphabetic order.
    pub fn keys() -> impl Iterator<Item = &'static str> {
        Key::ALL.into_iter().map(Key::as_str)
    }
}

fn one_of<T: Copy>(value: &str, choices: &[(&str, T)]) -> Result<T, (String, Option<String>)> {
    choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        problem::not_one_of(value, &names)
    })
}

fn number<T>(value: &str, min: T, max: T) -> Result<T, (String, Option<String>)>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    match value.parse::<T>() {
        Ok(number) if number >= min && number <= max => Ok(number),
        _ => Err((format!("'{}' is no number from {min} to {max}", problem::excerpt(value)), None)),
    }
}

/// A bound that -1 takes away.
fn bound(value: &str) -> Result<Option<u64>, (String, Option<String>)> {
    if value == "-1" {
        return Ok(None);
    }
    match value.parse::<u64>() {
        Ok(number) if i64::try_from(number).is_ok() => Ok(Some(number)),
        _ => Err((
            format!("'{}' is no number from 0 to {}, nor -1 for no bound", problem::excerpt(value), i64::MAX),
            None,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn problems(entries: &[(&str, &str)]) -> Vec<String> {
        TopicConfig::parse(&map(entries)).expect_err("a problem").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_empty_map_is_the_default_and_every_key_is_listed_as_one() {
        assert_eq!(TopicConfig::parse(&map(&[])), Ok(TopicConfig::default()));
        let entries = TopicConfig::entries(&map(&[]));
        assert!(entries.iter().all(|(_, _, is_default)| *is_default));
        assert_eq!(
            entries.iter().map(|(key, _, _)| key.as_str()).collect::<Vec<_>>(),
            TopicConfig::keys().collect::<Vec<_>>()
        );
        assert!(TopicConfig::keys().is_sorted());
    }

    #[test]
    fn every_key_is_read_and_shown_as_it_was_set() {
        let set = [
            ("cleanup.policy", "compact,delete"),
            ("delete.retention.ms", "9"),
            ("durability", "async"),
            ("max.message.bytes", "2000000"),
            ("message.timestamp.type", "LogAppendTime"),
            ("min.cleanable.dirty.ratio", "0.125"),
            ("min.compaction.lag.ms", "8"),
            ("min.insync.replicas", "2"),
            ("retention.bytes", "1000"),
            ("retention.ms", "-1"),
            ("unclean.leader.election.enable", "true"),
        ];
        assert_eq!(set.len(), Key::ALL.len(), "a key is missing here");
        let config = TopicConfig::parse(&map(&set)).expect("valid values");
        let expected = TopicConfig {
            retention: Retention { time_ms: None, bytes: Some(1000) },
            durability: Durability::Async,
            batch_bytes_max: 2_000_000,
            min_insync_replicas: 2,
            cleanup: Cleanup::CompactAndDelete,
            delete_retention_ms: 9,
            min_compaction_lag_ms: 8,
            min_dirty_ratio: Ratio::parse("0.125").expect("a ratio"),
            timestamp_type: TimestampType::LogAppendTime,
            unclean_leader_election: true,
        };
        assert_eq!(config, expected);
        let entries = TopicConfig::entries(&map(&set));
        for ((key, value), (shown, text, is_default)) in set.iter().zip(&entries) {
            assert_eq!((*key, *value, false), (shown.as_str(), text.as_str(), *is_default));
        }
    }

    #[test]
    fn all_problems_are_reported_at_once_with_what_was_probably_meant() {
        let found = problems(&[
            ("Retention.MS", "1"),
            ("durability", "synch"),
            ("max.message.bytes", "8388609"),
            ("min.insync.replicas", "0"),
            ("retention.bytes", "-2"),
            ("totally.unrelated", "x"),
        ]);
        assert_eq!(
            found,
            [
                "Retention.MS: there is no such key; did you mean 'retention.ms'?",
                "durability: 'synch' is none of: sync, async; did you mean 'sync'?",
                "max.message.bytes: '8388609' is no number from 128 to 8388608",
                "min.insync.replicas: '0' is no number from 1 to 65535",
                "retention.bytes: '-2' is no number from 0 to 9223372036854775807, nor -1 for no bound",
                "totally.unrelated: there is no such key",
            ]
        );
    }

    #[test]
    fn policies_and_ratios_are_read_as_kafka_writes_them() {
        let cleanup = |value| TopicConfig::parse(&map(&[("cleanup.policy", value)])).map(|config| config.cleanup);
        assert_eq!(cleanup("compact"), Ok(Cleanup::Compact));
        assert_eq!(cleanup("delete,compact"), Ok(Cleanup::CompactAndDelete));
        assert!(Cleanup::Compact.compacts() && !Cleanup::Compact.deletes() && Cleanup::CompactAndDelete.deletes());
        let found = problems(&[("cleanup.policy", "compcat")]);
        assert_eq!(
            found,
            ["cleanup.policy: 'compcat' is none of: delete, compact, compact,delete; did you mean 'compact'?"]
        );
        for (text, millionths) in [("0", 0), ("1", 1_000_000), ("0.5", 500_000), ("1.0", 1_000_000), ("0.000001", 1)] {
            assert_eq!(Ratio::parse(text).map(Ratio::millionths), Some(millionths), "{text}");
        }
        for text in ["", "1.1", "-0.5", ".5", "0.", "0.0000001", "5e-1", "NaN"] {
            assert_eq!(Ratio::parse(text), None, "{text}");
        }
        assert_eq!(Ratio::HALF.to_string(), "0.5");
    }
}
