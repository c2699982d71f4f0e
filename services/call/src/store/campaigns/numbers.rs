//! Numbers that campaigns must not call: suppressed ones, and those called too often.

use callbridge_proto::id::CampaignId;
use chrono::{DateTime, Utc};
use diesel::{
    ExpressionMethods as _, QueryDsl as _, QueryResult, Queryable, QueryableByName, Selectable, SelectableHelper as _,
    dsl::sql,
    sql_query,
    sql_types::{Array, Bool, Int8, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid as RawUuid;

use crate::store::{
    contacts::{agent_unavailable, maybe_dialled, was_reached},
    prepared::Prepared,
    schema::suppressions,
};

/// Why a number is on the list of all campaigns: Exotel refused it by the do-not-disturb register, and would do so again.
pub const DND: &str = "exotel_dnd";

/// How a number stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, QueryableByName)]
pub struct Number {
    /// It is on a list.
    #[diesel(sql_type = Bool)]
    pub suppressed: bool,
    /// Dials of campaigns within the period of the frequency cap.
    #[diesel(sql_type = Int8)]
    pub dials: i64,
    /// The dial that has to fall out of the period before there may be another one.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub blocking: Option<DateTime<Utc>>,
    /// The contact has talked with an agent in this campaign.
    #[diesel(sql_type = Bool)]
    pub reached: bool,
}

/// Lets only one claim at a time decide about a number, until the transaction ends: two that look at one time would both dial.
pub async fn lock(conn: &mut AsyncPgConnection, number: &str) -> QueryResult<usize> {
    let query =
        sql_query("SELECT pg_advisory_xact_lock(hashtext('campaign_number'), hashtext($1))").bind::<Text, _>(number);
    Prepared(query).execute(conn).await
}

/// How a number stands for a campaign whose contact it is, with a frequency cap of `count` dials since `since`.
pub async fn standing(
    conn: &mut AsyncPgConnection,
    campaign: CampaignId,
    contact: Option<RawUuid>,
    number: &str,
    cap: Option<(u32, DateTime<Utc>)>,
) -> QueryResult<Number> {
    let query = sql_query(concat!(
        "WITH dials AS (
            SELECT d.post_started_at AS at FROM calls d
            WHERE d.customer = $1 AND d.campaign_id IS NOT NULL AND d.post_started_at > $3 AND ",
        maybe_dialled!("d"),
        ") SELECT EXISTS (
            SELECT 1 FROM suppressions s WHERE s.number IN ($1, number_hash($1)) AND s.campaign_id IS NULL
                AND (s.expires_at IS NULL OR s.expires_at > (SELECT clock_timestamp()))
        ) OR EXISTS (
            SELECT 1 FROM suppressions s WHERE s.number IN ($1, number_hash($1)) AND s.campaign_id = $2
                AND (s.expires_at IS NULL OR s.expires_at > (SELECT clock_timestamp()))
        ) AS suppressed,
        (SELECT count(*) FROM dials) AS dials,
        (SELECT at FROM dials ORDER BY at DESC OFFSET greatest($4, 1) - 1 LIMIT 1) AS blocking, ",
        was_reached!("$5"),
        " AS reached"
    ))
    .bind::<Text, _>(number)
    .bind::<Uuid, _>(campaign.0)
    .bind::<Nullable<Timestamptz>, _>(cap.map(|(_, since)| since))
    .bind::<Int8, _>(cap.map_or(1, |(count, _)| i64::from(count)))
    .bind::<Nullable<Uuid>, _>(contact);
    Prepared(query).get_result(conn).await
}

/// An entry of a list.
#[derive(Clone, Queryable, Selectable)]
#[diesel(table_name = suppressions, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Suppression {
    pub id: RawUuid,
    pub number: String,
    pub reason: String,
    pub by: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
}

impl std::fmt::Debug for Suppression {
    // It holds a number in clear.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Suppression")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// What is put on a list.
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Listing<'a> {
    pub source: Source,
    pub campaign: Option<CampaignId>,
    pub numbers: &'a [String],
    /// Of the rows; as many as there are numbers.
    pub ids: &'a [RawUuid],
    pub reason: &'a str,
    pub by: &'a str,
    pub expires_at: Option<DateTime<Utc>>,
}

/// Whose entry of a list it is. Each has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Somebody who asked for it by the API.
    Caller,
    /// Exotel, which refused the number.
    Exotel,
}

impl Source {
    fn word(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Exotel => "exotel",
        }
    }
}

#[derive(QueryableByName)]
struct Changed {
    #[diesel(sql_type = Int8)]
    n: i64,
}

/// Puts numbers on a list, and each on its history. One that is there from the same source stays for as long as the longer of both
/// says. Returns how many were not there.
pub async fn suppress(conn: &mut AsyncPgConnection, listing: Listing<'_>) -> QueryResult<i64> {
    let conflict = match listing.campaign {
        None => "(number, source) WHERE campaign_id IS NULL",
        Some(_) => "(campaign_id, number, source) WHERE campaign_id IS NOT NULL",
    };
    let changed: Changed = sql_query(format!(
        "WITH wanted AS (
            SELECT DISTINCT ON (n.number) n.id, n.number FROM unnest($1, $2) AS n (id, number)
        ), listed AS (
            INSERT INTO suppressions AS s (id, number, campaign_id, source, reason, by, expires_at)
            SELECT id, number, $3, $7, $4, $5, $6 FROM wanted
            ON CONFLICT {conflict} DO UPDATE
                SET reason = excluded.reason, by = excluded.by, expires_at = excluded.expires_at
                WHERE coalesce(excluded.expires_at, 'infinity') > coalesce(s.expires_at, 'infinity')
            RETURNING s.xmax = 0 AS is_new
        ), kept AS (
            INSERT INTO suppression_history (type, by, number, campaign_id, reason, expires_at)
            SELECT 'added', $5, number, $3, $4, $6 FROM wanted
        ) SELECT count(*) FILTER (WHERE is_new) AS n FROM listed"
    ))
    .bind::<Array<Uuid>, _>(listing.ids)
    .bind::<Array<Text>, _>(listing.numbers)
    .bind::<Nullable<Uuid>, _>(listing.campaign.map(|id| id.0))
    .bind::<Text, _>(listing.reason)
    .bind::<Text, _>(listing.by)
    .bind::<Nullable<Timestamptz>, _>(listing.expires_at)
    .bind::<Text, _>(listing.source.word())
    .get_result(conn)
    .await?;
    Ok(changed.n)
}

/// Takes numbers off a list, as far as they are there from this source, and puts on its history who did. Returns how many were on it.
pub async fn release(
    conn: &mut AsyncPgConnection,
    by: &str,
    (campaign, source): (Option<CampaignId>, Source),
    numbers: &[String],
) -> QueryResult<i64> {
    let changed: Changed = sql_query(
        "WITH released AS (
            DELETE FROM suppressions WHERE (number = ANY($1) OR number IN (SELECT number_hash(n) FROM unnest($1) AS n))
                AND campaign_id IS NOT DISTINCT FROM $2 AND source = $4 RETURNING *
        ), kept AS (
            INSERT INTO suppression_history (type, by, number, campaign_id, reason, expires_at)
            SELECT 'removed', $3, number, campaign_id, reason, expires_at FROM released
        ) SELECT count(*) AS n FROM released",
    )
    .bind::<Array<Text>, _>(numbers)
    .bind::<Nullable<Uuid>, _>(campaign.map(|id| id.0))
    .bind::<Text, _>(by)
    .bind::<Text, _>(source.word())
    .get_result(conn)
    .await?;
    Ok(changed.n)
}

/// A page of a list, oldest first.
pub async fn page(
    conn: &mut AsyncPgConnection,
    campaign: Option<CampaignId>,
    number: Option<&str>,
    after: Option<RawUuid>,
    limit: i64,
) -> QueryResult<Vec<Suppression>> {
    let mut query = suppressions::table
        .order(suppressions::id)
        .limit(limit)
        .select(Suppression::as_select())
        .into_boxed();
    query = match campaign {
        Some(id) => query.filter(suppressions::campaign_id.eq(id.0)),
        None => query.filter(suppressions::campaign_id.is_null()),
    };
    if let Some(number) = number {
        // One that was erased is listed by its hash.
        let listed = sql::<Bool>("suppressions.number IN (").bind::<Text, _>(number.to_owned());
        query = query.filter(
            listed
                .sql(", number_hash(")
                .bind::<Text, _>(number.to_owned())
                .sql("))"),
        );
    }
    if let Some(after) = after {
        query = query.filter(suppressions::id.gt(after));
    }
    query.load(conn).await
}
