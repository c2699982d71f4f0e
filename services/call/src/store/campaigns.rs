//! Rows of `campaigns` and what belongs to them.

pub mod counts;
pub mod gate;
pub mod hooks;
pub mod imports;
pub mod numbers;
pub mod results;

use callbridge_proto::id::{AccountId, AgentId, CampaignId};
use chrono::{DateTime, Utc};
use diesel::{
    AsChangeset, ExpressionMethods as _, Insertable, OptionalExtension as _, QueryDsl as _, QueryResult, Queryable,
    QueryableByName, Selectable, SelectableHelper as _, sql_query, sql_types,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid;

use super::schema::{campaign_history, campaign_paces, campaign_phones, campaigns};

/// A campaign's row.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = campaigns, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Campaign {
    pub id: Uuid,
    pub version: i64,
    pub name: String,
    pub state: String,
    pub state_reason: String,
    pub caller: String,
    pub fingerprint: Vec<u8>,
    pub account_id: Uuid,
    pub agent_id: Uuid,
    pub rules: Value,
    pub ring_timeout_seconds: i32,
    pub time_limit_seconds: i32,
    pub record: bool,
    pub metadata: Value,
    pub hook_endpoint: Option<String>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub running_since: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
}

impl Campaign {
    /// The typed id.
    pub fn id(&self) -> CampaignId {
        CampaignId(self.id)
    }

    /// The typed id of its account.
    pub fn account_id(&self) -> AccountId {
        AccountId(self.account_id)
    }

    /// The typed id of its agent.
    pub fn agent_id(&self) -> AgentId {
        AgentId(self.agent_id)
    }
}

/// What an operator sets, as columns.
#[derive(Debug, Clone, PartialEq, Insertable, AsChangeset)]
#[diesel(table_name = campaigns, treat_none_as_null = true)]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Columns {
    pub name: String,
    pub account_id: Uuid,
    pub agent_id: Uuid,
    pub rules: Value,
    pub max_concurrent_calls: i32,
    pub calls_per_minute: i32,
    pub priority: i32,
    pub ring_timeout_seconds: i32,
    pub time_limit_seconds: i32,
    pub record: bool,
    pub metadata: Value,
    pub hook_endpoint: Option<String>,
}

/// Where a campaign stands, as columns. `None` leaves a column as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, AsChangeset)]
#[diesel(table_name = campaigns)]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Standing {
    pub state: Option<String>,
    pub state_reason: Option<String>,
    pub started_at: Option<DateTime<Utc>>,
    pub running_since: Option<DateTime<Utc>>,
    pub ended_at: Option<Option<DateTime<Utc>>>,
    pub calls_since: Option<i64>,
}

/// An entry of a campaign's history.
#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = campaign_history, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Entry {
    pub campaign_id: Uuid,
    pub version: i64,
    pub at: DateTime<Utc>,
    pub kind: String,
    pub by: String,
    pub data: Value,
}

/// Who makes a campaign, with which key.
#[derive(Debug, Clone, Copy)]
pub struct Maker<'a> {
    /// The API key's name.
    pub caller: &'a str,
    /// Its key for it.
    pub key: &'a str,
    /// Of the request.
    pub fingerprint: &'a [u8],
}

/// Inserts a campaign with its phones and its pace. None: the key is taken.
pub async fn insert(
    conn: &mut AsyncPgConnection,
    id: CampaignId,
    maker: Maker<'_>,
    columns: &Columns,
    phones: &[Uuid],
) -> QueryResult<Option<Campaign>> {
    let made = diesel::insert_into(campaigns::table)
        .values((
            campaigns::id.eq(id.0),
            campaigns::caller.eq(maker.caller),
            campaigns::idempotency_key.eq(maker.key),
            campaigns::fingerprint.eq(maker.fingerprint),
            columns,
        ))
        .on_conflict((campaigns::caller, campaigns::idempotency_key))
        .do_nothing()
        .returning(Campaign::as_returning())
        .get_result(conn)
        .await
        .optional()?;
    if made.is_some() {
        set_phones(conn, id, phones).await?;
        diesel::insert_into(campaign_paces::table)
            .values(campaign_paces::campaign_id.eq(id.0))
            .execute(conn)
            .await?;
    }
    Ok(made)
}

/// Replaces a campaign's pool.
pub async fn set_phones(conn: &mut AsyncPgConnection, id: CampaignId, phones: &[Uuid]) -> QueryResult<()> {
    diesel::delete(campaign_phones::table.filter(campaign_phones::campaign_id.eq(id.0)))
        .execute(conn)
        .await?;
    let rows: Vec<_> = (0..)
        .zip(phones)
        .map(|(place, phone): (i32, &Uuid)| {
            (
                campaign_phones::campaign_id.eq(id.0),
                campaign_phones::place.eq(place),
                campaign_phones::phone_id.eq(*phone),
            )
        })
        .collect();
    diesel::insert_into(campaign_phones::table)
        .values(rows)
        .execute(conn)
        .await?;
    Ok(())
}

/// A campaign's pool, in order.
pub async fn phones(conn: &mut AsyncPgConnection, id: CampaignId) -> QueryResult<Vec<Uuid>> {
    campaign_phones::table
        .filter(campaign_phones::campaign_id.eq(id.0))
        .order(campaign_phones::place)
        .select(campaign_phones::phone_id)
        .load(conn)
        .await
}

/// Finds a campaign.
pub async fn find(conn: &mut AsyncPgConnection, id: CampaignId) -> QueryResult<Option<Campaign>> {
    campaigns::table
        .find(id.0)
        .select(Campaign::as_select())
        .first(conn)
        .await
        .optional()
}

/// The same, locked until the transaction ends: no call of the campaign is claimed meanwhile.
pub async fn lock(conn: &mut AsyncPgConnection, id: CampaignId) -> QueryResult<Option<Campaign>> {
    campaigns::table
        .find(id.0)
        .select(Campaign::as_select())
        .for_no_key_update()
        .first(conn)
        .await
        .optional()
}

/// The campaign that a caller made with a key.
pub async fn by_key(conn: &mut AsyncPgConnection, caller: &str, key: &str) -> QueryResult<Option<Campaign>> {
    campaigns::table
        .filter(campaigns::caller.eq(caller))
        .filter(campaigns::idempotency_key.eq(key))
        .select(Campaign::as_select())
        .first(conn)
        .await
        .optional()
}

/// A page, newest first, of those older than `before`.
pub async fn page(
    conn: &mut AsyncPgConnection,
    state: Option<&str>,
    before: Option<CampaignId>,
    limit: i64,
) -> QueryResult<Vec<Campaign>> {
    let mut query = campaigns::table
        .order(campaigns::id.desc())
        .limit(limit)
        .select(Campaign::as_select())
        .into_boxed();
    if let Some(state) = state {
        query = query.filter(campaigns::state.eq(state.to_owned()));
    }
    if let Some(id) = before {
        query = query.filter(campaigns::id.lt(id.0));
    }
    query.load(conn).await
}

/// The campaigns that run, in no order.
pub async fn running(conn: &mut AsyncPgConnection) -> QueryResult<Vec<Campaign>> {
    campaigns::table
        .filter(campaigns::state.eq("running"))
        .select(Campaign::as_select())
        .load(conn)
        .await
}

/// Changes a campaign that is locked, and puts it on its history.
pub async fn change(
    conn: &mut AsyncPgConnection,
    before: &Campaign,
    columns: Option<&Columns>,
    standing: &Standing,
    kind: &str,
    by: &str,
    data: Value,
) -> QueryResult<Campaign> {
    if let Some(columns) = columns {
        diesel::update(campaigns::table.find(before.id))
            .set(columns)
            .execute(conn)
            .await?;
    }
    let after = diesel::update(campaigns::table.find(before.id))
        .set((campaigns::version.eq(before.version + 1), standing))
        .returning(Campaign::as_returning())
        .get_result(conn)
        .await?;
    note(conn, before.id(), after.version, kind, by, data).await?;
    Ok(after)
}

/// Puts something on a campaign's history.
pub async fn note(
    conn: &mut AsyncPgConnection,
    id: CampaignId,
    version: i64,
    kind: &str,
    by: &str,
    data: Value,
) -> QueryResult<usize> {
    diesel::insert_into(campaign_history::table)
        .values((
            campaign_history::campaign_id.eq(id.0),
            campaign_history::version.eq(version),
            campaign_history::kind.eq(kind),
            campaign_history::by.eq(by),
            campaign_history::data.eq(data),
        ))
        .execute(conn)
        .await
}

/// The newest entries of a campaign's history.
pub async fn history(conn: &mut AsyncPgConnection, id: CampaignId, limit: i64) -> QueryResult<Vec<Entry>> {
    campaign_history::table
        .filter(campaign_history::campaign_id.eq(id.0))
        .order(campaign_history::version.desc())
        .limit(limit)
        .select(Entry::as_select())
        .load(conn)
        .await
}

/// A queued call that is not going to be dialled.
#[derive(Debug, Clone, Copy, QueryableByName)]
pub struct LeftOver {
    /// The call.
    #[diesel(sql_type = sql_types::Uuid)]
    pub id: Uuid,
    /// Its campaign is over; else the campaign has changed what calls are made of.
    #[diesel(sql_type = sql_types::Bool)]
    pub over: bool,
}

/// Queued calls of campaigns that are over, or that were made before the campaign was changed.
pub async fn left_over(conn: &mut AsyncPgConnection, limit: i64) -> QueryResult<Vec<LeftOver>> {
    sql_query(
        "SELECT c.id, m.state IN ('aborted', 'finished') AS over FROM calls c JOIN campaigns m ON m.id = c.campaign_id
        WHERE c.state = 'queued' AND c.campaign_id IS NOT NULL
            AND (m.state IN ('aborted', 'finished') OR c.campaign_version < m.calls_since) LIMIT $1",
    )
    .bind::<sql_types::Int8, _>(limit)
    .load(conn)
    .await
}

#[derive(QueryableByName)]
struct Active {
    #[diesel(sql_type = sql_types::Int8)]
    n: i64,
}

/// How many calls of a campaign are active.
pub async fn active(conn: &mut AsyncPgConnection, id: CampaignId) -> QueryResult<i64> {
    let row: Active = sql_query(
        "SELECT count(*) AS n FROM calls WHERE campaign_id = $1
            AND state IN ('dialing', 'unconfirmed', 'placed', 'ringing', 'in_progress')",
    )
    .bind::<sql_types::Uuid, _>(id.0)
    .get_result(conn)
    .await?;
    Ok(row.n)
}

#[derive(QueryableByName)]
struct PerMinute {
    #[diesel(sql_type = sql_types::Int4)]
    calls_per_minute: i32,
}

/// How many dials an account may make in a minute.
pub async fn account_rate(conn: &mut AsyncPgConnection, account: Uuid) -> QueryResult<i32> {
    let row: PerMinute = sql_query("SELECT calls_per_minute FROM accounts WHERE id = $1")
        .bind::<sql_types::Uuid, _>(account)
        .get_result(conn)
        .await?;
    Ok(row.calls_per_minute)
}

/// Lets queued calls that wait by a campaign's rules be looked at now: a few, whatever the campaign's size.
pub async fn due_again(conn: &mut AsyncPgConnection, id: CampaignId) -> QueryResult<usize> {
    sql_query(
        "UPDATE calls SET due_at = clock_timestamp() WHERE campaign_id = $1 AND state = 'queued'
            AND due_at > clock_timestamp() AND waiting_reason IN ('calling_hours', 'frequency_cap')",
    )
    .bind::<sql_types::Uuid, _>(id.0)
    .execute(conn)
    .await
}
