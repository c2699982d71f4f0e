//! Rows of `audit`.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::{
    ExpressionMethods as _, QueryDsl as _, QueryResult, Queryable, QueryableByName, Selectable, SelectableHelper as _,
    sql_query,
    sql_types::{Array, BigInt, Interval, Jsonb, Nullable, Text, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid;

use super::{enums::pg_enum, prepared::Prepared, schema::audit, sessions::interval};

pg_enum! {
    /// How what was asked for came out.
    Outcome as Text {
        /// It was changed.
        Changed => "changed",
        /// It was shown.
        Shown => "shown",
        /// It was refused.
        Refused => "refused",
    }
}

/// A row to be.
#[derive(Debug)]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct NewEntry {
    pub principal: Arc<str>,
    pub key: Option<Uuid>,
    pub method: Arc<str>,
    pub subject: String,
    /// In E.164; its hash is the subject then.
    pub number: Option<String>,
    pub trace: Option<String>,
    pub outcome: Outcome,
    pub data: Value,
}

/// Appends rows, in their order.
pub async fn append(conn: &mut AsyncPgConnection, entries: &[NewEntry]) -> QueryResult<usize> {
    fn all<'a, T>(entries: &'a [NewEntry], of: impl Fn(&'a NewEntry) -> T) -> Vec<T> {
        entries.iter().map(of).collect()
    }
    let query = sql_query(
        "INSERT INTO audit (principal, key_id, method, subject, trace_id, outcome, data)
        SELECT e.principal, e.key_id, e.method, coalesce(number_hash(e.number), e.subject), e.trace_id, e.outcome, e.data
        FROM unnest($1, $2, $3, $4, $5, $6, $7, $8) WITH ORDINALITY
            AS e (principal, key_id, method, number, subject, trace_id, outcome, data, place)
        ORDER BY e.place",
    )
    .bind::<Array<Text>, _>(all(entries, |entry| &*entry.principal))
    .bind::<Array<Nullable<SqlUuid>>, _>(all(entries, |entry| entry.key))
    .bind::<Array<Text>, _>(all(entries, |entry| &*entry.method))
    .bind::<Array<Nullable<Text>>, _>(all(entries, |entry| entry.number.as_deref()))
    .bind::<Array<Text>, _>(all(entries, |entry| entry.subject.as_str()))
    .bind::<Array<Nullable<Text>>, _>(all(entries, |entry| entry.trace.as_deref()))
    .bind::<Array<Text>, _>(all(entries, |entry| entry.outcome))
    .bind::<Array<Jsonb>, _>(all(entries, |entry| &entry.data));
    Prepared(query).execute(conn).await
}

/// A row.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = audit, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Entry {
    pub id: i64,
    pub at: DateTime<Utc>,
    pub principal: String,
    pub key_id: Option<Uuid>,
    pub method: String,
    pub subject: String,
    pub trace_id: Option<String>,
    pub outcome: Outcome,
    pub data: Value,
}

/// Conditions that must all hold.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Filter {
    pub principal: Option<String>,
    pub method: Option<String>,
    pub subject: Option<String>,
    pub outcome: Option<Outcome>,
    pub after: Option<DateTime<Utc>>,
    pub before: Option<DateTime<Utc>>,
}

/// A page, newest first, older than `older_than`.
pub async fn page(
    conn: &mut AsyncPgConnection,
    filter: &Filter,
    older_than: Option<i64>,
    limit: i64,
) -> QueryResult<Vec<Entry>> {
    let mut query = audit::table
        .order(audit::id.desc())
        .limit(limit)
        .select(Entry::as_select())
        .into_boxed();
    if let Some(id) = older_than {
        query = query.filter(audit::id.lt(id));
    }
    if let Some(principal) = &filter.principal {
        query = query.filter(audit::principal.eq(principal));
    }
    if let Some(method) = &filter.method {
        query = query.filter(audit::method.eq(method));
    }
    if let Some(subject) = &filter.subject {
        query = query.filter(audit::subject.eq(subject));
    }
    if let Some(outcome) = filter.outcome {
        query = query.filter(audit::outcome.eq(outcome));
    }
    if let Some(at) = filter.after {
        query = query.filter(audit::at.ge(at));
    }
    if let Some(at) = filter.before {
        query = query.filter(audit::at.lt(at));
    }
    query.load(conn).await
}

/// What stands for a number.
pub async fn number_hash(conn: &mut AsyncPgConnection, number: &str) -> QueryResult<String> {
    #[derive(QueryableByName)]
    struct Hashed {
        #[diesel(sql_type = Text)]
        hash: String,
    }
    let hashed: Hashed = sql_query("SELECT number_hash($1) AS hash")
        .bind::<Text, _>(number)
        .get_result(conn)
        .await?;
    Ok(hashed.hash)
}

/// Deletes entries older than this; the database itself keeps those of the last year. Returns how many.
pub async fn forget(conn: &mut AsyncPgConnection, kept: TimeDelta, limit: i64) -> QueryResult<usize> {
    #[derive(QueryableByName)]
    struct Forgotten {
        #[diesel(sql_type = BigInt)]
        forgotten: i64,
    }
    let gone: Forgotten = sql_query("SELECT audit_forget($1, $2) AS forgotten")
        .bind::<Interval, _>(interval(kept))
        .bind::<BigInt, _>(limit)
        .get_result(conn)
        .await?;
    Ok(usize::try_from(gone.forgotten).unwrap_or_default())
}
