//! Rows of `transcripts`: what was said, as far as agents report it.

use callbridge_proto::id::CallId;
use chrono::{DateTime, Utc};
use diesel::{
    ExpressionMethods as _, Insertable, QueryDsl as _, QueryResult, Queryable, Selectable, SelectableHelper as _,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::store::schema::transcripts;

/// The longest piece that is kept, in characters.
pub const MAX_TEXT: usize = 8192;
/// Pieces of one call that are read: an hour of lively talk has a thousand.
const MAX_PIECES: i64 = 5000;

/// A piece of a conversation.
#[derive(Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = transcripts, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Piece {
    pub media_session_id: Uuid,
    pub sequence: i64,
    pub call_id: Uuid,
    pub speaker: i16,
    pub text: String,
    pub language: String,
    pub at: DateTime<Utc>,
}

/// Keeps a piece; a repeat changes nothing.
pub async fn insert(conn: &mut AsyncPgConnection, piece: &Piece) -> QueryResult<usize> {
    diesel::insert_into(transcripts::table)
        .values(piece)
        .on_conflict_do_nothing()
        .execute(conn)
        .await
}

/// What was said in a call, in order.
pub async fn of_call(conn: &mut AsyncPgConnection, call: CallId) -> QueryResult<Vec<Piece>> {
    transcripts::table
        .filter(transcripts::call_id.eq(call.0))
        .order((transcripts::at, transcripts::media_session_id, transcripts::sequence))
        .limit(MAX_PIECES)
        .select(Piece::as_select())
        .load(conn)
        .await
}
