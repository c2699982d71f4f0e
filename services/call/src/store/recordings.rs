//! Our own recordings, as columns of `media_sessions`.

use callbridge_proto::id::MediaSessionId;
use diesel::{
    ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, QueryResult, Queryable, Selectable,
    SelectableHelper as _, sql_types::Text,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::{enums::pg_enum, schema::media_sessions};

pg_enum! {
    /// How far a recording is.
    State as Text {
        /// It is being made, or waits at the edge.
        Pending => "pending",
        /// It is on its way to the object store.
        Uploading => "uploading",
        /// It is whole and in the object store.
        Stored => "stored",
        /// It is in the object store, with parts missing.
        Incomplete => "incomplete",
        /// There is none.
        Failed => "failed",
        /// It is too old to be kept, and still to be taken out of the object store.
        Erasing => "erasing",
        /// It was too old to be kept.
        Erased => "erased",
    }
}

/// A session's recording; without a state there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = media_sessions, check_for_backend(diesel::pg::Pg))]
pub struct Recording {
    /// How far it is.
    #[diesel(column_name = recording_state)]
    pub state: Option<State>,
    /// A stable machine word for why it is incomplete or failed.
    #[diesel(column_name = recording_reason)]
    pub reason: Option<String>,
    /// Where it is in the object store.
    #[diesel(column_name = recording_key)]
    pub key: Option<String>,
    /// Of the file.
    #[diesel(column_name = recording_sha256)]
    pub sha256: Option<Vec<u8>>,
    /// Length of the file.
    #[diesel(column_name = recording_bytes)]
    pub bytes: Option<i64>,
    /// How long it is.
    #[diesel(column_name = recording_ms)]
    pub ms: Option<i64>,
    /// How much audio of either side is not in it.
    #[diesel(column_name = recording_missing_ms)]
    pub missing_ms: Option<i64>,
}

/// Says that a session is to be recorded.
pub async fn expect(conn: &mut AsyncPgConnection, session: MediaSessionId) -> QueryResult<usize> {
    diesel::update(media_sessions::table.find(session.0))
        .set(media_sessions::recording_state.eq(State::Pending))
        .execute(conn)
        .await
}

/// Writes what is known of a session's recording. The caller has locked the call.
pub async fn write(conn: &mut AsyncPgConnection, session: MediaSessionId, recording: &Recording) -> QueryResult<usize> {
    diesel::update(media_sessions::table.find(session.0))
        .set((
            media_sessions::recording_state.eq(recording.state),
            media_sessions::recording_reason.eq(&recording.reason),
            media_sessions::recording_key.eq(&recording.key),
            media_sessions::recording_sha256.eq(&recording.sha256),
            media_sessions::recording_bytes.eq(recording.bytes),
            media_sessions::recording_ms.eq(recording.ms),
            media_sessions::recording_missing_ms.eq(recording.missing_ms),
        ))
        .execute(conn)
        .await
}

/// Recordings that are to be taken out of the object store, after this session: the session and the key.
pub async fn erasing(
    conn: &mut AsyncPgConnection,
    after: Uuid,
    limit: i64,
) -> QueryResult<Vec<(Uuid, Option<String>)>> {
    media_sessions::table
        .filter(media_sessions::recording_state.eq(State::Erasing))
        .filter(media_sessions::id.gt(after))
        .order(media_sessions::id)
        .limit(limit)
        .select((media_sessions::id, media_sessions::recording_key))
        .load(conn)
        .await
}

/// Says that a recording is out of the object store.
pub async fn erased(conn: &mut AsyncPgConnection, session: Uuid, key: Option<&str>) -> QueryResult<usize> {
    let same = diesel::dsl::sql::<diesel::sql_types::Bool>("recording_key IS NOT DISTINCT FROM ")
        .bind::<diesel::sql_types::Nullable<Text>, _>(key);
    let target = media_sessions::table
        .find(session)
        .filter(media_sessions::recording_state.eq(State::Erasing))
        .filter(same);
    diesel::update(target)
        .set((
            media_sessions::recording_state.eq(State::Erased),
            media_sessions::recording_key.eq(None::<String>),
            media_sessions::recording_sha256.eq(None::<Vec<u8>>),
        ))
        .execute(conn)
        .await
}

/// A session's recording. None: no such session.
pub async fn find(conn: &mut AsyncPgConnection, session: MediaSessionId) -> QueryResult<Option<Recording>> {
    media_sessions::table
        .find(session.0)
        .select(Recording::as_select())
        .first(conn)
        .await
        .optional()
}
