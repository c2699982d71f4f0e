//! `cargo dev --once` as a person runs it.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    net::TcpListener,
    process::{Command, Output},
};

fn dev(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dev"))
        .args(arguments)
        .output()
        .unwrap()
}

/// Six ports in a row that are free now.
fn port_base() -> u16 {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let any = || {
        TcpListener::bind(("127.0.0.1", 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
    };
    (0..100)
        .map(|_| any())
        .find(|&base| base < 65_000 && (base..base + 6).all(free))
        .unwrap()
}

#[test]
fn both_calls_go_well_and_scripts_find_everything() {
    let folder = tempfile::tempdir().unwrap();
    let (state, base) = (folder.path().to_str().unwrap(), port_base().to_string());
    let output = dev(&["--once", "--port-base", &base, "--state-dir", state]);
    let (screen, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{screen}\n{errors}");
    assert!(!screen.contains('\u{1b}'), "it is plain where it is no terminal");

    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("dev.json")).unwrap()).unwrap();
    assert_eq!(json["addresses"]["call_service"], format!("127.0.0.1:{base}"));
    for name in ["api_key", "account_token", "account_id", "phone_id", "agent_id"] {
        assert!(!json[name].as_str().unwrap().is_empty(), "{name}");
    }
    for line in ["outbound", "inbound"] {
        assert_eq!(json["calls"][line]["state"], "CALL_STATE_COMPLETED");
        let heard = json["calls"][line]["heard_by_person"].as_str().unwrap();
        assert!(hound::WavReader::open(heard).unwrap().duration() > 4 * 8_000);
    }
    // Numbers are in no log.
    let log = std::fs::read_to_string(folder.path().join("log.txt")).unwrap();
    assert!(log.contains("listens") && !log.contains("981234001"), "{log}");
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let base = port_base();
    let _taken = TcpListener::bind(("127.0.0.1", base)).unwrap();
    let output = dev(&[
        "--once",
        "--port-base",
        &base.to_string(),
        "--state-dir",
        folder.path().to_str().unwrap(),
    ]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(
        errors.contains(&base.to_string()) && errors.contains("--port-base"),
        "{errors}"
    );
}
