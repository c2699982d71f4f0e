//! What bounds every session's statements.

use diesel::{QueryableByName, sql_query, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::DbError;

/// A statement of a request never takes longer; those that may are run on connections of their own.
/// A commit that a crash can take back would let a dial be made twice. Statements here take a millisecond: compiling one first takes
/// a hundred.
pub(super) const OPTIONS: &str = "-c statement_timeout=5s -c lock_timeout=1s -c idle_in_transaction_session_timeout=10s -c synchronous_commit=on -c jit=off";

/// The statements that an administrator has to run so that sessions are bounded, none if they are. A pooler lets no client set
/// anything for a session, and may drop what it asks for without a word.
///
/// # Errors
/// When the database does not answer.
pub async fn unlimited(conn: &mut AsyncPgConnection) -> Result<Vec<String>, DbError> {
    #[derive(QueryableByName)]
    struct Statement {
        #[diesel(sql_type = Text)]
        statement: String,
    }
    let statements: Vec<Statement> = sql_query(
        "SELECT format('ALTER ROLE %I IN DATABASE %I SET %s = %L', current_user, current_database(), name, wanted) AS statement
        FROM (VALUES ('statement_timeout', '5s', '0'), ('lock_timeout', '1s', '0'),
            ('idle_in_transaction_session_timeout', '10s', '0'), ('synchronous_commit', 'on', 'off'),
            ('synchronous_commit', 'on', 'local')) AS limits (name, wanted, wrong)
        WHERE current_setting(name) = wrong ORDER BY name",
    )
    .load(conn)
    .await?;
    Ok(statements.into_iter().map(|row| row.statement).collect())
}
