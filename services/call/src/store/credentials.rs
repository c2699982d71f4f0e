//! Sealed credentials and the canaries of their keys. Only the vault can read them.

use diesel::{
    ExpressionMethods as _, HasQuery, OptionalExtension as _, QueryDsl as _, QueryResult, QueryableByName,
    dsl::now,
    sql_query,
    sql_types::{Array, BigInt, Binary, Int4, Uuid as SqlUuid},
    upsert::excluded,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::schema::{credentials, crypto_canary};

/// Any constant will do, as long as every version of this program uses the same.
const CANARY_LOCK: i64 = 0x6361_6e61_7279;

/// Whose credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// An account's.
    Account(Uuid),
    /// A phone's own.
    Phone(Uuid),
}

/// A row of `credentials`.
#[derive(Debug, Clone, PartialEq, Eq, HasQuery)]
#[diesel(table_name = credentials, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Sealed {
    pub id: Uuid,
    pub account_id: Option<Uuid>,
    pub phone_id: Option<Uuid>,
    pub row_version: i64,
    pub kek_id: i32,
    pub sealed: Vec<u8>,
    pub subdomain: Option<String>,
}

/// A row of `crypto_canary`.
#[derive(Debug, Clone, PartialEq, Eq, HasQuery)]
#[diesel(table_name = crypto_canary, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Canary {
    pub kek_id: i32,
    pub sealed: Vec<u8>,
}

/// The sets of an account and of one of its phones, as far as they are there.
pub async fn of(mut conn: &AsyncPgConnection, account: Uuid, phone: Option<Uuid>) -> QueryResult<Vec<Sealed>> {
    Sealed::query()
        .filter(credentials::account_id.eq(account))
        .or_filter(credentials::phone_id.eq(phone))
        .load(&mut conn)
        .await
}

/// Which of these phones have a set of their own.
pub async fn own_phones(conn: &mut AsyncPgConnection, phones: &[Uuid]) -> QueryResult<Vec<Uuid>> {
    let own: Vec<Option<Uuid>> = credentials::table
        .filter(credentials::phone_id.eq_any(phones))
        .select(credentials::phone_id)
        .load(conn)
        .await?;
    Ok(own.into_iter().flatten().collect())
}

/// The row of an owner, locked, and the version after its present one.
pub async fn next_version(conn: &mut AsyncPgConnection, owner: Owner) -> QueryResult<Option<(Uuid, i64)>> {
    let row = match owner {
        Owner::Account(id) => Sealed::query()
            .filter(credentials::account_id.eq(id))
            .for_update()
            .first(conn)
            .await
            .optional()?,
        Owner::Phone(id) => Sealed::query()
            .filter(credentials::phone_id.eq(id))
            .for_update()
            .first(conn)
            .await
            .optional()?,
    };
    Ok(row.map(|row| (row.id, row.row_version + 1)))
}

/// Writes an owner's set, new or in place of the one before.
pub async fn put(
    conn: &mut AsyncPgConnection,
    id: Uuid,
    owner: Owner,
    row_version: i64,
    kek_id: i32,
    sealed: &[u8],
    subdomain: Option<&str>,
) -> QueryResult<()> {
    let (account, phone) = match owner {
        Owner::Account(id) => (Some(id), None),
        Owner::Phone(id) => (None, Some(id)),
    };
    diesel::insert_into(credentials::table)
        .values((
            credentials::id.eq(id),
            credentials::account_id.eq(account),
            credentials::phone_id.eq(phone),
            credentials::row_version.eq(row_version),
            credentials::kek_id.eq(kek_id),
            credentials::sealed.eq(sealed),
            credentials::subdomain.eq(subdomain),
        ))
        .on_conflict(credentials::id)
        .do_update()
        .set((
            credentials::row_version.eq(excluded(credentials::row_version)),
            credentials::kek_id.eq(excluded(credentials::kek_id)),
            credentials::sealed.eq(excluded(credentials::sealed)),
            credentials::subdomain.eq(excluded(credentials::subdomain)),
            credentials::updated_at.eq(now),
        ))
        .execute(conn)
        .await
        .map(drop)
}

/// Removes a phone's own set.
pub async fn clear_phone(conn: &mut AsyncPgConnection, phone: Uuid) -> QueryResult<usize> {
    diesel::delete(credentials::table.filter(credentials::phone_id.eq(phone)))
        .execute(conn)
        .await
}

/// Rows that another key than `kek_id` sealed, by id after `after`. Rows that another runner holds are left out.
pub async fn lock_other_keys(
    conn: &mut AsyncPgConnection,
    kek_id: i32,
    after: Uuid,
    limit: i64,
) -> QueryResult<Vec<Sealed>> {
    Sealed::query()
        .filter(credentials::kek_id.ne(kek_id))
        .filter(credentials::id.gt(after))
        .order(credentials::id)
        .limit(limit)
        .for_update()
        .skip_locked()
        .load(conn)
        .await
}

/// A blob that takes the place of one with the same content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    /// The row.
    pub id: Uuid,
    /// Its version with this blob.
    pub row_version: i64,
    /// Sealed with the key that is written beside it.
    pub sealed: Vec<u8>,
}

/// Writes blobs that are sealed with `kek_id`, all in one statement. `updated_at` stays: nobody has set other credentials.
pub async fn replace(conn: &mut AsyncPgConnection, kek_id: i32, rows: &[Replacement]) -> QueryResult<usize> {
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let versions: Vec<i64> = rows.iter().map(|row| row.row_version).collect();
    let sealed: Vec<&[u8]> = rows.iter().map(|row| row.sealed.as_slice()).collect();
    sql_query(
        "UPDATE credentials c SET kek_id = $1, row_version = n.row_version, sealed = n.sealed
        FROM unnest($2, $3, $4) AS n (id, row_version, sealed) WHERE c.id = n.id",
    )
    .bind::<Int4, _>(kek_id)
    .bind::<Array<SqlUuid>, _>(ids)
    .bind::<Array<BigInt>, _>(versions)
    .bind::<Array<Binary>, _>(sealed)
    .execute(conn)
    .await
}

/// How many rows another key than `kek_id` sealed.
pub async fn count_other_keys(conn: &mut AsyncPgConnection, kek_id: i32) -> QueryResult<i64> {
    credentials::table
        .filter(credentials::kek_id.ne(kek_id))
        .count()
        .get_result(conn)
        .await
}

/// The next rows by id.
pub async fn page(conn: &mut AsyncPgConnection, after: Uuid, limit: i64) -> QueryResult<Vec<Sealed>> {
    Sealed::query()
        .filter(credentials::id.gt(after))
        .order(credentials::id)
        .limit(limit)
        .load(conn)
        .await
}

/// A key that stored credentials are sealed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QueryableByName)]
pub struct KeyUse {
    /// Its id.
    #[diesel(sql_type = Int4)]
    pub kek_id: i32,
    /// How many data keys it may have sealed for the rows that are there: one for each of their versions at most.
    #[diesel(sql_type = BigInt)]
    pub wraps: i64,
}

/// The keys that stored credentials are sealed with, by id.
pub async fn keys_in_use(conn: &mut AsyncPgConnection) -> QueryResult<Vec<KeyUse>> {
    sql_query(
        "SELECT kek_id, least(sum(row_version), 9223372036854775807)::bigint AS wraps FROM credentials
        GROUP BY kek_id ORDER BY kek_id",
    )
    .load(conn)
    .await
}

/// One process at a time looks after the canaries, until its transaction ends.
pub async fn lock_canaries(conn: &mut AsyncPgConnection) -> QueryResult<()> {
    sql_query("SELECT pg_advisory_xact_lock($1)")
        .bind::<diesel::sql_types::BigInt, _>(CANARY_LOCK)
        .execute(conn)
        .await
        .map(drop)
}

/// All canaries.
pub async fn canaries(conn: &mut AsyncPgConnection) -> QueryResult<Vec<Canary>> {
    Canary::query().order(crypto_canary::kek_id).load(conn).await
}

/// Adds a key's canary.
pub async fn add_canary(conn: &mut AsyncPgConnection, kek_id: i32, sealed: &[u8]) -> QueryResult<()> {
    diesel::insert_into(crypto_canary::table)
        .values((crypto_canary::kek_id.eq(kek_id), crypto_canary::sealed.eq(sealed)))
        .execute(conn)
        .await
        .map(drop)
}
