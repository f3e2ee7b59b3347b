//! Loading from end to end: who wins, what is refused, and the exact words of every refusal.

use std::path::PathBuf;
use std::time::Duration;

use super::*;

fn file(name: &str, text: &str) -> (PathBuf, String) {
    (PathBuf::from(name), text.to_owned())
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn from_file(text: &str) -> Result<Effective, ConfigErrors> {
    load(LoadRequest { files: vec![file("s.toml", text)], ..LoadRequest::default() })
}

fn refusal(request: LoadRequest) -> String {
    load(request).expect_err("the configuration must be refused").to_string()
}

/// The refusal of one file with one problem, without the headline.
fn file_refusal(text: &str) -> String {
    let all = refusal(LoadRequest { files: vec![file("s.toml", text)], ..LoadRequest::default() });
    all.strip_prefix("the configuration has a problem; none of it takes effect\n\n").unwrap_or(&all).to_owned()
}

fn origin_of(effective: &Effective, key: &str) -> String {
    let row = effective.rows().into_iter().find(|row| row.key == key).expect("the key exists");
    format!("{} from {}", row.value, row.origin)
}

#[test]
fn nothing_configured_is_the_defaults_on_loopback() {
    let effective = load(LoadRequest::default()).expect("defaults are legal");
    assert_eq!(effective.config(), &BrokerConfig::default());
    assert!(effective.rows().iter().all(|row| row.value == row.default && row.origin == Origin::Default));
    assert!(effective.warnings().is_empty(), "{:?}", effective.warnings());
}

/// Catches a source applied in the wrong order, and an origin that names another source than the value's.
#[test]
fn flags_win_over_environment_over_later_files_over_earlier_files() {
    let text = |n: u32| format!("[limits]\nconnections = {n}\n");
    let request = |env: &[(&str, &str)], flags: &[(&str, &str)]| LoadRequest {
        files: vec![file("a.toml", &text(2000)), file("conf.d/b.toml", &text(3000))],
        env: pairs(env),
        flags: pairs(flags),
    };
    let env = [("STREAMBUS__LIMITS__CONNECTIONS", "4000")];
    let flags = [("limits.connections", "5_000")];
    for (request, expected) in [
        (request(&[], &[]), "3000 from file conf.d/b.toml:2:15"),
        (request(&env, &[]), "4000 from env STREAMBUS__LIMITS__CONNECTIONS"),
        (request(&env, &flags), "5000 from flag --limits.connections"),
    ] {
        assert_eq!(origin_of(&load(request).expect("legal"), "limits.connections"), expected);
    }
}

#[test]
fn files_merge_setting_by_setting() {
    let effective = load(LoadRequest {
        files: vec![
            file("s.toml", "[http]\nlisten = \"127.0.0.1:1\"\nconnections = 7\n[log]\nformat = \"json\"\n"),
            file("conf.d/http.toml", "http.connections = 8\n"),
        ],
        ..LoadRequest::default()
    })
    .expect("legal");
    let config = effective.into_config();
    assert_eq!((config.http.connections, config.http.listen.port, config.log.format), (8, 1, LogFormat::Json));
}

#[test]
fn every_kind_of_value_reaches_its_field() {
    let config = load(LoadRequest {
        files: vec![file(
            "s.toml",
            "[broker]\nid = 3\nrack = \"a\"\n[client]\nadvertise = \"b1:9092\"\n[storage]\ndata_dir = \"/d\"\n\
             segment_bytes = \"64MiB\"\ndisk_reserve_percent = \"7%\"\nscrub_rate = \"2MiB/s\"\n",
        )],
        env: pairs(&[
            ("STREAMBUS__LIFECYCLE__DRAIN_GRACE", "1500ms"),
            ("STREAMBUS_BROKERS", "not ours"),
            ("PATH", "x"),
        ]),
        flags: pairs(&[("listen", "[::1]:0"), ("log-level", "debug")]),
    })
    .expect("legal")
    .into_config();
    assert_eq!((config.broker.id.get(), config.broker.rack.as_str()), (3, "a"));
    assert_eq!(config.client.advertised(5).to_string(), "b1:9092");
    assert_eq!(config.storage.data_dir, PathBuf::from("/d"));
    assert_eq!(config.storage.segment_bytes, 64 << 20);
    assert_eq!((config.storage.disk_reserve_percent, config.storage.scrub_rate), (7, 2 << 20));
    assert_eq!(config.lifecycle.drain_grace, Duration::from_millis(1500));
    assert_eq!((config.client.listen.to_string().as_str(), config.log.level.as_str()), ("[::1]:0", "debug"));
}

#[test]
fn an_empty_advertise_takes_an_earlier_one_back() {
    let effective = load(LoadRequest {
        files: vec![file("s.toml", "client.advertise = \"b1:9092\"\n")],
        env: pairs(&[("STREAMBUS__CLIENT__ADVERTISE", "")]),
        ..LoadRequest::default()
    })
    .expect("legal");
    assert_eq!(effective.config().client.advertised(9092).to_string(), "127.0.0.1:9092");
}

#[test]
fn unknown_names_in_a_file_point_to_the_name() {
    assert_eq!(
        file_refusal("# limits\n[limits]\nconections = 5\n"),
        "unknown key `conections`\n --> s.toml:3:1\n3 | conections = 5\n  | ^^^^^^^^^^\n  help: did you mean `connections`?"
    );
    assert_eq!(
        file_refusal("[storage]\n  retention_hours = 24\n"),
        "unknown key `retention_hours`\n --> s.toml:2:3\n2 |   retention_hours = 24\n  |   ^^^^^^^^^^^^^^^\n  \
         help: did you mean `retention_interval`?"
    );
    assert_eq!(
        file_refusal("data_dir = \"x\"\n"),
        "unknown key `data_dir`\n --> s.toml:1:1\n1 | data_dir = \"x\"\n  | ^^^^^^^^\n  \
         help: did you mean `storage.data_dir`?"
    );
    assert_eq!(
        file_refusal("[limit]\nconnections = 5\n"),
        "unknown section `limit`\n --> s.toml:1:2\n1 | [limit]\n  |  ^^^^^\n  help: did you mean `limits`?"
    );
    assert_eq!(file_refusal("[zzz]\n"), "unknown section `zzz`\n --> s.toml:1:2\n1 | [zzz]\n  |  ^^^");
    assert_eq!(
        file_refusal("limits = 3\n"),
        "`limits` is a section, not a value\n --> s.toml:1:1\n1 | limits = 3\n  | ^^^^^^\n  \
         help: write `[limits]` on a line of its own, and its settings below"
    );
}

#[test]
fn wrong_values_in_a_file_point_to_the_value_and_say_what_to_write() {
    for (line, message, width, help) in [
        (
            "limits.inflight_bytes = 67108864",
            "`limits.inflight_bytes` needs a unit",
            8,
            "write \"64MiB\" (units: B, KiB, MiB, GiB, TiB)",
        ),
        (
            "limits.inflight_bytes = -1",
            "`limits.inflight_bytes` needs a unit",
            2,
            "write \"64MiB\" (units: B, KiB, MiB, GiB, TiB)",
        ),
        (
            "limits.inflight_bytes = \"64\"",
            "`limits.inflight_bytes` needs a unit",
            4,
            "write \"64B\" (units: B, KiB, MiB, GiB, TiB)",
        ),
        (
            "limits.inflight_bytes = \"64MB\"",
            "`limits.inflight_bytes` has the unknown unit `MB`",
            6,
            "did you mean `MiB`?",
        ),
        ("limits.idle_timeout = \"5x\"", "`limits.idle_timeout` has the unknown unit `x`", 4, "units: ms, s, m, h, d"),
        ("limits.idle_timeout = 30", "`limits.idle_timeout` needs a unit", 2, "write \"30s\" (units: ms, s, m, h, d)"),
        (
            "limits.idle_timeout = \"soon\"",
            "`limits.idle_timeout` must be a whole number and its unit",
            6,
            "for example \"30s\" (units: ms, s, m, h, d)",
        ),
        (
            "limits.idle_timeout = true",
            "`limits.idle_timeout` must be a number and its unit, in quotes, not true or false",
            4,
            "",
        ),
        ("limits.idle_timeout = \"8d\"", "`limits.idle_timeout` is out of range: 1s to 7d", 4, ""),
        ("limits.idle_timeout = \"99999999999999999999d\"", "`limits.idle_timeout` is too large", 23, ""),
        (
            "storage.scrub_rate = \"4MiB\"",
            "`storage.scrub_rate` has the unknown unit `MiB`",
            6,
            "units: B/s, KiB/s, MiB/s, GiB/s, TiB/s",
        ),
        ("storage.disk_reserve_percent = \"51%\"", "`storage.disk_reserve_percent` is out of range: 0% to 50%", 5, ""),
        ("storage.disk_reserve_percent = \"900%\"", "`storage.disk_reserve_percent` is out of range: 0% to 50%", 6, ""),
        (
            "limits.connections = \"5\"",
            "`limits.connections` must be a whole number without quotes, not a string",
            3,
            "",
        ),
        (
            "limits.connections = 1.5",
            "`limits.connections` must be a whole number without quotes, not a number with a fraction",
            3,
            "",
        ),
        ("limits.connections = 0", "`limits.connections` is out of range: 1 to 1000000", 1, ""),
        ("limits.connections = -5", "`limits.connections` is out of range: 1 to 1000000", 2, ""),
        ("limits.connections = [1]", "`limits.connections` must be a whole number without quotes, not a list", 3, ""),
        ("broker.id = 4294967296", "`broker.id` is out of range: 0 to 4294967294", 10, ""),
        (
            "http.listen = \"8080\"",
            "`http.listen` must be a host and a port, such as \"127.0.0.1:9092\" or \"[::1]:9092\"",
            6,
            "",
        ),
        (
            "http.listen = 8080",
            "`http.listen` must be a host and a port, such as \"127.0.0.1:9092\" or \"[::1]:9092\", not a number",
            4,
            "",
        ),
        ("storage.data_dir = \"\"", "`storage.data_dir` must be a directory, such as \"./data\"", 2, ""),
        ("log.format = \"jsno\"", "`log.format` must be text or json", 6, "did you mean `json`?"),
        ("log.format = \"xml\"", "`log.format` must be text or json", 5, ""),
        (
            "log.level = \"inof\"",
            "`log.level` must be a level (error, warn, info, debug, trace) or directives such as \"info,streambus_storage=debug\"",
            6,
            "",
        ),
    ] {
        let column = line.find("= ").expect("an assignment") + 3;
        let help = if help.is_empty() { String::new() } else { format!("\n  help: {help}") };
        let expected = format!(
            "{message}\n --> s.toml:1:{column}\n1 | {line}\n  | {}{}{help}",
            " ".repeat(column - 1),
            "^".repeat(width)
        );
        assert_eq!(file_refusal(line), expected);
    }
    let long = format!("broker.rack = \"{}\"", "r".repeat(256));
    assert!(file_refusal(&long).starts_with("`broker.rack` has 256 bytes, at most 255 are allowed"));
}

#[test]
fn a_file_that_is_no_toml_is_pointed_at() {
    let text = file_refusal("[limits]\nconnections = \n");
    assert!(text.starts_with("not valid TOML: "), "{text}");
    assert!(text.contains(" --> s.toml:2:1"), "{text}");
    let twice = file_refusal("[limits]\nconnections = 5\nconnections = 6\n");
    assert!(twice.contains("duplicate key") && twice.contains(" --> s.toml:3:1"), "{twice}");
}

#[test]
fn unknown_and_wrong_variables_and_flags_are_refused_by_name() {
    assert_eq!(
        refusal(LoadRequest {
            env: pairs(&[("STREAMBUS__LIMITS__CONECTIONS", "5"), ("STREAMBUS__LIMITS__CONNECTIONS", "many")]),
            flags: pairs(&[("data-dri", "x"), ("listen", "x")]),
            ..LoadRequest::default()
        }),
        "the configuration has 4 problems; none of it takes effect\n\n\
         no setting has this environment variable\n --> env STREAMBUS__LIMITS__CONECTIONS\n  \
         help: did you mean `STREAMBUS__LIMITS__CONNECTIONS`?\n\n\
         no setting `data-dri`\n --> flag --data-dri\n  help: did you mean `data-dir`?\n\n\
         `limits.connections` must be a whole number\n --> env STREAMBUS__LIMITS__CONNECTIONS\n\n\
         `client.listen` must be a host and a port, such as \"127.0.0.1:9092\" or \"[::1]:9092\"\n \
         --> flag --listen"
    );
}

/// A value that a stronger source overrides is still wrong: catches errors that come back when the override goes.
#[test]
fn an_overridden_value_is_checked_too() {
    let text = refusal(LoadRequest {
        files: vec![file("s.toml", "limits.connections = 0\n")],
        flags: pairs(&[("limits.connections", "5")]),
        ..LoadRequest::default()
    });
    assert!(text.contains("`limits.connections` is out of range"), "{text}");
}

#[test]
fn settings_that_contradict_each_other_are_refused_where_they_were_set() {
    for (text, message) in [
        (
            "limits.connections_per_ip = 20000",
            "`limits.connections_per_ip` (20000) is more than `limits.connections` (10000)",
        ),
        (
            "limits.connection_inflight_bytes = \"1GiB\"",
            "`limits.connection_inflight_bytes` (1GiB) is more than `limits.inflight_bytes` (64MiB)",
        ),
        (
            "limits.handshake_timeout = \"1h\"",
            "`limits.handshake_timeout` (1h) is longer than `limits.idle_timeout` (10m)",
        ),
        (
            "cluster.round_trip_max = \"500ms\"",
            "`cluster.round_trip_max` (500ms) is more than a fifth of `cluster.session_timeout` (2s)",
        ),
        ("http.header_timeout = \"1m\"", "`http.header_timeout` (1m) is longer than `http.request_timeout` (30s)"),
        ("http.body_bytes_max = \"1GiB\"", "`http.body_bytes_max` (1GiB) is more than `http.inflight_bytes` (32MiB)"),
        (
            "http.listen = \"0.0.0.0:9092\"",
            "`http.listen` (0.0.0.0:9092) takes the port of `client.listen` (127.0.0.1:9092)",
        ),
        ("client.advertise = \"0.0.0.0:9092\"", "`client.advertise` is 0.0.0.0:9092, and nobody can connect to that"),
        ("storage.segment_bytes = \"100000001B\"", "`storage.segment_bytes` (100000001B) is no multiple of 4KiB"),
    ] {
        let refused = file_refusal(text);
        assert!(refused.starts_with(&format!("{message}\n --> s.toml:1:")), "{refused}");
        assert!(refused.contains("\n  help: "), "{refused}");
    }
    let swapped =
        refusal(LoadRequest { env: pairs(&[("STREAMBUS__LIMITS__CONNECTIONS", "10")]), ..LoadRequest::default() });
    assert!(swapped.contains("(1000) is more than `limits.connections` (10)\n --> default"), "{swapped}");
}

#[test]
fn errors_are_data_too() {
    let errors = from_file("limits.conections = 5\nlog.format = 1\n").expect_err("two errors");
    let json = serde_json::to_value(&errors).expect("serialises");
    assert_eq!(
        json,
        serde_json::json!({"errors": [
            {"message": "unknown key `conections`", "key": null, "origin": "file s.toml:1:8",
             "line": "limits.conections = 5", "help": "did you mean `connections`?"},
            {"message": "`log.format` must be text in quotes, not a number", "key": "log.format",
             "origin": "file s.toml:2:14", "line": "log.format = 1", "help": null},
        ]})
    );
    let rows = serde_json::to_value(from_file("").expect("legal").rows()).expect("serialises");
    assert_eq!(rows[0], serde_json::json!({"key": "broker.id", "value": "1", "default": "1", "origin": "default"}));
}

#[test]
fn an_open_listener_is_warned_about() {
    let effective = from_file("client.listen = \"0.0.0.0:9092\"\nhttp.listen = \"0.0.0.0:8080\"\n").expect("legal");
    let warnings = effective.warnings();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[2].contains("clients are told localhost:9092"), "{warnings:?}");
}

/// The table's own rules: names that make legal keys and variables, no flag twice, every default inside its range and
/// readable in the spelling that we print.
#[test]
fn the_table_is_consistent() {
    let mut names: Vec<&str> = settings().iter().flat_map(|s| [Some(s.key), s.flag]).flatten().collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "a key or flag stands for two settings");
    assert_eq!(layer::sections().count(), 9, "a section is split, or one was added without its struct");
    let defaults = BrokerConfig::default();
    for setting in settings() {
        let legal = |b: u8| b.is_ascii_lowercase() || matches!(b, b'_' | b'.');
        assert!(setting.key.bytes().all(legal) && setting.key.matches('.').count() == 1, "{}", setting.key);
        let shown = setting.kind.show(&defaults);
        let mut config = defaults.clone();
        let assigned = setting.kind.assign(&setting::Raw::Untyped(shown.clone()), &mut config);
        assert_eq!(assigned, Ok(()), "the default of {} does not parse: {shown}", setting.key);
        assert_eq!(config, defaults, "{} does not read back what it shows", setting.key);
    }
}

/// A row that writes to another row's field would pass every other test here.
#[test]
fn every_setting_has_its_own_field() {
    let defaults = BrokerConfig::default();
    for setting in settings() {
        let other = match &setting.kind {
            setting::Kind::Bytes { max, .. } => unit::show_bytes(*max),
            setting::Kind::Rate { max, .. } => unit::show_rate(*max),
            setting::Kind::Time { max, .. } => unit::show_duration(*max),
            setting::Kind::Count { max, .. } => max.to_string(),
            setting::Kind::Percent { max, .. } => format!("{max}%"),
            setting::Kind::Broker { .. } => "77".to_owned(),
            setting::Kind::Address { .. } | setting::Kind::OptionalAddress { .. } => "elsewhere:77".to_owned(),
            setting::Kind::Peers { .. } => "1@a:1,2@b:2".to_owned(),
            setting::Kind::Path { .. } | setting::Kind::Text { .. } => "warn".to_owned(),
            setting::Kind::Choice { words, .. } => words.last().map(|word| (*word).to_owned()).unwrap_or_default(),
        };
        let mut config = defaults.clone();
        setting.kind.assign(&setting::Raw::Untyped(other), &mut config).expect("inside the range");
        let changed: Vec<&str> =
            settings().iter().filter(|s| s.kind.show(&config) != s.kind.show(&defaults)).map(|s| s.key).collect();
        assert_eq!(changed, [setting.key]);
    }
}

#[test]
fn the_commented_file_is_legal_and_uncommented_it_is_the_defaults() {
    let text = reference::commented_file();
    assert_eq!(from_file(&text).expect("comments only").config(), &BrokerConfig::default());
    let uncommented: String = text
        .lines()
        .map(|line| if line.starts_with("# ") { line } else { line.trim_start_matches('#') })
        .flat_map(|line| [line, "\n"])
        .collect();
    let effective = from_file(&uncommented).expect("the defaults are legal");
    assert_eq!(effective.config(), &BrokerConfig::default());
    assert!(effective.rows().iter().all(|row| row.origin != Origin::Default), "a setting is missing");
}

/// Set `STREAMBUS_WRITE_DOCS=1` to write the page instead of comparing it.
#[test]
fn the_reference_page_is_up_to_date() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let generated = reference::markdown();
    if std::env::var_os("STREAMBUS_WRITE_DOCS").is_some() {
        std::fs::write(&path, &generated).expect("the page can be written");
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == generated,
        "docs/configuration.md is out of date; write it with \
         `STREAMBUS_WRITE_DOCS=1 cargo test --release -p streambus-broker reference_page`"
    );
}
