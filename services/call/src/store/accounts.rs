//! Exotel accounts.

use callbridge_proto::id::AccountId;
use chrono::{DateTime, Utc};
use diesel::{
    AsChangeset, BoolExpressionMethods as _, ExpressionMethods as _, HasQuery, Insertable, OptionalExtension as _,
    PgExpressionMethods as _, QueryDsl as _, QueryResult, QueryableByName, SelectableHelper as _,
    dsl::{exists, not, now, select},
    sql_query,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::schema::{accounts, credentials};

/// An account's row.
#[derive(Debug, Clone, PartialEq, Eq, HasQuery)]
#[diesel(table_name = accounts, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Account {
    pub id: Uuid,
    pub name: String,
    pub sid: String,
    pub subdomain: String,
    pub calls_per_minute: i32,
    pub max_concurrent_calls: i32,
    pub inbound_reserve: i32,
    pub hours_off: bool,
    pub hours_start_minute: i32,
    pub hours_end_minute: i32,
    pub hours_time_zone: String,
    pub app_id: Option<String>,
    pub from_environment: bool,
    pub token_generation: i32,
    pub created_at: DateTime<Utc>,
    pub utc_offset_minutes: Option<i32>,
}

/// What an operator sets; written as a whole, so that rules over several columns hold.
#[derive(Debug, Clone, PartialEq, Eq, Insertable, AsChangeset)]
#[diesel(table_name = accounts, treat_none_as_null = true)]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Settings {
    pub name: String,
    pub subdomain: String,
    pub calls_per_minute: i32,
    pub max_concurrent_calls: i32,
    pub inbound_reserve: i32,
    pub hours_off: bool,
    pub hours_start_minute: i32,
    pub hours_end_minute: i32,
    pub hours_time_zone: String,
    pub app_id: Option<String>,
}

impl Account {
    /// The account's id.
    pub fn id(&self) -> AccountId {
        AccountId(self.id)
    }

    /// What an operator has set.
    pub fn settings(&self) -> Settings {
        Settings {
            name: self.name.clone(),
            subdomain: self.subdomain.clone(),
            calls_per_minute: self.calls_per_minute,
            max_concurrent_calls: self.max_concurrent_calls,
            inbound_reserve: self.inbound_reserve,
            hours_off: self.hours_off,
            hours_start_minute: self.hours_start_minute,
            hours_end_minute: self.hours_end_minute,
            hours_time_zone: self.hours_time_zone.clone(),
            app_id: self.app_id.clone(),
        }
    }
}

/// Finds an account.
pub async fn find(conn: &mut AsyncPgConnection, id: AccountId) -> QueryResult<Option<Account>> {
    Account::query()
        .filter(accounts::id.eq(id.0))
        .first(conn)
        .await
        .optional()
}

/// Finds an account and keeps others from changing it until the transaction ends.
pub async fn lock(conn: &mut AsyncPgConnection, id: AccountId) -> QueryResult<Option<Account>> {
    Account::query()
        .filter(accounts::id.eq(id.0))
        .for_no_key_update()
        .first(conn)
        .await
        .optional()
}

/// A page by name, after the account `after`.
pub async fn page(conn: &mut AsyncPgConnection, after: Option<AccountId>, limit: i64) -> QueryResult<Vec<Account>> {
    let mut query = Account::query()
        .order((accounts::name, accounts::id))
        .limit(limit)
        .into_boxed();
    if let Some(after) = after {
        let last: Option<String> = accounts::table
            .find(after.0)
            .select(accounts::name)
            .first(conn)
            .await
            .optional()?;
        let last = last.unwrap_or_default();
        query = query.filter(
            accounts::name
                .gt(last.clone())
                .or(accounts::name.eq(last).and(accounts::id.gt(after.0))),
        );
    }
    query.load(conn).await
}

/// Which of these accounts have stored credentials.
pub async fn with_credentials(conn: &mut AsyncPgConnection, ids: &[Uuid]) -> QueryResult<Vec<Uuid>> {
    let found: Vec<Option<Uuid>> = credentials::table
        .filter(credentials::account_id.eq_any(ids))
        .select(credentials::account_id)
        .load(conn)
        .await?;
    Ok(found.into_iter().flatten().collect())
}

/// Adds an account. Fails with `accounts_sid_key` when the sid is taken.
pub async fn insert(
    conn: &mut AsyncPgConnection,
    id: AccountId,
    sid: &str,
    settings: &Settings,
) -> QueryResult<Account> {
    diesel::insert_into(accounts::table)
        .values((accounts::id.eq(id.0), accounts::sid.eq(sid), settings))
        .returning(Account::as_returning())
        .get_result(conn)
        .await
}

/// Writes an account's settings.
pub async fn update(conn: &mut AsyncPgConnection, id: AccountId, settings: &Settings) -> QueryResult<Account> {
    diesel::update(accounts::table.find(id.0))
        .set((settings, accounts::updated_at.eq(now)))
        .returning(Account::as_returning())
        .get_result(conn)
        .await
}

/// Counts the token generation up. None: no such account, or the generations are used up.
pub async fn rotate_token(conn: &mut AsyncPgConnection, id: AccountId) -> QueryResult<Option<i32>> {
    diesel::update(
        accounts::table
            .find(id.0)
            .filter(accounts::token_generation.lt(i32::from(u16::MAX))),
    )
    .set((
        accounts::token_generation.eq(accounts::token_generation + 1),
        accounts::updated_at.eq(now),
    ))
    .returning(accounts::token_generation)
    .get_result(conn)
    .await
    .optional()
}

/// Keeps an account's UTC offset. False: it was known.
pub async fn set_utc_offset(conn: &mut AsyncPgConnection, id: AccountId, minutes: i32) -> QueryResult<bool> {
    let differs = accounts::table
        .find(id.0)
        .filter(accounts::utc_offset_minutes.is_distinct_from(minutes));
    let set = diesel::update(differs)
        .set(accounts::utc_offset_minutes.eq(minutes))
        .execute(conn)
        .await?;
    Ok(set == 1)
}

/// Takes an account whose open streams were not counted for two minutes and that has calls now, or had them lately. Any replica
/// may take any of them.
pub async fn take_for_streams(conn: &mut AsyncPgConnection) -> QueryResult<Option<Account>> {
    let taken: Option<Taken> = sql_query(
        "UPDATE accounts SET streams_checked_at = clock_timestamp() WHERE id = (
            SELECT a.id FROM accounts a WHERE a.streams_checked_at < clock_timestamp() - interval '2 minutes' AND (
                EXISTS (SELECT 1 FROM calls c WHERE c.account_id = a.id
                    AND c.state IN ('dialing', 'unconfirmed', 'placed', 'ringing', 'in_progress'))
                OR EXISTS (SELECT 1 FROM calls c WHERE c.account_id = a.id
                    AND c.ended_at > now() - interval '10 minutes' AND c.ended_at IS NOT NULL AND c.blanked_at IS NULL)
            ) ORDER BY a.streams_checked_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
        ) RETURNING id",
    )
    .get_result(conn)
    .await
    .optional()?;
    match taken {
        Some(taken) => find(conn, AccountId(taken.id)).await,
        None => Ok(None),
    }
}

#[derive(QueryableByName)]
struct Taken {
    #[diesel(sql_type = diesel::sql_types::Uuid)]
    id: Uuid,
}

/// Makes the account with this sid the environment's, and no other: adds it when it is missing, and leaves one alone that
/// has stored credentials. Returns it. Call it in a transaction.
pub async fn put_from_environment(
    conn: &mut AsyncPgConnection,
    id: AccountId,
    sid: &str,
    settings: &Settings,
) -> QueryResult<Account> {
    release_environment(conn, Some(sid)).await?;
    diesel::insert_into(accounts::table)
        .values((accounts::id.eq(id.0), accounts::sid.eq(sid), settings))
        .on_conflict(accounts::sid)
        .do_nothing()
        .execute(conn)
        .await?;
    let account = Account::query().filter(accounts::sid.eq(sid)).first(conn).await?;
    let stored: bool = select(exists(
        credentials::table.filter(credentials::account_id.eq(account.id)),
    ))
    .get_result(conn)
    .await?;
    if stored || (account.from_environment && account.subdomain == settings.subdomain) {
        return Ok(account);
    }
    diesel::update(accounts::table.find(account.id))
        .set((
            accounts::from_environment.eq(true),
            accounts::subdomain.eq(&settings.subdomain),
            accounts::updated_at.eq(now),
        ))
        .returning(Account::as_returning())
        .get_result(conn)
        .await
}

/// The environment describes no account any more, or another one.
pub async fn release_environment(conn: &mut AsyncPgConnection, but: Option<&str>) -> QueryResult<usize> {
    diesel::update(
        accounts::table
            .filter(accounts::from_environment)
            .filter(not(accounts::sid.eq(but.unwrap_or_default()))),
    )
    .set((accounts::from_environment.eq(false), accounts::updated_at.eq(now)))
    .execute(conn)
    .await
}
