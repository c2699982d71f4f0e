//! The way from nothing to a server that answers.

use std::{
    fs::{self, File, Permissions},
    future::Future,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::{
    Binaries, Durability, Error, Options, Postgres,
    cluster::{POLL, START_LIMIT, STOP_LIMIT, USER},
    guard::Guard,
    identity::Identity,
};
use crate::port;

/// Enough for dozens of tests with a pool each.
const MAX_CONNECTIONS: u32 = 300;

/// How many bytes of a program's output an error shows.
const TAIL: u64 = 1_500;

/// Copies the first folder to the second and lets it follow the server of the third's address.
const COPY: &str = r#"cp -a "$1" "$2" && rm -f "$2/postmaster.pid" && : > "$2/standby.signal" &&
printf "primary_conninfo = '%s'\nsynchronous_standby_names = ''\n" "$3" >> "$2/postgresql.auto.conf""#;

/// A folder and an identity, before there is a server.
pub(super) struct Prepared {
    pub(super) folder: TempDir,
    identity: Identity,
    pub(super) log: File,
}

impl Prepared {
    pub(super) fn new(binaries: &Binaries, options: &Options) -> Result<Self, Error> {
        let log = match &options.log {
            Some(path) => File::options()
                .create(true)
                .truncate(true)
                .read(true)
                .write(true)
                .open(path),
            None => tempfile::tempfile(),
        };
        let log =
            log.map_err(|source| file("open the log", options.log.as_deref().unwrap_or(Path::new("")), source))?;
        let temporary = std::env::temp_dir();
        let mut tried = PathBuf::new();
        for parent in options.parent.iter().chain([&temporary]) {
            let made = fs::create_dir_all(parent)
                .and_then(|()| tempfile::Builder::new().prefix("callbridge-pg-").tempdir_in(parent))
                .and_then(|folder| fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).map(|()| folder));
            let folder = made.map_err(|source| file("make a folder in", parent, source))?;
            if let Some(identity) = Identity::choose(binaries, folder.path()) {
                return Ok(Self { folder, identity, log });
            }
            folder.path().clone_into(&mut tried);
        }
        Err(Error::Root {
            bin: binaries.folder().display().to_string(),
            data: tried.display().to_string(),
        })
    }

    /// Makes the data and starts the server; waits until it answers.
    pub(super) async fn launch(&self, binaries: &Binaries, durability: Durability) -> Result<(u16, Guard), Error> {
        let data = self.folder.path().join("data");
        let mut initdb = self.identity.command(&binaries.program("initdb"));
        initdb
            .arg("-D")
            .arg(&data)
            .args(["-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-U", USER]);
        run("initdb", initdb).await?;
        self.serve(binaries, &data, durability).await
    }

    /// The same with a copy of a running server's data, which is followed from there on.
    pub(super) async fn follow(
        &self,
        binaries: &Binaries,
        leader: &Postgres,
        durability: Durability,
    ) -> Result<(u16, Guard), Error> {
        let data = self.folder.path().join("data");
        let failed = |source| Error::Statement {
            attempt: "take a base backup",
            source,
        };
        // Of one session: the backup ends with it.
        let session = leader.connect("postgres").await?;
        session
            .execute("SELECT pg_backup_start('standby', true)", &[])
            .await
            .map_err(failed)?;
        let mut copy = self.identity.command(Path::new("/bin/sh"));
        copy.args(["-c", COPY, "callbridge-standby"])
            .arg(leader.data())
            .arg(&data)
            .arg(format!("host=127.0.0.1 port={} user={USER}", leader.address().port()));
        run("cp", copy).await?;
        let row = session
            .query_one("SELECT labelfile FROM pg_backup_stop(false)", &[])
            .await
            .map_err(failed)?;
        let mut label = self.identity.command(Path::new("/bin/sh"));
        label
            .args(["-c", r#"printf %s "$2" > "$1/backup_label""#, "callbridge-standby"])
            .arg(&data)
            .arg(row.get::<_, String>(0));
        run("sh", label).await?;
        self.serve(binaries, &data, durability).await
    }

    async fn serve(&self, binaries: &Binaries, data: &Path, durability: Durability) -> Result<(u16, Guard), Error> {
        let port = port::lasting().map_err(|source| file("find a free port on", Path::new("127.0.0.1"), source))?;
        let mut guard = self.guard(binaries, data, port, durability)?;
        answers(port, &mut guard, &self.log).await?;
        Ok((port, guard))
    }

    fn guard(&self, binaries: &Binaries, data: &Path, port: u16, durability: Durability) -> Result<Guard, Error> {
        let mut command = self.identity.command(Path::new("/bin/sh"));
        let mut settings = vec![
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={port}"),
            // No socket: its path could be too long, or not writable.
            "unix_socket_directories=".to_owned(),
            format!("max_connections={MAX_CONNECTIONS}"),
        ];
        let left_out: &[&str] = match durability {
            Durability::Nothing => &["fsync=off", "synchronous_commit=off", "full_page_writes=off"],
            // What is written is with the kernel, which goes on.
            Durability::Process => &["fsync=off", "full_page_writes=off"],
            Durability::Machine => &[],
        };
        settings.extend(left_out.iter().map(|setting| (*setting).to_owned()));
        let log = |stream| {
            file(
                "write",
                Path::new(stream),
                std::io::Error::other("the log's handle cannot be copied"),
            )
        };
        let (out, err) = (
            self.log.try_clone().map_err(|_| log("stdout"))?,
            self.log.try_clone().map_err(|_| log("stderr"))?,
        );
        command.stdout(out).stderr(err);
        Guard::start(command, &binaries.program("postgres"), data, &settings)
            .map_err(|source| file("run", Path::new("/bin/sh"), source))
    }
}

async fn run(program: &'static str, mut command: Command) -> Result<(), Error> {
    let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output()).await;
    let output = output.map_err(std::io::Error::other).flatten();
    let output = output.map_err(|source| file("run", Path::new(program), source))?;
    if output.status.success() {
        return Ok(());
    }
    let tail = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Program { program, tail })
}

/// Waits until a server that starts answers.
async fn answers(port: u16, guard: &mut Guard, log: &File) -> Result<(), Error> {
    let begun = Instant::now();
    loop {
        match connect(port, "postgres").await {
            Ok(_) => return Ok(()),
            Err(_) if begun.elapsed() < START_LIMIT => {}
            Err(_) => {
                return Err(Error::Slow {
                    seconds: START_LIMIT.as_secs(),
                    tail: tail(log),
                });
            }
        }
        if guard.has_ended() {
            return Err(Error::Program {
                program: "postgres",
                tail: tail(log),
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A session with a database of the cluster at this port.
pub(super) async fn connect(port: u16, database: &str) -> Result<Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config
        .host("127.0.0.1")
        .port(port)
        .user(USER)
        .dbname(database)
        .connect_timeout(STOP_LIMIT);
    let (client, connection) = config.connect(NoTls).await?;
    drive(connection);
    Ok(client)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the task ends with its client, and test data is not worth a drain"
)]
fn drive(connection: impl Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a session with the private PostgreSQL broke off");
        }
    });
}

/// Why a folder or file cannot be used.
pub(super) fn file(attempt: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::File {
        attempt,
        path: path.display().to_string(),
        source,
    }
}

/// The last lines of a log, on one line. Reads through a handle of its own where it can, as the server's shares its position.
pub(super) fn tail(log: &File) -> String {
    let read = || -> std::io::Result<String> {
        let mut log = log.try_clone()?;
        let length = log.metadata()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut text = Vec::new();
        log.read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    let text = read().unwrap_or_default();
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}
