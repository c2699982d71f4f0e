//! The program as somebody starts it with wrong settings.

use std::process::{Command, Output};

fn run(settings: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_edge"))
        .env_clear()
        .envs(settings.iter().copied())
        .output()
        .expect("the program starts")
}

#[test]
fn everything_that_is_missing_is_told_at_once() {
    let output = run(&[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{said}");
    for name in ["CALL_SERVICE_URL", "CALL_SERVICE_API_KEY", "EDGE_TOKEN_KEYS"] {
        assert!(said.contains(&format!("  {name} is not set")), "{name}: {said}");
    }
    assert_eq!(said.lines().count(), 4, "{said}");
}

#[test]
fn everything_that_is_wrong_is_told_at_once_and_never_shown() {
    let wrong = [
        ("CALL_SERVICE_URL", "canary"),
        ("CALL_SERVICE_API_KEY", "canary\u{7f}"),
        ("EDGE_TOKEN_KEYS", "canary"),
        ("EDGE_ADDR", "canary"),
        ("AGENT_ENDPOINT_ALLOW", "10.0.0.0/99"),
        ("EDGE_DRAIN_SECONDS", "canary"),
        ("EDGE_MAX_CONNECTIONS", "canary"),
    ];
    let output = run(&wrong);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{said}");
    for (name, _) in wrong {
        assert!(said.contains(&format!("  {name} ")), "{name}: {said}");
    }
    assert!(!said.contains("canary"), "{said}");
}
