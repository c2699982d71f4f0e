//! The schema's versions.

use diesel::{
    OptionalExtension as _, QueryableByName,
    migration::MigrationVersion,
    pg::Pg,
    sql_query,
    sql_types::{Bool, Text},
};
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::{Connector, DbError};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations");
/// Any constant will do, as long as every version of this program uses the same.
const LOCK: i64 = 0x6361_6c6c_6272_6467;

/// How the database's schema compares with this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Migrated {
    /// All that this program needs is there; there may be more (a newer program has migrated already).
    Yes,
    /// These are missing.
    Missing(Vec<String>),
}

/// Brings the schema up to this program's version and returns what was applied. One runner at a time: others wait up to a
/// minute. Needs a session, so not a transaction-pooling proxy.
///
/// # Errors
/// When the database is away, the lock is held for too long or a statement fails; a failed migration leaves no trace.
pub async fn migrate(database_url: &str) -> Result<Vec<String>, DbError> {
    in_session(database_url, |harness| {
        let applied = harness.run_pending_migrations(MIGRATIONS)?;
        Ok(applied.iter().map(ToString::to_string).collect())
    })
    .await
}

/// Takes every migration back, for the test of the down scripts.
///
/// # Errors
/// As [`migrate`].
pub async fn revert_all(database_url: &str) -> Result<(), DbError> {
    in_session(database_url, |harness| {
        harness.revert_all_migrations(MIGRATIONS).map(drop)
    })
    .await
}

async fn in_session<T: Send + 'static>(
    database_url: &str,
    work: impl FnOnce(&mut AsyncMigrationHarness<AsyncPgConnection>) -> diesel::migration::Result<T> + Send + 'static,
) -> Result<T, DbError> {
    let mut conn = Connector::read(database_url, None)?.connect().await?;
    // The lock ends with the connection, however this ends.
    conn.batch_execute(&format!("SET lock_timeout = '60s'; SELECT pg_advisory_lock({LOCK})"))
        .await?;
    let mut harness = AsyncMigrationHarness::new(conn);
    // The harness blocks, which a worker of the runtime must not.
    tokio::task::spawn_blocking(move || work(&mut harness).map_err(|error| error.to_string()))
        .await
        .map_err(|error| DbError::Migration(error.to_string()))?
        .map_err(DbError::Migration)
}

/// Compares the schema with this program.
///
/// # Errors
/// When the database does not answer.
pub async fn migrated(conn: &mut AsyncPgConnection) -> Result<Migrated, DbError> {
    #[derive(QueryableByName)]
    struct There {
        #[diesel(sql_type = Bool)]
        there: bool,
    }
    #[derive(QueryableByName)]
    struct Applied {
        #[diesel(sql_type = Text)]
        version: String,
    }

    let table = sql_query("SELECT to_regclass('__diesel_schema_migrations') IS NOT NULL AS there")
        .get_result::<There>(conn)
        .await
        .optional()?;
    let applied: Vec<String> = if table.is_some_and(|table| table.there) {
        let rows: Vec<Applied> = sql_query("SELECT version::text AS version FROM __diesel_schema_migrations")
            .load(conn)
            .await?;
        rows.into_iter().map(|row| row.version).collect()
    } else {
        Vec::new()
    };
    let missing: Vec<String> = wanted()?
        .into_iter()
        .map(|version| version.to_string())
        .filter(|version| !applied.contains(version))
        .collect();
    Ok(if missing.is_empty() {
        Migrated::Yes
    } else {
        Migrated::Missing(missing)
    })
}

fn wanted() -> Result<Vec<MigrationVersion<'static>>, DbError> {
    let migrations = diesel::migration::MigrationSource::<Pg>::migrations(&MIGRATIONS)
        .map_err(|error| DbError::Migration(error.to_string()))?;
    Ok(migrations
        .iter()
        .map(|migration| migration.name().version().as_owned())
        .collect())
}
