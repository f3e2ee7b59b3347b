//! Logs: `tracing` events to stderr, as text for people or JSON for collectors, chosen by level and module.
//!
//! Installing is the composition root's act, once a process. Tests that want to see events use [`subscriber`] with
//! `tracing::subscriber::with_default`, which is bound to their thread.

use std::fmt;
use std::io;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::reload;

use crate::config::{LogConfig, LogFormat};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A word that is no level. Configuration refuses it first.
    #[error("`{0}` is no log level")]
    UnknownLevel(String),
    /// A directive by module that does not parse.
    #[error("log directives: {0}")]
    Directives(#[from] tracing_subscriber::filter::ParseError),
    /// The process already has a subscriber.
    #[error("logging is already set up in this process")]
    AlreadyInstalled(#[from] tracing::subscriber::SetGlobalDefaultError),
    /// The filter of a running process could not be replaced.
    #[error("the filter of the log cannot be replaced: {0}")]
    Filter(#[from] reload::Error),
}

/// Proof that logging is installed for the whole process. Events are written as they happen, so there is nothing to
/// flush; the guard exists so that only its owner can say that telemetry is up.
#[must_use = "the guard is the proof that logs go somewhere"]
pub struct TelemetryGuard(ReplaceFilter);

type ReplaceFilter = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

impl fmt::Debug for TelemetryGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TelemetryGuard").finish_non_exhaustive()
    }
}

impl TelemetryGuard {
    /// Chooses by `level` from now on.
    ///
    /// # Errors
    /// It does not parse; the old one stays.
    pub fn set_level(&self, level: &str) -> Result<(), TelemetryError> {
        let filter = parse_level(level)?;
        Ok((self.0)(filter)?)
    }
}

/// Sends this process's events to stderr. Call it once, before anything else starts.
///
/// # Errors
/// The level does not parse, or a subscriber is installed already.
pub fn install(config: &LogConfig) -> Result<TelemetryGuard, TelemetryError> {
    let (subscriber, guard) = subscriber(config, io::stderr)?;
    tracing::subscriber::set_global_default(subscriber)?;
    Ok(guard)
}

/// A subscriber that writes to `writer`, not installed anywhere, and what changes its level.
///
/// # Errors
/// The level does not parse.
pub fn subscriber<W>(
    config: &LogConfig,
    writer: W,
) -> Result<(Box<dyn Subscriber + Send + Sync>, TelemetryGuard), TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = parse_level(&config.level)?;
    let builder = tracing_subscriber::fmt().with_writer(writer);
    Ok(match config.format {
        LogFormat::Text => {
            // Escape codes would end up in files and collectors: colour is the command line tool's affair.
            let builder = builder.with_ansi(false).with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            (Box::new(builder.finish()), TelemetryGuard(Box::new(move |filter| handle.reload(filter))))
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            (Box::new(builder.finish()), TelemetryGuard(Box::new(move |filter| handle.reload(filter))))
        }
    })
}

/// Whether `text` is a level or a list of directives.
///
/// # Errors
/// It is not; the error says which part.
pub fn check_level(text: &str) -> Result<(), TelemetryError> {
    parse_level(text).map(|_| ())
}

/// The filter itself takes any word for the name of a target, so that a mistyped level would silence the broker.
/// Directives without `=` must therefore be levels.
fn parse_level(text: &str) -> Result<EnvFilter, TelemetryError> {
    for directive in text.split(',').map(str::trim).filter(|directive| !directive.contains(['=', '['])) {
        // The parser reads "nothing" as "error".
        if directive.is_empty() || directive.parse::<LevelFilter>().is_err() {
            return Err(TelemetryError::UnknownLevel(directive.to_owned()));
        }
    }
    Ok(EnvFilter::try_new(text)?)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines_of(config: &LogConfig) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let (subscriber, _guard) = subscriber(config, move || writer.clone()).expect("the level parses");
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(topic = "orders", "created");
            tracing::debug!("hidden at info");
        });
        String::from_utf8(captured.0.lock().expect("not poisoned").clone()).expect("logs are text")
    }

    /// Catches a format switched the wrong way round, and colour codes in a file.
    #[test]
    fn json_is_one_object_a_line_and_text_has_no_escape_codes() {
        let json = lines_of(&LogConfig { format: LogFormat::Json, level: "info".to_owned() });
        let event: serde_json::Value = serde_json::from_str(json.trim()).expect("one JSON object");
        assert_eq!((&event["message"], &event["topic"]), (&"created".into(), &"orders".into()));
        let text = lines_of(&LogConfig::default());
        assert!(text.contains("created") && !text.contains('\u{1b}'), "{text}");
    }

    /// Catches a level that is parsed and not put in force, in either format.
    #[test]
    fn the_level_changes_while_it_runs_and_a_mistyped_one_changes_nothing() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let captured = Captured::default();
            let writer = captured.clone();
            let config = LogConfig { format, level: "info".to_owned() };
            let (subscriber, guard) = subscriber(&config, move || writer.clone()).expect("the level parses");
            tracing::subscriber::with_default(subscriber, || {
                tracing::debug!("one");
                guard.set_level("debug").expect("a level");
                tracing::debug!("two");
                assert!(guard.set_level("inof").is_err());
                tracing::debug!("three");
                guard.set_level("warn").expect("a level");
                tracing::info!("four");
            });
            let text = String::from_utf8(captured.0.lock().expect("not poisoned").clone()).expect("logs are text");
            let seen = ["one", "two", "three", "four"].map(|word| text.contains(word));
            assert_eq!(seen, [false, true, true, false], "{text}");
        }
    }

    #[test]
    fn directives_choose_by_module_and_a_mistyped_level_is_refused() {
        let level = format!("error,{}=debug", module_path!());
        assert!(lines_of(&LogConfig { level, ..LogConfig::default() }).contains("hidden at info"));
        for text in ["inof", "info,wran", "streambus=loud", ""] {
            assert!(check_level(text).is_err(), "{text:?} is accepted");
        }
        for text in ["info", "WARN", "off", "info,streambus_storage=debug"] {
            assert!(check_level(text).is_ok(), "{text:?} is refused");
        }
    }
}
