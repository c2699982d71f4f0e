//! The schema's versions.

use std::time::Duration;

use diesel::{
    OptionalExtension as _, QueryableByName,
    migration::MigrationVersion,
    pg::Pg,
    sql_query,
    sql_types::{Bool, Text},
};
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use tokio::time::{sleep, timeout};

use super::{Connector, DbError, Way};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations");
/// What `call-service roles` prints: the roles, which an administrator makes once.
pub const ROLES: &str = include_str!("../../../../migrations/roles.sql");
/// What each of them may do, as far as they are there.
const GRANTS: &str = include_str!("../../../../migrations/grants.sql");
/// Any constant will do, as long as every version of this program uses the same.
const LOCK: i64 = 0x6361_6c6c_6272_6467;

/// How long a runner waits for another one, and how often it asks.
const LOCK_WAIT: Duration = Duration::from_mins(1);
const LOCK_AGAIN: Duration = Duration::from_millis(100);

/// How the database's schema compares with this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Migrated {
    /// All that this program needs is there; there may be more (a newer program has migrated already).
    Yes,
    /// These are missing.
    Missing(Vec<String>),
}

/// Brings the schema up to this program's version, gives the roles their rights, and returns what was applied. One runner at a time: others wait up to a
/// minute. Needs a session: a pooler in transaction mode has none.
///
/// # Errors
/// When the database is away, the lock is held for too long or a statement fails; a failed migration leaves no trace.
pub async fn migrate(database_url: &str) -> Result<Vec<String>, DbError> {
    let (applied, mut conn) = in_session(database_url, |harness| {
        let applied = harness.run_pending_migrations(MIGRATIONS)?;
        Ok(applied.iter().map(ToString::to_string).collect())
    })
    .await?;
    conn.batch_execute(GRANTS).await?;
    Ok(applied)
}

/// Lets one runner work at a time, until its connection ends, however it ends. Others ask again and again: one that waited in a
/// statement would be waited for by the concurrent build of an index, and neither would ever go on.
async fn lock(conn: &mut AsyncPgConnection) -> Result<(), DbError> {
    #[derive(QueryableByName)]
    struct Locked {
        #[diesel(sql_type = Bool)]
        locked: bool,
    }
    let locked = async {
        loop {
            let lock = format!("SELECT pg_try_advisory_lock({LOCK}) AS locked");
            if sql_query(lock).get_result::<Locked>(conn).await?.locked {
                return Ok(());
            }
            sleep(LOCK_AGAIN).await;
        }
    };
    timeout(LOCK_WAIT, locked).await.unwrap_or_else(|_| {
        Err(DbError::Migration(
            "another runner has migrated for a minute and goes on: wait for it, and try again".to_owned(),
        ))
    })
}

/// What a concurrent build left behind that was killed or refused: it is of no use, and in the way of the next build.
async fn drop_invalid_indexes(conn: &mut AsyncPgConnection) -> Result<(), DbError> {
    #[derive(QueryableByName)]
    struct Invalid {
        #[diesel(sql_type = Text)]
        name: String,
    }
    // Those of REINDEX CONCURRENTLY are somebody else's, who may be at it.
    let invalid: Vec<Invalid> = sql_query(
        "SELECT i.indexrelid::regclass::text AS name FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE NOT i.indisvalid AND c.relnamespace = current_schema()::regnamespace AND c.relname !~ '_ccnew[0-9]*$'
            AND c.relname !~ '_ccold[0-9]*$'",
    )
    .load(conn)
    .await?;
    for index in invalid {
        conn.batch_execute(&format!("DROP INDEX CONCURRENTLY {}", index.name))
            .await?;
    }
    Ok(())
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
    .map(|((), _)| ())
}

async fn in_session<T: Send + 'static>(
    database_url: &str,
    work: impl FnOnce(&mut AsyncMigrationHarness<AsyncPgConnection>) -> diesel::migration::Result<T> + Send + 'static,
) -> Result<(T, AsyncPgConnection), DbError> {
    let mut conn = Connector::read("the database's address", database_url, Way::Unlimited)?
        .connect()
        .await?;
    // An index of a large table takes its time to build.
    conn.batch_execute("SET lock_timeout = '60s'; SET statement_timeout = 0")
        .await?;
    lock(&mut conn).await?;
    drop_invalid_indexes(&mut conn).await?;
    let mut harness = AsyncMigrationHarness::new(conn);
    // The harness blocks, which a worker of the runtime must not.
    tokio::task::spawn_blocking(move || {
        let done = work(&mut harness).map_err(|error| error.to_string())?;
        Ok((done, harness.into_inner()))
    })
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
