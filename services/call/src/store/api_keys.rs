//! API keys.

use callbridge_proto::id::KeyId;
use chrono::{DateTime, Utc};
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, HasQuery, Insertable, OptionalExtension as _, QueryDsl as _,
    QueryResult, SelectableHelper as _, dsl::now, sql_query, sql_types,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::schema::api_keys;

/// A key's row.
#[derive(Clone, HasQuery)]
#[diesel(table_name = api_keys, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct ApiKey {
    pub id: Uuid,
    pub name: String,
    pub sha256: Vec<u8>,
    pub scopes: String,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
    pub created_with: Option<Uuid>,
    pub expires_at: Option<DateTime<Utc>>,
    pub last_used_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    pub revoked_by: Option<String>,
    pub dial_prefixes: Option<String>,
    pub daily_calls: Option<i32>,
}

impl ApiKey {
    /// The typed id.
    pub fn id(&self) -> KeyId {
        KeyId(self.id)
    }
}

/// A row to be.
#[derive(Insertable)]
#[diesel(table_name = api_keys)]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct NewApiKey {
    pub id: Uuid,
    pub name: String,
    pub sha256: Vec<u8>,
    pub scopes: String,
    pub created_by: String,
    pub created_with: Option<Uuid>,
    pub expires_at: Option<DateTime<Utc>>,
    pub dial_prefixes: Option<String>,
    pub daily_calls: Option<i32>,
}

/// Keeps others from adding keys until the transaction ends, so that they can be counted.
pub async fn lock(conn: &mut AsyncPgConnection) -> QueryResult<usize> {
    sql_query("LOCK TABLE api_keys IN SHARE ROW EXCLUSIVE MODE")
        .execute(conn)
        .await
}

/// Adds a key.
pub async fn insert(conn: &mut AsyncPgConnection, key: &NewApiKey) -> QueryResult<ApiKey> {
    diesel::insert_into(api_keys::table)
        .values(key)
        .returning(ApiKey::as_returning())
        .get_result(conn)
        .await
}

/// The keys that work by the database's clock.
pub async fn live(conn: &mut AsyncPgConnection, limit: i64) -> QueryResult<Vec<ApiKey>> {
    ApiKey::query()
        .filter(api_keys::revoked_at.is_null())
        .filter(api_keys::expires_at.is_null().or(api_keys::expires_at.gt(now)))
        .order(api_keys::id)
        .limit(limit)
        .load(conn)
        .await
}

/// A page by the time they were made, after the key `after`.
pub async fn page(
    conn: &mut AsyncPgConnection,
    after: Option<Uuid>,
    include_ended: bool,
    limit: i64,
) -> QueryResult<Vec<ApiKey>> {
    let mut query = ApiKey::query().order(api_keys::id).limit(limit).into_boxed();
    if let Some(after) = after {
        query = query.filter(api_keys::id.gt(after));
    }
    if !include_ended {
        query = query
            .filter(api_keys::revoked_at.is_null())
            .filter(api_keys::expires_at.is_null().or(api_keys::expires_at.gt(now)));
    }
    query.load(conn).await
}

/// Revokes a key; one that is revoked stays as it is. None: there is no such key.
pub async fn revoke(conn: &mut AsyncPgConnection, id: KeyId, by: &str) -> QueryResult<Option<ApiKey>> {
    diesel::update(api_keys::table.find(id.0).filter(api_keys::revoked_at.is_null()))
        .set((api_keys::revoked_at.eq(now), api_keys::revoked_by.eq(by)))
        .execute(conn)
        .await?;
    ApiKey::query()
        .filter(api_keys::id.eq(id.0))
        .first(conn)
        .await
        .optional()
}

/// Notes that keys were used, unless that was noted in the last five minutes.
pub async fn used(conn: &mut AsyncPgConnection, ids: &[Uuid]) -> QueryResult<usize> {
    sql_query(
        "UPDATE api_keys SET last_used_at = now()
        WHERE id = ANY($1) AND (last_used_at IS NULL OR last_used_at < now() - interval '5 minutes')",
    )
    .bind::<sql_types::Array<sql_types::Uuid>, _>(ids)
    .execute(conn)
    .await
}
