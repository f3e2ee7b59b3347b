//! What a configuration that is read again changes in a running broker: some settings at once, the rest at the next start.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::BrokerConfig;
use super::setting::{Reload, Setting};
use super::table::SETTINGS;

/// The settings that a running broker takes over, as the parts that obey them see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveSettings {
    /// Bytes a second that the scrub reads; zero switches it off.
    pub scrub_rate: u64,
    /// Bytes a second that compaction copies; zero switches it off.
    pub compaction_rate: u64,
    /// Between two runs of retention.
    pub retention_interval: Duration,
}

impl LiveSettings {
    /// Those of `config`.
    pub fn of(config: &BrokerConfig) -> Self {
        Self {
            scrub_rate: config.storage.scrub_rate,
            compaction_rate: config.storage.compaction_rate,
            retention_interval: config.storage.retention_interval,
        }
    }
}

/// One setting whose value is another than before, both as a person writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The setting's key.
    pub key: &'static str,
    /// What it was.
    pub from: String,
    /// What it is to be.
    pub to: String,
}

/// What came of a configuration that was read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// In force from now on.
    pub taken: Vec<Change>,
    /// In force from the next start on; until then the broker runs with `from`.
    pub waiting: Vec<Change>,
}

/// The settings of a running broker.
#[derive(Debug)]
pub(crate) struct LiveConfig {
    /// What the broker was started with: settings that wait for a start are compared with this.
    started: BrokerConfig,
    /// What was read last: live settings are compared with this.
    latest: Mutex<BrokerConfig>,
    live: watch::Sender<LiveSettings>,
}

impl LiveConfig {
    pub(crate) fn new(config: BrokerConfig) -> Self {
        let (live, _) = watch::channel(LiveSettings::of(&config));
        Self { started: config.clone(), latest: Mutex::new(config), live }
    }

    /// The live settings, now and whenever they change.
    pub(crate) fn watch(&self) -> watch::Receiver<LiveSettings> {
        self.live.subscribe()
    }

    /// Takes over what can change in a running broker.
    pub(crate) fn reload(&self, config: BrokerConfig) -> Reloaded {
        let mut latest = self.latest.lock();
        let reloaded = Reloaded {
            taken: changes(&latest, &config, Reload::Live),
            waiting: changes(&self.started, &config, Reload::Restart),
        };
        let next = LiveSettings::of(&config);
        self.live.send_if_modified(|live| std::mem::replace(live, next) != next);
        *latest = config;
        reloaded
    }
}

/// The settings of one kind that differ, in the table's order.
fn changes(from: &BrokerConfig, to: &BrokerConfig, reload: Reload) -> Vec<Change> {
    let change = |setting: &Setting| {
        let (from, to) = (setting.kind.show(from), setting.kind.show(to));
        (setting.reload == reload && from != to).then_some(Change { key: setting.key, from, to })
    };
    SETTINGS.iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrubbing(rate: u64) -> BrokerConfig {
        let mut config = BrokerConfig::default();
        config.storage.scrub_rate = rate;
        config
    }

    fn keys(changes: &[Change]) -> Vec<&str> {
        changes.iter().map(|change| change.key).collect()
    }

    #[test]
    fn a_live_setting_is_taken_over_once_and_told_to_those_who_obey_it() {
        let live = LiveConfig::new(BrokerConfig::default());
        let mut obeying = live.watch();
        let reloaded = live.reload(scrubbing(1 << 20));
        assert_eq!(keys(&reloaded.taken), ["storage.scrub_rate"]);
        assert_eq!((reloaded.taken[0].to.as_str(), reloaded.waiting.len()), ("1MiB/s", 0));
        assert!(obeying.has_changed().expect("it lives"));
        assert_eq!(obeying.borrow_and_update().scrub_rate, 1 << 20);
        assert_eq!(live.reload(scrubbing(1 << 20)), Reloaded::default(), "the same again is no news");
        assert!(!obeying.has_changed().expect("it lives"));
    }

    /// Catches a comparison with what was read last: the broker would say once, and then never again, that it runs with
    /// another value than the file has.
    #[test]
    fn a_setting_that_waits_for_a_start_is_named_each_time() {
        let live = LiveConfig::new(BrokerConfig::default());
        let mut config = scrubbing(1 << 20);
        config.limits.connections += 1;
        for taken in [1, 0] {
            let reloaded = live.reload(config.clone());
            assert_eq!((reloaded.taken.len(), keys(&reloaded.waiting)), (taken, vec!["limits.connections"]));
        }
    }

    /// Catches a setting that the table calls live and nobody is told of, and the other way round.
    #[test]
    fn the_table_calls_live_what_a_reload_takes_over() {
        let live: Vec<_> = SETTINGS.iter().filter(|s| s.reload == Reload::Live).map(|s| s.key).collect();
        // The level is the log's own affair: `telemetry` takes it over.
        assert_eq!(live, ["storage.retention_interval", "storage.scrub_rate", "storage.compaction_rate", "log.level"]);
    }
}
