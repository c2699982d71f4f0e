//! Rows of `call_commands`: what edges are told to do.

use callbridge_proto::id::{CallId, CommandId, EdgeId, MediaSessionId};
use diesel::{
    ExpressionMethods as _, Insertable, JoinOnDsl as _, OptionalExtension as _, QueryDsl as _, QueryResult,
    dsl::{count_star, now},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::store::schema::{call_commands, media_sessions};

/// A row to be.
#[derive(Insertable)]
#[diesel(table_name = call_commands)]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct NewCommand {
    pub id: Uuid,
    pub call_id: Uuid,
    pub media_session_id: Uuid,
    pub command: Vec<u8>,
}

/// Keeps a command until it is carried out.
pub async fn insert(conn: &mut AsyncPgConnection, command: &NewCommand) -> QueryResult<usize> {
    diesel::insert_into(call_commands::table)
        .values(command)
        .execute(conn)
        .await
}

/// How many commands of a session are not carried out yet.
pub async fn count_open(conn: &mut AsyncPgConnection, session: MediaSessionId) -> QueryResult<i64> {
    call_commands::table
        .filter(call_commands::media_session_id.eq(session.0))
        .filter(call_commands::finished_at.is_null())
        .select(count_star())
        .first(conn)
        .await
}

/// Commands for an edge's live sessions that are not among `delivered`, oldest first: each with its session.
pub async fn for_edge(
    conn: &mut AsyncPgConnection,
    edge: EdgeId,
    delivered: &[Uuid],
    limit: i64,
) -> QueryResult<Vec<(Uuid, Uuid, Vec<u8>)>> {
    call_commands::table
        .inner_join(media_sessions::table.on(media_sessions::id.eq(call_commands::media_session_id)))
        .filter(media_sessions::edge_id.eq(edge.0))
        .filter(media_sessions::started_at.is_not_null())
        .filter(media_sessions::ended_at.is_null())
        .filter(call_commands::finished_at.is_null())
        .filter(call_commands::id.ne_all(delivered))
        .order(call_commands::id)
        .limit(limit)
        .select((
            call_commands::id,
            call_commands::media_session_id,
            call_commands::command,
        ))
        .load(conn)
        .await
}

/// The call of a command.
pub async fn call_of(conn: &mut AsyncPgConnection, id: CommandId) -> QueryResult<Option<CallId>> {
    let call: Option<Uuid> = call_commands::table
        .find(id.0)
        .select(call_commands::call_id)
        .first(conn)
        .await
        .optional()?;
    Ok(call.map(CallId))
}

/// Marks a command of an edge's session as carried out, or as impossible. False: it was marked before, or is not the edge's.
pub async fn finish(conn: &mut AsyncPgConnection, id: CommandId, edge: EdgeId, done: bool) -> QueryResult<bool> {
    let sessions = media_sessions::table
        .filter(media_sessions::edge_id.eq(edge.0))
        .select(media_sessions::id);
    let target = call_commands::table
        .filter(call_commands::id.eq(id.0))
        .filter(call_commands::finished_at.is_null())
        .filter(call_commands::media_session_id.eq_any(sessions));
    let updated = diesel::update(target)
        .set((call_commands::finished_at.eq(now), call_commands::done.eq(done)))
        .execute(conn)
        .await?;
    Ok(updated == 1)
}

/// Gives up the commands of a session that is over.
pub async fn abandon(conn: &mut AsyncPgConnection, session: MediaSessionId) -> QueryResult<usize> {
    let target = call_commands::table
        .filter(call_commands::media_session_id.eq(session.0))
        .filter(call_commands::finished_at.is_null());
    diesel::update(target)
        .set((call_commands::finished_at.eq(now), call_commands::done.eq(false)))
        .execute(conn)
        .await
}
