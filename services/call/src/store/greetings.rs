//! Greetings: immutable WAV files, keyed by their SHA-256.

use diesel::{
    ExpressionMethods as _, HasQuery, OptionalExtension as _, QueryDsl as _, QueryResult,
    dsl::{exists, select},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::schema::greetings;

/// A greeting's row.
#[derive(Clone, PartialEq, Eq, HasQuery)]
#[diesel(table_name = greetings, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Greeting {
    pub wav: Vec<u8>,
    pub sample_rate: i32,
    pub duration_ms: i32,
}

/// Finds a greeting by its hash.
pub async fn find(conn: &mut AsyncPgConnection, sha256: &[u8]) -> QueryResult<Option<Greeting>> {
    Greeting::query()
        .filter(greetings::sha256.eq(sha256))
        .first(conn)
        .await
        .optional()
}

/// Whether there is one with this hash.
pub async fn is_there(conn: &mut AsyncPgConnection, sha256: &[u8]) -> QueryResult<bool> {
    select(exists(greetings::table.filter(greetings::sha256.eq(sha256))))
        .get_result(conn)
        .await
}

/// Adds a greeting; the same file again is no change.
pub async fn put(
    conn: &mut AsyncPgConnection,
    sha256: &[u8],
    wav: &[u8],
    sample_rate: i32,
    duration_ms: i32,
) -> QueryResult<()> {
    diesel::insert_into(greetings::table)
        .values((
            greetings::sha256.eq(sha256),
            greetings::wav.eq(wav),
            greetings::sample_rate.eq(sample_rate),
            greetings::duration_ms.eq(duration_ms),
        ))
        .on_conflict(greetings::sha256)
        .do_nothing()
        .execute(conn)
        .await
        .map(drop)
}
