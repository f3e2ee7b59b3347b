//! Exit codes and the two streams, without a broker.

use crate::process::streambus;

#[test]
fn wrong_usage_exits_with_two_and_says_so_on_standard_error() {
    for args in [
        &["nonsense"][..],
        &["topic", "create"],
        &["produce", "t", "-f", "%q"],
        &["produce", "t", "-f", "%k%v\\n"],
        &["consume", "t", "--from", "begining"],
        &["consume", "t", "-o", "json", "-f", "%v"],
        &["server", "--check", "--set", "limits.conections=1"],
    ] {
        let ended = streambus(args, "");
        assert_eq!(ended.code, 2, "{args:?}: {}", ended.stderr);
        assert!(ended.stdout.is_empty() && !ended.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_slip_in_a_command_or_setting_is_recognised() {
    assert!(streambus(&["topic", "crate", "x"], "").stderr.contains("create"));
    let ended = streambus(&["server", "--check", "--set", "limits.conections=1"], "");
    assert!(ended.stderr.contains("did you mean `limits.connections`"), "{}", ended.stderr);
}

#[test]
fn nobody_at_the_address_is_a_failure_that_names_it_and_in_json_mode_is_json() {
    // A port that was free a moment ago.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let ended = streambus(&["-b", &address, "--timeout", "2s", "topic", "list"], "");
    assert!(ended.code == 1 || ended.code == 6, "{ended:?}");
    assert!(ended.stderr.contains(&address), "{}", ended.stderr);
    let ended = streambus(&["-b", &address, "--timeout", "2s", "topic", "list", "-o", "json"], "");
    let error: serde_json::Value = serde_json::from_str(&ended.stderr).unwrap();
    assert_eq!(error["error"]["exit"], ended.code);
    assert!(ended.stdout.is_empty());
}

#[test]
fn help_version_and_completion_are_answers_on_standard_output() {
    for args in [&["--help"][..], &["topic", "--help"], &["version"], &["--version"], &["completion", "bash"]] {
        let ended = streambus(args, "");
        assert_eq!(ended.code, 0, "{args:?}");
        assert!(!ended.stdout.is_empty() && ended.stderr.is_empty(), "{args:?}: {}", ended.stderr);
    }
    let version: serde_json::Value = serde_json::from_str(&streambus(&["version", "-o", "json"], "").stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_configuration_shows_what_differs_and_where_it_comes_from() {
    let ended = streambus(&["config", "show", "--set", "limits.connections=20000", "-o", "json"], "");
    let rows: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(rows[0]["key"], "limits.connections");
    assert_eq!(rows[0]["value"], "20000");
    assert!(rows[0]["origin"].as_str().unwrap().starts_with("flag"));
    assert_eq!(rows.as_array().unwrap().len(), 1);
}
