//! `cargo load` as a command. What it measures means nothing in a debug build; that all audio comes back does.

use std::process::{Command, Output};

fn load(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_load"))
        .args(arguments)
        .output()
        .expect("the program starts")
}

#[test]
fn the_command_line_explains_itself() {
    let help = load(&["--help"]);
    let text = String::from_utf8_lossy(&help.stdout);
    assert!(help.status.success());
    for word in [
        "place",
        "audio",
        "--streams",
        "--chunk-ms",
        "out_of_order",
        "lateness_p99_ms",
    ] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    assert!(!text.contains("piece "), "{text}");
    assert!(!load(&["audio", "--chunk-ms", "30"]).status.success());
}

/// F86: calls through an edge and an agent of their own hear each byte once and in order. The exit code is not looked at: on a
/// busy machine the run is void, since the generator was late.
#[cfg(target_os = "linux")]
#[test]
fn calls_hear_all_of_their_echo() {
    let run = load(&["audio", "--streams", "4", "--chunk-ms", "20", "--seconds", "1"]);
    let (said, complained) = (
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr),
    );
    let last = said.lines().last().unwrap_or_default();
    let figure = |name: &str| {
        last.split(' ')
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    for none in ["lost", "doubled", "out_of_order"] {
        assert_eq!(figure(none), Some("0"), "{none} in {last:?}; {complained}");
    }
    assert_eq!(figure("streams"), Some("4"), "{last:?}");
    for some in [
        "edge_ms_per_stream_s",
        "agent_ms_per_stream_s",
        "baseline_ms_per_stream_s",
        "p999_ms",
    ] {
        let value: Option<f64> = figure(some).and_then(|value| value.parse().ok());
        assert!(value.is_some_and(f64::is_finite), "{some} in {last:?}");
    }
}
