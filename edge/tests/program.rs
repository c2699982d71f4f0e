//! The program as somebody starts it with wrong settings.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

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

#[cfg(target_os = "linux")]
mod running {
    use std::{
        fs,
        io::{ErrorKind, Read as _, Write as _},
        net::{SocketAddr, TcpListener, TcpStream},
        process::{Child, Command},
        time::{Duration, Instant},
    };

    use data_encoding::BASE64;
    use exotel::token::{Purpose, TokenKeys, account_nonce};
    use rustix::process::{Pid, Resource, Rlimit, prlimit};

    const PATIENCE: Duration = Duration::from_secs(20);

    /// An edge as a process of its own, whose call-service is not there: that is no reason to end.
    struct Edge {
        process: Child,
        public: SocketAddr,
        keys: TokenKeys,
    }

    impl Edge {
        fn start(descriptors: usize) -> Self {
            let free = || {
                TcpListener::bind("127.0.0.1:0")
                    .and_then(|listener| listener.local_addr())
                    .unwrap()
            };
            let (public, internal) = (free(), free());
            let keys = TokenKeys::parse(&format!("1:{}", BASE64.encode(&[1; 32]))).unwrap();
            let process = Command::new("sh")
                .args([
                    "-c",
                    &format!("ulimit -n {descriptors}; exec \"$0\""),
                    env!("CARGO_BIN_EXE_edge"),
                ])
                .env_clear()
                .envs([
                    ("EDGE_ADDR", public.to_string()),
                    ("EDGE_INTERNAL_ADDR", internal.to_string()),
                    ("CALL_SERVICE_URL", format!("http://{}", free())),
                    ("CALL_SERVICE_API_KEY", "ck_edge_key".to_owned()),
                    ("EDGE_TOKEN_KEYS", keys.edge_keys()),
                ])
                .spawn()
                .unwrap();
            let edge = Self { process, public, keys };
            // Its limits are read before it serves the first connection, and not before it listens.
            edge.until("an answer", || edge.answers());
            edge
        }

        fn answers(&self) -> bool {
            let Ok(mut stream) = TcpStream::connect(self.public) else {
                return false;
            };
            stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            let mut head = [0; 12];
            stream.write_all(b"GET /nowhere HTTP/1.1\r\nHost: edge\r\n\r\n").is_ok()
                && stream.read_exact(&mut head).is_ok()
                && head == *b"HTTP/1.1 404"
        }

        /// Lowers the limit of descriptors.
        fn lower(&self, most: usize) {
            let pid = Pid::from_raw(self.process.id().try_into().unwrap());
            let limit = Rlimit {
                current: Some(most.try_into().unwrap()),
                maximum: Some(most.try_into().unwrap()),
            };
            prlimit(pid, Resource::Nofile, limit).unwrap();
        }

        fn descriptors(&self) -> usize {
            fs::read_dir(format!("/proc/{}/fd", self.process.id())).map_or(0, Iterator::count)
        }

        fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
            let began = Instant::now();
            while !done() {
                assert!(
                    began.elapsed() < PATIENCE,
                    "waited in vain for {what}; {} descriptors",
                    self.descriptors()
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        }

        /// Hundredths of a second that the process has computed.
        fn ticks(&self) -> u64 {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        }

        fn stop(mut self) {
            assert!(self.process.try_wait().unwrap().is_none(), "it ended");
            self.process.kill().unwrap();
            self.process.wait().unwrap();
        }
    }

    /// F106: a process that has no file descriptor left waits for one: it neither ends nor spins, and serves again. Its own limit is
    /// lowered while it runs, as when the whole machine has none left.
    #[test]
    fn without_file_descriptors_it_waits() {
        const LIMIT: usize = 40;
        let edge = Edge::start(400);
        edge.lower(LIMIT);
        // More than it can have, and some that stay in the backlog.
        let crowd: Vec<_> = (0..2 * LIMIT)
            .map_while(|_| TcpStream::connect(edge.public).ok())
            .collect();
        edge.until("the last descriptor", || edge.descriptors() >= LIMIT);

        // Whoever comes now is not served, and nothing is done about it a million times a second.
        let before = edge.ticks();
        let mut last = TcpStream::connect(edge.public).unwrap();
        last.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let answer = last.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(answer, Err(ErrorKind::WouldBlock));
        let spent = edge.ticks() - before;
        assert!(spent < 30, "{spent} ticks of a second's hundred");

        drop((crowd, last));
        edge.until("an answer", || edge.answers());
        edge.stop();
    }

    /// F122: what an edge has in its memory goes into no core dump, nor to a program that takes one.
    #[test]
    fn it_leaves_no_core_dump() {
        let edge = Edge::start(400);
        let of = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", edge.process.id())).unwrap();
        let limits = of("limits");
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"))
            .unwrap();
        let words: Vec<&str> = core.split_whitespace().collect();
        assert_eq!(words[4..6], ["0", "0"], "{core}");
        assert_eq!(of("coredump_filter").trim(), "00000000");
        edge.stop();
    }

    /// F91: a thousand sockets that end in the middle of a frame, without a close, leave no descriptor behind.
    #[test]
    fn sockets_that_break_off_leave_nothing() {
        const SOCKETS: usize = 1000;
        let edge = Edge::start(200);
        let account = "acct_01980a6f3c1e7d0f8a2b4c6d8e0f1a2b";
        let id = account.parse::<callbridge_proto::id::AccountId>().unwrap();
        let token = edge.keys.mint(Purpose::Account, id.0, account_nonce(1), 0);
        let upgrade = format!(
            "GET /ws/exotel/voice HTTP/1.1\r\nHost: edge\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Basic {}\r\n\r\n",
            BASE64.encode(format!("{account}:{token}").as_bytes())
        );
        let before = edge.descriptors();
        for i in 0..SOCKETS {
            let mut stream = TcpStream::connect(edge.public).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(upgrade.as_bytes()).unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).unwrap();
            assert_eq!(&head, b"HTTP/1.1 101", "socket {i}");
            // A text frame of 64 bytes, of which some come. What is unread here makes the end a reset.
            stream.write_all(&[0x81, 0xc0, 0, 0, 0, 0, b'{']).unwrap();
        }
        edge.until("the descriptors", || edge.descriptors() <= before + 1);
        edge.stop();
    }
}
