//! Rows of `media_sessions`.

use callbridge_proto::id::{CallId, EdgeId, MediaSessionId};
use chrono::{DateTime, TimeDelta, Utc};
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, Insertable, JoinOnDsl as _, NullableExpressionMethods as _,
    OptionalExtension as _, QueryDsl as _, QueryResult, Queryable, Selectable, SelectableHelper as _,
    dsl::{exists, now},
    expression::{SqlLiteral, UncheckedBind},
    pg::data_types::PgInterval,
    sql_types::{Bool, Interval, Nullable, Timestamptz},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    calls::state::Direction,
    store::{
        recordings::Recording,
        schema::{calls, media_sessions},
    },
};

/// A whole row.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = media_sessions, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Session {
    pub id: Uuid,
    pub call_id: Uuid,
    pub nonce: Option<i64>,
    pub token_expires_at: Option<DateTime<Utc>>,
    pub claim: i64,
    pub edge_id: Option<Uuid>,
    pub stream_sid: Option<String>,
    pub attached_until: Option<DateTime<Utc>>,
    pub last_event: i64,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    pub ended_by: Option<String>,
    pub end_reason: Option<String>,
    pub end_presumed: bool,
    pub quality: Value,
    /// Exotel's.
    pub recording_url: Option<String>,
    /// Our own.
    #[diesel(embed)]
    pub recording: Recording,
}

impl Session {
    /// The typed id.
    pub fn id(&self) -> MediaSessionId {
        MediaSessionId(self.id)
    }

    /// The typed id of the call.
    pub fn call_id(&self) -> CallId {
        CallId(self.call_id)
    }

    /// Whether the edge has told how it went.
    pub fn is_counted(&self) -> bool {
        self.quality.as_object().is_some_and(|counters| !counters.is_empty())
    }

    /// Whether audio flows, as far as is known.
    pub fn is_live(&self) -> bool {
        self.started_at.is_some() && self.ended_at.is_none()
    }
}

/// A row to be: a session that waits for its socket.
#[derive(Debug, Clone, Insertable)]
#[diesel(table_name = media_sessions)]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct NewSession {
    pub id: Uuid,
    pub call_id: Uuid,
    pub nonce: Option<i64>,
    pub token_expires_at: Option<DateTime<Utc>>,
}

/// Inserts a session.
pub async fn insert(conn: &mut AsyncPgConnection, session: &NewSession) -> QueryResult<usize> {
    diesel::insert_into(media_sessions::table)
        .values(session)
        .execute(conn)
        .await
}

/// The session, if there is one.
pub async fn find(conn: &mut AsyncPgConnection, id: MediaSessionId) -> QueryResult<Option<Session>> {
    media_sessions::table
        .find(id.0)
        .select(Session::as_select())
        .first(conn)
        .await
        .optional()
}

/// A call's sessions, oldest first.
pub async fn of_call(mut conn: &AsyncPgConnection, call: CallId) -> QueryResult<Vec<Session>> {
    media_sessions::table
        .filter(media_sessions::call_id.eq(call.0))
        .order(media_sessions::created_at)
        .select(Session::as_select())
        .load(&mut conn)
        .await
}

/// The session that a connect opened and no socket has started yet, while its token is good.
pub async fn waiting(conn: &mut AsyncPgConnection, call: CallId) -> QueryResult<Option<Session>> {
    media_sessions::table
        .filter(media_sessions::call_id.eq(call.0))
        .filter(media_sessions::started_at.is_null())
        .filter(media_sessions::ended_at.is_null())
        .filter(media_sessions::token_expires_at.gt(now))
        .order(media_sessions::created_at.desc())
        .select(Session::as_select())
        .first(conn)
        .await
        .optional()
}

/// The call's live session, if audio flows.
pub async fn live(conn: &mut AsyncPgConnection, call: CallId) -> QueryResult<Option<Session>> {
    media_sessions::table
        .filter(media_sessions::call_id.eq(call.0))
        .filter(media_sessions::started_at.is_not_null())
        .filter(media_sessions::ended_at.is_null())
        .order(media_sessions::started_at.desc())
        .select(Session::as_select())
        .first(conn)
        .await
        .optional()
}

/// How many live sessions an account has.
pub async fn live_of_account(conn: &mut AsyncPgConnection, account: Uuid) -> QueryResult<i64> {
    media_sessions::table
        .inner_join(calls::table.on(calls::id.eq(media_sessions::call_id)))
        .filter(calls::account_id.eq(account))
        .filter(media_sessions::started_at.is_not_null())
        .filter(media_sessions::ended_at.is_null())
        .count()
        .get_result(conn)
        .await
}

/// Whether a nonce opens a session: one look by the index of its token.
pub async fn is_claimable(conn: &mut AsyncPgConnection, call: CallId, nonce: i64) -> QueryResult<bool> {
    let waiting = media_sessions::table
        .filter(media_sessions::call_id.eq(call.0))
        .filter(media_sessions::nonce.eq(nonce))
        .filter(media_sessions::started_at.is_null())
        .filter(media_sessions::ended_at.is_null())
        .filter(media_sessions::token_expires_at.gt(now));
    diesel::select(exists(waiting)).get_result(conn).await
}

/// Makes an edge the owner of the session that a nonce opens; the newest claim owns it. None: unknown, expired or started.
pub async fn claim(
    conn: &mut AsyncPgConnection,
    call: CallId,
    nonce: i64,
    edge: EdgeId,
) -> QueryResult<Option<Session>> {
    let target = media_sessions::table
        .filter(media_sessions::call_id.eq(call.0))
        .filter(media_sessions::nonce.eq(nonce))
        .filter(media_sessions::started_at.is_null())
        .filter(media_sessions::ended_at.is_null())
        .filter(media_sessions::token_expires_at.gt(now));
    diesel::update(target)
        .set((
            media_sessions::claim.eq(media_sessions::claim + 1),
            media_sessions::edge_id.eq(edge.0),
        ))
        .returning(Session::as_returning())
        .get_result(conn)
        .await
        .optional()
}

/// Starts a session, once, for the newest claim of its owner. False: another socket owns or started it.
pub async fn begin(
    conn: &mut AsyncPgConnection,
    id: MediaSessionId,
    edge: EdgeId,
    claim: i64,
    stream_sid: &str,
    lease: TimeDelta,
) -> QueryResult<bool> {
    let target = media_sessions::table
        .filter(media_sessions::id.eq(id.0))
        .filter(media_sessions::claim.eq(claim))
        .filter(media_sessions::edge_id.eq(edge.0).or(media_sessions::edge_id.is_null()))
        .filter(media_sessions::started_at.is_null())
        .filter(media_sessions::ended_at.is_null());
    let updated = diesel::update(target)
        .set((
            media_sessions::started_at.eq(now),
            media_sessions::edge_id.eq(edge.0),
            media_sessions::stream_sid.eq(stream_sid),
            media_sessions::attached_until.eq(later(lease)),
        ))
        .execute(conn)
        .await?;
    Ok(updated == 1)
}

/// Ends a session. False: it was over already (a presumed end gives way to a reported one).
pub async fn end(
    conn: &mut AsyncPgConnection,
    id: MediaSessionId,
    by: &str,
    reason: &str,
    quality: Value,
    presumed: bool,
) -> QueryResult<bool> {
    let open = media_sessions::ended_at.is_null().or(media_sessions::end_presumed
        .eq(!presumed)
        .and(media_sessions::end_presumed));
    let updated = diesel::update(media_sessions::table.filter(media_sessions::id.eq(id.0)).filter(open))
        .set((
            media_sessions::ended_at.eq(now),
            media_sessions::ended_by.eq(by),
            media_sessions::end_reason.eq(reason),
            media_sessions::quality.eq(quality),
            media_sessions::end_presumed.eq(presumed),
        ))
        .execute(conn)
        .await?;
    Ok(updated == 1)
}

/// Live sessions that nobody has vouched for in time.
pub async fn lapsed(conn: &mut AsyncPgConnection, limit: i64) -> QueryResult<Vec<Session>> {
    media_sessions::table
        .filter(media_sessions::started_at.is_not_null())
        .filter(media_sessions::ended_at.is_null())
        .filter(media_sessions::attached_until.lt(now))
        .limit(limit)
        .select(Session::as_select())
        .load(conn)
        .await
}

/// The database's time plus an interval.
pub(super) fn later(
    by: TimeDelta,
) -> UncheckedBind<SqlLiteral<Nullable<Timestamptz>>, diesel::dsl::AsExprOf<PgInterval, Interval>> {
    diesel::dsl::sql::<Nullable<Timestamptz>>("now() + ").bind::<Interval, _>(interval(by))
}

pub(super) fn interval(by: TimeDelta) -> PgInterval {
    PgInterval::from_microseconds(by.num_microseconds().unwrap_or(i64::MAX))
}

/// A row of a socket whose URL carries no token: it begins when it is made.
#[derive(Debug, Clone)]
pub struct Started<'a> {
    /// The session.
    pub id: MediaSessionId,
    /// Its call.
    pub call: CallId,
    /// The edge that holds it.
    pub edge: EdgeId,
    /// Exotel's id of the stream.
    pub stream_sid: &'a str,
}

/// Inserts a session that has started.
pub async fn insert_started(
    conn: &mut AsyncPgConnection,
    session: &Started<'_>,
    lease: TimeDelta,
) -> QueryResult<usize> {
    diesel::insert_into(media_sessions::table)
        .values((
            media_sessions::id.eq(session.id.0),
            media_sessions::call_id.eq(session.call.0),
            media_sessions::edge_id.eq(session.edge.0),
            media_sessions::stream_sid.eq(session.stream_sid),
            media_sessions::started_at.eq(now),
            media_sessions::attached_until.eq(later(lease)),
        ))
        .execute(conn)
        .await
}

/// The session of a stream at Exotel.
pub async fn by_stream(conn: &mut AsyncPgConnection, stream_sid: &str) -> QueryResult<Option<Session>> {
    media_sessions::table
        .filter(media_sessions::stream_sid.eq(stream_sid))
        .select(Session::as_select())
        .first(conn)
        .await
        .optional()
}

/// Notes that an edge's event is being applied. None: it was applied before, or the session is not this edge's.
pub async fn take_event(
    conn: &mut AsyncPgConnection,
    id: MediaSessionId,
    edge: EdgeId,
    sequence: i64,
) -> QueryResult<Option<Session>> {
    let target = media_sessions::table
        .filter(media_sessions::id.eq(id.0))
        .filter(media_sessions::edge_id.eq(edge.0))
        .filter(media_sessions::started_at.is_not_null())
        .filter(media_sessions::last_event.lt(sequence));
    diesel::update(target)
        .set(media_sessions::last_event.eq(sequence))
        .returning(Session::as_returning())
        .get_result(conn)
        .await
        .optional()
}

/// Those of an edge's sessions that are live, or whose end was only presumed (true).
pub async fn open_of_edge(
    conn: &mut AsyncPgConnection,
    edge: EdgeId,
    ids: &[Uuid],
) -> QueryResult<Vec<(Uuid, Uuid, bool)>> {
    media_sessions::table
        .filter(media_sessions::id.eq_any(ids))
        .filter(media_sessions::edge_id.eq(edge.0))
        .filter(media_sessions::started_at.is_not_null())
        .filter(media_sessions::ended_at.is_null().or(media_sessions::end_presumed))
        .select((
            media_sessions::id,
            media_sessions::call_id,
            media_sessions::end_presumed,
        ))
        .load(conn)
        .await
}

/// Takes back a presumed end. False: there is none.
pub async fn reopen(
    conn: &mut AsyncPgConnection,
    id: MediaSessionId,
    edge: EdgeId,
    lease: TimeDelta,
) -> QueryResult<bool> {
    let target = media_sessions::table
        .filter(media_sessions::id.eq(id.0))
        .filter(media_sessions::edge_id.eq(edge.0))
        .filter(media_sessions::ended_at.is_not_null())
        .filter(media_sessions::end_presumed);
    let updated = diesel::update(target)
        .set((
            media_sessions::attached_until.eq(later(lease)),
            media_sessions::ended_at.eq(None::<DateTime<Utc>>),
            media_sessions::ended_by.eq(None::<String>),
            media_sessions::end_reason.eq(None::<String>),
            media_sessions::end_presumed.eq(false),
        ))
        .execute(conn)
        .await?;
    Ok(updated == 1)
}

/// Says that those of an edge's live sessions that it has told of are live for another `lease`.
pub async fn renew_edge(
    conn: &mut AsyncPgConnection,
    edge: EdgeId,
    told: &[Uuid],
    lease: TimeDelta,
) -> QueryResult<usize> {
    let target = media_sessions::table
        .filter(media_sessions::edge_id.eq(edge.0))
        .filter(media_sessions::started_at.is_not_null())
        .filter(media_sessions::ended_at.is_null())
        .filter(media_sessions::id.eq_any(told));
    diesel::update(target)
        .set(media_sessions::attached_until.eq(later(lease)))
        .execute(conn)
        .await
}

/// Ends a session, presumed, if nobody has vouched for it in time. False: somebody has, or it is over.
pub async fn lapse(conn: &mut AsyncPgConnection, id: MediaSessionId, by: &str, reason: &str) -> QueryResult<bool> {
    let target = media_sessions::table
        .filter(media_sessions::id.eq(id.0))
        .filter(media_sessions::started_at.is_not_null())
        .filter(media_sessions::ended_at.is_null())
        .filter(media_sessions::attached_until.lt(now));
    let updated = diesel::update(target)
        .set((
            media_sessions::ended_at.eq(now),
            media_sessions::ended_by.eq(by),
            media_sessions::end_reason.eq(reason),
            media_sessions::end_presumed.eq(true),
        ))
        .execute(conn)
        .await?;
    Ok(updated == 1)
}

/// Keeps how a session ended by its edge's word, and its counters, where somebody else has said that it ended.
pub async fn tell_end(
    conn: &mut AsyncPgConnection,
    id: MediaSessionId,
    by: &str,
    reason: &str,
    quality: Value,
) -> QueryResult<usize> {
    diesel::update(media_sessions::table.find(id.0))
        .set((
            media_sessions::ended_by.eq(by),
            media_sessions::end_reason.eq(reason),
            media_sessions::quality.eq(quality),
        ))
        .execute(conn)
        .await
}

/// Keeps where Exotel's recording of a session is.
pub async fn set_recording(conn: &mut AsyncPgConnection, id: MediaSessionId, url: &str) -> QueryResult<usize> {
    diesel::update(media_sessions::table.find(id.0))
        .set(media_sessions::recording_url.eq(url))
        .execute(conn)
        .await
}

/// An account's outbound calls between two numbers, either way round, that were dialled within `window`, have not ended, have
/// no CallSid of their own yet (or this one) and no audio: at most two, which is enough to know that there is not one.
pub async fn dialled_without_media(
    conn: &mut AsyncPgConnection,
    account: Uuid,
    numbers: (&str, &str),
    call_sid: Option<&str>,
    window: TimeDelta,
) -> QueryResult<Vec<Uuid>> {
    let (one, other) = numbers;
    // Without one the second condition is never true.
    let sid_fits = calls::call_sid.is_null().nullable().or(calls::call_sid.eq(call_sid));
    let heard = media_sessions::table
        .filter(media_sessions::call_id.eq(calls::id))
        .filter(media_sessions::started_at.is_not_null());
    calls::table
        .filter(calls::account_id.eq(account))
        .filter(calls::direction.eq(Direction::Outbound))
        .filter(
            calls::exophone
                .eq(one)
                .and(calls::customer.eq(other))
                .or(calls::exophone.eq(other).and(calls::customer.eq(one))),
        )
        .filter(calls::post_started_at.gt(later(-window)))
        .filter(calls::ended_at.is_null().or(calls::end_presumed))
        .filter(sid_fits)
        .filter(diesel::dsl::not(diesel::dsl::exists(heard)))
        .limit(2)
        .select(calls::id)
        .load(conn)
        .await
}

/// Whether the database has been up for at least `grace`.
pub async fn database_is_steady(conn: &mut AsyncPgConnection, grace: TimeDelta) -> QueryResult<bool> {
    diesel::select(
        diesel::dsl::sql::<Bool>("clock_timestamp() - pg_postmaster_start_time() > ")
            .bind::<Interval, _>(interval(grace)),
    )
    .get_result(conn)
    .await
}
