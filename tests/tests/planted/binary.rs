//! The program with the mistakes says so, and the shipped one cannot make any.

use std::process::Command;

use streambus_planted::Defect;
use streambus_tests::process::{PLANTED_VARIABLE, binary, planted_binary};

#[test]
fn the_shipped_program_knows_nothing_of_planted_bugs() {
    let holds = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    let shipped = std::fs::read(binary()).expect("the binary can be read");
    let planted = std::fs::read(planted_binary()).expect("the planted binary can be read");
    for text in [PLANTED_VARIABLE].into_iter().chain(Defect::ALL.iter().map(|defect| defect.name())) {
        assert!(!holds(&shipped, text), "the shipped binary holds {text:?}");
        assert!(holds(&planted, text), "the planted binary does not hold {text:?}: this test cannot find it");
    }
    let version = Command::new(binary()).arg("--version").env(PLANTED_VARIABLE, "forgotten-vote").output();
    let version = version.expect("the binary runs");
    assert!(!String::from_utf8_lossy(&version.stdout).contains("planted"), "{version:?}");
    assert!(version.stderr.is_empty(), "{version:?}");
}

#[test]
fn the_program_with_mistakes_says_so() {
    let run = |bug: &str, arguments: &[&str]| {
        let output = Command::new(planted_binary()).args(arguments).env(PLANTED_VARIABLE, bug).output();
        let output = output.expect("the planted binary runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    for arguments in [["--version"], ["version"]] {
        let (ok, stdout, stderr) = run("ack-before-sync", &arguments);
        assert!(ok && stdout.contains("planted-bugs"), "{stdout}{stderr}");
        assert!(stderr.contains("PLANTED BUG ack-before-sync"), "{stderr}");
    }
    let (ok, _, stderr) = run("ack-befor-sync", &["version"]);
    assert!(!ok && stderr.contains("ack-before-sync") && stderr.contains("forgotten-vote"), "{stderr}");
}
