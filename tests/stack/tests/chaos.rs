//! `cargo chaos` as a command. Its rounds are run by `.ci/run`: with settling they take longer than a test should.

use std::process::{Command, Output};

fn chaos(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chaos"))
        .args(arguments)
        .output()
        .expect("the program starts")
}

#[test]
fn the_command_line_explains_itself() {
    let help = chaos(&["--help"]);
    let text = String::from_utf8_lossy(&help.stdout);
    assert!(help.status.success());
    for word in ["kills", "postgres", "callbacks", "zombie", "--from", "double_dials"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    assert!(!text.contains("piece "), "{text}");

    let folder = tempfile::tempdir().unwrap();
    let nothing = chaos(&["kills", "--from", "3", "--state-dir", folder.path().to_str().unwrap()]);
    let errors = String::from_utf8_lossy(&nothing.stderr);
    assert!(!nothing.status.success());
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains("progress.json"), "{errors}");
}

#[cfg(target_os = "linux")]
mod orphans {
    use std::{
        collections::BTreeSet,
        fs,
        path::Path,
        process::{Command, Stdio},
        time::Duration,
    };

    use stack::poll;

    const LIMIT: Duration = Duration::from_mins(1);

    /// The processes whose parent this is, and the letter of their state.
    fn children(of: u32) -> BTreeSet<(u32, char)> {
        let stat = |pid: u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // Behind the name, which can hold anything: the state and the parent.
            let mut words = text.rsplit_once(')')?.1.split_whitespace();
            Some((words.next()?.chars().next()?, words.next()?.parse::<u32>().ok()?))
        };
        fs::read_dir("/proc")
            .expect("there is a list of processes")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(|pid| {
                stat(pid)
                    .filter(|(_, parent)| *parent == of)
                    .map(|(state, _)| (pid, state))
            })
            .collect()
    }

    #[tokio::test]
    async fn no_process_outlives_a_driver_that_is_killed_not_even_one_that_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let mut driver = Command::new(env!("CARGO_BIN_EXE_chaos"))
            .args(["zombie", "--rounds", "1000", "--seed", "1", "--state-dir"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let all = poll("a stopped replica", LIMIT, async || {
            let seen = children(driver.id());
            // PostgreSQL's guard, three replicas and the edge.
            if seen.len() >= 5 && seen.iter().any(|(_, state)| *state == 'T') {
                return Ok(seen);
            }
            Err(format!("{seen:?}"))
        })
        .await
        .unwrap();
        driver.kill().unwrap();
        driver.wait().unwrap();
        poll("all of them to be gone", LIMIT, async || {
            let left: Vec<_> = all
                .iter()
                .filter(|(pid, _)| Path::new(&format!("/proc/{pid}")).exists())
                .collect();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        })
        .await
        .unwrap();
    }
}
