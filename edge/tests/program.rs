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

/// F106: a process that has no file descriptor left waits for one: it neither ends nor spins, and serves again.
#[cfg(target_os = "linux")]
#[test]
fn without_file_descriptors_it_waits() {
    use std::{
        fs,
        io::{ErrorKind, Read as _, Write as _},
        net::{TcpListener, TcpStream},
        time::{Duration, Instant},
    };

    const LIMIT: usize = 40;
    const PATIENCE: Duration = Duration::from_secs(20);
    let free = || {
        TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
    };
    let (public, internal) = (free(), free());
    let keys = exotel::token::TokenKeys::parse(&format!("1:{}", data_encoding::BASE64.encode(&[1; 32]))).unwrap();
    let mut process = Command::new("sh")
        .args([
            "-c",
            &format!("ulimit -n {LIMIT}; exec \"$0\""),
            env!("CARGO_BIN_EXE_edge"),
        ])
        .env_clear()
        .envs([
            ("EDGE_ADDR", public.to_string()),
            ("EDGE_INTERNAL_ADDR", internal.to_string()),
            // Nobody is there: that is no reason to end.
            ("CALL_SERVICE_URL", format!("http://{}", free())),
            ("CALL_SERVICE_API_KEY", "ck_edge_key".to_owned()),
            ("EDGE_TOKEN_KEYS", keys.edge_keys()),
        ])
        .spawn()
        .unwrap();
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", process.id())).map_or(0, Iterator::count);
    let until = |what: &str, done: &mut dyn FnMut() -> bool| {
        let began = Instant::now();
        while !done() {
            assert!(
                began.elapsed() < PATIENCE,
                "waited in vain for {what}; {} descriptors",
                descriptors()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    until("the listener", &mut || TcpStream::connect(public).is_ok());
    // More than it can have, and some that stay in the backlog.
    let crowd: Vec<_> = (0..2 * LIMIT).map_while(|_| TcpStream::connect(public).ok()).collect();
    until("the last descriptor", &mut || descriptors() >= LIMIT);

    // Whoever comes now is not served, and nothing is done about it a million times a second.
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    let mut last = TcpStream::connect(public).unwrap();
    last.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let answer = last.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(answer, Err(ErrorKind::WouldBlock));
    let spent = ticks() - before;
    assert!(spent < 30, "{spent} ticks of a second's hundred");

    drop((crowd, last));
    until("an answer", &mut || {
        let Ok(mut stream) = TcpStream::connect(public) else {
            return false;
        };
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut head = [0; 12];
        stream.write_all(b"GET /nowhere HTTP/1.1\r\nHost: edge\r\n\r\n").is_ok()
            && stream.read_exact(&mut head).is_ok()
            && head == *b"HTTP/1.1 404"
    });
    assert!(process.try_wait().unwrap().is_none(), "it ended");
    process.kill().unwrap();
    process.wait().unwrap();
}
