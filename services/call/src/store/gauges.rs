//! How things stand in all calls, accounts and running campaigns: what the metrics show of rows. Each statement goes by an index of
//! what is active, queued or due, and never by all rows.

use chrono::{DateTime, Utc};
use diesel::{
    QueryResult, QueryableByName, sql_query,
    sql_types::{Bool, Float8, Int4, Int8, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid as RawUuid;

use super::retention::{self, Behind};
use crate::config::Retention;

/// Accounts that are told of, at most: each is some series of its own.
const ACCOUNTS: i64 = 200;
/// Campaigns that are told of, at most; those that began to run last.
const CAMPAIGNS: i64 = 50;
/// Queued calls that are counted, at most.
const QUEUED: i64 = 100_000;

/// A word and how many there are.
#[derive(Debug, Clone, PartialEq, QueryableByName)]
pub struct Count {
    /// A state, or a reason to wait.
    #[diesel(sql_type = Text)]
    pub word: String,
    /// How many.
    #[diesel(sql_type = Int8)]
    pub n: i64,
}

/// An account's slots and rates.
#[derive(Debug, Clone, PartialEq, QueryableByName)]
pub struct Account {
    /// Which.
    #[diesel(sql_type = Uuid)]
    pub id: RawUuid,
    /// Calls at one time; zero is no cap.
    #[diesel(sql_type = Int4)]
    pub max_concurrent_calls: i32,
    /// Connects in a minute.
    #[diesel(sql_type = Int4)]
    pub calls_per_minute: i32,
    /// Active calls.
    #[diesel(sql_type = Int8)]
    pub active: i64,
    /// When the next dial is due.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub dial_at: Option<DateTime<Utc>>,
    /// When the next other request is due.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub read_at: Option<DateTime<Utc>>,
}

/// What has a cap, of one kind.
#[derive(Debug, Clone, PartialEq, QueryableByName)]
pub struct Capped {
    /// `phone`, `agent` or `campaign`.
    #[diesel(sql_type = Text)]
    pub cap: String,
    /// Those that have as many calls as they may.
    #[diesel(sql_type = Int8)]
    pub full: i64,
    /// Their active calls together.
    #[diesel(sql_type = Int8)]
    pub used: i64,
    /// Their caps together.
    #[diesel(sql_type = Int8)]
    pub most: i64,
}

/// A running campaign's contacts in one state.
#[derive(Debug, Clone, PartialEq, QueryableByName)]
pub struct Contacts {
    /// The campaign.
    #[diesel(sql_type = Uuid)]
    pub campaign: RawUuid,
    /// The contacts' state.
    #[diesel(sql_type = Text)]
    pub state: String,
    /// How many.
    #[diesel(sql_type = Int8)]
    pub n: i64,
}

/// What waits for somebody.
#[derive(Debug, Clone, Default, PartialEq, QueryableByName)]
pub struct Waiting {
    /// For how long the oldest call that is due and waits for no time of its own has waited, in seconds.
    #[diesel(sql_type = Float8)]
    pub queue_seconds: f64,
    /// How late the question to Exotel is that is due first, in seconds.
    #[diesel(sql_type = Float8)]
    pub read_back_seconds: f64,
    /// How old the oldest unconfirmed dial is, in seconds.
    #[diesel(sql_type = Float8)]
    pub unconfirmed_seconds: f64,
    /// Callbacks that are not applied yet.
    #[diesel(sql_type = Int8)]
    pub callbacks: i64,
    /// Calls that a person is to look at.
    #[diesel(sql_type = Int8)]
    pub reviews: i64,
    /// Recordings that are still to be taken out of the object store.
    #[diesel(sql_type = Int8)]
    pub erasing: i64,
}

/// All of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The database's time.
    pub now: DateTime<Utc>,
    /// Active calls by state.
    pub active: Vec<Count>,
    /// Queued calls by what they wait for.
    pub queued: Vec<Count>,
    /// Slots and rates.
    pub accounts: Vec<Account>,
    /// Slots of phones, agents and campaigns.
    pub capped: Vec<Capped>,
    /// Campaigns by state, those that are over left out.
    pub campaigns: Vec<Count>,
    /// Running campaigns' contacts.
    pub contacts: Vec<Contacts>,
    /// What waits.
    pub waiting: Waiting,
    /// Who follows the database, for a fail-over.
    pub standbys: Standbys,
    /// How far retention is behind.
    pub behind: Vec<Behind>,
}

/// Who follows the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QueryableByName)]
pub struct Standbys {
    /// Servers that do.
    #[diesel(sql_type = Int8)]
    pub following: i64,
    /// Whether a commit waits for any of them.
    #[diesel(sql_type = Bool)]
    pub awaited: bool,
}

impl Standbys {
    /// Whether a fail-over may forget what was committed, a dial among it (F27).
    pub fn may_forget(self) -> bool {
        self.following > 0 && !self.awaited
    }
}

/// Reads how things stand.
pub async fn read(conn: &mut AsyncPgConnection, kept: &Retention) -> QueryResult<Sample> {
    let active = sql_query(
        "SELECT state::text AS word, count(*) AS n FROM calls
        WHERE state IN ('dialing', 'unconfirmed', 'placed', 'ringing', 'in_progress') GROUP BY state",
    );
    let queued = sql_query(
        "SELECT word, count(*) AS n FROM (
            SELECT coalesce(waiting_reason, CASE WHEN due_at <= now() THEN 'turn' ELSE 'not_before' END) AS word
            FROM calls WHERE state = 'queued' LIMIT $1
        ) waiting GROUP BY word",
    )
    .bind::<Int8, _>(QUEUED);
    let accounts = sql_query(
        "SELECT a.id, a.max_concurrent_calls, a.calls_per_minute,
            (SELECT count(*) FROM calls c WHERE c.account_id = a.id
                AND c.state IN ('dialing', 'unconfirmed', 'placed', 'ringing', 'in_progress')) AS active,
            (SELECT r.next_at FROM rates r WHERE r.account_id = a.id AND r.kind = 'dial') AS dial_at,
            (SELECT r.next_at FROM rates r WHERE r.account_id = a.id AND r.kind = 'read') AS read_at
        FROM accounts a ORDER BY a.id LIMIT $1",
    )
    .bind::<Int8, _>(ACCOUNTS);
    let capped = sql_query(
        "SELECT cap, count(*) FILTER (WHERE used >= most) AS full, sum(used)::bigint AS used, sum(most)::bigint AS most FROM (
            SELECT 'phone' AS cap, p.max_concurrent_calls AS most, (SELECT count(*) FROM calls c
                WHERE c.account_id = p.account_id AND c.phone_id = p.id
                AND c.state IN ('dialing', 'unconfirmed', 'placed', 'ringing', 'in_progress')) AS used
            FROM phones p WHERE p.max_concurrent_calls > 0
            UNION ALL
            SELECT 'agent', g.max_concurrent_calls, (SELECT count(*) FROM calls c WHERE c.agent_id = g.id
                AND c.state IN ('dialing', 'unconfirmed', 'placed', 'ringing', 'in_progress'))
            FROM agents g WHERE g.max_concurrent_calls > 0
            UNION ALL
            SELECT 'campaign', m.max_concurrent_calls, (SELECT count(*) FROM calls c WHERE c.campaign_id = m.id
                AND c.state IN ('dialing', 'unconfirmed', 'placed', 'ringing', 'in_progress'))
            FROM campaigns m WHERE m.state = 'running' AND m.max_concurrent_calls > 0
        ) capped GROUP BY cap",
    );
    let campaigns = sql_query(
        "SELECT state AS word, count(*) AS n FROM campaigns WHERE state IN ('draft', 'running', 'paused') GROUP BY state",
    );
    let contacts = sql_query(
        "WITH running AS (
            SELECT id FROM campaigns WHERE state = 'running' ORDER BY running_since DESC NULLS LAST LIMIT $1
        ), counted AS (
            SELECT c.campaign_id, c.word, c.n FROM running r JOIN campaign_counts c ON c.campaign_id = r.id AND c.bucket = 'epoch'
            UNION ALL
            SELECT d.campaign_id, d.word, d.n FROM running r JOIN campaign_deltas d ON d.campaign_id = r.id
        )
        SELECT campaign_id AS campaign, substr(word, 9) AS state, sum(n)::bigint AS n
        FROM counted WHERE word LIKE 'contact.%' GROUP BY campaign_id, word",
    )
    .bind::<Int8, _>(CAMPAIGNS);
    Ok(Sample {
        now: super::calls::database_now(conn).await?,
        active: active.load(conn).await?,
        queued: queued.load(conn).await?,
        accounts: accounts.load(conn).await?,
        capped: capped.load(conn).await?,
        campaigns: campaigns.load(conn).await?,
        contacts: contacts.load(conn).await?,
        waiting: waiting(conn).await?,
        standbys: standbys(conn).await?,
        behind: retention::behind(conn, kept).await?,
    })
}

async fn waiting(conn: &mut AsyncPgConnection) -> QueryResult<Waiting> {
    sql_query(
        "SELECT
            coalesce((SELECT extract(epoch FROM now() - min(greatest(c.not_before, c.queued_at))) FROM calls c
                WHERE c.state = 'queued' AND c.not_before <= now()
                AND coalesce(c.waiting_reason, '') NOT IN ('calling_hours', 'frequency_cap', 'end_time', 'hook_later')
                AND (c.campaign_id IS NULL
                    OR EXISTS (SELECT 1 FROM campaigns m WHERE m.id = c.campaign_id AND m.state = 'running'))
            ), 0)::float8 AS queue_seconds,
            coalesce((SELECT extract(epoch FROM now() - min(read_back_at)) FROM calls
                WHERE read_back_at <= now()), 0)::float8 AS read_back_seconds,
            coalesce((SELECT extract(epoch FROM now() - min(post_started_at)) FROM calls
                WHERE state = 'unconfirmed'), 0)::float8 AS unconfirmed_seconds,
            (SELECT count(*) FROM webhook_inbox WHERE applied_at IS NULL AND problem IS NULL) AS callbacks,
            (SELECT count(*) FROM calls WHERE needs_review) AS reviews,
            (SELECT count(*) FROM media_sessions WHERE recording_state = 'erasing') AS erasing",
    )
    .get_result(conn)
    .await
}

async fn standbys(conn: &mut AsyncPgConnection) -> QueryResult<Standbys> {
    sql_query(
        "SELECT (SELECT count(*) FROM pg_stat_replication) AS following,
            current_setting('synchronous_standby_names') <> '' AS awaited",
    )
    .get_result(conn)
    .await
}
