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
    let wrong = [
        ("DATABASE_URL", "postgres://user:canary@host/database"),
        ("CREDENTIAL_KEYS", "1:canary"),
        ("REWRAP_BATCH", "5001"),
    ];
    let output = run(&["rewrap", "--reseal"], &wrong);
    let said = complaint(&output);
    assert_eq!((output.status.code(), said.lines().count()), (Some(64), 3), "{said}");
    assert!(
        said.contains("  CREDENTIAL_KEYS ") && said.contains("  REWRAP_BATCH "),
        "{said}"
    );
    assert!(!said.contains("canary"), "{said}");
    let output = run(&["roles"], &[]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("callsvc_app"));
    let keys = format!("1:{}=", "A".repeat(43));
    let output = run(&["derive-edge-keys"], &[("TOKEN_KEYS", &keys)]);
    let derived = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && derived.starts_with("1:") && !derived.contains(&keys[2..]),
        "{derived}"
    );
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
            .expect("a port")
    };
    let (grpc, internal) = (free(), free());
    let key = data_encoding::BASE64.encode(&[1; 32]);
    let mut process = Command::new("sh")
        .args(["-c", &format!("ulimit -n {LIMIT}; exec \"$0\""), PROGRAM])
        .env_clear()
        .envs([
            ("CALL_SERVICE_ADDR", grpc.to_string()),
            ("CALL_SERVICE_INTERNAL_ADDR", internal.to_string()),
            // Nobody is there: that is no reason to end.
            (
                "DATABASE_URL",
                format!("postgres://nobody@{}/none?sslmode=disable", free()),
            ),
            ("CREDENTIAL_KEYS", format!("1:{key}")),
            ("TOKEN_KEYS", format!("1:{key}")),
            ("API_KEYS", format!("crm:calls.read:{}", "00".repeat(32))),
            ("WEBHOOK_BASE_URL", "https://calls.example.com".to_owned()),
        ])
        .spawn()
        .expect("the program starts");
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
    until("the listener", &mut || TcpStream::connect(grpc).is_ok());
    // More than it can have, and some that stay in the backlog.
    let crowd: Vec<_> = (0..2 * LIMIT).map_while(|_| TcpStream::connect(grpc).ok()).collect();
    until("the last descriptor", &mut || descriptors() >= LIMIT);

    // Whoever comes now is not served, and nothing is done about it a million times a second.
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    let mut last = TcpStream::connect(grpc).expect("the backlog takes it");
    last.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let answer = last.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(answer, Err(ErrorKind::WouldBlock));
    let spent = ticks() - before;
    assert!(spent < 30, "{spent} ticks of a second's hundred");

    drop((crowd, last));
    // The beginning of HTTP/2, and an empty frame of settings, which is also what is answered.
    until("an answer", &mut || {
        let Ok(mut stream) = TcpStream::connect(grpc) else {
            return false;
        };
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut head = [0; 9];
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .is_ok()
            && stream.read_exact(&mut head).is_ok()
            && head[3] == 4
    });
    assert!(process.try_wait().unwrap().is_none(), "it ended");
    process.kill().unwrap();
    process.wait().unwrap();
}
