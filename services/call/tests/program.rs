//! The program as somebody starts it with wrong settings.

use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_call-service");

fn run(arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .env_clear()
        .envs(settings.iter().copied())
        .output()
        .expect("the program starts")
}

fn complaint(output: &Output) -> String {
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr.clone()).expect("text")
}

#[test]
fn everything_that_is_missing_is_told_at_once() {
    let output = run(&[], &[]);
    let said = complaint(&output);
    assert_eq!(output.status.code(), Some(64), "{said}");
    for name in [
        "DATABASE_URL",
        "CREDENTIAL_KEYS",
        "TOKEN_KEYS",
        "API_KEYS",
        "WEBHOOK_BASE_URL",
    ] {
        assert!(said.contains(&format!("  {name} is not set")), "{name}: {said}");
    }
    assert_eq!(said.lines().count(), 6, "{said}");
}

#[test]
fn everything_that_is_wrong_is_told_at_once_and_never_shown() {
    let wrong = [
        ("DATABASE_URL", "postgres://user:canary@host/database"),
        ("DB_POOL_SIZE", "canary"),
        ("CALL_SERVICE_ADDR", "canary"),
        ("WEBHOOK_BASE_URL", "http://canary.example"),
        ("CREDENTIAL_KEYS", "1:canary"),
        ("TOKEN_KEYS", "canary"),
        ("API_KEYS", "crm:everything:canary"),
        ("EXOTEL_API_KEY", "canary"),
        ("EXOTEL_SUBDOMAIN", "canary.example"),
        ("EXOTEL_CALLER_ID", "canary"),
        ("AGENT_ENDPOINT_ALLOW", "10.0.0.0/canary"),
        ("REFLECTION", "canary"),
        ("SWEEP_AFTER", "canary"),
    ];
    let output = run(&["serve"], &wrong);
    let said = complaint(&output);
    assert_eq!(output.status.code(), Some(64), "{said}");
    for (name, _) in wrong
        .iter()
        .filter(|(name, _)| !matches!(*name, "DATABASE_URL" | "EXOTEL_API_KEY"))
    {
        assert!(said.contains(&format!("  {name} ")), "{name}: {said}");
    }
    // The rest of a half-given set.
    assert!(
        said.contains("  EXOTEL_SID is not set") && said.contains("  EXOTEL_API_TOKEN is not set"),
        "{said}"
    );
    assert!(!said.contains("canary"), "{said}");
}

#[test]
fn the_other_commands_need_their_own_setting_alone() {
    for (command, name) in [("migrate", "DATABASE_URL"), ("derive-edge-keys", "TOKEN_KEYS")] {
        let output = run(&[command], &[]);
        let said = complaint(&output);
        assert_eq!((output.status.code(), said.lines().count()), (Some(64), 2), "{said}");
        assert!(said.contains(&format!("  {name} is not set")), "{said}");
    }
    let keys = format!("1:{}=", "A".repeat(43));
    let output = run(&["derive-edge-keys"], &[("TOKEN_KEYS", &keys)]);
    let derived = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && derived.starts_with("1:") && !derived.contains(&keys[2..]),
        "{derived}"
    );
}
