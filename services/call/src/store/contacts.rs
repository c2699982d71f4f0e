//! Rows of `contacts`: which are due, which have a call that ended, and lists of them.

/// Whether a call, by its alias, ended for want of an agent. One that has said something, or told what was said, was there,
/// whatever became of it then.
macro_rules! agent_unavailable {
    ($call:literal) => {
        concat!(
            "(coalesce((
                SELECT s.end_reason = 'agent_failed' FROM media_sessions s
                WHERE s.call_id = ",
            $call,
            ".id AND s.ended_at IS NOT NULL ORDER BY s.created_at DESC LIMIT 1
            ), false) AND NOT EXISTS (
                SELECT 1 FROM media_sessions s WHERE s.call_id = ",
            $call,
            ".id AND (s.quality ? 'agent_audio_ms'
                    OR EXISTS (SELECT 1 FROM transcripts t WHERE t.media_session_id = s.id))
            ))"
        )
    };
}
pub(super) use agent_unavailable;

/// Whether a contact, by the expression of its id, has talked with an agent: also in a call whose end was presumed and corrected
/// after the next one was queued.
macro_rules! was_reached {
    ($contact:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM calls l WHERE l.contact_id = ",
            $contact,
            " AND l.state = 'completed' AND NOT ",
            agent_unavailable!("l"),
            ")"
        )
    };
}
pub(super) use was_reached;

/// Whether somebody's phone may have rung for a call, by its alias. Exotel takes a call with an id of its own; one that it refused, or
/// that was not sent, has none.
macro_rules! maybe_dialled {
    ($call:literal) => {
        concat!(
            "(",
            $call,
            ".call_sid IS NOT NULL OR ",
            $call,
            ".state IN ('dialing', 'unconfirmed') OR ",
            $call,
            ".end_reason IN ('unconfirmed', 'unconfirmed_ambiguous'))"
        )
    };
}
pub(super) use maybe_dialled;

pub mod fill;
pub mod groups;
pub mod settle;

use callbridge_proto::id::CampaignId;
use chrono::{DateTime, Utc};
use diesel::{ExpressionMethods as _, QueryDsl as _, QueryResult, Queryable, Selectable, SelectableHelper as _};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid;

use super::schema::contacts;

/// A contact's row.
#[derive(Clone, Queryable, Selectable)]
#[diesel(table_name = contacts, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Contact {
    pub id: Uuid,
    pub number: String,
    pub zone: String,
    pub variables: Value,
    pub state: String,
    pub reason: Option<String>,
    pub attempts: i32,
    pub next_at: DateTime<Utc>,
    pub call_id: Option<Uuid>,
}

impl std::fmt::Debug for Contact {
    // The row holds a number in clear.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contact")
            .field("id", &self.id)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// A page of a campaign's contacts, in the order in which they came.
pub async fn page(
    conn: &mut AsyncPgConnection,
    campaign: CampaignId,
    state: Option<&str>,
    number: Option<&str>,
    after: Option<Uuid>,
    limit: i64,
) -> QueryResult<Vec<Contact>> {
    let mut query = contacts::table
        .filter(contacts::campaign_id.eq(campaign.0))
        .order(contacts::id)
        .limit(limit)
        .select(Contact::as_select())
        .into_boxed();
    if let Some(state) = state {
        query = query.filter(contacts::state.eq(state.to_owned()));
    }
    if let Some(number) = number {
        query = query.filter(contacts::number.eq(number.to_owned()));
    }
    if let Some(after) = after {
        query = query.filter(contacts::id.gt(after));
    }
    query.load(conn).await
}
