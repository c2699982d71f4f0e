//! PgBouncer in transaction mode before a cluster, for a run of the stories that goes through it.

use std::{
    env,
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use tempfile::TempDir;

use super::{
    Error, Postgres,
    cluster::{POLL, STOP_LIMIT, USER},
    launch::{connect, file},
};
use crate::port;

/// Servers' sessions for each database: so few that a client rarely meets the same one twice.
const SESSIONS: u32 = 3;

/// What an administrator sets for the role or the pooler, as no client can.
const LIMITS: &str = "SET statement_timeout = ''5s''; SET lock_timeout = ''1s''; \
                      SET idle_in_transaction_session_timeout = ''10s''; SET synchronous_commit = on";

/// Ends the pooler when our end of its input closes, however we end.
const SCRIPT: &str = r#"exec 3<&0; "$0" "$1" </dev/null 3<&- & pooler=$!; cat <&3 >/dev/null; kill "$pooler""#;

/// A running PgBouncer. It ends with this process.
#[derive(Debug)]
pub(crate) struct Pooler {
    port: u16,
    _process: Child,
    _folder: TempDir,
}

impl Pooler {
    /// The program that `TEST_PGBOUNCER` names.
    pub(crate) fn wanted() -> Option<PathBuf> {
        env::var_os("TEST_PGBOUNCER")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    }

    /// Starts it before this cluster.
    pub(crate) async fn start(program: &Path, postgres: &Postgres) -> Result<Self, Error> {
        let folder = tempfile::tempdir().map_err(|source| file("make a folder in", &env::temp_dir(), source))?;
        let port = port::lasting().map_err(|source| file("find a free port on", Path::new("127.0.0.1"), source))?;
        let process = launch(program, folder.path(), port, postgres.address().port())
            .map_err(|source| file("run", program, source))?;
        let begun = Instant::now();
        while let Err(source) = connect(port, "postgres").await {
            if begun.elapsed() > STOP_LIMIT {
                let attempt = "reach PgBouncer";
                return Err(Error::Statement { attempt, source });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(Self {
            port,
            _process: process,
            _folder: folder,
        })
    }

    /// The URL of a database through it.
    pub(crate) fn url(&self, direct: &str) -> String {
        let name = direct.rsplit('/').next().unwrap_or_default();
        format!("postgres://{USER}@127.0.0.1:{}/{name}", self.port)
    }
}

fn launch(program: &Path, folder: &Path, port: u16, server: u16) -> io::Result<Child> {
    let (settings, users) = (folder.join("pgbouncer.ini"), folder.join("users"));
    fs::write(&users, format!("\"{USER}\" \"\"\n"))?;
    // PgBouncer is nobody where we are root.
    let user = if is_root()? { "user = nobody\n" } else { "" };
    fs::write(
        &settings,
        format!(
            "[databases]\n* = host=127.0.0.1 port={server} connect_query='{LIMITS}'\n\
            [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\n\
            pool_mode = transaction\ndefault_pool_size = {SESSIONS}\nserver_round_robin = 1\nserver_idle_timeout = 2\nmax_client_conn = 1000\n\
            ignore_startup_parameters = extra_float_digits\n{user}",
            users.display()
        ),
    )?;
    for path in [folder, &settings, &users] {
        fs::set_permissions(path, Permissions::from_mode(0o755))?;
    }
    Command::new("/bin/sh")
        .args(["-c", SCRIPT])
        .arg(program)
        .arg(&settings)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

fn is_root() -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(fs::metadata("/proc/self")?.uid() == 0)
}
